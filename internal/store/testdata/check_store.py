#!/usr/bin/env python3
"""check_store.py DIR: check a datastore byte by byte, as docs/formats.md has it,
and print as JSON what it holds. Written from that document alone, with Python's
standard library (and libzstd, where Python has no zstd of its own); it shares no
code with what it tests. Anything wrong ends it with a message."""

import binascii, ctypes, ctypes.util, hashlib, json, os, re, stat, struct, sys, time

root = sys.argv[1]
PLAIN, ZSTD = "42ab3807be8370a1", "31b958426fb6a37f"
FIDX, DIDX = "2f7f41ed91fd0fcd", "1c914ea519bab3cd"
SAFE = re.compile(r"^[A-Za-z0-9_][A-Za-z0-9._\-]*$")
TIME = re.compile(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$")


def check(ok, *what):
    if not ok:
        sys.exit("check_store.py: " + " ".join(str(w) for w in what))


def unzstd(data, limit=16 << 20):
    try:
        from compression import zstd
        return zstd.decompress(data)
    except ImportError:
        pass
    name = ctypes.util.find_library("zstd") or "libzstd.so.1"
    lib = ctypes.CDLL(name)
    lib.ZSTD_decompress.restype = ctypes.c_size_t
    lib.ZSTD_findFrameCompressedSize.restype = ctypes.c_size_t
    check(lib.ZSTD_findFrameCompressedSize(data, ctypes.c_size_t(len(data))) == len(data), "more than one frame")
    out = ctypes.create_string_buffer(limit)
    n = lib.ZSTD_decompress(out, ctypes.c_size_t(limit), data, ctypes.c_size_t(len(data)))
    check(not lib.ZSTD_isError(ctypes.c_size_t(n)), "zstd cannot decode it")
    return out.raw[:n]


def mode(path, want):
    st = os.lstat(path)
    check(stat.S_IMODE(st.st_mode) == want, path, "has mode %o, not %o" % (stat.S_IMODE(st.st_mode), want))
    return st


def read(path):
    with open(path, "rb") as f:
        return f.read()


def unblob(path):
    raw = read(path)
    check(len(raw) >= 12, path, "is shorter than a blob's header")
    magic, crc = raw[:8].hex(), struct.unpack("<I", raw[8:12])[0]
    check(binascii.crc32(raw[12:]) == crc, path, "has a wrong CRC")
    if magic == PLAIN:
        return raw[12:]
    check(magic == ZSTD, path, "has magic", magic)
    return unzstd(raw[12:])


chunks = {}


def chunk(digest):
    name = digest.hex()
    if name not in chunks:
        path = os.path.join(root, ".chunks", name[:4], name)
        st = mode(path, 0o644)
        check(stat.S_ISREG(st.st_mode) and st.st_size > 12, path, "is no chunk")
        plain = unblob(path)
        check(hashlib.sha256(plain).hexdigest() == name, path, "has other content")
        chunks[name] = plain
    return chunks[name]


def index(path):
    raw = read(path)
    mode(path, 0o644)
    check(len(raw) >= 4096, path, "has no header")
    magic, uuid, ctime, csum = raw[:8].hex(), raw[8:24], struct.unpack("<q", raw[24:32])[0], raw[32:64]
    check(any(uuid), path, "has no uuid")
    check(abs(ctime - time.time()) < 3600, path, "was made at", ctime)
    check(hashlib.sha256(raw[4096:]).digest() == csum, path, "has a wrong checksum")
    content = hashlib.sha256()
    if magic == FIDX:
        check(path.endswith(".fidx"), path, "is a fixed index")
        size, chunk_size = struct.unpack("<QQ", raw[64:80])
        check(not any(raw[80:4096]), path, "has something in its reserved bytes")
        check(size > 0 and chunk_size and chunk_size & (chunk_size - 1) == 0, path, "has sizes", size, chunk_size)
        n = (size + chunk_size - 1) // chunk_size
        check(len(raw) == 4096 + 32 * n, path, "has", len(raw), "bytes")
        for i in range(n):
            data = chunk(raw[4096 + 32 * i:4128 + 32 * i])
            check(len(data) == min(chunk_size, size - i * chunk_size), path, "has a chunk of", len(data), "bytes at", i)
            content.update(data)
    else:
        check(magic == DIDX and path.endswith(".didx"), path, "has magic", magic)
        check(not any(raw[64:4096]), path, "has something in its reserved bytes")
        check((len(raw) - 4096) % 40 == 0, path, "has", len(raw), "bytes")
        size = 0
        for at in range(4096, len(raw), 40):
            end = struct.unpack("<Q", raw[at:at + 8])[0]
            data = chunk(raw[at + 8:at + 40])
            check(end == size + len(data) and data, path, "ends a chunk at", end)
            content.update(data)
            size = end
    return size, csum.hex(), content.hexdigest()


def snapshot(path, kind, ident, name):
    found = {}
    manifest = json.loads(unblob(os.path.join(path, "index.json.blob")))
    mode(os.path.join(path, "index.json.blob"), 0o644)
    check(sorted(manifest) == ["backup-id", "backup-time", "backup-type", "files", "signature", "unprotected"], path, "has", list(manifest))
    check(manifest["backup-type"] == kind and manifest["backup-id"] == ident, path, "has a manifest of another group")
    check(time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(manifest["backup-time"])) == name, path, "has another's time")
    check(manifest["signature"] is None and isinstance(manifest["unprotected"], dict), path, "is signed")
    for f in manifest["files"]:
        check(sorted(f) == ["crypt-mode", "csum", "filename", "size"] and f["crypt-mode"] == "none", path, f)
        size, csum, content = index(os.path.join(path, f["filename"]))
        check((f["size"], f["csum"]) == (size, csum), path, f["filename"], "is not what the manifest says")
        found[f["filename"]] = {"size": size, "sha256": content}
    names = {f["filename"] for f in manifest["files"]} | {"index.json.blob"}
    check(set(os.listdir(path)) == names, path, "holds", os.listdir(path))
    return found


