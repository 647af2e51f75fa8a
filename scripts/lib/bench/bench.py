"""What a run has: its data, its tools, its table, and whether it is the quick form."""
import contextlib
import os
import subprocess
import tempfile
import time

from . import data
from .run import MIB, Failed, cold, sh, wait_for
from .tools import BIN


class Bench:
    """Everything that the areas of one run share."""

    def __init__(self, table, work, ours, peers, quick):
        self.table, self.work, self.quick = table, work, quick
        self.ours, self.peers = ours, peers
        self.tools = [ours] + peers
        self.peaks = {}         # RSS of our mount in MB, the most of this round, by its flags
        self.prepared = set()   # tools whose repository holds the disk
        if quick:
            self.disk, self.changed = data.disk("quick", 512 * MIB, 10_000, 250 * MIB)
        else:
            self.disk, self.changed = data.disk("disk", 4096 * MIB, 98_000, 2000 * MIB)
        self.size = os.path.getsize(self.disk)

    @contextlib.contextmanager
    def attempt(self, area, t):
        """What fails inside costs its row, not the run. A mount that is left is unmounted."""
        try:
            yield
        except (Failed, OSError, subprocess.SubprocessError, ValueError, LookupError) as e:
            self.table.fail(area, t.name, e)
            say(f"  failed: {t.name}: {e}")
        finally:
            t.unmount()

    def with_disk(self, tools):
        """Those of tools whose repository holds the disk; backs it up, unmeasured, where no area has."""
        for t in tools:
            if t not in self.prepared:
                with self.attempt("backup", t):
                    t.fresh()
                    t.backup(self.disk)
                    self.prepared.add(t)
        return [t for t in tools if t in self.prepared]

    def scratch(self, name):
        """A path in this run's folder where nothing is."""
        path = f"{self.work}/{name}"
        sh(["rm", "-rf", path, path + ".d"])
        return path


def say(text):
    print(text, flush=True)


def opened(t, n=1, tree=False, drop=True):
    """Mounts, cold if drop; returns the seconds to the first listing and to the first byte of the disk (None for a tree)."""
    if drop:
        cold()
    begin = time.monotonic()
    t.mount(n, tree)
    os.listdir(t.mnt)
    listed = time.monotonic() - begin
    if tree:
        return listed, None
    first_byte(t.image(n))
    return listed, time.monotonic() - begin


def first_byte(path):
    with open(path, "rb", buffering=0) as f:
        if len(f.read(1)) != 1:
            raise Failed(f"{path} is empty")


class Served:
    """A store that is served on a Unix socket, or on a TCP port of the loopback."""

    def __init__(self, repo, tcp=None):
        self.repo = repo
        self.address = f"tcp://127.0.0.1:{tcp}" if tcp else f"unix:{repo}.sock"
        self.listen = f"tcp:127.0.0.1:{tcp}" if tcp else self.address

    def __enter__(self):
        self.log = tempfile.TemporaryFile()
        self.proc = subprocess.Popen([f"{BIN}/pmxstore", "serve", self.repo, "--listen", self.listen], stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log)
        try:
            if self.address.startswith("unix:"):
                wait_for("pmxstore serve", 10, lambda: os.path.exists(self.address[5:]), self.proc)
            else:
                wait_for("pmxstore serve", 10, lambda: listening(self.proc.pid), self.proc)
        except Failed:
            self.kill()
            raise
        return self

    def kill(self):
        """Ends it at once; the store is then unreachable."""
        if self.proc:
            self.proc.kill()
            self.proc.wait()
            self.proc = None

    def __exit__(self, *_):
        self.kill()
        self.log.close()
        if self.address.startswith("unix:") and os.path.exists(self.address[5:]):
            os.unlink(self.address[5:])


def listening(pid):
    """Whether the process has a TCP socket that listens."""
    inodes = set()
    for fd in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(OSError):
            inodes.add(os.readlink(f"/proc/{pid}/fd/{fd}"))
    with open(f"/proc/{pid}/net/tcp") as f:
        rows = [line.split() for line in f.readlines()[1:]]
    return any(r[3] == "0A" and f"socket:[{r[9]}]" in inodes for r in rows)
