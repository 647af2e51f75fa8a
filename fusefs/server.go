package fusefs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"runtime"
	"runtime/debug"
	"sync"
	"syscall"
	"time"

	"bazil.org/fuse"

	"pmxfs/internal/tree"
)

// maxRead is the size of the largest READ: neither an option nor the kernel can
// make it more with this library.
const maxRead = 128 << 10

// A Config says what to serve and how.
type Config struct {
	Root tree.Dir // what the mountpoint shows

	// Space returns the room in the store, for df. It may wait. Nil: unknown.
	Space func(ctx context.Context) (tree.Space, error)

	Owner  Owner // whose files they seem to be
	NoPush bool  // push nothing into the page cache

	// NoXattr says that no node of the tree has extended attributes, so that
	// the kernel need not ask for them at all.
	NoXattr bool

	Log *slog.Logger // nil: no log

	// InterruptAfter is how long a request may have waited before an interrupt
	// that asks for nothing (see news) ends it with EINTR; 0 is half a second.
	// Programs written in Go interrupt their own reads all the time, and few
	// others expect EINTR from a file, so a read that will be there in a moment
	// is better finished. Any other interrupt ends the wait at once.
	InterruptAfter time.Duration

	copying bool         // tests: have the library send all there is
	memory  func() int64 // tests: what memory could be had; nil: ask the system
}

// A Server answers the requests of one mount.
type Server struct {
	conn    *fuse.Conn
	device  device
	cfg     Config
	log     *slog.Logger
	ctx     context.Context // ends when the kernel has gone; all waiting is done under it
	cancel  context.CancelFunc
	over    chan struct{} // closed when nothing more can be offered to the pushers
	nodes   nodes
	handles handles
	waiting waiting
	reads   chan struct{} // a token for each read that is at it
	others  chan struct{} // and for each other request
	tasks   sync.WaitGroup
	bufs    sync.Pool // *[maxRead]byte
	lookers lookers
	lead    lead
	scopes  scopes
	push    pusher
	fills   fills
	stale   stale
	stats   counters
	said    said
}

