"""Areas limits and backup: what the machine can do, and disks going into stores."""
import ctypes
import json
import os
import re

from . import data
from .run import GIB, MIB, cold, measure, sh
from .table import OURS, Goal
from .tools import BIN, Pmxfs


def limits(b):
    """What one core of this machine does."""
    out = sh(["go", "test", "-run", "^$", "-bench", "Limit", "-benchtime", "300ms", "./internal/e2e"])
    names = {"Decode": "zstd decode, one core", "SHA256": "SHA-256, one core", "Copy": "memcpy, one core"}
    for name, rate in go_rates(out, "Limit"):
        b.table.add("limits", names[name], "MB/s", "limit", rate)


def go_rates(out, prefix):
    """The (name, MB/s) of Go benchmarks whose names begin with prefix."""
    return [(name, float(rate)) for name, rate in re.findall(rf"^Benchmark{prefix}(\w+?)(?:-\d+)?\s+\d+\s+\S+ ns/op\s+(\S+) MB/s", out, re.M)]


def backup(b):
    """The disk into an empty store; its changed copy into the same; and back out."""
    first(b)
    second(b)
    unchanged(b)
    restore(b)
    sparse(b)
    four(b)


def first(b):
    b.prepared.clear()
    add = b.table.add
    plain = Pmxfs(b.work, "nocgo", binary=f"{BIN}/nocgo")
    for t in b.tools + [plain]:
        with b.attempt("backup", t):
            t.fresh()
            cold()
            m = t.backup(b.disk)
            if t is plain:
                add("backup", "first backup, built without cgo", "s", OURS, m["wall"], Goal(0.8, peer="borg"))
                add("backup", "first backup, built without cgo, peak RSS", "MB", OURS, m["rss"], Goal(value=200))
                continue
            b.prepared.add(t)
            add("backup", "first backup, cold source", "s", t.name, m["wall"], Goal(0.6, peer="borg"))
            add("backup", "first backup, CPU", "CPU s", t.name, m["cpu"])
            add("backup", "first backup, peak RSS", "MB", t.name, m["rss"], Goal(value=200))
            add("backup", "store after it", "MB", t.name, t.store_bytes() / 1e6, Goal(1.1, peer="borg"))
    plain.discard()
    b.table.copy_peers("backup", "first backup, cold source", "first backup, built without cgo", "s")


def second(b):
    for t in b.with_disk(b.tools):
        with b.attempt("backup", t):
            before = t.store_bytes()
            cold()
            m = t.backup(b.changed)
            b.table.add("backup", "second backup, 3.3% changed", "s", t.name, m["wall"], Goal(0.6, peer="borg"))
            b.table.add("backup", "second backup, CPU", "CPU s", t.name, m["cpu"])
            b.table.add("backup", "second backup, peak RSS", "MB", t.name, m["rss"], Goal(value=200))
            b.table.add("backup", "growth of the store for it", "MB", t.name, (t.store_bytes() - before) / 1e6)


def unchanged(b):
    """The same source again, with a word for its state: it is not even opened."""
    t = Pmxfs(b.work, "token")
    with b.attempt("backup", t):
        t.fresh()
        env = {"XDG_STATE_HOME": b.scratch("state")}
        flags = ("--change-token", "one", "--json")
        t.write("disk.img:" + b.disk, flags=flags, env=env)
        cold()
        with Opens(b.disk) as source:
            m = t.write("disk.img:" + b.disk, flags=flags, env=env)
        summary = json.loads(m["out"].strip().splitlines()[-1])
        b.table.add("backup", "unchanged, with a change token", "s", OURS, m["wall"], Goal(value=0.2))
        b.table.add("backup", "unchanged, with a change token: source opened", "yes or no", OURS, int(source.seen), Goal(value=0))
        b.table.add("backup", "unchanged, with a change token: source read", "bytes", OURS, summary["read"], Goal(value=0))
    t.discard()


class Opens:
    """Sees whether a file is opened, through inotify, which takes several opens in a row for one."""
    IN_OPEN = 0x20

    def __init__(self, path):
        self.libc = ctypes.CDLL(None, use_errno=True)
        self.fd = self.libc.inotify_init1(os.O_NONBLOCK)
        if self.fd < 0 or self.libc.inotify_add_watch(self.fd, os.fsencode(path), self.IN_OPEN) < 0:
            raise OSError(ctypes.get_errno(), "inotify", path)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        try:
            self.seen = len(os.read(self.fd, 4096)) > 0
        except BlockingIOError:
            self.seen = False
        os.close(self.fd)


def restore(b):
    """The disk out of the store, into a sparse file."""
    def copy(target):
        return measure(["cp", "--sparse=always", b.disk, target])
    target = b.scratch("restored")
    cold()
    b.table.add("restore", "disk to a sparse file", "s", "limit", copy(target)["wall"])
    for t in b.with_disk(b.tools):
        with b.attempt("restore", t):
            target = b.scratch("restored")
            cold()
            m = t.restore(b.disk, target)
            b.table.add("restore", "disk to a sparse file", "s", t.name, m["wall"])
            b.table.add("restore", "disk to a sparse file, peak RSS", "MB", t.name, m["rss"])
            if t is b.ours:
                sh(["cmp", b.disk, target])
    b.scratch("restored")


def sparse(b):
    """A disk that is nearly all hole, beside its content alone."""
    wide, alone = data.sparse("sparse-quick", 20 * GIB, 64 * MIB) if b.quick else data.sparse("sparse", 200 * GIB, GIB)
    took = {}
    t = Pmxfs(b.work, "sparse")
    with b.attempt("backup", t):
        for path in (alone, wide):
            t.fresh()
            cold()
            took[path] = t.backup(path)
        name = f"{os.path.getsize(wide) // GIB} GiB sparse disk with {os.path.getsize(alone) // MIB} MiB of data"
        b.table.add("backup", name, "s", OURS, took[wide]["wall"])
        b.table.add("backup", "the data alone", "s", OURS, took[alone]["wall"])
        b.table.add("backup", "more for the sparse disk", "s", OURS, took[wide]["wall"] - took[alone]["wall"], Goal(value=2))
        b.table.add("backup", "more for the sparse disk, peak RSS", "MB", OURS, took[wide]["rss"] - took[alone]["rss"], Goal(value=20))
    t.discard()


def four(b):
    """Four disks in one command against four commands."""
    parts = data.quarters(b.disk)
    files = [f"disk{i}.img:{p}" for i, p in enumerate(parts)]
    t = Pmxfs(b.work, "four")
    with b.attempt("backup", t):
        t.fresh()
        cold()
        one = [t.write(f) for f in files]
        t.fresh()
        cold()
        at_once = t.write(*files)
        b.table.add("backup", "four disks one after another", "s", OURS, sum(m["wall"] for m in one))
        # 5% is what two runs of the same thing differ by.
        b.table.add("backup", "four disks at once", "s", OURS, at_once["wall"], Goal(1.05, row="four disks one after another"))
        b.table.add("backup", "four disks one after another, peak RSS", "MB", OURS, max(m["rss"] for m in one))
        b.table.add("backup", "four disks at once, peak RSS", "MB", OURS, at_once["rss"], Goal(row="four disks one after another, peak RSS", plus=20))
    t.discard()
