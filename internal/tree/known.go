package tree

import "sync/atomic"

// An onceKnown is a value that is found out once, and never changes then.
type onceKnown[T any] struct{ p atomic.Pointer[T] }

// get returns the value, or nil.
func (k *onceKnown[T]) get() *T { return k.p.Load() }

// set reports whether v is the value now; another was there before if not.
func (k *onceKnown[T]) set(v *T) bool { return k.p.CompareAndSwap(nil, v) }
