package main

import (
	"context"
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/pipeline"
	"github.com/retally/retally/pipeline/stages/tdx"
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

// searchFromFlags searches for a register whose machine the flags describe.
func (a *app) searchFromFlags(ctx context.Context, output, key string, f *searchFlags) error {
	const op = "explain"
	register, ok := tdx.SearchedRegister(key)
	if !ok {
		return &userError{op: op, msg: fmt.Sprintf("%.120q: no register that can be searched", key), hint: "--search is for " + strings.Join(tdx.Registers[:], ", ") + ", or tdx/PLATFORM/REGISTER"}
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
		return a.zeroInstead(output, register, want, err)
	}
	in.As(f.td.field, []string{string(pipeline.NewKey("tdx", tdx.ByFlags, tdx.Registers[register]))})
	others, err := tdx.OtherRootfs(ctx, in, f.rootfs)
	if err != nil {
		return registerTrouble(op, err)
	}
	s, err := tdx.SearchMachine(ctx, in, tdx.ByFlags, register, want, others)
	if err != nil {
		return a.zeroInstead(output, register, want, registerTrouble(op, err))
	}
	defer s.Close()
	p := &f.td.p
	shape := register == explain.RTMR0 && p.VCPUs == nil && p.Memory+p.ACPI+p.Metadata+p.VMConfig+p.Devices == "" && len(p.Slots)+len(p.RootPorts) == 0
	return a.searchRegister(ctx, output, s, shape)
}

// zeroInstead answers for a wanted value of zeros, which no extension gives,
// although no machine can be measured; else the error stands.
func (a *app) zeroInstead(output string, register explain.Register, want digest.Digest, err error) error {
	answer, ok := tdx.ZeroAnswer(register, want)
	if !ok {
		return err
	}
	return a.concluded(output, concludes(answer.Outcome()), answer, answer.Text)
}

// searchRegister looks for the deviations that turn a register into what is
// wanted, and prints the answer.
func (a *app) searchRegister(ctx context.Context, output string, s *tdx.Search, shape bool) error {
	w := s.Watched()
	stop := a.showCount("explain", &w.Phase, w.Tried)
	answer, err := s.Find(ctx, shape, w)
	stop()
	if err != nil {
		return tdxTrouble("explain", err)
	}
	return a.concluded(output, concludes(answer.Outcome(), answer.Sentence), answer, answer.Text)
}
