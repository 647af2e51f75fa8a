"""Area archive: a tree of files going into a store, seen through the mount, and coming back."""
import os
import time

from . import data
from .bench import opened
from .run import MIB, cold, measure, sh
from .table import OURS, Goal
from .tools import Pmxfs


def archive(b):
    tree, true = data.tree("tree-quick", 3000, 60 * MIB) if b.quick else data.tree("tree", 67_000, 1500 * MIB)
    tools = [type(t)(b.work, f"tree-{t.name}") for t in b.tools if t.trees]
    stored = []
    for t in tools:
        with b.attempt("archive", t):
            t.fresh()
            cold()
            m = t.backup_tree(tree)
            b.table.add("archive", "backup of the tree, first", "s", t.name, m["wall"], Goal(0.6, peer="restic"))
            b.table.add("archive", "backup of the tree, first, peak RSS", "MB", t.name, m["rss"])
            b.table.add("archive", "store after it", "MB", t.name, t.store_bytes() / 1e6)
            stored.append(t)
    for t in stored:
        with b.attempt("archive", t):
            cold()
            m = t.backup_tree(tree)
            b.table.add("archive", "backup of the unchanged tree", "s", t.name, m["wall"], Goal(peer="kopia"))
    plain(b, tree, true)
    for t in stored:
        with b.attempt("archive", t):
            browse(b, t, tree, true)
    for t in stored:
        with b.attempt("archive", t):
            target = b.scratch("tree-restored")
            cold()
            m = t.restore_tree(tree, target)
            b.table.add("archive", "restore of the tree", "s", t.name, m["wall"], Goal(1.5, limit=True))
            b.table.add("archive", "restore of the tree, peak RSS", "MB", t.name, m["rss"])
            if t.name == OURS:
                same(tree, target)
    b.scratch("tree-restored")
    for t in tools:
        t.discard()
    million(b)


def plain(b, tree, true):
    """The same on the tree itself: what a perfect mount and a perfect restore would take."""
    cold()
    b.table.add("archive", "find, first", "entries/s", "limit", true["entries"] / measure(["find", tree, "-printf", "%s\n"])["wall"])
    b.table.add("archive", "find, second", "entries/s", "limit", true["entries"] / measure(["find", tree, "-printf", "%s\n"])["wall"])
    b.table.add("archive", "ls -lR, after find", "entries/s", "limit", true["entries"] / measure(["ls", "-lR", tree])["wall"])
    target = b.scratch("tree-copied")
    cold()
    wall = measure(["cp", "-a", tree, target])["wall"]
    b.table.add("archive", "cp -a", "files/s", "limit", true["files"] / wall)
    b.table.add("archive", "restore of the tree", "s", "limit", wall)
    b.scratch("tree-copied")


def browse(b, t, tree, true):
    """find twice, ls -lR, and a copy out of the mount, each cold where it says so."""
    seconds = 60 if b.quick else 180
    listed, _ = opened(t, tree=True)
    top, add = t.top(), b.table.add
    add("archive", "mount command to first ls", "s", t.name, listed)
    first = measure(["find", top, "-printf", "%s\n"], limit=seconds)
    if not first["cut"] and first["out"].count("\n") < true["entries"]:
        raise ValueError(f"find in the mount shows {first['out'].count(chr(10))} entries of {true['entries']}")
    add("archive", "find, first", "entries/s", t.name, first["out"].count("\n") / first["wall"], Goal(2, peer="kopia"), first["cut"])
    if not first["cut"]:
        second = measure(["find", top, "-printf", "%s\n"], limit=seconds)
        add("archive", "find, second", "entries/s", t.name, second["out"].count("\n") / second["wall"], Goal(value=30_000), second["cut"])
        ls = measure(["ls", "-lR", top], limit=seconds)
        add("archive", "ls -lR, after find", "entries/s", t.name, true["entries"] / ls["wall"], Goal(value=30_000), ls["cut"])
    t.unmount()
    opened(t, tree=True)
    target = b.scratch("tree-copied")
    m = measure(["cp", "-a", t.top(), target], limit=seconds)
    files = true["files"] if not m["cut"] else int(sh(f"find '{target}' -type f | wc -l"))
    add("archive", "cp -a", "files/s", t.name, files / m["wall"], Goal(2, peer="borg"), m["cut"])
    add("archive", "peak RSS of the mount", "MB", t.name, t.usage()[1])
    if t.name == OURS and not m["cut"]:
        same(tree, target)
    b.scratch("tree-copied")


def same(tree, target):
    """Compares what came back with what went in, names, kinds and content."""
    sh(["diff", "-rq", "--no-dereference", tree, target])


def million(b):
    """An archive of very many files: the time to see the first, and what all of them cost."""
    count = 20_000 if b.quick else 1_000_000
    tree = data.many("many-quick" if b.quick else "many", count)
    t = Pmxfs(b.work, "million")
    with b.attempt("archive", t):
        if not os.path.exists(t.repo):
            t.fresh()
            cold()
            b.table.add("archive", f"backup of {count:,} files, first", "s", OURS, t.backup_tree(tree)["wall"])
        t.n = 1
        cold()
        begin = time.monotonic()
        t.mount(tree=True)
        names = os.listdir(t.top())
        took = time.monotonic() - begin
        if len(names) != len(os.listdir(tree)):
            raise ValueError(f"{len(names)} names at the top of the archive, {len(os.listdir(tree))} in the tree")
        b.table.add("archive", f"mount to first ls in an archive of {count:,} files", "s", OURS, took, Goal(value=0.2))
        m = measure(["find", t.top(), "-printf", "%s\n"])
        b.table.add("archive", f"find over {count:,} files", "entries/s", OURS, m["out"].count("\n") / m["wall"])
        b.table.add("archive", f"peak RSS after find over {count:,} files", "MB", OURS, t.usage()[1], Goal(value=600))
