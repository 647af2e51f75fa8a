package client

import (
	"context"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"pmxfs/internal/fault"
	"pmxfs/internal/wire"
)

// timed runs a test with a clock that moves when everybody waits.
func timed(t *testing.T, f *fake, test func(t *testing.T, c *Client)) {
	synctest.Test(t, func(t *testing.T) {
		f.t, f.pipe = t, true
		c, err := New(t.Context(), Config{Dial: f.dial})
		if err != nil {
			t.Fatal(err)
		}
		test(t, c)
		c.Close()
		f.open.Wait()
	})
}

// answerStatus answers GetStatus and hands everything else to other.
func answerStatus(f *fakeConn, count *atomic.Int32, other func(p frame)) {
	for {
		p, ok := f.next()
		if !ok {
			return
		}
		if p.Type == wire.TypeGetStatus {
			count.Add(1)
			f.send(p.ID, wire.TypeStatus, wire.Status{Total: 3, Used: 2, Free: 1}.Append(nil))
		} else if other != nil {
			other(p)
		}
	}
}

func TestQuietConnectionsAreKeptAlive(t *testing.T) {
	var asked atomic.Int32
	f := &fake{features: wire.AllFeatures, handle: func(f *fakeConn) { answerStatus(f, &asked, nil) }}
	timed(t, f, func(t *testing.T, c *Client) {
		time.Sleep(time.Minute)
		if n := asked.Load(); n < 9 || n > 12 {
			t.Errorf("asked %d times in a minute", n)
		}
		if f.dialed() != 1 {
			t.Errorf("%d connections", f.dialed())
		}
	})
}

func TestVersion1IsNotAsked(t *testing.T) {
	f := &fake{handle: func(f *fakeConn) {
		if p, ok := f.next(); ok {
			f.t.Errorf("%v was sent", p.Type)
		}
	}}
	timed(t, f, func(t *testing.T, c *Client) {
		time.Sleep(time.Hour)
		if f.dialed() != 1 {
			t.Errorf("%d connections", f.dialed())
		}
	})
}

// TestDeadPeersAreNoticed: the first connection goes silent in the middle of a
// read, and the read is answered by the second.
func TestDeadPeersAreNoticed(t *testing.T) {
	for name, silent := range map[string]func(f *fakeConn){
		"reads and never answers": func(f *fakeConn) {
			for ok := true; ok; {
				_, ok = f.next()
			}
		},
		"does not read": func(f *fakeConn) { time.Sleep(time.Hour) },
		"stops within a packet": func(f *fakeConn) {
			p, _ := f.next()
			f.conn.Write(wire.AppendPacket(nil, p.ID, wire.TypeFilePart, make([]byte, 5))[:8])
			for ok := true; ok; {
				_, ok = f.next()
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			var asked atomic.Int32
			f := &fake{features: wire.AllFeatures}
			f.handle = func(fc *fakeConn) {
				if fc.nr == 1 {
					silent(fc)
					return
				}
				answerStatus(fc, &asked, func(p frame) {
					if p.Type == wire.TypeGetFile {
						fc.send(p.ID, wire.TypeFilePart, []byte("hello"))
						fc.send(p.ID, wire.TypeFilePart)
					}
				})
			}
			timed(t, f, func(t *testing.T, c *Client) {
				begin := time.Now()
				got, err := c.ReadFile(t.Context(), snapshot("1"), "x.blob", 0, 5)
				if err != nil || string(got) != "hello" {
					t.Errorf("%q, %v", got, err)
				}
				if d := time.Since(begin); d > 15*time.Second {
					t.Errorf("after %v", d)
				}
			})
		})
	}
}

// TestAPeerThatPausesIsNotDead: over a stream that does not show whether its
// other end is there, uploads may take their time.
func TestAPeerThatPausesIsNotDead(t *testing.T) {
	f := &fake{features: wire.AllFeatures, handle: func(f *fakeConn) {
		p, _ := f.next()
		f.send(p.ID, wire.TypeBackupCreated, wire.BackupCreated{Path: "vm/1/1/a.fidx"}.Append(nil))
		time.Sleep(4 * time.Minute)
		for {
			p, ok := f.next()
			if !ok {
				return
			}
			switch p.Type {
			case wire.TypeUploadChunk, wire.TypeBackupFinished:
				f.send(p.ID, wire.TypeOk)
			case wire.TypeGetStatus:
				f.send(p.ID, wire.TypeStatus, make([]byte, 24))
			}
		}
	}}
	timed(t, f, func(t *testing.T, c *Client) {
		s, err := c.Backup(snapshot("1"), BackupOptions{}).Create(t.Context(), FileSpec{Name: "a", ChunkSize: 4096, Size: 4096})
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Upload(t.Context(), digest(1), Raw{Data: make([]byte, 4096)}); err != nil {
			t.Fatal(err)
		}
		if err := s.Finish(t.Context()); err != nil {
			t.Error(err)
		}
		if f.dialed() != 1 {
			t.Errorf("%d connections", f.dialed())
		}
	})
}

// TestReadsThatAreNeverAnswered: the peer lives, and answers everything but them.
func TestReadsThatAreNeverAnswered(t *testing.T) {
	var asked atomic.Int32
	f := &fake{features: wire.AllFeatures, handle: func(f *fakeConn) { answerStatus(f, &asked, nil) }}
	timed(t, f, func(t *testing.T, c *Client) {
		ctx, cancel := context.WithTimeout(t.Context(), 12*time.Minute)
		defer cancel()
		if _, err := c.Groups(ctx); err == nil {
			t.Error("answered")
		}
		if n := f.dialed(); n != 3 {
			t.Errorf("%d connections in 12 minutes", n)
		}
	})
}

