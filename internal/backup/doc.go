// Package backup writes a backup: it reads sources, cuts them into chunks, and
// sends a store what it lacks (docs/architecture.md, "The way of a backup").
//
// A [Run] is one backup of any number of files. Each file has a goroutine that
// cuts its source into pieces, and one that writes their entries, strictly in
// order, on the file's stream. Between them, workers shared by all files hash,
// look up, compress and upload the pieces. What the pieces hold in memory is
// bounded for all files together, whatever their number and size.
//
// When the connection breaks, files go on on new streams: what was written is
// remembered, the store is asked which of its chunks it has, and those that were
// lost on the way are read and sent again.
//
// The package shows nothing to anybody: a Run reports events and counters, and
// the command prints them.
package backup
