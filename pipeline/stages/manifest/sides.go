package manifest

import (
	"slices"
	"strconv"
	"strings"

	"github.com/retally/retally/internal/jsondoc"
	"github.com/retally/retally/manifest"
	"github.com/retally/retally/pipeline"
	"github.com/retally/retally/pipeline/stages/published"
)

// manifestKeys lists the kinds of key that a manifest's fields have: a
// manifest is complete, what it does not list is not trusted.
var manifestKeys = []string{"policy/**", "snp/**", "tdx/**", "keys/**", "manifest/field/**"}

// manifestSide is one of two manifests that are compared field by field.
type manifestSide struct {
	m      *manifest.Manifest
	fields map[string]manifest.Field // by join path
	order  []string
	// entries counts the fields of each entry, as entryOf names it.
	entries map[string]int
}

func newSide(m *manifest.Manifest) *manifestSide {
	s := &manifestSide{m: m, fields: map[string]manifest.Field{}, entries: map[string]int{}}
	for _, f := range m.Fields() {
		s.fields[f.Path] = f
		s.order = append(s.order, f.Path)
		s.count(f.Path, 1)
	}
	return s
}

// BasisOf says how the value of a field of our side is known. A field that our
// side lacks, and that has a default, comes without a pointer.
type BasisOf func(manifest.Field) (pipeline.Basis, []pipeline.InputRef)

func (s *manifestSide) count(path string, by int) { s.entries[entryOf(path)] += by }

// Sides joins two manifests by what their fields mean: policies by
// kind and name, reference values by platform and product. Ours gives
// measurements with the basis that basis returns for a key, the published one
// gives references. Keys carry our side's names where the two differ.
func Sides(ours, published *manifest.Manifest, basis BasisOf) ([]pipeline.Measurement, []pipeline.Reference) {
	a, b := newSide(ours), newSide(published)
	alignPlatforms(a, b)
	alignMachines(a, b)
	alignOwnerKeys(a, b)
	otherNamespace := !slices.Equal(ours.Namespaces(), published.Namespaces())
	j := &joiner{a: a, b: b, otherNamespace: otherNamespace, basis: basis}
	paths := slices.Clone(a.order)
	for _, p := range b.order {
		if _, ok := a.fields[p]; !ok {
			paths = append(paths, p)
		}
	}
	for _, p := range paths {
		j.join(p)
	}
	return j.ms, j.refs
}

// alignPlatforms renames the entries of a side that does not name platforms
// (before Contrast 1.16) after the other side's entry of the same product, if
// there is exactly one.
func alignPlatforms(a, b *manifestSide) {
	for _, pair := range [][2]*manifestSide{{a, b}, {b, a}} {
		from, to := pair[0], pair[1]
		// The other side's entries by kind and by kind and product: of each the
		// first, and how many there are.
		type found struct {
			first string
			n     int
		}
		candidates, there := map[string]found{}, map[string]bool{}
		for _, o := range entryNames(to) {
			there[o] = true
			parts := strings.SplitN(o, "/", 3)
			keys := []string{parts[0]}
			if len(parts) == 3 {
				keys = append(keys, parts[0]+"/"+parts[2])
			}
			for _, k := range keys {
				f := candidates[k]
				if f.n == 0 {
					f.first = o
				}
				f.n++
				candidates[k] = f
			}
		}
		names := map[string]string{}
		for _, e := range entryNames(from) {
			kind, rest, _ := strings.Cut(e, "/")
			suffix, ok := strings.CutPrefix(rest, "-")
			if !ok || there[e] {
				continue
			}
			if c := candidates[kind+suffix]; c.n == 1 {
				names[e] = c.first
			}
		}
		from.rename(names)
	}
}

// entryNames lists the entries of a side, such as "snp/P/Genoa", in their order.
func entryNames(s *manifestSide) []string {
	var out []string
	seen := map[string]bool{}
	for _, p := range s.order {
		if e := entryOf(p); e != "" && !seen[e] {
			seen[e] = true
			out = append(out, e)
		}
	}
	return out
}

// entryOf returns the part of a join path that names its entry.
func entryOf(path string) string {
	parts := strings.Split(path, "/")
	n := 0
	switch parts[0] {
	case "policy":
		n = 3
	case "snp":
		n = 3
		if len(parts) > 3 && strings.HasPrefix(parts[3], "cpus=") {
			n = 4
		}
	case "tdx":
		n = 2
	default:
		return ""
	}
	if len(parts) <= n {
		return ""
	}
	return strings.Join(parts[:n], "/")
}

