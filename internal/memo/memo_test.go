package memo_test

import (
	"errors"
	"sync"
	"testing"

	"github.com/retally/retally/internal/memo"
)

// TestGet: one computation for a key however many ask at once, and none that
// failed is remembered.
func TestGet(t *testing.T) {
	var m memo.Memo[int]
	fault := errors.New("no luck")
	if v, err := m.Get("a", func() (int, error) { return 7, fault }); v != 0 || !errors.Is(err, fault) {
		t.Errorf("got %d, %v", v, err)
	}
	computed := 0
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			if v, err := m.Get("a", func() (int, error) { computed++; return 1, nil }); v != 1 || err != nil {
				t.Errorf("got %d, %v", v, err)
			}
		})
	}
	wg.Wait()
	if computed != 1 {
		t.Errorf("computed %d times", computed)
	}
	if v, err := m.Get("b", func() (int, error) { return 2, nil }); v != 2 || err != nil {
		t.Errorf("another key: %d, %v", v, err)
	}
}
