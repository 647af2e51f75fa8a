package client

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"testing"

	"pmxfs/internal/wire"
)

// A recorder is a sink that keeps what comes.
type recorder struct {
	got  chan string
	over chan error
}

func newRecorder() *recorder { return &recorder{make(chan string, 100), make(chan error, 1)} }

func (r *recorder) Packet(h wire.Header, in *wire.Reader) (bool, error) {
	b, err := io.ReadAll(in)
	r.got <- h.Type.String() + " " + string(b)
	return h.Type == wire.TypeOk || h.Type == wire.TypeError, err
}

func (r *recorder) Over(err error) { r.over <- err }

// TestChannels sends packets of a caller's making, and hears what comes for each.
func TestChannels(t *testing.T) {
	heard := make(chan string, 100)
	c, _ := newFake(t, wire.AllFeatures, func(f *fakeConn) {
		for {
			p, ok := f.next()
			if !ok {
				return
			}
			heard <- fmt.Sprint(p.Type, " ", p.Len)
			switch p.Type {
			case wire.TypeCreateBackup:
				f.send(p.ID, wire.TypeBackupCreated, []byte("path"))
			case wire.TypeBackupFinished, wire.TypeUploadChunk:
				f.send(p.ID, wire.TypeOk)
			case wire.TypeCancel:
				f.send(p.ID, wire.TypeError, []byte{0, 7})
			}
		}
	})
	link, err := c.Link(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if again, err := c.Link(t.Context()); err != nil || again != link {
		t.Errorf("another connection: %v", err)
	}
	if link.Features() != wire.AllFeatures || link.Err() != nil {
		t.Errorf("%v, %v", link.Features(), link.Err())
	}
	open := func(o Opening) (*Channel, *recorder) {
		t.Helper()
		r := newRecorder()
		ch, err := link.Open(t.Context(), o, r)
		if err != nil {
			t.Fatal(err)
		}
		return ch, r
	}
	s, sr := open(Opening{Type: wire.TypeCreateBackup})
	s.Send(wire.TypeCreateBackup, []byte("x"))
	if got := <-sr.got; got != "BackupCreated path" {
		t.Error(got)
	}
	s.Send(wire.TypeBackupDataFixed, make([]byte, 40))
	u, ur := open(Opening{Type: wire.TypeUploadChunk, Upload: 5})
	u.Send(wire.TypeUploadChunk, []byte("12345"))
	s.Send(wire.TypeBackupFinished, nil)
	for _, r := range []*recorder{sr, ur} {
		if got := <-r.got; got != "Ok " {
			t.Error(got)
		}
		if err := <-r.over; err != nil {
			t.Error(err)
		}
	}
	s.Send(wire.TypeBackupDataFixed, nil) // the id is another's: it goes nowhere
	s.Cancel()
	// What was never sent ends here.
	n, nr := open(Opening{Type: wire.TypeListBackups})
	n.Cancel()
	if err := <-nr.over; !errors.Is(err, Canceled) {
		t.Error(err)
	}
	n.Send(wire.TypeListBackups, nil)
	// Marks, lifted after the request is sent and before.
	d := append(make([]byte, 32), 1)
	g, gr := open(Opening{Type: wire.TypeDownloadBlobs, Speculative: true})
	g.Send(wire.TypeDownloadBlobs, d)
	g.Promote()
	if got := <-gr.got; got != "Error \x00\a" {
		t.Errorf("%q", got)
	}
	<-gr.over
	late, _ := open(Opening{Type: wire.TypeDownloadBlobs, Speculative: true})
	late.Promote()
	late.Send(wire.TypeDownloadBlobs, d)
	var got []string
	for len(got) < 7 {
		got = append(got, <-heard)
	}
	want := []string{"CreateBackup 1", "BackupDataFixed 40", "UploadChunk 5", "BackupFinished 0", "DownloadBlobs 33", "Cancel 1", "DownloadBlobs 32"}
	if !slices.Equal(got, want) {
		t.Errorf("the server got %v", got)
	}
	// The end is heard on every channel, and by who asks.
	why := errors.New("enough")
	e, er := open(Opening{Type: wire.TypeListBackups})
	e.Send(wire.TypeListBackups, nil)
	link.Break(why)
	<-link.Done()
	if err := <-er.over; !errors.Is(err, why) || !errors.Is(err, Unavailable) {
		t.Error(err)
	}
	if !errors.Is(link.Err(), why) {
		t.Error(link.Err())
	}
	if _, err := link.Open(t.Context(), Opening{Type: wire.TypeListBackups}, newRecorder()); !errors.Is(err, Unavailable) {
		t.Errorf("after the end: %v", err)
	}
	if next, err := c.Link(t.Context()); err != nil || next == link {
		t.Errorf("the next connection: %v", err)
	}
}

// TestChannelShares: streams beyond the protocol's number are refused, and leave
// ids for others.
func TestChannelShares(t *testing.T) {
	c, _ := newFake(t, wire.AllFeatures, func(f *fakeConn) {
		for ok := true; ok; _, ok = f.next() {
		}
	})
	link, err := c.Link(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for range 128 {
		if _, err := link.Open(t.Context(), Opening{Type: wire.TypeCreateBackup}, newRecorder()); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := link.Open(t.Context(), Opening{Type: wire.TypeCreateBackup}, newRecorder()); !errors.Is(err, Busy) {
		t.Errorf("the 129th: %v", err)
	}
	for _, o := range []Opening{{Type: wire.TypeListBackups}, {Type: wire.TypeUploadBlob, Upload: 1}, {Type: wire.TypeCommitBackup}} {
		if _, err := link.Open(t.Context(), o, newRecorder()); err != nil {
			t.Errorf("%v: %v", o.Type, err)
		}
	}
}
