#!/usr/bin/env python3
"""make_store.py DIR: write a datastore as other programs leave them, and print
as JSON what a reader must find in it. Written from docs/formats.md alone, with
Python's standard library; it shares no code with what it tests."""

import binascii, hashlib, json, os, random, struct, sys, time

PLAIN = bytes([66, 171, 56, 7, 190, 131, 112, 161])
ZSTD = bytes([49, 185, 88, 66, 111, 182, 163, 127])
CRYPT = bytes([123, 103, 133, 190, 34, 45, 76, 240])
CRYPT_ZSTD = bytes([230, 89, 27, 191, 11, 191, 216, 11])
FIDX = bytes([47, 127, 65, 237, 145, 253, 15, 205])
DIDX = bytes([28, 145, 78, 165, 25, 186, 179, 205])

rnd = random.Random(20240601)
root = sys.argv[1]
MIB = 1 << 20


def sha(*parts):
    h = hashlib.sha256()
    for p in parts:
        h.update(p)
    return h.digest()


def put(path, data, mode=0o644):
    path = os.path.join(root, path)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as f:
        f.write(data)
    os.chmod(path, mode)


# --- blobs

def zstd_frame(data):
    """One zstd frame without a content size, of raw and run-length blocks."""
    out = [struct.pack("<IBB", 0xFD2FB528, 0, 12 << 3)]  # no size, no checksum; window of 4 MiB
    blocks = [data[i:i + 128 * 1024] for i in range(0, len(data), 128 * 1024)] or [b""]
    for i, block in enumerate(blocks):
        last = int(i == len(blocks) - 1)
        if block and block.count(block[:1]) == len(block):
            out += [struct.pack("<I", last | 1 << 1 | len(block) << 3)[:3], block[:1]]
        else:
            out += [struct.pack("<I", last | 0 << 1 | len(block) << 3)[:3], block]
    return b"".join(out)


def blob(magic, payload, head=b""):
    return magic + struct.pack("<I", binascii.crc32(payload)) + head + payload


def plain_blob(data):
    return blob(PLAIN, data)


def zstd_blob(data):
    return blob(ZSTD, zstd_frame(data))


def crypt_blob(magic, length):
    return blob(magic, rnd.randbytes(length), rnd.randbytes(32))  # iv, tag


# --- chunks

def chunk_path(digest):
    name = digest.hex()
    return ".chunks/%s/%s" % (name[:4], name)


def put_chunk(data, how):
    digest = sha(data)
    put(chunk_path(digest), how(data))
    return digest


def put_crypt_chunk(length, magic):
    digest = rnd.randbytes(32)  # over the content and the key, nobody can tell
    put(chunk_path(digest), crypt_blob(magic, length))
    return digest


# --- indexes and manifests

def fidx(size, chunk_size, digests):
    csum = sha(*digests)
    head = FIDX + rnd.randbytes(16) + struct.pack("<q", 1700000000) + csum + struct.pack("<QQ", size, chunk_size)
    return head.ljust(4096, b"\0") + b"".join(digests), csum


def didx(chunks):
    entries, end = [], 0
    for digest, size in chunks:
        end += size
        entries.append(struct.pack("<Q", end) + digest)
    csum = sha(*entries)
    head = DIDX + rnd.randbytes(16) + struct.pack("<q", 1700000000) + csum
    return head.ljust(4096, b"\0") + b"".join(entries), csum, end


expect = {"groups": [], "snapshots": {}, "bad": [], "damaged": []}


