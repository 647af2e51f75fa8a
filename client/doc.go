// Package client is the connection to a store, and all that is asked over it:
// lists, indexes, chunks, uploads and backup streams, as docs/protocol.md has
// them.
//
// A [Client] keeps one connection. Any number of goroutines may use it at once;
// their requests travel side by side, each under an id of its own. One goroutine
// reads the connection and never waits for a consumer: whoever asks has the
// memory for the answer already. Writers take turns, a packet each, and what a
// reader waits for goes ahead of uploads.
//
// When the connection breaks, the client dials again by itself, with growing
// pauses. Lists, files and chunks that were asked for are asked again and their
// callers only notice the delay, up to Config.RetryFor; then those calls fail
// with an error of kind [Unavailable], and the next call tries anew. A backup
// cannot be carried over by the client alone, since the store forgets unfinished
// files with their connection: its calls end with a [ConnectionError], and the
// writer begins the files anew on the connection that follows.
//
// Nothing that a server sends is trusted: lengths, ids, order, names and offsets
// are checked, and what is held is bounded by what was asked for. A packet that
// breaks the rules ends the connection and fails the request it belongs to with
// an error of kind [Corrupt]. Whether a chunk's bytes match its digest is checked
// by whoever decodes it ([Decoder] does), so that this can be done in parallel.
//
// Servers of protocol version 1 without additions can be written to and asked
// for hash lists and chunks; what they lack is refused before it is sent, with
// an error of kind [Unsupported] that names the missing feature.
//
// The package decides nothing about caching, prefetching or repeating a backup.
package client
