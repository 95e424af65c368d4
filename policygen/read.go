package policygen

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/retally/retally/internal/jsondoc"
)

// NamedPolicy is a policy with the workload that it is for, as far as the file
// it was read from says so.
type NamedPolicy struct {
	Kind, Namespace, Name string
	Rules                 []byte
	Data                  []byte
	// Document is the initdata document around the policy, nil where the file
	// held a policy or its data alone. Rules is nil where it held data alone,
	// Data where the rules were written by hand and have none that is read. Both
	// are nil where a document has no policy: the guest's own one holds then.
	Document *Document
	// Annotation is the key of the pod's annotation that carries it, "" elsewhere.
	Annotation string
	// Unread says why policy_data in the text is not read as such: it is part of
	// Rules then, "" where there is none.
	Unread string
	tree   *jsondoc.Value
	pod    *podSpec // from annotated YAML
}

// Document is an initdata document with its text, which is what is attested.
type Document struct {
	Initdata
	Text []byte
}

func (p *NamedPolicy) key() string { return p.Kind + "/" + p.Namespace + "/" + p.Name }

// ReadPolicies reads the policies in a file: a policy, its data alone, an
// initdata document, the value of an annotation, or annotated YAML.
func ReadPolicies(f NamedFile) ([]NamedPolicy, error) {
	trimmed := bytes.TrimSpace(f.Data)
	if isBase64(trimmed) {
		text, err := decodeCarried(string(trimmed))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", f.Name, err)
		}
		return textPolicy(f.Name, text)
	}
	if IsRego(f.Data) || isInitdata(f.Data) || bytes.Contains(f.Data, []byte(dataMark)) || isPolicyData(trimmed) {
		return textPolicy(f.Name, f.Data)
	}
	return yamlPolicies(f)
}

// textPolicy reads an initdata document or a policy, as its start says.
func textPolicy(name string, text []byte) ([]NamedPolicy, error) {
	if !IsRego(text) && isInitdata(text) {
		return initdataPolicy(name, text)
	}
	return onePolicy(name, text)
}

// IsRego reports whether a text is Rego by its start: comments, then a package
// clause.
func IsRego(text []byte) bool {
	for line := range bytes.Lines(text) {
		if line = bytes.TrimSpace(line); len(line) > 0 && line[0] != '#' {
			return packageClause.Match(line)
		}
	}
	return false
}

var packageClause = regexp.MustCompile(`^package[ \t]+[A-Za-z_]`)

func isInitdata(text []byte) bool {
	head, _, _ := bytes.Cut(text, []byte(dataMark))
	return versionKey.Match(head) && algorithmKey.Match(head)
}

// The keys of an initdata document that stand before its data.
var (
	versionKey   = regexp.MustCompile(`(?m)^"?version"?[ \t]*=`)
	algorithmKey = regexp.MustCompile(`(?m)^"?algorithm"?[ \t]*=`)
)

// isPolicyData tells policy data from other JSON, such as a Deployment.
func isPolicyData(text []byte) bool {
	if !bytes.HasPrefix(text, []byte("{")) {
		return false
	}
	tree, err := jsondoc.Parse(text, jsondoc.Limits{})
	if err != nil {
		return false
	}
	list := member(tree, "containers")
	return list != nil && list.Kind == jsondoc.Array
}

func isBase64(text []byte) bool {
	_, err := base64.StdEncoding.DecodeString(string(text))
	return err == nil && len(text) > 0
}

