package manifest

import (
	"fmt"
	"io"
	"slices"

	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/show"
	"github.com/retally/retally/pipeline"
	"github.com/retally/retally/pipeline/run"
	"github.com/retally/retally/privatemode"
)

// FetchWarning is what an entry of a proxy's log does not say.
const FetchWarning = "an entry says that the proxy fetched the manifest, not that it verified it"

// Fetched are the manifests that a Privatemode proxy says it fetched.
type Fetched struct {
	Entries []FetchedEntry

	workspace *privatemode.Workspace
}

// NewFetched reads the manifests of the latest entry of the log, or of all.
func NewFetched(w *privatemode.Workspace, all bool) *Fetched {
	entries := w.Log.Entries
	if !all && len(entries) > 0 {
		entries = entries[len(entries)-1:]
	}
	f := &Fetched{Entries: []FetchedEntry{}, workspace: w}
	for _, e := range entries {
		f.Entries = append(f.Entries, newFetchedEntry(w, e))
	}
	return f
}

// FetchedEntry is one entry with the digest of the manifest it names.
type FetchedEntry struct {
	Line              int           `json:"line"`
	Time              string        `json:"time"`
	Manifest          string        `json:"manifest"`
	Digest            digest.Digest `json:"digest"`
	CoordinatorPolicy digest.Digest `json:"coordinator_policy"`
	OldPolicy         digest.Digest `json:"coordinatorPolicy"` // the same, under its name of before, for one release
	Overwritten       bool          `json:"overwritten"`
	Problem           string        `json:"problem,omitempty"`
}

func newFetchedEntry(w *privatemode.Workspace, e privatemode.LogEntry) FetchedEntry {
	p := FetchedEntry{Line: e.Line, Time: e.TimeText, Manifest: e.Path, CoordinatorPolicy: e.CoordinatorPolicy, OldPolicy: e.CoordinatorPolicy}
	p.Overwritten = slices.ContainsFunc(w.Overwritten, func(o privatemode.LogEntry) bool { return o.Line == e.Line })
	data, err := w.Manifest(e)
	if err != nil {
		p.Problem = err.Error()
		return p
	}
	p.Digest = digest.SHA256.Sum(data)
	return p
}

// Out names each manifest that was asked for by its bytes. One that is not there,
// and a log that cannot be read in full, leave it unchecked.
func (f *Fetched) Out(dir string) *run.Out {
	out := run.NewOut()
	faults := f.workspace.Faults
	for _, e := range f.Entries {
		key := pipeline.NewKey("proxy-log", fmt.Sprint(e.Line), "manifest")
		where := pipeline.Where{File: dir, Line: e.Line}
		value := pipeline.OfDigest(e.Digest)
		if e.Problem != "" {
			value, out.Notes[key] = pipeline.OfText(e.Manifest), e.Problem
		} else if len(faults) > 0 {
			out.Notes[key] = "the log cannot be read in full: " + faults[0].Error()
		} else {
			out.Measure(key, value, dir, "")
		}
		out.Refer(key, value, where, "manifest that the proxy fetched at "+e.Time)
	}
	for _, p := range faults {
		out.Problem(pipeline.LevelWarning, "proxy-log", pipeline.Where{File: dir}, p.Error(), "")
	}
	out.Problem(pipeline.LevelNote, "proxy-log", pipeline.Where{File: dir}, FetchWarning, "")
	return out
}

// Problems are what is wrong with the log, and what is odd about it.
func (f *Fetched) Problems() []string {
	out := []string{}
	for _, p := range slices.Concat(f.workspace.Faults, f.workspace.Log.Notes) {
		out = append(out, p.Error())
	}
	return out
}

// JSON is the form that scripts read.
func (f *Fetched) JSON() any {
	return map[string]any{"entries": f.Entries, "unlogged": append([]string{}, f.workspace.Unlogged...), "problems": f.Problems(), "warning": FetchWarning}
}

// Text is the form for people.
func (f *Fetched) Text(w io.Writer, _ bool) {
	for _, p := range f.Entries {
		if p.Problem != "" {
			show.Line(w, "%s  %s  %s", p.Time, p.Manifest, p.Problem)
			continue
		}
		s := fmt.Sprintf("%s  %s  %s", p.Time, p.Manifest, p.Digest)
		if !p.CoordinatorPolicy.IsZero() {
			s += "  coordinator policy " + p.CoordinatorPolicy.Hex()
		}
		if p.Overwritten {
			s += "  (a later entry has overwritten this file)"
		}
		show.Line(w, "%s", s)
	}
	if len(f.Entries) == 0 {
		show.Line(w, "the log has no entry")
	}
}
