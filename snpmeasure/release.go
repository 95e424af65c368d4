package snpmeasure

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/jsondoc"
	"github.com/retally/retally/internal/ovmf"
	"github.com/retally/retally/internal/place"
)

// Limits of a list of releases. The published one has 22.
const (
	MaxReleaseFile = 16 << 20
	MaxReleases    = 10_000
	maxSections    = 1024 // of one release's firmware
)

// Release is one row of SecretVM's list of artifacts (sev.json of
// secretvm-verify's artifacts registry): what every launch digest of a version
// follows from, but for the compose file and the number of vCPUs.
type Release struct {
	Line           int
	VMType         string // "prod", "gpu_dev"
	Version        string // "v0.0.25"
	Kernel, Initrd digest.Digest
	Rootfs         digest.Digest // SHA-256, as the command line names it
	Seed           digest.Digest // launch digest after the firmware's pages
	Layout         Layout
	CPU            CPU
	Extra          string // more words of the command line
	// Unknown says what of the row is not understood: what follows from such a
	// row is not known, "" for a row that is understood.
	Unknown string
}

// Name names the row as people do: "prod v0.0.25".
func (r *Release) Name() string { return r.VMType + " " + r.Version }

// Artifacts stand for the files of the release.
func (r *Release) Artifacts() Artifacts {
	return Artifacts{
		Layout: &r.Layout, Kernel: Input{Name: "kernel of " + r.Name(), Known: r.Kernel}, Initrd: Input{Name: "initrd of " + r.Name(), Known: r.Initrd},
	}
}

// Releases is a parsed list.
type Releases struct {
	Name string
	Rows []Release
}

// releaseFields are the members that a row must have, and those that it may.
func releaseFields() (must, may []string) {
	return []string{
		"vm_type", "artifacts_ver", "kernel_hash", "initrd_hash", "vcpu_type", "rootfs_hash", "ovmf_hash", "sev_hashes_table_gpa", "sev_es_reset_eip", "ovmf_sections",
	}, []string{"cmdline_extra"}
}

// LooksLikeReleases reports whether a document begins as a list of releases
// does: a list whose first element names the firmware's sections.
func LooksLikeReleases(doc *jsondoc.Value) bool {
	return doc != nil && doc.Kind == jsondoc.Array && len(doc.Elems) > 0 && doc.Elems[0].Get("ovmf_sections") != nil && doc.Elems[0].Get("ovmf_hash") != nil
}

// ParseReleases reads a list of releases. A value of another form is an error.
// A row with a member or a type of vCPU that is not known stays in the list and
// says so: what it measures is not known.
func ParseReleases(name string, data []byte) (*Releases, error) {
	bad := func(line int, field, found, want string) error {
		return &place.Fault{Op: "read releases", Where: place.Where{File: name, Line: line}, Field: field, Found: found, Want: want, Err: ErrReleases}
	}
	doc, err := jsondoc.Parse(data, jsondoc.Limits{Bytes: MaxReleaseFile, Depth: 8})
	if err != nil {
		return nil, &place.Fault{Op: "read releases", Where: place.InFile(name), Err: err}
	}
	switch {
	case doc.Kind != jsondoc.Array:
		return nil, bad(0, "", doc.Kind.String(), "a list of releases")
	case len(doc.Elems) > MaxReleases:
		return nil, bad(0, "", fmt.Sprintf("%d rows", len(doc.Elems)), fmt.Sprintf("at most %d", MaxReleases))
	}
	list := &Releases{Name: name, Rows: make([]Release, 0, len(doc.Elems))}
	line, at := 1, 0
	for _, e := range doc.Elems {
		line += strings.Count(string(data[at:e.Offset]), "\n")
		at = e.Offset
		r := releaseReader{row: e, line: line, bad: bad}
		row, err := r.read()
		if err != nil {
			return nil, err
		}
		list.Rows = append(list.Rows, row)
	}
	return list, nil
}

// releaseReader reads the members of one row; the first fault counts.
type releaseReader struct {
	row  *jsondoc.Value
	line int
	bad  func(line int, field, found, want string) error
	err  error
}

func (r *releaseReader) fail(field, found, want string) {
	if r.err == nil {
		r.err = r.bad(r.line, field, found, want)
	}
}

func (r *releaseReader) text(field string) string {
	v := r.row.Get(field)
	if v == nil || v.Kind != jsondoc.String {
		r.fail(field, "no text", "a row with a text "+field)
		return ""
	}
	return v.Text
}

func (r *releaseReader) sum(field string, a digest.Algorithm) digest.Digest {
	text := r.text(field)
	d, err := digest.ParseHex(a, strings.ToLower(text))
	if err != nil {
		r.fail(field, strconv.Quote(text), fmt.Sprintf("%d hex digits", 2*a.Size()))
	}
	return d
}

func (r *releaseReader) number(in *jsondoc.Value, field string) uint32 {
	n, ok := uint64(0), false
	if v := in.Get(field); v != nil {
		n, ok = v.Uint64()
	}
	if !ok || n > 1<<32-1 {
		r.fail(field, "no number of 32 bits", "a number of 32 bits")
	}
	return uint32(n)
}

func (r *releaseReader) read() (Release, error) {
	out := Release{Line: r.line}
	if r.row.Kind != jsondoc.Object {
		r.fail("", r.row.Kind.String(), "an object, one release")
		return out, r.err
	}
	out.VMType, out.Version = r.text("vm_type"), r.text("artifacts_ver")
	out.Kernel, out.Initrd, out.Rootfs = r.sum("kernel_hash", digest.SHA256), r.sum("initrd_hash", digest.SHA256), r.sum("rootfs_hash", digest.SHA256)
	out.Seed = r.sum("ovmf_hash", digest.SHA384)
	hashes, reset := r.number(r.row, "sev_hashes_table_gpa"), r.number(r.row, "sev_es_reset_eip")
	out.Layout = Layout{MetadataOffset: -1, HasMetadata: true, HashesTable: &hashes, ResetEIP: &reset}
	sections := r.row.Get("ovmf_sections")
	if sections == nil || sections.Kind != jsondoc.Array || len(sections.Elems) > maxSections {
		r.fail("ovmf_sections", "no list", fmt.Sprintf("a list of at most %d sections", maxSections))
		return out, r.err
	}
	for _, s := range sections.Elems {
		if s.Kind != jsondoc.Object {
			r.fail("ovmf_sections", s.Kind.String(), "objects with gpa, size and section_type")
			break
		}
		out.Layout.Sections = append(out.Layout.Sections, Section{
			Address: r.number(s, "gpa"), Size: r.number(s, "size"), Type: ovmf.SEVSectionType(r.number(s, "section_type")),
		})
		out.unknown(s, []string{"gpa", "size", "section_type"})
	}
	if r.row.Get("cmdline_extra") != nil {
		out.Extra = r.text("cmdline_extra")
	}
	cpu := r.text("vcpu_type")
	var err error
	if out.CPU, err = CPUOfType(cpu); err != nil {
		out.Unknown = fmt.Sprintf("type of vCPU %.40q", cpu)
	}
	must, may := releaseFields()
	out.unknown(r.row, slices.Concat(must, may))
	return out, r.err
}

// unknown notes a member that is not one of the known: it may change what is
// measured.
func (r *Release) unknown(v *jsondoc.Value, known []string) {
	for _, m := range v.Members {
		if !slices.Contains(known, m.Key) {
			r.Unknown = fmt.Sprintf("member %.40q", m.Key)
		}
	}
}