// TestReadsWaitForTheStore, but only so long, and the next one tries anew.
func TestReadsWaitForTheStore(t *testing.T) {
	var asked atomic.Int32
	away := true
	f := &fake{features: wire.AllFeatures}
	f.handle = func(fc *fakeConn) {
		if fc.nr == 1 {
			fc.next()
			return
		}
		answerStatus(fc, &asked, func(p frame) { fc.send(p.ID, wire.TypeBackupList) })
	}
	f.refuse = func(dial int) error {
		if dial > 1 && away {
			return &net.OpError{Op: "dial", Err: errors.New("connection refused")}
		}
		return nil
	}
	timed(t, f, func(t *testing.T, c *Client) {
		begin := time.Now()
		_, err := c.Groups(t.Context())
		if !errors.Is(err, fault.Unavailable) || fault.KindOf(err) != fault.Unavailable {
			t.Errorf("%v", err)
		}
		if d := time.Since(begin).Round(time.Second); d != time.Minute {
			t.Errorf("given up after %v", d)
		}
		if n := f.dialed(); n < 12 || n > 40 {
			t.Errorf("%d dials in a minute", n)
		}
		go func() {
			time.Sleep(20 * time.Second)
			f.mu.Lock()
			away = false
			f.mu.Unlock()
		}()
		begin = time.Now()
		if _, err := c.Groups(t.Context()); err != nil {
			t.Errorf("the next: %v", err)
		}
		if d := time.Since(begin); d < 20*time.Second || d > 26*time.Second {
			t.Errorf("after %v", d)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := c.Groups(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("interrupted: %v", err)
		}
	})
}

// TestALastingRefusalIsToldAtOnce: nobody waits a minute for a wrong password.
func TestALastingRefusalIsToldAtOnce(t *testing.T) {
	f := &fake{features: wire.AllFeatures}
	f.handle = func(fc *fakeConn) { fc.next() }
	f.refuse = func(dial int) error {
		if dial > 1 {
			return fault.New(fault.Denied, "log in", "", errors.New("wrong password"))
		}
		return nil
	}
	timed(t, f, func(t *testing.T, c *Client) {
		for range 3 {
			begin := time.Now()
			_, err := c.Groups(t.Context())
			if fault.KindOf(err) != fault.Denied {
				t.Errorf("%v", err)
			}
			if d := time.Since(begin); d > 6*time.Second {
				t.Errorf("after %v", d)
			}
		}
		before := f.dialed()
		time.Sleep(time.Hour)
		if n := f.dialed() - before; n > 1 {
			t.Errorf("%d more dials though nobody asks", n)
		}
	})
}

// TestAConnectionThatNeverLasts is not made again and again without a pause.
func TestAConnectionThatNeverLasts(t *testing.T) {
	f := &fake{features: wire.AllFeatures, handle: func(f *fakeConn) {}}
	timed(t, f, func(t *testing.T, c *Client) {
		time.Sleep(time.Minute)
		if n := f.dialed(); n > 40 {
			t.Errorf("%d dials in a minute", n)
		}
	})
}

func TestHandshake(t *testing.T) {
	hello := wire.AppendPacket(nil, 0, wire.TypeHello, wire.Hello{Version: 1, Features: wire.Browse}.Append(nil))
	for name, c := range map[string]struct {
		says string
		want error
	}{
		"hello":            {string(hello), nil},
		"nothing":          {"", fault.Unavailable},
		"half":             {string(hello[:10]), fault.Unavailable},
		"text":             {"Welcome to this machine, please do not ...\n", fault.Corrupt},
		"zeros":            {string(make([]byte, 100)), fault.Corrupt},
		"another magic":    {string(wire.AppendPacket(nil, 0, wire.TypeHello, []byte("PMXBCKUX\x01\x00\x00\x00"))), fault.Corrupt},
		"short":            {string(wire.AppendPacket(nil, 0, wire.TypeHello, []byte("PMXBCKUP\x01\x00"))), fault.Corrupt},
		"version 2":        {string(wire.AppendPacket(nil, 0, wire.TypeHello, []byte("PMXBCKUP\x02\x00\x00\x00"))), fault.Unsupported},
		"another id":       {string(wire.AppendPacket(nil, 1, wire.TypeHello, wire.Hello{Version: 1}.Append(nil))), fault.Corrupt},
		"another packet":   {string(wire.AppendPacket(nil, 0, wire.TypeOk)), fault.Corrupt},
		"16 MiB of a type": {"\x00\x00\x00\x00\x00\x01", fault.Corrupt},
		"refused": {string(wire.AppendPacket(nil, 0, wire.TypeError,
			wire.FromError(fault.Newf(fault.Busy, "", "", "too many connections")).Append(nil))), fault.Busy},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var ended sync.WaitGroup
				defer ended.Wait()
				client, err := New(t.Context(), Config{Dial: func(context.Context) (net.Conn, error) {
					a, b := net.Pipe()
					ended.Go(func() {
						b.Write([]byte(c.says))
						time.Sleep(time.Hour)
						b.Close()
					})
					return a, nil
				}})
				if !errors.Is(err, c.want) || (err == nil) != (c.want == nil) {
					t.Errorf("%v is not %v", err, c.want)
				}
				if err == nil {
					client.Close()
				}
			})
		})
	}
}

func TestNewEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		begin := time.Now()
		_, err := New(ctx, Config{Dial: func(context.Context) (net.Conn, error) { a, _ := net.Pipe(); return a, nil }})
		if err == nil || time.Since(begin) > 2*time.Second {
			t.Errorf("%v after %v", err, time.Since(begin))
		}
	})
}
