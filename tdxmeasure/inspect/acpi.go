package inspect

import (
	"bytes"
	"fmt"

	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/tdxmeasure/acpi"
)

// Table is an ACPI table with the digest of its bytes.
type Table struct {
	acpi.Table
	SHA384 digest.Digest `json:"sha384"`
}

// Tables is a tables blob taken apart.
type Tables struct {
	Tables []Table       `json:"tables"`
	Loader digest.Digest `json:"loader"` // of the files as they are measured
	RSDP   digest.Digest `json:"rsdp"`
	Blob   digest.Digest `json:"blob"`
	bytes  []byte
}

// ReadTables splits a tables blob, binary or hex text.
func ReadTables(data []byte) (*Tables, error) {
	b, err := acpi.FromTables(data)
	if err != nil {
		return nil, err
	}
	list, err := acpi.Parse(b.Tables)
	if err != nil {
		return nil, err
	}
	t := &Tables{Loader: digest.SHA384.Sum(b.Loader), RSDP: digest.SHA384.Sum(b.RSDP), Blob: digest.SHA384.Sum(b.Tables), bytes: b.Tables}
	for _, e := range list {
		t.Tables = append(t.Tables, Table{Table: e, SHA384: digest.SHA384.Sum(t.part(e))})
	}
	return t, nil
}

func (t *Tables) part(e acpi.Table) []byte { return t.bytes[e.Offset : e.Offset+e.Length] }

// Difference is a table in which two blobs differ.
type Difference struct {
	Signature string `json:"signature"`
	Offset    int    `json:"offset"` // of the first differing byte in the table; -1 where one has no such table
	Lengths   [2]int `json:"lengths"`
	Note      string `json:"note,omitempty"`
}

// Diff compares two blobs table by table. Pointers in FACP and RSDT move with
// every table before them, so those two differ where any length does.
func Diff(a, b *Tables) []Difference {
	var out []Difference
	of := func(t *Tables, signature string) []byte {
		for _, e := range t.Tables {
			if e.Signature == signature {
				return t.part(e.Table)
			}
		}
		return nil
	}
	seen := map[string]bool{}
	for _, t := range []*Tables{a, b} {
		for _, e := range t.Tables {
			if seen[e.Signature] {
				continue
			}
			seen[e.Signature] = true
			x, y := of(a, e.Signature), of(b, e.Signature)
			if bytes.Equal(x, y) {
				continue
			}
			d := Difference{Signature: e.Signature, Offset: -1, Lengths: [2]int{len(x), len(y)}}
			if x != nil && y != nil {
				for d.Offset = 0; d.Offset < min(len(x), len(y)) && x[d.Offset] == y[d.Offset]; {
					d.Offset++
				}
			}
			d.Note = note(e.Signature, len(y)-len(x))
			out = append(out, d)
		}
	}
	return out
}

// note says what a difference of lengths is known to come from.
func note(signature string, delta int) string {
	size := max(delta, -delta)
	more := "more"
	if delta < 0 {
		more = "less"
	}
	switch {
	case signature != "DSDT" || delta == 0:
		return ""
	case size == 85:
		return "QEMU 8 against 10: older methods, 67 and 18 bytes; or 5 devices " + more + ": 17 bytes each"
	case size == 52 || size == 53:
		return "the serial port, there or not"
	case size == 67:
		return "QEMU 9.2 against 10.0: an older CPU scan method"
	case size == 13:
		return "QEMU 10 against 11.0: initialization of the CPU hot-plug device"
	case size == 12:
		return "QEMU 10 against 11.1"
	case size == 18:
		return "QEMU 8 against 9.2: an older device labeling method"
	case size%17 == 0 && size/17 <= 30:
		if size == 17 {
			return "1 device " + more + ": 17 bytes each"
		}
		return fmt.Sprintf("%d devices %s: 17 bytes each", size/17, more)
	}
	return ""
}
