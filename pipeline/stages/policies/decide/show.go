package decide

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/retally/retally/internal/show"
	"github.com/retally/retally/policygen"
	"github.com/retally/retally/policygen/check"
)

// Shown is what a policy permits: what its data says of containers, and what its
// rules say to requests.
type Shown struct {
	policygen.Shown
	// Rules is nil where the policy has none.
	Rules *check.Permissions `json:"rules,omitempty"`
	// NotUnderstood says why the rules could not be read.
	NotUnderstood string `json:"not_understood,omitempty"`
}

// Show says what policies permit.
func Show(ctx context.Context, list []policygen.NamedPolicy) ([]Shown, error) {
	var out []Shown
	for i, s := range policygen.Show(list) {
		one := Shown{Shown: s}
		if list[i].Rules != nil {
			rules, err := check.Permitted(ctx, "policy", text(&list[i]))
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			if one.Rules = rules; err != nil {
				one.NotUnderstood = err.Error()
			}
		}
		out = append(out, one)
	}
	return out, nil
}

// ShownText says it in plain words.
func ShownText(w io.Writer, list []Shown) {
	for _, s := range list {
		name := s.Name
		if s.Namespace != "" {
			name = s.Namespace + "/" + name
		}
		name = show.Or(strings.TrimSpace(s.Kind+" "+name), "the policy")
		if s.Annotation != "" && s.Annotation != policygen.InitdataAnnotation {
			name += ", carried by " + s.Annotation
		}
		show.Line(w, "%s", name)
		if s.NotUnderstood != "" {
			show.Line(w, "  the rules are not understood: %s", s.NotUnderstood)
		}
		if s.Rules != nil {
			rulesText(w, s.Rules)
		}
		for _, p := range s.Pod {
			show.Line(w, "  %s", p)
		}
		for _, c := range s.Containers {
			show.Line(w, "  container %s may", c.Name)
			for _, may := range c.May {
				show.Line(w, "    %s", may)
			}
		}
	}
}

func rulesText(w io.Writer, r *check.Permissions) {
	for _, n := range r.Notes {
		show.Line(w, "  %s", n)
	}
	if r.Everything {
		show.Line(w, "  everything is allowed: AllowRequestsFailingPolicy makes the agent allow what the rules deny")
	}
	with := func(v check.Verdict, words bool) (list []check.Permission) {
		for _, k := range r.Kinds {
			if k.Verdict == v && (k.Means != "") == words {
				list = append(list, k)
			}
		}
		return list
	}
	for _, k := range with(check.Always, true) {
		show.Line(w, "  %s: the rules allow every %s", k.Means, k.Kind)
	}
	for _, v := range []struct {
		verdict check.Verdict
		joint   string
	}{{check.Conditions, "if"}, {check.Unless, "unless"}} {
		for _, words := range []bool{true, false} {
			for _, k := range with(v.verdict, words) {
				show.Line(w, "  %s, %s %s", show.Or(k.Means, "the rules allow "+k.Kind), v.joint, strings.Join(k.Conditions, ", or "))
				if words {
					show.Line(w, "    (%s%s)", k.Kind, lines(k))
				}
			}
		}
	}
	for _, words := range []bool{true, false} {
		for _, k := range with(check.NotUnderstood, words) {
			show.Line(w, "  not understood: whether %s (%s%s: %s)", show.Or(k.Means, "the host may make this request"), k.Kind, lines(k), k.Why)
		}
	}
	folded := func(label string, lists ...[]check.Permission) {
		var names []string
		for _, list := range lists {
			for _, k := range list {
				names = append(names, strings.TrimSuffix(k.Kind, "Request"))
			}
		}
		if len(names) > 0 {
			show.Line(w, "  %s: %s", label, strings.Join(names, ", "))
		}
	}
	folded("decided by what is said below, by retally's own rules", with(check.Data, true), with(check.Data, false))
	folded("always allowed as well, which run nothing and read nothing of a container", with(check.Always, false))
	folded("never allowed by the rules", with(check.Never, true), with(check.Never, false))
}

// lines says where the rules of a kind stand.
func lines(k check.Permission) string {
	var list []string
	for _, n := range k.Lines {
		list = append(list, strconv.Itoa(n))
	}
	switch len(list) {
	case 0:
		return ""
	case 1:
		return ", line " + list[0]
	}
	return fmt.Sprintf(", lines %s", strings.Join(list, " and "))
}
