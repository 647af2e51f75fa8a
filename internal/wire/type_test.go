package wire

import (
	"errors"
	"testing"

	"pmxfs/internal/fault"
)

func TestTypes(t *testing.T) {
	const all = AllFeatures
	for _, c := range []struct {
		t       Type
		number  uint8
		client  bool
		request bool
		needs   Features
	}{
		{TypeHello, 0, false, false, 0},
		{TypeOk, 1, false, false, 0},
		{TypeError, 2, false, false, 0},
		{TypeGetHashList, 3, true, true, 0},
		{TypeHashListPart, 4, false, false, 0},
		{TypeDownloadChunks, 5, true, true, 0},
		{TypeChunk, 6, false, false, 0},
		{TypeUploadChunk, 7, true, true, 0},
		{TypeCreateBackup, 8, true, true, 0},
		{TypeBackupCreated, 9, false, false, 0},
		{TypeBackupDataFixed, 10, true, false, 0},
		{TypeBackupDataDynamic, 11, true, false, 0},
		{TypeBackupFinished, 12, true, false, 0},
		{TypeListBackups, 13, true, true, 1},
		{TypeBackupList, 14, false, false, 1},
		{TypeGetFile, 15, true, true, 1},
		{TypeFilePart, 16, false, false, 1},
		{TypeDownloadBlobs, 17, true, true, 2},
		{TypeBlob, 18, false, false, 2},
		{TypeUploadBlob, 19, true, true, 2},
		{TypeCancel, 20, true, false, 4},
		{TypeCommitBackup, 21, true, true, 4},
		{TypeHasChunks, 22, true, true, 4},
		{TypeChunkMap, 23, false, false, 4},
		{TypeGetStatus, 24, true, true, 1},
		{TypeStatus, 25, false, false, 1},
	} {
		if uint8(c.t) != c.number || FromClient(c.t) != c.client || FromServer(c.t) == c.client || IsRequest(c.t) != c.request || c.t.Needs() != c.needs {
			t.Errorf("%v: number %d, client %v, server %v, request %v, needs %v", c.t, c.t, FromClient(c.t), FromServer(c.t), IsRequest(c.t), c.t.Needs())
		}
		h := Header{ID: 3, Type: c.t}
		if err := CheckFromClient(h, all); (err == nil) != c.client {
			t.Errorf("%v from a client: %v", c.t, err)
		}
		if err := CheckFromServer(h, all); (err == nil) == c.client {
			t.Errorf("%v from a server: %v", c.t, err)
		}
		for _, check := range []func(Header, Features) error{CheckFromClient, CheckFromServer} {
			err := check(h, all&^c.needs)
			if c.needs != 0 && !errors.Is(err, fault.Invalid) {
				t.Errorf("%v without %v: %v", c.t, c.needs, err)
			}
		}
	}
	for _, ty := range []Type{26, 100, 255} {
		h := Header{ID: 3, Type: ty}
		var e *FramingError
		if ty.Known() || FromClient(ty) || FromServer(ty) || IsRequest(ty) || ty.Needs() != 0 {
			t.Errorf("%v passes for a packet", ty)
		}
		if err := CheckFromClient(h, all); !errors.As(err, &e) || e.Header != h {
			t.Errorf("%v from a client: %v", ty, err)
		}
		if err := CheckFromServer(h, all); !errors.As(err, &e) || e.Header != h {
			t.Errorf("%v from a server: %v", ty, err)
		}
	}
}

func TestSizes(t *testing.T) {
	for name, c := range map[string]struct{ got, want int }{
		"largest version 1 chunk": {MaxUploadData, 16777178},
		"payload":                 {MaxPayload, 16777210},
		"chunk data":              {MaxChunkData, 16777216 - 46},
		"answer":                  {HeaderSize + BlobHeaderSize + MaxBlobData, 256 << 10},
		"stored chunk":            {MaxBlob, 16777216 + 44},
		"record":                  {MaxRecord, len(Record{ID: long, Name: long}.AppendFile(nil))},
	} {
		if c.got != c.want {
			t.Errorf("%s: %d, want %d", name, c.got, c.want)
		}
	}
	for _, c := range []struct {
		h    Header
		want bool
	}{
		{Header{Type: TypeChunk, Len: MaxPayload}, true},
		{Header{Type: TypeChunk, Len: MaxPayload - 1}, false},
		{Header{Type: TypeUploadBlob, Len: MaxPayload}, true},
		{Header{Type: TypeUploadBlob, Len: 0}, false},
		{Header{Type: TypeUploadChunk, Len: MaxPayload}, false},
		{Header{Type: TypeHashListPart, Len: MaxPayload}, false},
	} {
		if c.h.Continues() != c.want {
			t.Errorf("%+v continues: %v", c.h, c.h.Continues())
		}
	}
}

func TestFeatureNames(t *testing.T) {
	for f := range AllFeatures + 1 {
		if got, err := ParseFeatures(f.String()); err != nil || got != f {
			t.Errorf("%q: %v, %v", f.String(), got, err)
		}
	}
	for s, want := range map[string]Features{"": 0, "none": 0, "all": AllFeatures, "browse": Browse, "control, browse": Browse | Control, "blobs,blobs": Blobs} {
		if got, err := ParseFeatures(s); err != nil || got != want {
			t.Errorf("%q: %v, %v", s, got, err)
		}
	}
	for _, s := range []string{"browse,", ",", "Browse", "browse blobs", "tape"} {
		if f, err := ParseFeatures(s); !errors.Is(err, fault.Invalid) {
			t.Errorf("%q: %v, %v", s, f, err)
		}
	}
	if (Browse | Blobs).Has(Blobs|Control) || !AllFeatures.Has(Namespaces) || !Features(0).Has(0) {
		t.Error("Has wants some where it should want all")
	}
	if s := (Browse | 1<<20).String(); s != "browse" {
		t.Errorf("an unknown bit is called %q", s)
	}
}
