package snpmeasure

import (
	"fmt"
	"slices"
	"strings"

	"github.com/retally/retally/internal/place"
	"github.com/retally/retally/internal/yamldoc"
)

// Profile is what machines of a vendor have in common: defaults, each of which
// a machine's own description may set otherwise.
type Profile struct {
	Name, Title string
	Source      string // where it is known from
	Confirmed   string // what confirms it; "" if nothing does
	VMM         VMM
	Features    []uint64
	CPUTypes    []string
	VCPUs       []int
	// Words are the command line, one word an element, with ${NAME} for what a
	// machine says: compose and rootfs (SHA-256 in hex) and extra. A word that
	// comes out empty is left out.
	Words []string
	// Sizes are the names of machines by their number of vCPUs; FamilyID and
	// ImageID are the ids of their ID block with ${vm_type}, ${size} and
	// ${version}, filled up with Pad.
	Sizes             map[string]int
	FamilyID, ImageID string
	Pad               string
}

// profileFile is a profile as it is written.
type profileFile struct {
	Version   int            `yaml:"version"`
	Name      string         `yaml:"name"`
	Title     string         `yaml:"title"`
	Source    string         `yaml:"source"`
	Confirmed string         `yaml:"confirmed"`
	VMM       string         `yaml:"vmm"`
	Features  []uint64       `yaml:"guest_features"`
	CPUTypes  []string       `yaml:"vcpu_types"`
	VCPUs     []int          `yaml:"vcpus"`
	Words     []string       `yaml:"cmdline"`
	Sizes     map[string]int `yaml:"sizes"`
	FamilyID  string         `yaml:"family_id"`
	ImageID   string         `yaml:"image_id"`
	Pad       string         `yaml:"pad"`
}

// ParseProfile reads a profile (profiles/snp).
func ParseProfile(file string, data []byte) (*Profile, error) {
	docs, err := yamldoc.Parse(file, data, yamldoc.Limits{Docs: 1})
	if err != nil {
		return nil, err
	}
	if len(docs) != 1 {
		return nil, &place.Fault{Op: "read profile", Where: place.InFile(file), Found: fmt.Sprintf("%d documents", len(docs)), Want: "1"}
	}
	var f profileFile
	if err := yamldoc.DecodeStrict(file, docs[0], &f); err != nil {
		return nil, err
	}
	bad := func(field, found, want string) (*Profile, error) {
		return nil, &place.Fault{Op: "read profile", Where: place.InFile(file), Field: field, Found: found, Want: want}
	}
	if f.Version != 1 {
		return bad("version", fmt.Sprint(f.Version), "1")
	}
	p := &Profile{
		Name: f.Name, Title: f.Title, Source: f.Source, Confirmed: f.Confirmed, Features: f.Features, CPUTypes: f.CPUTypes, VCPUs: f.VCPUs,
		Words: f.Words, Sizes: f.Sizes, FamilyID: f.FamilyID, ImageID: f.ImageID, Pad: f.Pad,
	}
	if p.VMM, err = ParseVMM(f.VMM); err != nil {
		return nil, err
	}
	for _, t := range p.CPUTypes {
		if _, err := CPUOfType(t); err != nil {
			return nil, err
		}
	}
	if len(p.Pad) > 1 {
		return bad("pad", fmt.Sprintf("%.20q", p.Pad), "one character")
	}
	for _, w := range p.Words {
		if _, missing := expand(w, map[string]string{"compose": "x", "rootfs": "x", "extra": "x"}); missing != "" {
			return bad("cmdline", "${"+missing+"}", "of ${compose}, ${rootfs} and ${extra}")
		}
	}
	return p, nil
}

// Cmdline writes the command line of a machine; missing names the first value
// that it would need and that values does not have.
func (p *Profile) Cmdline(values map[string]string) (line, missing string) {
	var words []string
	for _, w := range p.Words {
		text, miss := expand(w, values)
		if miss != "" {
			return "", miss
		}
		if text != "" {
			words = append(words, text)
		}
	}
	return strings.Join(words, " "), ""
}

// Needs lists the values that the command line is made of.
func (p *Profile) Needs() []string {
	var needs []string
	for _, w := range p.Words {
		if _, miss := expand(w, nil); miss != "" && !slices.Contains(needs, miss) {
			needs = append(needs, miss)
		}
	}
	return needs
}

// IDs are the family and image id of a release's machine of a number of vCPUs,
// filled up; "" where they are not known or do not fit.
func (p *Profile) IDs(r *Release, vCPUs int) (family, image string) {
	for size, n := range p.Sizes {
		if n == vCPUs {
			family = p.id(p.FamilyID, map[string]string{"vm_type": r.VMType, "size": size})
		}
	}
	return family, p.id(p.ImageID, map[string]string{"version": r.Version})
}

func (p *Profile) id(template string, values map[string]string) string {
	const size = 16
	text, missing := expand(template, values)
	if template == "" || missing != "" || len(text) > size {
		return ""
	}
	return text + strings.Repeat(p.Pad, size-len(text))
}

// expand puts values in place of ${NAME}; missing names the first that there
// is none for. Values are not looked through again.
func expand(text string, values map[string]string) (out, missing string) {
	var b strings.Builder
	for {
		before, rest, found := strings.Cut(text, "${")
		b.WriteString(before)
		if !found {
			return b.String(), ""
		}
		name, after, closed := strings.Cut(rest, "}")
		v, known := values[name]
		if !closed || !known {
			return "", name
		}
		b.WriteString(v)
		text = after
	}
}
