// Package metrics offers a command's numbers to Prometheus, and whether all is
// well to whoever asks, over plain HTTP on a listener of its own:
//
//	/metrics   the numbers
//	/healthz   200 "ok", or 503 and what is wrong
//
// It knows nothing of what the numbers mean. There is nothing secret in them, and
// nobody is asked who he is: the listener should be for the machine itself, or a
// network of one's own.
package metrics

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"pmxfs/internal/fault"
)

// Bounds of what those who ask may use.
const (
	timeout   = 10 * time.Second // for a request, from its first byte to its answer
	maxHeader = 8 << 10          // bytes
	maxAtOnce = 4                // requests for numbers
)

// A Collector has numbers; many at once may ask for them.
type Collector = prometheus.Collector

// Config says what is offered.
type Config struct {
	Collectors []Collector                     // beside those of the process and of Go's runtime
	Health     func(ctx context.Context) error // nil: all is well; it may wait until ctx ends
	Log        *slog.Logger                    // nil: nothing is logged
}

// Listen listens on HOST:PORT.
func Listen(address string) (net.Listener, error) {
	ln, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fault.New(fault.KindOf(err), "listen for metrics", address, err)
	}
	return ln, nil
}

// Serve answers on ln until ctx ends; then it returns nil.
func Serve(ctx context.Context, ln net.Listener, cfg Config) error {
	log := cfg.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	reg := prometheus.NewRegistry()
	all := append([]prometheus.Collector{collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{})}, cfg.Collectors...)
	for _, c := range all {
		if err := reg.Register(c); err != nil {
			ln.Close()
			return fault.New(fault.Invalid, "metrics", "", err)
		}
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(reg, promhttp.HandlerOpts{MaxRequestsInFlight: maxAtOnce, Timeout: timeout}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), timeout/2)
		defer cancel()
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		if cfg.Health != nil {
			if err := cfg.Health(ctx); err != nil {
				w.WriteHeader(http.StatusServiceUnavailable)
				fmt.Fprintln(w, err)
				return
			}
		}
		fmt.Fprintln(w, "ok")
	})
	srv := &http.Server{Handler: mux, ReadTimeout: timeout, WriteTimeout: 2 * timeout, IdleTimeout: time.Minute, MaxHeaderBytes: maxHeader,
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug)}
	stop := context.AfterFunc(ctx, func() { srv.Close() })
	defer stop()
	log.Info("metrics", "address", ln.Addr().String())
	if err := srv.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
		return fault.New(fault.Unknown, "serve metrics", ln.Addr().String(), err)
	}
	return nil
}
