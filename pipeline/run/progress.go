package run

import (
	"sync/atomic"
	"time"
)

// Progress is what a long run tells about itself. Any goroutine may add, any
// display may poll; the pipeline itself never prints.
type Progress struct {
	stage atomic.Pointer[string]
	Done  atomic.Int64 // bytes
	Total atomic.Int64 // bytes, 0 where not known
}

// Stage returns the running stage's name, "" before the first.
func (p *Progress) Stage() string {
	if s := p.stage.Load(); s != nil {
		return *s
	}
	return ""
}

// NewProgress returns the progress of work that is no stage of a run.
func NewProgress(stage string) *Progress {
	p := new(Progress)
	p.begin(stage)
	return p
}

func (p *Progress) begin(stage string) {
	p.stage.Store(&stage)
	p.Done.Store(0)
	p.Total.Store(0)
}

// Followed is a Progress that copies another counter until it is stopped.
type Followed struct {
	*Progress
	stop func()
}

// Stop ends the copying.
func (f *Followed) Stop() { f.stop() }

// FollowProgress shows a room's own counters as the progress of a stage.
func FollowProgress(stage string, done, total func() int64) *Followed {
	p := new(Progress)
	p.begin(stage)
	return &Followed{p, p.Follow(done, total)}
}

// Follow copies a room's own counters into the run's progress until the
// returned function is called.
func (p *Progress) Follow(done, total func() int64) (stop func()) {
	end := make(chan struct{})
	finished := make(chan struct{})
	before := p.Done.Load()
	go func() {
		defer close(finished)
		tick := time.NewTicker(200 * time.Millisecond)
		defer tick.Stop()
		for {
			p.Done.Store(before + done())
			p.Total.Store(before + total())
			select {
			case <-end:
				return
			case <-tick.C:
			}
		}
	}()
	return func() {
		close(end)
		<-finished
		p.Done.Store(before + done())
	}
}
