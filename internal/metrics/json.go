package metrics

import (
	"encoding/json"
	"slices"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
)

// JSON makes numbers for Prometheus of an object in JSON, such as .stats is:
// each number becomes PREFIX_PATH, its keys joined by "_".
type JSON struct {
	Prefix string

	// Read returns the object.
	Read func() ([]byte, error)

	// Gauges are the numbers that go up and down, by their last key or, with
	// dots between, all keys. All others are counters, and end in "_total".
	Gauges []string

	// Labels has the keys of objects that are tables: the number's own key
	// becomes the value of the label named here.
	Labels map[string]string
}

// Describe describes nothing: what there is may differ from time to time.
func (j JSON) Describe(chan<- *prometheus.Desc) {}

// Collect sends the numbers of now.
func (j JSON) Collect(to chan<- prometheus.Metric) {
	raw, err := j.Read()
	var v map[string]any
	if err == nil {
		err = json.Unmarshal(raw, &v)
	}
	if err != nil {
		to <- prometheus.NewInvalidMetric(prometheus.NewInvalidDesc(err), err)
		return
	}
	j.walk(to, []string{j.Prefix}, v)
}

func (j JSON) walk(to chan<- prometheus.Metric, path []string, v map[string]any) {
	label := j.Labels[path[len(path)-1]]
	for key, x := range v {
		switch x := x.(type) {
		case map[string]any:
			j.walk(to, append(slices.Clone(path), key), x)
		case bool:
			n := 0.0
			if x {
				n = 1
			}
			j.send(to, append(slices.Clone(path), key), true, n, "", "")
		case float64:
			if label != "" {
				j.send(to, path, false, x, label, key)
			} else {
				full := append(slices.Clone(path), key)
				gauge := slices.Contains(j.Gauges, key) || slices.Contains(j.Gauges, strings.Join(full[1:], "."))
				j.send(to, full, gauge, x, "", "")
			}
		}
	}
}

func (j JSON) send(to chan<- prometheus.Metric, path []string, gauge bool, n float64, label, value string) {
	name, kind := strings.Join(path, "_"), prometheus.GaugeValue
	help := strings.Join(path[1:], ".") + " of the statistics in JSON"
	if !gauge {
		name, kind = name+"_total", prometheus.CounterValue
	}
	var labels, values []string
	if label != "" {
		labels, values = []string{label}, []string{value}
	}
	m, err := prometheus.NewConstMetric(prometheus.NewDesc(name, help, labels, nil), kind, n, values...)
	if err != nil {
		return // a name that Prometheus cannot have
	}
	to <- m
}
