"""The tools: how each backs a disk or a tree up, mounts the backup and restores it, as its users would."""
import json
import os
import shutil
import signal
import subprocess
import tempfile

from .run import Failed, cpu, measure, memory, sh, tree_bytes, wait_for

BIN = os.path.abspath("bin")


class Tool:
    """One way to back up, mount and restore. A tool has one repository at a time; backups are numbered from 1."""
    env = {}
    disks = trees = True    # what it can back up and mount
    disk_name = "disk.img"

    def __init__(self, work, name=None):
        self.work, self.proc, self.n = work, None, 0
        self.repo, self.mnt = f"{work}/{name or self.name}-store", f"{work}/{name or self.name}-mnt"
        os.makedirs(self.mnt, exist_ok=True)

    def fresh(self):
        """Makes a new and empty repository."""
        self.discard()
        self.n = 0
        self.init()

    def discard(self):
        """Removes the repository."""
        sh(["rm", "-rf", self.repo])

    def store_bytes(self):
        return tree_bytes(self.repo)

    # ---- mounts ----

    def spawn(self, cmd):
        self.log = tempfile.TemporaryFile()
        self.proc = subprocess.Popen(cmd, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log, env={**os.environ, **self.env})

    def mount(self, n=1, tree=False):
        """Mounts backup n, and waits until the mount is there."""
        self.start_mount(n, tree)
        try:
            wait_for(f"{self.name}: mount", 60, lambda: mounted(self.mnt), self.proc)
        except Failed as e:
            self.log.seek(0)
            said = self.log.read()[-300:].decode(errors="replace")
            self.unmount()
            raise Failed(f"{e} {said}") from None

    def usage(self):
        """CPU seconds and peak RSS in MB of the mount so far, with its children."""
        return cpu(self.proc.pid), memory(self.proc.pid) / 1e6

    def unmount(self):
        """Unmounts, and waits until the process has ended. May be called without a mount."""
        if self.proc is None:
            return
        try:
            wait_for(f"{self.name}: umount", 20, lambda: not mounted(self.mnt) or subprocess.run(["umount", self.mnt], capture_output=True).returncode == 0)
        except (Failed, OSError):
            subprocess.run(["umount", "-l", self.mnt], capture_output=True)
        for sig in (None, signal.SIGINT, signal.SIGKILL):
            if sig is not None:
                self.proc.send_signal(sig)
            try:
                self.proc.wait(20)
                break
            except subprocess.TimeoutExpired:
                continue
        self.proc = None
        self.log.close()


class Pmxfs(Tool):
    name = "pmxfs"

    def __init__(self, work, name=None, binary=BIN, flags=()):
        super().__init__(work, name)
        self.binary, self.flags, self.served = binary, list(flags), None
        self.blank = f"{work}/blank-store"
        self.env = {"XDG_STATE_HOME": f"{work}/state"}

    def fresh(self):
        """Makes an empty store. Its 65,536 folders take seconds to make and to remove, so a store that was discarded is used again."""
        self.discard()
        if os.path.exists(self.blank):
            os.rename(self.blank, self.repo)
        else:
            sh([f"{BIN}/pmxstore", "init", self.repo])
        self.n = 0

    def discard(self):
        """Empties the store, if there is one, and keeps it for the next who wants a fresh one."""
        if not os.path.exists(self.repo):
            return
        if os.path.exists(self.blank):
            sh(["rm", "-rf", self.repo])
            return
        # The bare store is .chunks and nothing else, and that has folders only.
        sh(["find", self.repo, "-mindepth", "1", "-maxdepth", "1", "!", "-name", ".chunks", "-exec", "rm", "-rf", "{}", "+"])
        sh(["find", self.repo + "/.chunks", "-type", "f", "-delete"])
        os.rename(self.repo, self.blank)

    def time(self, n):
        return f"2026-01-01T{n // 3600:02d}:{n // 60 % 60:02d}:{n % 60:02d}Z"

    def write(self, *files, group="vm/100", flags=(), env=None):
        """Backs NAME:SOURCE arguments up."""
        self.n += 1
        return measure([f"{self.binary}/pmxbackup", "-r", self.repo, "--time", self.time(self.n), *flags, group, *files], {**self.env, **(env or {})})

    def backup(self, disk):
        return self.write("disk.img:" + disk)

    def backup_tree(self, tree):
        return self.write("root.pxar:" + tree, group="host/tree")

    def start_mount(self, n, tree):
        self.spawn([f"{BIN}/pmxmount", self.served or self.repo, self.mnt, "--foreground", *self.flags])

    def image(self, n=1):
        return f"{self.mnt}/vm/100/{self.time(n)}/disk.img"

    def top(self, n=1):
        return f"{self.mnt}/host/tree/{self.time(n)}/root"

    def restore(self, disk, target, n=1):
        return measure([f"{BIN}/pmxbackup", "restore", self.repo, f"vm/100/{self.time(n)}/disk.img", target])

    def restore_tree(self, tree, target, n=1):
        return measure([f"{BIN}/pmxbackup", "restore", self.repo, f"host/tree/{self.time(n)}/root.pxar", target])

    def store_bytes(self):
        return tree_bytes(self.repo + "/.chunks")

    def stats(self):
        with open(self.mnt + "/.stats") as f:
            return json.load(f)


