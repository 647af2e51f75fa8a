package metrics

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
)

func get(t *testing.T, url string) (int, string) {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

func TestServe(t *testing.T) {
	ln, err := Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var ill atomic.Bool
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- Serve(ctx, ln, Config{
			Health: func(context.Context) error {
				if ill.Load() {
					return errors.New("the store is away")
				}
				return nil
			},
			Collectors: []Collector{JSON{
				Prefix: "test", Gauges: []string{"open", "cache.chunks"}, Labels: map[string]string{"packets_sent": "packet"},
				Read: func() ([]byte, error) {
					return []byte(`{"open": 3, "up": true, "cache": {"hits": 7, "chunks": 9}, "other": {"chunks": 8}, "fetched": {"packets_sent": {"GetFile": 2, "Blob": 5}}, "name": "x"}`), nil
				},
			}},
		})
	}()
	base := "http://" + ln.Addr().String()
	code, text := get(t, base+"/metrics")
	for _, want := range []string{"test_open 3", "test_up 1", "test_cache_chunks 9", "test_other_chunks_total 8", "test_cache_hits_total 7", `test_fetched_packets_sent_total{packet="Blob"} 5`,
		"# TYPE test_open gauge", "# TYPE test_cache_hits_total counter", "process_resident_memory_bytes", "go_goroutines"} {
		if code != 200 || !strings.Contains(text, want+" ") && !strings.Contains(text, want+"\n") {
			t.Errorf("%d, no %q in\n%s", code, want, text)
		}
	}
	if code, text := get(t, base+"/healthz"); code != 200 || text != "ok\n" {
		t.Errorf("%d %q", code, text)
	}
	ill.Store(true)
	if code, text := get(t, base+"/healthz"); code != 503 || text != "the store is away\n" {
		t.Errorf("%d %q", code, text)
	}
	if code, _ := get(t, base+"/"); code != 404 {
		t.Errorf("/: %d", code)
	}
	stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestBrokenJSON: what cannot be read is an error, not a number that is missing.
func TestBrokenJSON(t *testing.T) {
	ln, err := Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go Serve(t.Context(), ln, Config{Collectors: []Collector{JSON{Prefix: "x", Read: func() ([]byte, error) { return []byte("{"), nil }}}})
	if code, text := get(t, "http://"+ln.Addr().String()+"/metrics"); code != 500 {
		t.Errorf("%d %q", code, text)
	}
}
