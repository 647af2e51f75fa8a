package wire

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"pmxfs/index"
	"pmxfs/internal/fault"
)

// recode decodes a payload as a packet of type t and encodes what came out. The
// tables, the recordings and the fuzzer all go through it. Lists of files have a
// type of their own here, listOfFiles.
func recode(t Type, payload []byte) ([]byte, error) {
	type appender interface{ Append([]byte) []byte }
	var m appender
	var err error
	switch t {
	case TypeHello:
		m, err = ParseHello(payload)
	case TypeOk:
		return nil, nil
	case TypeError:
		m, err = ParseError(payload)
	case TypeGetHashList:
		m, err = ParseGetHashList(payload)
	case TypeHashListPart:
		return digestsAgain(ParseDigests(payload, MaxPayload/DigestSize))
	case TypeDownloadChunks:
		return digestsAgain(ParseDownloadChunks(payload))
	case TypeHasChunks:
		return digestsAgain(ParseHasChunks(payload))
	case TypeChunk:
		h, err := ParseChunkHeader(payload)
		if err != nil {
			return nil, err
		}
		return append(h.Append(nil), payload[ChunkHeaderSize:]...), nil
	case TypeUploadChunk, TypeUploadBlob:
		h, err := ParseUploadHeader(payload)
		if err != nil {
			return nil, err
		}
		return append(h.Append(nil), payload[UploadHeaderSize:]...), nil
	case TypeBlob:
		h, err := ParseBlobHeader(payload)
		if err != nil {
			return nil, err
		}
		return append(h.Append(nil), payload[BlobHeaderSize:]...), nil
	case TypeCreateBackup:
		m, err = ParseCreateBackup(payload)
	case TypeBackupCreated:
		m, err = ParseBackupCreated(payload)
	case TypeBackupDataFixed, TypeBackupDataDynamic:
		list, err := ParseEntries(t, payload)
		var b []byte
		for _, e := range list {
			b = e.Append(b)
		}
		return b, err
	case TypeBackupFinished, TypeGetStatus:
		return nil, ParseEmpty(t, payload)
	case TypeListBackups:
		m, err = ParseListBackups(payload)
	case TypeBackupList, listOfFiles:
		list, err := ParseRecords(payload, t == listOfFiles)
		var b []byte
		for _, r := range list {
			if t == listOfFiles {
				b = r.AppendFile(b)
			} else {
				b = r.Append(b)
			}
		}
		return b, err
	case TypeGetFile:
		m, err = ParseGetFile(payload)
	case TypeFilePart:
		return payload, nil
	case TypeDownloadBlobs:
		m, err = ParseDownloadBlobs(payload)
	case TypeCancel:
		m, err = ParseCancel(payload)
	case TypeCommitBackup:
		m, err = ParseCommitBackup(payload)
	case TypeChunkMap:
		sizes, err := ParseChunkMap(payload, len(payload)/4)
		return AppendChunkMap(nil, sizes), err
	case TypeStatus:
		m, err = ParseStatus(payload)
	}
	if err != nil {
		return nil, err
	}
	return m.Append(nil), nil
}

const listOfFiles Type = 100

func digestsAgain(list []index.Digest, err error) ([]byte, error) {
	return AppendDigests(nil, list), err
}

// lenient are the types in which a peer may put more than we understand.
func lenient(t Type) bool { return t == TypeHello || t == TypeError || t == TypeOk }

func join(parts ...any) []byte {
	var b []byte
	for _, p := range parts {
		switch p := p.(type) {
		case string:
			b = append(b, p...)
		case []byte:
			b = append(b, p...)
		case int:
			b = append(b, byte(p))
		}
	}
	return b
}

func zeros(n int) []byte { return make([]byte, n) }

var long = strings.Repeat("n", 255)

