package manifest

import (
	"fmt"
	"strconv"

	"github.com/retally/retally/internal/jsondoc"
)

// An SNPEntry is one reference value for AMD SEV-SNP. A nil pointer or slice
// means that the field is absent, null or of a wrong type (Validate tells).
type SNPEntry struct {
	Platform                string // "" before Contrast 1.16
	ProductName             string // "" in Contrast 0.7
	TrustedMeasurement      string // hex as written, 48 bytes
	CPUs                    *uint64
	APEIP                   *string // hex, 4 bytes, most significant first
	MinimumTCB              SNPTCB
	GuestPolicy             map[string]bool // the boolean fields present; nil if the object is absent
	ABIMajor, ABIMinor      *uint64         // of GuestPolicy
	PlatformInfo            map[string]bool // the boolean fields present; nil if the object is absent
	MinimumMitigationVector *uint64
	AllowedChipIDs          []string // hex as written, 64 bytes each; empty: any chip
	Pointer                 string
	Line                    int
}

// SNPTCB is the lowest firmware level accepted; nil is "not filled in".
type SNPTCB struct {
	BootloaderVersion, TEEVersion, SNPVersion, MicrocodeVersion *uint64
}

// A TDXEntry is one reference value for Intel TDX. A nil pointer or slice means
// that the field is absent, null or of a wrong type.
type TDXEntry struct {
	Platform                   string
	MinTCBEvaluationDataNumber *uint64
	MrTd                       string   // hex as written, 48 bytes
	MrSeam                     string   // hex as written, 48 bytes; "" is "not filled in"
	Rtmrs                      []string // hex as written, four of 48 bytes; "" for one that is no text
	Xfam                       string   // hex as written, 8 bytes, least significant first
	AllowedPIIDs               []string // hex as written, 16 bytes each; empty: any platform
	MemoryIntegrity            *bool
	SMTDisabled                *bool
	StaticPlatform             *bool
	// Fields of early 1.x manifests.
	MinimumQeSvn, MinimumPceSvn    *uint64
	MinimumTeeTcbSvn, TdAttributes *string // hex, 16 and 8 bytes
	Pointer                        string
	Line                           int
}

// entry is one reference value wherever its version keeps it.
type entry struct {
	kind    string // "snp" or "tdx"
	value   *jsondoc.Value
	pointer string
}

// entries lists the reference values of one kind, in file order. The lone SNP
// object of Contrast 0.7 counts as one.
func (m *Manifest) entries(kind string) []entry {
	refs := m.tree.Get("ReferenceValues")
	var out []entry
	if list := refs.Get(kind); list != nil && list.Kind == jsondoc.Array {
		for i, v := range list.Elems {
			out = append(out, entry{kind, v, "/ReferenceValues/" + kind + "/" + strconv.Itoa(i)})
		}
	}
	if old := refs.Get("SNP"); kind == "snp" && old != nil && old.Kind == jsondoc.Object {
		out = append(out, entry{kind, old, "/ReferenceValues/SNP"})
	}
	return out
}

// SNP lists the SEV-SNP reference values in file order. The one of Contrast
// 0.7 (object SNP, TrustedMeasurement beside it) is an entry too.
func (m *Manifest) SNP() []SNPEntry {
	var out []SNPEntry
	for _, e := range m.entries("snp") {
		v := e.value
		tcb := v.Get("MinimumTCB")
		policy := v.Get("GuestPolicy")
		s := SNPEntry{
			Platform:           text(v.Get("Platform")),
			ProductName:        text(v.Get("ProductName")),
			TrustedMeasurement: text(v.Get("TrustedMeasurement")),
			CPUs:               number(v.Get("CPUs")),
			APEIP:              textOrNil(v.Get("APEIP")),
			MinimumTCB: SNPTCB{
				BootloaderVersion: number(tcb.Get("BootloaderVersion")),
				TEEVersion:        number(tcb.Get("TEEVersion")),
				SNPVersion:        number(tcb.Get("SNPVersion")),
				MicrocodeVersion:  number(tcb.Get("MicrocodeVersion")),
			},
			GuestPolicy:             bools(policy),
			ABIMajor:                number(policy.Get("ABIMajor")),
			ABIMinor:                number(policy.Get("ABIMinor")),
			PlatformInfo:            bools(v.Get("PlatformInfo")),
			MinimumMitigationVector: number(v.Get("MinimumMitigationVector")),
			AllowedChipIDs:          texts(v.Get("AllowedChipIDs")),
			Pointer:                 e.pointer,
			Line:                    m.line(v.Offset),
		}
		if e.pointer == "/ReferenceValues/SNP" {
			s.TrustedMeasurement = text(m.tree.Get("ReferenceValues").Get("TrustedMeasurement"))
		}
		out = append(out, s)
	}
	return out
}

