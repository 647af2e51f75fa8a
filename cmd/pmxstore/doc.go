// Pmxstore keeps a store of backups in the Proxmox datastore format: it makes,
// serves, lists and verifies stores, and forgets snapshots.
//
//	pmxstore init DIR
//	pmxstore serve DIR [--listen unix:PATH|tcp:HOST:PORT|stdio]...
//	pmxstore list DIR [GROUP|SNAPSHOT]
//	pmxstore verify DIR [SNAPSHOT...]
//	pmxstore forget DIR SNAPSHOT
//
// # Limitations
//
// Chunks that no snapshot needs any more are not removed: on a Proxmox Backup
// Server its garbage collection does that. Encrypted backups are listed, and
// their chunks checked by CRC alone, since no key is at hand.
package main
