// Package cache keeps decoded chunks near, so that a file that is read by its
// index costs one fetch and one decoding a chunk, however many read it and
// however small their reads are.
//
// A [Cache] holds chunks in memory, bounded in bytes. Buffers are counted by
// reference and used again; the free ones are part of the bound, as are those in
// flight and what other packages reserve in it. A chunk that is asked for by
// many is fetched once, in a flight that belongs to the cache and not to whoever
// asked first: those who wait may leave at any time. What is wanted now goes
// before what may be wanted soon, in memory, on the wire and in decoding. Chunks
// of zeros are known by their digest and never fetched. Bytes that do not match
// their digest reach nobody and are not kept; the next read asks again.
//
// A [Reader] reads a file by its index. It recognises the direction of the reads
// and has the next chunks fetched ahead of time.
//
// The package knows no network and no file names: chunks come from a [Source].
package cache
