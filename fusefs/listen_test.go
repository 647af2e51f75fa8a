package fusefs

import (
	"context"
	"fmt"
	"testing"
	"time"

	"pmxfs/internal/tree"
)

// A stuckNode is a file whose attributes take their time.
type stuckNode struct {
	*memFile
	asked, gate chan struct{}
}

func (n *stuckNode) Attr(ctx context.Context) (tree.Attr, error) {
	n.asked <- struct{}{}
	<-n.gate
	return n.memFile.Attr(ctx)
}

// An answer that takes long holds up nobody else, whether requests came shortly
// before it or none for a while, and whoever gave it answers more.
func TestLongAnswer(t *testing.T) {
	for _, copying := range []bool{false, true} {
		t.Run(fmt.Sprintf("library sends %t", copying), func(t *testing.T) {
			root := newDir(1)
			stuck := &stuckNode{newFile(2, 1), make(chan struct{}), make(chan struct{})}
			root.add("stuck", stuck)
			const files = 200
			for i := range files {
				root.add(fmt.Sprintf("file-%03d", i), newFile(uint64(100+i), int64(i)))
			}
			m := mountTree(t, Config{Root: root, copying: copying}, MountOptions{})
			defer close(stuck.gate)
			from := 0
			look := func() {
				t.Helper()
				if got := m.run(fmt.Sprintf(`seq -f "$M/file-%%03g" %d %d | xargs stat -c %%s | wc -l`, from, from+49)); got != "50" {
					t.Errorf("stat shows %s files", got)
				}
				from += 50
			}
			for _, pause := range []time.Duration{0, 2 * idleLooks * longAnswer} {
				look()
				time.Sleep(pause)
				done := make(chan error)
				go func() {
					_, err := m.try("stat", m.dir+"/stuck")
					done <- err
				}()
				<-stuck.asked
				look()
				stuck.gate <- struct{}{}
				if err := <-done; err != nil {
					t.Error(err)
				}
				m.EntryChanged(1, "stuck")
			}
		})
	}
}
