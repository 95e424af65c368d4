package snpmeasure

import (
	"context"
	"crypto/sha512"
	"fmt"

	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/trace"
)

// Extend gives the launch digests of a machine with more CPUs from that with
// one, where firmware and kernel are not at hand: only the registers of the
// further CPUs are added, and they start at apEIP, the address of the
// firmware's SEV-ES reset block (the APEIP of a Contrast manifest; 0x3009 for
// Oak's stage0 on GCE). Of c count VMM, CPU, Features and Quirks. A count is 1
// or more.
func Extend(ctx context.Context, one digest.Digest, apEIP uint32, c Config, counts []int) ([]*Result, error) {
	if one.Algorithm() != digest.SHA384 {
		return nil, setting("launch digest for one vCPU", one.Algorithm().String(), "48 bytes (sha384)", "")
	}
	c.Mode = SNP
	layout := &Layout{ResetEIP: &apEIP}
	machine := c
	machine.Cmdline, machine.CmdlineSum, machine.VarsSize, machine.Seed = "", digest.Digest{}, 0, one
	for _, n := range counts {
		if n < 1 {
			return nil, setting("vCPUs", fmt.Sprint(n), fmt.Sprintf("1 to %d", MaxVCPUs), "the digest is that for one vCPU")
		}
		machine.VCPUs = n
		if err := machine.check(&Artifacts{Layout: layout}); err != nil {
			return nil, err
		}
	}
	s := &stage{name: "launch digest for one vCPU", layout: layout, trace: trace.Trace{Fold: trace.GCTX, Algorithm: digest.SHA384}}
	l := &launch{done: 1}
	copy(l.ld[:], one.Bytes())
	l.bsp, l.ap = new(vmsa), c.registers(apEIP)
	l.apSum = sha512.Sum384(l.ap[:])
	out := make([]*Result, len(counts))
	for _, i := range ascending(counts) {
		c.VCPUs = counts[i]
		r := &Result{Config: c, Trace: s.trace}
		n, err := s.cpusOf(&c, r)
		if err != nil {
			return nil, err
		}
		r.Trace.Events = nil
		r.Trace.Add("launch digest for one vCPU, given", one, trace.Origin{Size: -1})
		if err := l.upTo(ctx, n); err != nil {
			return nil, err
		}
		if n > 1 {
			if r.Digest, err = l.digest(); err != nil {
				return nil, err
			}
			r.Trace.Add(othersLabel(n), r.Digest, trace.Origin{Size: -1})
			r.VMSA = []digest.Digest{digest.SHA256.Sum(l.ap[:])}
		}
		if r.Digest, err = r.Trace.Compute(); err != nil {
			return nil, err
		}
		out[i] = r
	}
	return out, nil
}