class Borg(Tool):
    name = "borg"
    env = {"BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK": "yes", "BORG_RELOCATED_REPO_ACCESS_IS_OK": "yes"}

    def init(self):
        sh(["borg", "init", "-e", "none", self.repo], self.env)

    def backup(self, source):
        self.n += 1
        return measure(["borg", "create", "-C", "zstd", f"{self.repo}::a{self.n}", source], self.env)

    backup_tree = backup

    def start_mount(self, n, tree):
        self.spawn(["borg", "mount", "--foreground", f"{self.repo}::a{n}", self.mnt])

    def image(self, n=1):
        return find_image(self.mnt)

    def top(self, n=1):
        return self.mnt

    def extract(self, target, n):
        os.makedirs(target, exist_ok=True)
        return measure(f"cd '{target}' && exec borg extract --sparse '{self.repo}::a{n}'", self.env)

    def restore(self, disk, target, n=1):
        return self.extract(target + ".d", n)

    def restore_tree(self, tree, target, n=1):
        return self.extract(target, n)


class Restic(Tool):
    name = "restic"

    def __init__(self, work, name=None):
        super().__init__(work, name)
        # Its cache as on a machine that runs it daily, but not in anybody's home.
        self.env = {"RESTIC_PASSWORD": "bench", "RESTIC_CACHE_DIR": f"{self.repo}-cache"}

    def init(self):
        sh(["rm", "-rf", self.repo + "-cache"])
        # Version 2 is the one that compresses.
        sh(["restic", "-r", self.repo, "init", "--repository-version", "2"], self.env)

    def backup(self, source):
        self.n += 1
        return measure(["restic", "-q", "-r", self.repo, "backup", "--tag", f"a{self.n}", source], self.env)

    backup_tree = backup

    def start_mount(self, n, tree):
        self.spawn(["restic", "-r", self.repo, "mount", self.mnt])

    def top(self, n=1):
        return f"{self.mnt}/tags/a{n}/{os.listdir(f'{self.mnt}/tags/a{n}')[0]}"

    def image(self, n=1):
        return find_image(self.top(n))

    def restore(self, disk, target, n=1):
        return measure(["restic", "-q", "-r", self.repo, "restore", "latest", "--tag", f"a{n}", "--target", target + ".d"], self.env)

    def restore_tree(self, tree, target, n=1):
        return measure(["restic", "-q", "-r", self.repo, "restore", "latest", "--tag", f"a{n}", "--target", target], self.env)


class Kopia(Tool):
    name = "kopia"

    def __init__(self, work, name=None):
        super().__init__(work, name)
        self.env = {"KOPIA_PASSWORD": "bench", "KOPIA_CONFIG_PATH": f"{self.repo}-config/repository.config", "KOPIA_CACHE_DIRECTORY": f"{self.repo}-cache",
                    "KOPIA_LOG_DIR": f"{self.repo}-logs", "KOPIA_CHECK_FOR_UPDATES": "false"}
        self.roots = []

    def init(self):
        sh(["rm", "-rf", f"{self.repo}-config", f"{self.repo}-cache", f"{self.repo}-logs"])
        self.roots = []
        sh(["kopia", "repository", "create", "filesystem", "--path", self.repo], self.env)
        sh(["kopia", "policy", "set", "--global", "--compression", "zstd"], self.env)

    def backup(self, source):
        # It takes directories only: the disk gets one of its own.
        if os.path.isfile(source):
            source = linked(source, f"{self.work}/{self.name}-source")
        self.n += 1
        m = measure(["kopia", "snapshot", "create", "--no-progress", "--json", source], self.env)
        self.roots.append(json.loads(m["out"][m["out"].index("{"):m["out"].rindex("}") + 1])["rootEntry"]["obj"])
        return m

    backup_tree = backup

    def start_mount(self, n, tree):
        self.spawn(["kopia", "mount", self.roots[n - 1], self.mnt])

    def top(self, n=1):
        return self.mnt

    def image(self, n=1):
        return f"{self.mnt}/disk.img"

    def restore(self, disk, target, n=1):
        return measure(["kopia", "restore", "--no-progress", self.roots[n - 1], target + ".d"], self.env)

    def restore_tree(self, tree, target, n=1):
        return measure(["kopia", "restore", "--no-progress", self.roots[n - 1], target], self.env)


