package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/retally/retally/igvm"
	"github.com/retally/retally/internal/ovmf"
	"github.com/retally/retally/internal/show"
	"github.com/retally/retally/tdxmeasure"
	"github.com/retally/retally/trace"
)

func (a *app) inspectFirmwareCommand() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "firmware FILE",
		Short: "What a firmware image says about its launch, and what of it is measured under TDX and under SEV-SNP",
		Long: `Show the table of structures at the end of a firmware image, and the memory that
a guest begins with: the sections of the TDVF descriptor for TDX and those of
the SEV metadata for SEV-SNP, side by side, each with what of it is measured.`,
		Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			const op = "inspect firmware"
			in := &inputs{app: a, op: op}
			defer in.close()
			file, err := in.artifact("firmware", args[0])
			if err != nil {
				return err
			}
			look, err := ovmf.LookAt(file.R, file.Size)
			if err != nil {
				return &userError{op: op, path: args[0], err: err}
			}
			if output == "json" {
				err = writeJSON(a.stdout, look)
			} else {
				a.printFirmware(look)
			}
			// What could be read is shown; what is malformed is no success.
			for _, fault := range []error{look.TDX.Fault, look.SEV.Fault} {
				if fault != nil && err == nil {
					err = &userError{op: op, path: args[0], err: fault}
				}
			}
			if output == "json" && err != nil {
				fmt.Fprintln(a.stderr, "retally: "+show.Text(err.Error()))
				return outcomeError{exitTrouble}
			}
			return err
		},
	}
	outputFlag(cmd, &output)
	return cmd
}

func (a *app) printFirmware(l *ovmf.Look) {
	line := func(format string, args ...any) {
		fmt.Fprintln(a.stdout, show.Text(fmt.Sprintf(format, args...)))
	}
	where := "too large for a guest"
	if l.SEV.Address != "" {
		where = "at " + l.SEV.Address + " in the guest"
	}
	line("%d bytes, %s", l.Size, where)
	line("structures, from the end of the file")
	for _, e := range l.Table {
		name := e.Name
		if name == "" {
			name = "not known here"
		}
		line("  %s  %2d bytes at %#x  %-10s  %s", e.GUID, e.Size, e.Offset, e.Value, name)
	}
	line("TDX")
	if l.TDX.Missing != "" {
		line("  %s", l.TDX.Missing)
	}
	for _, s := range l.TDX.Sections {
		line("  %-12s  %#10x bytes at %-12s  MRTD: %s", s.Type, s.Size, s.Address, s.MRTD)
	}
	for _, u := range l.TDX.Unmeasured {
		line("  not in MRTD: %#x bytes of the file at %#x", u.Size, u.Offset)
	}
	line("SEV-SNP: all pages of the file are measured")
	if l.SEV.Missing != "" {
		line("  %s", l.SEV.Missing)
	}
	for _, s := range l.SEV.Sections {
		line("  %-17s  %#10x bytes at %-12s  launch digest: %s", s.Type, s.Size, s.Address, s.SNP)
	}
	if l.SEV.Fault == nil {
		line("  kernel: %s", l.SEV.Kernel)
		line("  vCPUs: %s", l.SEV.CPUs)
	}
	for _, g := range l.SEV.Repeated {
		line("  structure %s stands twice: sev-snp-measure takes the lower one, QEMU the higher", g)
	}
}

func (a *app) inspectIGVMCommand() *cobra.Command {
	var output string
	var withTrace bool
	cmd := &cobra.Command{
		Use:   "igvm FILE [FILE2]",
		Short: "Directives of an IGVM file, and its launch digest and MRTD; with two files, in which directives they differ",
		Long: `Show an IGVM file directive by directive, and the values that a guest started
from it has: the launch digest under SEV-SNP, MRTD under TDX. A file with a
directive that is not known here is shown but not measured.

With a second file the two are compared by addresses and contents; exit code 1
says that they differ.`,
		Args: cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			const op = "inspect igvm"
			in := &inputs{app: a, op: op}
			defer in.close()
			var files []*igvm.File
			for _, name := range args {
				file, err := in.artifact("igvm", name)
				if err != nil {
					return err
				}
				f, err := readIGVM(file)
				if err != nil {
					return snpTrouble(op, "", err)
				}
				files = append(files, f)
			}
			var err error
			if len(files) == 2 {
				err = a.compareIGVM(cmd.Context(), files[0], files[1], output)
			} else {
				err = a.showIGVM(cmd.Context(), files[0], output, withTrace)
			}
			return snpTrouble(op, "", err)
		},
	}
	cmd.Flags().BoolVar(&withTrace, "trace", false, "show every measured range")
	outputFlag(cmd, &output)
	return cmd
}

func readIGVM(file tdxmeasure.Input) (*igvm.File, error) {
	return igvm.Parse(file.Name, file.R, file.Size)
}

