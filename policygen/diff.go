package policygen

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/retally/retally/internal/jsondoc"
)

// WorkloadDiff is what differs between the policies of one workload.
type WorkloadDiff struct {
	Kind      string      `json:"kind,omitempty"`
	Namespace string      `json:"namespace,omitempty"`
	Name      string      `json:"name,omitempty"`
	State     string      `json:"state"` // equal, differs, unchecked, only in A, only in B
	Causes    []DiffCause `json:"causes,omitempty"`
	// The digests of the two initdata documents, as alg:hex: what is attested.
	InitdataA string `json:"initdata_a,omitempty"`
	InitdataB string `json:"initdata_b,omitempty"`
	// Unchecked says what one side has and the other cannot be compared in. A
	// workload that is equal has none.
	Unchecked []string `json:"unchecked,omitempty"`
}

// DiffCause is one difference with both sides.
type DiffCause struct {
	// Category: image, args, env, annotations, mounts, storages, user,
	// capabilities, process, linux, devices, exec, containers, settings, rules,
	// initdata.
	Category  string `json:"category"`
	Container string `json:"container,omitempty"`
	Path      string `json:"path"`
	A         string `json:"a"` // "" where the side has nothing there
	B         string `json:"b"`
	Note      string `json:"note,omitempty"`
}

func (c DiffCause) String() string {
	side := func(s string) string {
		if s == "" {
			return "nothing"
		}
		return clip(s)
	}
	where := c.Path
	if c.Container != "" {
		where = c.Container + ": " + where
	}
	s := fmt.Sprintf("%s: %s: %s in A, %s in B", c.Category, where, side(c.A), side(c.B))
	if c.Note != "" {
		s += " (" + c.Note + ")"
	}
	return s
}

// Diff compares two sets of policies. Workloads are joined by kind, namespace
// and name; a single policy on both sides is compared whatever its name.
func Diff(a, b []NamedPolicy) []WorkloadDiff {
	var out []WorkloadDiff
	used := make([]bool, len(b))
	single := len(a) == 1 && len(b) == 1
	for i := range a {
		p := &a[i]
		d := WorkloadDiff{Kind: p.Kind, Namespace: p.Namespace, Name: p.Name, State: "only in A"}
		for j := range b {
			if !used[j] && (single || p.key() == b[j].key()) {
				used[j] = true
				d.Causes, d.Unchecked = diffPolicies(p, &b[j])
				d.InitdataA, d.InitdataB = p.attested(), b[j].attested()
				switch {
				case len(d.Causes) > 0:
					d.State = "differs"
				case len(d.Unchecked) > 0:
					d.State = "unchecked"
				default:
					d.State = "equal"
				}
				break
			}
		}
		out = append(out, d)
	}
	for j := range b {
		if !used[j] {
			out = append(out, WorkloadDiff{Kind: b[j].Kind, Namespace: b[j].Namespace, Name: b[j].Name, State: "only in B"})
		}
	}
	return out
}

// attested is the digest of the document around a policy, "" without one.
func (p *NamedPolicy) attested() string {
	if p.Document == nil {
		return ""
	}
	return p.Document.Digest(p.Document.Text).String()
}

type differ struct {
	container string
	causes    []DiffCause
	unchecked []string
}

func diffPolicies(a, b *NamedPolicy) (causes []DiffCause, unchecked []string) {
	var d differ
	switch {
	case a.hasPolicy() && !b.hasPolicy():
		d.add("initdata", "data."+policyKey, "a policy", "", "without one the guest's own policy holds")
	case b.hasPolicy() && !a.hasPolicy():
		d.add("initdata", "data."+policyKey, "", "a policy", "without one the guest's own policy holds")
	default:
		d.rules(a.Rules, b.Rules)
	}
	if a.Annotation != b.Annotation && a.Annotation != "" && b.Annotation != "" {
		d.unchecked = append(d.unchecked, fmt.Sprintf("A is carried by the annotation %s, B by %s: which of them a runtime reads is its own matter", a.Annotation, b.Annotation))
	}
	d.containers(a.containers(), b.containers())
	d.container = ""
	for _, key := range memberNames(a.tree, b.tree) {
		if key != "containers" {
			d.tree(key, at(a.tree, key), at(b.tree, key))
		}
	}
	d.common()
	switch there := map[bool]string{true: "there"}; {
	case (a.Data == nil) != (b.Data == nil) && a.hasPolicy() && b.hasPolicy():
		d.add("settings", "policy_data", there[a.Data != nil], there[b.Data != nil], "")
	case len(d.causes) == 0 && !bytes.Equal(a.Data, b.Data):
		d.add("settings", "policy_data", "", "", "the data says the same, but its text differs: another order or layout")
	}
	d.documents(a.Document, b.Document)
	return d.causes, d.unchecked
}

func (p *NamedPolicy) hasPolicy() bool { return p.Rules != nil || p.Data != nil }

