"""Areas mount and memory: reading a mounted disk, in order, at random, and through a loop device."""
import json
import os
import tempfile

from . import data
from .bench import opened
from .run import GIB, cold, measure, sh
from .table import OURS, Goal
from .tools import Pmxfs


def mount(b):
    tools = b.with_disk(b.tools)
    b.peaks["default"] = 0
    add = b.table.add
    cold()
    add("mount", "sequential, cold", "MB/s", "limit", rate(b, copy(b.disk)))
    add("mount", "sequential, second time", "MB/s", "limit", rate(b, copy(b.disk)))
    for t in tools:
        with b.attempt("mount", t):
            sequential(b, t, "mount", "default")
    for jobs in (1, 4):
        cold()
        add("mount", f"random 4 KiB, {jobs} job(s)", "IOPS", "limit", fio(b, b.disk, jobs)[0])
        for t in tools:
            with b.attempt("mount", t):
                random_reads(b, t, jobs, "mount", "default")
    for t in tools:
        with b.attempt("mount", t):
            loop(b, t, "mount", "default")
    add("mount", "peak RSS of the mount in all of the above", "MB", OURS, b.peaks["default"], Goal(value=400))


def memory(b):
    """The same under a small limit."""
    small = Pmxfs(b.work, "small", flags=["--memory", "32MiB"])
    if not b.with_disk([b.ours]):
        return
    small.repo, area = b.ours.repo, "memory 32 MiB"
    b.peaks[area] = 0
    with b.attempt(area, small):
        sequential(b, small, area, area)
    b.table.copy_peers("mount", "sequential, cold", "sequential, cold", "MB/s", area)
    for jobs in (1, 4):
        with b.attempt(area, small):
            random_reads(b, small, jobs, area, area)
    with b.attempt(area, small):
        loop(b, small, area, area)
    b.table.add(area, "peak RSS of the mount in all of the above", "MB", OURS, b.peaks[area], Goal(value=120))


def copy(path):
    return measure(["dd", f"if={path}", "of=/dev/null", "bs=1M"])


def rate(b, m):
    return b.size / 1e6 / m["wall"]


def watch(b, t, kind, area, what):
    """Records what the mount of t holds so far."""
    rss = t.usage()[1]
    b.table.add(area, f"peak RSS of the mount, {what}", "MB", t.name, rss)
    if isinstance(t, Pmxfs):
        b.peaks[kind] = max(b.peaks[kind], rss)


def sequential(b, t, area, kind):
    add, default = b.table.add, kind == "default"
    listed, byte = opened(t)
    add(area, "mount command to first ls", "s", t.name, listed)
    add(area, "mount command to first byte", "s", t.name, byte)
    image = t.image()
    seen = t.usage()[0]
    add(area, "sequential, cold", "MB/s", t.name, rate(b, copy(image)), Goal(3, peer="borg") if default else Goal())
    add(area, "daemon CPU for a GiB, cold", "CPU s", t.name, (t.usage()[0] - seen) / (b.size / GIB), Goal(value=2) if default else None)
    counts = isinstance(t, Pmxfs) and default
    before = [reads(t), reads(t)] if counts else None
    add(area, "sequential, second time", "MB/s", t.name, rate(b, copy(image)), Goal(0.75, limit=True) if default else None)
    if counts:
        # To ask costs READs of its own, as many as between the two times it was asked before.
        own = before[1] - before[0]
        add(area, "READs served in the second time", "requests", t.name, reads(t) - before[1] - own, Goal(value=0))
    watch(b, t, kind, area, "sequential")


def reads(t):
    """How many READs our mount served so far."""
    return t.stats()["mount"]["reads"]


def random_reads(b, t, jobs, area, kind):
    opened(t)
    iops, p99 = fio(b, t.image(), jobs)
    goal = (Goal(8, peer="desync-64k") if jobs == 1 else Goal(20, peer="casync")) if kind == "default" else None
    b.table.add(area, f"random 4 KiB, {jobs} job(s)", "IOPS", t.name, iops, goal)
    b.table.add(area, f"random 4 KiB, {jobs} job(s), p99", "ms", t.name, p99)
    watch(b, t, kind, area, f"random, {jobs} job(s)")


def fio(b, path, jobs):
    """IOPS and the 99th percentile in ms of uniform reads of 4 KiB, by as many threads."""
    out = sh(["fio", "--name=r", "--filename=" + path.replace(":", "\\:"), "--readonly", "--rw=randread", "--bs=4k", "--ioengine=psync", f"--numjobs={jobs}",
              f"--runtime={1 if b.quick else 8}", "--time_based", "--group_reporting", "--output-format=json", "--norandommap", "--randrepeat=0",
              "--invalidate=0", "--thread"])
    return parse_fio(out)


def parse_fio(out):
    """(IOPS, p99 in ms) of fio's JSON, before which it may print warnings."""
    read = json.loads(out[out.index("{"):])["jobs"][0]["read"]
    return read["iops"], read["clat_ns"].get("percentile", {}).get("99.000000", 0) / 1e6


def loop(b, t, area, kind):
    """find and tar in the file system on the disk, each cold, mounted through a loop device out of the backup."""
    opened(t)
    seconds = 30 if b.quick else 150
    inside = tempfile.mkdtemp(dir=data.DATA)
    try:
        sh(["mount", "-o", "ro,loop,noload", t.image(), inside])
        try:
            default = kind == "default"
            m = measure(["find", inside, "-xdev", "-printf", "%s\n"], limit=seconds)
            b.table.add(area, "loop mount: find", "s", t.name, m["wall"], Goal(1 / 3, peer="restic") if default else None, m["cut"])
            cold()
            m = measure(["sh", "-c", f"tar -cf - -C '{inside}' . | cat >/dev/null"], limit=seconds)
            b.table.add(area, "loop mount: tar", "s", t.name, m["wall"], Goal(1 / 3, peer="restic") if default else None, m["cut"])
            watch(b, t, kind, area, "loop mount")
        finally:
            sh(["umount", inside])
    finally:
        os.rmdir(inside)
