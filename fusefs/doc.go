// Package fusefs shows a tree (internal/tree) to the kernel. It speaks the
// kernel's protocol through bazil.org/fuse's Conn and holds no network, no
// decoding and no cache policy: what it knows of the bytes is whom to ask.
//
// It has its own loop instead of bazil's fs.Serve. A few goroutines read
// requests. What memory can answer is answered there and then; what has to wait
// is handed to a goroutine of its own, so that a slow store never keeps others
// from being served. Nodes are known to the kernel by their inode numbers, and
// kept for as long as the kernel remembers them.
//
// After the reply to a read that follows no direction, the whole chunk it came
// from is pushed into the kernel's page cache (push.go): later reads of it never
// get here. Of a file that goes on being read so, the rest is pushed too, by
// cores that would be idle (fill.go). The kernel's caches of names, attributes and pages are given a year
// for what is immutable.
//
// Never touch a mountpoint from the process that serves it.
package fusefs
