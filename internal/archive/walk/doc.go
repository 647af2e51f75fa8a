// Package walk reads a directory tree of the file system as the source of an
// archive, with all metadata that the formats have.
//
// Everything is opened relative to the directory that it was found in, and no
// symbolic link is followed but in the path of the root, so nobody who renames
// or replaces files meanwhile can make it read something else. A few workers
// gather metadata, and the content of small files, ahead of the reader; how far
// is bounded, in entries, open files and bytes.
//
// What changes, vanishes or cannot be read is reported and does not end a walk.
package walk
