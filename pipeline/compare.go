package pipeline

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/retally/retally/internal/release"
)

// CompareOptions say what Compare may conclude from absence.
type CompareOptions struct {
	// Complete lists globs of keys for which the measurements are all there
	// is: a reference without measurement is then Extra, not Unchecked.
	Complete []string
	// Published lists globs of keys that the published side claims to list
	// completely: a measurement without reference is then Missing.
	Published []string
	// CompleteKeys and PublishedKeys say the same of single keys.
	CompleteKeys, PublishedKeys map[Key]bool
}

func (o *CompareOptions) complete(k Key) bool { return o.CompleteKeys[k] || k.MatchAny(o.Complete) }

func (o *CompareOptions) published(k Key) bool { return o.PublishedKeys[k] || k.MatchAny(o.Published) }

// SetResult tells how one set of references that must hold together fared.
type SetResult struct {
	Set       string `json:"set"`
	Chosen    bool   `json:"chosen"` // the set whose findings are reported
	Match     int    `json:"match"`
	Differs   int    `json:"differs"`
	Unchecked int    `json:"unchecked"`
	// Differing names the members that do not hold.
	Differing []Key `json:"differing,omitempty"`
	// Alternatives is how many sets spoke of the same keys, itself included.
	Alternatives int `json:"alternatives"`
}

// Compare judges measurements against references. Sets that share keys are
// alternatives: one of them must hold as a whole; where none does, the nearest
// one is reported, so that a member of one set and a member of another never
// add up to a match.
func Compare(ms []Measurement, refs []Reference, o CompareOptions) ([]Finding, []SetResult) {
	byKey := make(map[Key]*Measurement, len(ms))
	for i := range ms {
		byKey[ms[i].Key] = &ms[i]
	}
	var findings []Finding
	var results []SetResult
	for _, alternatives := range groupSets(refs) {
		fs, rs := judgeAlternatives(alternatives, byKey, o)
		findings = append(findings, fs...)
		results = append(results, rs...)
	}
	published := map[Key]bool{}
	for _, r := range refs {
		published[r.Key] = true
	}
	for i := range ms {
		if m := &ms[i]; !published[m.Key] && o.published(m.Key) {
			findings = append(findings, Finding{
				Key: m.Key, Verdict: Missing, Class: ClassUnexplained, Relation: Equal, Got: m.Value,
				Note: "computed here, absent from the published side",
			})
		}
	}
	slices.SortStableFunc(findings, func(a, b Finding) int { return cmp.Compare(a.Key, b.Key) })
	return findings, results
}

// MatchAny reports whether the key fits one of the globs.
func (k Key) MatchAny(globs []string) bool {
	return slices.ContainsFunc(globs, k.Match)
}

// groupSets returns groups of alternative sets, in order of appearance. A
// reference without a set is a set of its own and nobody's alternative: two
// published files that speak of one key must both be right.
func groupSets(refs []Reference) [][][]Reference {
	var sets [][]Reference
	index := map[string]int{}
	for _, r := range refs {
		i, ok := index[r.Set]
		if r.Set == "" || !ok {
			i = len(sets)
			sets = append(sets, nil)
			if r.Set != "" {
				index[r.Set] = i
			}
		}
		sets[i] = append(sets[i], r)
	}
	// Union by shared key: parent[i] leads to the first set of the group.
	parent := make([]int, len(sets))
	for i := range parent {
		parent[i] = i
	}
	root := func(i int) int {
		for parent[i] != i {
			i = parent[i]
		}
		return i
	}
	type member struct {
		group string
		key   Key
	}
	owner := map[member]int{}
	for i, set := range sets {
		if set[0].Set == "" {
			continue // said without a set: it must hold by itself
		}
		for _, r := range set {
			m := member{r.Group, r.Key}
			if j, ok := owner[m]; ok {
				a, b := root(i), root(j)
				parent[max(a, b)] = min(a, b)
			} else {
				owner[m] = i
			}
		}
	}
	groups := make([][][]Reference, len(sets))
	for i, set := range sets {
		r := root(i)
		groups[r] = append(groups[r], set)
	}
	return slices.DeleteFunc(groups, func(g [][]Reference) bool { return len(g) == 0 })
}

// listedSets is up to how many alternatives are all listed in a report.
const listedSets = 8

// judgeAlternatives judges sets of which one must hold as a whole. The best has
// the fewest differences, then the most members that hold, then the newest
// version; the order of the references decides last.
func judgeAlternatives(sets [][]Reference, byKey map[Key]*Measurement, o CompareOptions) ([]Finding, []SetResult) {
	var chosen []Finding // of the best: of many sets no more is kept
	results := make([]SetResult, len(sets))
	best := 0
	for i, set := range sets {
		var findings []Finding
		findings, results[i] = judgeSet(set, byKey, o)
		results[i].Alternatives = len(sets)
		r, b := &results[i], &results[best]
		if i == 0 || cmp.Or(cmp.Compare(r.Differs, b.Differs), cmp.Compare(b.Match, r.Match), release.Compare(sets[best][0].Version, set[0].Version)) < 0 {
			best, chosen = i, findings
		}
	}
	results[best].Chosen = true
	if len(sets) > 1 && results[best].Differs > 0 {
		for i := range chosen {
			if f := &chosen[i]; f.Verdict == Differs {
				f.Note = strings.TrimSpace(fmt.Sprintf("%s none of %d sets holds as a whole; %s is the nearest", f.Note, len(sets), orUnnamed(results[best].Set)))
			}
		}
	}
	results = slices.DeleteFunc(results, func(r SetResult) bool {
		// Of the many rows of a registry those that nothing speaks for are left out.
		return r.Set == "" || len(sets) > listedSets && !r.Chosen && r.Match == 0
	})
	return chosen, results
}