// rename gives entries other names, all at once: two may change theirs.
func (s *manifestSide) rename(names map[string]string) {
	if len(names) == 0 {
		return
	}
	fields := make(map[string]manifest.Field, len(s.fields))
	entries := map[string]int{}
	for i, p := range s.order {
		f, from := s.fields[p], entryOf(p)
		if to, ok := names[from]; ok {
			f.Path = to + strings.TrimPrefix(p, from)
		}
		fields[f.Path], s.order[i] = f, f.Path
		entries[entryOf(f.Path)]++
	}
	s.fields, s.entries = fields, entries
}

// has reports whether the side has any field of an entry.
func (s *manifestSide) has(entry string) bool { return s.entries[entry] > 0 }

type joiner struct {
	a, b           *manifestSide
	otherNamespace bool
	basis          BasisOf
	said           map[string]bool // entries without an anchor that one field stood for
	ms             []pipeline.Measurement
	refs           []pipeline.Reference
}

// anchors are the fields that stand for their whole entry where only one side
// has it.
var anchors = []string{"hash", "TrustedMeasurement", "MrTd"}

func (j *joiner) join(path string) {
	fa, inA := j.a.fields[path]
	fb, inB := j.b.fields[path]
	entry := entryOf(path)
	name := path[strings.LastIndexByte(path, '/')+1:]
	if entry != "" && (j.a.has(entry) != j.b.has(entry)) && !slices.Contains(anchors, name) && j.saidFor(entry) {
		return // the anchor, or the first field, says it for the whole entry
	}
	if strings.HasSuffix(path, "/CommonName") && !j.commonNameCounts(entry) {
		return
	}
	either := fa
	if !inA {
		either = fb
	}
	key := j.key(path, either)
	both := j.a.has(entry) && j.b.has(entry)
	if name == "Platform" && inA != inB && both {
		return // an older shape; the entries are joined without it
	}
	if (name == "CPUs" || name == "APEIP") && inA != inB && both && strings.HasPrefix(path, "snp/") {
		j.vcpus(entry, path)
		return
	}
	if !inA && either.Meaning.Default != "" && j.a.hasOwner(entry) {
		fa, inA = absent(fb), true
	}
	if !inB && either.Meaning.Default != "" && j.b.hasOwner(entry) {
		fb, inB = absent(fa), true
	}
	got, want, relation, note := j.values(path, fa, inA, fb, inB)
	if isName(path) && inA && inB && got.Equal(want) {
		return // what entries are joined by is equal by that, and proves nothing
	}
	if inA {
		basis, inputs := j.basis(fa)
		j.ms = append(j.ms, pipeline.Measurement{Key: key, Value: got, Basis: basis, Inputs: inputs})
	}
	if inB {
		direction := stricter(either.Meaning)
		if direction == pipeline.NoDirection && got.Kind() == pipeline.ListKind && want.Kind() == pipeline.ListKind {
			direction = pipeline.StricterLess // several values of a register, each of which is accepted
		}
		if entry != "" && !j.a.has(entry) {
			direction = pipeline.StricterAbsent // one more thing that is accepted
		}
		j.refs = append(j.refs, pipeline.Reference{
			Key: key, Relation: relation, Want: want, Stricter: direction,
			Where: pipeline.Where{File: j.b.m.File(), Pointer: fb.Pointer, Line: fb.Line}, Words: either.Meaning.Words, Note: note,
		})
	}
}

// saidFor reports whether a field stands for an entry that one side has: its
// anchor or, in an entry without one, the first field that is asked about.
func (j *joiner) saidFor(entry string) bool {
	for _, a := range anchors {
		_, inA := j.a.fields[entry+"/"+a]
		_, inB := j.b.fields[entry+"/"+a]
		if inA || inB {
			return true
		}
	}
	if j.said == nil {
		j.said = map[string]bool{}
	}
	before := j.said[entry]
	j.said[entry] = true
	return before
}

// commonNameCounts reports whether the first SAN says something that the set
// of SANs does not: the sets are equal and their first elements differ.
func (j *joiner) commonNameCounts(entry string) bool {
	a, okA := j.a.fields[entry+"/SANs"]
	b, okB := j.b.fields[entry+"/SANs"]
	return okA && okB && a.Neutral() == b.Neutral()
}

