"""Measures pmxfs, its peers and the machine; started by scripts/bench, which says how.

Every figure is taken in this run. Tools take turns within a round, so that a slow minute of the machine hits all of
them; a row's figure is the median over the rounds. "Cold" means that the kernel's caches were dropped before.
"""
import argparse, json, os, random, re, shutil, signal, statistics, subprocess, sys, tempfile, time

BIN = os.path.abspath("bin")
DATA = os.environ.get("PMXFS_BENCH_DIR", "/var/tmp/pmxfs-bench")
MIB = 1 << 20


def sh(cmd, **kw):
    """Runs a command that must succeed and returns what it printed."""
    p = subprocess.run(cmd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, shell=isinstance(cmd, str), **kw)
    if p.returncode != 0:
        raise RuntimeError(f"{cmd}: exit {p.returncode}\n{p.stdout[-2000:]}{p.stderr[-2000:]}")
    return p.stdout


def cold():
    """Drops the kernel's page, dentry and inode caches."""
    sh("sync")
    with open("/proc/sys/vm/drop_caches", "w") as f:
        f.write("3\n")


def measure(cmd, env=None, stdin=None):
    """Runs a command; returns wall seconds, CPU seconds and peak RSS in MiB."""
    begin = time.monotonic()
    with tempfile.TemporaryFile() as out:
        p = subprocess.Popen(cmd, stdout=out, stderr=out, stdin=stdin or subprocess.DEVNULL, env={**os.environ, **(env or {})}, shell=isinstance(cmd, str))
        _, status, use = os.wait4(p.pid, 0)
        p.returncode = os.waitstatus_to_exitcode(status)
        wall = time.monotonic() - begin
        if p.returncode != 0:
            out.seek(0)
            raise RuntimeError(f"{cmd}: exit {p.returncode}\n{out.read()[-2000:].decode(errors='replace')}")
    return {"wall": wall, "cpu": use.ru_utime + use.ru_stime, "rss": use.ru_maxrss / 1024}


def tree_bytes(path):
    """The sum of the lengths of the files under path."""
    total = 0
    for top, _, names in os.walk(path):
        for n in names:
            total += os.lstat(os.path.join(top, n)).st_size
    return total


# ---- data ----

def make_data(size, used, name):
    """Makes an ext4 disk with real files and a changed copy, once; returns their paths."""
    disk, changed = f"{DATA}/{name}.img", f"{DATA}/{name}-changed.img"
    if os.path.exists(changed):
        return disk, changed
    os.makedirs(DATA, exist_ok=True)
    mnt = tempfile.mkdtemp(dir=DATA)
    sh(["truncate", "-s", str(size), disk + ".new"])
    sh(["mkfs.ext4", "-q", "-F", "-N", "300000", disk + ".new"])
    sh(["mount", "-o", "loop", disk + ".new", mnt])
    try:
        fill(mnt, used)
        sh("sync")
    finally:
        sh(["umount", mnt])
    sh(["cp", "--sparse=always", disk + ".new", changed + ".new"])
    sh(["mount", "-o", "loop", changed + ".new", mnt])
    try:
        change(mnt, int(size * 0.033))
        sh("sync")
    finally:
        sh(["umount", mnt])
    os.rmdir(mnt)
    os.rename(disk + ".new", disk)
    os.rename(changed + ".new", changed)
    return disk, changed


def fill(target, limit):
    """Copies files of this machine into target until limit bytes are used."""
    left = limit
    for round_ in range(8):
        for src in ("/usr/lib", "/usr/share", "/usr/include", "/usr/bin", "/usr/local", "/opt", "/var/lib", os.path.expanduser("~/go")):
            for top, dirs, names in os.walk(src):
                dirs.sort()
                into = f"{target}/copy{round_}{top}"
                os.makedirs(into, exist_ok=True)
                for n in sorted(names):
                    path = os.path.join(top, n)
                    try:
                        st = os.lstat(path)
                        if os.path.islink(path):
                            os.symlink(os.readlink(path), os.path.join(into, n))
                        elif os.path.isfile(path) and st.st_size < 64 * MIB:
                            shutil.copy2(path, os.path.join(into, n))
                            left -= (st.st_size + 4095) // 4096 * 4096
                    except OSError as e:
                        if e.errno == 28:
                            return
                if left <= 0:
                    return


