package backup

import (
	"sync/atomic"
	"time"
)

// An EventKind says what an event is about.
type EventKind int

// The kinds of events.
const (
	Started     EventKind = iota // a file is being read
	Unchanged                    // the file is made from its last index: its change token is the same
	Repeated                     // the file is read again, with every chunk sent, for the reason Err
	Finished                     // the file is complete
	FileFailed                   // the file is left out, for the reason Err
	Interrupted                  // the connection broke, for the reason Err; it is tried again
	Resumed                      // the connection is back, and the backup goes on
	Warning                      // something is not as it should be and does no harm: Err
	Problem                      // a file of an archive is missing, or not as it was: Err
	Noted                        // something about a file of an archive that is good to know: Err
)

// An Event is something that people may want to know.
type Event struct {
	Kind EventKind
	File string // name; empty where it is about all of them
	Err  error
}

// counters are a file's numbers as they grow.
type counters struct {
	Size                atomic.Int64 // bytes of the source; -1: not known yet
	Done                atomic.Int64 // bytes entered
	Read                atomic.Int64 // bytes read from the source
	Sent                atomic.Int64 // bytes of uploads
	New, Known          atomic.Int64 // chunks
	NewBytes, Zeros     atomic.Int64 // plain bytes of new chunks; of chunks of zeros
	Entries, FilesRead  atomic.Int64 // of an archive
	Problems            atomic.Int64
	state               atomic.Int32
	begin, end          atomic.Int64 // unix nanoseconds
	repeated, unchanged atomic.Bool
}

// count counts a piece that was entered.
func (c *counters) count(p *piece) {
	n := int64(p.count)
	c.Done.Add(n * int64(p.size))
	if p.zero {
		c.Zeros.Add(n * int64(p.size))
	}
	if p.sent {
		c.New.Add(1)
		c.NewBytes.Add(int64(p.size))
		n--
	}
	c.Known.Add(n)
}

// restart forgets what is counted anew when a file is repeated: not what was
// read and sent, which was.
func (c *counters) restart() {
	c.Done.Store(0)
	c.New.Store(0)
	c.Known.Store(0)
	c.NewBytes.Store(0)
	c.Zeros.Store(0)
	c.Entries.Store(0)
	c.FilesRead.Store(0)
	c.Problems.Store(0)
}

// A FileState is how far a file is.
type FileState int32

// The states.
const (
	Waiting FileState = iota
	Working
	Complete
	Failed
)

// A FileStatus is how far a file is, or how it ended.
type FileStatus struct {
	Name      string
	Path      string // of the stored file, once it is begun
	State     FileState
	Err       error // why it failed
	Size      int64 // bytes; -1: not known
	Done      int64 // bytes that are entered
	Read      int64 // bytes read from the source: fewer than Size where it has holes
	Sent      int64 // bytes of uploads, as they went
	New       int64 // chunks that the store did not have
	NewBytes  int64 // their plain bytes
	Known     int64 // chunks that it had
	Zeros     int64 // bytes of chunks that are all zeros
	Repeated  bool  // it was read again, with all chunks sent
	Unchanged bool  // it was not read, but made from its last index
	Entries   int64 // of an archive, at its first file: files and directories in it
	FilesRead int64 // those of them whose content was read
	Problems  int64 // those of which something is missing
	Begin     time.Time
	Took      time.Duration // so far
}

func (f *file) status() FileStatus {
	c := &f.progress
	s := FileStatus{Name: f.Name, State: FileState(c.state.Load()), Size: c.Size.Load(), Done: c.Done.Load(), Read: c.Read.Load(),
		Sent: c.Sent.Load(), New: c.New.Load(), NewBytes: c.NewBytes.Load(), Known: c.Known.Load(), Zeros: c.Zeros.Load(),
		Repeated: c.repeated.Load(), Unchanged: c.unchanged.Load(), Entries: c.Entries.Load(), FilesRead: c.FilesRead.Load(),
		Problems: c.Problems.Load()}
	if p := f.path.Load(); p != nil {
		s.Path = *p
	}
	if begin := c.begin.Load(); begin != 0 {
		s.Begin = time.Unix(0, begin)
		end := time.Now()
		if e := c.end.Load(); e != 0 {
			end = time.Unix(0, e)
		}
		s.Took = end.Sub(s.Begin)
	}
	f.r.mu.Lock()
	s.Err = f.err
	f.r.mu.Unlock()
	return s
}

// Status returns how far each file is, in the order they were given. It may be
// called at any time.
func (r *Run) Status() []FileStatus {
	list := make([]FileStatus, len(r.files))
	for i, f := range r.files {
		list[i] = f.status()
	}
	return list
}
