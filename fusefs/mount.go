package fusefs

import (
	"fmt"

	"bazil.org/fuse"
)

// Subtype is how mounts of ours are known: their type is "fuse." + Subtype.
const Subtype = "pmxmount"

// MountOptions are what the kernel needs to know of a mount.
type MountOptions struct {
	Source             string // what the list of mounts shows as its device
	AllowOther         bool   // users other than the one who mounts may look
	DefaultPermissions bool   // the kernel enforces modes and owners
}

// Mount mounts on dir: read-only, and without device nodes and setuid programs.
// From here on this process must not touch dir. The caller serves the
// connection, and closes it when Serve has returned.
func Mount(dir string, o MountOptions) (*fuse.Conn, error) {
	options := []fuse.MountOption{
		fuse.ReadOnly(),
		fuse.FSName(o.Source),
		fuse.Subtype(Subtype),
		fuse.MaxReadahead(maxRead), // or reads would have 4 KiB; more is capped
		fuse.AsyncRead(),           // or one read of a file is under way at a time
		fuse.MaxBackground(64),
		fuse.CongestionThreshold(64),
	}
	if o.AllowOther {
		options = append(options, fuse.AllowOther())
	}
	if o.DefaultPermissions {
		options = append(options, fuse.DefaultPermissions())
	}
	if plus := readdirplus(); plus != nil {
		options = append(options, plus)
	}
	conn, err := fuse.Mount(dir, options...)
	if err != nil {
		return nil, fmt.Errorf("mount on %s: %w", dir, err)
	}
	return conn, nil
}
