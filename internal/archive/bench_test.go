package archive

import (
	"fmt"
	"testing"
)

func BenchmarkListing(b *testing.B) {
	const n = 100000
	a := open(b, synth(n), nil)
	e, err := a.Lookup(b.Context(), a.Root(), "many")
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if l, err := a.ReadListing(b.Context(), e.Ref, 0); err != nil || l.Len() != n {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/n, "ns/entry")
}

func BenchmarkDir(b *testing.B) {
	const n = 100000
	a := open(b, synth(n), nil)
	e, _ := a.Lookup(b.Context(), a.Root(), "many")
	b.ReportAllocs()
	for b.Loop() {
		if len(entries(b, a, e.Ref)) != n {
			b.Fatal()
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/n, "ns/entry")
}

func BenchmarkLookup(b *testing.B) {
	for _, n := range []int{100, 4000, 100000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			a := open(b, synth(n), nil)
			e, _ := a.Lookup(b.Context(), a.Root(), "many")
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				if _, err := a.Lookup(b.Context(), e.Ref, fmt.Sprintf("file-%07d", i*7919%n)); err != nil {
					b.Fatal(err)
				}
				i++
			}
		})
	}
}

func BenchmarkFind(b *testing.B) {
	const n = 100000
	a := open(b, synth(n), nil)
	e, _ := a.Lookup(b.Context(), a.Root(), "many")
	l, err := a.ReadListing(b.Context(), e.Ref, 0)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if l.Find("file-0054321") < 0 {
			b.Fatal()
		}
	}
}

func BenchmarkCursor(b *testing.B) {
	const n = 100000
	a := open(b, synth(n), nil)
	e, _ := a.Lookup(b.Context(), a.Root(), "many")
	l, err := a.ReadListing(b.Context(), e.Ref, 0)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		for c := l.Cursor(0); c.Next(); {
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/n, "ns/entry")
}

func BenchmarkWriter(b *testing.B) {
	const n = 10000
	b.ReportAllocs()
	for b.Loop() {
		synth(n)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/n, "ns/entry")
}