// igvmHeader is a header as it is shown.
type igvmHeader struct {
	Index  int    `json:"index"`
	Offset int64  `json:"offset"`
	Text   string `json:"text"`
}

// igvmValue is a platform's value, or why there is none.
type igvmValue struct {
	Value string       `json:"value,omitempty"`
	Error string       `json:"error,omitempty"`
	Notes []string     `json:"notes,omitempty"`
	Trace *trace.Trace `json:"trace,omitempty"`

	trace trace.Trace
}

func igvmHeaders(f *igvm.File) []igvmHeader {
	out := []igvmHeader{}
	for h := range f.Headers() {
		out = append(out, igvmHeader{h.Index, h.Offset, f.Describe(h)})
	}
	return out
}

// igvmNames are the measured platforms and the names of their values.
var igvmNames = []struct {
	platform igvm.Platform
	name     string
}{{igvm.SNP, "launch_digest"}, {igvm.TDX, "mrtd"}}

func igvmValues(ctx context.Context, f *igvm.File) (map[string]*igvmValue, error) {
	out := map[string]*igvmValue{}
	for _, p := range igvmNames {
		if _, ok := f.Mask(p.platform); !ok {
			continue
		}
		m, err := f.Measure(ctx, p.platform)
		switch {
		case errors.Is(err, igvm.ErrUnknown):
			out[p.name] = &igvmValue{Error: err.Error()}
		case err != nil:
			return nil, err
		default:
			out[p.name] = &igvmValue{Value: m.Digest.Hex(), Notes: m.Notes, trace: m.Trace}
		}
	}
	return out, nil
}

func (a *app) showIGVM(ctx context.Context, f *igvm.File, output string, withTrace bool) error {
	values, err := igvmValues(ctx, f)
	if err != nil {
		return err
	}
	var promised []string
	for _, d := range f.LaunchDigests() {
		promised = append(promised, d.Hex())
	}
	unknown := false
	for _, v := range values {
		unknown = unknown || v.Error != ""
		if withTrace && v.Error == "" {
			v.Trace = &v.trace
		}
	}
	if output == "json" {
		err = writeJSON(a.stdout, map[string]any{"version": f.Version, "headers": igvmHeaders(f), "measured": values, "id_block_digests": append([]string{}, promised...)})
	} else {
		a.printIGVM(f, values, promised, withTrace)
	}
	if err == nil && unknown {
		err = outcomeError{exitUnchecked}
	}
	return err
}

func (a *app) printIGVM(f *igvm.File, values map[string]*igvmValue, promised []string, withTrace bool) {
	line := func(format string, args ...any) {
		fmt.Fprintln(a.stdout, show.Text(fmt.Sprintf(format, args...)))
	}
	for h := range f.Headers() {
		line("%5d  %#08x  %s", h.Index, h.Offset, f.Describe(h))
	}
	for _, p := range igvmNames {
		v := values[p.name]
		switch {
		case v == nil:
			continue
		case v.Error != "":
			line("%s: not computed: %s", p.platform, v.Error)
		default:
			line("%-13s  %s", p.name, v.Value)
		}
		for _, n := range v.Notes {
			line("  %s", n)
		}
		if v.Trace != nil {
			v.Trace.Text(a.stdout)
		}
		for _, d := range promised {
			if p.platform == igvm.SNP && d != v.Value {
				line("  the file's ID block is for another launch digest: %s", d)
			}
		}
	}
}

// igvmDifference is a difference as it is shown.
type igvmDifference struct {
	What string      `json:"what"`
	A    *igvmHeader `json:"a,omitempty"`
	B    *igvmHeader `json:"b,omitempty"`
}

func (a *app) compareIGVM(ctx context.Context, left, right *igvm.File, output string) error {
	list, err := igvm.Compare(ctx, left, right)
	if err != nil {
		return err
	}
	one := func(f *igvm.File, h *igvm.Header) *igvmHeader {
		if h == nil {
			return nil
		}
		return &igvmHeader{h.Index, h.Offset, f.Describe(*h)}
	}
	out := []igvmDifference{}
	for _, d := range list {
		out = append(out, igvmDifference{d.Text, one(left, d.A), one(right, d.B)})
	}
	if output == "json" {
		err = writeJSON(a.stdout, map[string]any{"differences": out})
	} else {
		for _, d := range out {
			h := d.A
			if h == nil {
				h = d.B
			}
			fmt.Fprintln(a.stdout, show.Text(fmt.Sprintf("%-8s  %5d  %s", d.What, h.Index, h.Text)))
			if d.A != nil && d.B != nil {
				fmt.Fprintln(a.stdout, show.Text(fmt.Sprintf("%-8s  %5d  %s", "", d.B.Index, d.B.Text)))
			}
		}
		if len(out) == 0 {
			fmt.Fprintln(a.stdout, "all directives are equal")
		}
	}
	if err == nil && len(out) > 0 {
		err = outcomeError{exitDiffers}
	}
	return err
}
