//go:build !race

package cache

import "syscall"

// offHeapMin is the size from which buffers lie outside the Go heap: the garbage
// collector would let a heap that holds them grow to twice their size before
// it looks, and the bound is a promise. Below, a mapping each would be too many.
const offHeapMin = 64 << 10

// allocate returns n bytes of memory, and whether free must be given it back.
func allocate(n int) (mem []byte, mapped bool) {
	if n >= offHeapMin {
		mem, err := syscall.Mmap(-1, 0, n, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_ANON|syscall.MAP_PRIVATE)
		if err == nil {
			return mem, true
		}
		// Out of mappings (vm.max_map_count): the heap still has room.
	}
	return make([]byte, n), false
}

func free(mem []byte) {
	// It fails only for what is not a mapping, and then nothing can be done.
	_ = syscall.Munmap(mem)
}