class Snapshot:
    def __init__(self, ns, kind, ident, stamp, crypt="none"):
        self.kind, self.ident, self.stamp, self.crypt = kind, ident, stamp, crypt
        prefix = "".join("ns/%s/" % part for part in ns.split("/") if part)
        self.group = prefix + kind + "/" + ident
        self.path = self.group + "/" + time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(stamp))
        self.files, self.info = [], {}
        put(self.group + "/owner", b"backup@pbs!token\n")
        os.makedirs(os.path.join(root, self.path))

    def add(self, name, data, size, csum, info):
        put(self.path + "/" + name, data)
        self.files.append({"crypt-mode": self.crypt, "csum": csum.hex(), "filename": name, "size": size})
        self.info[name] = info

    def image(self, name, data, chunk_size, how=plain_blob):
        pieces = [data[i:i + chunk_size] for i in range(0, len(data), chunk_size)]
        digests = [put_chunk(p, how) for p in pieces]
        raw, csum = fidx(len(data), chunk_size, digests)
        self.add(name, raw, len(data), csum, {
            "size": len(data), "sha256": sha(data).hex(), "chunk_size": chunk_size,
            "allocated": sum(len(p) for p in pieces if p.strip(b"\0"))})

    def stream(self, name, pieces, how=plain_blob):
        raw, csum, end = didx([(put_chunk(p, how), len(p)) for p in pieces])
        self.add(name, raw, end, csum, {
            "size": end, "sha256": sha(*pieces).hex(), "chunk_size": 0,
            "allocated": sum(len(p) for p in pieces if p.strip(b"\0"))})

    def blob(self, name, data, how):
        raw = how(data)
        self.add(name, raw, len(raw), sha(raw), {"size": len(data), "sha256": sha(data).hex(), "blob": True})

    def finish(self, listed=True, how=zstd_blob):
        manifest = {"backup-id": self.ident, "backup-time": self.stamp, "backup-type": self.kind, "files": self.files,
                    "signature": "00" * 32 if self.crypt != "none" else None,
                    "unprotected": {"chunk_upload_stats": {"count": 1, "size": 2, "compressed_size": 3, "duplicates": 0},
                                    "notes": "made by make_store.py", "verify_state": {"state": "ok", "upid": "UPID:x"}}}
        put(self.path + "/index.json.blob", how(json.dumps(manifest, indent=2).encode()))
        if listed:
            expect["snapshots"][self.path] = {"files": self.info}
            if self.group not in expect["groups"]:
                expect["groups"].append(self.group)
        return self


# --- the store

os.chmod(root, 0o755)
os.mkdir(os.path.join(root, ".chunks"), 0o750)
put(".lock", b"")
put(".gc-status", b'{"upid":null}')

data = rnd.randbytes(3 * 65536 + 777)
data = data[:65536] + bytes(65536) + data[2 * 65536:]  # the second chunk is zeros

s = Snapshot("", "vm", "100", 1600000000)
s.image("drive-scsi0.img.fidx", data, 65536, zstd_blob)
s.blob("qemu-server.conf.blob", b"cores: 2\nname: old\n", plain_blob)
s.finish(how=plain_blob)

s = Snapshot("", "vm", "100", 1600086400)
s.image("drive-scsi0.img.fidx", data[:65536] + b"changed" + data[65543:], 65536, plain_blob)
s.image("drive-virtio1.img.fidx", bytes(5 * 65536), 65536, zstd_blob)
s.image("tiny.img.fidx", b"x", 4 * MIB)
s.blob("qemu-server.conf.blob", b"cores: 4\nname: new\n" * 3000, zstd_blob)
s.blob("fw.conf.blob", b"", plain_blob)
put(s.path + "/client.log.blob", plain_blob(b"all went well\n"))
s.info["client.log.blob"] = {"size": 14, "sha256": sha(b"all went well\n").hex(), "blob": True}
put(s.path + "/.protected", b"")
s.finish()
expect["snapshots"][s.path]["protected"] = True
put("vm/100/notes", b"the important one\n")

pieces = [rnd.randbytes(70000), bytes(128 * 1024), rnd.randbytes(1), bytes(128 * 1024), rnd.randbytes(65000)]
s = Snapshot("", "ct", "9", 1600000001)
s.stream("root.pxar.didx", pieces, zstd_blob)
s.stream("catalog.pcat1.didx", [b"one chunk"])
s.finish()
s = Snapshot("a/b", "host", "web-1.example_x", 1600000002)
s.stream("root.mpxar.didx", [rnd.randbytes(5000), rnd.randbytes(6000)], zstd_blob)
s.stream("root.ppxar.didx", pieces[:3] + pieces)
s.finish()
Snapshot("a", "vm", "100", 1600000003).finish()  # one that holds nothing

# Encrypted: listed, unreadable, sound as far as anybody can tell.
s = Snapshot("", "vm", "secret", 1600000004, "encrypt")
raw, csum = fidx(2 * 65536, 65536, [put_crypt_chunk(65536, CRYPT), put_crypt_chunk(900, CRYPT_ZSTD)])
s.add("drive-scsi0.img.fidx", raw, 2 * 65536, csum, {"size": 2 * 65536, "chunk_size": 65536, "encrypted": True})
raw = crypt_blob(CRYPT, 100)
s.add("qemu-server.conf.blob", raw, len(raw), sha(raw), {"encrypted": True})
raw = plain_blob(b"an RSA block")
s.add("rsa-encrypted.key.blob", raw, len(raw), sha(raw), {"size": 12, "sha256": sha(b"an RSA block").hex(), "blob": True})
s.finish()