// documents compares what stands around the policies. Equal is only what has
// the same text: the text is what is attested.
func (d *differ) documents(a, b *Document) {
	if a == nil && b == nil {
		return
	}
	if a == nil || b == nil {
		with, side := a, "A"
		if a == nil {
			with, side = b, "B"
		}
		d.unchecked = append(d.unchecked, fmt.Sprintf("%s is a whole initdata document (algorithm %s, data %s), the other side a policy alone", side, with.Algorithm, strings.Join(slices.Sorted(maps.Keys(with.Data)), ", ")))
		return
	}
	before := len(d.causes)
	if a.Algorithm != b.Algorithm {
		d.add("initdata", "algorithm", a.Algorithm.String(), b.Algorithm.String(), "another digest is attested; of one longer than 32 bytes SEV-SNP's HOSTDATA has the start alone")
	}
	if a.Version != b.Version {
		d.add("initdata", "version", a.Version, b.Version, "")
	}
	keys := slices.Concat(slices.Collect(maps.Keys(a.Data)), slices.Collect(maps.Keys(b.Data)))
	slices.Sort(keys)
	for _, key := range slices.Compact(keys) {
		x, inA := a.Data[key]
		y, inB := b.Data[key]
		if key == policyKey || inA && inB && x == y {
			continue // the policy has been compared in its parts
		}
		if inA && inB {
			d.lines("initdata", "data."+key, []byte(x), []byte(y))
			continue
		}
		shown := func(text string, there bool) string {
			if !there {
				return ""
			}
			return fmt.Sprintf("%q", text)
		}
		d.add("initdata", "data."+key, shown(x, inA), shown(y, inB), "")
	}
	if len(d.causes) == before && (before == 0 || a.Data[policyKey] == b.Data[policyKey]) && !bytes.Equal(a.Text, b.Text) {
		d.add("initdata", "text", a.Digest(a.Text).String(), b.Digest(b.Text).String(), "what is read of the document is the same, but its text differs, and the text is what is attested")
	}
}

func (d *differ) add(category, path, a, b, note string) {
	d.causes = append(d.causes, DiffCause{Category: category, Container: d.container, Path: path, A: a, B: b, Note: note})
}

// rules names the lines that differ, not every one of them.
func (d *differ) rules(a, b []byte) {
	if (a == nil) != (b == nil) {
		side := "A"
		if a == nil {
			side = "B"
		}
		d.unchecked = append(d.unchecked, fmt.Sprintf("%s has rules, the other side is data alone", side))
		return
	}
	if !bytes.Equal(a, b) {
		d.lines("rules", "", a, b)
	}
}

// lines names the first line in which two texts differ.
func (d *differ) lines(category, path string, a, b []byte) {
	x, y := bytes.Split(a, []byte("\n")), bytes.Split(b, []byte("\n"))
	i := 0
	for i < len(x) && i < len(y) && bytes.Equal(x[i], y[i]) {
		i++
	}
	j := 0
	for j < len(x)-i && j < len(y)-i && bytes.Equal(x[len(x)-1-j], y[len(y)-1-j]) {
		j++
	}
	line := func(lines [][]byte) string {
		if i < len(lines)-j {
			return string(lines[i])
		}
		return ""
	}
	note := fmt.Sprintf("sha256 %s in A, %s in B; %d lines in A stand against %d in B", sha256Of(a).Hex()[:12], sha256Of(b).Hex()[:12], len(x)-i-j, len(y)-i-j)
	d.add(category, strings.TrimPrefix(fmt.Sprintf("%s line %d", path, i+1), " "), line(x), line(y), note)
}

func (d *differ) containers(a, b []containerTree) {
	find := func(list []containerTree, name string) *jsondoc.Value {
		for _, c := range list {
			if c.name == name {
				return c.tree
			}
		}
		return nil
	}
	var namesA, namesB []string
	for _, c := range a {
		d.container = c.name
		namesA = append(namesA, c.name)
		if other := find(b, c.name); other != nil {
			d.tree("", c.tree, other)
		} else {
			d.container = ""
			d.add("containers", c.name, "container "+c.name, "", "")
		}
	}
	d.container = ""
	for _, c := range b {
		namesB = append(namesB, c.name)
		if find(a, c.name) == nil {
			d.add("containers", c.name, "", "container "+c.name, "")
		}
	}
	if !slices.Equal(namesA, namesB) && len(d.causes) == 0 {
		d.add("containers", "order", strings.Join(namesA, ", "), strings.Join(namesB, ", "), "")
	}
}

func memberNames(a, b *jsondoc.Value) []string {
	var names []string
	for _, v := range []*jsondoc.Value{a, b} {
		if v == nil {
			continue
		}
		for _, m := range v.Members {
			if !slices.Contains(names, m.Key) {
				names = append(names, m.Key)
			}
		}
	}
	return names
}

// tree compares two values at a path; nil stands for absent.
func (d *differ) tree(path string, a, b *jsondoc.Value) {
	join := func(key string) string {
		if path == "" {
			return key
		}
		return path + "." + key
	}
	switch {
	case a != nil && b != nil && a.Kind == jsondoc.Object && b.Kind == jsondoc.Object:
		for _, key := range memberNames(a, b) {
			d.tree(join(key), member(a, key), member(b, key))
		}
	case isListOrAbsent(a) && isListOrAbsent(b) && (a != nil || b != nil):
		d.list(path, a, b)
	case a == nil || b == nil || !sameJSON(a, b):
		d.add(d.category(path), path, printed(a), printed(b), "")
	}
}

