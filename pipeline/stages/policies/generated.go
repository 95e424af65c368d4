package policies

import (
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"

	"github.com/retally/retally/internal/show"
	"github.com/retally/retally/pipeline/config"
	"github.com/retally/retally/policygen"
)

// fileID is an input with its digest.
type fileID struct {
	Name   string `json:"name"`
	Digest string `json:"digest"`
}

// identify names a settings file, of a folder as it is called in it.
func identify(f policygen.NamedFile, settings string) fileID {
	return fileID{strings.TrimPrefix(f.Name, strings.TrimSuffix(filepath.ToSlash(settings), "/")+"/"), policygen.Rules{Text: f.Data}.Digest().String()}
}

// ProblemClass says what a problem means to the one who has to mend it.
func ProblemClass(p policygen.Problem) string {
	switch {
	case p.Kind == policygen.UnknownField && p.Harmless:
		return "harmless"
	case p.Kind == policygen.UnknownField:
		return "security"
	}
	return "fault"
}

// ClassedProblem is a problem as the JSON form has it.
type ClassedProblem struct {
	policygen.Problem
	Class string `json:"class"`
}

// Classed adds their classes to problems.
func Classed(list policygen.Problems) []ClassedProblem {
	out := make([]ClassedProblem, len(list))
	for i, p := range list {
		out[i] = ClassedProblem{p, ProblemClass(p)}
	}
	return out
}

// Row is one annotation of the output; the first keys are the contract.
type Row struct {
	Kind           string   `json:"kind"`
	Namespace      string   `json:"namespace"`
	Name           string   `json:"name"`
	PolicySHA256   string   `json:"policy_sha256"`
	DataSHA256     string   `json:"policy_data_sha256"`
	InitdataSHA256 string   `json:"initdata_sha256"`
	Annotation     string   `json:"annotation"`
	Missing        []string `json:"missing"`

	// InitdataDigest is what is attested: by the algorithm that the document
	// names.
	InitdataDigest string            `json:"initdata_digest"`
	Profile        string            `json:"profile"`
	Label          string            `json:"label"`
	Rules          fileID            `json:"rules"`
	ImageBinding   string            `json:"image_binding,omitempty"`
	Settings       []fileID          `json:"settings"`
	Images         []rowImage        `json:"images"`
	Extensions     []string          `json:"extensions"`
	Notes          []ClassedProblem  `json:"notes"`
	Warnings       []string          `json:"warnings"`
	Files          map[string]string `json:"files,omitempty"`
}

// rowImage is an image that a policy was made from.
type rowImage struct {
	policygen.ImageUse
	Source string `json:"source"`
}

// Generated is what the generator made, as a verb shows it.
type Generated struct {
	Rows []Row

	out      *policygen.Output
	rules    fileID
	binding  string // "" for foreign rules
	settings []fileID
}

// NewGenerated makes a row of each policy.
func NewGenerated(out *policygen.Output, set *Set, c *config.Policies, used []UsedImage) *Generated {
	g := &Generated{Rows: []Row{}, out: out, rules: fileID{set.Input.Rules.Name, set.Input.Rules.Digest().String()}, settings: []fileID{identify(set.Base, c.Settings)}}
	if c.Rules == "" {
		g.binding = c.ImageBinding
	}
	for _, d := range set.DropIns {
		g.settings = append(g.settings, identify(d, c.Settings))
	}
	source := map[string]string{}
	for _, u := range used {
		source[u.Reference] = u.Source
	}
	for i := range out.Policies {
		p := &out.Policies[i]
		row := Row{
			Kind: p.Kind, Namespace: p.Namespace, Name: p.Name, PolicySHA256: p.TextDigest.Hex(), DataSHA256: p.DataDigest.Hex(),
			InitdataSHA256: p.InitdataDigest.Hex(), InitdataDigest: p.InitdataDigest.String(), Annotation: p.Annotation, Missing: []string{},
			Profile: out.Profile.Name, Label: out.Profile.Label(), Rules: g.rules, ImageBinding: g.binding,
			Settings: g.settings, Images: []rowImage{}, Extensions: []string{}, Notes: Classed(out.Notes), Warnings: append([]string{}, out.Warnings...),
		}
		if p.InitdataDigest.Algorithm() != p.TextDigest.Algorithm() {
			row.InitdataSHA256 = policygen.Rules{Text: p.Initdata()}.Digest().Hex()
		}
		for _, use := range imagesOf(p, out.Images) {
			row.Images = append(row.Images, rowImage{use, source[use.Reference]})
			row.Extensions = append(row.Extensions, layerNotes(use)...)
		}
		g.Rows = append(g.Rows, row)
	}
	return g
}

