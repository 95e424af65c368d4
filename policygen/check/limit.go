package check

import (
	"context"
	"errors"
	"fmt"
	"runtime/metrics"
	"time"
)

// Limits bound what a foreign policy may use for one answer. Zero fields take
// the defaults.
type Limits struct {
	Time   time.Duration // 10 s
	Memory uint64        // growth of the heap in bytes: 1 GiB
}

const (
	defaultTime   = 10 * time.Second
	defaultMemory = 1 << 30
	watchEvery    = 10 * time.Millisecond
)

// LimitError is a policy that wants more than its limits: it has no answer
// here, whatever it would say in the end.
type LimitError struct{ What string }

func (e *LimitError) Error() string {
	return "the policy needs more than " + e.What + " for one answer"
}

// limited gives a context that ends when the limits are reached; its cause is
// then a LimitError. stop ends the watch.
func (l Limits) limited(ctx context.Context) (_ context.Context, stop func()) {
	if l.Time <= 0 {
		l.Time = defaultTime
	}
	if l.Memory == 0 {
		l.Memory = defaultMemory
	}
	ctx, cancel := context.WithCancelCause(ctx)
	done := make(chan struct{})
	start, before := time.Now(), heap()
	go func() {
		tick := time.NewTicker(watchEvery)
		defer tick.Stop()
		for {
			select {
			case <-done:
				return
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			switch now := heap(); {
			case time.Since(start) > l.Time:
				cancel(&LimitError{l.Time.String()})
			case now > before && now-before > l.Memory:
				cancel(&LimitError{fmt.Sprintf("%d MiB of memory", l.Memory>>20)})
			}
		}
	}()
	return ctx, func() {
		close(done)
		cancel(nil)
	}
}

// heap is the size of what lies on the heap, live or not yet swept, in bytes.
func heap() uint64 {
	s := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	metrics.Read(s)
	return s[0].Value.Uint64()
}

// reached returns the limit that ended the context, nil if none did.
func reached(ctx context.Context) error {
	var limit *LimitError
	if errors.As(context.Cause(ctx), &limit) {
		return limit
	}
	return nil
}
