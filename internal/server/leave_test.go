package server

import (
	"context"
	"net"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"pmxfs/internal/fault"
	"pmxfs/internal/wire"
)

// TestUploadsOutliveTheirConnection: what had arrived whole when a peer left
// without a word is stored all the same, before another connection may have the
// snapshot.
func TestUploadsOutliveTheirConnection(t *testing.T) {
	const n, size = 12, 1 << 20
	for name, test := range map[string]struct {
		pair  func(testing.TB) (net.Conn, net.Conn)
		leave func(t *testing.T, p *peer)
	}{
		"unix, closed": {socketPair, func(t *testing.T, p *peer) { p.conn.Close() }},
		"unix, within a packet": {socketPair, func(t *testing.T, p *peer) {
			p.sendRaw(append([]byte{200, byte(wire.TypeUploadChunk), 0, 0, 16, 0}, make([]byte, 5000)...))
			p.conn.Close()
		}},
		"tcp, reset": {tcpPair, func(t *testing.T, p *peer) {
			waitUntilArrived(t, p.conn.(*net.TCPConn))
			p.conn.(*net.TCPConn).SetLinger(0)
			p.conn.Close()
		}},
		"stopped": {socketPair, func(t *testing.T, p *peer) {
			p.send(100, wire.TypeGetStatus)
			p.expect(100, wire.TypeStatus) // the server has read all of it
			p.cancel()
		}},
	} {
		t.Run(name, func(t *testing.T) {
			leakCheck(t)
			s := newStore(t)
			near, far := test.pair(t)
			p := connectOver(t, Config{Store: s}, near, far)
			p.create(99, ofMiB(n))
			for i := range n {
				data := random(size, uint64(i))
				d := digest(data)
				p.send(uint8(i), wire.TypeUploadChunk, d[:], data)
			}
			test.leave(t, p)
			p.wait()
			q := connect(t, Config{Store: s})
			q.create(99, ofMiB(n)) // the snapshot is free
			for i := range n {
				d := digest(random(size, uint64(i)))
				q.send(1, wire.TypeHasChunks, d[:])
				if sizes, err := wire.ParseChunkMap(q.expect(1, wire.TypeChunkMap), 1); err != nil || sizes[0] != size {
					t.Errorf("chunk %d: %v, %v", i, sizes, err)
				}
			}
		})
	}
}

// ofMiB describes a file of n chunks of 1 MiB.
func ofMiB(n int) wire.CreateBackup {
	return wire.CreateBackup{ID: "1", Time: 1_700_000_000, Flags: wire.Excl | wire.Raw | wire.Hold, Name: "a.img", ChunkSize: 1 << 20, FileSize: uint64(n) << 20}
}

// waitUntilArrived waits until the far end's kernel has all that was written.
func waitUntilArrived(t *testing.T, c *net.TCPConn) {
	t.Helper()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	for begin := time.Now(); ; time.Sleep(time.Millisecond) {
		left := 0
		raw.Control(func(fd uintptr) { left, err = unix.IoctlGetInt(int(fd), syscall.TIOCOUTQ) })
		if err != nil || time.Since(begin) > patience {
			t.Fatalf("%d bytes are on their way still, %v", left, err)
		}
		if left == 0 {
			return
		}
	}
}

// TestSettlingIsBounded: what cannot be stored is given up.
func TestSettlingIsBounded(t *testing.T) {
	near, far := socketPair(t)
	defer near.Close()
	defer far.Close()
	c := newConn(context.Background(), far, Config{Store: newStore(t)})
	c.uploads.scratch.Acquire(c.settling, uploadScratch) // nothing can be worked on
	data := random(1<<20, 1)
	r, err := c.accept(wire.Header{ID: 1, Type: wire.TypeUploadChunk})
	if err != nil {
		t.Fatal(err)
	}
	r.upload = &upload{req: r, digest: digest(data), data: data}
	c.uploads.add(r.upload)
	c.giveUpSettling()
	c.wg.Wait()
	if e, err := wire.ParseError(r.packets[wire.HeaderSize:]); err != nil || e.Kind != fault.Canceled {
		t.Errorf("it was answered %v, %v", e, err)
	}
}
