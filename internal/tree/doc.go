// Package tree is the mounted tree as plain values: the store's namespaces,
// groups and snapshots, and their files with the bytes in them. It knows
// neither the kernel nor a network of its own: it asks a Store, keeps chunks in
// internal/cache, and is served to the kernel by fusefs, or walked by a command
// that needs no mount.
//
// The layout is that of the store's own paths:
//
//	/vm/100/2026-11-23T07:04:44Z/drive-scsi0.img    an index, read as the bytes it stands for
//	/vm/100/2026-11-23T07:04:44Z/qemu-server.conf   a blob, decoded
//	/host/a/2026-11-23T07:04:44Z/root.pxar          an archive, as stored
//	/host/a/2026-11-23T07:04:44Z/root/              what is in it
//	/vm/100/latest -> 2026-11-23T07:04:44Z          the newest listed snapshot
//	/ns/a/ns/b/host/web1/...                        group host/web1 in namespace a/b
//	/.stats                                         what this mount did, as JSON
//	/.control -> /run/...                           where companions connect, if anywhere
//
// Namespaces stand under ns/NAME as they do on disk, so that a path in the
// mount is a path in the store, and a namespace can never hide a group: vm, ct,
// host and ns are the only names a namespace's folder can hold.
//
// A folder vm, ct, host or ns is there only if something is in it. A stored name loses its
// .fidx, .didx or .blob; two that would collide keep theirs. The directory of an
// archive (root.pxar, or root.mpxar with root.ppxar, or root.catar) has its name
// without extension; if that is taken, the whole name with ".tree" behind it, as
// other streams have that are archives.
//
// Nodes in archives hold their metadata and the place where they are found, and
// nothing else; directories that were read are remembered as compact listings.
package tree
