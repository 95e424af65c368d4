package shard

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/verity/disk"
	"github.com/retally/retally/verity/erofs"
)

// Whole is what the parts of one source come to.
type Whole struct {
	Name   string                          `json:"name"`
	Kind   string                          `json:"kind"`
	Root   digest.Digest                   `json:"-"` // of a disk
	Others map[erofs.Profile]digest.Digest `json:"-"`
	Image  *Image                          `json:"image,omitempty"`
	Files  digest.Digest                   `json:"-"` // identity of an image's files
	Parts  []int                           `json:"parts"`
	// Workers is how many different workers read its parts.
	Workers int `json:"workers"`
	// Alone counts the parts that no two different workers read.
	Alone int `json:"read_once"`
	// Audited are the parts that the merging machine read again.
	Audited []int `json:"audited,omitempty"`
	// Unvouched counts the parts that one worker read and nobody audited.
	Unvouched int `json:"unvouched"`
}

// Trusted reports whether nobody but a worker itself vouches for some part. An
// audit of others says how likely a lie is, and nothing of that part's bytes.
func (w *Whole) Trusted() bool { return w.Unvouched > 0 }

// A Dispute is a part whose results are not the same.
type Dispute struct {
	Part    int
	Results []*Result
}

// DisputeError is a merge that found workers who disagree. Nothing is merged.
type DisputeError struct{ Disputes []Dispute }

func (e *DisputeError) Error() string {
	d := e.Disputes[0]
	s := fmt.Sprintf("part %d: workers disagree:", d.Part)
	for _, r := range d.Results {
		s += " " + r.Worker
	}
	if n := len(e.Disputes); n > 1 {
		s += fmt.Sprintf(" (and %d more parts)", n-1)
	}
	return s
}

// Same reports whether two workers found the same, bit for bit.
func (f *Found) Same(g *Found) bool {
	return f.Read == g.Read && bytes.Equal(f.Sums, g.Sums) && maps.Equal(f.Others, g.Others) &&
		(f.Image == nil) == (g.Image == nil) && (f.Image == nil || *f.Image == *g.Image)
}

// Merge joins the results of all parts of a plan, in any order, any of them more
// than once. The results were held against the plan by ParseResult. audited are
// the parts that were read again here and gave the same.
func (p *Plan) Merge(results []*Result, audited []int) ([]Whole, error) {
	byPart := make([][]*Result, len(p.Parts))
	for _, r := range results {
		byPart[r.Part] = append(byPart[r.Part], r)
	}
	var missing []error
	var disputes []Dispute
	for i, of := range byPart {
		copies := map[int]bool{}
		for _, r := range of {
			copies[r.Copy] = true
			if !r.Same(&of[0].Found) {
				if len(disputes) == 0 || disputes[len(disputes)-1].Part != i {
					disputes = append(disputes, Dispute{i, of})
				}
			}
		}
		if n := p.Redundancy - len(copies); n > 0 {
			missing = append(missing, &ResultError{Part: i, Missing: true, What: fmt.Sprintf("%d of its %d results is missing, a gap in %s", n, p.Redundancy, p.Sources[p.Parts[i].Source].Name)})
		}
	}
	if len(missing) > 0 {
		if n := len(missing); n > maxShown {
			missing = append(missing[:maxShown], fmt.Errorf("and %d more parts", n-maxShown))
		}
		return nil, errors.Join(missing...)
	}
	if len(disputes) > 0 {
		return nil, &DisputeError{disputes}
	}
	var out []Whole
	for i := range p.Sources {
		w, err := p.whole(i, byPart, audited)
		if err != nil {
			return nil, err
		}
		out = append(out, w)
	}
	return out, nil
}

// maxShown bounds how many parts an error names.
const maxShown = 8

