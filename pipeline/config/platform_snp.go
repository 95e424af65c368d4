package config

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strconv"
	"strings"

	"gopkg.in/yaml.v3"
)

// SNPMachine is what the description of a machine of AMD SEV, SEV-ES or SEV-SNP
// has of its own. Firmware, kernel, initrd, command line, number of vCPUs,
// compose file and root file system are fields of every Platform; there, a
// kernel, an initrd, a command line and a root file system may be known by
// their hash alone, as sha256:HEX.
type SNPMachine struct {
	// Mode is what is measured: "snp" (the default), "svsm", "seves", "sev" or
	// "ovmf-hash".
	Mode string `yaml:"mode,omitempty" json:"mode,omitempty"`
	// VMM starts the machine: "qemu" (the default), "ec2", "gce" or "krun".
	VMM string `yaml:"vmm,omitempty" json:"vmm,omitempty"`
	// VCPUTypes are types of vCPUs by QEMU's names, one machine for each.
	// VCPUSig, or family, model and stepping, name one type in another way.
	VCPUTypes    []string `yaml:"vcpu_types,omitempty" json:"vcpu_types,omitempty"`
	VCPUSig      string   `yaml:"vcpu_sig,omitempty" json:"vcpu_sig,omitempty"`
	VCPUFamily   *int     `yaml:"vcpu_family,omitempty" json:"vcpu_family,omitempty"`
	VCPUModel    *int     `yaml:"vcpu_model,omitempty" json:"vcpu_model,omitempty"`
	VCPUStepping *int     `yaml:"vcpu_stepping,omitempty" json:"vcpu_stepping,omitempty"`
	// GuestFeatures are values of SEV_FEATURES, one machine for each; none: 0x1.
	GuestFeatures Numbers `yaml:"guest_features,omitempty" json:"guest_features,omitempty"`
	// OVMFHash is the launch digest after the firmware's pages, in hex.
	OVMFHash string `yaml:"ovmf_hash,omitempty" json:"ovmf_hash,omitempty"`
	// SVSM and VarsSize, in bytes, are for the mode of that name.
	SVSM     string `yaml:"svsm,omitempty" json:"svsm,omitempty"`
	VarsSize int64  `yaml:"vars_size,omitempty" json:"vars_size,omitempty"`
	// Quirks are choices where programs disagree (docs/snp.md).
	Quirks []string `yaml:"quirks,omitempty" json:"quirks,omitempty"`
	// OneVCPUDigest is the launch digest for one vCPU and APEIP where further
	// ones start, both in hex; they stand in place of the artifacts.
	OneVCPUDigest string `yaml:"one_vcpu_digest,omitempty" json:"one_vcpu_digest,omitempty"`
	APEIP         string `yaml:"ap_eip,omitempty" json:"ap_eip,omitempty"`
	// IDBlock says which ID block the machine is started with.
	IDBlock *IDBlock `yaml:"id_block,omitempty" json:"id_block,omitempty"`
	// Releases is a published list of a vendor's artifacts (SecretVM's
	// sev.json); without it the top-level registry, if that has this form.
	// Release names the row that the machine is of, as "prod v0.0.25".
	Releases string `yaml:"releases,omitempty" json:"releases,omitempty"`
	Release  string `yaml:"release,omitempty" json:"release,omitempty"`
}

// IDBlock is what a machine's owner lets the processor check when it starts.
type IDBlock struct {
	// Contrast is a form that Contrast writes, "current" or "early", whose ids
	// and SVN are fixed and whose key follows from the block.
	Contrast string `yaml:"contrast,omitempty" json:"contrast,omitempty"`
	// FamilyID and ImageID are text of at most 16 bytes, or 32 hex digits.
	FamilyID string `yaml:"family_id,omitempty" json:"family_id,omitempty"`
	ImageID  string `yaml:"image_id,omitempty" json:"image_id,omitempty"`
	SVN      uint32 `yaml:"svn,omitempty" json:"svn,omitempty"`
	// Policy is the guest policy; none: 0x30000.
	Policy *uint64 `yaml:"policy,omitempty" json:"policy,omitempty"`
}

// MaxCounts bounds a list of numbers of vCPUs, and each number in it.
const MaxCounts = 1<<16 - 1

// Counts are numbers of vCPUs: 4, [1, 2, 4], 1..8 or [1..4, 8]. nil is not
// given.
type Counts []int

// ParseCounts reads "4", "1..8" and "1,2,4..6". That no machine has a number
// below 0 is for its stage to say.
func ParseCounts(text string) (Counts, error) {
	var c Counts
	for part := range strings.SplitSeq(text, ",") {
		from, to, isRange := strings.Cut(strings.TrimSpace(part), "..")
		if !isRange {
			to = from
		}
		first, err1 := strconv.Atoi(from)
		last, err2 := strconv.Atoi(to)
		switch {
		case err1 != nil || err2 != nil || first < 0 && isRange || last < first:
			return nil, fmt.Errorf("%.40q: want a number, a range or a list", text)
		case last > MaxCounts || len(c)+last-first >= MaxCounts:
			return nil, fmt.Errorf("%.40q: at most %d", text, MaxCounts)
		}
		for n := first; n <= last; n++ {
			c = append(c, n)
		}
	}
	return c, nil
}

