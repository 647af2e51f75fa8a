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
// # In a mount
//
// A directory of the mount is a Ref, and so is a file: 16 bytes that a node
// holds, with Ref.Pos to make its inode number of. A Listing is what to keep of
// a directory, in the bytes that MemBytes tells; its cursors give names, types
// and attributes without allocating, its Find serves lookups, and Err belongs
// behind its entries. One too large to keep is walked by a Dir, and looked into
// by Lookup. Attributes beyond those (Entry.HasAttr) are read by Entry when
// somebody asks. Content gives the range of a file in the archive's stream or
// in that of the payloads, so reading a file is reading that stream, chunks and
// prefetching and all. CountLinks, or CountLinksOf with what a catalog knows,
// tells which files have more than one name. A stream that is a Hinter hears
// what a walk will need next.
//
// # In a backup
//
// A Config's Meta and Payload lead into two pipelines of chunks, which must not
// wait for one another. Payload may be a Marker, which hears where files begin,
// and a ZeroWriter, which takes holes by their length. A Reuse joins the
// pipeline of the payloads to the index of the last backup: Cover asks it for
// the chunks of a range, and Inject has the pipeline end its chunk and go on
// with some of these. Problems come through Config.Report and that of the walk;
// those whose kind Failed make a backup one that is partly done.
//
// Packages beside this one: walk is the source of a backup, restore writes an
// archive out, tarball makes a tar stream of it, catalog has the names beside
// archives of version 1, acl converts ACLs, fsattr asks the file system for
// what has no other call, archivetest helps tests.
//
// This package opens no file and no connection and starts no goroutine.
package archive
