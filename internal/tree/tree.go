package tree

import (
	"context"
	"fmt"
	"log/slog"
	"sync/atomic"
	"syscall"
	"time"

	"pmxfs/internal/cache"
	"pmxfs/internal/ref"
)

// Config says what a tree shows, and how.
type Config struct {
	Store   Store
	Memory  int64        // bound on chunks, indexes and lists in memory, in bytes; 0 is cache.DefaultBytes
	Workers int          // chunks decoded at the same time; 0 is the number of cores
	Log     *slog.Logger // nil: no log. Failures of a call are in its error only

	// Disk keeps what was read and listed over restarts, and shows it while the
	// store cannot be reached; nil: nothing does. Name tells this store from
	// others in the same Disk: the repository as it was given.
	Disk *cache.Disk
	Name string

	// UID and GID own what is not in an archive.
	UID, GID uint32

	// Control is the target of the link /.control; empty: there is none.
	Control string
}

// A Tree is the tree of one store. It may be used by any number of goroutines.
type Tree struct {
	cfg   Config
	store Store
	cache *cache.Cache
	env   env
	stop  context.CancelFunc
	began time.Time

	atHand context.Context // under which archives are read from memory alone; it has ended

	inodes   *inodes
	groups   *list[*layout]
	space    *list[Space]
	lists    *lists
	contents *contents
	archives *archives
	pages    pages
	loads    atomic.Uint64 // contents that were loaded
	stats    statsFile
	watcher  atomic.Pointer[Watcher]
}

// New returns the tree of a store. It fetches the list of groups, and nothing
// else, however much there is. The caller closes the tree, and then the store.
//
// A store that cannot be browsed is an error of kind unsupported.
func New(ctx context.Context, cfg Config) (*Tree, error) { return newTree(ctx, cfg, time.Now) }

func newTree(ctx context.Context, cfg Config, now func() time.Time) (*Tree, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	t := &Tree{cfg: cfg, store: cfg.Store, began: now()}
	t.env = env{log: cfg.Log, now: now, after: time.After}
	t.env.ctx, t.stop = context.WithCancel(context.Background())
	ended, end := context.WithCancel(context.Background())
	end()
	t.atHand = ended
	if cfg.Disk != nil {
		t.store = newOffline(t, cfg.Store)
		t.AddStats("disk", func() any { return cfg.Disk.Stats() })
	}
	t.cache = cache.New(cache.Config{Source: cfg.Store, Bytes: cfg.Memory, Workers: cfg.Workers, Disk: cfg.Disk})
	t.inodes = newInodes(t.cache.Reserve)
	t.lists = newLists(t)
	t.contents = newContents(t)
	t.archives = newArchives(t)
	t.AddStats("archives", t.archives.stats)
	t.pages = newPages()
	t.groups = &list[*layout]{env: &t.env, name: "of groups", fetch: func(ctx context.Context) (*layout, bool, error) {
		groups, err := t.store.Groups(ctx)
		if err != nil {
			return nil, false, err
		}
		return newLayout(groups, t.inodes.of, t.specials(), t.lists.generation.Add(1)), false, nil
	}}
	t.space = &list[Space]{env: &t.env, name: "of the store's room", fetch: func(ctx context.Context) (Space, bool, error) {
		s, err := t.store.Space(ctx)
		return s, false, err
	}}
	if _, err := t.groups.get(ctx); err != nil {
		t.Close()
		return nil, fmt.Errorf("list the store: %w", err)
	}
	return t, nil
}

// Close ends what is under way behind what was asked. It comes last: handles are
// closed, and nobody calls the tree any more.
func (t *Tree) Close() {
	t.stop()
	t.archives.close()
	t.cache.Close()
	t.env.tasks.Wait()
}

// Root returns the tree's root.
func (t *Tree) Root() Dir { return &folderDir{t: t} }

// Expire has what was listed asked for anew when it is next wanted: somebody
// knows that the store has something new.
func (t *Tree) Expire() {
	t.groups.expire()
	t.lists.expire()
}

// statfsPatience is how long Statfs waits for a store that does not answer:
// umount asks for the room, too, and must not have to wait for the store.
const statfsPatience = 2 * time.Second

// Statfs returns the room in the store, as it was at most Fresh ago; as it was
// last known if the store does not answer within statfsPatience.
func (t *Tree) Statfs(ctx context.Context) (Space, error) {
	wait, stop := context.WithTimeout(ctx, statfsPatience)
	defer stop()
	s, err := t.space.get(wait)
	if err != nil && wait.Err() != nil && ctx.Err() == nil {
		if last, known, _ := t.space.peek(); known {
			return last, nil
		}
	}
	return s, err
}

// The names in the root that are no part of the store.
const (
	statsName   = ".stats"
	controlName = ".control"
)

func (t *Tree) specials() []Entry {
	s := []Entry{{Name: statsName, Ino: t.inodes.of(statsName), Type: syscall.DT_REG}}
	if t.cfg.Control != "" {
		s = append(s, Entry{Name: controlName, Ino: t.inodes.of(controlName), Type: syscall.DT_LNK})
	}
	return s
}

// attr returns what all nodes have in common.
func (t *Tree) attr(ino uint64, mode uint32, mtime time.Time) Attr {
	return Attr{Ino: ino, Mode: mode, Nlink: 1, UID: t.cfg.UID, GID: t.cfg.GID, Mtime: mtime, Ctime: mtime}
}

const (
	dirMode  = syscall.S_IFDIR | 0o555
	fileMode = syscall.S_IFREG | 0o444
	linkMode = syscall.S_IFLNK | 0o777
)

func snapshotTime(s ref.Snapshot) time.Time { return time.Unix(s.Time, 0) }
