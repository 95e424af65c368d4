package manifest

import (
	"fmt"
	"slices"
	"strings"

	"github.com/retally/retally/manifest"
	"github.com/retally/retally/pipeline"
)

// Given reads NAME=VALUE of a plan's variables.
func Given(p *manifest.Plan, plan string, vars []string) (map[string]string, error) {
	values := map[string]string{}
	for _, v := range vars {
		name, value, ok := strings.Cut(v, "=")
		if !ok || name == "" {
			return nil, &pipeline.InputError{Op: "manifest adjust", Err: fmt.Errorf("{var} %s: want NAME=VALUE", v)}
		}
		if !slices.Contains(p.VariableNames(), name) {
			return nil, &pipeline.InputError{Op: "manifest adjust", File: plan, Err: fmt.Errorf("the plan has no variable %q", name), Hint: "known: " + strings.Join(p.VariableNames(), ", ")}
		}
		values[name] = value
	}
	return values, nil
}

// Adjusted is the form for scripts of what a plan's edits did.
func Adjusted(res *manifest.Result) any {
	steps := []map[string]any{}
	for _, s := range res.Steps {
		steps = append(steps, map[string]any{
			"index": s.Index, "op": s.Op, "path": s.Path, "where": s.Where, "places": s.Places, "warning": s.Warning, "line": s.Line,
		})
	}
	return map[string]any{"manifest": string(res.Bytes), "steps": steps}
}