# Unfinished: somebody is at it, or was when he died. Not listed.
s = Snapshot("", "vm", "100", 1600172800)
s.image("drive-scsi0.img.fidx", data, 65536)
put(s.path + "/drive-virtio1.img.tmp_fidx", b"\0" * 5000)
put(s.path + "/index.json.tmp_AbCdEf", b"half a mani")
Snapshot("", "vm", "101", 1600172800)

# Things that are nobody's snapshot.
for path in ("vm/100/not-a-time", "vm/-bad/2020-01-01T00:00:00Z", "vm/100/2020-02-30T00:00:00Z", "strange/1/2020-01-01T00:00:00Z",
             "ns/.hidden/vm/1/2020-01-01T00:00:00Z", "lost+found"):
    os.makedirs(os.path.join(root, path))
    put(path + "/index.json.blob", b"")
os.symlink("100", os.path.join(root, "vm/link"))
put("vm/file", b"")

# Around the chunks.
digest = sha(b"nobody needs this, and it is here as a placeholder only")
put(chunk_path(digest), b"")
put(chunk_path(sha(b"was bad once")) + ".0.bad", b"garbage")
put(chunk_path(sha(b"in flight")) + ".tmp_XyZabc", b"gar")

if len(sys.argv) > 2 and sys.argv[2] == "broken":
    # Broken manifests and indexes, chunks that are damaged or not there.
    s = Snapshot("", "vm", "200", 1600000005).finish()
    raw = bytearray(open(os.path.join(root, s.path, "index.json.blob"), "rb").read())
    raw[-1] ^= 1
    put(s.path + "/index.json.blob", bytes(raw))
    expect["snapshots"][s.path] = {"broken": True, "files": {}}
    s = Snapshot("", "vm", "200", 1600000006).finish()
    put(s.path + "/index.json.blob", b"")
    expect["snapshots"][s.path] = {"broken": True, "files": {}}

    def flip(path, at):
        raw = bytearray(open(os.path.join(root, path), "rb").read())
        raw[at] ^= 1
        put(path, bytes(raw))

    s = Snapshot("", "vm", "200", 1600000007)
    for name in ("good", "csum", "entry", "short", "missing", "kind", "blob"):
        if name == "blob":
            s.blob("blob.conf.blob", b"some text", plain_blob)
        else:
            s.image(name + ".img.fidx", data, 65536)
    s.finish()
    flip(s.path + "/csum.img.fidx", 40)
    flip(s.path + "/entry.img.fidx", 4096 + 40)
    flip(s.path + "/blob.conf.blob", 20)
    path = os.path.join(root, s.path, "short.img.fidx")
    os.truncate(path, os.path.getsize(path) - 1)
    os.unlink(os.path.join(root, s.path, "missing.img.fidx"))
    put(s.path + "/kind.img.fidx", didx([(sha(data[:65536]), 65536)])[0])
    for name in s.info:
        if name != "good.img.fidx":
            s.info[name]["broken"] = True

    def damaged(ident, spoil, bad=True):
        s = Snapshot("", "ct", ident, 1600000008)
        piece = rnd.randbytes(5000)
        s.stream("root.pxar.didx", [piece, b"beside " + ident.encode()])
        s.finish()
        spoil(os.path.join(root, chunk_path(sha(piece))))
        s.info["root.pxar.didx"]["damaged"] = True
        expect["damaged"].append(s.path)
        if bad:
            expect["bad"].append(sha(piece).hex())

    def as_folder(path):
        os.unlink(path)
        os.mkdir(path)

    def short(path):
        os.truncate(path, os.path.getsize(path) - 1)

    damaged("flipped", lambda p: flip(os.path.relpath(p, root), 100))
    damaged("magic", lambda p: flip(os.path.relpath(p, root), 0))
    damaged("short", short)
    damaged("stub", lambda p: os.truncate(p, 11))
    damaged("folder", as_folder)
    damaged("missing", os.unlink, False)
    damaged("placeholder", lambda p: os.truncate(p, 0), False)
    damaged("setaside", lambda p: os.rename(p, p + ".0.bad"), False)
    damaged("liar", lambda p: put(os.path.relpath(p, root), plain_blob(b"other content, good CRC")))
    damaged("tail", lambda p: put(os.path.relpath(p, root), blob(ZSTD, zstd_frame(b"x") + b"more")))

expect["groups"] = [g for g in sorted({p.rsplit("/", 1)[0] for p in expect["snapshots"]})]
for base, dirs, files in os.walk(os.path.join(root, ".chunks")):
    if base != os.path.join(root, ".chunks"):
        os.chmod(base, 0o750)
json.dump(expect, sys.stdout, indent=1)
