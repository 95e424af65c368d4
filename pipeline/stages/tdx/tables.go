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

// KernelText shows the header of a kernel.
func KernelText(w io.Writer, k *inspect.Kernel) {
	line := func(format string, args ...any) { show.Line(w, format, args...) }
	line("protocol      %s", k.Protocol)
	if k.Version != "" {
		line("version       %s", k.Version)
	}
	line("offset  field               in the file   as QEMU before 10.2 writes it")
	for _, f := range k.Fields {
		value, written := f.Value, f.QEMU
		if value == "" {
			value = "-"
		}
		if written != "" && written == f.Value {
			written += "  (the same)"
		}
		text := fmt.Sprintf("%#05x   %-18s  %-12s  %s", f.Offset, f.Name, value, written)
		for len(text) > 0 && text[len(text)-1] == ' ' {
			text = text[:len(text)-1]
		}
		line("%s", text)
	}
	signed := "unsigned"
	if k.Certificates > 0 {
		signed = fmt.Sprintf("signed, %d bytes of certificates", k.Certificates)
	}
	line("Authenticode  %s", signed)
	line("  as it is    %s", k.Raw.Hex())
	line("  as changed  %s", k.Patched.Hex())
}

// InitrdText shows the archives of an initrd and their files.
func InitrdText(w io.Writer, segments []inspect.Segment) {
	for _, s := range segments {
		fmt.Fprintf(w, "archive at %#x, compression %s, %s\n", s.Offset, s.Compression, show.Plural(len(s.Files), "file", "files"))
		for _, f := range s.Files {
			sum := "-"
			if !f.SHA256.IsZero() {
				sum = f.SHA256.Hex()
			}
			fmt.Fprintln(w, show.Text(fmt.Sprintf("  %06o %d:%d %10d  %-64s  %s", f.Mode, f.UID, f.GID, f.Size, sum, f.Name)))
		}
	}
}
