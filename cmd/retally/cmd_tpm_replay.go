package main

import (
	"encoding/hex"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/eventlog"
	"github.com/retally/retally/internal/show"
	"github.com/retally/retally/pcrmeasure"
	"github.com/retally/retally/pipeline"
)

// tpmLogLimit bounds an event log in bytes; logs of machines have some ten
// kilobytes.
const tpmLogLimit = 16 << 20

func (a *app) tpmReplayCommand() *cobra.Command {
	var (
		output, form string
		expect       []string
	)
	cmd := &cobra.Command{
		Use:   "replay LOG",
		Short: "Fold an event log into PCRs and check that its events fit their own data",
		Long: `Fold an event log into the PCRs of each bank. LOG is the log of a machine
(/sys/kernel/security/tpm0/binary_bios_measurements) in the form of TPM 1.2 or
the crypto agile one; - is stdin. A log proves nothing by itself: its PCRs must be
those of a verified quote.

An event whose digest contradicts its own data, in a way that its type fixes, is a
problem and ends with exit code 1. A log that cannot be read ends with 2 and the
offset. With --expect the PCRs are compared; one that is equal and still proves
nothing, as PCR 4 of a machine whose Secure Boot is on and that measured no
kernel, or a PCR that anybody can reset, ends with 3.`,
		Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			const op = "tpm replay"
			if err := oneOf("--form", form, "", "sha1", "crypto-agile"); err != nil {
				return err
			}
			wanted, err := expectedPCRs(op, expect)
			if err != nil {
				return err
			}
			data, err := a.readInput(op, args[0], tpmLogLimit)
			if err != nil {
				return err
			}
			log, err := pcrmeasure.ReadLog(args[0], data, pcrmeasure.Form(form))
			if err != nil {
				return tpmTrouble(op, err)
			}
			if log.Form == pcrmeasure.FormCCEL {
				return &userError{op: op, path: args[0], msg: "is the log of a TDX guest, which has no PCRs", hint: "retally tdx replay " + args[0] + "; --form crypto-agile takes it for a TPM's all the same"}
			}
			v, err := newTPMReplay(log)
			if err != nil {
				return tpmTrouble(op, err)
			}
			v.compare(wanted)
			return a.concluded(output, v.conclusion(), v, func(io.Writer) { a.printTPMReplay(v) })
		},
	}
	cmd.Flags().StringVar(&form, "form", "", "form of the log: sha1, crypto-agile (default: as its beginning says)")
	cmd.Flags().StringArrayVar(&expect, "expect", nil, "compare, as pcrN=HEX; the length says the bank; may be given several times")
	outputFlag(cmd, &output)
	return cmd
}

// expectedPCR is a value of --expect.
type expectedPCR struct {
	pcr  int
	want digest.Digest
}

// expectedPCRs reads --expect.
func expectedPCRs(op string, list []string) ([]expectedPCR, error) {
	var out []expectedPCR
	for _, text := range list {
		name, value, _ := strings.Cut(text, "=")
		digits, ok := strings.CutPrefix(strings.ToLower(name), "pcr")
		n, err := strconv.Atoi(digits)
		if !ok || err != nil || n < 0 || n >= pcrmeasure.Count || strconv.Itoa(n) != digits {
			return nil, &userError{op: op, msg: fmt.Sprintf("--expect %.120q: want pcrN=HEX", text), hint: "for instance --expect pcr4=671800f0..."}
		}
		var d digest.Digest
		for _, bank := range []digest.Algorithm{digest.SHA1, digest.SHA256, digest.SHA384, digest.SHA512} {
			if len(value) == 2*bank.Size() {
				d, err = digest.ParseHex(bank, strings.ToLower(value))
			}
		}
		if err != nil || d.IsZero() {
			return nil, &userError{op: op, msg: fmt.Sprintf("--expect %.120q: want 40, 64, 96 or 128 hex digits", text)}
		}
		out = append(out, expectedPCR{n, d})
	}
	return out, nil
}

// tpmReplay is the result of tpm replay.
type tpmReplay struct {
	Form     pcrmeasure.Form              `json:"form"`
	Locality byte                         `json:"locality"`
	Banks    map[string]map[string]string `json:"banks"`
	Events   []tpmEvent                   `json:"events"`
	Problems []string                     `json:"problems"`
	Findings []pcrmeasure.Finding         `json:"findings"`
	Compared []pcrComparison              `json:"compared,omitempty"`

	banks map[digest.Algorithm][]digest.Digest
}

type tpmEvent struct {
	pcrmeasure.Event
	TypeName string `json:"type_name"`
	// Text is what the data says to people, whole; Data is hexadecimal.
	Text    string             `json:"text,omitempty"`
	Data    string             `json:"data"`
	Follows pcrmeasure.Follows `json:"follows"` // how the digest is known
}

