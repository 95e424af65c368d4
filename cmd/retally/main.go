// Command retally recounts every measurement of a confidential deployment from
// public inputs, compares it with what was published, and says why a value
// differs. See `retally help`.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := supervise(ctx, stop, 2*time.Second, func() int {
		return execute(ctx, os.Args[1:], os.Getenv, os.Stdin, os.Stdout, os.Stderr)
	})
	os.Exit(code)
}

// supervise returns what work returns. An interrupted command ends by itself,
// unless it waits for a terminal, a pipe without a writer or a dead file
// server: no context reaches into such a call, so after the grace period it is
// left behind. A second signal ends the process at once.
func supervise(ctx context.Context, stop func(), grace time.Duration, work func() int) int {
	done := make(chan int, 1)
	go func() { done <- work() }()
	select {
	case code := <-done:
		stop()
		return code
	case <-ctx.Done():
		stop()
	}
	select {
	case code := <-done:
		return code
	case <-time.After(grace):
		fmt.Fprintln(os.Stderr, "retally: interrupted")
		return exitInterrupted
	}
}
