package pipeline

import "sync/atomic"

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

func (p *Progress) begin(stage string) {
	p.stage.Store(&stage)
	p.Done.Store(0)
	p.Total.Store(0)
}
