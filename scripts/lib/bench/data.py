"""The data: disks and trees made of this machine's own files, once; kept until their folder is removed."""
import errno
import json
import os
import random
import shutil
import stat
import tempfile

from .run import MIB, sh

DATA = os.environ.get("PMXFS_BENCH_DIR", "/var/tmp/pmxfs-bench")
SOURCES = ("/usr", "/opt", os.path.expanduser("~"), "/var/lib")
SMALL = 8192


def once(path, make):
    """Has make write path under another name, unless it is there, and returns path."""
    if not os.path.lexists(path):
        os.makedirs(DATA, exist_ok=True)
        new = path + ".new"
        if os.path.lexists(new):
            sh(["rm", "-rf", new])
        make(new)
        os.rename(new, path)
    return path


# ---- which files ----

def machine_files():
    """The regular files of this machine, as (path, bytes), in the order of their folders."""
    device = os.stat("/usr").st_dev
    for source in SOURCES:
        for top, dirs, names in os.walk(source):
            dirs[:] = sorted(d for d in dirs if os.path.join(top, d) != DATA)
            for n in sorted(names):
                path = os.path.join(top, n)
                try:
                    st = os.lstat(path)
                except OSError:
                    continue
                if st.st_dev == device and stat.S_ISREG(st.st_mode) and st.st_size < 64 * MIB:
                    yield path, st.st_size


def choose(files, count, limit):
    """Takes about count files of about limit bytes in all, in the given order: as many as are wanted, if small, and
    then the others until the bytes are reached. Returns their places in files."""
    taken, total = set(), 0
    small = [i for i, (_, size) in enumerate(files) if size <= SMALL]
    for i in small[:int(count * 0.9)]:
        taken.add(i)
        total += files[i][1]
    large = [i for i, (_, size) in enumerate(files) if size > SMALL]
    left = max(count - len(taken), 1)
    step = max(1, len(large) // (4 * left))  # spread over the machine, so that kinds of files mix
    for i in (i for start in range(step) for i in large[start::step]):
        if total >= limit:
            break
        taken.add(i)
        total += files[i][1]
    return sorted(taken)


def fill(target, count, limit):
    """Copies files of this machine into target: about count, of limit bytes. Repeats them if the machine has too few."""
    files = list(machine_files())
    for copy in range(8):
        for i in choose(files, count, limit):
            path, size = files[i]
            into = f"{target}/copy{copy}{os.path.dirname(path)}"
            try:
                os.makedirs(into, exist_ok=True)
                shutil.copy2(path, into)
            except OSError as e:
                if e.errno == errno.ENOSPC:
                    return
                continue
            count, limit = count - 1, limit - size
        if limit < MIB or count < 100 and limit < 64 * MIB:
            return


def change(target, amount):
    """Overwrites parts of files, amount bytes in all, in clusters as a day's work leaves them."""
    rng = random.Random(20261124)
    files = [os.path.join(top, n) for top, _, names in os.walk(target) for n in names]
    files = sorted(f for f in files if os.path.getsize(f) > SMALL)
    rng.shuffle(files)
    for path in files:
        if amount <= 0:
            return
        n = min(os.path.getsize(path), 1 << 20)
        with open(path, "r+b") as f:
            f.write(rng.randbytes(n // 2) + b"changed\n" * (n // 16))
        amount -= n


# ---- disks ----

def disk(name, size, count, used):
    """An ext4 disk of size bytes with about count files of used bytes, and a copy of which 3.3% changed."""
    def first(new):
        sh(["truncate", "-s", str(size), new])
        sh(["mkfs.ext4", "-q", "-F", "-N", str(max(count * 2, 2000)), new])
        inside(new, lambda top: fill(top, count, used))

    def second(new):
        sh(["cp", "--sparse=always", f"{DATA}/{name}.img", new])
        inside(new, lambda top: change(top, int(size * 0.033)))

    return once(f"{DATA}/{name}.img", first), once(f"{DATA}/{name}-changed.img", second)


def inside(image, do):
    """Calls do with the folder where image is mounted, writable."""
    mnt = tempfile.mkdtemp(dir=DATA)
    try:
        sh(["mount", "-o", "loop", image, mnt])
        try:
            do(mnt)
        finally:
            sh(["umount", mnt])
    finally:
        os.rmdir(mnt)


def quarters(image):
    """Four files that are the quarters of image, sparse as it is."""
    size = os.path.getsize(image) // 4
    def quarter(i):
        return lambda new: sh(["dd", f"if={image}", f"of={new}", "bs=1M", f"skip={i * size // MIB}", f"count={size // MIB}", "conv=sparse", "status=none"]) and None
    out = [once(f"{image}.{i}", quarter(i)) for i in range(4)]
    for path in out:
        os.truncate(path, size)
    return out


def sparse(name, size, data):
    """A sparse disk of size bytes that has data bytes of files' content in it, spread out; and those bytes alone."""
    def alone(new):
        with open(new, "wb") as out:
            left = data
            for path, n in machine_files():
                if left <= 0:
                    break
                if n >= 65536:
                    with open(path, "rb") as f:
                        left -= out.write(f.read(left))
        if left > 0:
            with open(new, "ab") as out:
                out.write(random.Random(1).randbytes(left))

    def spread(new):
        pieces = 64
        piece = data // pieces
        with open(f"{DATA}/{name}-alone.img", "rb") as f, open(new, "wb") as out:
            for i in range(pieces):
                out.seek(i * (size // pieces) // (4 * MIB) * (4 * MIB))
                out.write(f.read(piece))
            out.truncate(size)

    small = once(f"{DATA}/{name}-alone.img", alone)
    return once(f"{DATA}/{name}.img", spread), small


def noise(name, size):
    """A file that does not compress, and repeats nothing."""
    def make(new):
        with open(new, "wb") as out:
            for _ in range(size // MIB):
                out.write(os.urandom(MIB))
    return once(f"{DATA}/{name}.img", make)


# ---- trees ----

def tree(name, count, size):
    """A tree of about count files of size bytes in all; returns it with its true numbers of entries and files."""
    path = once(f"{DATA}/{name}", lambda new: (os.mkdir(new), fill(new, count, size)))
    return path, counts(path)


def many(name, count):
    """A tree of count tiny files, a thousand to a folder."""
    def make(new):
        for d in range((count + 999) // 1000):
            top = f"{new}/d{d:04d}"
            os.makedirs(top)
            for i in range(min(1000, count - d * 1000)):
                with open(f"{top}/file{i:03d}.txt", "wb") as f:
                    if i % 50 == 0:
                        f.write(b"%d %d\n" % (d, i))
    return once(f"{DATA}/{name}", make)


def counts(path):
    """How many entries find shows of path, and how many of them are files, as {"entries", "files"}; kept beside it."""
    def make(new):
        kinds = sh(["find", path, "-printf", "%y"])
        with open(new, "w") as f:
            json.dump({"entries": len(kinds), "files": kinds.count("f")}, f)
    with open(once(path + ".counts", make)) as f:
        return json.load(f)
