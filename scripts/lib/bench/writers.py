"""Area writers: how long readers of a mount wait while companions write backups through it."""
import contextlib
import mmap
import multiprocessing
import os
import random
import socket
import statistics
import subprocess
import time

from . import data
from .bench import Served
from .run import MIB, Failed, cold, tail
from .table import OURS, Goal
from .tools import BIN, Pmxfs

READERS, COMPANIONS = 8, 10
READ = 128 << 10


def writers(b):
    size = (16 if b.quick else 256) * MIB
    sources = [data.noise(f"noise{size // MIB}-{i}", size) for i in range(COMPANIONS)]
    t = Pmxfs(b.work, "through")
    with b.attempt("writers", t):
        t.fresh()
        t.backup(b.disk)
        with Served(t.repo, tcp=free_port()) as store:
            t.served = store.address
            cold()
            t.mount()
            quiet = waits(t.image(), lambda: time.sleep(1 if b.quick else 5))
            t.unmount()
            cold()
            t.mount()
            begin = time.monotonic()
            busy = waits(t.image(), lambda: companions(t, sources))
            took = time.monotonic() - begin
            for what, got in (("nobody writing", quiet), (f"{COMPANIONS} companions writing", busy)):
                goal = Goal(value=250) if got is busy else None
                b.table.add("writers", f"{READERS} readers, {what}: p99 of a wait", "ms", OURS, percentile(got, 99) * 1e3, goal)
                b.table.add("writers", f"{READERS} readers, {what}: longest wait", "ms", OURS, max(got) * 1e3)
                b.table.add("writers", f"{READERS} readers, {what}: median wait", "ms", OURS, statistics.median(got) * 1e3)
            b.table.add("writers", "companions' rate meanwhile, all together", "MB/s", OURS, size * COMPANIONS / 1e6 / took)
            b.table.add("writers", "peak RSS of the mount", "MB", OURS, t.usage()[1], Goal(value=400))
            t.unmount()
    t.discard()


def companions(t, sources):
    """Has a companion for each source write it through the mount, all at once."""
    procs = []
    try:
        for i, path in enumerate(sources):
            procs.append(subprocess.Popen([f"{BIN}/pmxbackup", "-r", f"unix:{t.mnt}/.control", "-q", f"host/c{i}", "disk.img:" + path],
                                          stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True))
        for p in procs:
            said = p.communicate(timeout=900)[1]
            if p.returncode != 0:
                raise Failed(f"pmxbackup through the mount: exit {p.returncode}: {tail(said)}")
    finally:
        for p in procs:
            if p.poll() is None:
                p.kill()
                p.wait()


def waits(path, do):
    """The seconds that each read of 128 KiB took, by readers at random offsets, for as long as do runs.

    They read past the page cache: what the kernel has is no wait, and would hide those that are.
    """
    stop = multiprocessing.Event()
    with contextlib.ExitStack() as stack:
        readers = []
        for i in range(READERS):
            ours, theirs = multiprocessing.Pipe(duplex=False)
            p = multiprocessing.Process(target=reader, args=(path, i, stop, theirs), daemon=True)
            p.start()
            theirs.close()
            stack.callback(p.join)
            stack.callback(stop.set)
            readers.append(ours)
        do()
        stop.set()
        out = []
        for r in readers:
            try:
                got = r.recv()
            except EOFError:
                raise Failed("a reader died") from None
            if isinstance(got, str):
                raise Failed(f"a reader failed: {got}")
            out += got
    return out


def reader(path, seed, stop, result):
    rng, out = random.Random(seed), []
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
        into = mmap.mmap(-1, READ)  # O_DIRECT wants pages
        size = os.fstat(fd).st_size
        while not stop.is_set():
            at = rng.randrange(0, size - READ) // 4096 * 4096
            begin = time.monotonic()
            os.preadv(fd, [into], at)
            out.append(time.monotonic() - begin)
        os.close(fd)
        result.send(out)
    except OSError as e:
        result.send(str(e))


def percentile(samples, p):
    """The smallest sample that at least p percent are not above."""
    s = sorted(samples)
    return s[max(0, -(-len(s) * p // 100) - 1)]


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]
