package main

import (
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"

	"github.com/retally/retally/internal/show"
	"github.com/retally/retally/pipeline/run"
)

// Progress is shown only for work that takes longer than this.
const progressAfter = 2 * time.Second

// showProgress tells about long work on stderr until the returned function is
// called: a bar on a terminal, else one line every ten seconds.
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
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		select {
		case <-done:
			return
		case <-time.After(progressAfter):
		}
		start := time.Now().Add(-progressAfter)
		switch mode {
		case "bar":
			drawBar(a.stderr, p, done)
		default:
			tellLines(a.stderr, p, done, start, mode == "json")
		}
	})
	return func() {
		close(done)
		wg.Wait()
	}
}

// tellLines prints a line now and every ten seconds; JSON every second.
func tellLines(w io.Writer, p *run.Progress, done <-chan struct{}, start time.Time, asJSON bool) {
	every := 10 * time.Second
	if asJSON {
		every = time.Second
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		elapsed := time.Since(start).Seconds()
		bytes, total := p.Done.Load(), p.Total.Load()
		rate := float64(bytes) / elapsed
		left := -1.0
		if total > 0 && rate > 0 {
			left = float64(total-bytes) / rate
		}
		if asJSON {
			fmt.Fprintf(w, `{"stage":%q,"done":%d,"total":%d,"bytesPerSecond":%.0f,"secondsLeft":%.0f}`+"\n", p.Stage(), bytes, total, rate, left)
		} else {
			line := fmt.Sprintf("retally: %s: %s of %s, %s/s", p.Stage(), size(bytes), size(total), size(int64(rate)))
			if left >= 0 {
				line += fmt.Sprintf(", %s left", time.Duration(left*float64(time.Second)).Round(time.Second))
			}
			fmt.Fprintln(w, show.Text(line))
		}
		select {
		case <-done:
			return
		case <-tick.C:
		}
	}
}

func drawBar(w io.Writer, p *run.Progress, done <-chan struct{}) {
	bars := mpb.New(mpb.WithOutput(w), mpb.WithAutoRefresh())
	bar := bars.AddBar(0,
		mpb.PrependDecorators(decor.Any(func(decor.Statistics) string { return show.Text(p.Stage()) + " " })),
		mpb.AppendDecorators(decor.CountersKibiByte("% .1f / % .1f"), decor.AverageSpeed(decor.SizeB1024(0), " % .1f"), decor.OnComplete(decor.AverageETA(decor.ET_STYLE_GO, decor.WCSyncSpace), "")),
		mpb.BarRemoveOnComplete(),
	)
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		bar.SetTotal(max(p.Total.Load(), p.Done.Load()+1), false)
		bar.SetCurrent(p.Done.Load())
		select {
		case <-done:
			bar.Abort(true)
			bars.Wait()
			return
		case <-tick.C:
		}
	}
}

// size prints bytes in binary units.
func size(n int64) string {
	units := []string{"B", "KiB", "MiB", "GiB", "TiB"}
	f, i := float64(n), 0
	for f >= 1024 && i < len(units)-1 {
		f /= 1024
		i++
	}
	if i == 0 {
		return fmt.Sprintf("%d B", n)
	}
	return fmt.Sprintf("%.1f %s", f, units[i])
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
