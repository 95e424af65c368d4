// Package tpm is the stage that predicts the PCRs of machines with a TPM from
// what they boot.
package tpm

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/search"
	"github.com/retally/retally/pcrmeasure"
	"github.com/retally/retally/pcrmeasure/explain"
	"github.com/retally/retally/pipeline"
	"github.com/retally/retally/pipeline/config"
	"github.com/retally/retally/pipeline/run"
)

// Stage predicts PCRs and holds them against the values that are expected, and
// against golden measurements.
func Stage() run.Stage { return StageSeeing(func(string, *pcrmeasure.Prediction) {}) }

// StageSeeing is Stage for a caller that shows the predictions themselves: see is
// called with each, platform by platform and bank by bank.
func StageSeeing(see func(platform string, p *pcrmeasure.Prediction)) run.Stage {
	execute := func(ctx context.Context, in *run.In) (*run.Out, error) {
		r := &stageRun{in: in, see: see, out: &run.Out{Causes: map[pipeline.Key][]pipeline.Cause{}, Notes: map[pipeline.Key]string{}}}
		for _, name := range machines(in.Config) {
			if err := r.platform(ctx, name); err != nil {
				return nil, fmt.Errorf("platform %s: %w", name, err)
			}
		}
		return r.out, nil
	}
	return run.Stage{Name: "tpm", Version: 2, Fill: fill, Check: check, Run: execute, Plan: plan}
}

func plan(c *config.Config) []run.PlanLine {
	var lines []run.PlanLine
	for _, name := range machines(c) {
		p := c.Platforms[name]
		var from []string
		for _, f := range append([]string{config.Or(p.Firmware), p.Vars, config.Or(p.Kernel), config.Or(p.Initrd), p.UKI, p.Shim, p.Loader, p.LoaderConf, p.Disk}, p.Chain...) {
			if f != "" {
				from = append(from, f)
			}
		}
		for _, bank := range banksOf(&p) {
			line := run.PlanLine{Key: string(pipeline.NewKey("tpm", name, bank.String())) + "/*", From: strings.Join(from, ", ")}
			if len(from) == 0 {
				line.Missing, line.How = "everything that the machine boots", "firmware, vars, and kernel, uki or disk of the platform"
			}
			lines = append(lines, line)
		}
	}
	return lines
}

// stageRun collects what the stage finds.
type stageRun struct {
	in  *run.In
	out *run.Out
	see func(platform string, p *pcrmeasure.Prediction)
}

// reference is a value that somebody expects of a PCR.
type reference struct {
	set   string
	want  digest.Digest
	where pipeline.Where
}

// platform predicts one machine and says what it is held against.
func (r *stageRun) platform(ctx context.Context, name string) (err error) {
	m, err := Open(ctx, r.in, name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, m.Close()) }()
	references, err := r.references(ctx, m)
	if err != nil {
		return err
	}
	app, err := r.application(ctx, m)
	if err != nil {
		return err
	}
	// Golden measurements may be of a bank that nobody asked for.
	banks := banksOf(&m.conf)
	for k := range references {
		if _, bank, _, _ := ParseKey(k); !slices.Contains(banks, bank) {
			banks = append(banks, bank)
		}
	}
	for _, bank := range banks {
		p, err := m.Predict(ctx, bank)
		if err != nil {
			return err
		}
		if app != nil && bank == digest.SHA256 {
			p.PCRs[appRegister] = app
			delete(p.Missing, appRegister)
		}
		r.see(name, p)
		r.prediction(m, p, references)
		for i := range pcrmeasure.Count {
			key := m.key(bank, i)
			for _, ref := range references[key] {
				r.out.References = append(r.out.References, pipeline.Reference{
					Set: ref.set, Group: ref.set, Key: key, Relation: pipeline.Equal, Want: pipeline.OfDigest(ref.want), Where: ref.where, Words: words(i) + " of " + m.name,
				})
				if got := p.PCRs[i]; got != nil && got.Value != ref.want && i != appRegister {
					if err := r.why(ctx, m, i, key, got.Value, ref); err != nil {
						return err
					}
				}
			}
		}
	}
	return nil
}

// references are the values that a machine is held against, by key.
func (r *stageRun) references(ctx context.Context, m *Machine) (map[pipeline.Key][]reference, error) {
	out := map[pipeline.Key][]reference{}
	for _, name := range slices.Sorted(maps.Keys(m.conf.Expect)) {
		i, _ := registerIndex(name)
		want, err := parseValue(m.conf.Expect[name])
		if err != nil {
			return nil, err
		}
		key := m.key(want.Algorithm(), i)
		out[key] = append(out[key], reference{"expect of " + m.name, want, pipeline.Where{File: config.FileName, Pointer: "/platforms/" + m.name + "/expect/" + name}})
	}
	if file := m.conf.Golden; file != "" {
		golden, err := run.Parsed(ctx, r.in, file, config.JSONLimit, pcrmeasure.ParseGolden)
		if err != nil {
			return nil, err
		}
		for _, i := range slices.Sorted(maps.Keys(golden)) {
			key := m.key(digest.SHA256, i)
			out[key] = append(out[key], reference{"golden measurements of " + m.name, golden[i], pipeline.Where{File: file, Pointer: fmt.Sprintf("/measurements/%d", i)}})
		}
	}
	return out, nil
}

