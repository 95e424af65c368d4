package main

import (
	"context"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"

	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/search"
	"github.com/retally/retally/internal/show"
	"github.com/retally/retally/pipeline"
	"github.com/retally/retally/pipeline/run"
	"github.com/retally/retally/pipeline/stages/tdx"
	"github.com/retally/retally/tdxmeasure"
	"github.com/retally/retally/tdxmeasure/explain"
)

// searchFlags are the flags of `explain --search`.
type searchFlags struct {
	td     tdxFlags
	on     bool
	want   string
	rootfs []string
}

func (f *searchFlags) flags(cmd *cobra.Command, args func() []string) {
	cmd.Flags().BoolVar(&f.on, "search", false, "try the known deviations of a TDX or AMD machine until one gives --want")
	cmd.Flags().StringVar(&f.want, "want", "", "with --search: the published value of the register or launch digest, 96 hex digits")
	cmd.Flags().StringArrayVar(&f.rootfs, "try-rootfs", nil, "with --search rtmr3: another root file system, as NAME=FILE or NAME=sha256:HEX; may be given several times")
	f.td.sharedFlags(cmd, args)
	bindSNP(cmd)
}

// searchedRegister reads mrtd, rtmr0 to rtmr3, or such a key of a report.
func searchedRegister(key string) (explain.Register, error) {
	name := key
	if parts := strings.Split(key, "/"); len(parts) > 2 && parts[0] == "tdx" {
		name = tdx.RegisterOf(pipeline.Key(key))
	}
	if i := slices.Index(tdxRegisters[:], strings.ToLower(name)); i >= 0 {
		return explain.Register(i), nil
	}
	return 0, &userError{op: "explain", msg: fmt.Sprintf("%.120q: no register that can be searched", key), hint: "--search is for " + strings.Join(tdxRegisters[:], ", ") + ", tdx/PLATFORM/REGISTER, or launch"}
}

// searchFromFlags searches for a register whose machine the flags describe.
func (a *app) searchFromFlags(ctx context.Context, output, key string, f *searchFlags) error {
	const op = "explain"
	register, err := searchedRegister(key)
	if err != nil {
		return err
	}
	if f.want == "" {
		return &userError{op: op, msg: "--search needs the value that is looked for", hint: "--want HEX, with the flags of retally tdx measure that describe the machine"}
	}
	b, err := hex.DecodeString(strings.ToLower(strings.TrimPrefix(strings.TrimPrefix(f.want, "0x"), "sha384:")))
	if err != nil || len(b) != 48 {
		return &userError{op: op, msg: fmt.Sprintf("--want %.120q: want 96 hex digits", f.want)}
	}
	want, err := digest.FromBytes(digest.SHA384, b)
	if err != nil {
		return err
	}
	if f.td.p.Profile == "" && f.td.p.Metadata == "" && f.td.p.VMConfig == "" {
		f.td.p.Profile = "secretvm" // whose machines this search knows best
	}
	in, err := f.td.open(ctx, a, op)
	if err != nil {
		return err
	}
	in.As(f.td.field, []string{string(pipeline.NewKey("tdx", flagMachine, tdx.Registers[register]))})
	var others []tdxmeasure.Input
	for _, text := range f.rootfs {
		name, value, ok := strings.Cut(text, "=")
		if !ok || name == "" || value == "" {
			return &userError{op: op, msg: fmt.Sprintf("--try-rootfs %.120q: want NAME=FILE or NAME=sha256:HEX", text)}
		}
		known, err := fileOrDigest(ctx, in, value)
		if err != nil {
			return registerTrouble(op, err)
		}
		others = append(others, tdxmeasure.Input{Name: name, Known: known})
	}
	s, err := tdx.SearchMachine(ctx, in, flagMachine, register, want, others)
	if err != nil {
		return registerTrouble(op, err)
	}
	defer s.Close()
	p := &f.td.p
	shape := register == explain.RTMR0 && p.VCPUs == nil && p.Memory+p.ACPI+p.Metadata+p.VMConfig+p.Devices == "" && len(p.Slots)+len(p.RootPorts) == 0
	return a.searchRegister(ctx, output, register, s.Input, want, shape)
}