// imagesOf finds what was read for the images of one policy, in the order of
// the run. Several texts may name one image.
func imagesOf(p *policygen.Policy, uses []policygen.ImageUse) []policygen.ImageUse {
	key := func(text string) string {
		ref, err := policygen.ParseImageReference(text)
		switch {
		case err != nil:
			return text
		case ref.Pinned():
			return ref.Registry + "/" + ref.Repository + "@" + ref.Digest.String()
		}
		return ref.String()
	}
	wanted := map[string]bool{}
	for _, text := range p.References {
		wanted[key(text)] = true
	}
	var out []policygen.ImageUse
	for _, u := range uses {
		if wanted[key(u.Reference)] {
			out = append(out, u)
		}
	}
	return out
}

// layerNotes names the layers that the reference treats in another way than
// one would expect: it looks into gzip only.
func layerNotes(use policygen.ImageUse) []string {
	var out []string
	for _, l := range use.Layers {
		gzip := strings.HasSuffix(l.MediaType, "gzip")
		switch {
		case l.State == "skipped":
			out = append(out, fmt.Sprintf("%s: layer %s (%s) is not looked into, as the reference does", use.Reference, l.Digest, l.MediaType))
		case !gzip && l.State != "not needed":
			out = append(out, fmt.Sprintf("%s: layer %s (%s) is looked into; kata's generator skips it", use.Reference, l.Digest, l.MediaType))
		}
		if l.DiffID == "differs" {
			out = append(out, fmt.Sprintf("%s: layer %s does not have the diffID that the image config claims", use.Reference, l.Digest))
		}
	}
	return out
}

// Text is the form for people.
func (g *Generated) Text(w io.Writer, verbose bool) {
	rows, out := g.Rows, g.out
	line := func(format string, args ...any) { show.Line(w, format, args...) }
	for _, r := range rows {
		line("%s", WorkloadName(r.Kind, r.Namespace, r.Name))
		line("  initdata     %s", r.InitdataDigest)
		line("  policy       sha256:%s", r.PolicySHA256)
		line("  policy data  sha256:%s", r.DataSHA256)
		if verbose {
			for _, i := range r.Images {
				line("  image        %s  %s  %s", i.Reference, i.Digest, i.Source)
			}
		}
	}
	line("%s, profile %s (%s)", show.Plural(len(rows), "policy", "policies"), out.Profile.Name, out.Profile.Label())
	rule := g.rules.Name
	if g.binding != "" {
		rule = "retally's own, image_binding " + g.binding
	}
	line("rules     %s  %s", g.rules.Digest, rule)
	for _, s := range g.settings {
		line("settings  %s  %s", s.Digest, s.Name)
	}
	unpinned, layers := 0, map[string]int{}
	for _, u := range out.Images {
		if !u.Pinned {
			unpinned++
		}
		for _, l := range u.Layers {
			layers[l.State]++
		}
	}
	var states []string
	for _, s := range []string{"read", "cached", "shared", "not needed", "skipped"} {
		if layers[s] > 0 {
			states = append(states, fmt.Sprintf("%d %s", layers[s], s))
		}
	}
	line("images    %s, %d of them without digest; layers: %s", show.Plural(len(out.Images), "image", "images"), unpinned, show.Or(strings.Join(states, ", "), "none"))
	var notes []string
	for _, u := range out.Images {
		notes = append(notes, layerNotes(u)...)
	}
	for _, n := range out.Notes {
		notes = append(notes, "accepted: "+n.String())
	}
	for _, n := range slices.Concat(notes, out.Warnings) {
		line("note: %s", n)
	}
}

// problemGroups are the classes in the order of their weight.
var problemGroups = []struct{ class, title string }{
	{"fault", "faults"},
	{"security", "unknown fields that may give a container more than its policy says"},
	{"harmless", "unknown fields that no container notices (--lenient accepts them)"},
}

// Problems groups what stands against generating policies: a summary, and a line
// for each.
func Problems(list policygen.Problems) (summary string, lines []string) {
	var counts []string
	grouped := map[string]policygen.Problems{}
	for _, p := range list {
		grouped[ProblemClass(p)] = append(grouped[ProblemClass(p)], p)
	}
	for _, g := range problemGroups {
		if n := len(grouped[g.class]); n > 0 {
			counts = append(counts, map[string]string{
				"fault": show.Plural(n, "fault", "faults"), "security": fmt.Sprintf("%d security relevant", n), "harmless": fmt.Sprintf("%d harmless", n),
			}[g.class])
		}
	}
	summary = fmt.Sprintf("%s: %s; nothing was written", show.Plural(len(list), "problem", "problems"), strings.Join(counts, ", "))
	for _, g := range problemGroups {
		if len(grouped[g.class]) == 0 {
			continue
		}
		if len(grouped) > 1 || g.class != "fault" {
			lines = append(lines, g.title+":")
		}
		for _, p := range grouped[g.class] {
			lines = append(lines, "  "+p.String())
		}
	}
	return summary, lines
}