// onePolicy reads a policy text or data alone. Rules that were written by hand
// need no data.
func onePolicy(name string, text []byte) ([]NamedPolicy, error) {
	data, err := SplitPolicy(text)
	switch {
	case err == nil:
		return []NamedPolicy{{Rules: data.Rules, Data: data.JSON, tree: data.tree}}, nil
	case !IsRego(text):
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	p := NamedPolicy{Rules: text}
	if bytes.Contains(text, []byte("policy_data")) {
		p.Unread = err.Error()
	}
	return []NamedPolicy{p}, nil
}

func initdataPolicy(name string, text []byte) ([]NamedPolicy, error) {
	d, err := parseInitdata(name, text, GoTOML, true)
	if err != nil {
		return nil, err
	}
	list := []NamedPolicy{{}}
	if policy, ok := d.Data[policyKey]; ok {
		if list, err = onePolicy(name+": "+policyKey, []byte(policy)); err != nil {
			return nil, err
		}
	}
	list[0].Document = &Document{*d, text}
	return list, nil
}

// The annotations that carry a policy. Each value is base64: of an initdata
// document, packed with gzip (kata-containers, docs/how-to: initdata; the one of
// the runtime is that of peer pods, cloud-api-adaptor, whose older releases did
// not pack it), or of the policy's text (kata-containers,
// docs/how-to/how-to-use-the-kata-agent-policy.md).
const (
	runtimeAnnotation = "io.katacontainers.config.runtime.cc_init_data"
	policyAnnotation  = "io.katacontainers.config.agent.policy"
)

// InitdataAnnotation is the one that generators write.
const InitdataAnnotation = initdataAnnotation

var carrying = []string{initdataAnnotation, runtimeAnnotation, policyAnnotation}

// carriesPolicy reports a key that looks like those of the annotations that
// carry a policy.
func carriesPolicy(key string) bool {
	rest, ok := strings.CutPrefix(key, "io.katacontainers.config.")
	rest = strings.ReplaceAll(strings.ToLower(rest), "_", "")
	return ok && (strings.Contains(rest, "initdata") || strings.HasSuffix(rest, "policy"))
}

// CarriesPolicy reports whether an annotation of a pod carries a policy or looks
// like one that does, other than the one that generators write, and whether its
// value can be read here. text is the policy where policy is set, else the
// initdata document.
func CarriesPolicy(key, value string) (text []byte, policy, carries bool, err error) {
	if key == InitdataAnnotation || !carriesPolicy(key) {
		return nil, false, false, nil
	}
	if !slices.Contains(carrying, key) {
		return nil, false, true, errors.New("is not known here: want " + strings.Join(carrying, " or "))
	}
	text, err = decodeCarried(value)
	return text, key == policyAnnotation, true, err
}

// decodeCarried unpacks what an annotation carries.
func decodeCarried(value string) ([]byte, error) {
	text, err := base64.StdEncoding.DecodeString(strings.TrimSpace(value))
	if err != nil || bytes.HasPrefix(text, []byte{0x1f, 0x8b}) || !IsRego(text) && !isInitdata(text) {
		return DecodeAnnotation(value)
	}
	return text, nil
}

// annotated reads the policies that annotations carry, in the order of their
// keys' names.
func annotated(where string, annotations map[string]string) ([]NamedPolicy, error) {
	var list []NamedPolicy
	for _, key := range slices.Sorted(maps.Keys(annotations)) {
		if !carriesPolicy(key) {
			continue
		}
		where := where + ": " + key
		if !slices.Contains(carrying, key) {
			return nil, fmt.Errorf("%s: an annotation that carries a policy and is not known here: want %s", where, strings.Join(carrying, " or "))
		}
		text, err := decodeCarried(annotations[key])
		if err != nil {
			return nil, fmt.Errorf("%s: %w", where, err)
		}
		var one []NamedPolicy
		if key == policyAnnotation {
			one, err = onePolicy(where, text)
		} else {
			one, err = initdataPolicy(where, text)
		}
		if err != nil {
			return nil, err
		}
		one[0].Annotation = key
		list = append(list, one...)
	}
	return list, nil
}

// yamlPolicies takes the policies out of annotated YAML. Fields that the
// generator would refuse do not matter here.
func yamlPolicies(f NamedFile) ([]NamedPolicy, error) {
	limits := Limits{YAMLBytes: 64 << 20}.orDefault()
	docs, err := parseYAML(f.Name, f.Data, limits)
	if err != nil {
		return nil, err
	}
	g := &generator{in: Input{YAML: f, Unknown: IgnoreUnknown, Limits: limits}}
	c := &collector{file: f.Name}
	var list []NamedPolicy
	for _, doc := range docs {
		kind, ok := g.header(doc, c)
		if !ok {
			continue
		}
		if _, known := ruleOf(kind); known || kind == "List" {
			if r := g.parseResource(doc, c, 0); r != nil {
				g.collect(r)
			}
			continue
		}
		// Resources of other kinds hand their annotations on to pods.
		other, err := otherKind(f.Name, kind, doc)
		if err != nil {
			return nil, err
		}
		list = append(list, other...)
	}
	if len(c.problems) > 0 {
		return nil, c.problems
	}
	for _, w := range g.workloads {
		where := f.Name + ": " + w.kind
		if w.meta.Name != nil {
			where += "/" + *w.meta.Name
		}
		some, err := annotated(where, w.podMeta().Annotations)
		if err != nil {
			return nil, err
		}
		for i := range some {
			p := &some[i]
			p.Kind, p.pod = w.kind, &w.pod
			if w.meta.Name != nil {
				p.Name = *w.meta.Name
			}
			if w.namespace != nil {
				p.Namespace = *w.namespace
			}
		}
		list = append(list, some...)
	}
	if len(list) == 0 {
		found := ""
		for _, key := range carrying {
			if bytes.Contains(f.Data, []byte(key)) {
				found = "; " + key + " stands in it, but not on a pod or a pod's template"
			}
		}
		return nil, errors.New(f.Name + ": no policies in it" + found + ": want a policy, an initdata document, the value of an annotation that carries one (" +
			strings.Join(carrying, ", ") + "), or YAML with such an annotation")
	}
	return list, nil
}

// otherKind reads the annotations of a resource whose kind is none of
// Kubernetes' own workloads, wherever in it they stand.
func otherKind(file, kind string, doc *value) ([]NamedPolicy, error) {
	text := func(v *value) string {
		if v != nil && v.kind == stringKind {
			return v.text
		}
		return ""
	}
	meta := doc.get("metadata")
	name, namespace := text(meta.get("name")), text(meta.get("namespace"))
	var list []NamedPolicy
	var walk func(v *value) error
	walk = func(v *value) error {
		for _, e := range v.elems {
			if err := walk(e); err != nil {
				return err
			}
		}
		for _, e := range v.entries {
			if e.key.text == "annotations" && e.val.kind == mapKind {
				found := map[string]string{}
				for _, a := range e.val.entries {
					found[a.key.text] = text(a.val)
				}
				some, err := annotated(file+": "+kind+"/"+name, found)
				if err != nil {
					return err
				}
				for i := range some {
					some[i].Kind, some[i].Namespace, some[i].Name = kind, namespace, name
				}
				list = append(list, some...)
			}
			if err := walk(e.val); err != nil {
				return err
			}
		}
		return nil
	}
	return list, walk(doc)
}

// containerTrees are the containers of a policy with the names that errors and
// differences use; the first is the pause container.
type containerTree struct {
	name string
	tree *jsondoc.Value
}

func (p *NamedPolicy) containers() []containerTree {
	if p.tree == nil {
		return nil
	}
	var list []containerTree
	seen := map[string]int{}
	for i, c := range member(p.tree, "containers").Elems {
		name := stringAt(c, "OCI", "Annotations", criPrefix+"container-name")
		if name == "" {
			name = "pause"
			if i > 0 {
				name = fmt.Sprintf("container %d", i)
			}
		}
		if seen[name]++; seen[name] > 1 {
			name = fmt.Sprintf("%s (%d)", name, seen[name])
		}
		list = append(list, containerTree{name, c})
	}
	return list
}

// at follows member names; nil where one is missing.
func at(v *jsondoc.Value, names ...string) *jsondoc.Value {
	for _, n := range names {
		if v == nil || v.Kind != jsondoc.Object {
			return nil
		}
		v = member(v, n)
	}
	return v
}

func stringAt(v *jsondoc.Value, names ...string) string {
	if v = at(v, names...); v != nil && v.Kind == jsondoc.String {
		return v.Text
	}
	return ""
}

func stringsAt(v *jsondoc.Value, names ...string) []string {
	v = at(v, names...)
	if v == nil {
		return nil
	}
	var list []string
	for _, e := range v.Elems {
		if e.Kind == jsondoc.Array {
			var words []string
			for _, w := range e.Elems {
				words = append(words, w.Text)
			}
			list = append(list, strings.Join(words, " "))
			continue
		}
		list = append(list, e.Text)
	}
	return list
}

func boolAt(v *jsondoc.Value, names ...string) bool {
	v = at(v, names...)
	return v != nil && v.Kind == jsondoc.Bool && v.Bool
}
