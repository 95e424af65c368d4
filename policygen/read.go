package policygen

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"regexp"
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
	// held a policy or its data alone. Rules is nil where it held data alone.
	Document *Document
	tree     *jsondoc.Value
	pod      *podSpec // from annotated YAML
}

// Document is an initdata document with its text, which is what is attested.
type Document struct {
	Initdata
	Text []byte
}

func (p *NamedPolicy) key() string { return p.Kind + "/" + p.Namespace + "/" + p.Name }

// ReadPolicies reads the policies in a file: a policy, its data alone, an
// initdata document, the value of the annotation, or annotated YAML.
func ReadPolicies(f NamedFile) ([]NamedPolicy, error) {
	trimmed := bytes.TrimSpace(f.Data)
	head, _, isPolicy := bytes.Cut(f.Data, []byte(dataMark))
	switch {
	case versionKey.Match(head) && algorithmKey.Match(head):
		return initdataPolicy(f.Name, f.Data)
	case isPolicy, isPolicyData(trimmed):
		return onePolicy(f.Name, f.Data, nil)
	case isBase64(trimmed):
		text, err := DecodeAnnotation(string(trimmed))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", f.Name, err)
		}
		return initdataPolicy(f.Name, text)
	}
	return yamlPolicies(f)
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

func onePolicy(name string, text []byte, w *workloadItem) ([]NamedPolicy, error) {
	data, err := SplitPolicy(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	p := NamedPolicy{Rules: data.Rules, Data: data.JSON, tree: data.tree}
	if w != nil {
		p.Kind, p.pod = w.kind, &w.pod
		if w.meta.Name != nil {
			p.Name = *w.meta.Name
		}
		if w.namespace != nil {
			p.Namespace = *w.namespace
		}
	}
	return []NamedPolicy{p}, nil
}

func initdataPolicy(name string, text []byte) ([]NamedPolicy, error) {
	d, err := ParseInitdata(name, text, GoTOML)
	if err != nil {
		return nil, err
	}
	policy, ok := d.Data[policyKey]
	if !ok {
		return nil, fmt.Errorf("%s: the initdata document has no %s", name, policyKey)
	}
	list, err := onePolicy(name, []byte(policy), nil)
	if err != nil {
		return nil, err
	}
	list[0].Document = &Document{*d, text}
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
	for _, doc := range docs {
		if kind, ok := g.header(doc, c); ok {
			if _, known := ruleOf(kind); known || kind == "List" {
				if r := g.parseResource(doc, c, 0); r != nil {
					g.collect(r)
				}
			}
		}
	}
	if len(c.problems) > 0 {
		return nil, c.problems
	}
	var list []NamedPolicy
	for _, w := range g.workloads {
		annotation, ok := w.podMeta().Annotations[initdataAnnotation]
		if !ok {
			continue
		}
		where := f.Name + ": " + w.kind
		if w.meta.Name != nil {
			where += "/" + *w.meta.Name
		}
		text, err := DecodeAnnotation(annotation)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", where, err)
		}
		d, err := ParseInitdata(where, text, GoTOML)
		if err != nil {
			return nil, err
		}
		one, err := onePolicy(where, []byte(d.Data[policyKey]), w)
		if err != nil {
			return nil, err
		}
		one[0].Document = &Document{*d, text}
		list = append(list, one...)
	}
	if len(list) == 0 {
		return nil, errors.New(f.Name + ": no policies in it: want a policy, an initdata document, the value of the annotation " +
			initdataAnnotation + ", or YAML with that annotation")
	}
	return list, nil
}

// containerTrees are the containers of a policy with the names that errors and
// differences use; the first is the pause container.
type containerTree struct {
	name string
	tree *jsondoc.Value
}

func (p *NamedPolicy) containers() []containerTree {
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
