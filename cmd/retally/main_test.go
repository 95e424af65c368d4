package main

import (
	"context"
	"testing"
	"time"
)

// TestSupervise: a command that cannot be interrupted, because it waits for a
// terminal or a pipe, does not keep the program alive.
func TestSupervise(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	if got := supervise(ctx, func() {}, time.Hour, func() int { return 3 }); got != 3 {
		t.Errorf("code = %d, want the command's 3", got)
	}
	cancel()
	if got := supervise(ctx, func() {}, time.Hour, func() int { <-ctx.Done(); return 1 }); got != 1 {
		t.Errorf("code = %d, want the 1 of a command that ends when it is interrupted", got)
	}
	if got := supervise(ctx, func() {}, time.Millisecond, func() int { select {} }); got != exitInterrupted {
		t.Errorf("code = %d, want %d", got, exitInterrupted)
	}
}
