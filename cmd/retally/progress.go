package main

import (
	"sync/atomic"

	"github.com/retally/retally/internal/progress"
	"github.com/retally/retally/internal/show"
	"github.com/retally/retally/pipeline/run"
)

// showProgress tells about long work on stderr until the returned function is
// called.
func (a *app) showProgress(p *run.Progress) (stop func()) {
	mode := a.progress
	if mode == "auto" {
		mode = "plain"
		if isTerminal(a.stderr) {
			mode = "bar"
		}
	}
	if mode == "none" || a.quiet {
		return func() {}
	}
	return progress.Show(a.stderr, mode, progress.Source{Stage: p.Stage, Done: p.Done.Load, Total: p.Total.Load})
}

// follow shows a room's own counters until the returned function is called.
func (a *app) follow(stage string, done, total func() int64) (stop func()) {
	p := run.FollowProgress(stage, done, total)
	stopShown := a.showProgress(p.Progress)
	return func() {
		stopShown()
		p.Stop()
	}
}

// showCount tells how many combinations a long search has tried, until the
// returned function is called.
func (a *app) showCount(stage string, phase *atomic.Pointer[string], n *atomic.Int64) (stop func()) {
	if a.progress == "none" || a.quiet {
		return func() {}
	}
	return progress.Count(a.stderr, a.progress == "json", stage, func() string { return *phase.Load() }, n.Load)
}

// size prints bytes in binary units.
func size(n int64) string { return show.Size(n) }
