package main

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/outfile"
	"github.com/retally/retally/internal/show"
	"github.com/retally/retally/pcrmeasure"
	"github.com/retally/retally/pipeline"
	"github.com/retally/retally/pipeline/config"
)

func (a *app) tpmPcrlockCommand() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "pcrlock FILE [FILE2]",
		Short: "PCRs of a .pcrlock file of systemd-pcrlock; with two files, in which measurements they differ",
		Long: `Fold the measurements of a .pcrlock file into PCRs. With a second file, such as
one of "retally tpm predict --pcrlock", the two are compared measurement by
measurement in the banks that both have; exit code 1 says that they differ, 3 that
they have no measurement in common.

A .pcrlock file may hold one component only: its PCRs are then those of a machine
that measures nothing else.`,
		Args: cobra.RangeArgs(1, 2),
		RunE: func(_ *cobra.Command, args []string) error {
			const op = "tpm pcrlock"
			var list []*pcrlockView
			for _, name := range args {
				data, err := a.readInput(op, name, tpmLogLimit)
				if err != nil {
					return err
				}
				p, err := pcrmeasure.ReadPcrlock(name, data)
				if err != nil {
					return tpmTrouble(op, err)
				}
				v, err := newPcrlockView(name, p)
				if err != nil {
					return tpmTrouble(op, fmt.Errorf("%s: %w", name, err))
				}
				list = append(list, v)
			}
			if len(list) == 1 {
				if output == "json" {
					return a.result(output, list[0], nil)
				}
				a.printPcrlock(list[0])
				return nil
			}
			diff, common := comparePcrlock(list[0], list[1])
			shared := show.Plural(common, "measurement", "measurements") + " in both"
			end := concludes(pipeline.OutcomeMatch, shared+", and none differs")
			switch {
			case len(diff) > 0:
				end = concludes(pipeline.OutcomeDiffers, show.Plural(len(diff), "measurement differs", "measurements differ"))
			case common == 0:
				end = concludes(pipeline.OutcomeUnchecked, "the two have no measurement in common")
			}
			return a.concluded(output, end, pcrlockComparison{list[0], list[1], common, diff}, func(w io.Writer) {
				for _, d := range diff {
					fmt.Fprintln(w, show.Text(d.String()))
				}
				fmt.Fprintln(w, shared)
			})
		},
	}
	outputFlag(cmd, &output)
	return cmd
}

// pcrlockView is a .pcrlock file as it is shown.
type pcrlockView struct {
	File    string                       `json:"file"`
	Records int                          `json:"records"`
	NV      int                          `json:"nv_records"` // of NV indices, which are no PCRs
	PCRs    map[string]map[string]string `json:"pcrs"`

	banks  []digest.Algorithm
	traces map[digest.Algorithm]map[int]pcrmeasure.Trace
}

func newPcrlockView(name string, p *pcrmeasure.Pcrlock) (*pcrlockView, error) {
	v := &pcrlockView{File: name, Records: len(p.Records), NV: p.NV, PCRs: map[string]map[string]string{}, traces: map[digest.Algorithm]map[int]pcrmeasure.Trace{}}
	seen := map[int]bool{}
	for _, r := range p.Records {
		seen[r.PCR] = true
		for _, d := range r.Digests {
			if !slices.Contains(v.banks, d.Algorithm()) {
				v.banks = append(v.banks, d.Algorithm())
			}
		}
	}
	slices.Sort(v.banks)
	for _, bank := range v.banks {
		of, traces := map[string]string{}, map[int]pcrmeasure.Trace{}
		for i := range seen {
			t, err := p.Trace(bank, i)
			if err != nil {
				return nil, err
			}
			d, err := t.Compute()
			if err != nil {
				return nil, err
			}
			of[strconv.Itoa(i)], traces[i] = d.Hex(), t
		}
		v.PCRs[bank.String()], v.traces[bank] = of, traces
	}
	return v, nil
}