func judgeSet(set []Reference, byKey map[Key]*Measurement, o CompareOptions) ([]Finding, SetResult) {
	r := SetResult{Set: set[0].Set}
	findings := make([]Finding, 0, len(set))
	for _, ref := range set {
		f := judge(ref, byKey[ref.Key], o)
		findings = append(findings, f)
		switch {
		case f.Verdict == Match || f.Class == ClassVolatile:
			r.Match++
		case f.Verdict == Unchecked:
			r.Unchecked++
		default:
			r.Differs++
			r.Differing = append(r.Differing, f.Key)
		}
	}
	return findings, r
}

func orUnnamed(set string) string {
	if set == "" {
		return "the first"
	}
	return set
}

// judge compares one reference with its measurement, nil if there is none.
func judge(ref Reference, m *Measurement, o CompareOptions) Finding {
	f := Finding{Key: ref.Key, Set: ref.Set, Relation: ref.Relation, Want: ref.Want, Where: ref.Where, Words: ref.Words}
	if m == nil || m.Value.IsNone() {
		f.Class = ClassUnexplained
		switch {
		case ref.Relation == Volatile:
			f.Verdict, f.Class = Unchecked, ClassVolatile
		case o.complete(ref.Key):
			f.Verdict, f.Note = Extra, cmp.Or(ref.Note, "published, but nothing of the kind was computed here")
			if ref.Stricter != NoDirection {
				f.Class = ClassLoosened
			}
		default:
			f.Verdict, f.Note = Unchecked, cmp.Or(ref.Note, "published, not recomputed")
		}
		return f
	}
	f.Got = m.Value
	if ref.Holds(m.Value) {
		f.Verdict, f.Class = Match, ClassEqual
		if ref.Relation == Volatile {
			f.Class = ClassVolatile // it proves nothing that it did not change
		}
		return f
	}
	if ref.Incomparable != "" {
		f.Verdict, f.Class, f.Note = Unchecked, ClassUnexplained, ref.Incomparable
		return f
	}
	f.Verdict, f.Class, f.Note = Differs, direction(ref, m.Value), ref.Note
	if ref.Class != "" && f.Class == ClassUnexplained {
		f.Class = ref.Class
	}
	if f.Class != ClassVolatile && ref.Want.Kind() == ListKind && m.Value.Kind() == ListKind {
		f.Why = listCauses(ref, m.Value)
	}
	return f
}

// Holds reports whether a value is what the reference demands.
func (ref Reference) Holds(got Value) bool {
	return got.Equal(ref.Want)
}

// direction classes a difference, seen from the published side: loosened means
// that the published value refuses less than ours.
func direction(ref Reference, got Value) Class {
	if ref.Relation == Volatile {
		return ClassVolatile
	}
	looser, known := false, false
	switch ref.Stricter {
	case StricterUp:
		have, ok1 := got.Number()
		want, ok2 := ref.Want.Number()
		looser, known = want < have, ok1 && ok2
	case StricterOff, StricterOn:
		want, ok := ref.Want.Bool()
		looser, known = want == (ref.Stricter == StricterOff), ok && got.Kind() == BoolKind
	case StricterLess, StricterListed:
		if got.Kind() != ListKind || ref.Want.Kind() != ListKind {
			break
		}
		known = true
		added, removed := setDiff(got.list, ref.Want.list)
		if ref.Stricter == StricterListed && len(ref.Want.list) == 0 {
			looser = true
		} else if ref.Stricter == StricterListed && len(got.list) == 0 {
			looser = false
		} else {
			looser = len(added) > 0 || len(removed) == 0
		}
	}
	switch {
	case !known:
		return ClassUnexplained
	case looser:
		return ClassLoosened
	default:
		return ClassTightened
	}
}

// setDiff returns what b has and a lacks, and what a has and b lacks.
func setDiff(a, b []string) (added, removed []string) {
	x, y := sortedSet(a), sortedSet(b)
	for _, s := range y {
		if _, ok := slices.BinarySearch(x, s); !ok {
			added = append(added, s)
		}
	}
	for _, s := range x {
		if _, ok := slices.BinarySearch(y, s); !ok {
			removed = append(removed, s)
		}
	}
	return added, removed
}

// listCauses names each element that one side lacks. Each is proved: a list is
// its elements, and giving or taking them makes the lists equal.
func listCauses(ref Reference, got Value) []Cause {
	added, removed := setDiff(got.list, ref.Want.list)
	var causes []Cause
	for _, s := range removed {
		causes = append(causes, Cause{Path: []string{string(ref.Key), "missing"}, Expected: s, Note: "missing from the published side", Standing: Proved, Where: ref.Where})
	}
	for _, s := range added {
		causes = append(causes, Cause{Path: []string{string(ref.Key), "extra"}, Actual: s, Note: "extra on the published side", Standing: Proved, Where: ref.Where})
	}
	return causes
}
