package decide

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/retally/retally/pipeline"
	"github.com/retally/retally/policygen"
	"github.com/retally/retally/policygen/check"
)

const op = "policy check"

// New is a policy that was asked nothing yet. rules says whose its rules are.
func New(p *policygen.NamedPolicy, rules, file string) (*Decisions, error) {
	if p.Rules == nil {
		return nil, &pipeline.InputError{Op: op, File: file, Err: errors.New("the initdata document has no policy: the guest's own one decides"), Hint: "ask that policy, which is part of the guest's image"}
	}
	policy, err := check.Parse(file, text(p))
	if err != nil {
		return nil, &pipeline.InputError{Op: op, File: file, Err: err}
	}
	return &Decisions{
		Allowed: true, Kind: p.Kind, Namespace: p.Namespace, Name: p.Name, Rules: rules,
		RulesDigest: policygen.Rules{Text: p.Rules}.Digest().String(), Decisions: []Decision{}, policy: policy,
	}, nil
}

// text is the whole text of a policy that has rules.
func text(p *policygen.NamedPolicy) []byte {
	if p.Data == nil {
		return p.Rules
	}
	return slices.Concat(p.Rules, []byte("\npolicy_data := "), p.Data)
}

// Ask asks the policy about every request in a file; what one of them changes
// holds for the next. Without kind it is as the text or its members tell.
func (d *Decisions) Ask(ctx context.Context, file string, data []byte, kind string) error {
	for i, one := range check.SplitRequests(data) {
		req, err := check.ParseRequest(one.Text, kind)
		var cut *check.CutError
		if errors.As(err, &cut) {
			return &pipeline.InputError{Op: op, File: one.Place(file), Err: err, Hint: "events and kernel logs shorten long messages: take the whole one from the log of containerd or of the agent"}
		}
		if err != nil {
			return &pipeline.InputError{Op: op, File: one.Place(file), Err: err, Hint: "{kind} names the kind"}
		}
		answer, err := d.policy.Evaluate(ctx, req.Kind, req.Input)
		if err != nil {
			if cerr := ctx.Err(); cerr != nil {
				return cerr
			}
			return &pipeline.InputError{Op: op, File: one.Place(file), Err: err}
		}
		d.Allowed = d.Allowed && answer.Allowed
		d.Decisions = append(d.Decisions, Decision{Request: i + 1, Line: one.Line, Description: one.Description(), Decision: answer})
	}
	return nil
}

// Choose finds the policy that is meant among those of a file: KIND/NAME,
// KIND/NAMESPACE/NAME, or the only one.
func Choose(list []policygen.NamedPolicy, want, file string) (*policygen.NamedPolicy, error) {
	fail := func(hint, format string, args ...any) error {
		return &pipeline.InputError{Op: op, File: file, Err: fmt.Errorf(format, args...), Hint: hint}
	}
	var names []string
	var hits []*policygen.NamedPolicy
	for i := range list {
		p := &list[i]
		names = append(names, p.Kind+"/"+p.Name)
		if want == "" || strings.EqualFold(want, p.Kind+"/"+p.Name) || strings.EqualFold(want, p.Kind+"/"+p.Namespace+"/"+p.Name) {
			hits = append(hits, p)
		}
	}
	const most = 20
	if len(names) > most {
		names = append(names[:most:most], fmt.Sprintf("%d more", len(list)-most))
	}
	known := "it has " + strings.Join(names, ", ")
	switch {
	case len(hits) == 1:
		return hits[0], nil
	case want == "":
		return nil, fail("{workload} KIND/NAME chooses one; "+known, "%d policies are in it", len(list))
	case len(hits) == 0:
		return nil, fail(known, "no policy of %s", want)
	}
	return nil, fail("name the namespace: KIND/NAMESPACE/NAME", "%d policies of %s", len(hits), want)
}