// fileOrDigest is the SHA-256 of a file, or the one given in its place.
func fileOrDigest(ctx context.Context, in *run.In, value string) (digest.Digest, error) {
	if sum, ok := strings.CutPrefix(value, "sha256:"); ok {
		return digest.ParseHex(digest.SHA256, strings.ToLower(sum))
	}
	s, err := in.Sums(ctx, value, false)
	return s.SHA256, err
}

// searchResult is the answer of a search.
type searchResult struct {
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
}

// searchRegister looks for the deviations that turn in's register into want,
// and prints the answer: the seam between where a machine comes from and how
// it is searched. With shape, all machines are tried if the described one has
// no known deviation.
func (a *app) searchRegister(ctx context.Context, output string, register explain.Register, in explain.Input, want digest.Digest, shape bool) error {
	in.Options.Count = new(atomic.Int64)
	var phase atomic.Pointer[string]
	phase.Store(new("deviations"))
	defer a.showCount("explain", &phase, in.Options.Count)()
	r := searchResult{
		Register: strings.ToLower(register.String()), Want: want.Hex(), Profile: in.Config.Profile.Name, Machine: in.Config.Shape().String(),
	}
	var answer search.Answer
	for _, step := range searchSteps(register, shape) {
		phase.Store(&step.phase)
		var err error
		if answer, err = step.find(ctx, in, want); err != nil {
			return tdxTrouble("explain", err)
		}
		r.Tried += answer.Tried
		r.Shape = step.shape
		if answer.Found {
			break
		}
	}
	answer.Tried = r.Tried
	r.Found, r.Sentence, r.Exhausted = answer.Found, answer.Sentence(), answer.Exhausted
	if r.Deviations = answer.Deviations; r.Deviations == nil {
		r.Deviations = []search.Deviation{}
	}
	if output == "json" {
		if err := writeJSON(a.stdout, r); err != nil {
			return err
		}
	} else {
		a.printSearch(&r)
	}
	if !r.Found {
		return outcomeError{exitDiffers}
	}
	return nil
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

func (a *app) printSearch(r *searchResult) {
	line := func(format string, args ...any) {
		fmt.Fprintln(a.stdout, show.Text(fmt.Sprintf(format, args...)))
	}
	line("%s  %s", r.Register, r.Sentence)
	if r.Register == "rtmr0" {
		line("  start      profile %s, %s", r.Profile, r.Machine)
	} else {
		line("  start      profile %s", r.Profile)
	}
	for _, d := range r.Deviations {
		since := ""
		if d.Since != "" {
			since = ", since QEMU " + d.Since
		}
		line("  deviation  %s (%s%s): %s", d.ID, d.Axis, since, d.Note)
	}
	line("  tried      %s", show.Plural(r.Tried, "combination", "combinations"))
	if !r.Found {
		line("  what next  docs/why-it-differs.md#intel-tdx; another firmware, kernel or file is not among the known variants")
	}
}

// showCount tells how many combinations a long search has tried, until the
// returned function is called.
func (a *app) showCount(stage string, phase *atomic.Pointer[string], n *atomic.Int64) (stop func()) {
	if a.progress == "none" || a.quiet {
		return func() {}
	}
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		every := 10 * time.Second
		if a.progress == "json" {
			every = time.Second
		}
		start, wait := time.Now(), time.After(progressAfter)
		for {
			select {
			case <-done:
				return
			case <-wait:
			}
			tried, seconds := n.Load(), time.Since(start).Seconds()
			if a.progress == "json" {
				fmt.Fprintf(a.stderr, `{"stage":%q,"phase":%q,"tried":%d,"triedPerSecond":%.0f}`+"\n", stage, *phase.Load(), tried, float64(tried)/seconds)
			} else {
				fmt.Fprintf(a.stderr, "retally: %s: %s: %d combinations tried, %.0f/s\n", stage, *phase.Load(), tried, float64(tried)/seconds)
			}
			wait = time.After(every)
		}
	})
	return func() {
		close(done)
		wg.Wait()
	}
}
