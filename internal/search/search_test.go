package search_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/retally/retally/internal/search"
)

func axes(sizes ...int) []search.Axis[[]int] {
	var out []search.Axis[[]int]
	for i, n := range sizes {
		a := search.Axis[[]int]{Name: fmt.Sprintf("axis%d", i)}
		for v := 1; v <= n; v++ {
			a.Variants = append(a.Variants, search.Variant[[]int]{
				ID: fmt.Sprintf("a%dv%d", i, v), Note: fmt.Sprintf("%d on %d", v, i), Apply: func(c *[]int) { (*c)[i] = v },
			})
		}
		out = append(out, a)
	}
	return out
}

func equals(want []int) func(context.Context, *[]int) (bool, error) {
	return func(_ context.Context, c *[]int) (bool, error) { return slices.Equal(*c, want), nil }
}

// TestFindsMinimal: whatever the target, the answer names exactly the axes in
// which it deviates, with one worker and with many.
func TestFindsMinimal(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		sizes := rapid.SliceOfN(rapid.IntRange(1, 4), 1, 5).Draw(t, "sizes")
		want := make([]int, len(sizes))
		n := 0
		for i, s := range sizes {
			if want[i] = rapid.IntRange(0, s).Draw(t, "want"); want[i] > 0 {
				n++
			}
		}
		var answers []search.Answer
		for _, workers := range []int{1, 8} {
			a, err := search.Find(context.Background(), make([]int, len(sizes)), slices.Clone, axes(sizes...), search.Options{Workers: workers}, equals(want))
			if err != nil {
				t.Fatal(err)
			}
			answers = append(answers, a)
		}
		if d := cmp.Diff(answers[0], answers[1]); d != "" {
			t.Fatalf("workers change the answer: %s", d)
		}
		if a := answers[0]; !a.Found || len(a.Deviations) != n {
			t.Fatalf("answer %+v for %v", a, want)
		}
	})
}

func TestSentences(t *testing.T) {
	ctx := context.Background()
	base := []int{0, 0, 0}
	for _, c := range []struct {
		want []int
		opt  search.Options
		text string
	}{
		{[]int{0, 0, 0}, search.Options{}, "matches as configured"},
		{[]int{0, 2, 0}, search.Options{}, "matches with 2 on 1"},
		{[]int{1, 2, 1}, search.Options{}, "matches with 1 on 0, 2 on 1 and 1 on 2"},
		{[]int{9, 0, 0}, search.Options{}, "no known variant matches (12 tried)"},
		{[]int{9, 0, 0}, search.Options{MaxTried: 5}, "no match among the first 5 combinations"},
		{[]int{1, 2, 1}, search.Options{MaxDeviations: 2}, "no known variant matches (10 tried)"},
	} {
		a, err := search.Find(ctx, base, slices.Clone, axes(1, 2, 1), c.opt, equals(c.want))
		if err != nil {
			t.Fatal(err)
		}
		if got := a.Sentence(); got != c.text {
			t.Errorf("%v %+v: %q, want %q", c.want, c.opt, got, c.text)
		}
	}
}

func TestCancel(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, err := search.Find(ctx, []int{0}, slices.Clone, axes(1), search.Options{}, equals([]int{9}))
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error = %v, want Canceled", err)
	}
}
