package main

import (
	"context"
	"os"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"pmxfs/internal/fault"
	"pmxfs/internal/metrics"
	"pmxfs/internal/wire"
)

// answerSeconds are the bounds of what is counted as answered within so long.
var answerSeconds = []float64{.001, .005, .025, .1, .5, 2, 10, 60, 600}

func newAnswers() *prometheus.HistogramVec {
	return prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "pmxstore_answer_seconds", Buckets: answerSeconds,
		Help: "How long answers took, by the packet that asked and by how they ended (ok, or a kind of error). CreateBackup takes as long as its file."},
		[]string{"request", "outcome"})
}

// observe returns what tells answers of each answer.
func observe(answers *prometheus.HistogramVec) func(t wire.Type, kind fault.Kind, took time.Duration) {
	return func(t wire.Type, kind fault.Kind, took time.Duration) {
		outcome := "ok"
		if kind != fault.Unknown {
			outcome = kind.Error()
		}
		answers.WithLabelValues(t.String(), outcome).Observe(took.Seconds())
	}
}

// Describe describes nothing: there is a set of numbers for each store.
func (s *service) Describe(chan<- *prometheus.Desc) {}

// Collect sends the numbers of now.
func (s *service) Collect(to chan<- prometheus.Metric) {
	send := func(kind prometheus.ValueType, name, help string, v float64, labels ...string) {
		var names, values []string
		for i := 0; i < len(labels); i += 2 {
			names, values = append(names, labels[i]), append(values, labels[i+1])
		}
		to <- prometheus.MustNewConstMetric(prometheus.NewDesc("pmxstore_"+name, help, names, nil), kind, v, values...)
	}
	counter := func(name, help string, v uint64, labels ...string) {
		send(prometheus.CounterValue, name, help, float64(v), labels...)
	}
	n := s.shared.Stats()
	send(prometheus.GaugeValue, "connections", "Connections open now.", float64(n.Connections))
	counter("connections_total", "Connections served.", n.Accepted)
	counter("connections_refused_total", "Connections that were one too many.", s.limiter.Refused())
	for reason, v := range n.Cut {
		counter("connections_cut_total", "Connections that the server ended, by why.", v, "reason", reason)
	}
	counter("received_bytes_total", "Bytes received in the protocol.", n.Received)
	counter("sent_bytes_total", "Bytes sent in the protocol.", n.Sent)
	for t, v := range n.Requests {
		if v > 0 {
			counter("requests_total", "Requests, by their packet.", v, "request", wire.Type(t).String())
		}
	}
	counter("uploads_total", "Chunks uploaded.", n.Uploads)
	counter("uploaded_bytes_total", "Their bytes, as they were sent.", n.UploadedBytes)
	counter("uploads_refused_total", "Uploads and files refused, by why.", n.RefusedFull, "reason", "min_free")
	counter("uploads_refused_total", "Uploads and files refused, by why.", n.RefusedVolume, "reason", "upload_volume")
	counter("backups_total", "Snapshots committed, and files finished on their own.", n.Backups)
	for name, at := range s.stores {
		total, used, free, err := at.cfg.Store.Status()
		if err != nil {
			s.log.Warn("the room in the store is not known", "store", name, "err", err)
			continue
		}
		send(prometheus.GaugeValue, "store_size_bytes", "Size of the store's file system.", float64(total), "store", name)
		send(prometheus.GaugeValue, "store_used_bytes", "Bytes used in it.", float64(used), "store", name)
		send(prometheus.GaugeValue, "store_free_bytes", "Bytes free in it.", float64(free), "store", name)
		send(prometheus.GaugeValue, "store_min_free_bytes", "Below so many free bytes uploads are refused.", float64(at.cfg.Limits.MinFree), "store", name)
	}
}

// healthy returns what is wrong with the stores, if anything is.
func (s *service) healthy(ctx context.Context) error {
	done := make(chan error, 1) // a disk may hang
	go func() {
		for name, at := range s.stores {
			_, err := os.ReadDir(at.cfg.Store.Root())
			if err == nil {
				_, _, _, err = at.cfg.Store.Status()
			}
			if err != nil {
				done <- fault.New(fault.Unknown, "store", name, err)
				return
			}
		}
		done <- nil
	}()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return fault.Newf(fault.Unavailable, "stores", "", "no answer from the disk within %v", "5s")
	}
}

// serveMetrics offers the numbers until ctx ends.
func (s *service) serveMetrics(ctx context.Context) error {
	return metrics.Serve(ctx, s.metrics, metrics.Config{Log: s.log, Health: s.healthy, Collectors: []metrics.Collector{s, s.answers}})
}