func (a *app) printPcrlock(v *pcrlockView) {
	for _, bank := range v.banks {
		for _, i := range slices.Sorted(maps.Keys(v.traces[bank])) {
			fmt.Fprintf(a.stdout, "%s pcr%-2d  %s  %s\n", bank, i, v.PCRs[bank.String()][strconv.Itoa(i)], show.Plural(len(v.traces[bank][i].Events), "measurement", "measurements"))
		}
	}
	if v.NV > 0 {
		fmt.Fprintf(a.stdout, "%s of NV indices, which are no PCRs\n", show.Plural(v.NV, "record", "records"))
	}
}

// pcrlockComparison is the result for two files.
type pcrlockComparison struct {
	A           *pcrlockView        `json:"a"`
	B           *pcrlockView        `json:"b"`
	Common      int                 `json:"common"`
	Differences []pcrlockDifference `json:"differences"`
}

// pcrlockDifference is a measurement that stands in one file only.
type pcrlockDifference struct {
	Bank  string `json:"bank"`
	PCR   int    `json:"pcr"`
	Index int    `json:"index"` // within the PCR
	A     string `json:"a"`     // "" where the file has no more
	B     string `json:"b"`
	Label string `json:"label"`
}

func (d pcrlockDifference) String() string {
	or := func(s string) string {
		if s == "" {
			return "none"
		}
		return s
	}
	return fmt.Sprintf("%s pcr%-2d  measurement %d differs: %s and %s  %s", d.Bank, d.PCR, d.Index, or(d.A), or(d.B), d.Label)
}

// comparePcrlock compares the PCRs that both files speak of, in the banks that
// both have.
func comparePcrlock(a, b *pcrlockView) (diff []pcrlockDifference, common int) {
	diff = []pcrlockDifference{}
	for _, bank := range a.banks {
		for _, i := range slices.Sorted(maps.Keys(a.traces[bank])) {
			x := a.traces[bank][i].Events
			t, ok := b.traces[bank][i]
			if !ok {
				continue
			}
			y := t.Events
			for n := range max(len(x), len(y)) {
				d := pcrlockDifference{Bank: bank.String(), PCR: i, Index: n}
				if n < len(y) {
					d.B, d.Label = y[n].Digest.Hex(), y[n].Label
				}
				if n < len(x) {
					d.A, d.Label = x[n].Digest.Hex(), x[n].Label
				}
				if d.A == d.B {
					common++
					continue
				}
				diff = append(diff, d)
			}
		}
	}
	return diff, common
}

// writePcrlock writes predictions for systemd-pcrlock.
func (a *app) writePcrlock(op, path string, p *config.Platform, list []*pcrmeasure.Prediction) error {
	lock, left := pcrmeasure.NewPcrlock(list...)
	data, err := lock.Append(nil)
	if err != nil {
		return err
	}
	g := outfile.Guard{Stdout: a.stdout}
	for _, name := range append([]string{config.Or(p.Firmware), p.Vars, config.Or(p.Kernel), config.Or(p.Initrd), p.UKI, p.Disk, p.Shim, p.Loader, p.LoaderConf, p.Golden, p.AppDisk, p.AppCA}, p.Chain...) {
		if name != "" {
			g.Protect(name)
		}
	}
	kind := outfile.Kind{Name: "a .pcrlock file", Is: func(head []byte) bool { return bytes.HasPrefix(head, []byte(`{"records"`)) }}
	if err := g.Write(path, kind, data, 0o644); err != nil {
		return err
	}
	var out []string
	for _, i := range slices.Sorted(maps.Keys(left)) {
		out = append(out, strconv.Itoa(i))
	}
	if len(out) > 0 && !a.quiet {
		fmt.Fprintf(a.stderr, "retally: %s: %s has nothing for PCRs %s\n", op, show.Text(path), strings.Join(out, ", "))
	}
	return nil
}
