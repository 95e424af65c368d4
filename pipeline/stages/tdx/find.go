package tdx

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/search"
	"github.com/retally/retally/internal/show"
	"github.com/retally/retally/pipeline"
	"github.com/retally/retally/pipeline/run"
	"github.com/retally/retally/tdxmeasure"
	"github.com/retally/retally/tdxmeasure/explain"
)

// SearchedRegister reads a register's name, or such a key of a report.
func SearchedRegister(key string) (explain.Register, bool) {
	name := key
	if parts := strings.Split(key, "/"); len(parts) > 2 && parts[0] == "tdx" {
		name = RegisterOf(pipeline.Key(key))
	}
	i := slices.Index(Registers[:], strings.ToLower(name))
	return explain.Register(i), i >= 0
}

// Answer is the answer of a search.
type Answer struct {
	Register   string             `json:"register"`
	Want       string             `json:"want"`
	Profile    string             `json:"profile"`
	Machine    string             `json:"machine"`
	Found      bool               `json:"found"`
	Sentence   string             `json:"sentence"`
	Deviations []search.Deviation `json:"deviations"`
	Tried      int                `json:"tried"`
	Exhausted  bool               `json:"exhausted"`
	// Shape says that the machine's whole shape was searched, not only what
	// deviates from the described one.
	Shape bool `json:"shape"`
	// Zero says what a wanted value of zeros means that no deviation gives.
	Zero string `json:"zero,omitempty"`
}

// ZeroAnswer answers for a wanted value of zeros where no machine is described;
// false for any other.
func ZeroAnswer(register explain.Register, want digest.Digest) (*Answer, bool) {
	zero := tdxmeasure.ZeroRegister(int(register), want)
	return &Answer{Register: Registers[register], Want: want.Hex(), Sentence: zero, Zero: zero, Deviations: []search.Deviation{}}, zero != ""
}

// A Watch is what a search tells while it runs.
type Watch struct {
	Phase atomic.Pointer[string]
	Tried *atomic.Int64
}

// Watched makes a search count what it tries.
func (s *Search) Watched() *Watch {
	w := &Watch{Tried: new(atomic.Int64)}
	w.Phase.Store(new("deviations"))
	s.Input.Options.Count = w.Tried
	return w
}

// Find looks for the deviations that turn the register into the wanted value.
// With shape, all machines are tried if the described one has no known
// deviation.
func (s *Search) Find(ctx context.Context, shape bool, w *Watch) (*Answer, error) {
	a := &Answer{
		Register: strings.ToLower(s.Register.String()), Want: s.Want.Hex(), Profile: s.Input.Config.Profile.Name, Machine: s.Input.Config.Shape().String(),
	}
	var answer search.Answer
	for _, step := range searchSteps(s.Register, shape) {
		w.Phase.Store(&step.phase)
		var err error
		if answer, err = step.find(ctx, s.Input, s.Want); err != nil {
			return nil, err
		}
		a.Tried += answer.Tried
		a.Shape = step.shape
		if answer.Found {
			break
		}
	}
	answer.Tried = a.Tried
	a.Found, a.Sentence, a.Exhausted = answer.Found, answer.Sentence(), answer.Exhausted
	if a.Deviations = answer.Deviations; a.Deviations == nil {
		a.Deviations = []search.Deviation{}
	}
	if !a.Found {
		a.Zero = tdxmeasure.ZeroRegister(int(s.Register), s.Want)
	}
	return a, nil
}

// searchStep is one part of a search.
type searchStep struct {
	phase string
	shape bool // it looks for the machine, not only for a deviation of it
	find  func(context.Context, explain.Input, digest.Digest) (search.Answer, error)
}

// searchSteps are the parts of a search in the order in which they are worth
// it: where the machine is not described, the usual ones are likelier than two
// deviations of the profile's.
func searchSteps(register explain.Register, shape bool) []searchStep {
	deviations := func(most int) func(context.Context, explain.Input, digest.Digest) (search.Answer, error) {
		return func(ctx context.Context, in explain.Input, want digest.Digest) (search.Answer, error) {
			in.Options.MaxDeviations = most
			return explain.Find(ctx, register, in, want)
		}
	}
	if !shape && register == explain.RTMR0 {
		// Real machines deviate in several things at once: those that people rent
		// are tried whole, size and devices together.
		return []searchStep{{"deviations", false, deviations(0)}, {"usual machines", false, explain.FindUsual}}
	}
	if !shape {
		return []searchStep{{"deviations", false, deviations(0)}}
	}
	return []searchStep{
		{"one deviation", false, deviations(1)},
		{"usual machines", true, explain.FindUsual},
		{"two deviations", false, deviations(2)},
		{"no deviation fits, all shapes of a machine", true, explain.FindShape},
	}
}

// Outcome is that of a comparison: nothing known makes the wanted value.
func (a *Answer) Outcome() pipeline.Outcome {
	if a.Found {
		return pipeline.OutcomeMatch
	}
	return pipeline.OutcomeDiffers
}

// Text is the form for people.
func (a *Answer) Text(w io.Writer) {
	if a.Zero != "" {
		show.Line(w, "%s  %s", a.Register, a.Zero)
		if a.Tried == 0 {
			return
		}
	}
	if a.Zero == "" || a.Zero != a.Sentence {
		show.Line(w, "%s  %s", a.Register, a.Sentence)
	}
	machine := ""
	if a.Register == "rtmr0" {
		machine = ", " + a.Machine
	}
	show.Line(w, "  start      profile %s%s", a.Profile, machine)
	for _, d := range a.Deviations {
		since := ""
		if d.Since != "" {
			since = ", since QEMU " + d.Since
		}
		show.Line(w, "  deviation  %s (%s%s): %s", d.ID, d.Axis, since, d.Note)
	}
	show.Line(w, "  tried      %s", show.Plural(a.Tried, "combination", "combinations"))
	if !a.Found && a.Zero == "" {
		fmt.Fprintln(w, "  what next  docs/why-it-differs.md#intel-tdx; another firmware, kernel or file is not among the known variants")
	}
}

// OtherRootfs reads NAME=FILE or NAME=sha256:HEX of root file systems to try.
func OtherRootfs(ctx context.Context, in *run.In, list []string) ([]tdxmeasure.Input, error) {
	var out []tdxmeasure.Input
	for _, text := range list {
		name, value, ok := strings.Cut(text, "=")
		if !ok || name == "" || value == "" {
			return nil, &pipeline.InputError{Op: "explain", Err: fmt.Errorf("{try-rootfs} %.120q: want NAME=FILE or NAME=sha256:HEX", text)}
		}
		known, given, err := givenDigest(value)
		if !given {
			var s run.Sums
			s, err = in.Sums(ctx, value, false)
			known = s.SHA256
		}
		if err != nil {
			return nil, err
		}
		out = append(out, tdxmeasure.Input{Name: name, Known: known})
	}
	return out, nil
}
