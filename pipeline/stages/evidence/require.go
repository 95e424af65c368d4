package evidence

import (
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/retally/retally/evidence/tdxquote"
)

// requirement is a demand by its name, and how its value is read.
type requirement struct {
	name string
	size int // bytes of a value in hex; 0: a number, -1: "true"
	set  func(x *tdxquote.Expectations, b []byte, n uint64)
}

func requirements() []requirement {
	return []requirement{
		{"td_attributes", 8, func(x *tdxquote.Expectations, b []byte, _ uint64) { x.TDAttributes = b }},
		{"xfam", 8, func(x *tdxquote.Expectations, b []byte, _ uint64) { x.XFAM = b }},
		{"mrconfigid", 48, func(x *tdxquote.Expectations, b []byte, _ uint64) { x.MRConfigID = b }},
		{"mrowner", 48, func(x *tdxquote.Expectations, b []byte, _ uint64) { x.MROwner = b }},
		{"mrownerconfig", 48, func(x *tdxquote.Expectations, b []byte, _ uint64) { x.MROwnerConfig = b }},
		{"min_tee_tcb_svn", 16, func(x *tdxquote.Expectations, b []byte, _ uint64) { x.MinimumTEETCBSVN = b }},
		{"min_tcb_evaluation", 0, func(x *tdxquote.Expectations, _ []byte, n uint64) { x.MinimumEvaluation = n }},
		{"fmspc", 6, func(x *tdxquote.Expectations, b []byte, _ uint64) { x.FMSPCs = append(x.FMSPCs, b) }},
		{"piid", 16, func(x *tdxquote.Expectations, b []byte, _ uint64) { x.PIIDs = append(x.PIIDs, b) }},
		{"memory_integrity", -1, func(x *tdxquote.Expectations, _ []byte, _ uint64) { x.MemoryIntegrity = true }},
		{"smt_disabled", -1, func(x *tdxquote.Expectations, _ []byte, _ uint64) { x.SMTDisabled = true }},
		{"static_platform", -1, func(x *tdxquote.Expectations, _ []byte, _ uint64) { x.StaticPlatform = true }},
	}
}

// Requirements are the names of what may be demanded of a TDX machine.
func Requirements() []string {
	var out []string
	for _, r := range requirements() {
		out = append(out, r.name)
	}
	return out
}

// parseRequire reads demands, nil where there are none. Alternatives of one name
// may be there several times (piid, fmspc), anything else once.
func parseRequire(list []string) (*tdxquote.Expectations, error) {
	if len(list) == 0 {
		return nil, nil
	}
	x := &tdxquote.Expectations{}
	seen := map[string]bool{}
	for _, text := range list {
		name, value, _ := strings.Cut(text, "=")
		i := slices.IndexFunc(requirements(), func(r requirement) bool { return r.name == name })
		if i < 0 {
			return nil, fmt.Errorf("%.80q is no demand, want NAME=VALUE with one of %s", text, strings.Join(Requirements(), ", "))
		}
		r := requirements()[i]
		if seen[name] && name != "piid" && name != "fmspc" {
			return nil, fmt.Errorf("%s is there twice", name)
		}
		seen[name] = true
		switch r.size {
		case -1:
			if value != "true" {
				return nil, fmt.Errorf("%s=%.40q: want true, or leave it out", name, value)
			}
			r.set(x, nil, 0)
		case 0:
			n, err := strconv.ParseUint(value, 10, 32)
			if err != nil || n == 0 {
				return nil, fmt.Errorf("%s=%.40q: want a number from 1 on", name, value)
			}
			r.set(x, nil, n)
		default:
			b, err := hex.DecodeString(strings.TrimPrefix(value, "0x"))
			if err != nil || len(b) != r.size {
				return nil, fmt.Errorf("%s=%.120q: want %d hexadecimal digits", name, value, 2*r.size)
			}
			r.set(x, b, 0)
		}
	}
	return x, nil
}