// payloads has payloads of every type with what is to be thought of them.
var payloads = []struct {
	name string
	t    Type
	b    []byte
	ok   bool
}{
	{"version 1", TypeHello, join("PMXBCKUP", 1, 0, 0, 0), true},
	{"features", TypeHello, join("PMXBCKUP", 1, 0, 0, 0, 31, 0, 0, 0), true},
	{"short", TypeHello, join("PMXBCKUP", 1, 0, 0), false},
	{"empty", TypeHello, nil, false},
	{"magic alone", TypeHello, join("PMXBCKUP"), false},
	{"another magic", TypeHello, join("PMXBCKUQ", 1, 0, 0, 0), false},
	{"version 0", TypeHello, join("PMXBCKUP", 0, 0, 0, 0), false},
	{"version 2", TypeHello, join("PMXBCKUP", 2, 0, 0, 0), false},

	{"busy", TypeError, join(1, 9, "later"), true},
	{"no message", TypeError, join(0, 0), true},
	{"empty", TypeError, nil, false},

	{"path", TypeGetHashList, join(3, 0, "a/b"), true},
	{"no path", TypeGetHashList, join(0, 0), true},
	{"excess", TypeGetHashList, join(3, 0, "a/bc"), false},
	{"short", TypeGetHashList, join(4, 0, "a/b"), false},
	{"length alone, half", TypeGetHashList, join(4), false},
	{"empty", TypeGetHashList, nil, false},
	{"longest", TypeGetHashList, join(255, 255, bytes.Repeat([]byte("p"), 65535)), true},
	{"not UTF-8", TypeGetHashList, join(2, 0, 0xc3, 0x28), false},

	{"empty", TypeHashListPart, nil, true},
	{"31", TypeHashListPart, zeros(31), false},
	{"32", TypeHashListPart, zeros(32), true},
	{"33", TypeHashListPart, zeros(33), false},
	{"most of ours", TypeHashListPart, zeros(MaxHashList * DigestSize), true},

	{"none", TypeDownloadChunks, nil, false},
	{"one", TypeDownloadChunks, zeros(32), true},
	{"31", TypeDownloadChunks, zeros(31), false},
	{"33", TypeDownloadChunks, zeros(33), false},
	{"most", TypeDownloadChunks, zeros(4096 * 32), true},
	{"too many", TypeDownloadChunks, zeros(4097 * 32), false},
	{"none", TypeHasChunks, nil, false},
	{"most", TypeHasChunks, zeros(4096 * 32), true},
	{"too many", TypeHasChunks, zeros(4097 * 32), false},

	{"none", TypeDownloadBlobs, nil, false},
	{"mark alone", TypeDownloadBlobs, join(1), false},
	{"one", TypeDownloadBlobs, zeros(32), true},
	{"one, speculative", TypeDownloadBlobs, join(zeros(32), 1), true},
	{"mark of 0", TypeDownloadBlobs, join(zeros(32), 0), false},
	{"mark of 2", TypeDownloadBlobs, join(zeros(32), 2), false},
	{"two bytes more", TypeDownloadBlobs, join(zeros(32), 1, 1), false},
	{"most", TypeDownloadBlobs, join(zeros(4096*32), 1), true},
	{"too many", TypeDownloadBlobs, join(zeros(4097*32), 1), false},

	{"39", TypeChunk, zeros(39), false},
	{"no data", TypeChunk, zeros(40), true},
	{"data", TypeChunk, join(5, zeros(39), "data"), true},
	{"31", TypeUploadChunk, zeros(31), false},
	{"no data", TypeUploadChunk, zeros(32), true},
	{"data", TypeUploadBlob, join(zeros(32), "data"), true},

	{"47", TypeBlob, zeros(47), false},
	{"total 0", TypeBlob, zeros(48), false},
	{"total 1", TypeBlob, join(zeros(8), 1, zeros(39), "d"), true},
	{"offset is total", TypeBlob, join(1, zeros(7), 1, zeros(39), "d"), false},
	{"longest", TypeBlob, join(zeros(8), 44, 0, 0, 1, zeros(36), "d"), true},
	{"too long", TypeBlob, join(zeros(8), 45, 0, 0, 1, zeros(36), "d"), false},

	{"file", TypeCreateBackup, join(0, 3, zeros(8), 3, 5, zeros(12), "100", "a.img"), true},
	{"no names", TypeCreateBackup, zeros(24), true},
	{"23", TypeCreateBackup, zeros(23), false},
	{"excess", TypeCreateBackup, zeros(25), false},
	{"name cut", TypeCreateBackup, join(0, 3, zeros(8), 3, 5, zeros(12), "100", "a.im"), false},
	{"longest", TypeCreateBackup, join(0, 255, zeros(8), 3, 255, zeros(12), long, long), true},
	{"not UTF-8", TypeCreateBackup, join(0, 1, zeros(8), 3, 0, zeros(12), 0xff), false},

	{"path", TypeBackupCreated, join(1, 0, "p"), true},
	{"excess", TypeBackupCreated, join(1, 0, "pp"), false},
	{"short", TypeBackupCreated, join(1, 0), false},

	{"none", TypeBackupDataFixed, nil, true},
	{"39", TypeBackupDataFixed, zeros(39), false},
	{"one", TypeBackupDataFixed, zeros(40), true},
	{"41", TypeBackupDataFixed, zeros(41), false},
	{"three", TypeBackupDataDynamic, zeros(120), true},
	{"119", TypeBackupDataDynamic, zeros(119), false},

	{"empty", TypeBackupFinished, nil, true},
	{"one byte", TypeBackupFinished, zeros(1), false},
	{"empty", TypeGetStatus, nil, true},
	{"one byte", TypeGetStatus, zeros(1), false},

	{"groups", TypeListBackups, nil, true},
	{"snapshots", TypeListBackups, join(2, 3, zeros(8), "100"), true},
	{"files", TypeListBackups, join(0, 3, 1, zeros(7), "100"), true},
	{"no id", TypeListBackups, join(0, 0, zeros(8)), false},
	{"excess", TypeListBackups, join(0, 3, zeros(8), "1000"), false},
	{"short", TypeListBackups, join(0, 3, zeros(8), "10"), false},
	{"one byte", TypeListBackups, zeros(1), false},

	{"end", TypeBackupList, nil, true},
	{"one", TypeBackupList, join(0, 3, zeros(8), 0x80, 0, zeros(12), "100"), true},
	{"two", TypeBackupList, join(0, 1, zeros(22), "a", 1, 1, zeros(22), "b"), true},
	{"23", TypeBackupList, zeros(23), false},
	{"one and a bit", TypeBackupList, zeros(25), false},
	{"end", listOfFiles, nil, true},
	{"without allocated", listOfFiles, zeros(24), false},
	{"31", listOfFiles, zeros(31), false},
	{"one", listOfFiles, zeros(32), true},
	{"two", listOfFiles, join(0, 3, zeros(8), 4, 5, zeros(12), "100", "a.pxa", zeros(40)), true},

	{"all", TypeGetFile, join(1, 0, "p"), true},
	{"range", TypeGetFile, join(1, 0, "p", zeros(16)), true},
	{"half a range", TypeGetFile, join(1, 0, "p", zeros(8)), false},
	{"15", TypeGetFile, join(1, 0, "p", zeros(15)), false},
	{"17", TypeGetFile, join(1, 0, "p", zeros(17)), false},
	{"empty", TypeGetFile, nil, false},

	{"cancel", TypeCancel, nil, true},
	{"lift", TypeCancel, join(1), true},
	{"0", TypeCancel, join(0), false},
	{"two", TypeCancel, join(1, 1), false},

	{"commit", TypeCommitBackup, join(0, 3, zeros(8), 4, 0, "100"), true},
	{"11", TypeCommitBackup, zeros(11), false},
	{"excess", TypeCommitBackup, zeros(13), false},

	{"none", TypeChunkMap, nil, true},
	{"one", TypeChunkMap, zeros(4), true},
	{"5", TypeChunkMap, zeros(5), false},

	{"23", TypeStatus, zeros(23), false},
	{"status", TypeStatus, zeros(24), true},
	{"25", TypeStatus, zeros(25), false},
}

