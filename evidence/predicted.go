package evidence

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/retally/retally/evidence/tpmquote"
	"github.com/retally/retally/evidence/verdict"
	"github.com/retally/retally/internal/digest"
)

// Prediction is what the caller computed of a machine with a TPM from what it
// boots. Registers that no quote covers stay unchecked; a bank that no quote
// covers says nothing.
type Prediction struct {
	Name   string          // of the machine, for the reasons
	Values tpmquote.Values // from artifacts alone
	// Assumed rest on something that nobody showed: they are looked at and not
	// counted.
	Assumed tpmquote.Values
}

// compared are the PCRs of the SHA-256 bank's numbers that something strong was
// compared with: golden values, or predictions of a bank that a quote covers.
func (r *Request) compared(signed tpmquote.Values) map[int]bool {
	out := map[int]bool{}
	for i := range r.Golden {
		out[i] = true
	}
	if r.Predicted == nil {
		return out
	}
	for bank, pcrs := range r.Predicted.Values {
		for i := range pcrs {
			if _, ok := signed[bank][i]; ok && bank != digest.SHA1 {
				out[i] = true
			}
		}
	}
	return out
}

// withPrediction leaves out that nothing was given to compare with, where the
// prediction is: what it does not cover, is said with it.
func (r *Request) withPrediction(checks []verdict.Check) []verdict.Check {
	if r.Predicted == nil || len(r.Golden) > 0 {
		return checks
	}
	return slices.DeleteFunc(slices.Clone(checks), func(c verdict.Check) bool { return c.Name == "pcrs" && c.Verdict == verdict.Unchecked })
}

// comparePredicted holds the signed registers against the predicted ones.
func (r *Request) comparePredicted(l *verdict.List, signed tpmquote.Values) {
	p := r.Predicted
	if p == nil {
		return
	}
	counted, banks := 0, 0
	for _, bank := range p.Values.Banks() {
		if len(signed[bank]) == 0 {
			continue
		}
		banks++
		for _, i := range slices.Sorted(maps.Keys(p.Values[bank])) {
			want, name := p.Values[bank][i], fmt.Sprintf("pcr%d", i)
			at := fmt.Sprintf("PCR %d (%s)", i, bank)
			got, ok := signed[bank][i]
			switch {
			case !ok:
				l.Open(name, fmt.Sprintf("%s of %s is predicted as %s, but no quote covers it", at, p.Name, want.Hex()))
			case got != want:
				l.Fail(name, fmt.Sprintf("%s is %s, predicted for %s is %s", at, got.Hex(), p.Name, want.Hex()))
			case tpmquote.Resettable(i):
				l.Open(name, at+" is as predicted, but can be reset without a reboot: it shows nothing about the boot")
			case bank == digest.SHA1 && !r.compared(signed)[i]:
				l.Open(name, at+" is as predicted, but by SHA-1 alone: who made what was measured can have made something else with the same digest")
			default:
				counted++
				l.Pass(name, fmt.Sprintf("%s is %s, as predicted for %s from what it boots", at, got.Hex(), p.Name))
			}
		}
	}
	switch {
	case len(signed) == 0:
		l.Open("prediction", "no quote has verified values to hold against the prediction of "+p.Name)
	case banks == 0:
		l.Open("prediction", fmt.Sprintf("%s is predicted for the banks %v, the quotes cover %v", p.Name, p.Values.Banks(), signed.Banks()))
	case counted == 0:
		l.Open("prediction", "no PCR of "+p.Name+" that counts was found as predicted")
	}
	p.noteAssumed(l, signed)
}

// noteAssumed says how the values fare that are not counted.
func (p *Prediction) noteAssumed(l *verdict.List, signed tpmquote.Values) {
	var agree, differ []string
	for _, bank := range p.Assumed.Banks() {
		for _, i := range slices.Sorted(maps.Keys(p.Assumed[bank])) {
			got, ok := signed[bank][i]
			at := fmt.Sprintf("%d (%s)", i, bank)
			switch {
			case !ok || tpmquote.Resettable(i):
			case got == p.Assumed[bank][i]:
				agree = append(agree, at)
			default:
				differ = append(differ, at)
			}
		}
	}
	if agree != nil {
		l.Note("prediction-assumed", "agree, but are assumed for "+p.Name+" and not counted: PCR "+strings.Join(agree, ", "))
	}
	if differ != nil {
		l.Note("prediction-assumed", "differ from what is assumed for "+p.Name+", which is not counted: PCR "+strings.Join(differ, ", "))
	}
}

// uncompared names PCRs that decide what runs and that nothing was compared with:
// 0, 2 and 4 have the code of firmware and boot, the others what a boot loader and
// the system measure, as far as they measured anything.
func (r *Request) uncompared(l *verdict.List, signed tpmquote.Values) {
	if len(r.Golden) == 0 && r.Predicted == nil || len(signed) == 0 {
		return // nothing was compared at all, which is said
	}
	done := r.compared(signed)
	var open, rest []string
	for i := range 16 {
		covered := slices.ContainsFunc(signed.Banks(), func(b digest.Algorithm) bool { _, ok := signed[b][i]; return ok })
		switch {
		case done[i]:
		case covered && i > 4 && unmeasured(signed, i):
		case slices.Contains([]int{0, 2, 4, 8, 9, 11, 12, 13, 14, 15}, i):
			open = append(open, strconv.Itoa(i))
		case covered:
			rest = append(rest, strconv.Itoa(i))
		}
	}
	bank, what := " (SHA-256)", "no golden value for PCR "
	if r.Predicted != nil {
		bank, what = "", "neither predicted nor among golden values: PCR "
	}
	if open != nil {
		l.Open("golden", what+strings.Join(open, ", ")+bank+", which decide what runs: 0, 2 and 4 firmware and boot, 8 to 15 what a boot loader or the system measured, unless a quote shows that it is nothing")
	}
	if rest != nil {
		l.Note("golden-rest", what+strings.Join(rest, ", ")+", which have settings, the state of Secure Boot or files as they are opened")
	}
}

// unmeasured: every bank that covers a PCR shows that nothing was measured, one of
// them by more than SHA-1.
func unmeasured(signed tpmquote.Values, i int) bool {
	strong := false
	for _, bank := range signed.Banks() {
		d, ok := signed[bank][i]
		if ok && !tpmquote.Unmeasured(i, d) {
			return false
		}
		strong = strong || ok && bank != digest.SHA1
	}
	return strong
}