// whole joins the parts of one source.
func (p *Plan) whole(source int, byPart [][]*Result, audited []int) (Whole, error) {
	s := &p.Sources[source]
	w := Whole{Name: s.Name, Kind: s.Kind, Parts: []int{}}
	workers := map[string]bool{}
	var sums []byte
	var first *Result
	for i := range p.Parts {
		if p.Parts[i].Source != source {
			continue
		}
		w.Parts = append(w.Parts, i)
		who := map[string]bool{}
		for _, r := range byPart[i] {
			who[r.Worker], workers[r.Worker] = true, true
		}
		read := slices.Contains(audited, i)
		if read {
			w.Audited = append(w.Audited, i)
		}
		if len(who) < 2 {
			w.Alone++
			if !read {
				w.Unvouched++
			}
		}
		r := byPart[i][0]
		first = cmp.Or(first, r)
		sums = append(sums, r.Sums...)
	}
	w.Workers = len(workers)
	if s.Kind == Images {
		w.Image, w.Files = first.Image, first.Files
		return w, nil
	}
	params, level, blocks := disk.Params(s.Disk.Size), p.Parts[w.Parts[0]].Level, uint64(s.Disk.Size/blockSize)
	var err error
	if w.Root, err = params.RootOfSubtrees(level, sums, blocks); err != nil {
		return w, fmt.Errorf("%s: %w", s.Name, err)
	}
	w.Others = map[erofs.Profile]digest.Digest{}
	for name, d := range first.Others {
		copy(sums, d.Bytes())
		if w.Others[erofs.Profile(name)], err = params.RootOfSubtrees(level, sums, blocks); err != nil {
			return w, fmt.Errorf("%s: %w", s.Name, err)
		}
	}
	return w, nil
}

// MergedFormat is the form of what a merge writes.
const MergedFormat = "retally/shard-merged/1"

// MaxMerged bounds a merged file, bytes.
const MaxMerged = 256 << 20

// Merged is a plan with the results of all its parts: whoever reads it joins
// them again, and believes no root that stands in a file.
type Merged struct {
	Format  string    `json:"format"`
	Plan    *Plan     `json:"plan"`
	Results []*Result `json:"results"` // by part and copy
	// Audited are the parts that the merging machine read again, drawn after
	// the results had arrived.
	Audited []int `json:"audited,omitempty"`

	wholes []Whole
}

// NewMerged joins results and keeps them.
func NewMerged(p *Plan, results []*Result, audited []int) (*Merged, error) {
	m := &Merged{Format: MergedFormat, Plan: p, Results: slices.Clone(results), Audited: slices.Sorted(slices.Values(audited))}
	slices.SortFunc(m.Results, func(a, b *Result) int {
		return cmp.Or(cmp.Compare(a.Part, b.Part), cmp.Compare(a.Copy, b.Copy))
	})
	var err error
	m.wholes, err = p.Merge(m.Results, m.Audited)
	return m, err
}

// Wholes are the sources, in the order of the plan.
func (m *Merged) Wholes() []Whole { return m.wholes }

// Find returns a source of a kind by its name.
func (m *Merged) Find(kind, name string) (*Source, *Whole) {
	for i := range m.Plan.Sources {
		if s := &m.Plan.Sources[i]; s.Kind == kind && s.Name == name {
			return s, &m.wholes[i]
		}
	}
	return nil, nil
}

// Encode writes the merged file in its one form.
func (m *Merged) Encode() []byte {
	data, err := json.Marshal(m)
	if err != nil {
		return nil
	}
	return append(data, '\n')
}

// ParseMerged reads a merged file and joins its results again.
func ParseMerged(data []byte) (*Merged, error) {
	if len(data) > MaxMerged {
		return nil, fmt.Errorf("merged parts: more than %d bytes", MaxMerged)
	}
	m := new(Merged)
	if err := decode(data, m, m.Encode); err != nil {
		return nil, fmt.Errorf("merged parts: the file %w", err)
	}
	if m.Format != MergedFormat || m.Plan == nil {
		return nil, fmt.Errorf("merged parts: the form is %.80q, want %q with a plan", m.Format, MergedFormat)
	}
	if m.Plan.Format != PlanFormat {
		return nil, &PlanError{"/format", fmt.Sprintf("is %.80q, want %q", m.Plan.Format, PlanFormat)}
	}
	if err := m.Plan.Check(); err != nil {
		return nil, err
	}
	id := m.Plan.Digest()
	for i, r := range m.Results {
		if r == nil {
			return nil, fmt.Errorf("merged parts: result %d is null", i)
		}
		line, err := r.Encode()
		if err != nil {
			return nil, err
		}
		if _, err := m.Plan.ParseResult(id, r.Part, r.Copy, line); err != nil {
			return nil, err
		}
	}
	for i, part := range m.Audited {
		if part < 0 || part >= len(m.Plan.Parts) || i > 0 && m.Audited[i-1] >= part {
			return nil, fmt.Errorf("merged parts: audited parts are not parts of the plan, in order")
		}
	}
	return NewMerged(m.Plan, m.Results, m.Audited)
}
