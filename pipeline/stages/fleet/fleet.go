// Package fleet is the stage that holds a provider's whole list against what
// can be recomputed: every row as far as its inputs are at hand, and for each
// value that is left the input that it would take.
package fleet

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/pipeline"
	"github.com/retally/retally/pipeline/config"
	"github.com/retally/retally/pipeline/run"
)

// The bounds of a list.
const (
	// ListLimit is the most that a list may have, in bytes.
	ListLimit = 16 << 20
	maxRows   = 10_000
	maxValues = 100_000
)

// List is a provider's list as it was read.
type List struct {
	File string
	Kind string // what it is, in words
	Rows []*Row
}

// Row is one machine or release of a list.
type Row struct {
	Name   string
	Line   int
	Values []*Value
	// Needs are inputs of a row that publishes no value at all.
	Needs []string
}

// Value is one published value of a row, or one that follows from the row.
type Value struct {
	Name string
	// Want is what the list says; zero where the value only follows from it.
	Want digest.Digest
	// Got is what was computed; zero where it was not.
	Got digest.Digest
	// Needs are the inputs that it would take, where Got is zero.
	Needs []string
	// Basis, From and Note say how Got is known.
	Basis pipeline.Basis
	From  []string
	Note  string
}

// State is how a value of a row came out.
type State string

// The states.
const (
	Recomputed State = "recomputed" // and equal
	Differs    State = "differs"
	Follows    State = "follows" // from the list's own values, of which nothing else is published
	Unknown    State = "open"
)

// State tells how a value came out.
func (v *Value) State() State {
	switch {
	case v.Got.IsZero():
		return Unknown
	case v.Want.IsZero():
		return Follows
	case v.Got == v.Want:
		return Recomputed
	default:
		return Differs
	}
}

// Lacks are the inputs that a value would take.
func (v *Value) Lacks() []string {
	if v.State() == Unknown {
		return v.Needs
	}
	return nil
}

// Stage holds a list against what can be recomputed.
func Stage() run.Stage { return Showing(nil) }

// Showing is the stage, which also hands the list to show.
func Showing(show func(*List)) run.Stage {
	return run.Stage{
		Name: "fleet", Version: 1, Check: check, Plan: plan,
		Run: func(ctx context.Context, in *run.In) (*run.Out, error) { return execute(ctx, in, show) },
	}
}

func plan(c *config.Config) []run.PlanLine {
	if c.Fleet == nil {
		return nil
	}
	return []run.PlanLine{{Key: "fleet/**", From: c.Fleet.File}}
}

func check(c *config.Config, at config.At) error {
	f := c.Fleet
	if f == nil {
		return nil
	}
	return Check(f, func(msg, hint string, path ...string) error {
		return at(msg, hint, append([]string{"fleet"}, path...)...)
	})
}

// Check finds what is wrong with the description of a list by itself.
func Check(f *config.Fleet, at config.At) error {
	if f.File == "" {
		return at("file is missing", "a provider's list: tdx.csv, sev.json, machines of Tinfoil, a Contrast manifest")
	}
	if strings.HasPrefix(f.Compose, "sha256:") {
		if _, err := digest.Parse(f.Compose); err != nil {
			return at(err.Error(), "sha256:HEX, or a file", "compose")
		}
	}
	return nil
}

func execute(ctx context.Context, in *run.In, show func(*List)) (*run.Out, error) {
	out := run.NewOut()
	f := in.Config.Fleet
	if f == nil {
		return out, nil
	}
	p, err := openPool(ctx, in, f.Inputs)
	if err != nil {
		return nil, err
	}
	data, err := in.ReadFile(ctx, f.File, ListLimit)
	if err != nil {
		return nil, err
	}
	r := &reader{in: in, pool: p, file: f.File}
	if r.compose, err = compose(ctx, in, f.Compose); err != nil {
		return nil, err
	}
	l, err := r.read(ctx, data)
	if err != nil {
		return nil, err
	}
	if err := add(l, in, out); err != nil {
		return nil, err
	}
	if show != nil {
		show(l)
	}
	return out, nil
}

func compose(ctx context.Context, in *run.In, name string) (digest.Digest, error) {
	if name == "" {
		return digest.Digest{}, nil
	}
	if strings.HasPrefix(name, "sha256:") {
		return digest.Parse(name)
	}
	s, err := in.Sums(ctx, name, false)
	return s.SHA256, err
}

