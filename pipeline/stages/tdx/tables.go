package tdx

import (
	"fmt"
	"io"

	"github.com/retally/retally/internal/show"
	"github.com/retally/retally/pipeline"
	"github.com/retally/retally/pipeline/run"
	"github.com/retally/retally/tdxmeasure/inspect"
)

// Tables are one or two blobs of ACPI tables, for a look inside.
type Tables struct {
	Names  []string
	Tables []*inspect.Tables
}

func (v *Tables) diff() []inspect.Difference {
	if len(v.Tables) != 2 {
		return []inspect.Difference{}
	}
	return append([]inspect.Difference{}, inspect.Diff(v.Tables[0], v.Tables[1])...)
}

// Out holds the second blob against the first: the digests that are measured,
// with the tables that differ as causes.
func (v *Tables) Out() *run.Out {
	out := run.NewOut()
	if len(v.Tables) != 2 {
		return out
	}
	a, b := v.Tables[0], v.Tables[1]
	key, where := pipeline.NewKey("acpi", "tables"), pipeline.Where{File: v.Names[1]}
	out.Take(key, pipeline.OfDigest(a.Blob), v.Names[0])
	out.Refer(key, pipeline.OfDigest(b.Blob), where, "ACPI tables")
	for _, d := range v.diff() {
		out.Causes[key] = append(out.Causes[key], pipeline.Cause{
			Path: []string{string(key), d.Signature}, Note: differenceText(d), Standing: pipeline.Suspected, Hint: "tdx-acpi", Where: where,
		})
	}
	return out
}

// JSON is the form that scripts read.
func (v *Tables) JSON() any {
	if len(v.Tables) == 1 {
		return v.Tables[0]
	}
	return map[string]any{"a": v.Tables[0], "b": v.Tables[1], "differences": v.diff()}
}

// Text is the form for people.
func (v *Tables) Text(w io.Writer, _ bool) {
	if len(v.Tables) == 1 {
		t := v.Tables[0]
		for _, e := range t.Tables {
			show.Line(w, "%-4s  offset %6d  length %6d  %s", e.Signature, e.Offset, e.Length, e.SHA384.Hex())
		}
		show.Line(w, "measured, SHA-384")
		show.Line(w, "  table-loader  %s", t.Loader.Hex())
		show.Line(w, "  rsdp          %s", t.RSDP.Hex())
		show.Line(w, "  tables        %s", t.Blob.Hex())
		return
	}
	diff := v.diff()
	if len(diff) == 0 {
		show.Line(w, "all tables are equal")
	}
	for _, d := range diff {
		show.Line(w, "%s", differenceText(d))
	}
}

func differenceText(d inspect.Difference) string {
	text := fmt.Sprintf("%-4s  differs from byte %d on; %d and %d bytes", d.Signature, d.Offset, d.Lengths[0], d.Lengths[1])
	if d.Offset < 0 {
		text = fmt.Sprintf("%-4s  only in one; %d and %d bytes", d.Signature, d.Lengths[0], d.Lengths[1])
	}
	if d.Note != "" {
		text += ": " + d.Note
	}
	return text
}
