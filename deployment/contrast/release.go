// Package contrast changes a deployment as `contrast generate` does before it
// computes policies: initializer, service mesh, image store, image replacements
// and the annotations with the SEV-SNP ID blocks. What depends on a release is
// data, a [Release].
//
// A change whose input is not known is not guessed: the workload says what is
// missing, and its policy cannot be computed. The input is never modified.
//
// Source: Contrast and Privatemode specification, sections 2.1, 2.2 and 2.4,
// and edgelesssys/contrast, internal/kuberesource.
package contrast

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"gopkg.in/yaml.v3"

	"github.com/retally/retally/internal/yamldoc"
)

// Choice is one value that depends on the release.
type Choice struct {
	Value  string `yaml:"value"`
	Source string `yaml:"source"`
	// Confirmed says that the source is of this very release, or that its
	// output was seen. Anything else is an assumption, and shown as one.
	Confirmed bool `yaml:"confirmed"`
}

// Release is what depends on a release of Contrast.
type Release struct {
	Version int    `yaml:"version"`
	Release string `yaml:"release"` // "v1.20.0"
	Title   string `yaml:"title"`

	// Manifest is the family that writes manifest.json: "1.6", "1.8", "1.16",
	// "1.20" or "newer".
	Manifest Choice `yaml:"manifest"`
	// PolicyHash says what a manifest lists: the hash of the "initdata"
	// document or, before there was one, of the "policy".
	PolicyHash Choice `yaml:"policy_hash"`
	// PolicyProfile names the generator's behavior (package policygen).
	PolicyProfile Choice `yaml:"policy_profile"`
	// Settings and Rules are the SHA-256 of the files that the release embeds;
	// empty where they are not known.
	Settings Choice `yaml:"settings"`
	Rules    Choice `yaml:"rules"`
	// Mutations is "current", or "early": the secrets volume on disk and mounted
	// into containers alone, and nothing said of an absent service mesh.
	Mutations Choice `yaml:"mutations"`
	// CoordinatorHost is where the initializer looks for the Coordinator;
	// ${namespace} in it is the Coordinator's.
	CoordinatorHost Choice `yaml:"coordinator_host"`
	// PodRole is where the Coordinator's role stands: "annotation" or "label".
	PodRole Choice `yaml:"pod_role"`
	// Coordinator says how a manifest lists the Coordinator: as a policy with a
	// "role", or not at all, "none".
	Coordinator Choice `yaml:"coordinator"`
	// ImageStore is "on" or "off" where no flag says it.
	ImageStore Choice `yaml:"image_store"`
	// VCPUs is what of a container counts: "max" of request and limit, or "limits".
	VCPUs Choice `yaml:"vcpus"`
	// IDBlock is the form of SEV-SNP ID blocks: "current", "early" or "none".
	IDBlock Choice `yaml:"id_block"`
	// GuestPolicy is what SNP entries and ID blocks start with, a number.
	GuestPolicy Choice `yaml:"guest_policy"`
	// Counts are the vCPU counts with a launch digest of their own, as "1..8".
	Counts Choice `yaml:"counts"`
	// TDX names the recipe of TDX registers (package tdxmeasure).
	TDX Choice `yaml:"tdx"`

	Platforms    []Platform    `yaml:"platforms"`
	Replacements []Replacement `yaml:"replacements"`

	file string
}

// Platform is one that the release has reference values for.
type Platform struct {
	Name      string `yaml:"name"` // as a manifest spells it
	TEE       string `yaml:"tee"`  // "snp" or "tdx"
	Source    string `yaml:"source"`
	Confirmed bool   `yaml:"confirmed"`
}

// Replacement is an image that the release puts in the place of another. To is
// empty where it is not known: what would hold it cannot be computed.
type Replacement struct {
	From      string `yaml:"from"`
	To        string `yaml:"to"`
	Source    string `yaml:"source"`
	Confirmed bool   `yaml:"confirmed"`
}

// MaxReleaseFile bounds a release's file; a real one has 6 KB.
const MaxReleaseFile = 1 << 20

// choices lists the choices in file order, with the words that each may have.
// An optional one may be empty.
func (r *Release) choices() []namedChoice {
	hex64 := func(s string) bool { return regexp.MustCompile(`^[0-9a-f]{64}$`).MatchString(s) }
	words := func(list ...string) func(string) bool {
		return func(s string) bool { return slices.Contains(list, s) }
	}
	name := func(s string) bool { return s != "" && len(s) <= 80 }
	return []namedChoice{
		{"manifest", &r.Manifest, false, "1.6, 1.8, 1.16, 1.20 or newer", words("1.6", "1.8", "1.16", "1.20", "newer")},
		{"policy_hash", &r.PolicyHash, false, "initdata or policy", words("initdata", "policy")},
		{"policy_profile", &r.PolicyProfile, false, "the name of a generator", name},
		{"settings", &r.Settings, true, "64 hex digits", hex64},
		{"rules", &r.Rules, true, "64 hex digits", hex64},
		{"mutations", &r.Mutations, false, "current or early", words("current", "early")},
		{"coordinator_host", &r.CoordinatorHost, false, "a name, with ${namespace} for the Coordinator's", name},
		{"pod_role", &r.PodRole, false, "annotation or label", words("annotation", "label")},
		{"coordinator", &r.Coordinator, false, "role or none", words("role", "none")},
		{"image_store", &r.ImageStore, false, "on or off", words("on", "off")},
		{"vcpus", &r.VCPUs, false, "max or limits", words("max", "limits")},
		{"id_block", &r.IDBlock, false, "current, early or none", words("current", "early", "none")},
		{"guest_policy", &r.GuestPolicy, false, "a number such as 0x30000", func(s string) bool { _, err := strconv.ParseUint(s, 0, 64); return err == nil }},
		{"counts", &r.Counts, false, "A..B, at most 1..220", func(s string) bool { _, _, ok := countsOf(s); return ok }},
		{"tdx", &r.TDX, true, "the name of a profile of TDX machines", name},
	}
}

