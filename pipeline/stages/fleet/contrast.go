package fleet

import (
	"cmp"
	"context"
	"fmt"

	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/manifest"
	"github.com/retally/retally/pipeline/run"
)

// contrast reads the reference values of a manifest: each admits machines of one
// kind.
func (r *reader) contrast(ctx context.Context) (*List, error) {
	m, err := run.Parsed(ctx, r.in, r.file, ListLimit, manifest.Parse)
	if err != nil {
		return nil, err
	}
	l := &List{File: r.file, Kind: "reference values of a Contrast manifest"}
	sum := func(pointer, text string) (digest.Digest, error) {
		d, err := digest.ParseHex(digest.SHA384, text)
		if err != nil {
			return d, r.fault(pointer, fmt.Sprintf("%.100q", text), "96 hex digits")
		}
		return d, nil
	}
	for i, e := range m.SNP() {
		name := cmp.Or(e.Platform, "snp") + " " + e.ProductName
		if e.CPUs != nil {
			name += fmt.Sprintf(" %d vCPUs", *e.CPUs)
		}
		d, err := sum(fmt.Sprintf("/ReferenceValues/snp/%d/TrustedMeasurement", i), e.TrustedMeasurement)
		if err != nil {
			return nil, err
		}
		of := " of the platform " + cmp.Or(e.Platform, "snp")
		l.Rows = append(l.Rows, &Row{Name: name, Line: e.Line, Values: []*Value{{Name: "launch", Want: d, Needs: []string{"firmware" + of, "kernel, initrd and command line" + of}}}})
	}
	for i, e := range m.TDX() {
		at := fmt.Sprintf("/ReferenceValues/tdx/%d", i)
		row := &Row{Name: cmp.Or(e.Platform, "tdx"), Line: e.Line}
		if e.MrTd != "" {
			d, err := sum(at+"/MrTd", e.MrTd)
			if err != nil {
				return nil, err
			}
			row.Values = append(row.Values, r.pool.mrtd("mrtd", d))
		}
		of := " of the platform " + row.Name
		needs := [][]string{{"firmware" + of}, {"kernel" + of}, {"command line and initrd" + of}, {"what a guest" + of + " measures into RTMR3"}}
		if len(e.Rtmrs) > len(needs) {
			return nil, r.fault(at+"/Rtmrs", fmt.Sprintf("%d registers", len(e.Rtmrs)), "at most 4")
		}
		for j, text := range e.Rtmrs {
			d, err := sum(fmt.Sprintf("%s/Rtmrs/%d", at, j), text)
			if err != nil {
				return nil, err
			}
			row.Values = append(row.Values, &Value{Name: fmt.Sprintf("rtmr%d", j), Want: d, Needs: needs[j]})
		}
		l.Rows = append(l.Rows, row)
	}
	return l, nil
}
