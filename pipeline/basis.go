package pipeline

import (
	"fmt"
	"slices"
)

// Basis says how a value is known. The order is from strong to weak; the
// effective basis of a value is the weakest one reached through its inputs.
type Basis uint8

// The ways of knowing.
const (
	Rebuilt    Basis = iota + 1 // built from source by this run
	Recomputed                  // computed from published bytes
	Replayed                    // folded from an event log
	Endorsed                    // stated by a verified signature
	Assumed                     // a profile's unconfirmed value
	Copied                      // taken over unchecked
)

var basisNames = [...]string{"", "rebuilt", "recomputed", "replayed", "endorsed", "assumed", "copied"}

// String returns the word used in reports.
func (b Basis) String() string {
	if int(b) < len(basisNames) {
		return basisNames[b]
	}
	return "unknown"
}

// Known reports whether a verdict may rest on b without saying so: what was
// assumed or copied was not checked.
func (b Basis) Known() bool { return b >= Rebuilt && b <= Endorsed }

// MarshalText writes the word.
func (b Basis) MarshalText() ([]byte, error) { return []byte(b.String()), nil }

// UnmarshalText reads the word.
func (b *Basis) UnmarshalText(text []byte) error {
	i := slices.Index(basisNames[:], string(text))
	if i < 0 {
		return fmt.Errorf("unknown basis %q", text)
	}
	*b = Basis(i)
	return nil
}

// Standing is a measurement's basis together with what it rests on.
type Standing struct {
	Own       Basis `json:"own"`
	Effective Basis `json:"effective"`
	// RestsOn lists the measurements of the weakest basis that were reached
	// through the inputs, sorted; empty where the own basis is the weakest.
	RestsOn []Key `json:"restsOn,omitempty"`
}

// String reads "recomputed" or "recomputed, resting on copied: 4".
func (s Standing) String() string {
	if s.Effective == s.Own {
		return s.Own.String()
	}
	return fmt.Sprintf("%s, resting on %s: %d", s.Own, s.Effective, len(s.RestsOn))
}

// Standings walks every measurement's inputs and returns its effective basis.
// An input key without a measurement weakens to Copied: something was used
// that nobody measured.
func Standings(ms []Measurement) map[Key]Standing {
	byKey := make(map[Key]*Measurement, len(ms))
	for i := range ms {
		byKey[ms[i].Key] = &ms[i]
	}
	out := make(map[Key]Standing, len(ms))
	for i := range ms {
		out[ms[i].Key] = standing(&ms[i], byKey)
	}
	return out
}

func standing(m *Measurement, byKey map[Key]*Measurement) Standing {
	s := Standing{Own: m.Basis, Effective: m.Basis}
	seen := map[Key]bool{m.Key: true}
	var leaves []Key
	queue := slices.Clone(m.Inputs)
	for len(queue) > 0 {
		ref := queue[0]
		queue = queue[1:]
		if ref.Key == "" || seen[ref.Key] {
			continue
		}
		seen[ref.Key] = true
		basis := Copied
		if in, ok := byKey[ref.Key]; ok {
			basis = in.Basis
			queue = append(queue, in.Inputs...)
		}
		switch {
		case basis > s.Effective:
			s.Effective, leaves = basis, []Key{ref.Key}
		case basis == s.Effective && basis != s.Own:
			leaves = append(leaves, ref.Key)
		}
	}
	slices.Sort(leaves)
	s.RestsOn = leaves
	return s
}
