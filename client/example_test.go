package client_test

import (
	"context"
	"crypto/sha256"
	"fmt"
	"log"
	"net"
	"time"

	"pmxfs/client"
)

// Reads a file: its index says which chunks it is made of.
func Example_read() {
	ctx := context.Background()
	c, err := client.New(ctx, client.Config{Dial: func(ctx context.Context) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", "/run/pmx.sock")
	}})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()

	snap := client.Snapshot{Group: client.Group{Type: client.VM, ID: "100"}, Time: 1795417484}
	x, err := c.Index(ctx, snap, "drive-scsi0.img.fidx")
	if err != nil {
		log.Fatal(err)
	}
	digests := make([]client.Digest, min(x.Len(), 8)) // as many as there is memory for
	for i := range digests {
		digests[i] = x.Digest(i)
	}
	dec := client.NewDecoder()
	err = c.Fetch(ctx, digests, client.FetchOptions{}, func(i int, r client.Raw, err error) {
		if err == nil {
			start, end := x.Bounds(i)
			r.Data, err = dec.Append(nil, r, digests[i], int(end-start))
		}
		fmt.Println(i, len(r.Data), err)
	}).Wait()
	if err != nil {
		log.Fatal(err)
	}
}

// Writes a snapshot of one small disk, which is seen by others once it is whole.
func Example_write() {
	ctx := context.Background()
	var c *client.Client // as above
	disk := make([]byte, 1<<20)
	const chunkSize = 64 << 10

	b := c.Backup(client.Snapshot{Group: client.Group{Type: client.VM, ID: "100"}, Time: time.Now().Unix()}, client.BackupOptions{Hold: true})
	write := func() error {
		s, err := b.Create(ctx, client.FileSpec{Name: "drive-scsi0.img", Raw: true, ChunkSize: chunkSize, Size: uint64(len(disk))})
		if err != nil {
			return err
		}
		for i := 0; i*chunkSize < len(disk); i++ {
			chunk := disk[i*chunkSize : min((i+1)*chunkSize, len(disk))]
			digest := client.Digest(sha256.Sum256(chunk))
			if err := s.Upload(ctx, digest, client.Raw{Data: chunk}); err != nil {
				return err
			}
			if err := s.Put(ctx, uint64(i), digest); err != nil {
				return err
			}
		}
		if err := s.Finish(ctx); err != nil {
			return err
		}
		return b.Commit(ctx)
	}
	if err := write(); err != nil {
		b.Abort(ctx)
		log.Fatal(err)
	}
}