// values returns both sides' values in the form in which they are compared.
func (j *joiner) values(path string, fa manifest.Field, inA bool, fb manifest.Field, inB bool) (got, want pipeline.Value, r pipeline.Relation, note string) {
	got, want, r = published.FieldValue(fa), published.FieldValue(fb), pipeline.Equal
	if !inA || !inB {
		return got, want, r, ""
	}
	// One value and several of a register are both sets.
	if got.Kind() == pipeline.ListKind && want.Kind() == pipeline.DigestKind {
		want = pipeline.OfList([]string{want.Digest().Hex()})
	} else if got.Kind() == pipeline.DigestKind && want.Kind() == pipeline.ListKind {
		got = pipeline.OfList([]string{got.Digest().Hex()})
	}
	// A seedshare key is made anew by each generate. A workload owner key may
	// set a new manifest, so another one is never mere chance.
	if path == "SeedshareOwnerPubKeys" {
		x, y := got.List(), want.List()
		if len(x) == len(y) && len(x) > 0 {
			return got, want, pipeline.Volatile, "made anew by each contrast generate"
		}
	}
	if !j.otherNamespace || fa.Meaning.Origin != manifest.PerDeployment {
		return got, want, r, ""
	}
	if strings.HasSuffix(path, "/hash") {
		return got, want, r, "another namespace alone changes it; two hashes cannot tell what else did"
	}
	if fa.Neutral() == fb.Neutral() {
		return got, want, pipeline.Volatile, "namespace only"
	}
	// What differs beyond the namespace is clearer with the namespace out.
	return neutralValue(fa), neutralValue(fb), r, ""
}

func neutralValue(f manifest.Field) pipeline.Value {
	if set, ok := f.Set(); ok {
		return pipeline.OfList(manifest.NeutralSet(set, f.Namespace()))
	}
	return pipeline.OfText(f.Neutral())
}

// absent is a field like the given one with what its absence is equal to.
func absent(like manifest.Field) manifest.Field {
	f := like
	f.Pointer, f.Line = "", 0
	switch d := like.Meaning.Default; d {
	case "true", "false":
		f.Value = jsondoc.NewBool(d == "true")
	case "[]":
		f.Value = jsondoc.NewArray()
	default:
		f.Value = jsondoc.NewNumber(d)
	}
	return f
}

// hasOwner reports whether the object that a field belongs to is there: its
// entry, or for top-level fields the manifest itself.
func (s *manifestSide) hasOwner(entry string) bool { return entry == "" || s.has(entry) }

func stricter(m manifest.Meaning) pipeline.Stricter {
	switch m.Order {
	case manifest.HigherTighter:
		return pipeline.StricterUp
	case manifest.FewerTighter:
		if m.EmptyIsAny {
			return pipeline.StricterListed
		}
		return pipeline.StricterLess
	case manifest.OnLoosens:
		return pipeline.StricterOff
	case manifest.OnTightens:
		return pipeline.StricterOn
	}
	if m.PresenceLoosens {
		return pipeline.StricterAbsent
	}
	return pipeline.NoDirection
}

// key makes the key of a joined field:
//
//	policy/<kind>/<namespace>/<name>       the policy hash
//	policy/<kind>/<namespace>/<name>/SANs  and its other fields
//	snp/<platform>/<product>/launch        and the other reference values
//	tdx/<platform>/mrtd
//	keys/SeedshareOwnerPubKeys
func (j *joiner) key(path string, f manifest.Field) pipeline.Key {
	entry := entryOf(path)
	parts := strings.Split(entry, "/")
	rest := strings.TrimPrefix(strings.TrimPrefix(path, entry), "/")
	switch {
	case strings.HasSuffix(path, "PubKeys") || strings.HasSuffix(path, "KeyDigests"):
		return pipeline.NewKey("keys", path)
	case entry == "":
		return pipeline.NewKey(append([]string{"manifest", "field"}, strings.Split(path, "/")...)...)
	case parts[0] == "policy":
		parts = []string{"policy", parts[1], f.Namespace(), parts[2]}
		if ns := f.Namespace(); ns == "" {
			parts[2] = "-"
		}
		if rest == "hash" {
			rest = ""
		}
	}
	if r, ok := published.RegisterNames[rest]; ok {
		rest = r
	}
	for i, p := range parts {
		parts[i] = published.UnescapePart(p)
	}
	if rest != "" {
		parts = append(parts, strings.Split(rest, "/")...)
	}
	return pipeline.NewKey(parts...)
}