func TestPayloads(t *testing.T) {
	seen := map[Type]bool{}
	for _, c := range payloads {
		seen[c.t] = true
		t.Run(c.t.String()+"/"+c.name, func(t *testing.T) {
			got, err := recode(c.t, c.b)
			if !c.ok {
				if kind := fault.KindOf(err); kind != fault.Invalid && kind != fault.Unsupported {
					t.Fatalf("%d bytes decode with error %v of kind %v", len(c.b), err, kind)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, c.b) {
				t.Fatalf("%x\ncame back as\n%x", c.b, got)
			}
		})
	}
	for ty := range Type(NumTypes) {
		if !seen[ty] && ty != TypeOk && ty != TypeFilePart {
			t.Errorf("no payload of type %v is tried", ty)
		}
	}
}

// TestValues compares with layouts written down by hand, so that an Append and a
// Parse that agree on a mistake are found.
func TestValues(t *testing.T) {
	var d index.Digest
	for i := range d {
		d[i] = byte(i)
	}
	for _, c := range []struct {
		name string
		got  []byte
		want []byte
	}{
		{"Hello", Hello{1, AllFeatures}.Append(nil), join("PMXBCKUP", 1, 0, 0, 0, 31, 0, 0, 0)},
		{"Error", Error{ErrorBusy, fault.Busy, "no"}.Append(nil), join(1, 9, "no")},
		{"CreateBackup", CreateBackup{Type: 2, Flags: Excl | Raw | Hold, Time: 0x5c7f9112, ChunkSize: 4 << 20, FileSize: 0x1_0000_0002, ID: "web", Name: "r.img", Allocated: 7}.Append(nil),
			join(2, 3, 0x12, 0x91, 0x7f, 0x5c, 0, 0, 0, 0, 11, 5, 0, 0, 0x40, 0, 2, 0, 0, 0, 1, 0, 0, 0, "web", "r.img")},
		{"Record", Record{Type: 1, Flags: DynamicChunks, FileSize: NoSize, ID: "1", Name: "b", Allocated: 258}.AppendFile(nil),
			join(1, 1, zeros(8), 4, 1, zeros(4), bytes.Repeat([]byte{255}, 8), "1", "b", 2, 1, zeros(6))},
		{"ChunkHeader", ChunkHeader{0x0102, d}.Append(nil), join(2, 1, zeros(6), d[:])},
		{"UploadHeader", UploadHeader{d}.Append(nil), d[:]},
		{"BlobHeader", BlobHeader{1, 0x0304, d}.Append(nil), join(1, zeros(7), 4, 3, zeros(6), d[:])},
		{"Entry", Entry{0x0203, d}.Append(nil), join(3, 2, zeros(6), d[:])},
		{"ListBackups", ListBackups{2, 1, "a/b"}.Append(nil), join(2, 3, 1, zeros(7), "a/b")},
		{"GetFile", GetFile{"p", true, 1, 2}.Append(nil), join(1, 0, "p", 1, zeros(7), 2, zeros(7))},
		{"CommitBackup", CommitBackup{1, 5, 0x0102, "x"}.Append(nil), join(1, 1, 5, zeros(7), 2, 1, "x")},
		{"ChunkMap", AppendChunkMap(nil, []uint32{0, 0x010203}), join(0, 0, 0, 0, 3, 2, 1, 0)},
		{"Status", Status{1, 2, 3}.Append(nil), join(1, zeros(7), 2, zeros(7), 3, zeros(7))},
		{"DownloadBlobs", DownloadBlobs{[]index.Digest{d}, true}.Append(nil), join(d[:], 1)},
		{"packet", AppendPacket([]byte{9}, 5, TypeCancel, join(1)), join(9, 5, 20, 7, 0, 0, 0, 1)},
		{"name too long", Record{ID: "x", Name: long + "n"}.Append(nil), join(0, 1, zeros(22), "x")},
		{"path too long", GetHashList{strings.Repeat("p", 1<<16)}.Append(nil), zeros(2)},
	} {
		if !bytes.Equal(c.got, c.want) {
			t.Errorf("%s: %x, want %x", c.name, c.got, c.want)
		}
	}
}

func TestHelloIgnoresWhatIsBehind(t *testing.T) {
	for _, c := range []struct {
		tail []byte
		want Features
	}{
		{nil, 0},
		{zeros(1), 0},
		{join(1, 0, 0), 0},
		{join(1, 0, 0, 0), Browse},
		{join(6, 0, 0, 0, "whatever"), Blobs | Control},
		{join(0xff, 0xff, 0xff, 0xff), AllFeatures},
	} {
		h, err := ParseHello(join("PMXBCKUP", 1, 0, 0, 0, c.tail))
		if err != nil || h.Features != c.want {
			t.Errorf("tail %x: features %v, error %v; want %v", c.tail, h.Features, err, c.want)
		}
	}
	if _, err := ParseHello(join("PMXBCKUP", 2, 0, 0, 0)); !errors.Is(err, fault.Unsupported) {
		t.Errorf("version 2: %v, want it unsupported", err)
	}
}

func TestChunkMapAnswersAll(t *testing.T) {
	for _, n := range []int{0, 1, 3} {
		if _, err := ParseChunkMap(zeros(8), n); !errors.Is(err, fault.Invalid) {
			t.Errorf("2 sizes for %d digests: %v", n, err)
		}
	}
}

func TestListLevels(t *testing.T) {
	for _, c := range []struct {
		m             ListBackups
		groups, files bool
	}{
		{ListBackups{}, true, false},
		{ListBackups{ID: "1"}, false, false},
		{ListBackups{ID: "1", Time: 1}, false, true},
	} {
		if c.m.Groups() != c.groups || c.m.Files() != c.files {
			t.Errorf("%+v: groups %v, files %v", c.m, c.m.Groups(), c.m.Files())
		}
	}
}

func TestBlobFollows(t *testing.T) {
	for _, c := range []struct {
		offset, total, have uint64
		n                   int
		ok                  bool
	}{
		{0, 1, 0, 1, true},
		{0, 1, 0, 0, false},
		{0, 1, 0, 2, false},
		{5, 10, 5, 5, true},
		{5, 10, 5, 6, false},
		{5, 10, 4, 1, false},
		{5, 10, 6, 1, false},
	} {
		err := BlobHeader{Offset: c.offset, Total: c.total}.Follows(c.have, c.n)
		if (err == nil) != c.ok {
			t.Errorf("%+v: %v", c, err)
		}
	}
}

func TestCreateBackupBounds(t *testing.T) {
	fixed := CreateBackup{Type: 0, Time: 1, ChunkSize: 4 << 20, FileSize: 1}
	dynamic := CreateBackup{Type: 2, Time: 1, Flags: DynamicChunks, ChunkSize: 64}
	with := func(r CreateBackup, f func(*CreateBackup)) CreateBackup { f(&r); return r }
	for name, c := range map[string]struct {
		r  CreateBackup
		ok bool
	}{
		"fixed":           {fixed, true},
		"dynamic":         {dynamic, true},
		"type 2":          {with(fixed, func(r *CreateBackup) { r.Type = 2 }), true},
		"type 3":          {with(fixed, func(r *CreateBackup) { r.Type = 3 }), false},
		"time 0":          {with(fixed, func(r *CreateBackup) { r.Time = 0 }), false},
		"last time":       {with(fixed, func(r *CreateBackup) { r.Time = 253402300799 }), true},
		"time after that": {with(fixed, func(r *CreateBackup) { r.Time = 253402300800 }), false},
		"time wraps":      {with(fixed, func(r *CreateBackup) { r.Time = NoSize }), false},
		"size 0":          {with(fixed, func(r *CreateBackup) { r.FileSize = 0 }), false},
		"dynamic size 1":  {with(dynamic, func(r *CreateBackup) { r.FileSize = 1 }), false},
		"chunk 0":         {with(fixed, func(r *CreateBackup) { r.ChunkSize = 0 }), false},
		"chunk 1":         {with(fixed, func(r *CreateBackup) { r.ChunkSize = 1 }), false},
		"chunk 3":         {with(fixed, func(r *CreateBackup) { r.ChunkSize = 3 }), false},
		"chunk 2 KiB":     {with(fixed, func(r *CreateBackup) { r.ChunkSize = 2 << 10 }), false},
		"chunk 4 KiB":     {with(fixed, func(r *CreateBackup) { r.ChunkSize = 4 << 10 }), true},
		"chunk 12 KiB":    {with(fixed, func(r *CreateBackup) { r.ChunkSize = 12 << 10 }), false},
		"chunk 8 MiB":     {with(fixed, func(r *CreateBackup) { r.ChunkSize = 8 << 20 }), true},
		"chunk 16 MiB":    {with(fixed, func(r *CreateBackup) { r.ChunkSize = 16 << 20 }), false},
	} {
		if err := c.r.Check(); (err == nil) != c.ok || (err != nil && !errors.Is(err, fault.Invalid)) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
