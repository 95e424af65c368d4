package manifest

import (
	"sort"
	"strconv"
	"strings"

	"github.com/retally/retally/internal/jsondoc"
)

// Field is one leaf of a manifest, or a list that is compared as a set.
type Field struct {
	Pointer string // JSON pointer of the value; of the member for a policy's hash
	// Path joins the fields of two manifests. It holds no hash and no list
	// index: policy/<kind>/<name>/..., snp/<platform>/<product>[/cpus=N]/...,
	// tdx/<platform>/..., and the name of a top-level field. A part that is
	// absent is "-", a slash in a part is "%2F", a second entry of the same
	// name ends in "#2". Rtmrs keep their index, for it is the register's.
	Path    string
	Value   *jsondoc.Value
	Line    int
	Meaning Meaning

	spec      *fieldSpec // nil for an unknown field
	namespace string     // of the policy that the field belongs to
}

// Fields lists every field: policies, then snp, then tdx, then the top level,
// each in file order. A policy also yields "hash" (its key) and, if it has
// SANs, "CommonName" (the first of them).
func (m *Manifest) Fields() []Field {
	f := &fieldLister{m: m}
	f.policies()
	for _, kind := range []string{"snp", "tdx"} {
		f.entries(kind)
	}
	for _, member := range m.tree.Members {
		if member.Key != "Policies" && member.Key != "ReferenceValues" {
			f.leaf(member.Value, member.Key, escapePart(member.Key), "/"+jsondoc.EscapePointer(member.Key), member.Value.Offset)
		}
	}
	for _, member := range members(m.tree.Get("ReferenceValues")) {
		switch member.Key {
		case "snp", "tdx", "SNP", "TrustedMeasurement":
		default:
			path := "ReferenceValues/" + member.Key
			f.leaf(member.Value, path, "ReferenceValues/"+escapePart(member.Key), "/ReferenceValues/"+jsondoc.EscapePointer(member.Key), member.Value.Offset)
		}
	}
	return f.out
}

type fieldLister struct {
	m         *Manifest
	out       []Field
	namespace string
}

// escapePart makes a name a part of a join path. What stands for something
// else there (an absent name, the number of a second entry) is escaped in
// names: no entry can be called what another one is joined by.
func escapePart(s string) string {
	switch s {
	case "":
		return "-"
	case "-":
		return "%2D"
	}
	if !strings.ContainsAny(s, "%/#") {
		return s // making a replacer costs more than most names
	}
	return strings.NewReplacer("%", "%25", "/", "%2F", "#", "%23").Replace(s)
}

// numbered gives entries of the same name a suffix by the order of content, so
// that it does not depend on their order in the file.
func numbered(names, content []string) []string {
	byName := map[string][]int{}
	for i, n := range names {
		byName[n] = append(byName[n], i)
	}
	out := make([]string, len(names))
	for n, idx := range byName {
		sort.SliceStable(idx, func(a, b int) bool { return content[idx[a]] < content[idx[b]] })
		for k, i := range idx {
			out[i] = n
			if k > 0 {
				out[i] += "#" + strconv.Itoa(k+1)
			}
		}
	}
	return out
}

func (f *fieldLister) policies() {
	policies := f.m.tree.Get("Policies")
	var names, content, namespaces []string
	for _, p := range members(policies) {
		name, namespace := policyName(p)
		names = append(names, name)
		content = append(content, namespace+"\n"+p.Key)
		namespaces = append(namespaces, namespace)
	}
	for i, name := range numbered(names, content) {
		p := policies.Members[i]
		base, pointer := "policy/"+name, "/Policies/"+jsondoc.EscapePointer(p.Key)
		f.namespace = namespaces[i]
		f.leaf(jsondoc.NewString(p.Key), "policy/hash", base+"/hash", pointer, p.Offset)
		sans, sansAt := p.Value, pointer
		if p.Value.Kind == jsondoc.Object {
			sans, sansAt = p.Value.Get("SANs"), pointer+"/SANs"
			for _, member := range p.Value.Members {
				f.leaf(member.Value, "policy/"+member.Key, base+"/"+escapePart(member.Key), pointer+"/"+jsondoc.EscapePointer(member.Key), member.Value.Offset)
			}
		} else {
			f.leaf(p.Value, "policy/SANs", base+"/SANs", pointer, p.Value.Offset)
		}
		if sans != nil && sans.Kind == jsondoc.Array && len(sans.Elems) > 0 {
			f.leaf(sans.Elems[0], "policy/CommonName", base+"/CommonName", indexPointer(sansAt, 0), sans.Elems[0].Offset)
		}
	}
	f.namespace = ""
}

