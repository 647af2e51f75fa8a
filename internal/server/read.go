package server

import (
	"errors"
	"io"

	"pmxfs/internal/fault"
	"pmxfs/internal/wire"
)

// maxSmall bounds the payloads of requests that have no data: the longest is a
// list of digests and a mark.
const maxSmall = wire.MaxDigests*wire.DigestSize + 1

// read takes packets and hands each to what it is for, until the stream ends or
// breaks the protocol's framing.
func (c *conn) read(in *wire.Reader) error {
	for {
		c.pace.between()
		h, err := in.Next()
		if err == nil {
			c.pace.begun(h)
			if err = wire.CheckFromClient(h, c.features); err == nil {
				err = c.dispatch(in, h)
			}
		}
		if errors.Is(err, io.ErrUnexpectedEOF) {
			err = &wire.FramingError{Header: h, Reason: "the connection ended within it"}
		}
		if err != nil {
			return err
		}
	}
}

// dispatch works on one packet. An error ends the connection; what is wrong with
// the packet alone is answered on its id.
func (c *conn) dispatch(in *wire.Reader, h wire.Header) error {
	isUpload := h.Type == wire.TypeUploadChunk || h.Type == wire.TypeUploadBlob
	if c.left.Load() != nil && !isUpload {
		return nil
	}
	switch h.Type {
	case wire.TypeBackupDataFixed, wire.TypeBackupDataDynamic, wire.TypeBackupFinished:
		return c.data(in, h)
	case wire.TypeUploadChunk, wire.TypeUploadBlob:
		return c.receiveUpload(in, h)
	}
	if h.Type != wire.TypeCancel && h.Type != wire.TypeCreateBackup {
		if err := c.waitForTurn(); err != nil {
			return err
		}
	}
	payload, perr := in.Payload(maxSmall)
	if perr != nil && !errors.Is(perr, fault.Invalid) {
		return perr
	}
	if h.Type == wire.TypeCancel {
		c.cancelRequest(h, payload, perr)
		return nil
	}
	r, err := c.accept(h)
	if err != nil {
		return err
	}
	if perr == nil {
		perr = c.begin(r, payload)
	}
	if perr != nil {
		r.fail(perr)
	}
	return nil
}

// begin begins to work on a request. The payload is the reader's: what is kept
// of it is copied. An error is the request's answer.
func (c *conn) begin(r *request, payload []byte) error {
	switch r.typ {
	case wire.TypeGetHashList:
		return c.getHashList(r, payload)
	case wire.TypeDownloadChunks, wire.TypeDownloadBlobs:
		return c.download(r, payload)
	case wire.TypeCreateBackup:
		return c.createBackup(r, payload)
	case wire.TypeListBackups:
		return c.listBackups(r, payload)
	case wire.TypeGetFile:
		return c.getFile(r, payload)
	case wire.TypeCommitBackup:
		return c.commitBackup(r, payload)
	case wire.TypeHasChunks:
		return c.hasChunks(r, payload)
	case wire.TypeGetStatus:
		return c.getStatus(r, payload)
	}
	return fault.Newf(fault.Unsupported, "request", r.typ.String(), "this server does not know it")
}

// cancelRequest works on a Cancel.
func (c *conn) cancelRequest(h wire.Header, payload []byte, err error) {
	r := c.find(h.ID)
	if r == nil {
		return // it has been answered already
	}
	var m wire.Cancel
	if err == nil {
		m, err = wire.ParseCancel(payload)
	}
	switch {
	case err != nil:
		c.giveUp(r, err)
	case !m.LiftOnly:
		c.giveUp(r, fault.New(fault.Canceled, "", "", errCanceled))
	case r.typ == wire.TypeDownloadBlobs:
		r.demand()
	}
}

var errCanceled = errors.New("canceled by the client")

// giveUp ends a request with err, unless it is past that: its answer is on its
// way, or what it asks for cannot be stopped any more and will be answered.
func (c *conn) giveUp(r *request, err error) {
	switch {
	case r.stream != nil:
		c.failStream(r.stream, err)
	case r.upload != nil:
		c.uploads.giveUp(r.upload, err)
	case r.typ == wire.TypeCommitBackup:
		r.cancel() // looked at until it is too late
	default:
		r.fail(err)
	}
}

// stray answers a data packet on an id that no stream has. One such Error waits
// to be sent at most: who floods us with strays shall not fill our memory.
func (c *conn) stray(h wire.Header) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.strays[h.ID] {
		return
	}
	err := fault.Newf(fault.Invalid, h.Type.String(), "", "no backup stream has the id %d", h.ID)
	r := &request{c: c, id: h.ID, typ: h.Type, stray: true, cancel: func() {}}
	c.strays[h.ID] = true
	r.packets = wire.AppendPacket(nil, h.ID, wire.TypeError, wire.FromError(err).Append(nil))
	r.final = true
	r.queueLocked()
}
