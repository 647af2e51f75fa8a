"""Area lists: how long a mount takes to show something, with few snapshots and with many."""
import datetime
import json
import os
import shutil
import struct
import zlib

from . import data
from .bench import opened
from .run import cold, measure, sh
from .table import OURS, Goal
from .tools import Pmxfs

BLOB_MAGIC = bytes.fromhex("42ab3807be8370a1")  # a data blob that is not compressed: docs/formats.md
INDEX_CSUM = slice(32, 64)                      # of a fixed index, in its header


def lists(b):
    few, many = 10, 1000 if b.quick else 10_000
    head = data.once(f"{data.DATA}/head.img", lambda new: sh(["dd", f"if={b.disk}", f"of={new}", "bs=1M", "count=64", "status=none"]) and None)
    for n in (few, many):
        t = Pmxfs(b.work, f"lists-{n}")
        with b.attempt("lists", t):
            if not os.path.exists(t.repo):
                t.fresh()
                t.write("disk.img:" + head)
                multiply(t, n)
            t.n = 1
            starts(b, t, n, Goal(value=0.05))
        with b.attempt("lists", t):
            cold()
            t.mount()
            group = f"{t.mnt}/vm/100"
            m = measure(["ls", group])
            if len(m["out"].split()) != n + 1:  # with "latest"
                raise ValueError(f"{len(m['out'].split())} names in a group of {n} snapshots")
            b.table.add("lists", f"ls of a group with {n:,} snapshots, first time", "s", OURS, m["wall"], Goal(value=0.15))
            b.table.add("lists", f"ls of a group with {n:,} snapshots, next time", "s", OURS, measure(["ls", group])["wall"])
            b.table.add("lists", f"ls -l of a group with {n:,} snapshots", "s", OURS, measure(["ls", "-l", group])["wall"])
            b.table.add("lists", f"peak RSS of the mount, {n:,} snapshots", "MB", OURS, t.usage()[1], Goal(value=400))
    for cls in map(type, b.peers):
        t = cls(b.work, f"lists-{cls.name}")
        with b.attempt("lists", t):
            t.fresh()
            t.backup(head)
            starts(b, t, few, None)  # each mounts one backup, but for restic, which has no more
        t.discard()


def starts(b, t, n, goal):
    """The time from the command to the first listing and the first byte, cold, and again with all programs and stores in memory."""
    for dropped in (True, False):
        listed, byte = opened(t, drop=dropped)
        t.unmount()
        state = "cold" if dropped else "warm"
        b.table.add("lists", f"mount command to first ls, {n:,} snapshots, {state}", "s", t.name, listed, goal)
        b.table.add("lists", f"mount command to first byte, {n:,} snapshots, {state}", "s", t.name, byte, goal)


def multiply(t, n):
    """Makes n snapshots of the first: the index copied, a manifest for each."""
    first = f"{t.repo}/vm/100/{t.time(1)}"
    index = next(name for name in os.listdir(first) if name.endswith(".fidx"))
    with open(f"{first}/{index}", "rb") as f:
        header = f.read(80)
    size = struct.unpack_from("<Q", header, 64)[0]
    start = datetime.datetime(2016, 1, 1, tzinfo=datetime.timezone.utc)
    for i in range(n - 1):
        at = start + datetime.timedelta(hours=8 * i)
        snapshot = f"{t.repo}/vm/100/{at:%Y-%m-%dT%H:%M:%SZ}"
        os.mkdir(snapshot)
        shutil.copyfile(f"{first}/{index}", f"{snapshot}/{index}")
        with open(f"{snapshot}/index.json.blob", "wb") as f:
            f.write(manifest(int(at.timestamp()), index, size, header[INDEX_CSUM].hex()))


def manifest(at, index, size, csum):
    """The stored manifest of a snapshot with one index."""
    text = json.dumps({"backup-type": "vm", "backup-id": "100", "backup-time": at, "signature": None, "unprotected": {},
                       "files": [{"filename": index, "size": size, "csum": csum, "crypt-mode": "none"}]}).encode()
    return BLOB_MAGIC + struct.pack("<I", zlib.crc32(text)) + text