def change(target, amount):
    """Overwrites, appends and adds files, amount bytes in all, in clusters as a day's work leaves them."""
    rng = random.Random(20261124)
    files = [os.path.join(top, n) for top, _, names in os.walk(target) for n in names]
    files = sorted(f for f in files if not os.path.islink(f) and os.path.getsize(f) > 8192)
    rng.shuffle(files)
    for path in files:
        if amount <= 0:
            return
        n = min(os.path.getsize(path), 1 << 20)
        with open(path, "r+b") as f:
            f.write(rng.randbytes(n // 2) + b"changed\n" * (n // 16))
        amount -= n


# ---- tools ----

class Tool:
    """One way to back a disk up and to mount the backup. mount returns the path of the disk in the mount."""
    env = {}

    def __init__(self, work):
        self.repo, self.mnt = f"{work}/{self.name}-store", f"{work}/{self.name}-mnt"
        os.makedirs(self.mnt, exist_ok=True)
        self.proc = None

    def unmount(self):
        for _ in range(50):
            if subprocess.run(["umount", self.mnt], capture_output=True).returncode == 0 or not os.path.ismount(self.mnt):
                break
            time.sleep(0.1)
        if self.proc:
            try:
                self.proc.wait(20)
            except subprocess.TimeoutExpired:
                self.proc.send_signal(signal.SIGKILL)
                self.proc.wait()
            self.proc = None

    def spawn(self, cmd):
        self.proc = subprocess.Popen(cmd, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ, **self.env})

    def daemon(self):
        """CPU seconds and peak RSS (MiB) of the mount so far."""
        with open(f"/proc/{self.proc.pid}/stat") as f:
            s = f.read().rsplit(")", 1)[1].split()
        with open(f"/proc/{self.proc.pid}/status") as f:
            hwm = int(re.search(r"VmHWM:\s+(\d+)", f.read()).group(1)) / 1024
        return {"cpu": (int(s[11]) + int(s[12])) / os.sysconf("SC_CLK_TCK"), "rss": hwm}

    def store_bytes(self):
        return tree_bytes(self.repo)


class Pmxfs(Tool):
    name = "pmxfs"
    flags = []

    def init(self):
        sh([BIN + "/pmxstore", "init", self.repo])
        self.n = 0

    def backup(self, disk):
        self.n += 1
        return measure([BIN + "/pmxbackup", "-r", self.repo, "vm/100", "--time", f"2026-01-01T00:00:{self.n:02d}Z", "disk.img:" + disk])

    def mount(self):
        self.spawn([BIN + "/pmxmount", self.repo, self.mnt, "--foreground", *self.flags])

    def image(self):
        return f"{self.mnt}/vm/100/2026-01-01T00:00:01Z/disk.img"

    def store_bytes(self):
        return tree_bytes(self.repo + "/.chunks")

    def stats(self):
        with open(self.mnt + "/.stats") as f:
            return json.load(f)


class Borg(Tool):
    name = "borg"
    env = {"BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK": "yes", "BORG_RELOCATED_REPO_ACCESS_IS_OK": "yes"}

    def init(self):
        sh(["borg", "init", "-e", "none", self.repo], env={**os.environ, **self.env})
        self.n = 0

    def backup(self, disk):
        self.n += 1
        return measure(["borg", "create", "-C", "zstd", f"{self.repo}::a{self.n}", disk], self.env)

    def mount(self):
        self.spawn(["borg", "mount", "--foreground", self.repo + "::a1", self.mnt])

    def image(self):
        return find_image(self.mnt)


class Restic(Tool):
    name = "restic"
    env = {"RESTIC_PASSWORD": "bench"}

    def init(self):
        sh(["restic", "-r", self.repo, "init"], env={**os.environ, **self.env})

    def backup(self, disk):
        return measure(["restic", "-q", "-r", self.repo, "backup", disk], self.env)

    def mount(self):
        self.spawn(["restic", "-r", self.repo, "mount", self.mnt])

    def image(self):
        snaps = sorted(os.listdir(self.mnt + "/snapshots"))
        return find_image(f"{self.mnt}/snapshots/{snaps[0]}")


class Desync(Tool):
    name = "desync"
    chunks = "1024:4096:16384"

    def init(self):
        os.makedirs(self.repo)
        self.n = 0

    def backup(self, disk):
        self.n += 1
        return measure(["desync", "--digest", "sha256", "make", "-s", self.repo, "-m", self.chunks, f"{self.repo}/a{self.n}.caibx", disk])

    def mount(self):
        self.spawn(["desync", "--digest", "sha256", "mount-index", "-s", self.repo, self.repo + "/a1.caibx", self.mnt])

    def image(self):
        return self.mnt + "/a1.caibx"


class DesyncSmall(Desync):
    name = "desync-64k"
    chunks = "16:64:256"


class Casync(Tool):
    name = "casync"

    def init(self):
        os.makedirs(self.repo + "/src")
        self.n = 0

    def backup(self, disk):
        self.n += 1
        link = f"{self.repo}/src/disk.img"
        if os.path.exists(link):
            os.unlink(link)
        os.link(disk, link)
        return measure(["casync", "make", "--store=" + self.repo + "/castr", f"{self.repo}/a{self.n}.caidx", self.repo + "/src"])

    def mount(self):
        self.spawn(["casync", "mount", "--store=" + self.repo + "/castr", self.repo + "/a1.caidx", self.mnt])

    def image(self):
        return self.mnt + "/disk.img"

    def store_bytes(self):
        return tree_bytes(self.repo + "/castr")


def find_image(top):
    for path, _, names in os.walk(top):
        for n in names:
            if n.endswith(".img"):
                return os.path.join(path, n)
    raise FileNotFoundError(f"no disk image under {top}")


def installed_peers():
    out = [Borg, Restic, Desync, DesyncSmall, Casync]
    return [t for t in out if shutil.which(t.name.split("-")[0])]


# ---- measurements ----

class Table:
    """Rows of (area, what, unit) with a list of samples per column."""

    def __init__(self):
        self.rows = {}

    def add(self, area, what, unit, tool, value):
        self.rows.setdefault((area, what, unit), {}).setdefault(tool, []).append(value)

    def medians(self):
        return {k: {t: statistics.median(v) for t, v in row.items()} for k, row in self.rows.items()}

    def text(self):
        lines = [("", "", "pmxfs", "best peer", "x best peer", "limit", "x limit")]
        for (area, what, unit), row in self.medians().items():
            higher = unit in ("MB/s", "IOPS")
            limit = row.get("limit")
            ours = row.get("pmxfs")
            peers = {t: v for t, v in row.items() if t not in ("pmxfs", "limit") and not t.startswith("pmxfs ")}
            best = (max if higher else min)(peers.items(), key=lambda kv: kv[1]) if peers else None
            lines.append((
                area, f"{what}, {unit}", fmt(ours),
                f"{best[0]} {fmt(best[1])}" if best else "-",
                f"{ours / best[1]:.2f}" if best and ours is not None and best[1] else "-",
                fmt(limit), f"{ours / limit:.2f}" if limit and ours is not None else "-"))
            for t, v in sorted(row.items()):
                if t.startswith("pmxfs "):
                    lines.append((area, f"  {t[6:]}", fmt(v), "", "", "", ""))
        widths = [max(len(line[i]) for line in lines) for i in range(7)]
        return "\n".join("  ".join(c.ljust(w) for c, w in zip(line, widths)).rstrip() for line in lines)

    def data(self):
        return [{"area": a, "what": w, "unit": u, "medians": m, "samples": self.rows[(a, w, u)]} for (a, w, u), m in self.medians().items()]


def fmt(v):
    if v is None:
        return "-"
    return f"{v:.3f}" if v < 1 else f"{v:.1f}" if v < 100 else f"{v:,.0f}"


def limits(table, disk):
    """What this machine can do at best, for the ratios."""
    size = os.path.getsize(disk)
    cold()
    table.add("mount", "sequential cold", "MB/s", "limit", size / 1e6 / measure(["dd", "if=" + disk, "of=/dev/null", "bs=1M"])["wall"])
    table.add("mount", "sequential warm", "MB/s", "limit", size / 1e6 / measure(["dd", "if=" + disk, "of=/dev/null", "bs=1M"])["wall"])
    out = sh(["go", "test", "-run", "^$", "-bench", "Limit", "-benchtime", "300ms", "./internal/e2e"])
    for name, rate in re.findall(r"BenchmarkLimit(\w+?)(?:-\d+)?\s+\d+\s+\S+ ns/op\s+(\S+) MB/s", out):
        table.add("limits", {"Decode": "zstd decode, one core", "SHA256": "SHA-256, one core", "Copy": "memcpy, one core"}[name], "MB/s", "limit", float(rate))


def bench_backup(table, tools, disk, changed):
    for t in tools:
        shutil.rmtree(t.repo, ignore_errors=True)
        t.init()
    for t in tools:
        cold()
        m = t.backup(disk)
        table.add("backup", "first, cold source", "s", t.name, m["wall"])
        table.add("backup", "first, CPU", "CPU s", t.name, m["cpu"])
        table.add("backup", "first, peak RSS", "MiB", t.name, m["rss"])
        table.add("backup", "store after it", "MB", t.name, t.store_bytes() / 1e6)
    for t in tools:
        cold()
        m = t.backup(changed)
        table.add("backup", "3.3% changed", "s", t.name, m["wall"])
        table.add("backup", "3.3% changed, peak RSS", "MiB", t.name, m["rss"])
        table.add("backup", "growth for it", "MB", t.name, t.store_bytes() / 1e6 - table.rows[("backup", "store after it", "MB")][t.name][-1])


def mounted(table, t, record=True):
    """Mounts, and measures the time to the first listing and to the first byte; returns the disk's path in the mount."""
    cold()
    begin = time.monotonic()
    t.mount()
    while not os.path.ismount(t.mnt):
        if t.proc.poll() is not None:
            raise RuntimeError(f"{t.name}: mount ended with {t.proc.returncode}")
        time.sleep(0.001)
    os.listdir(t.mnt)
    listed = time.monotonic() - begin
    image = t.image()
    with open(image, "rb") as f:
        f.read(1)
    first = time.monotonic() - begin
    if record:
        table.add("mount", "to first ls", "s", t.name, listed)
        table.add("mount", "to first byte", "s", t.name, first)
    return image


def bench_sequential(table, t, size):
    image = mounted(table, t)
    try:
        for how in ("cold", "warm"):
            before, seen = t.daemon(), t.stats() if isinstance(t, Pmxfs) else None
            m = measure(["dd", "if=" + image, "of=/dev/null", "bs=1M"])
            after = t.daemon()
            table.add("mount", "sequential " + how, "MB/s", t.name, size / 1e6 / m["wall"])
            if how == "cold":
                table.add("mount", "daemon CPU per GiB read cold", "CPU s", t.name, (after["cpu"] - before["cpu"]) / (size / (1 << 30)))
            elif seen:
                table.add("mount", "READs served in the warm read", "requests", t.name, t.stats()["mount"]["reads"] - seen["mount"]["reads"])
        table.add("mount", "peak RSS after sequential", "MiB", t.name, t.daemon()["rss"])
    finally:
        t.unmount()


def bench_random(table, t, jobs, seconds):
    image = mounted(table, t, record=False)
    try:
        out = json.loads(sh(["fio", "--name=r", "--filename=" + image.replace(":", "\\:"), "--readonly", "--rw=randread", "--bs=4k", "--ioengine=psync",
                             f"--numjobs={jobs}", f"--runtime={seconds}", "--time_based", "--group_reporting", "--output-format=json", "--norandommap",
                             "--randrepeat=0", "--invalidate=0", "--thread"]).split("\n", 0)[0])
        read = out["jobs"][0]["read"]
        table.add("mount", f"random 4 KiB, {jobs} job(s)", "IOPS", t.name, read["iops"])
        table.add("mount", f"random 4 KiB, {jobs} job(s), p99", "ms", t.name, read["clat_ns"].get("percentile", {}).get("99.000000", 0) / 1e6)
        table.add("mount", f"peak RSS after random, {jobs} job(s)", "MiB", t.name, t.daemon()["rss"])
    finally:
        t.unmount()


def bench_loop(table, t, limit_s):
    """find and tar in the disk, loop-mounted out of the backup."""
    image = mounted(table, t, record=False)
    inside = tempfile.mkdtemp(dir=DATA)
    try:
        sh(["mount", "-o", "ro,loop,noload", image, inside])
        try:
            table.add("loop mount", "find", "s", t.name, measure(["find", inside, "-xdev", "-printf", "%s\n"])["wall"])
            m = subprocess.run(["timeout", str(limit_s), "sh", "-c", f"tar -cf - -C {inside} . | cat >/dev/null"])
            if m.returncode == 0:
                sh("echo 3 > /proc/sys/vm/drop_caches")
                table.add("loop mount", "tar, after find", "s", t.name, measure(f"tar -cf - -C {inside} . | cat >/dev/null")["wall"])
            else:
                table.add("loop mount", "tar, after find", "s", t.name, limit_s)
            table.add("loop mount", "peak RSS", "MiB", t.name, t.daemon()["rss"])
        finally:
            sh(["umount", inside])
    finally:
        os.rmdir(inside)
        t.unmount()


def main():
    ap = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    ap.add_argument("--quick", action="store_true")
    ap.add_argument("--json")
    ap.add_argument("--only", default="limits,backup,mount")
    ap.add_argument("--rounds", type=int, default=0)
    ap.add_argument("--peers", help="comma-separated names; default all that are installed")
    args = ap.parse_args()
    if os.getuid() != 0:
        sys.exit("scripts/bench: run it as root: it mounts and drops caches")
    areas = args.only.split(",")
    rounds = args.rounds or (1 if args.quick else 3)
    disk, changed = make_data(512 * MIB, 300 * MIB, "quick") if args.quick else make_data(4096 * MIB, 2340 * MIB, "disk")
    size = os.path.getsize(disk)
    work = tempfile.mkdtemp(prefix="run", dir=DATA)
    peers = [] if args.quick else installed_peers()
    if args.peers is not None:
        peers = [p for p in installed_peers() if p.name in args.peers.split(",")]
    tools = [cls(work) for cls in [Pmxfs] + peers]
    table = Table()
    try:
        for _ in range(rounds):
            if "limits" in areas:
                limits(table, disk)
            bench_backup(table, tools, disk, changed)
            if "mount" in areas:
                for t in tools:
                    bench_sequential(table, t, size)
                for jobs in (1, 4):
                    for t in tools:
                        bench_random(table, t, jobs, 2 if args.quick else 8)
                for t in tools:
                    bench_loop(table, t, 30 if args.quick else 120)
    finally:
        for t in tools:
            if os.path.ismount(t.mnt):
                t.unmount()
        shutil.rmtree(work)
    print(table.text())
    if args.json:
        with open(args.json, "w") as f:
            json.dump({"date": time.strftime("%Y-%m-%d"), "cores": os.cpu_count(), "kernel": os.uname().release, "rounds": rounds, "disk_bytes": size, "rows": table.data()}, f, indent=1)


if __name__ == "__main__":
    main()
