package manifest

import (
	"fmt"
	"strconv"
	"strings"

	"gopkg.in/yaml.v3"

	"github.com/retally/retally/internal/jsondoc"
	"github.com/retally/retally/internal/yamldoc"
)

func (r *planReader) where(n *yaml.Node, path string) []Condition {
	pairs := yamldoc.Pairs(n)
	if len(pairs) == 0 {
		r.fail(n, path, "", "want a mapping from field to value, with at least one field")
		return nil
	}
	var out []Condition
	for _, p := range pairs {
		c := Condition{Field: p.Key.Value}
		at := join(path, clip(c.Field))
		switch p.Value.Kind {
		case yaml.MappingNode:
			f := r.fields(p.Value, at, "contains")
			if f == nil {
				continue
			}
			if f["contains"] == nil {
				r.fail(p.Value, at, "", `want a value, or "contains" with a text`)
				continue
			}
			c.Contains = r.word(f["contains"], p.Value, at, "contains", true)
			r.text(f["contains"], at+".contains", c.Contains)
		case yaml.ScalarNode:
			c.Equal = r.value(p.Value, at, 0)
		default:
			r.fail(p.Value, at, "", `want a plain value, or "contains" with a text`)
		}
		out = append(out, c)
	}
	return out
}

// value turns YAML into JSON. Numbers take yq's notation at once.
func (r *planReader) value(n *yaml.Node, path string, depth int) *jsondoc.Value {
	switch n = yamldoc.Resolve(n); {
	case depth > maxDepth:
		r.fail(n, path, "", "nested deeper than %d", maxDepth)
	case n.Kind == yaml.SequenceNode:
		v := &jsondoc.Value{Kind: jsondoc.Array}
		for i, e := range yamldoc.Elems(n) {
			v.Elems = append(v.Elems, r.value(e, path+"["+strconv.Itoa(i)+"]", depth+1))
		}
		return v
	case n.Kind == yaml.MappingNode:
		v := &jsondoc.Value{Kind: jsondoc.Object}
		seen := map[string]bool{}
		for _, p := range yamldoc.Pairs(n) {
			switch {
			case strings.Contains(p.Key.Value, "${"):
				r.fail(p.Key, path, "", "variables are not replaced in keys: %s", quote(p.Key.Value))
			case p.Key.Value == mergeKey:
				r.fail(p.Key, path, "", "yq would lose the key %q", mergeKey)
			case seen[p.Key.Value]: // 1 and "1" differ in YAML only
				r.fail(p.Key, path, "", "key %s appears twice", quote(p.Key.Value))
			}
			seen[p.Key.Value] = true
			v.Members = append(v.Members, jsondoc.Member{Key: p.Key.Value, Value: r.value(p.Value, join(path, clip(p.Key.Value)), depth+1)})
		}
		return v
	case n.Kind == yaml.ScalarNode:
		return r.scalar(n, path)
	default:
		r.fail(n, path, "", "want a value")
	}
	return &jsondoc.Value{}
}

func (r *planReader) scalar(n *yaml.Node, path string) *jsondoc.Value {
	switch tag := n.ShortTag(); tag {
	case "!!null":
		return &jsondoc.Value{}
	case "!!bool":
		var b bool
		if err := n.Decode(&b); err != nil {
			r.fail(n, path, "", "want true or false")
		}
		return jsondoc.NewBool(b)
	case "!!int", "!!float":
		literal, err := yamlNumber(n)
		if err != nil {
			r.fail(n, path, "if it is text, put it in quotes", "%v", err)
			return &jsondoc.Value{}
		}
		return jsondoc.NewNumber(literal)
	case "!!str", "!!timestamp":
		r.text(n, path, n.Value)
		return jsondoc.NewString(n.Value)
	default:
		r.fail(n, path, "", "value of the YAML type %s", quote(tag))
	}
	return &jsondoc.Value{}
}

// text checks the variables that a text names.
func (r *planReader) text(n *yaml.Node, path, s string) {
	names, err := variablesIn(s)
	if err != nil {
		r.fail(n, path, "", "%v", err)
	}
	for _, name := range names {
		if _, ok := r.plan.vars[name]; !ok {
			hint := "no variables are declared"
			if len(r.plan.names) > 0 {
				hint = nearHint(name, r.plan.names)
			}
			r.fail(n, path, hint, "variable %s is not declared", quote(name))
		}
	}
}

// variablesIn lists the names in ${...}. A "$" before anything but "{" is
// itself.
func variablesIn(s string) ([]string, error) {
	var names []string
	for {
		i := strings.Index(s, "${")
		if i < 0 {
			return names, nil
		}
		end := strings.IndexByte(s[i:], '}')
		if end < 0 {
			return names, fmt.Errorf("%s is not closed", quote(s[i:]))
		}
		name := s[i+2 : i+end]
		if !validName(name) {
			return names, fmt.Errorf("%s is no variable name", quote(name))
		}
		names = append(names, name)
		s = s[i+end+1:]
	}
}
