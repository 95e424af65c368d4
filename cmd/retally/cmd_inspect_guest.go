package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/retally/retally/igvm"
	"github.com/retally/retally/internal/ovmf"
	"github.com/retally/retally/internal/show"
	"github.com/retally/retally/pipeline"
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
			// What could be read is shown; what is malformed is no success.
			var fault error
			for _, f := range []error{look.TDX.Fault, look.SEV.Fault} {
				if f != nil && fault == nil {
					fault = &userError{op: op, path: args[0], err: f}
				}
			}
			end := computes()
			if fault != nil {
				end.reasons = []string{fault.Error()}
			}
			err = a.concluded(output, end, look, look.Text)
			if err == nil {
				err = fault
			}
			if output == "json" && fault != nil {
				fmt.Fprintln(a.stderr, "retally: "+show.Text(fault.Error()))
				_, err = refused(false)
			}
			return err
		},
	}
	outputFlag(cmd, &output)
	return cmd
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
				f, err := igvm.Parse(file.Name, file.R, file.Size)
				if err != nil {
					return snpTrouble(op, "", err)
				}
				files = append(files, f)
			}
			if len(files) == 2 {
				return a.compareIGVM(cmd.Context(), op, files[0], files[1], output)
			}
			v, err := files[0].View(cmd.Context(), withTrace)
			if err != nil {
				return snpTrouble(op, "", err)
			}
			end := computes()
			if v.Unknown() {
				end = concludes(pipeline.OutcomeUnchecked, "a value could not be computed: something in the file is not known")
			}
			return a.concluded(output, end, v, v.Text)
		},
	}
	cmd.Flags().BoolVar(&withTrace, "trace", false, "show every measured range")
	outputFlag(cmd, &output)
	return cmd
}

// compareIGVM shows in which directives two files differ.
func (a *app) compareIGVM(ctx context.Context, op string, left, right *igvm.File, output string) error {
	d, err := igvm.ViewDifferences(ctx, left, right)
	if err != nil {
		return snpTrouble(op, "", err)
	}
	end := concludes(pipeline.OutcomeMatch, "all directives are equal")
	if n := len(d.List); n > 0 {
		end = concludes(pipeline.OutcomeDiffers, show.Plural(n, "directive differs", "directives differ"))
	}
	return a.concluded(output, end, d, d.Text)
}
