package client

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"

	"pmxfs/index"
	"pmxfs/internal/fault"
	"pmxfs/internal/wire"
)

// answerWith answers each request with the packets given, and an empty one.
func answerWith(t wire.Type, parts ...[]byte) func(f *fakeConn) {
	return func(f *fakeConn) {
		for {
			p, ok := f.next()
			if !ok {
				return
			}
			for _, part := range parts {
				f.send(p.ID, t, part)
			}
			f.send(p.ID, t)
		}
	}
}

func TestListsLeaveOutWhatCannotBe(t *testing.T) {
	snap := snapshot("100")
	rec := func(r wire.Record) []byte { return r.Append(nil) }
	file := func(name string) []byte {
		return wire.Record{Time: uint64(when), ID: "100", Name: name, FileSize: 7}.AppendFile(nil)
	}
	for name, c := range map[string]struct {
		parts [][]byte
		list  func(c *Client) (any, error)
		want  string
	}{
		"groups": {[][]byte{
			append(rec(wire.Record{ID: "200"}), rec(wire.Record{ID: "100"})...),
			rec(wire.Record{ID: "../x"}), rec(wire.Record{ID: ""}), rec(wire.Record{Type: 9, ID: "300"}), rec(wire.Record{ID: "a//b"}),
			rec(wire.Record{ID: "a/100"}), rec(wire.Record{ID: "100"}), rec(wire.Record{Type: 2, ID: "web"}),
		}, func(c *Client) (any, error) { return c.Groups(t.Context()) }, "[host/web ns/a/vm/100 vm/100 vm/200]"},
		"snapshots": {[][]byte{
			rec(wire.Record{ID: "100", Time: 3}), rec(wire.Record{ID: "100", Time: 1, Flags: wire.Open}), rec(wire.Record{ID: "100", Time: 0}),
			rec(wire.Record{ID: "100", Time: 1<<64 - 1}), rec(wire.Record{ID: "101", Time: 2}), rec(wire.Record{Type: 1, ID: "100", Time: 2}), rec(wire.Record{ID: "100", Time: 3}),
		}, func(c *Client) (any, error) { return c.Snapshots(t.Context(), snap.Group) }, "[{vm/100/1970-01-01T00:00:01Z true} {vm/100/1970-01-01T00:00:03Z false}]"},
		"files": {[][]byte{
			file("b.fidx"), file("a.blob"), file("x"), file("../a.fidx"), file(".fidx"), file("a\nb.fidx"), file(""), file("b.fidx"),
			wire.Record{Time: 5, ID: "100", Name: "c.fidx"}.AppendFile(nil),
		}, func(c *Client) (any, error) { return c.Files(t.Context(), snap) }, "[{a.blob 7 0 0 0 true} {b.fidx 7 0 0 0 true}]"},
	} {
		t.Run(name, func(t *testing.T) {
			client, _ := newFake(t, wire.AllFeatures, answerWith(wire.TypeBackupList, c.parts...))
			got, err := c.list(client)
			if s := fmt.Sprint(got); err != nil || s != c.want {
				t.Errorf("got %s, %v\nwant %s", s, err, c.want)
			}
		})
	}
}

// TestAnswersAreBounded: a server that sends more than was asked for, or than can
// be, ends that request alone.
func TestAnswersAreBounded(t *testing.T) {
	long := bytes.Repeat([]byte{1}, wire.MaxAnswerPayload/32*32)
	for name, c := range map[string]struct {
		answer wire.Type
		part   []byte
		ask    func(c *Client) error
	}{
		"list": {wire.TypeBackupList, bytes.Repeat(wire.Record{ID: "1", Name: strings.Repeat("n", 200)}.Append(nil), 1000), func(c *Client) error {
			_, err := c.Groups(t.Context())
			return err
		}},
		"range": {wire.TypeFilePart, long, func(c *Client) error {
			_, err := c.ReadFile(t.Context(), snapshot("1"), "a.blob", 0, 100)
			return err
		}},
		"file": {wire.TypeFilePart, long, func(c *Client) error {
			_, err := c.ReadFile(t.Context(), snapshot("1"), "a.blob", 0, -1)
			return err
		}},
		"hash list": {wire.TypeHashListPart, long, func(c *Client) error {
			_, err := c.HashList(t.Context(), "vm/1/1/a.fidx")
			return err
		}},
		"part of a digest": {wire.TypeHashListPart, long[:31], func(c *Client) error {
			_, err := c.HashList(t.Context(), "vm/1/1/a.fidx")
			return err
		}},
		"part of a record": {wire.TypeBackupList, long[:23], func(c *Client) error {
			_, err := c.Files(t.Context(), snapshot("1"))
			return err
		}},
		"chunk map": {wire.TypeChunkMap, long[:64], func(c *Client) error {
			_, err := c.HasChunks(t.Context(), make([]Digest, 15))
			return err
		}},
		"status": {wire.TypeStatus, long[:25], func(c *Client) error {
			_, _, _, err := c.Status(t.Context())
			return err
		}},
		"wrong type": {wire.TypeOk, nil, func(c *Client) error {
			_, _, _, err := c.Status(t.Context())
			return err
		}},
	} {
		t.Run(name, func(t *testing.T) {
			client, _ := newFake(t, wire.AllFeatures, func(f *fakeConn) {
				p, ok := f.next()
				for i := 0; ok && i < 100; i++ {
					f.send(p.ID, c.answer, c.part)
				}
			})
			client.bounds = bounds{list: 5 << 20, file: 5 << 20, hashList: 5 << 20}
			if err := c.ask(client); !errors.Is(err, fault.Corrupt) {
				t.Errorf("%v", err)
			}
		})
	}
}