// prediction adds what was predicted, and says what was not.
func (r *stageRun) prediction(m *Machine, p *pcrmeasure.Prediction, references map[pipeline.Key][]reference) {
	var left []string
	for i := range pcrmeasure.Count {
		key := m.key(p.Bank, i)
		got := p.PCRs[i]
		if got == nil {
			reason := p.Missing[i]
			r.out.Notes[key] = reason
			left = append(left, words(i)+": "+reason)
			// What nobody relies on and no input would bring is no lack. What a quote
			// shows beside the prediction, the evidence that names the machine says.
			if len(references[key]) > 0 || len(references) == 0 && !r.joined(m.name) && i != 1 && i != 8 && i != 10 {
				r.in.Lack("what "+words(i)+" is made of", string(key), reason)
			}
			continue
		}
		ms := pipeline.Measurement{Key: key, Value: pipeline.OfDigest(got.Value), Basis: pipeline.Recomputed, Trace: &got.Trace, Note: strings.Join(got.Notes, "; ")}
		if got.Basis == pcrmeasure.Assumed {
			ms.Basis = pipeline.Assumed
		}
		if i == appRegister && len(got.Trace.Events) > 0 {
			ms.Inputs = append(ms.Inputs, pipeline.FromKey(m.appKey()), pipeline.FromFile(m.conf.AppCA))
		}
		for _, f := range m.files(i) {
			ms.Inputs = append(ms.Inputs, pipeline.FromFile(f))
		}
		r.out.Measurements = append(r.out.Measurements, ms)
	}
	if left != nil && r.joined(m.name) {
		r.out.Problems = append(r.out.Problems, pipeline.Problem{
			Level: pipeline.LevelNote, Code: "tpm-not-predicted", Msg: fmt.Sprintf("%s, bank %s, is not predicted for %s", m.name, p.Bank, strings.Join(left, "; ")),
		})
	}
	for _, f := range p.Findings {
		problem := pipeline.Problem{Level: pipeline.LevelNote, Code: f.Code, Msg: fmt.Sprintf("%s, bank %s: %s", m.name, p.Bank, f.Text)}
		switch f.Code {
		case pcrmeasure.KernelNotMeasured:
			// An equal PCR 4 says nothing of the kernel: nobody may read it as a match.
			problem.Level = pipeline.LevelError
			problem.Hint = "boot a signed unified kernel image, or a kernel whose header QEMU leaves alone (QEMU 10.2)"
		case pcrmeasure.ImageRefused, pcrmeasure.FirmwareUnmet:
			problem.Level = pipeline.LevelWarning
		}
		r.out.Problems = append(r.out.Problems, problem)
	}
}

// joined reports whether evidence is held against the prediction of a machine.
func (r *stageRun) joined(name string) bool {
	for _, e := range r.in.Config.Evidence {
		if e.Platform == name && (len(e.Only) == 0 || slices.Contains(e.Only, "expected")) {
			return true
		}
	}
	return false
}

// searchedInRun bounds the search for a deviation within a run. `retally
// explain KEY --search` looks further.
const searchedInRun = 200

// why says why a PCR is not the one that is expected.
func (r *stageRun) why(ctx context.Context, m *Machine, index int, key pipeline.Key, got digest.Digest, ref reference) error {
	c, err := m.Cause(ctx, index, key, got, ref.want, ref.where)
	if err != nil {
		return err
	}
	r.out.Causes[key] = append(r.out.Causes[key], c)
	return nil
}

// Cause looks for the known deviation that makes a PCR the wanted one. One that
// is found is proved: with it, the PCR is exactly that value.
func (m *Machine) Cause(ctx context.Context, index int, key pipeline.Key, got, want digest.Digest, where pipeline.Where) (pipeline.Cause, error) {
	c := pipeline.Cause{
		Path: []string{string(key)}, Expected: got.String(), Actual: want.String(), Where: where, Standing: pipeline.Suspected, Hint: "tpm-deviation",
	}
	if m.untold != "" || index == appRegister {
		c.Note = "how this register comes about, the artifacts of " + m.name + " do not tell"
		return c, nil
	}
	answer, err := explain.Find(ctx, index, explain.Input{Artifacts: m.artifacts, Machine: m.machine, Options: search.Options{MaxDeviations: 2, MaxTried: searchedInRun}}, want)
	if err != nil {
		return c, err
	}
	if c.Note = answer.Sentence(); answer.Found {
		c.Standing = pipeline.Proved
		for _, d := range answer.Deviations {
			c.Path = append(c.Path, d.ID)
		}
	}
	return c, nil
}
