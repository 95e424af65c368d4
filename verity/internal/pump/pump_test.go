package pump_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/retally/retally/verity/internal/pump"
	"pgregory.net/rapid"
)

// stamper writes the offset into every chunk and fails where it is told to.
type stamper struct {
	fail   map[int64]bool
	closed *atomic.Int32
}

func (s stamper) Process(_ context.Context, c *pump.Chunk) error {
	if s.fail[c.Off] {
		return fmt.Errorf("failed at %d", c.Off)
	}
	for i := range c.Data {
		c.Data[i] = byte(c.Off/7 + int64(i))
	}
	return nil
}

func (s stamper) Close() error {
	s.closed.Add(1)
	return nil
}

// Chunks arrive whole, once and in order; the error is that of the lowest
// chunk that failed, whatever the timing; every worker is closed.
func TestOrderAndFirstError(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		chunk := int64(rapid.IntRange(1, 50).Draw(t, "chunk"))
		start := chunk * rapid.Int64Range(0, 20).Draw(t, "start")
		end := start + rapid.Int64Range(0, 3000).Draw(t, "length")
		workers := rapid.IntRange(1, 6).Draw(t, "workers")
		fail := map[int64]bool{}
		lowest := int64(-1)
		for range rapid.IntRange(0, 2).Draw(t, "failures") {
			at := start + chunk*rapid.Int64Range(0, 100).Draw(t, "fail")
			if at < end {
				fail[at] = true
				if lowest < 0 || at < lowest {
					lowest = at
				}
			}
		}
		var closed, made atomic.Int32
		var held []*pump.Chunk
		want := start
		err := pump.Run(context.Background(), pump.Job{
			Start: start, End: end, ChunkSize: int(chunk), BlockSize: 1, SumSize: 1, Workers: workers,
			Window: rapid.IntRange(0, 10).Draw(t, "window"),
			NewWorker: func() pump.Worker {
				made.Add(1)
				return stamper{fail, &closed}
			},
			Commit: func(c *pump.Chunk) error {
				if c.Off != want || len(c.Sums) != len(c.Data) {
					t.Fatalf("got chunk at %d with %d sums, want %d", c.Off, len(c.Sums), want)
				}
				for i, b := range c.Data {
					if b != byte(c.Off/7+int64(i)) {
						t.Fatalf("chunk at %d has another one's bytes", c.Off)
					}
				}
				want += int64(len(c.Data))
				c.Retain()
				held = append(held, c)
				if len(held) == 2 { // one stays behind, as with a slow follower
					held[0].Release()
					held = held[1:]
				}
				return nil
			},
		})
		if lowest >= 0 {
			if err == nil || err.Error() != fmt.Sprintf("failed at %d", lowest) || want != lowest {
				t.Fatalf("got error %v after %d, want the one at %d", err, want, lowest)
			}
		} else if err != nil || want != end {
			t.Fatalf("got error %v, end %d, want %d", err, want, end)
		}
		if made.Load() != closed.Load() {
			t.Fatalf("%d workers made, %d closed", made.Load(), closed.Load())
		}
	})
}

func TestCancel(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	var closed atomic.Int32
	n := 0
	err := pump.Run(ctx, pump.Job{
		End: 1 << 40, ChunkSize: 4096, BlockSize: 4096, SumSize: 32, Workers: 2,
		NewWorker: func() pump.Worker { return stamper{nil, &closed} },
		Commit: func(*pump.Chunk) error {
			if n++; n == 10 {
				cancel()
			}
			return nil
		},
	})
	if !errors.Is(err, context.Canceled) || closed.Load() != 2 {
		t.Errorf("got error %v, %d workers closed", err, closed.Load())
	}
}
