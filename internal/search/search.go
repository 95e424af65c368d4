// Package search finds out which named deviations make a computed value equal
// a published one: a product over axes of named variants, fewest deviations
// first, so that the first hit is a minimal explanation.
package search

import (
	"context"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
)

// Variant is one named way in which a thing may be. Apply changes a private
// copy of the configuration.
type Variant[C any] struct {
	ID    string // stable, for reports
	Since string // version that introduced it, "" if unknown
	Note  string // completes the sentence "matches with ..."
	Apply func(*C)
}

// Axis is a set of variants of which one is in force. The base configuration
// stands for the one that is not listed.
type Axis[C any] struct {
	Name     string
	Variants []Variant[C]
}

// Options bound a search.
type Options struct {
	MaxDeviations int // 0 means as many as there are axes
	MaxTried      int // 0 means 1,000,000
	Workers       int // 0 means one for each processor
	// Count, if not nil, is raised by each combination tried, for a display.
	Count *atomic.Int64
}

// Deviation is a variant that a match needs.
type Deviation struct {
	Axis  string `json:"axis"`
	ID    string `json:"id"`
	Since string `json:"since,omitempty"`
	Note  string `json:"note"`
}

// Answer is the outcome of a search.
type Answer struct {
	Found      bool        `json:"found"`
	Deviations []Deviation `json:"deviations,omitempty"` // empty: the base itself matches
	Tried      int         `json:"tried"`
	// Exhausted is true where every combination within the bounds was tried.
	Exhausted bool `json:"exhausted"`
}

// Sentence says the answer in words.
func (a Answer) Sentence() string {
	switch {
	case a.Found && len(a.Deviations) == 0:
		return "matches as configured"
	case a.Found:
		notes := make([]string, len(a.Deviations))
		for i, d := range a.Deviations {
			notes[i] = d.Note
		}
		last := notes[len(notes)-1]
		if len(notes) == 1 {
			return "matches with " + last
		}
		return "matches with " + strings.Join(notes[:len(notes)-1], ", ") + " and " + last
	case a.Exhausted:
		return fmt.Sprintf("no known variant matches (%d tried)", a.Tried)
	default:
		return fmt.Sprintf("no match among the first %d combinations", a.Tried)
	}
}

// choice is a combination: variant[i] of axis[i].
type choice struct {
	axes, variants []int
}

const batch = 512

// Find tries combinations until test reports a match. test is called by
// several goroutines. An error of test counts as "does not match": a variant may be impossible with the inputs at hand. The answer does
// not depend on the number of workers.
func Find[C any](ctx context.Context, base C, clone func(C) C, axes []Axis[C], opt Options, test func(context.Context, *C) (bool, error)) (Answer, error) {
	limit := opt.MaxTried
	if limit <= 0 {
		limit = 1_000_000
	}
	deepest := len(axes)
	if opt.MaxDeviations > 0 {
		deepest = min(deepest, opt.MaxDeviations)
	}
	workers := opt.Workers
	if workers <= 0 {
		workers = runtime.GOMAXPROCS(0)
	}
	var a Answer
	var pending []choice
	counted := test
	if opt.Count != nil {
		counted = func(ctx context.Context, c *C) (bool, error) {
			opt.Count.Add(1)
			return test(ctx, c)
		}
	}
	flush := func() (bool, error) {
		hit, err := try(ctx, base, clone, axes, pending, workers, counted)
		if err != nil {
			return false, err
		}
		if hit < 0 {
			a.Tried += len(pending)
			pending = pending[:0]
			return false, nil
		}
		a.Tried += hit + 1
		a.Found = true
		for i, axis := range pending[hit].axes {
			v := axes[axis].Variants[pending[hit].variants[i]]
			a.Deviations = append(a.Deviations, Deviation{axes[axis].Name, v.ID, v.Since, v.Note})
		}
		return true, nil
	}
	for n := 0; n <= deepest; n++ {
		var failed error
		stopped := !combinations(axes, n, func(c choice) bool {
			if a.Tried+len(pending) >= limit {
				return false
			}
			pending = append(pending, c)
			if len(pending) < batch {
				return true
			}
			var found bool
			found, failed = flush()
			return !found && failed == nil
		})
		if failed != nil || a.Found {
			return a, failed
		}
		if found, err := flush(); found || err != nil || stopped {
			return a, err
		}
	}
	a.Exhausted = true
	return a, nil
}

// try tests a batch and returns the lowest index that matches, or -1.
func try[C any](ctx context.Context, base C, clone func(C) C, axes []Axis[C], batch []choice, workers int, test func(context.Context, *C) (bool, error)) (int, error) {
	hits := make([]bool, len(batch))
	var wg sync.WaitGroup
	next := make(chan int)
	for range min(workers, len(batch)) {
		wg.Go(func() {
			for i := range next {
				c := clone(base)
				for j, axis := range batch[i].axes {
					axes[axis].Variants[batch[i].variants[j]].Apply(&c)
				}
				ok, err := test(ctx, &c)
				hits[i] = ok && err == nil
			}
		})
	}
	for i := range batch {
		if ctx.Err() != nil {
			break
		}
		next <- i
	}
	close(next)
	wg.Wait()
	if err := ctx.Err(); err != nil {
		return -1, err
	}
	for i, hit := range hits {
		if hit {
			return i, nil
		}
	}
	return -1, nil
}

// combinations calls visit for every choice of n axes and one variant of
// each, in order, until visit returns false.
func combinations[C any](axes []Axis[C], n int, visit func(choice) bool) bool {
	var rec func(from int, c choice) bool
	rec = func(from int, c choice) bool {
		if len(c.axes) == n {
			return visit(choice{append([]int(nil), c.axes...), append([]int(nil), c.variants...)})
		}
		for axis := from; axis < len(axes); axis++ {
			for v := range axes[axis].Variants {
				if !rec(axis+1, choice{append(c.axes[:len(c.axes):len(c.axes)], axis), append(c.variants[:len(c.variants):len(c.variants)], v)}) {
					return false
				}
			}
		}
		return true
	}
	return rec(0, choice{})
}
