// Package archive reads and writes file archives as trees: pxar version 1, pxar
// version 2 (metadata and payloads in two streams), the older pxar entry form,
// and casync's catar. The formats are described in docs/formats-archives.md.
//
// # Reading
//
// Open takes a ReaderAt, which may lie on the other side of a network, and gives
// an Archive. Everything in an archive is found by a Ref, a pair of offsets:
// there is no table of nodes, nothing is built when something is merely looked
// up, and an Archive may be used by any number of goroutines. Entry reads what
// is at a Ref; Dir walks a directory in the order of the archive with a small
// and constant amount of memory; ReadListing makes of a directory a compact
// value that a cache can keep; Lookup finds one name through the goodbye table.
// Content tells where the bytes of a file lie.
//
// Archives are hostile input. Whatever cannot be read is an error of kind
// corrupt for what it concerns and for nothing else: a directory whose goodbye
// table is missing or wrong is read record by record, as far as that goes, and
// an entry that is broken is listed with its error. Directories nest by
// containment, each child in bytes of its own, so a tree can be neither
// circular nor larger than its archive.
//
// # Writing
//
// A Writer is an encoder: directories are entered and left, files are added in
// between, and bytes come out in order on one stream or two. Write drives a
// Writer from a Source, which yields a tree in walk order. Package walk has the
// Source that reads a file system.
//
// The package opens no file and no connection and starts no goroutine.
package archive