def tree(path, found):
    for kind in ("ct", "host", "vm"):
        for ident in sorted(os.listdir(os.path.join(path, kind))) if os.path.isdir(os.path.join(path, kind)) else ():
            group = os.path.join(path, kind, ident)
            check(SAFE.match(ident), group, "has a name that cannot be")
            mode(group, 0o755)
            mode(os.path.join(group, "owner"), 0o644)
            check(re.match(rb"^[^\s:/]+@[A-Za-z0-9_][A-Za-z0-9._\-]*\n$", read(os.path.join(group, "owner"))), group, "has a wrong owner")
            for name in sorted(os.listdir(group)):
                if name == "owner":
                    continue
                check(TIME.match(name), group, "holds", name)
                mode(os.path.join(group, name), 0o755)
                found[os.path.relpath(os.path.join(group, name), root)] = snapshot(os.path.join(group, name), kind, ident, name)
    spaces = os.path.join(path, "ns")
    for name in sorted(os.listdir(spaces)) if os.path.isdir(spaces) else ():
        check(SAFE.match(name), spaces, "holds", name)
        tree(os.path.join(spaces, name), found)
    return found


mode(root, 0o755)
check(mode(os.path.join(root, ".lock"), 0o644).st_size == 0, ".lock is not empty")
mode(os.path.join(root, ".chunks"), 0o750)
for name in os.listdir(os.path.join(root, ".chunks")):
    path = os.path.join(root, ".chunks", name)
    check(re.match("^[0-9a-f]{4}$", name), ".chunks holds", name)
    mode(path, 0o750)
    for c in os.listdir(path):
        check(re.match("^[0-9a-f]{64}$", c) and c.startswith(name), path, "holds", c)
json.dump({"snapshots": tree(root, {}), "used": len(chunks)}, sys.stdout, indent=1)