// policyName finds the kind and name by which policies of two manifests are
// joined, and the namespace. Without a WorkloadSecretID of the default form
// the annotation's text, then the SANs must do.
func policyName(p jsondoc.Member) (name, namespace string) {
	if id := text(p.Value.Get("WorkloadSecretID")); id != "" {
		if w, ok := ParseWorkloadID(id); ok {
			return escapePart(w.Kind) + "/" + escapePart(w.Name), w.Namespace
		}
		return "id/" + escapePart(id), ""
	}
	sans := p.Value
	if p.Value.Kind == jsondoc.Object {
		sans = p.Value.Get("SANs")
	}
	var names []string
	for _, s := range texts(sans) {
		if s != "*" {
			names = append(names, s)
		}
	}
	sort.Strings(names)
	return "sans/" + escapePart(strings.Join(names, ",")), ""
}

func (f *fieldLister) entries(kind string) {
	entries := f.m.entries(kind)
	var names, content []string
	for _, e := range entries {
		names = append(names, entryName(kind, e.value))
		content = append(content, normalizedEntry(kind, e.value))
	}
	for i, name := range numbered(names, content) {
		e := entries[i]
		f.tree(e.value, kind, name, e.pointer)
		if e.pointer == "/ReferenceValues/SNP" {
			if v := f.m.tree.Get("ReferenceValues").Get("TrustedMeasurement"); v != nil {
				f.leaf(v, "ReferenceValues/TrustedMeasurement", name+"/TrustedMeasurement", "/ReferenceValues/TrustedMeasurement", v.Offset)
			}
		}
	}
}

func entryName(kind string, v *jsondoc.Value) string {
	name := kind + "/" + escapePart(text(v.Get("Platform")))
	if kind == "snp" {
		name += "/" + escapePart(text(v.Get("ProductName")))
		if n := number(v.Get("CPUs")); n != nil {
			name += "/cpus=" + strconv.FormatUint(*n, 10)
		}
	}
	return name
}

// tree lists the leaves below an object. path is the place in the field table,
// base the same place in the joining path.
func (f *fieldLister) tree(v *jsondoc.Value, path, base, pointer string) {
	if v.Kind != jsondoc.Object {
		f.leaf(v, path, base, pointer, v.Offset)
		return
	}
	for _, member := range v.Members {
		at, sub := pointer+"/"+jsondoc.EscapePointer(member.Key), path+"/"+member.Key
		row := spec(sub)
		joined := base + "/" + escapePart(member.Key)
		if row != nil && row.as != "" {
			joined = base + "/" + row.as[strings.LastIndexByte(row.as, '/')+1:]
		}
		switch {
		case row != nil && row.kind == kObject:
			f.tree(member.Value, sub, joined, at)
		case row != nil && row.kind == kRegs && member.Value.Kind == jsondoc.Array:
			for i, e := range member.Value.Elems {
				f.leaf(e, sub, joined+"/"+strconv.Itoa(i), indexPointer(at, i), e.Offset)
			}
		default:
			f.leaf(member.Value, sub, joined, at, member.Value.Offset)
		}
	}
}

// leaf adds a field. A value that the table does not know is taken apart as it
// is, so that nothing escapes a comparison.
func (f *fieldLister) leaf(v *jsondoc.Value, path, joined, pointer string, offset int) {
	row := spec(path)
	if strings.HasPrefix(path, "tdx/") && (row == nil || row.kind == kRegs) && areRegisters(v) {
		row = alternatives
	}
	if row == nil && v.Kind == jsondoc.Object && len(v.Members) > 0 {
		for _, member := range v.Members {
			f.leaf(member.Value, path+"/"+member.Key, joined+"/"+escapePart(member.Key), pointer+"/"+jsondoc.EscapePointer(member.Key), member.Value.Offset)
		}
		return
	}
	field := Field{Pointer: pointer, Path: joined, Value: v, Line: f.m.line(offset), spec: row, namespace: f.namespace}
	if row != nil {
		field.Meaning = row.meaning
	}
	f.out = append(f.out, field)
}

// Normalized returns a text that is equal for two fields exactly if they mean
// the same: hex in lower case, numbers in one notation, an absent or null
// boolean as false, null and [] as one, a set sorted and without repetition.
// An absent field equals one whose Normalized is Meaning.Default.
func Normalized(f Field) string { return f.normalized(f.spec) }

// Normalized is the same as the function of that name.
func (f Field) Normalized() string { return Normalized(f) }

func (f Field) normalized(row *fieldSpec) string {
	return normalize(f.Value, row)
}

