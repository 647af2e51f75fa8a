"""Area cache: a second mount that reads everything from its persistent cache, while the store is away."""
import os

from .bench import Served, first_byte
from .mount import copy, rate
from .run import cold, sh
from .table import OURS, Goal
from .tools import Pmxfs


def cache(b):
    if not b.with_disk([b.ours]):
        return
    folder = b.scratch("cache")
    os.mkdir(folder)
    t = Pmxfs(b.work, "cached", flags=["--cache", folder])
    add = b.table.add
    with b.attempt("cache", t), Served(b.ours.repo) as store:
        t.served, t.repo = store.address, b.ours.repo
        t.flags = []
        cold()
        t.mount()
        add("cache", "sequential, cold, from the store", "MB/s", OURS, rate(b, copy(t.image())))
        t.unmount()
        t.flags = ["--cache", folder]
        cold()
        t.mount()
        add("cache", "sequential, cold, filling the cache", "MB/s", OURS, rate(b, copy(t.image())))
        t.unmount()
        cold()
        t.mount()
        first_byte(t.image())
        store.kill()
        add("cache", "sequential, cold, store unreachable", "MB/s", OURS, rate(b, copy(t.image())), Goal(row="sequential, cold, from the store"))
        s = t.stats()["cache"]
        add("cache", "chunks fetched from the store meanwhile", "chunks", OURS, s["fetched"])
        add("cache", "peak RSS of the mount", "MB", OURS, t.usage()[1], Goal(value=400))
    sh(["rm", "-rf", folder])