// One is the number where there is exactly one, else 0.
func (c Counts) One() int {
	if len(c) != 1 {
		return 0
	}
	return c[0]
}

// ranges writes the counts as short as they can be read.
func (c Counts) ranges() []string {
	var out []string
	for i := 0; i < len(c); {
		j := i
		for j+1 < len(c) && c[j+1] == c[j]+1 {
			j++
		}
		if j > i+1 {
			out = append(out, fmt.Sprintf("%d..%d", c[i], c[j]))
			i = j + 1
			continue
		}
		out = append(out, strconv.Itoa(c[i]))
		i++
	}
	return out
}

// String writes the counts as ParseCounts reads them.
func (c Counts) String() string { return strings.Join(c.ranges(), ",") }

// UnmarshalYAML implements yaml.Unmarshaler.
func (c *Counts) UnmarshalYAML(n *yaml.Node) error {
	return eachScalar(n, "a number of vCPUs, a range as 1..8, or a list", func(text string) error {
		more, err := ParseCounts(text)
		if err != nil {
			return err
		}
		if len(*c)+len(more) > MaxCounts {
			return fmt.Errorf("more than %d numbers", MaxCounts)
		}
		*c = append(*c, more...)
		return nil
	})
}

// MarshalYAML implements yaml.Marshaler.
func (c Counts) MarshalYAML() (any, error) {
	var list []any
	for _, text := range c.ranges() {
		if n, err := strconv.Atoi(text); err == nil {
			list = append(list, n)
			continue
		}
		list = append(list, text)
	}
	if len(list) == 1 {
		return list[0], nil
	}
	return list, nil
}

// MarshalJSON writes one number as a number.
func (c Counts) MarshalJSON() ([]byte, error) {
	if len(c) == 1 {
		return json.Marshal(c[0])
	}
	return json.Marshal([]int(c))
}

// Numbers are numbers of 64 bits: 0x21 or [0x1, 0x21].
type Numbers []uint64

// ParseNumbers reads a list with commas.
func ParseNumbers(text string) (Numbers, error) {
	var list Numbers
	for part := range strings.SplitSeq(text, ",") {
		n, err := strconv.ParseUint(strings.TrimSpace(part), 0, 64)
		if err != nil {
			return nil, fmt.Errorf("%.40q: want a number of 64 bits", part)
		}
		list = append(list, n)
	}
	return list, nil
}

// UnmarshalYAML implements yaml.Unmarshaler.
func (l *Numbers) UnmarshalYAML(n *yaml.Node) error {
	return eachScalar(n, "a number of 64 bits, or a list", func(text string) error {
		more, err := ParseNumbers(text)
		*l = append(*l, more...)
		return err
	})
}

// MarshalYAML implements yaml.Marshaler.
func (l Numbers) MarshalYAML() (any, error) {
	if len(l) == 1 {
		return l[0], nil
	}
	return []uint64(l), nil
}

// eachScalar calls f with a scalar, or with each of a list of scalars.
func eachScalar(n *yaml.Node, want string, f func(text string) error) error {
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	list := []*yaml.Node{n}
	if n.Kind == yaml.SequenceNode {
		list = n.Content
	}
	if len(list) == 0 {
		return fmt.Errorf("line %d: an empty list, want %s", n.Line, want)
	}
	for _, e := range list {
		if e.Kind == yaml.AliasNode {
			e = e.Alias
		}
		if e.Kind != yaml.ScalarNode {
			return fmt.Errorf("line %d: want %s", e.Line, want)
		}
		if err := f(e.Value); err != nil {
			return fmt.Errorf("line %d: %w; want %s", e.Line, err, want)
		}
	}
	return nil
}

// FieldsGiven lists the fields of a description that are set, by their names in
// retally.yaml.
func FieldsGiven(description any) []string {
	var names []string
	v := reflect.ValueOf(description)
	for i := range v.NumField() {
		name, options, _ := strings.Cut(v.Type().Field(i).Tag.Get("yaml"), ",")
		switch {
		case v.Field(i).IsZero():
		case options == "inline":
			names = append(names, FieldsGiven(v.Field(i).Interface())...)
		default:
			names = append(names, name)
		}
	}
	return names
}

// Set takes the counts from a text, as a flag has them.
func (c *Counts) Set(text string) (err error) {
	*c, err = ParseCounts(text)
	return err
}

// Type names the kind of value in a flag's help.
func (*Counts) Type() string { return "int" }
