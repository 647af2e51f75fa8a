package store

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"pmxfs/internal/fault"
	"pmxfs/internal/ref"
)

// foreignLocks are the locks on groups and snapshots that a Proxmox Backup
// Server on the same host takes, since its version 3.3.5 in a folder of its own
// (docs/formats.md, "Locks"). They are no part of the store; the zero value
// takes none.
type foreignLocks struct {
	dir string // of this datastore; empty: no such server here, or it does not know the store
	uid int    // whom the lock files belong to
	gid int
}

const (
	defaultLockDir  = "/run/proxmox-backup/locks"
	datastoreConfig = "/etc/proxmox-backup/datastore.cfg"
)

func newForeignLocks(root string, cfg Config, log *slog.Logger) foreignLocks {
	base := cfg.LockDir
	if base == "" {
		base = defaultLockDir
	}
	var st unix.Stat_t
	if err := unix.Stat(base, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return foreignLocks{}
	}
	name := cfg.Datastore
	if name == "" {
		b, err := os.ReadFile(datastoreConfig)
		if err != nil {
			log.Warn("cannot learn by what name the backup server knows this store; its locks are not taken", "err", err)
			return foreignLocks{}
		}
		if name = datastoreName(string(b), root); name == "" {
			return foreignLocks{} // not its store
		}
	}
	return foreignLocks{dir: filepath.Join(base, name), uid: int(st.Uid), gid: int(st.Gid)}
}

// datastoreName finds the datastore with this path in the server's configuration.
func datastoreName(config, path string) string {
	name := ""
	for line := range strings.Lines(config) {
		if rest, ok := strings.CutPrefix(line, "datastore:"); ok {
			name = strings.TrimSpace(rest)
		} else if fields := strings.Fields(line); len(fields) == 2 && fields[0] == "path" && filepath.Clean(fields[1]) == path {
			return name
		}
	}
	return ""
}

func (l foreignLocks) lockGroup(g ref.Group) (*os.File, error) {
	return l.lock(g.Namespace, g.Type.String()+"/"+g.ID, unix.LOCK_SH)
}

func (l foreignLocks) lockSnapshot(s ref.Snapshot) (*os.File, error) {
	return l.lock(s.Namespace, s.Type.String()+"/"+s.ID+"/"+ref.FormatTime(s.Time), unix.LOCK_EX)
}

func (l foreignLocks) lockManifest(s ref.Snapshot) (*os.File, error) {
	return l.lock(s.Namespace, s.Type.String()+"/"+s.ID+"/"+ref.FormatTime(s.Time)+"/.index.json.lck", unix.LOCK_EX)
}

// lock takes one, without waiting; nil without an error means there is none to take.
func (l foreignLocks) lock(ns, path string, how int) (*os.File, error) {
	if l.dir == "" {
		return nil, nil
	}
	name := filepath.Join(l.dir, strings.ReplaceAll(ns, "/", ":"), lockName(path))
	if err := l.mkdirAll(filepath.Dir(name)); err != nil {
		return nil, fault.New(fault.KindOf(err), "lock", path, err)
	}
	for range 10 {
		f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o660)
		if err != nil {
			return nil, fault.New(fault.KindOf(err), "lock", path, err)
		}
		if os.Geteuid() == 0 {
			err = errors.Join(f.Chmod(0o660), f.Chown(l.uid, l.gid))
		}
		if err == nil {
			_, err = retry(func() (int, error) { return 0, unix.Flock(int(f.Fd()), how|unix.LOCK_NB) })
		}
		if errors.Is(err, unix.EWOULDBLOCK) {
			err = fault.Newf(fault.Busy, "lock", path, "the backup server on this host is using it")
		}
		var same bool
		if err == nil {
			if same, err = stillNamed(f, name); same {
				return f, nil
			}
		}
		f.Close()
		if err != nil {
			return nil, fault.New(fault.KindOf(err), "lock", path, err)
		}
	}
	return nil, fault.Newf(fault.Busy, "lock", path, "others keep replacing the lock file")
}

func (l foreignLocks) mkdirAll(dir string) error {
	if dir == filepath.Dir(l.dir) {
		return nil
	}
	if err := l.mkdirAll(filepath.Dir(dir)); err != nil {
		return err
	}
	err := os.Mkdir(dir, 0o755)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err == nil && os.Geteuid() == 0 {
		err = os.Chown(dir, l.uid, l.gid)
	}
	return err
}

func stillNamed(f *os.File, name string) (bool, error) {
	a, err := f.Stat()
	if err != nil {
		return false, err
	}
	b, err := os.Lstat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil && os.SameFile(a, b), err
}

// lockName escapes a path the way systemd does; what would be too long for a
// file name is shortened and told apart by its hash.
func lockName(path string) string {
	var b strings.Builder
	for i := range len(path) {
		switch c := path[i]; {
		case c == '/':
			b.WriteByte('-')
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '_', c == '.' && i > 0:
			b.WriteByte(c)
		default:
			fmt.Fprintf(&b, `\x%02x`, c)
		}
	}
	name := b.String()
	if len(name) < 255 {
		return name
	}
	sum := sha256.Sum256([]byte(path))
	return "hashed/" + name[:80] + "..." + name[len(name)-80:] + "-" + hex.EncodeToString(sum[:])
}
