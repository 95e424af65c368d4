// Package memo remembers what was computed once.
package memo

import "sync"

// Memo remembers values by what they are of. A value asked for while it is
// computed is waited for. The zero value is ready.
type Memo[V any] struct {
	mu   sync.Mutex
	done map[string]*entry[V]
}

type entry[V any] struct {
	mu    sync.Mutex
	ok    bool
	value V
}

// Get returns the value of a key, computed by the first call that succeeds. An
// error is not remembered: the next call may have another context.
func (m *Memo[V]) Get(key string, compute func() (V, error)) (V, error) {
	m.mu.Lock()
	if m.done == nil {
		m.done = map[string]*entry[V]{}
	}
	e := m.done[key]
	if e == nil {
		e = &entry[V]{}
		m.done[key] = e
	}
	m.mu.Unlock()
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.ok {
		return e.value, nil
	}
	v, err := compute()
	if err != nil {
		var none V
		return none, err
	}
	e.value, e.ok = v, true
	return v, nil
}