// TDX lists the TDX reference values in file order. The early spelling Rtrms
// is read as Rtmrs.
func (m *Manifest) TDX() []TDXEntry {
	var out []TDXEntry
	for _, e := range m.entries("tdx") {
		v := e.value
		rtmrs := v.Get("Rtmrs")
		if rtmrs == nil {
			rtmrs = v.Get("Rtrms")
		}
		out = append(out, TDXEntry{
			Platform:                   text(v.Get("Platform")),
			MinTCBEvaluationDataNumber: number(v.Get("MinTCBEvaluationDataNumber")),
			MrTd:                       text(v.Get("MrTd")),
			MrSeam:                     text(v.Get("MrSeam")),
			Rtmrs:                      registers(rtmrs),
			Xfam:                       text(v.Get("Xfam")),
			AllowedPIIDs:               texts(v.Get("AllowedPIIDs")),
			MemoryIntegrity:            boolOrNil(v.Get("MemoryIntegrity")),
			SMTDisabled:                boolOrNil(v.Get("SMTDisabled")),
			StaticPlatform:             boolOrNil(v.Get("StaticPlatform")),
			MinimumQeSvn:               number(v.Get("MinimumQeSvn")),
			MinimumPceSvn:              number(v.Get("MinimumPceSvn")),
			MinimumTeeTcbSvn:           textOrNil(v.Get("MinimumTeeTcbSvn")),
			TdAttributes:               textOrNil(v.Get("TdAttributes")),
			Pointer:                    e.pointer,
			Line:                       m.line(v.Offset),
		})
	}
	return out
}

func members(v *jsondoc.Value) []jsondoc.Member {
	if v == nil {
		return nil
	}
	return v.Members
}

func text(v *jsondoc.Value) string {
	if v == nil || v.Kind != jsondoc.String {
		return ""
	}
	return v.Text
}

func textOrNil(v *jsondoc.Value) *string {
	if v == nil || v.Kind != jsondoc.String {
		return nil
	}
	return &v.Text
}

func texts(v *jsondoc.Value) []string {
	if v == nil || v.Kind != jsondoc.Array {
		return nil
	}
	out := make([]string, 0, len(v.Elems))
	for _, e := range v.Elems {
		if e.Kind == jsondoc.String {
			out = append(out, e.Text)
		}
	}
	return out
}

// registers are the elements by their place: one of another form must not move
// the others.
func registers(v *jsondoc.Value) []string {
	if v == nil || v.Kind != jsondoc.Array {
		return nil
	}
	out := make([]string, len(v.Elems))
	for i, e := range v.Elems {
		out[i] = text(e)
	}
	return out
}

func number(v *jsondoc.Value) *uint64 {
	if v == nil || v.Kind != jsondoc.Number {
		return nil
	}
	n, ok := v.Uint64()
	if !ok {
		return nil
	}
	return &n
}

func boolOrNil(v *jsondoc.Value) *bool {
	if v == nil || v.Kind != jsondoc.Bool {
		return nil
	}
	b := v.Bool
	return &b
}

func bools(v *jsondoc.Value) map[string]bool {
	if v == nil || v.Kind != jsondoc.Object {
		return nil
	}
	out := map[string]bool{}
	for _, m := range v.Members {
		if m.Value.Kind == jsondoc.Bool {
			out[m.Key] = m.Value.Bool
		}
	}
	return out
}

// describe names a value in a message, short and in one line.
func describe(v *jsondoc.Value) string {
	switch {
	case v == nil:
		return "nothing"
	case v.Kind == jsondoc.String:
		return "the string " + quote(v.Text)
	case v.Kind == jsondoc.Number:
		return "the number " + clip(v.Text)
	case v.Kind == jsondoc.Bool:
		return fmt.Sprint(v.Bool)
	case v.Kind == jsondoc.Array:
		return "an array"
	case v.Kind == jsondoc.Object:
		return "an object"
	default:
		return "null"
	}
}

func quote(s string) string { return strconv.QuoteToASCII(clip(s)) }

func clip(s string) string {
	const limit = 80
	if len(s) <= limit {
		return s
	}
	return s[:limit] + "…"
}
