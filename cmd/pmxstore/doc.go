// Pmxstore keeps a store of backups in the Proxmox datastore format: it makes,
// serves, lists and verifies stores, keeps their users, and forgets snapshots.
//
//	pmxstore init DIR
//	pmxstore serve DIR [--listen unix:PATH|tcp:HOST:PORT|https:HOST:PORT|stdio]...
//	pmxstore serve --config FILE
//	pmxstore user add|passwd|token|remove|list DIR ...
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
