package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/retally/retally/internal/ovmf"
	"github.com/retally/retally/internal/place"
	"github.com/retally/retally/internal/show"
	"github.com/retally/retally/pipeline"
	"github.com/retally/retally/pipeline/config"
	"github.com/retally/retally/pipeline/run"
	"github.com/retally/retally/pipeline/stages/snp"
	"github.com/retally/retally/profiles"
	"github.com/retally/retally/snpmeasure"
	"github.com/retally/retally/trace"
)

func (a *app) snpCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "snp",
		Short: "Launch digests of AMD SEV, SEV-ES and SEV-SNP machines, and ID blocks",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.snpMeasureCommand(), a.snpIDBlockCommand())
	return cmd
}

// snpFlags are the flags of snp measure beside those of the machine.
type snpFlags struct {
	comparison
	cmd   *cobra.Command
	trace bool
}

func (a *app) snpMeasureCommand() *cobra.Command {
	f := &snpFlags{}
	cmd := &cobra.Command{
		Use:   "measure --firmware FILE --vcpus N --vcpu-type TYPE [flags]",
		Short: "Compute a launch digest from firmware, kernel, initrd, command line and the machine's shape",
		Long: `Compute the launch digest of an AMD machine from its artifacts. With --expect or
--releases it is held against what was published, and the exit code says how it
came out; --report writes what was measured and compared. The flags are the
fields of a platform with tee: snp in retally.yaml.

Kernel, initrd and command line may be given as sha256:HEX where only their
hashes are known; that of a command line is of the line and a zero byte.

--vcpus, --vcpu-type and --guest-features take lists, --vcpus also ranges; then
every combination is computed, and the JSON form is an array.

Where programs that others rely on disagree, the behavior is a quirk. The
default is that of sev-snp-measure; --quirk chooses another. The result names
every quirk that had a part in it.

With --one-vcpu-digest and --ap-eip, which a Contrast manifest has, the digests
for more CPUs follow without firmware and kernel.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.snpMeasure(cmd.Context(), f) },
	}
	f.cmd = cmd
	bindSNP(cmd)
	cmd.Flags().BoolVar(&f.trace, "trace", false, "show every measured range")
	f.comparison.flags(cmd)
	return cmd
}

func (a *app) snpMeasure(ctx context.Context, f *snpFlags) error {
	const op = "snp measure"
	if err := oneOf("--profile", f.cmd.Flags().Lookup("profile").Value.String(), append(profiles.SNPNames(), "")...); err != nil {
		return err
	}
	targets, err := f.targets()
	if err != nil {
		return err
	}
	res, m, err := a.runSNP(ctx, op, f.cmd.Flags(), f.allow)
	if err != nil {
		return err
	}
	fs := f.cmd.Flags()
	many := len(m.Results) > 1 || strings.ContainsAny(fs.Lookup("vcpus").Value.String()+fs.Lookup("vcpu-type").Value.String()+fs.Lookup("guest-features").Value.String(), ",.")
	end := computes()
	if len(res.Report.Findings) > 0 {
		end = reported(res.Report)
	}
	if f.output == "json" {
		if err := writeJSON(a.stdout, a.document(end, snpDocument(m.Results, many, f.trace))); err != nil {
			return err
		}
	} else {
		for _, r := range m.Results {
			a.printSNP(r, many, f.trace)
		}
	}
	if err := a.writeReports(&f.comparison, targets, res.Report); err != nil {
		return err
	}
	if f.output != "json" && !end.computed {
		fmt.Fprintln(a.stdout)
		if err := a.print(f.output, res.Report); err != nil {
			return &userError{op: "write result", err: err}
		}
	}
	return end.end()
}

// snpMachine is the name of the machine that flags describe, in its keys.
const snpMachine = "machine"

// runSNP runs the stage on the machine that the flags describe.
func (a *app) runSNP(ctx context.Context, op string, fs *pflag.FlagSet, allow []string) (*run.Result, *snp.Machine, error) {
	root, err := os.Getwd()
	if err != nil {
		return nil, nil, &userError{op: op, err: reason(err)}
	}
	o := run.Options{Root: root, Subject: "the machine of the flags", Allow: allow, Tool: tool(), Progress: new(run.Progress), Counter: new(run.Counter)}
	o.Reader = run.NewReader(root, o.Counter)
	p, err := a.snpPlatform(op, fs, o.Reader)
	if err != nil {
		return nil, nil, err
	}
	if err := snp.Check(p, func(msg, hint string, field ...string) error {
		return &userError{op: op, msg: snpFlagOf(field) + ": " + msg, hint: hint}
	}); err != nil {
		return nil, nil, err
	}
	var m *snp.Machine
	stage := snp.Watched("--expect", func(seen *snp.Machine) { m = seen })
	stop := a.showProgress(o.Progress)
	res, err := run.Run(ctx, []run.Stage{stage}, &config.Config{Version: 1, Platforms: map[string]config.Platform{snpMachine: *p}}, o)
	stop()
	if err != nil {
		return nil, nil, snpTrouble(op, "", err)
	}
	if len(m.Results) == 0 {
		return nil, nil, snpLack(op, res.Report)
	}
	return res, m, nil
}

// snpLack says what is missing for a launch digest, as flags.
func snpLack(op string, r *pipeline.Report) error {
	if len(r.Lacks) == 0 {
		return &userError{op: op, msg: "nothing was measured"}
	}
	l := r.Lacks[0]
	hint := l.How
	switch l.What {
	case "firmware":
		hint = "--firmware FILE"
	case "number of vCPUs":
		hint = "--vcpus N"
	case "type of vCPU":
		return &userError{op: op, msg: "CPU type: found none, want a type, a signature, or family, model and stepping", hint: "--vcpu-type EPYC-Milan; QEMU's guests start with it in a register"}
	case "compose", "rootfs":
		hint = "--" + l.What + " FILE"
	}
	return &userError{op: op, msg: "no " + l.What, hint: hint}
}

// snpJSON is the result of snp measure.
type snpJSON struct {
	Digest string             `json:"launch_digest"`
	Sig    uint32             `json:"vcpu_sig"`
	VMSA   []string           `json:"vmsa_sha256"`
	Quirks []snpmeasure.Quirk `json:"quirks"`
	VCPUs  *int               `json:"vcpus,omitempty"`          // in a list
	Type   string             `json:"vcpu_type,omitempty"`      // in a list
	Bits   string             `json:"guest_features,omitempty"` // in a list
	Events *trace.Trace       `json:"trace,omitempty"`
}

func snpDocument(results []*snpmeasure.Result, many, withTrace bool) any {
	docs := []snpJSON{}
	for _, r := range results {
		d := snpJSON{Digest: r.Digest.Hex(), Sig: r.Config.CPU.Sig, VMSA: []string{}, Quirks: []snpmeasure.Quirk{}}
		for _, p := range r.VMSA {
			d.VMSA = append(d.VMSA, p.Hex())
		}
		d.Quirks = append(d.Quirks, r.Quirks...)
		if many {
			n := r.Config.VCPUs
			d.VCPUs, d.Type, d.Bits = &n, r.Config.CPU.Type, fmt.Sprintf("%#x", r.Config.Features)
		}
		if withTrace {
			d.Events = &r.Trace
		}
		docs = append(docs, d)
	}
	if !many {
		return docs[0]
	}
	return docs
}

func (a *app) printSNP(r *snpmeasure.Result, many, withTrace bool) {
	line := func(format string, args ...any) {
		fmt.Fprintln(a.stdout, show.Text(fmt.Sprintf(format, args...)))
	}
	if many {
		line("%4d vCPUs, %s, features %#x  %s", r.Config.VCPUs, r.Config.CPU, r.Config.Features, r.Digest.Hex())
	} else {
		line("launch digest  %s", r.Digest.Hex())
		for _, p := range r.VMSA {
			line("registers      sha256:%s", p.Hex())
		}
	}
	for _, q := range r.Quirks {
		line("quirk          %s", q)
	}
	if withTrace {
		a.printTrace(r.Trace)
	}
}

// snpTrouble gives the rooms' errors the form of all others: the operation is
// the verb, and the firmware's own hint is not lost.
func snpTrouble(op, flag string, err error) error {
	var f *place.Fault
	if !errors.As(err, &f) {
		return err
	}
	copied := *f
	copied.Op = op
	if flag != "" {
		copied.Field = flag
	}
	var o *ovmf.Error
	if errors.As(err, &o) && copied.Hint == "" {
		copied.Hint = o.Hint
	}
	return &copied
}
