"""Runs commands and measures them: wall time, CPU seconds and memory, of a command and of all that it started."""
import os
import re
import subprocess
import tempfile
import threading
import time

TICK = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")
MIB, GIB = 1 << 20, 1 << 30


class Failed(Exception):
    """A command failed, or did not do what it was run for."""


def sh(cmd, env=None, **kw):
    """Runs a command that must succeed and returns what it printed."""
    p = subprocess.run(cmd, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace",
                       shell=isinstance(cmd, str), env={**os.environ, **(env or {})}, **kw)
    if p.returncode != 0:
        raise Failed(f"{words(cmd)}: exit {p.returncode}: {tail(p.stderr + p.stdout)}")
    return p.stdout


def words(cmd):
    """A command for a message: without the folders of this machine."""
    return cmd if isinstance(cmd, str) else " ".join(os.path.basename(c.rstrip("/")) if c.startswith("/") else c for c in cmd)


def tail(text):
    """The end of what a command said, on one line."""
    return " / ".join(text.strip().splitlines()[-3:])[-400:]


def cold():
    """Drops the kernel's page, dentry and inode caches, and lets the disk come to rest.

    One that is mounted with discard trims for a while what was removed before, and that is not what is measured next.
    """
    os.sync()
    with open("/proc/sys/vm/drop_caches", "w") as f:
        f.write("3\n")
    time.sleep(1)


def measure(cmd, env=None, limit=None, ok=(0,)):
    """Runs a command and returns wall and CPU seconds, and the peak RSS in MB of it and its children.

    After limit seconds it is stopped, and "cut" is True. Exit codes that are not in ok are an error.
    """
    begin = time.monotonic()
    with tempfile.TemporaryFile() as out:
        p = subprocess.Popen(cmd, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, env={**os.environ, **(env or {})},
                             shell=isinstance(cmd, str), start_new_session=True)
        cut = threading.Event()

        def stop():
            cut.set()
            os.killpg(p.pid, 9)

        timer = threading.Timer(limit or 0, stop)
        if limit:
            timer.start()
        try:
            with Sampler(p.pid) as sampler:
                _, status, use = os.wait4(p.pid, 0)
                wall = time.monotonic() - begin
        except BaseException:
            os.killpg(p.pid, 9)
            p.wait()
            raise
        finally:
            timer.cancel()
        p.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        said = out.read().decode(errors="replace")
        if not cut.is_set() and p.returncode not in ok:
            raise Failed(f"{words(cmd)}: exit {p.returncode}: {tail(said)}")
    return {"wall": wall, "cpu": use.ru_utime + use.ru_stime, "rss": sampler.peak / 1e6, "cut": cut.is_set(), "out": said}


class Sampler:
    """Watches the memory of a process and its descendants, from a thread.

    wait4's maximum will not do: it begins with the RSS of this interpreter, which is more than some peers need in all.
    """

    def __init__(self, pid, every=0.05):
        self.pid, self.every, self.peak = pid, every, 0
        self.done = threading.Event()
        self.thread = threading.Thread(target=self.watch, daemon=True)

    def watch(self):
        while not self.done.wait(self.every):
            self.peak = max(self.peak, memory(self.pid))

    def __enter__(self):
        self.peak = memory(self.pid)
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.done.set()
        self.thread.join()


def children(pid):
    """The processes that pid started and that still run, and theirs."""
    out = []
    try:
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/children") as f:
                for child in map(int, f.read().split()):
                    out += [child] + children(child)
    except OSError:
        pass  # it has ended
    return out


def memory(pid):
    """Bytes of memory: the peak RSS of pid alone, or the RSS of it and all its descendants now, whichever is more."""
    alone, together = 0, 0
    for p in [pid] + children(pid):
        try:
            with open(f"/proc/{p}/status") as f:
                hwm, rss = parse_status(f.read())
            with open(f"/proc/{p}/cmdline", "rb") as f:
                if not f.read(1):
                    continue  # a zombie
        except OSError:
            continue
        alone, together = max(alone, hwm), together + rss
    return max(alone, together)


def parse_status(text):
    """VmHWM and VmRSS of a /proc/PID/status, in bytes; a process without memory has none."""
    def value(name):
        m = re.search(rf"^{name}:\s+(\d+) kB", text, re.M)
        return int(m.group(1)) * 1024 if m else 0
    return value("VmHWM"), value("VmRSS")


def cpu(pid):
    """CPU seconds of a running process, of its running descendants, and of those that it waited for."""
    total = 0
    for p in [pid] + children(pid):
        try:
            with open(f"/proc/{p}/stat") as f:
                total += parse_stat(f.read())
        except OSError:
            pass
    return total / TICK


def parse_stat(text):
    """utime + stime + cutime + cstime of a /proc/PID/stat, in ticks. The name may hold blanks and parentheses."""
    fields = text.rsplit(")", 1)[1].split()
    return sum(int(v) for v in fields[11:15])


def tree_bytes(path):
    """The sum of the lengths of the files under path."""
    total = 0
    for top, _, names in os.walk(path):
        for n in names:
            total += os.lstat(os.path.join(top, n)).st_size
    return total


def wait_for(what, limit, true, proc=None):
    """Waits until true() holds, for limit seconds, and no longer than proc lives."""
    end = time.monotonic() + limit
    while not true():
        if proc and proc.poll() is not None:
            raise Failed(f"{what}: the process ended with {proc.returncode}")
        if time.monotonic() > end:
            raise Failed(f"{what}: not within {limit} s")
        time.sleep(0.001)