func normalize(v *jsondoc.Value, row *fieldSpec) string {
	if row == nil {
		return string(jsondoc.Style{}.Compact(v))
	}
	null := v == nil || v.Kind == jsondoc.Null
	switch row.kind {
	case kHex, kRegs:
		if v != nil && v.Kind == jsondoc.String {
			return strings.ToLower(v.Text)
		}
	case kText:
		if v != nil && v.Kind == jsondoc.String {
			return v.Text
		}
	case kBool, kUint:
		if null {
			return row.meaning.Default
		}
		if n := number(v); n != nil {
			return strconv.FormatUint(*n, 10)
		}
	case kHexList, kTexts:
		if set, ok := setOf(v, row); ok {
			elems := make([]*jsondoc.Value, len(set))
			for i, s := range set {
				elems[i] = jsondoc.NewString(s)
			}
			return string(jsondoc.Style{}.Compact(jsondoc.NewArray(elems...)))
		}
	}
	if null {
		return ""
	}
	return string(jsondoc.Style{}.Compact(v))
}

// Set returns the elements of a field that is a set, normalized, sorted and
// without repetition. It is false for any other field.
func (f Field) Set() ([]string, bool) { return setOf(f.Value, f.spec) }

func setOf(v *jsondoc.Value, row *fieldSpec) ([]string, bool) {
	if row == nil || row.kind != kHexList && row.kind != kTexts {
		return nil, false
	}
	if v == nil || v.Kind == jsondoc.Null {
		return nil, true
	}
	if v.Kind != jsondoc.Array {
		return nil, false
	}
	seen := map[string]bool{}
	var out []string
	for _, e := range v.Elems {
		s := text(e)
		if e.Kind != jsondoc.String {
			s = string(jsondoc.Style{}.Compact(e))
		} else if row.kind == kHexList {
			s = strings.ToLower(s)
		}
		if !seen[s] {
			seen[s] = true
			out = append(out, s)
		}
	}
	sort.Strings(out)
	return out, true
}

// AsField gives a field the path and meaning of another known field of the top
// level: what one version calls otherwise than another.
func AsField(path string, like Field) Field {
	f := like
	f.Path, f.spec = path, spec(path)
	if f.spec != nil {
		f.Meaning = f.spec.meaning
	}
	return f
}

// Uint64 returns the value of a field that is a number.
func (f Field) Uint64() (uint64, bool) { return f.Value.Uint64() }

// Neutral returns the field's value as Normalized does with the namespace of
// its deployment taken out: "{namespace}" for the namespace, and "{instance}"
// for a first label that is the namespace's last part (Privatemode's
// namespace continuum-83c1af and name 83c1af.secret.privatemode.ai). Two
// fields that differ only here differ because the deployment does. A policy
// hash cannot be made neutral.
func (f Field) Neutral() string {
	if f.namespace == "" || f.spec == nil {
		return f.Normalized()
	}
	switch f.spec.path {
	case "policy/WorkloadSecretID", "policy/CommonName":
		return neutral(f.Normalized(), f.namespace)
	case "policy/SANs":
		set, _ := f.Set()
		elems := make([]*jsondoc.Value, len(set))
		for i, s := range NeutralSet(set, f.namespace) {
			elems[i] = jsondoc.NewString(s)
		}
		return string(jsondoc.Style{}.Compact(jsondoc.NewArray(elems...)))
	}
	return f.Normalized()
}

// Namespace returns the namespace of the policy that the field belongs to, ""
// for other fields.
func (f Field) Namespace() string { return f.namespace }

// NeutralSet is Neutral for the elements of a set, sorted again.
func NeutralSet(set []string, namespace string) []string {
	out := make([]string, len(set))
	for i, s := range set {
		out[i] = neutral(s, namespace)
	}
	sort.Strings(out)
	return out
}

// neutral replaces whole labels only: the text is split at every dot and
// slash, as DNS names and secret ids are.
func neutral(s, namespace string) string {
	if namespace == "" {
		return s
	}
	var b strings.Builder
	instance := ""
	if i := strings.LastIndexByte(namespace, '-'); i >= 0 {
		instance = namespace[i+1:]
	}
	first := true
	for start := 0; start <= len(s); {
		end := start + strings.IndexAny(s[start:], "./")
		if end < start {
			end = len(s)
		}
		switch label := s[start:end]; {
		case label == namespace:
			b.WriteString("{namespace}")
		case first && end < len(s) && s[end] == '.' && instance != "" && label == instance:
			b.WriteString("{instance}")
		default:
			b.WriteString(label)
		}
		if end < len(s) {
			b.WriteByte(s[end])
		}
		first = false
		start = end + 1
	}
	return b.String()
}

// normalizedEntry is a reference value as one text, independent of the order
// of its fields, for telling repeated ones apart.
func normalizedEntry(kind string, v *jsondoc.Value) string {
	m := &Manifest{lines: []int{0}}
	f := &fieldLister{m: m}
	f.tree(v, kind, "", "")
	lines := make([]string, 0, len(f.out))
	for _, field := range f.out {
		if n := field.Normalized(); field.Meaning.Default == "" || n != field.Meaning.Default {
			lines = append(lines, field.Path+"="+n)
		}
	}
	sort.Strings(lines)
	return strings.Join(lines, "\n")
}
