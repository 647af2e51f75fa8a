// Pmxmount mounts a store of backups as a directory: disks as raw files to copy
// from or to loop-mount, configurations as they were backed up, and archives as
// directories.
//
//	pmxmount REPO MOUNTPOINT [-o OPTIONS] [FLAGS]
//
// It goes to the background once the mount is live. The mount is read-only and
// ends with umount(8), SIGINT or SIGTERM.
//
// # Limitations
//
// Device nodes and setuid programs of a backup never work in the mount,
// whatever the options say. A file's holes are not told (SEEK_HOLE), only how
// many of its blocks hold data. Reading sequentially is slower by half where the
// kernel's read-ahead cannot be raised, which is for root. A lazy unmount, the
// last resort at the end, fails the reads of those who would not let go.
package main
