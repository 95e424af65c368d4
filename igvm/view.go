package igvm

import (
	"context"
	"errors"
	"io"

	"github.com/retally/retally/internal/show"
	"github.com/retally/retally/trace"
)

// A View is a file as it is shown: its headers, and what a guest started from
// it measures to.
type View struct {
	Headers []HeaderView `json:"headers"`
	// Promised are the launch digests that the file's ID blocks are for.
	Promised []string              `json:"id_block_digests"`
	Measured map[string]*ValueView `json:"measured"` // launch_digest and mrtd, of the platforms that the file is for
	Version  uint32                `json:"version"`
}

// A HeaderView is a header as it is shown.
type HeaderView struct {
	Index  int    `json:"index"`
	Offset int64  `json:"offset"`
	Text   string `json:"text"`
}

// A ValueView is a platform's value, or why there is none.
type ValueView struct {
	Value string       `json:"value,omitempty"`
	Error string       `json:"error,omitempty"`
	Notes []string     `json:"notes,omitempty"`
	Trace *trace.Trace `json:"trace,omitempty"`
}

// valueNames are the measured platforms and the names of their values.
var valueNames = []struct {
	platform Platform
	name     string
}{{SNP, "launch_digest"}, {TDX, "mrtd"}}

// View measures a file for every platform that it is for. A file with a
// directive that is not known has no value, and says so.
func (f *File) View(ctx context.Context, withTrace bool) (*View, error) {
	v := &View{Version: f.Version, Headers: []HeaderView{}, Measured: map[string]*ValueView{}, Promised: []string{}}
	for h := range f.Headers() {
		v.Headers = append(v.Headers, f.headerView(h))
	}
	for _, d := range f.LaunchDigests() {
		v.Promised = append(v.Promised, d.Hex())
	}
	for _, p := range valueNames {
		if _, ok := f.Mask(p.platform); !ok {
			continue
		}
		m, err := f.Measure(ctx, p.platform)
		switch {
		case errors.Is(err, ErrUnknown):
			v.Measured[p.name] = &ValueView{Error: err.Error()}
			continue
		case err != nil:
			return nil, err
		}
		one := &ValueView{Value: m.Digest.Hex(), Notes: m.Notes}
		if withTrace {
			one.Trace = &m.Trace
		}
		v.Measured[p.name] = one
	}
	return v, nil
}

func (f *File) headerView(h Header) HeaderView { return HeaderView{h.Index, h.Offset, f.Describe(h)} }

// Unknown reports whether a platform's value could not be computed, because
// something in the file is not known.
func (v *View) Unknown() bool {
	for _, one := range v.Measured {
		if one.Error != "" {
			return true
		}
	}
	return false
}

// Text is the form for people.
func (v *View) Text(w io.Writer) {
	for _, h := range v.Headers {
		show.Line(w, "%5d  %#08x  %s", h.Index, h.Offset, h.Text)
	}
	for _, p := range valueNames {
		one := v.Measured[p.name]
		switch {
		case one == nil:
			continue
		case one.Error != "":
			show.Line(w, "%s: not computed: %s", p.platform, one.Error)
		default:
			show.Line(w, "%-13s  %s", p.name, one.Value)
		}
		for _, n := range one.Notes {
			show.Line(w, "  %s", n)
		}
		if one.Trace != nil {
			one.Trace.Text(w)
		}
		for _, d := range v.Promised {
			if p.platform == SNP && d != one.Value {
				show.Line(w, "  the file's ID block is for another launch digest: %s", d)
			}
		}
	}
}

// Differences are those of two files as they are shown.
type Differences struct {
	List []DifferenceView `json:"differences"`
}

// A DifferenceView is a difference as it is shown; a side without the directive
// is nil.
type DifferenceView struct {
	What string      `json:"what"`
	A    *HeaderView `json:"a,omitempty"`
	B    *HeaderView `json:"b,omitempty"`
}

// ViewDifferences compares two files by addresses and contents.
func ViewDifferences(ctx context.Context, a, b *File) (*Differences, error) {
	list, err := Compare(ctx, a, b)
	if err != nil {
		return nil, err
	}
	one := func(f *File, h *Header) *HeaderView {
		if h == nil {
			return nil
		}
		return new(f.headerView(*h))
	}
	out := &Differences{List: []DifferenceView{}}
	for _, d := range list {
		out.List = append(out.List, DifferenceView{d.Text, one(a, d.A), one(b, d.B)})
	}
	return out, nil
}

// Text is the form for people.
func (l *Differences) Text(w io.Writer) {
	for _, d := range l.List {
		h := d.A
		if h == nil {
			h = d.B
		}
		show.Line(w, "%-8s  %5d  %s", d.What, h.Index, h.Text)
		if d.A != nil && d.B != nil {
			show.Line(w, "%-8s  %5d  %s", "", d.B.Index, d.B.Text)
		}
	}
	if len(l.List) == 0 {
		show.Line(w, "all directives are equal")
	}
}