class Desync(Tool):
    name = "desync"
    trees = False           # it mounts single files only
    chunks = "1024:4096:16384"

    def init(self):
        os.makedirs(self.repo)

    def backup(self, disk):
        self.n += 1
        return measure(["desync", "--digest", "sha256", "make", "-s", self.repo, "-m", self.chunks, f"{self.repo}/a{self.n}.caibx", disk])

    def start_mount(self, n, tree):
        self.spawn(["desync", "--digest", "sha256", "mount-index", "-s", self.repo, f"{self.repo}/a{n}.caibx", self.mnt])

    def image(self, n=1):
        return f"{self.mnt}/{os.listdir(self.mnt)[0]}"

    def restore(self, disk, target, n=1):
        return measure(["desync", "--digest", "sha256", "extract", "-s", self.repo, f"{self.repo}/a{n}.caibx", target])


class DesyncSmall(Desync):
    """With its default sizes of chunks."""
    name = "desync-64k"
    chunks = "16:64:256"


class Casync(Tool):
    name = "casync"

    def init(self):
        os.makedirs(self.repo)

    def backup(self, source):
        # It mounts archives of directories only, short of an nbd device: the disk gets a directory of its own.
        if os.path.isfile(source):
            source = linked(source, f"{self.work}/{self.name}-source")
        self.n += 1
        return measure(["casync", "make", f"--store={self.repo}/castr", f"{self.repo}/a{self.n}.caidx", source])

    backup_tree = backup

    def start_mount(self, n, tree):
        self.spawn(["casync", "mount", f"--store={self.repo}/castr", f"{self.repo}/a{n}.caidx", self.mnt])

    def top(self, n=1):
        return self.mnt

    def image(self, n=1):
        return f"{self.mnt}/disk.img"

    def restore(self, disk, target, n=1):
        return self.restore_tree(disk, target + ".d", n)

    def restore_tree(self, tree, target, n=1):
        return measure(["casync", "extract", f"--store={self.repo}/castr", f"{self.repo}/a{n}.caidx", target])


def mounted(path):
    """Whether something is mounted there, be its daemon dead or alive: a look into the folder itself would fail or hang."""
    with open("/proc/self/mounts") as f:
        return any(line.split()[1] == path for line in f)


def linked(disk, folder):
    """A folder with nothing but a hard link to disk in it, named disk.img."""
    os.makedirs(folder, exist_ok=True)
    link = f"{folder}/disk.img"
    if os.path.lexists(link):
        os.unlink(link)
    os.link(disk, link)
    return folder


def find_image(top):
    """The disk image somewhere below top."""
    for path, _, names in os.walk(top):
        for n in names:
            if n.endswith(".img"):
                return os.path.join(path, n)
    raise Failed(f"no disk image under {top}")


PEERS = [Borg, Restic, Kopia, Desync, DesyncSmall, Casync]


def installed_peers():
    return [t for t in PEERS if shutil.which(t.name.split("-")[0])]


def versions():
    """What each installed peer says it is; those that scripts/bench built have it in their build ids."""
    out = {}
    for name, args in (("borg", ["--version"]), ("restic", ["version"]), ("casync", ["--version"])):
        if shutil.which(name):
            out[name] = sh([name, *args]).splitlines()[0]
    for name in ("desync", "kopia"):
        if shutil.which(name):
            built = sh(["go", "tool", "buildid", shutil.which(name)]).strip()
            out[name] = built.split("@")[1] if "@" in built else "of unknown version"
    return out
