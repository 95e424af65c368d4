package deployment

import (
	"regexp"
	"strings"
)

// variables are what Kubernetes knows of a container's environment when it
// expands $(NAME) in command and args: name to value, in the order of the
// list, where the value is nil if it is not in the file.
type variables struct {
	values map[string]*string
	any    bool // envFrom: there may be any name
}

// serviceVariable is a name under which Kubernetes puts the address of a
// service into every container (kubernetes.io, "Environment variables").
var serviceVariable = regexp.MustCompile(`^[A-Z][A-Z0-9_]*_(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?|PORT(_[A-Z0-9_]+)?)$`)

func (c Container) variables() variables {
	v := variables{values: map[string]*string{}, any: c.envFrom}
	left := maxExpanded
	for _, e := range c.vars {
		if e.value == nil {
			v.values[e.name] = nil
			continue
		}
		if text, unknown := v.expand(*e.value); unknown == "" && len(text) <= left {
			v.values[e.name] = &text
			left -= len(text)
		} else {
			v.values[e.name] = nil
		}
	}
	return v
}

// expand replaces $(NAME) by the variable of exactly that name, as Kubernetes
// does before it starts a container (kubernetes.io, "Use environment variables
// to define arguments"): $$ stands for $, so that $$(NAME) is left alone, and
// what names no variable stays as it is. unknown is a name whose value is not
// in the file.
func (v variables) expand(text string) (out, unknown string) {
	if !strings.Contains(text, "$") {
		return text, ""
	}
	var b strings.Builder
	for i := 0; i < len(text); i++ {
		if text[i] != '$' || i+1 == len(text) {
			b.WriteByte(text[i])
			continue
		}
		switch i++; text[i] {
		case '$':
			b.WriteByte('$')
			continue
		case '(':
		default:
			b.WriteString(text[i-1 : i+1])
			continue
		}
		end := strings.IndexByte(text[i:], ')')
		if end < 0 {
			b.WriteString("$(")
			continue
		}
		name := text[i+1 : i+end]
		value, declared := v.values[name]
		switch {
		case declared && value != nil:
			b.WriteString(*value)
		case declared, v.any && serviceOrName(name), serviceVariable.MatchString(name):
			if unknown == "" {
				unknown = name
			}
			b.WriteString("$(" + name + ")")
		default:
			b.WriteString("$(" + name + ")")
		}
		i += end
		if b.Len() > maxExpanded {
			return text, "(more than fits)"
		}
	}
	return b.String(), unknown
}

// maxExpanded bounds what variables of variables can grow to, in one argument
// and over all variables of a container.
const maxExpanded = 1 << 20

// serviceOrName holds for what envFrom could bring: names of a ConfigMap's or
// a Secret's keys.
func serviceOrName(name string) bool {
	return name != "" && all(name, func(c byte) bool { return isAlnum(c) || c == '_' || c == '-' || c == '.' })
}
