package pipeline

import (
	"fmt"
	"slices"
	"strings"

	"github.com/retally/retally/internal/yamldoc"
)

// Explanation is everything a report knows of one key.
type Explanation struct {
	Key         Key          `json:"key"`
	Finding     *Finding     `json:"finding,omitempty"`
	Measurement *Measurement `json:"measurement,omitempty"`
	Standing    Standing     `json:"standing,omitzero"`
	Tree        []treeLine   `json:"tree"` // what the value was computed from
	Sets        []SetResult  `json:"sets,omitempty"`
}

// treeLine is one input in the tree below a value.
type treeLine struct {
	Depth int    `json:"depth"`
	Name  string `json:"name"` // a key or a file
	Basis Basis  `json:"basis,omitempty"`
	Value Value  `json:"value"`
}

// Explain collects what a report says of a key.
func Explain(r *Report, k Key) (*Explanation, error) {
	e := &Explanation{Key: k, Tree: []treeLine{}}
	for i := range r.Findings {
		if r.Findings[i].Key == k {
			e.Finding = &r.Findings[i]
		}
	}
	byKey := map[Key]*Measurement{}
	for i := range r.Measurements {
		byKey[r.Measurements[i].Key] = &r.Measurements[i]
	}
	e.Measurement = byKey[k]
	if e.Finding == nil && e.Measurement == nil {
		return nil, unknownKey(r, k)
	}
	if e.Measurement != nil {
		e.Standing = Standings(r.Measurements)[k]
		digests := map[string]Value{}
		for _, in := range r.Inputs {
			digests[in.File] = OfDigest(in.Digest)
		}
		seen := map[Key]bool{}
		var walk func(m *Measurement, depth int)
		walk = func(m *Measurement, depth int) {
			seen[m.Key] = true
			for _, in := range m.Inputs {
				if in.File != "" {
					e.Tree = append(e.Tree, treeLine{Depth: depth, Name: in.File, Value: digests[in.File]})
					continue
				}
				line := treeLine{Depth: depth, Name: string(in.Key)}
				next := byKey[in.Key]
				if next != nil {
					line.Basis, line.Value = next.Basis, next.Value
				}
				e.Tree = append(e.Tree, line)
				if next != nil && !seen[in.Key] {
					walk(next, depth+1)
				}
			}
		}
		walk(e.Measurement, 0)
	}
	for _, s := range r.Sets {
		if e.Finding != nil && (s.Set == e.Finding.Set || slices.Contains(s.Differing, k)) {
			e.Sets = append(e.Sets, s)
		}
	}
	return e, nil
}

func unknownKey(r *Report, k Key) error {
	var known []string
	for _, f := range r.Findings {
		known = append(known, string(f.Key))
	}
	for _, m := range r.Measurements {
		known = append(known, string(m.Key))
	}
	slices.Sort(known)
	known = slices.Compact(known)
	hint := ""
	if near := yamldoc.Nearest(string(k), known); near != "" {
		hint = "did you mean " + near + "?"
	} else {
		var same []string
		for _, s := range known {
			if strings.Contains(s, string(k)) || Key(s).Match(string(k)) {
				same = append(same, s)
			}
		}
		switch {
		case len(same) > 0:
			hint = "keys that fit: " + strings.Join(same[:min(6, len(same))], ", ")
		case len(known) > 0:
			hint = "keys of this report: " + strings.Join(known[:min(6, len(known))], ", ") + ", …"
		default:
			hint = "the report has no keys"
		}
	}
	return &InputError{Op: "explain", File: string(k), Err: fmt.Errorf("the report does not have this key"), Hint: hint}
}
