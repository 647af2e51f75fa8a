package fusefs

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"pmxfs/internal/fault"
	"pmxfs/internal/tree"
)

// eventually waits until ok; what it waits for comes from the kernel, which
// tells nobody when it is done.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(deadline); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: not within %v", what, deadline)
		}
	}
}

func u32(n uint32) *uint32 { return &n }

// What stat says is what the tree says, for every kind of node.
func TestAttributes(t *testing.T) {
	old := newFile(3, 10)
	old.attr.Mode = syscall.S_IFREG | 0o6751
	old.attr.Mtime = time.Unix(-86400, 250000000)
	old.attr.Ctime = time.Unix(4102444800, 1)
	old.attr.Nlink, old.attr.UID, old.attr.GID, old.attr.Blocks = 3, 1234, 5678, 8
	tmp := newDir(4)
	tmp.attr.Mode = syscall.S_IFDIR | 0o1777
	null := &memNode{5, tree.Attr{Mode: syscall.S_IFCHR | 0o666, Rdev: 1<<8 | 3, Nlink: 1, Mtime: epoch, Ctime: epoch}}
	fifo := &memNode{6, tree.Attr{Mode: syscall.S_IFIFO | 0o600, Mtime: epoch, Ctime: epoch}}
	huge := newFile(1, 1<<60) // its inode number is the id that the root must have
	root := newDir(99, child{"old", old}, child{"tmp", tmp}, child{"null", null}, child{"fifo", fifo}, child{"link", newLink(7, "a/target")}, child{"huge", huge})
	m := mountTree(t, Config{Root: root}, MountOptions{})
	const format = `stat -c '%n %F %a %u:%g %s %b %h %i %t:%T %.9Y %.9Z' `
	got := m.run(`cd $M && ` + format + `. old tmp null fifo link huge; readlink link; ls -ai | grep -c .`)
	want := strings.TrimSpace(`
. directory 755 1:2 0 0 1 99 0:0 1764000000.123456789 1764000000.123456789
old regular file 6751 1234:5678 10 8 3 3 0:0 -86399.750000000 4102444800.000000001
tmp directory 1777 1:2 0 0 1 4 0:0 1764000000.123456789 1764000000.123456789
null character special file 666 0:0 0 0 1 5 1:3 1764000000.123456789 1764000000.123456789
fifo fifo 600 0:0 0 0 1 6 0:0 1764000000.123456789 1764000000.123456789
link symbolic link 777 1:2 8 1 1 7 0:0 1764000000.123456789 1764000000.123456789
huge regular file 444 1:2 1152921504606846976 2251799813685248 1 1 0:0 1764000000.123456789 1764000000.123456789
a/target
8`)
	// coreutils rounds times before 1970 towards zero or not, by its version.
	got = strings.Replace(got, "-86400.250000000", "-86399.750000000", 1)
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestOwner(t *testing.T) {
	const dir, file, link = syscall.S_IFDIR, syscall.S_IFREG, syscall.S_IFLNK
	for _, c := range []struct {
		name string
		o    Owner
		mode uint32
		want uint32
	}{
		{"as it is", Owner{}, file | 0o4640, file | 0o4640},
		{"umask of a file", Owner{Umask: u32(0o022)}, file | 0o600, file | 0o644},
		{"umask of a program", Owner{Umask: u32(0o027)}, file | 0o500, file | 0o750},
		{"umask of a directory", Owner{Umask: u32(0o077)}, dir | 0o1000, dir | 0o1700},
		{"umask leaves links alone", Owner{Umask: u32(0o077)}, link | 0o777, link | 0o777},
		{"readable", Owner{Readable: true}, file, file | 0o400},
		{"readable directory", Owner{Readable: true}, dir, dir | 0o500},
	} {
		a := tree.Attr{Mode: c.mode, UID: 5, GID: 6}
		c.o.apply(&a)
		if a.Mode != c.want || a.UID != 5 || a.GID != 6 {
			t.Errorf("%s: %o became %o of %d:%d, not %o", c.name, c.mode, a.Mode, a.UID, a.GID, c.want)
		}
	}
	m := mountTree(t, Config{Root: newDir(1, child{"f", newFile(2, 1)}), Owner: Owner{UID: u32(42), GID: u32(43), Umask: u32(0o077)}}, MountOptions{})
	if got := m.run(`stat -c '%u:%g %a' $M/f`); got != "42:43 600" {
		t.Errorf("the mount says %s", got)
	}
}

// The table of nodes holds what the kernel knows, and nothing it forgot.
func TestForget(t *testing.T) {
	const n = 5000
	root := newDir(1)
	for i := range n {
		root.add(fmt.Sprintf("f%d", i), newFile(uint64(100+i), 1))
	}
	hard := newFile(50, 1)
	root.add("hard1", hard)
	root.add("hard2", hard)
	m := mountTree(t, Config{Root: root}, MountOptions{})
	m.run(`ls -l $M >/dev/null`)
	if got := m.Stats().Nodes; got != n+2 {
		t.Fatalf("%d nodes after ls -l of %d files, two links to one file, and the root", got, n)
	}
	for i := range n {
		m.EntryChanged(1, fmt.Sprintf("f%d", i))
	}
	m.EntryChanged(1, "hard1")
	eventually(t, "forgetting all but one name", func() bool { return m.Stats().Nodes == 2 })
	if got := m.run(`cat $M/hard2 $M/f17 | wc -c`); got != "2" {
		t.Errorf("read %s bytes of two", got)
	}
	m.EntryChanged(1, "hard2")
	m.EntryChanged(1, "f17")
	eventually(t, "forgetting the rest", func() bool { return m.Stats().Nodes == 1 })
}

func TestNodeTable(t *testing.T) {
	var nodes nodes
	root := newDir(7)
	a, _ := root.Attr(context.Background())
	nodes.init(root, a)
	if id := nodes.id(7); id != 1 {
		t.Errorf("the root's id is %d", id)
	}
	if id := nodes.id(1); id != 7 {
		t.Errorf("the id of inode 1 is %d", id)
	}
	for i := range uint64(10000) {
		f := newFile(100+i, 0)
		fa, _ := f.Attr(context.Background())
		nodes.add(f, fa, 7)
		nodes.add(f, fa, 7)
	}
	for i := range uint64(10000) {
		nodes.forget(nodes.id(100+i), 1)
	}
	if nodes.len() != 10001 {
		t.Errorf("%d nodes after half was forgotten", nodes.len())
	}
	for i := range uint64(10000) {
		nodes.forget(nodes.id(100+i), 1)
	}
	nodes.forget(1, 5)
	if nodes.len() != 1 {
		t.Errorf("%d nodes after all was forgotten", nodes.len())
	}
	if nodes.most > 5000 {
		t.Errorf("the table still has room for %d", nodes.most)
	}
}

// Names that are not there are remembered by the kernel where nothing changes,
// and only there.
func TestAbsent(t *testing.T) {
	still, live := newDir(2), newDir(3)
	live.attr.Immutable = false
	m := mountTree(t, Config{Root: newDir(1, child{"still", still}, child{"live", live})}, MountOptions{})
	m.run(`for i in 1 2 3; do ! test -e $M/still/no || exit 1; ! test -e $M/live/no || exit 1; done`)
	if got := still.looked.Load(); got != 1 {
		t.Errorf("%d lookups in the immutable directory", got)
	}
	if got := live.looked.Load(); got != 3 {
		t.Errorf("%d lookups in the other", got)
	}
}

// What changes is seen once its time is over or the kernel was told.
func TestChanges(t *testing.T) {
	live := newDir(2, child{"name", newFile(10, 1)})
	live.attr.Immutable = false
	still := newDir(3, child{"name", newFile(11, 1)})
	m := mountTree(t, Config{Root: newDir(1, child{"live", live}, child{"still", still})}, MountOptions{})
	m.run(`stat $M/live/name $M/still/name; ls $M/still`)
	live.add("name", newFile(20, 2))
	still.add("name", newFile(21, 2))
	eventually(t, "the new file", func() bool { return m.run(`stat -c %i $M/live/name`) == "20" })
	if got := m.run(`stat -c %i $M/still/name; ls $M/still | grep -c .`); got != "11\n1" {
		t.Errorf("the immutable directory is asked again: %s", got)
	}
	m.EntryChanged(3, "name")
	m.NodeChanged(3)
	eventually(t, "what the kernel was told", func() bool { return m.run(`stat -c %i $M/still/name; ls $M/still | grep -c .`) == "21\n2" })
}

// A directory of a million entries is listed whole, in order, from any place,
// with no memory of its own.
func TestMillionEntries(t *testing.T) {
	big := newDir(2)
	big.names = numbers(1_000_000)
	m := mountTree(t, Config{Root: newDir(1, child{"big", big})}, MountOptions{})
	got := m.run(`cd $M/big && ls -f | tail -n +3 | awk -F- '$2 != NR-1 {print "wrong", NR, $0; exit 1} END {print NR}'`)
	if got != "1000000" {
		t.Errorf("ls prints %s", got)
	}
	if got := big.lists.Load(); got != 1 {
		t.Errorf("one listing asked the tree %d times", got)
	}
}

// The kernel keeps the listing of a directory that does not change. One that is
// large it may drop at any time, for lack of memory.
func TestListingIsKept(t *testing.T) {
	still := newDir(2)
	still.names = numbers(1000)
	m := mountTree(t, Config{Root: newDir(1, child{"still", still})}, MountOptions{})
	m.run(`for i in 1 2 3; do ls -f $M/still | wc -l; done >/dev/null`)
	if got := still.lists.Load(); got != 1 {
		t.Errorf("the tree was asked %d times for what the kernel may keep", got)
	}
}

// A directory that changes is listed anew by who starts again, and goes on as
// it was for who is reading it.
func TestListAgain(t *testing.T) {
	live := newDir(2)
	live.attr.Immutable = false
	var cut atomic.Bool
	live.list = func(ctx context.Context) (tree.Listing, error) {
		if cut.Load() {
			return nil, fault.Newf(fault.Unavailable, "list", "x", "cut")
		}
		return live.listed(ctx), nil
	}
	for i := range 1000 {
		live.add(fmt.Sprintf("a-rather-long-name-so-that-there-are-many-replies-%d", i), newFile(uint64(100+i), 0))
	}
	m := mountTree(t, Config{Root: newDir(1, child{"live", live})}, MountOptions{})
	if got := m.run(`ls -f $M/live | grep -c long; ls -f $M/live | sort -u | grep -c long`); got != "1000\n1000" {
		t.Errorf("ls prints %s names", got)
	}
	live.add("new", newFile(99, 0))
	if got := m.run(`ls -f $M/live | grep -c .`); got != "1003" {
		t.Errorf("ls prints %s names and dots after one more came", got)
	}
	cut.Store(true)
	if out, err := m.try("ls", m.dir+"/live"); err == nil || !strings.Contains(err.Error(), "Input/output error") {
		t.Errorf("a list that cannot be had: %s, %v", out, err)
	}
}

func TestXattr(t *testing.T) {
	f := &memXattrFile{newFile(2, 1), map[string]string{"user.a": "1", "user.empty": "", "security.capability": "\x01\x00\x00\x02" + "\x00\x04" + strings.Repeat("\x00", 14)}}
	root := newDir(1, child{"f", f}, child{"none", newFile(3, 1)})
	m := mountTree(t, Config{Root: root}, MountOptions{})
	got := m.run(`cd $M && getfattr --absolute-names -d -m - f | sort; getfattr -n user.a f none 2>&1 | grep -c 'No such attribute'`)
	for _, want := range []string{`user.a="1"`, `user.empty=""`, `security.capability=0sAQAAAgAEAAAAAAAAAAAAAAAAAAA=`, "\n1"} {
		if !strings.Contains(got, want) {
			t.Errorf("no %s in:\n%s", want, got)
		}
	}
	m = mountTree(t, Config{Root: root, NoXattr: true}, MountOptions{})
	if got := m.run(`cd $M && getfattr -n user.a f 2>&1 || true`); !strings.Contains(got, "not supported") {
		t.Errorf("without any: %s", got)
	}
}

func TestStatfs(t *testing.T) {
	m := mountTree(t, Config{Root: newDir(1), Space: func(context.Context) (tree.Space, error) {
		return tree.Space{Total: 1000 << 20, Used: 300 << 20, Free: 600 << 20}, nil
	}}, MountOptions{})
	if got := m.run(`df -B1M --output=size,used,avail $M | tail -1`); strings.Join(strings.Fields(got), " ") != "1000 300 600" {
		t.Errorf("df says %s", got)
	}
}

// Nothing can be changed.
func TestReadOnly(t *testing.T) {
	m := mountTree(t, Config{Root: newDir(1, child{"f", newFile(2, 1)}, child{"d", newDir(3)})}, MountOptions{})
	for _, script := range []string{`echo >$M/f`, `echo >$M/new`, `rm $M/f`, `mkdir $M/e`, `rmdir $M/d`, `mv $M/f $M/g`, `ln $M/f $M/g`, `ln -s x $M/l`, `chmod 1 $M/f`, `touch $M/f`, `truncate -s 5 $M/f`, `setfattr -n user.a -v 1 $M/f`} {
		out, err := m.try("sh", "-c", "M="+m.dir+"; "+script)
		if err == nil || !strings.Contains(err.Error(), "Read-only file system") {
			t.Errorf("%s: %s, %v", script, out, err)
		}
	}
}

// What a directory is asked for as a file, and the other way round.
func TestWrongKind(t *testing.T) {
	m := mountTree(t, Config{Root: newDir(1, child{"f", newFile(2, 1)})}, MountOptions{})
	if _, err := m.try("cat", m.dir); err == nil || !strings.Contains(err.Error(), "Is a directory") {
		t.Error(err)
	}
	if _, err := m.try("ls", m.dir+"/f/x"); err == nil || !strings.Contains(err.Error(), "Not a directory") {
		t.Error(err)
	}
}
