package tdxmeasure

import (
	"bytes"
	"path"
	"slices"

	"github.com/retally/retally/internal/jsondoc"
	"github.com/retally/retally/profiles"
	"github.com/retally/retally/tdxmeasure/acpi"
)

// Layout is how a family of machines lays its devices out.
type Layout string

// The layouts. Without one it is not known which devices there are.
const (
	SecretVMLayout Layout = "secretvm" // fixed devices, at most one GPU
	DstackLayout   Layout = "dstack"   // DstackDevices
)

// Aggregates are the digests over several registers that a family's tools
// print.
type Aggregates string

// The kinds of aggregates.
const (
	ReproduceMRAggregates Aggregates = "reproduce-mr" // mr_aggregated, mr_image
	DstackAggregates      Aggregates = "dstack"       // mr_aggregated, mr_image, mr_system
	NoAggregates          Aggregates = "none"
)

// Names lists the aggregates by their names in files, flags and keys.
func (a Aggregates) Names() []string {
	switch a {
	case ReproduceMRAggregates:
		return []string{"mr_aggregated", "mr_image"}
	case DstackAggregates:
		return []string{"mr_aggregated", "mr_image", "mr_system"}
	default:
		return nil
	}
}

// SecretVMDevices are the devices of a machine with SecretVM's layout under a
// profile.
func (p *Profile) SecretVMDevices(gpu bool) acpi.Shape {
	if gpu {
		return acpi.Shape{Base: acpi.SecretVMGPU}
	}
	return acpi.Shape{Base: acpi.SecretVM, NoCOM1: p.COM1 != nil && !slices.Contains(p.COM1, p.ACPIFamily)}
}

// Embedded takes a document out of a larger reply: where data is an object with
// a text member of that name, the text; else data itself. dstack's guest agent
// answers in this way.
func Embedded(data []byte, member string) []byte {
	trimmed := bytes.TrimLeft(data, " \t\r\n")
	if len(trimmed) == 0 || trimmed[0] != '{' {
		return data
	}
	doc, err := jsondoc.Parse(data, jsondoc.Limits{Bytes: 16 << 20})
	if err != nil || doc.Kind != jsondoc.Object {
		return data
	}
	if v := doc.Get(member); v != nil && v.Kind == jsondoc.String {
		return []byte(v.Text)
	}
	return data
}

// MeasuresCompose reports whether RTMR3 holds the compose file.
func (p *Profile) MeasuresCompose() bool { return p.RTMR3 == RTMR3Raw || p.RTMR3 == RTMR3SecretVMKMS }

// ProfileFor returns the built-in profile that a description without one
// means: kind is "vm_config" or a metadata file's kind, variant that of its
// firmware.
func ProfileFor(kind, variant string) (name string, ok bool) {
	if variant != "" {
		kind += "/" + variant
	}
	glob := ""
	for _, n := range profiles.TDXNames() {
		p, err := LoadProfile(n)
		if err != nil {
			continue // a test reads them all
		}
		for _, f := range p.For {
			if f == kind {
				return n, true
			}
			if fits, _ := path.Match(f, kind); fits {
				glob = n
			}
		}
	}
	return glob, glob != ""
}