func newTPMReplay(log *pcrmeasure.Log) (*tpmReplay, error) {
	v := &tpmReplay{
		Form: log.Form, Locality: log.Locality, Banks: map[string]map[string]string{}, Events: []tpmEvent{}, Problems: []string{},
		Findings: append([]pcrmeasure.Finding{}, log.Findings...),
	}
	var err error
	if v.banks, err = log.ReplayAll(); err != nil {
		return nil, err
	}
	for bank, pcrs := range v.banks {
		of := map[string]string{}
		for i, d := range pcrs {
			of[strconv.Itoa(i)] = d.Hex()
		}
		v.Banks[bank.String()] = of
	}
	for i, e := range log.Events {
		raw := eventlog.Event{Type: e.Type, Data: e.Data}
		v.Events = append(v.Events, tpmEvent{e, e.Type.String(), raw.Text(), hex.EncodeToString(e.Data), log.Follows(i)})
	}
	for _, p := range log.Problems() {
		v.Problems = append(v.Problems, p.String())
	}
	return v, nil
}

// compare holds the PCRs against expected ones. Equal is no match where the PCR
// says nothing.
func (v *tpmReplay) compare(list []expectedPCR) {
	for _, e := range list {
		c := pcrComparison{Bank: e.want.Algorithm().String(), PCR: e.pcr, Want: e.want.Hex(), Verdict: pipeline.Unchecked}
		pcrs, ok := v.banks[e.want.Algorithm()]
		switch {
		case !ok:
			c.Why = "the log has no such bank that can be replayed"
		case pcrs[e.pcr] != e.want:
			c.Got, c.Verdict = pcrs[e.pcr].Hex(), pipeline.Differs
		default:
			c.Got = pcrs[e.pcr].Hex()
			if c.Why = v.worthless(e.pcr, e.want.Algorithm()); c.Why == "" {
				c.Verdict = pipeline.Match
			}
		}
		v.Compared = append(v.Compared, c)
	}
}

// worthless says why an equal value of a PCR proves nothing, "" where it does.
func (v *tpmReplay) worthless(pcr int, bank digest.Algorithm) string {
	switch {
	case pcr == 16 || pcr >= 20:
		return fmt.Sprintf("PCR %d can be reset by whoever runs on the machine", pcr)
	case bank == digest.SHA1:
		return "two logs with one SHA-1 value can be made"
	}
	for _, f := range v.Findings {
		if f.Code == pcrmeasure.KernelNotMeasured && pcr == 4 {
			return f.Text
		}
	}
	return ""
}

// conclusion: what differs first, then what the log says against itself, then
// what is open.
func (v *tpmReplay) conclusion() conclusion {
	var differs, open []string
	if len(v.Banks) == 0 {
		open = append(open, "the log has no bank that can be replayed")
	}
	for _, c := range v.Compared {
		switch c.Verdict {
		case pipeline.Differs:
			differs = append(differs, fmt.Sprintf("%s pcr%d differs", c.Bank, c.PCR))
		case pipeline.Unchecked:
			open = append(open, fmt.Sprintf("%s pcr%d: %s", c.Bank, c.PCR, c.Why))
		}
	}
	switch {
	case len(differs) > 0:
		return concludes(pipeline.OutcomeDiffers, differs...)
	case len(v.Problems) > 0:
		return conclusion{word: wordInvalid, reasons: v.Problems}
	case len(open) > 0:
		return concludes(pipeline.OutcomeUnchecked, open...)
	case len(v.Compared) == 0:
		return computes()
	}
	return concludes(pipeline.OutcomeMatch, show.Plural(len(v.Compared), "PCR agrees", "PCRs agree"))
}

func (a *app) printTPMReplay(v *tpmReplay) {
	line := func(format string, args ...any) {
		fmt.Fprintln(a.stdout, show.Text(fmt.Sprintf(format, args...)))
	}
	for _, bank := range slices.SortedFunc(maps.Keys(v.banks), func(a, b digest.Algorithm) int { return int(a) - int(b) }) {
		for i, d := range v.banks[bank] {
			line("%s pcr%-2d  %s  replayed", bank, i, d.Hex())
		}
	}
	for _, e := range v.Events {
		value := "not extended"
		if len(e.Digests) > 0 {
			value = e.Digests[len(e.Digests)-1].String()
		}
		line("%5d  pcr%-2d  %-28s  %-12s  %s  %s", e.Index, e.Register, e.TypeName, e.Follows, value, e.Label)
		if a.verbose && e.Text != "" && !strings.HasSuffix(e.Label, e.Text) {
			for text := range strings.Lines(e.Text) {
				line("       %s", strings.TrimRight(text, "\r\n"))
			}
		}
	}
	for _, f := range v.Findings {
		line("finding  %s: %s", f.Code, f.Text)
	}
	for _, p := range v.Problems {
		line("CONTRADICTION  %s", p)
	}
	for _, c := range v.Compared {
		switch c.Verdict {
		case pipeline.Match:
			line("expected  %s pcr%d agrees", c.Bank, c.PCR)
		case pipeline.Differs:
			line("expected  %s pcr%d DIFFERS: expected %s", c.Bank, c.PCR, c.Want)
		default:
			line("expected  %s pcr%d unchecked: %s", c.Bank, c.PCR, c.Why)
		}
	}
}