// New returns a server for conn, which it does not close. It asks the root for
// its attributes, and fails if it has none.
func New(conn *fuse.Conn, cfg Config) (*Server, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.InterruptAfter == 0 {
		cfg.InterruptAfter = 500 * time.Millisecond
	}
	s := &Server{
		conn: conn, cfg: cfg, log: cfg.Log,
		reads: make(chan struct{}, maxAtOnce), others: make(chan struct{}, maxAtOnce), over: make(chan struct{}),
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.bufs.New = func() any { return new([maxRead]byte) }
	attr, err := cfg.Root.Attr(s.ctx)
	if err != nil {
		return nil, fmt.Errorf("attributes of the root: %w", err)
	}
	s.nodes.init(cfg.Root, attr)
	s.handles.init()
	s.waiting.init(cfg.InterruptAfter)
	s.lookers.init()
	s.scopes.init()
	s.push.init()
	s.fills.init(cfg.memory)
	s.stale.init()
	s.device.fd = -1
	if !cfg.copying {
		s.device.open(conn)
	}
	return s, nil
}

// Serve answers requests until the file system is unmounted, and then returns
// nil. It returns an error if the connection to the kernel fails otherwise.
// All of the server's goroutines have ended and all handles are closed when it
// returns. It is called once.
func (s *Server) Serve() error {
	// One listens and the others answer: as many as there are cores, for what is
	// answered here needs no waiting.
	readers := min(max(runtime.NumCPU(), 2), 4)
	s.lead.init(readers, s.device.fd < 0)
	errs := make(chan error, readers)
	for range readers {
		go func() { errs <- s.read() }()
	}
	var helpers sync.WaitGroup
	helpers.Go(s.overtake)
	helpers.Go(s.invalidate)
	if !s.cfg.NoPush {
		for range pushers {
			helpers.Go(s.pushAll)
		}
		for range fillers() {
			helpers.Go(s.fillAll)
		}
	}
	var err error
	for range readers {
		err = errors.Join(err, <-errs)
	}
	s.cancel()
	s.tasks.Wait()
	close(s.over)
	helpers.Wait()
	s.closeFills()
	s.handles.closeAll()
	s.device.close()
	return err
}

// read answers requests, when it has the lead, until the connection ends.
func (s *Server) read() error {
	<-s.lead.free
	failed := 0
	for {
		req, err := s.next()
		switch {
		case err == nil:
			failed = 0
			if !s.serveLeading(req) {
				<-s.lead.free
			}
		case errors.Is(err, io.EOF):
			s.cancel() // nobody is there any more to wait for anything
			s.lead.free <- struct{}{}
			return nil
		case errors.Is(err, syscall.EINTR), errors.Is(err, syscall.ENOENT), errors.Is(err, syscall.EAGAIN):
			// The request was given up before it could be read.
		default:
			s.log.Error("read a request from the kernel", "error", err)
			if failed++; failed == 100 {
				s.lead.free <- struct{}{}
				return fmt.Errorf("read requests from the kernel: %w", err)
			}
		}
	}
}

// serve answers one request, or has it answered. A panic costs that request
// alone. It can only come from the tree, which is never called after the reply
// (but for Release, see giveBack): a second reply would corrupt bazil's pool.
func (s *Server) serve(req fuse.Request) {
	defer func() {
		if p := recover(); p != nil {
			s.panicked(fmt.Sprintf("%T", req), p)
			req.RespondError(syscall.EIO)
		}
	}()
	s.dispatch(req)
}

// panicked takes note of a panic that was recovered from.
func (s *Server) panicked(what string, p any) {
	s.stats.panics.Add(1)
	s.log.Error("panic", "in", what, "panic", p, "stack", string(debug.Stack()))
}

// dispatch finds the one who answers a request.
func (s *Server) dispatch(req fuse.Request) {
	switch r := req.(type) {
	case *fuse.ReadRequest:
		if r.Dir {
			s.readdir(r, false)
		} else {
			s.readFile(r)
		}
	case *fuse.LookupRequest:
		s.lookup(r)
	case *fuse.GetattrRequest:
		s.getattr(r)
	case *fuse.ForgetRequest:
		s.nodes.forget(r.Node, r.N)
		r.Respond()
	case *fuse.BatchForgetRequest:
		for _, f := range r.Forget {
			s.nodes.forget(f.NodeID, f.N)
		}
		r.Respond()
	case *fuse.OpenRequest:
		s.open(r)
	case *fuse.ReleaseRequest:
		s.handles.release(r.Handle)
		s.closed(r.Node, false)
		r.Respond()
	case *fuse.InterruptRequest:
		s.interrupt(r)
	case *fuse.ReadlinkRequest:
		s.readlink(r)
	case *fuse.GetxattrRequest:
		s.getxattr(r)
	case *fuse.ListxattrRequest:
		s.listxattr(r)
	case *fuse.StatfsRequest:
		s.statfs(r)
	case *fuse.UnrecognizedRequest:
		if d := readdirplusOf(r); d != nil {
			s.readdir(d, true)
		} else {
			s.refuse(r)
		}
	case *fuse.DestroyRequest:
		r.Respond()
	default:
		s.refuse(req)
	}
}

// refuse answers requests that are not served. ENOSYS makes the kernel do
// without for ever: it saves a FLUSH each close, a POLL each event loop, an
// ACCESS each access(2), which without default_permissions has no answer but yes.
func (s *Server) refuse(req fuse.Request) {
	switch req.(type) {
	case *fuse.CreateRequest, *fuse.MkdirRequest, *fuse.MknodRequest, *fuse.SymlinkRequest,
		*fuse.LinkRequest, *fuse.RenameRequest, *fuse.RemoveRequest, *fuse.SetattrRequest,
		*fuse.WriteRequest, *fuse.SetxattrRequest, *fuse.RemovexattrRequest, *fuse.FAllocateRequest:
		req.RespondError(fuse.Errno(syscall.EROFS))
	default:
		req.RespondError(syscall.ENOSYS)
	}
}
