package policies

import (
	"bytes"
	"slices"
	"sort"
	"strings"

	"github.com/retally/retally/deployment"
)

// yamlParts are the documents of a YAML stream by their lines. A line that
// starts with --- ends a document wherever it stands (YAML 1.2.2, 9.1.2
// Document Markers: not even a scalar may hold it), so no parser is needed.
type yamlParts struct {
	data   []byte
	starts []int // offset of each part's first byte
	lines  []int // number of each part's first line, from 1
}

func splitYAML(data []byte) *yamlParts {
	p := &yamlParts{data: data, starts: []int{0}, lines: []int{1}}
	line := 1
	for at := 0; at < len(data); line++ {
		rest := data[at:]
		if mark, ok := bytes.CutPrefix(rest, []byte("---")); ok && at > 0 && (len(mark) == 0 || bytes.IndexByte([]byte(" \t\r\n"), mark[0]) >= 0) {
			p.starts, p.lines = append(p.starts, at), append(p.lines, line)
		}
		n := bytes.IndexByte(rest, '\n')
		if n < 0 {
			break
		}
		at += n + 1
	}
	return p
}

// of gives the part that a line lies in.
func (p *yamlParts) of(line int) int { return sort.SearchInts(p.lines, line+1) - 1 }

// only keeps some parts and leaves the lines of the others empty, so that
// every place in what is left is its place in the file.
func (p *yamlParts) only(keep map[int]bool) []byte {
	out := make([]byte, 0, len(p.data))
	for i := range p.starts {
		part := p.text(i)
		if keep[i] {
			out = append(out, part...)
		} else {
			out = append(out, bytes.Repeat([]byte("\n"), bytes.Count(part, []byte("\n")))...)
		}
	}
	return out
}

// text is a part as it stands in the file.
func (p *yamlParts) text(i int) []byte {
	if i+1 < len(p.starts) {
		return p.data[p.starts[i]:p.starts[i+1]]
	}
	return p.data[p.starts[i]:]
}

// inScope are the workloads that a generator is run for: those that
// `contrast generate` takes, and those of kata's runtime classes where nothing
// is Contrast's.
func inScope(d *deployment.Deployment) func(*deployment.Workload) bool {
	if slices.ContainsFunc(d.Workloads, func(w deployment.Workload) bool { return w.Confidential }) {
		return func(w *deployment.Workload) bool { return w.Confidential }
	}
	return func(w *deployment.Workload) bool { return strings.HasPrefix(w.RuntimeClass, "kata") }
}
