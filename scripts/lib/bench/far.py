"""Area far: a store at the other end of a link of 1 Gbit/s, of which a proxy delays and limits both directions."""
import contextlib
import os
import random
import statistics
import subprocess
import threading
import time

from . import data
from .bench import Served
from .run import MIB, Failed, sh
from .table import OURS, Goal
from .tools import BIN, Pmxfs

RATE = 125e6          # bytes a second
CHUNK = 4 * MIB
RAMP = 3              # seconds until the link has to be full
# What may be ahead of a demanded chunk at the far end: prefetched data that had left the server (512 KiB), and the
# buffers of the sockets and of the proxy; then it is decoded and verified here.
AHEAD = 0.025


def far(b):
    seconds = 1 if b.quick else 6
    stream = data.noise(f"far{RAMP + seconds}", int(RATE * (RAMP + seconds + 1)) // CHUNK * CHUNK)
    other = data.noise("far-other", 256 * MIB)
    t = Pmxfs(b.work, "far")
    with b.attempt("far", t):
        t.fresh()
        t.write("stream.img:" + stream, "other.img:" + other)
        for rtt in ((20,) if b.quick else (1, 20, 100)):
            with b.attempt("far", t), Served(t.repo) as store, Link(store.address, f"{b.work}/far.sock", rtt) as link:
                t.served = link.address
                one_link(b, t, rtt, seconds)
    t.discard()


def one_link(b, t, rtt, seconds):
    name, snapshot = f"{rtt} ms", f"{t.mnt}/vm/100/{t.time(1)}"
    add = b.table.add
    # The store's chunks are in the page cache: the link is measured, not the disk.
    sh(f"find '{t.repo}/.chunks' -type f -print0 | xargs -0 cat >/dev/null")
    t.mount()
    first, second = timed(lambda: os.listdir(snapshot)), timed(lambda: os.listdir(snapshot))
    # Two round trips, and none; what is left is this machine's own.
    add("far", f"{name}: ls of a snapshot, first time", "ms", OURS, first * 1e3, Goal(value=2 * rtt + 15))
    add("far", f"{name}: ls of a snapshot, next time", "ms", OURS, second * 1e3, Goal(value=max(rtt / 2, 5)))
    with Stream(f"{snapshot}/stream.img") as s:
        time.sleep(RAMP)
        before, begin = s.total, time.monotonic()
        time.sleep(seconds)
        if s.ended.is_set():
            raise Failed("the sequential read ended before it was measured")
        add("far", f"{name}: sequential, after {RAMP} s", "MB/s", OURS, (s.total - before) / 1e6 / (time.monotonic() - begin), Goal(0.8, limit=True))
    add("far", f"{name}: sequential, after {RAMP} s", "MB/s", "limit", RATE / 1e6)
    add("far", f"{name}: peak RSS of the mount", "MB", OURS, t.usage()[1], Goal(value=400))
    t.unmount()
    t.mount()
    with Stream(f"{snapshot}/stream.img"):
        time.sleep(RAMP)
        waits = random_reads(f"{snapshot}/other.img", 5 if b.quick else 20)
    least = rtt + CHUNK / RATE * 1e3
    add("far", f"{name}: random read beside a sequential one", "ms", OURS, statistics.median(waits) * 1e3, Goal(limit=True, plus=AHEAD * 1e3))
    add("far", f"{name}: random read beside a sequential one", "ms", "limit", least)
    t.unmount()


def timed(do):
    begin = time.monotonic()
    do()
    return time.monotonic() - begin


def random_reads(path, n):
    """The seconds that reads of 4 KiB took, each in a chunk of its own that nobody has read, with pauses."""
    out = []
    with open(path, "rb", buffering=0) as f:
        size = os.fstat(f.fileno()).st_size
        for i in random.Random(n).sample(range(size // CHUNK), n):
            out.append(timed(lambda: os.pread(f.fileno(), 4096, i * CHUNK + CHUNK // 2)))
            time.sleep(0.05)
    return out


class Stream:
    """Reads a file from its start, in a thread, until it is stopped; total is how far it is."""

    def __init__(self, path):
        self.path, self.total, self.stop, self.ended = path, 0, threading.Event(), threading.Event()
        self.thread = threading.Thread(target=self.read)

    def read(self):
        with contextlib.suppress(OSError), open(self.path, "rb", buffering=0) as f:
            while not self.stop.is_set():
                n = len(f.read(MIB))
                if n == 0:
                    break
                self.total += n
        self.ended.set()

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.stop.set()
        self.thread.join()


class Link:
    """The proxy in front of a served store."""

    def __init__(self, to, path, rtt):
        self.to, self.rtt, self.path, self.address = to, rtt, path, f"unix:{path}"

    def __enter__(self):
        self.proc = subprocess.Popen([f"{BIN}/farlink", "--listen", self.address, "--to", self.to, "--delay", f"{self.rtt}ms", "--rate", "1Gbit"],
                                     stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        if not self.proc.stdout.readline():  # it prints its address when it listens
            self.proc.wait()
            raise Failed(f"farlink ended with {self.proc.returncode}")
        return self

    def __exit__(self, *_):
        self.proc.kill()
        self.proc.wait()
        self.proc.stdout.close()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)
