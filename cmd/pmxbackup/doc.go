// Pmxbackup writes backups into a store: disks, block devices, files and streams.
//
//	pmxbackup [FLAGS] -r REPOSITORY TYPE/ID NAME:SOURCE...
//
// # Limitations
//
// Nothing is encrypted. Files of a directory that others write to meanwhile are
// each as they were when they were read.
// A source that others write to while it is read is backed up as it was at no
// one time: give it a volume's snapshot. Of a source on standard input, a chunk
// that the store lost more than a few seconds after it had it cannot be sent
// again; the backup fails then. When the connection breaks, a server of protocol
// version 1 lets only backups of one file go on.
package main
