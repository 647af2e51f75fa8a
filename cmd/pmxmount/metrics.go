package main

import (
	"context"
	"errors"
	"log/slog"
	"net"

	"github.com/prometheus/client_golang/prometheus"

	"pmxfs/internal/metrics"
)

// gauges are the numbers of .stats that go up and down.
var gauges = []string{
	"uptime_seconds", "limit_bytes", "kept_bytes", "busy_bytes", "free_bytes", "reserved_bytes", "external_bytes",
	"latency_ns", "bytes_per_second", "nodes", "handles", "cache.chunks",
}

// serveMetrics offers what .stats holds to Prometheus until ctx ends. The mount
// is well while it is connected.
func serveMetrics(ctx context.Context, ln net.Listener, repo *repository, log *slog.Logger) {
	connected := prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "pmxmount_connected", Help: "1 while there is a connection to the store."}, func() float64 {
		if repo.connected() {
			return 1
		}
		return 0
	})
	err := metrics.Serve(ctx, ln, metrics.Config{
		Log: log,
		Health: func(context.Context) error {
			if !repo.connected() {
				return errors.New("there is no connection to the store")
			}
			return nil
		},
		Collectors: []metrics.Collector{connected, metrics.JSON{
			Prefix: "pmxmount", Read: repo.numbers, Gauges: gauges,
			Labels: map[string]string{"packets_sent": "packet", "packets_received": "packet", "bytes_sent": "packet", "bytes_received": "packet"},
		}},
	})
	if err != nil {
		log.Error("metrics", "err", err)
	}
}