func isListOrAbsent(v *jsondoc.Value) bool { return v == nil || v.Kind == jsondoc.Array }

func printed(v *jsondoc.Value) string {
	switch {
	case v == nil:
		return ""
	case v.Kind == jsondoc.String:
		return fmt.Sprintf("%q", v.Text)
	}
	return compact(v)
}

// list joins elements by what names them: variables by name, mounts by
// destination, storages by mount point, anything else by its text.
func (d *differ) list(path string, a, b *jsondoc.Value) {
	x, y := elems(a), elems(b)
	if path == "OCI.Process.Args" {
		for i := range max(len(x), len(y)) {
			d.pair(fmt.Sprintf("%s[%d]", path, i), nth(x, i), nth(y, i))
		}
		return
	}
	keysX, keysY := listKeys(path, x), listKeys(path, y)
	before := len(d.causes)
	for i, key := range keysX {
		j := slices.Index(keysY, key)
		if j < 0 {
			d.pair(path+pathKey(key), x[i], nil)
		} else {
			d.pair(path+pathKey(key), x[i], y[j])
		}
	}
	for j, key := range keysY {
		if !slices.Contains(keysX, key) {
			d.pair(path+pathKey(key), nil, y[j])
		}
	}
	if len(d.causes) == before && !slices.Equal(keysX, keysY) {
		d.add(d.category(path), path, strings.Join(keysX, " "), strings.Join(keysY, " "), "the order differs")
	}
}

func (d *differ) pair(path string, a, b *jsondoc.Value) {
	if a != nil && b != nil && a.Kind == jsondoc.Object {
		d.tree(path, a, b)
		return
	}
	if a == nil || b == nil || !sameJSON(a, b) {
		d.add(d.category(path), path, printed(a), printed(b), "")
	}
}

func elems(v *jsondoc.Value) []*jsondoc.Value {
	if v == nil {
		return nil
	}
	return v.Elems
}

func nth(list []*jsondoc.Value, i int) *jsondoc.Value {
	if i < len(list) {
		return list[i]
	}
	return nil
}

func listKeys(path string, list []*jsondoc.Value) []string {
	keys := make([]string, len(list))
	seen := map[string]int{}
	for i, e := range list {
		switch {
		case path == "OCI.Process.Env":
			keys[i], _, _ = strings.Cut(e.Text, "=")
		case path == "OCI.Mounts":
			keys[i] = stringAt(e, "destination")
		case path == "storages" || path == "sandbox.storages":
			keys[i] = stringAt(e, "mount_point")
		case path == "devices":
			keys[i] = stringAt(e, "container_path")
		case e.Kind == jsondoc.String:
			keys[i] = e.Text
		default:
			keys[i] = compact(e)
		}
		if seen[keys[i]]++; seen[keys[i]] > 1 {
			keys[i] = fmt.Sprintf("%s (%d)", keys[i], seen[keys[i]])
		}
	}
	return keys
}

// categories by the start of a path inside a container.
var categories = []struct{ prefix, category string }{
	{`OCI.Annotations.` + criPrefix + "image-name", "image"},
	{"OCI.Annotations", "annotations"},
	{"runtime_anno_patterns", "annotations"},
	{"OCI.Process.Args", "args"},
	{"OCI.Process.Env", "env"},
	{"OCI.Process.User", "user"},
	{"OCI.Process.Capabilities", "capabilities"},
	{"OCI.Process", "process"},
	{"OCI.Mounts", "mounts"},
	{"storages", "storages"},
	{"devices", "devices"},
	{"exec_commands", "exec"},
	{"OCI.Version", "settings"},
	{"OCI.Linux", "linux"},
	{"OCI.Root", "process"},
	{"sandbox_pidns", "process"},
}

func (d *differ) category(path string) string {
	if d.container == "" {
		return "settings"
	}
	for _, c := range categories {
		if strings.HasPrefix(path, c.prefix) {
			return c.category
		}
	}
	return "containers"
}

// common folds a difference that every container has into one: it comes from
// the settings, or from the pod as a whole.
func (d *differ) common() {
	type id struct{ path, a, b string }
	containers := map[string]bool{}
	counts := map[id]int{}
	for _, c := range d.causes {
		if c.Container != "" {
			containers[c.Container] = true
			counts[id{c.Path, c.A, c.B}]++
		}
	}
	if len(containers) < 2 {
		return
	}
	done := map[id]bool{}
	kept := d.causes[:0]
	for _, c := range d.causes {
		key := id{c.Path, c.A, c.B}
		if c.Container == "" || counts[key] < len(containers) {
			kept = append(kept, c)
			continue
		}
		if !done[key] {
			done[key] = true
			c.Container = ""
			c.Note = "in every container"
			kept = append(kept, c)
		}
	}
	d.causes = kept
}