type namedChoice struct {
	name     string
	choice   *Choice
	optional bool
	want     string
	ok       func(string) bool
}

func countsOf(s string) (from, to int, ok bool) {
	a, b, ranged := strings.Cut(s, "..")
	if !ranged {
		b = a
	}
	from, errA := strconv.Atoi(a)
	to, errB := strconv.Atoi(b)
	return from, to, errA == nil && errB == nil && 1 <= from && from <= to && to <= 220
}

// VCPUCounts are the counts that have a launch digest of their own.
func (r *Release) VCPUCounts() []int {
	from, to, _ := countsOf(r.Counts.Value) // checked by Parse
	var list []int
	for n := from; n <= to; n++ {
		list = append(list, n)
	}
	return list
}

// DefaultPolicy is the guest policy in force when generate runs for the first
// time.
func (r *Release) DefaultPolicy() uint64 {
	n, _ := strconv.ParseUint(r.GuestPolicy.Value, 0, 64) // checked by Parse
	return n
}

// File is the name the release was read by.
func (r *Release) File() string { return r.file }

// Assumed lists the choices that are not confirmed for this release, each as
// "name = value (source)".
func (r *Release) Assumed() []string {
	var out []string
	for _, c := range r.choices() {
		if !c.choice.Confirmed && c.choice.Value != "" {
			out = append(out, fmt.Sprintf("%s = %s (%s)", c.name, c.choice.Value, c.choice.Source))
		}
	}
	return out
}

// ParseRelease reads a release strictly: every choice has a value that is known
// and a source. Errors are *yamldoc.Error with line and column.
func ParseRelease(file string, data []byte) (*Release, error) {
	docs, err := yamldoc.Parse(file, data, yamldoc.Limits{Bytes: MaxReleaseFile, Nodes: 20_000, Depth: 8, Docs: 1})
	if err != nil {
		return nil, err
	}
	if len(docs) == 0 || docs[0] == nil {
		return nil, &yamldoc.Error{File: file, Msg: "the release is empty", Hint: "it starts with version: 1"}
	}
	r := &Release{file: file}
	if err := yamldoc.DecodeStrict(file, docs[0], r); err != nil {
		return nil, err
	}
	fail := func(path, hint, format string, args ...any) error {
		var at *yaml.Node = docs[0]
		if n := yamldoc.Get(docs[0], strings.FieldsFunc(path, func(c rune) bool { return c == '[' || c == '.' })[0]); n != nil {
			at = n
		}
		e := yamldoc.Errorf(file, at, path, format, args...)
		e.Hint = hint
		return e
	}
	switch {
	case r.Version != 1:
		return nil, fail("version", "write version: 1", "version %d of releases is not known", r.Version)
	case !regexp.MustCompile(`^v[0-9]{1,6}\.[0-9]{1,6}\.[0-9]{1,6}$`).MatchString(r.Release):
		return nil, fail("release", "", "%.40q is no release, want one such as v1.20.0", r.Release)
	}
	for _, c := range r.choices() {
		switch {
		case c.choice.Value == "" && c.optional:
		case !c.ok(c.choice.Value):
			return nil, fail(c.name, "", "%.80q is not known, want %s", c.choice.Value, c.want)
		case strings.TrimSpace(c.choice.Source) == "":
			return nil, fail(c.name, "say where the value is from", "has no source")
		}
	}
	names := map[string]bool{}
	for i, p := range r.Platforms {
		path := fmt.Sprintf("platforms[%d]", i)
		switch lower := strings.ToLower(p.Name); {
		case p.Name == "" || len(p.Name) > 80 || p.TEE != "snp" && p.TEE != "tdx":
			return nil, fail(path, "", "want a name and tee: snp or tdx")
		case names[lower]:
			return nil, fail(path, "", "%q is listed twice", p.Name)
		case strings.TrimSpace(p.Source) == "":
			return nil, fail(path, "say where the value is from", "has no source")
		default:
			names[lower] = true
		}
	}
	from := map[string]bool{}
	for i, p := range r.Replacements {
		path := fmt.Sprintf("replacements[%d]", i)
		switch {
		case p.From == "" || from[p.From]:
			return nil, fail(path, "", "from %q is empty or listed twice", p.From)
		case p.To != "" && !regexp.MustCompile(`^[^@\s]+@sha256:[0-9a-f]{64}$`).MatchString(p.To):
			return nil, fail(path, "leave to out where it is not known", "to: %.120q is no image with its digest", p.To)
		case strings.TrimSpace(p.Source) == "":
			return nil, fail(path, "say where the value is from", "has no source")
		}
		from[p.From] = true
	}
	return r, nil
}

// Platform finds a platform by its name in any case.
func (r *Release) Platform(name string) (Platform, bool) {
	for _, p := range r.Platforms {
		if strings.EqualFold(p.Name, name) {
			return p, true
		}
	}
	return Platform{}, false
}

func (r *Release) replacement(image string) (Replacement, bool) {
	for _, p := range r.Replacements {
		if p.From == image {
			return p, true
		}
	}
	return Replacement{}, false
}