// undo takes every difference back: it returns the published manifest with our
// value in place of each value that differs. If that is our manifest byte for
// byte, the differences are proved to be all there are. Ok is false where a
// value has no place on the published side to be put at.
func undo(ours, published *manifest.Manifest) (tree *jsondoc.Value, ok bool) {
	a, b := newSide(ours), newSide(published)
	tree = published.Tree().Clone()
	edits := newEditor(tree)
	policies := tree.Get("Policies")
	rename := map[string]string{}
	for _, path := range b.order {
		fb := b.fields[path]
		fa, inA := a.fields[path]
		if strings.HasSuffix(path, "/CommonName") {
			continue // the first of the SANs, not a member of its own
		}
		if strings.HasPrefix(path, "policy/") && strings.HasSuffix(path, "/hash") {
			if !inA {
				edits.remove(policies, fb.Value.Text)
			} else if fa.Value.Text != fb.Value.Text {
				rename[fb.Value.Text] = fa.Value.Text
			}
			continue
		}
		if entry := entryOf(path); entry != "" && !a.has(entry) {
			if strings.HasPrefix(path, "policy/") {
				continue // the whole policy is taken out
			}
			return nil, false
		}
		if !edits.put(fb.Pointer, fa.Value, inA) {
			return nil, false
		}
	}
	for _, path := range a.order {
		if _, inB := b.fields[path]; !inB && !strings.HasSuffix(path, "/CommonName") {
			return nil, false
		}
	}
	edits.finish()
	for i := range policies.Members {
		if to, ok := rename[policies.Members[i].Key]; ok {
			policies.Members[i].Key = to
		}
	}
	slices.SortStableFunc(policies.Members, func(x, y jsondoc.Member) int { return strings.Compare(x.Key, y.Key) })
	return tree, true
}

// editor edits a document at many places. Members are looked up in an index of
// their object and taken out together at the end, so that the work is that of
// the document and the edits, not of their product.
type editor struct {
	root  *jsondoc.Value
	index map[*jsondoc.Value]map[string]int
	gone  map[*jsondoc.Value]map[string]bool
}

func newEditor(root *jsondoc.Value) *editor {
	return &editor{root: root, index: map[*jsondoc.Value]map[string]int{}, gone: map[*jsondoc.Value]map[string]bool{}}
}

// member gives the position of a member, -1 if there is none.
func (e *editor) member(v *jsondoc.Value, key string) int {
	at := e.index[v]
	if at == nil {
		at = make(map[string]int, len(v.Members))
		for i := len(v.Members) - 1; i >= 0; i-- {
			at[v.Members[i].Key] = i
		}
		e.index[v] = at
	}
	if i, ok := at[key]; ok && !e.gone[v][key] {
		return i
	}
	return -1
}

func (e *editor) remove(v *jsondoc.Value, key string) bool {
	if v == nil || e.member(v, key) < 0 {
		return false
	}
	if e.gone[v] == nil {
		e.gone[v] = map[string]bool{}
	}
	e.gone[v][key] = true
	return true
}

// put sets or removes the value at a JSON pointer.
func (e *editor) put(pointer string, to *jsondoc.Value, set bool) bool {
	at := e.root
	tokens := strings.Split(strings.TrimPrefix(pointer, "/"), "/")
	for i, t := range tokens {
		t = jsondoc.UnescapePointer(t)
		last := i == len(tokens)-1
		switch at.Kind {
		case jsondoc.Object:
			n := e.member(at, t)
			switch {
			case last && !set:
				return e.remove(at, t)
			case last && n < 0 && !e.gone[at][t]:
				e.index[at][t] = len(at.Members)
				at.Members = append(at.Members, jsondoc.Member{Key: t, Value: to.Clone()})
				return true
			case last:
				delete(e.gone[at], t)
				at.Members[e.index[at][t]].Value = to.Clone()
				return true
			case n < 0:
				return false
			}
			at = at.Members[n].Value
		case jsondoc.Array:
			n, err := strconv.Atoi(t)
			if err != nil || n < 0 || n >= len(at.Elems) {
				return false
			}
			if last {
				if set {
					at.Elems[n] = to.Clone()
				}
				return set
			}
			at = at.Elems[n]
		default:
			return false
		}
	}
	return false
}

// finish takes out what was removed.
func (e *editor) finish() {
	for v, keys := range e.gone {
		v.Members = slices.DeleteFunc(v.Members, func(m jsondoc.Member) bool { return keys[m.Key] })
	}
}
