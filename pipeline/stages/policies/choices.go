package policies

import (
	"context"
	"slices"

	"github.com/retally/retally/pipeline/stages/published"
	"github.com/retally/retally/policygen"
)

// otherChoice is the deployment as another choice of the generation changes it.
type otherChoice struct {
	words string
	made  *published.Generation
}

// choices finds one other choice of the generation under which a workload's
// policy has exactly the published hash. What explained one workload is tried
// first with the next.
func (s *variantSearch) choices(ctx context.Context, p *computedPolicy, want string) (words string, found bool, err error) {
	if s.r.changed == nil {
		return "", false, nil
	}
	if s.others == nil {
		s.others = []otherChoice{}
		for _, a := range s.r.changed.Alternatives(s.r.listed) {
			made, err := s.r.changed.With(ctx, a.Change)
			if ctx.Err() != nil {
				return "", false, ctx.Err()
			}
			if err != nil {
				continue // that choice gives no deployment
			}
			s.others = append(s.others, otherChoice{a.Words, made})
		}
	}
	for i, o := range s.others {
		if s.left--; s.left < 0 {
			return "", false, nil
		}
		other, ok := s.r.under(ctx, p, o.made)
		if err := ctx.Err(); err != nil {
			return "", false, err
		}
		if !ok || s.r.hash(other).Hex() != want {
			continue
		}
		s.others = slices.Concat(s.others[i:i+1], s.others[:i], s.others[i+1:])
		return o.words, true, nil
	}
	return "", false, nil
}

// under computes one workload's policy from another changed deployment. One that
// lacks an input there has none.
func (r *policyRun) under(ctx context.Context, p *computedPolicy, g *published.Generation) (*policygen.Policy, bool) {
	parts := splitYAML(g.YAML)
	keep, line := map[int]bool{}, 0
	for i := range g.Changed.Workloads {
		w := &g.Changed.Workloads[i]
		own := g.Of(w)
		if own == nil || w.SecretID != p.w.SecretID || w.ID() != p.w.ID() {
			continue
		}
		if len(own.Missing) > 0 || line > 0 {
			return nil, false
		}
		line = w.Line
		keep[parts.of(line)] = true
	}
	if line == 0 {
		return nil, false
	}
	for _, o := range g.Changed.Objects {
		if o.Kind == "ConfigMap" || o.Kind == "Secret" {
			keep[parts.of(o.Line)] = true
		}
	}
	input := r.input
	input.YAML = policygen.NamedFile{Name: g.File, Data: parts.only(keep)}
	out, err := policygen.Generate(ctx, input)
	if err != nil {
		return nil, false
	}
	for i := range out.Policies {
		if q := &out.Policies[i]; q.Line == line && q.Kind == p.w.Kind && q.Name == p.w.Name {
			return q, true
		}
	}
	return nil, false
}