func TestReadFile(t *testing.T) {
	fixed := index.Header{Size: 1 << 30, ChunkSize: 1 << 16}.Append(nil)
	fixed = append(fixed, make([]byte, 1<<14*32)...)
	plain := random(700_000, 1)
	for name, file := range map[string][]byte{"fixed": fixed, "plain": plain, "empty": nil, "short": plain[:100]} {
		var parts [][]byte
		for rest := file; len(rest) > 0; {
			n := min(len(rest), wire.MaxAnswerPayload)
			parts = append(parts, rest[:n])
			rest = rest[n:]
		}
		c, _ := newFake(t, wire.AllFeatures, answerWith(wire.TypeFilePart, parts...))
		got, err := c.ReadFile(t.Context(), snapshot("1"), "a.fidx", 0, -1)
		if err != nil || !bytes.Equal(got, file) {
			t.Errorf("%s: %d bytes, %v", name, len(got), err)
		}
		if name == "fixed" && cap(got) != len(file) {
			t.Errorf("%d bytes of memory for %d", cap(got), len(file))
		}
	}
	c, f := newFake(t, wire.AllFeatures, func(f *fakeConn) {
		if p, ok := f.next(); ok {
			f.t.Errorf("%v was asked", p.Type)
		}
	})
	for _, bad := range []struct {
		s   Snapshot
		n   string
		off int64
	}{{Snapshot{}, "a.fidx", 0}, {snapshot("1"), "../a.fidx", 0}, {snapshot("1"), "a", 0}, {snapshot("1"), "a.fidx", -1}} {
		if _, err := c.ReadFile(t.Context(), bad.s, bad.n, bad.off, 10); !errors.Is(err, fault.Invalid) {
			t.Errorf("%v: %v", bad, err)
		}
	}
	if got, err := c.ReadFile(t.Context(), snapshot("1"), "a.fidx", 7, 0); err != nil || len(got) != 0 {
		t.Errorf("nothing: %v, %v", got, err)
	}
	if f.dialed() != 1 {
		t.Errorf("%d connections", f.dialed())
	}
}

// TestHasChunksInParts: more digests than one request can have.
func TestHasChunksInParts(t *testing.T) {
	c, _ := newFake(t, wire.AllFeatures, func(f *fakeConn) {
		for {
			p, ok := f.next()
			if !ok {
				return
			}
			digests, err := wire.ParseHasChunks(p.payload)
			if err != nil {
				f.t.Error(err)
			}
			var sizes []uint32
			for _, d := range digests {
				sizes = append(sizes, uint32(d[0])|uint32(d[1])<<8)
			}
			f.send(p.ID, wire.TypeChunkMap, wire.AppendChunkMap(nil, sizes))
		}
	})
	for _, n := range []int{0, 1, 4095, 4096, 4097, 10000} {
		var digests []Digest
		for i := range n {
			digests = append(digests, digest(i))
		}
		sizes, err := c.HasChunks(t.Context(), digests)
		if err != nil || len(sizes) != n {
			t.Fatalf("%d: %d, %v", n, len(sizes), err)
		}
		for i, s := range sizes {
			if s != uint32(i) {
				t.Fatalf("%d of %d: %d", i, n, s)
			}
		}
	}
}

// TestMissingFeaturesAreNamed, and nothing is sent.
func TestMissingFeaturesAreNamed(t *testing.T) {
	c, _ := newFake(t, 0, func(f *fakeConn) {
		if p, ok := f.next(); ok {
			f.t.Errorf("%v was sent", p.Type)
		}
	})
	ctx := t.Context()
	deep := Snapshot{Group: Group{Namespace: "a", ID: "1"}, Time: 1}
	_, _, _, status := c.Status(ctx)
	for what, err := range map[string]error{
		"browse groups":     errOf(c.Groups(ctx)),
		"browse snapshots":  errOf(c.Snapshots(ctx, snapshot("1").Group)),
		"browse files":      errOf(c.Files(ctx, snapshot("1"))),
		"browse file":       errOf(c.ReadFile(ctx, snapshot("1"), "a.fidx", 0, -1)),
		"browse index":      errOf(c.Index(ctx, snapshot("1"), "a.fidx")),
		"browse status":     status,
		"control exists":    errOf(c.HasChunks(ctx, []Digest{{}})),
		"control hold":      errOf(c.Backup(snapshot("1"), BackupOptions{Hold: true}).Create(ctx, FileSpec{Name: "x", ChunkSize: 4096, Size: 1})),
		"namespaces create": errOf(c.Backup(deep, BackupOptions{}).Create(ctx, FileSpec{Name: "x", ChunkSize: 4096, Size: 1})),
	} {
		if !errors.Is(err, fault.Unsupported) || !strings.Contains(err.Error(), strings.Fields(what)[0]) {
			t.Errorf("%s: %v", what, err)
		}
	}
}
