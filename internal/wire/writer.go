package wire

import (
	"bufio"
	"errors"
	"io"
	"net"
	"os"

	"pmxfs/internal/fault"
)

const (
	// scratchSize is room for the fixed part of any packet that carries data.
	scratchSize = 64
	// writeBuffer is a TLS record: where a packet cannot be written as a vector,
	// its small parts are joined up to this length.
	writeBuffer = 16 << 10
	// copyBuffer is how much WriteFrom takes from its source at a time.
	copyBuffer = 64 << 10
)

// A Writer puts packets on a byte stream, each in one vectored write where the
// stream is a TCP or Unix socket; on anything else small parts are joined first,
// so that a header is never a write of its own. One goroutine uses it at a time.
// It allocates nothing per packet. A packet that could not be written whole has
// broken the stream: the error stays, and every later call returns it.
type Writer struct {
	dst     io.Writer
	joined  *bufio.Writer // nil for sockets
	vec     [][]byte      // reused: header and parts
	buf     net.Buffers   // what a vectored write consumes; a field so that it does not escape anew
	header  [HeaderSize]byte
	scratch [scratchSize]byte
	limited io.LimitedReader
	copied  []byte // WriteFrom's buffer, made when first needed
	err     error
}

// NewWriter returns a Writer to dst.
func NewWriter(dst io.Writer) *Writer {
	w := &Writer{dst: dst, vec: make([][]byte, 0, 8)}
	switch dst.(type) {
	case *net.TCPConn, *net.UnixConn:
	default:
		w.joined = bufio.NewWriterSize(dst, writeBuffer)
	}
	return w
}

// Scratch returns an empty slice with room for 64 bytes, to which the caller may
// append the fixed part of the next packet: it is good until the next call.
func (w *Writer) Scratch() []byte { return w.scratch[:0] }

// Write writes one packet, whose payload is the parts in order. The parts are
// the caller's again when it returns. More than MaxPayload bytes are an error of
// kind invalid, and nothing is written.
func (w *Writer) Write(id uint8, t Type, parts ...[]byte) error {
	n := total(parts)
	if err := w.check(t, n); err != nil {
		return err
	}
	return w.send(appendHeader(w.header[:0], id, t, n), parts)
}

// WritePackets writes whole packets as AppendPacket makes them, any number of
// them, in one write.
func (w *Writer) WritePackets(packets []byte) error {
	if w.err != nil {
		return w.err
	}
	_, err := w.dst.Write(packets)
	return w.fail(err)
}

// WriteFrom writes one packet, whose payload is head and then n bytes of src. From
// a file to a TCP socket the kernel moves them without a copy. Once it has begun,
// a source with fewer bytes, or one that fails, breaks the stream.
func (w *Writer) WriteFrom(id uint8, t Type, head []byte, src io.Reader, n int) error {
	if n < 0 || n > MaxPayload {
		return w.check(t, MaxPayload+1)
	}
	size := len(head) + n
	if err := w.check(t, size); err != nil {
		return err
	}
	w.limited = io.LimitedReader{R: src, N: int64(n)}
	err := w.sendFrom(appendHeader(w.header[:0], id, t, size), head)
	w.limited.R = nil
	return err
}

func (w *Writer) sendFrom(header, head []byte) error {
	if w.joined != nil {
		w.joined.Write(header)
		w.joined.Write(head)
		_, err := w.joined.ReadFrom(&w.limited)
		if err == nil {
			err = w.short()
		}
		if err == nil {
			err = w.joined.Flush()
		}
		return w.fail(err)
	}
	tcp, _ := w.dst.(*net.TCPConn)
	if _, isFile := w.limited.R.(*os.File); isFile && tcp != nil {
		w.vec = append(w.vec[:0], header, head)
		if err := w.flush(); err != nil {
			return err
		}
		if _, err := tcp.ReadFrom(&w.limited); err != nil {
			return w.fail(err)
		}
		return w.fail(w.short())
	}
	if w.copied == nil {
		w.copied = make([]byte, copyBuffer)
	}
	w.vec = append(w.vec[:0], header, head)
	for {
		n, err := io.ReadFull(&w.limited, w.copied[:min(copyBuffer, int(w.limited.N))])
		if err != nil {
			return w.fail(unexpected(err))
		}
		w.vec = append(w.vec, w.copied[:n])
		if err := w.flush(); err != nil || w.limited.N == 0 {
			return err
		}
	}
}

// short says whether WriteFrom's source ended early.
func (w *Writer) short() error {
	if w.limited.N > 0 {
		return io.ErrUnexpectedEOF
	}
	return nil
}

func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

func (w *Writer) send(header []byte, parts [][]byte) error {
	if w.joined != nil {
		w.joined.Write(header) // its error stays in joined and comes out of Flush
		for _, p := range parts {
			w.joined.Write(p)
		}
		return w.fail(w.joined.Flush())
	}
	w.vec = append(append(w.vec[:0], header), parts...)
	return w.flush()
}

// flush writes w.vec to the socket and forgets it: the parts are not ours to keep.
func (w *Writer) flush() error {
	w.buf = w.vec
	_, err := w.buf.WriteTo(w.dst)
	clear(w.vec)
	w.vec = w.vec[:0]
	return w.fail(err)
}

func (w *Writer) check(t Type, n int) error {
	if w.err != nil {
		return w.err
	}
	if n > MaxPayload {
		return fault.Newf(fault.Invalid, "encode", t.String(), "%d bytes, at most %d fit a packet", n, MaxPayload)
	}
	return nil
}

func (w *Writer) fail(err error) error {
	if err != nil {
		w.err = err
	}
	return err
}