// add turns rows into measurements, references and lacks.
func add(l *List, in *run.In, out *run.Out) error {
	values := 0
	lacks := map[string]pipeline.Key{}
	var order []string
	lack := func(what string, k pipeline.Key) {
		if _, known := lacks[what]; !known {
			lacks[what] = k
			order = append(order, what)
		}
	}
	for i, row := range l.Rows {
		base := fmt.Sprintf("%d %s", i+1, row.Name)
		for _, need := range row.Needs {
			lack(need, pipeline.NewKey("fleet", base))
		}
		for _, v := range row.Values {
			if values++; values > maxValues {
				return &pipeline.InputError{Op: "read fleet", File: l.File, Err: fmt.Errorf("has more than %d values", maxValues), Hint: "split the list"}
			}
			k := pipeline.NewKey("fleet", base, v.Name)
			v.add(k, l, row, out)
			for _, need := range v.Lacks() {
				lack(need, k)
			}
		}
	}
	for _, what := range order {
		in.Lack(what, string(lacks[what]), in.Field("DIR", "fleet", "inputs")+" with it, under whatever name")
	}
	out.Facts = append(out.Facts, fmt.Sprintf("%s: %s, %d rows", l.File, l.Kind, len(l.Rows)))
	return nil
}

func (v *Value) add(k pipeline.Key, l *List, row *Row, out *run.Out) {
	where := pipeline.Where{File: l.File, Line: row.Line}
	if !v.Want.IsZero() {
		out.References = append(out.References, pipeline.Reference{
			Set: row.Name + fmt.Sprintf(" (line %d)", row.Line), Group: string(k), Key: k, Relation: pipeline.Equal, Want: pipeline.OfDigest(v.Want), Where: where, Words: v.Name + " of " + row.Name,
		})
	}
	if v.Got.IsZero() {
		if len(v.Needs) > 0 {
			out.Notes[k] = "missing: " + strings.Join(v.Needs, ", ")
		}
		return
	}
	m := pipeline.Measurement{Key: k, Value: pipeline.OfDigest(v.Got), Basis: v.Basis, Note: v.Note}
	for _, f := range append([]string{l.File}, v.From...) {
		m.Inputs = append(m.Inputs, pipeline.FromFile(f))
	}
	out.Measurements = append(out.Measurements, m)
}

// Coverage counts a list.
type Coverage struct {
	Rows       int `json:"rows"`
	WholeRows  int `json:"whole_rows"` // every published value recomputed and equal
	Published  int `json:"published"`
	Recomputed int `json:"recomputed"`
	Differs    int `json:"differs"`
	Open       int `json:"open"`
	Follows    int `json:"follows"`
}

// Coverage counts how much of the list was recomputed.
func (l *List) Coverage() (c Coverage) {
	c.Rows = len(l.Rows)
	for _, row := range l.Rows {
		whole, any := true, false
		for _, v := range row.Values {
			s := v.State()
			if !v.Want.IsZero() {
				c.Published++
				any = true
				whole = whole && s == Recomputed
			}
			switch s {
			case Recomputed:
				c.Recomputed++
			case Differs:
				c.Differs++
			case Follows:
				c.Follows++
			default:
				if !v.Want.IsZero() {
					c.Open++
				}
			}
		}
		if any && whole {
			c.WholeRows++
		}
	}
	return c
}

// Hole is an input that is missing, with the values that wait for it.
type Hole struct {
	Input  string   `json:"input"`
	Rows   int      `json:"rows"`
	Values []string `json:"values"` // names, each once
}

// Holes lists what is missing, what most rows wait for first.
func (l *List) Holes() []Hole {
	index := map[string]int{}
	out := []Hole{}
	note := func(what, value string, first bool) {
		i, ok := index[what]
		if !ok {
			i = len(out)
			index[what] = i
			out = append(out, Hole{Input: what, Values: []string{}})
		}
		if first {
			out[i].Rows++
		}
		if value != "" && !slices.Contains(out[i].Values, value) {
			out[i].Values = append(out[i].Values, value)
		}
	}
	for _, row := range l.Rows {
		seen := map[string]bool{}
		for _, n := range row.Needs {
			note(n, "", !seen[n])
			seen[n] = true
		}
		for _, v := range row.Values {
			for _, n := range v.Lacks() {
				note(n, v.Name, !seen[n])
				seen[n] = true
			}
		}
	}
	slices.SortStableFunc(out, func(a, b Hole) int { return b.Rows - a.Rows })
	return out
}
