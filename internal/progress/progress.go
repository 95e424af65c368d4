// Package progress shows long work to people and to programs: a bar on a
// terminal, else lines.
package progress

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"sync"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"

	"github.com/retally/retally/internal/show"
)

// After is how long work must take to be shown.
const After = 2 * time.Second

// Schema names the form of a line of mode json; docs/schema/progress.json has it.
const Schema = "retally/progress/1"

// line writes one object. A program that reads them all must be able to.
func line(w io.Writer, v any) {
	data, err := json.Marshal(v)
	if err == nil {
		fmt.Fprintf(w, "%s\n", data)
	}
}

// Source is what work tells about itself; total is 0 where it is not known.
type Source struct {
	Stage       func() string
	Done, Total func() int64 // bytes
}

// Show tells about work until the returned function is called. mode is bar,
// plain (a line every ten seconds) or json (a line every second).
func Show(w io.Writer, mode string, p Source) (stop func()) {
	return during(func(done <-chan struct{}) {
		select {
		case <-done:
			return
		case <-time.After(After):
		}
		if mode == "bar" {
			drawBar(w, p, done)
		} else {
			tellLines(w, p, done, time.Now().Add(-After), mode == "json")
		}
	})
}

// Count tells how many combinations a search has tried, until the returned
// function is called.
func Count(w io.Writer, asJSON bool, stage string, phase func() string, tried func() int64) (stop func()) {
	return during(func(done <-chan struct{}) {
		start, wait := time.Now(), time.After(After)
		for {
			select {
			case <-done:
				return
			case <-wait:
			}
			n, seconds := tried(), time.Since(start).Seconds()
			if asJSON {
				line(w, struct {
					Schema string  `json:"schema"`
					Stage  string  `json:"stage"`
					Phase  string  `json:"phase"`
					Tried  int64   `json:"tried"`
					Rate   float64 `json:"triedPerSecond"`
				}{Schema, stage, phase(), n, math.Round(float64(n) / seconds)})
			} else {
				fmt.Fprintf(w, "retally: %s: %s: %d combinations tried, %.0f/s\n", stage, phase(), n, float64(n)/seconds)
			}
			wait = time.After(every(asJSON))
		}
	})
}

// Steps tells how many steps of work are done, until the returned function is
// called. total is 0 where it is not known.
func Steps(w io.Writer, asJSON bool, stage string, phase func() string, count func() (done, total int64)) (stop func()) {
	return during(func(end <-chan struct{}) {
		wait := time.After(After)
		for {
			select {
			case <-end:
				return
			case <-wait:
			}
			done, total := count()
			if asJSON {
				line(w, struct {
					Schema string `json:"schema"`
					Stage  string `json:"stage"`
					Phase  string `json:"phase"`
					Done   int64  `json:"done"`
					Total  int64  `json:"total"`
				}{Schema, stage, phase(), done, total})
			} else {
				fmt.Fprintln(w, show.Text(fmt.Sprintf("retally: %s: %d of %d done, %s", stage, done, total, phase())))
			}
			wait = time.After(every(asJSON))
		}
	})
}

// during runs work beside the caller until the returned function is called.
func during(work func(done <-chan struct{})) (stop func()) {
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() { work(done) })
	return func() {
		close(done)
		wg.Wait()
	}
}

func every(asJSON bool) time.Duration {
	if asJSON {
		return time.Second
	}
	return 10 * time.Second
}

// tellLines prints a line now and every ten seconds; JSON every second.
func tellLines(w io.Writer, p Source, done <-chan struct{}, start time.Time, asJSON bool) {
	tick := time.NewTicker(every(asJSON))
	defer tick.Stop()
	for {
		elapsed := time.Since(start).Seconds()
		bytes, total := p.Done(), p.Total()
		rate := float64(bytes) / elapsed
		left := -1.0
		if total > 0 && rate > 0 {
			left = float64(total-bytes) / rate
		}
		if asJSON {
			line(w, struct {
				Schema string  `json:"schema"`
				Stage  string  `json:"stage"`
				Done   int64   `json:"done"`
				Total  int64   `json:"total"`
				Rate   float64 `json:"bytesPerSecond"`
				Left   float64 `json:"secondsLeft"`
			}{Schema, p.Stage(), bytes, total, math.Round(rate), math.Round(left)})
		} else {
			text := fmt.Sprintf("retally: %s: %s of %s, %s/s", p.Stage(), show.Size(bytes), show.Size(total), show.Size(int64(rate)))
			if left >= 0 {
				text += fmt.Sprintf(", %s left", time.Duration(left*float64(time.Second)).Round(time.Second))
			}
			fmt.Fprintln(w, show.Text(text))
		}
		select {
		case <-done:
			return
		case <-tick.C:
		}
	}
}

func drawBar(w io.Writer, p Source, done <-chan struct{}) {
	bars := mpb.New(mpb.WithOutput(w), mpb.WithAutoRefresh())
	bar := bars.AddBar(0,
		mpb.PrependDecorators(decor.Any(func(decor.Statistics) string { return show.Text(p.Stage()) + " " })),
		mpb.AppendDecorators(decor.CountersKibiByte("% .1f / % .1f"), decor.AverageSpeed(decor.SizeB1024(0), " % .1f"), decor.OnComplete(decor.AverageETA(decor.ET_STYLE_GO, decor.WCSyncSpace), "")),
		mpb.BarRemoveOnComplete(),
	)
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		bar.SetTotal(max(p.Total(), p.Done()+1), false)
		bar.SetCurrent(p.Done())
		select {
		case <-done:
			bar.Abort(true)
			bars.Wait()
			return
		case <-tick.C:
		}
	}
}
