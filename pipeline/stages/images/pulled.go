package images

import (
	"fmt"
	"io"
	"path"
	"slices"
	"strings"

	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/show"
	"github.com/retally/retally/pipeline"
	"github.com/retally/retally/pipeline/run"
	"github.com/retally/retally/privatemode"
)

// Pulled is what an engine says of images that it has, held against the digest of
// a rebuild. Name and Rebuilt say what is asked; Add and Judge fill the rest.
type Pulled struct {
	Verdict   string        `json:"verdict"` // match, differs, unchecked
	Reason    string        `json:"reason"`
	Name      string        `json:"name,omitempty"`
	Rebuilt   digest.Digest `json:"rebuilt"`
	Inspected []Inspected   `json:"inspected"`
}

// Inspected is one image that the engine has.
type Inspected struct {
	Names    []string      `json:"names"`
	Platform string        `json:"platform"`
	Asked    bool          `json:"asked"` // it is the image whose rebuilt digest is compared
	Digests  []kindedEntry `json:"digests"`

	untold bool // the digests may be of several images
}

type kindedEntry struct {
	Kind    string        `json:"kind"`
	Digest  digest.Digest `json:"digest"`
	Field   string        `json:"field"`
	Rebuilt bool          `json:"rebuilt"` // equal to the rebuilt digest
	// Counts: it identifies what was pulled under the asked name for the
	// platform of this image.
	Counts bool   `json:"counts"`
	Note   string `json:"note,omitempty"` // why it does not
}

// called reports whether a reference is to a repository of the asked name.
func (r *Pulled) called(ref string) bool {
	ref, _, _ = strings.Cut(ref, "@")
	name, _, _ := strings.Cut(path.Base(ref), ":")
	return name == r.Name
}

// Add takes in an image that the engine has.
func (r *Pulled) Add(img privatemode.InspectedImage) {
	in := Inspected{Names: slices.Clone(img.RepoTags), Platform: strings.Trim(path.Join(img.OS, img.Architecture, img.Variant), "/"), Digests: []kindedEntry{}, untold: img.Untold}
	for _, d := range img.RepoDigests {
		if !slices.Contains(in.Names, d.Repository) {
			in.Names = append(in.Names, d.Repository)
		}
	}
	in.Asked = slices.ContainsFunc(in.Names, r.called)
	put := func(d privatemode.ImageDigest, note string) {
		if d.Digest.IsZero() {
			return
		}
		if d.Kind == privatemode.KindConfig && note == "" {
			note = "a configuration says nothing about the packed layers"
		}
		if d.Kind == privatemode.KindUntold && note == "" && d.Digest != r.Rebuilt {
			note = noteUntold
		}
		for _, e := range in.Digests {
			if e.Digest == d.Digest && (e.Counts || note != "") {
				return // said already, and better
			}
		}
		in.Digests = append(in.Digests, kindedEntry{string(d.Kind), d.Digest, d.Field, !r.Rebuilt.IsZero() && d.Digest == r.Rebuilt, note == "", note})
	}
	if d := img.Descriptor; d != nil {
		put(privatemode.ImageDigest{Kind: privatemode.KindOf(d.MediaType), Digest: d.Digest, Field: "Descriptor.digest"}, "")
	}
	put(img.Digest, "")
	put(img.ID, "")
	// Of a name's digests those of the asked name count, if it is there.
	for _, d := range img.RepoDigests {
		note := ""
		if in.Asked && !r.called(d.Repository) {
			note = "of another name, " + d.Repository
		}
		put(d.ImageDigest, note)
	}
	for _, m := range img.Manifests {
		note := ""
		switch {
		case m.Kind == "attestation":
			continue
		case in.Platform == "" || m.Platform != in.Platform:
			note = "of platform " + show.Or(m.Platform, "unknown") + ", which does not run here"
		case !r.onlyManifest(img, m):
			note = "one of several manifests of platform " + m.Platform
		}
		put(privatemode.ImageDigest{Kind: privatemode.KindOf(m.Descriptor.MediaType), Digest: m.Descriptor.Digest, Field: "Manifests.Descriptor.digest"}, note)
	}
	r.Inspected = append(r.Inspected, in)
}

// onlyManifest reports whether no other manifest of an index is for the same
// platform: which of several runs is not said.
func (r *Pulled) onlyManifest(img privatemode.InspectedImage, m privatemode.PlatformManifest) bool {
	return !slices.ContainsFunc(img.Manifests, func(o privatemode.PlatformManifest) bool {
		return o.Kind != "attestation" && o.Platform == m.Platform && o.Descriptor.Digest != m.Descriptor.Digest
	})
}

// Judge compares the asked image: the only one, or those of the asked name. An
// equal digest of another image, or of a platform that does not run, is no
// match.
func (r *Pulled) Judge() {
	if r.Rebuilt.IsZero() {
		r.Verdict, r.Reason = "unchecked", "no rebuilt digest was given: add --hashes hashes-HOST.json"
		return
	}
	if len(r.Inspected) == 1 {
		r.Inspected[0].Asked = true
	}
	asked := 0
	for _, in := range r.Inspected {
		if !in.Asked {
			continue
		}
		asked++
		verdict, reason := in.judge()
		if verdict == "match" && (r.Verdict == "" || r.Verdict == "match") || verdict == "unchecked" && r.Verdict != "differs" || verdict == "differs" {
			r.Verdict, r.Reason = verdict, reason
		}
		if len(r.Inspected) > 1 && r.Reason == reason {
			r.Reason = strings.TrimSpace(strings.Join(in.Names, ", ")) + ": " + reason
		}
	}
	if asked == 0 {
		r.Verdict, r.Reason = "unchecked", fmt.Sprintf("none of the %d images is called %s; --name chooses another one", len(r.Inspected), r.Name)
	}
}

// noteUntold says why an Id that is not the rebuilt digest says nothing.
const noteUntold = "it may be that of the configuration"

func (in *Inspected) judge() (verdict, reason string) {
	counting, untold := 0, false
	others := slices.ContainsFunc(in.Digests, func(d kindedEntry) bool { return d.Counts && !d.Rebuilt })
	for _, d := range in.Digests {
		untold = untold || d.Note == noteUntold
		switch {
		case d.Rebuilt && d.Counts && in.untold && others:
			return "unchecked", "the rebuilt digest is among the lines, and other ones beside it: they do not say whether they are of one image; give the whole output of docker image inspect"
		case d.Rebuilt && d.Counts:
			return "match", fmt.Sprintf("the pulled image's digest (%s, %s) is the rebuilt one", d.Kind, d.Field)
		case d.Counts:
			counting++
		}
	}
	for _, d := range in.Digests {
		switch {
		case d.Rebuilt && d.Kind == string(privatemode.KindConfig):
			return "differs", "the rebuilt digest equals the configuration's digest: the hashes file holds another kind of digest than the image's"
		case d.Rebuilt:
			return "differs", fmt.Sprintf("the rebuilt digest is there (%s), but it is %s", d.Field, d.Note)
		}
	}
	if counting == 0 && untold {
		return "unchecked", "an Id alone does not say whether it is the digest of the image or of its configuration; give the whole output of docker image inspect"
	}
	if counting == 0 {
		return "unchecked", "the image has no digest of an index or a manifest: it was built or loaded here, not pulled"
	}
	return "differs", "none of the pulled image's digests is the rebuilt one: another release was pulled, or the rebuild differs"
}

// Out holds the rebuilt digest against the one that was pulled. Without a rebuilt
// one nothing is compared.
func (r *Pulled) Out(hashes, inspect string) *run.Out {
	out := run.NewOut()
	if r.Rebuilt.IsZero() {
		out.Problem(pipeline.LevelNote, "pulled-image", pipeline.Where{File: inspect}, r.Reason, "")
		return out
	}
	key, rebuilt := pipeline.NewKey("image", r.Name, "manifest"), pipeline.OfDigest(r.Rebuilt)
	pulled := pipeline.OfText("another digest")
	switch r.Verdict {
	case "match":
		pulled = rebuilt
	case "unchecked":
		out.Notes[key] = r.Reason
	default:
		out.Causes[key] = []pipeline.Cause{{Path: []string{string(key), inspect}, Note: r.Reason, Standing: pipeline.Suspected, Hint: "digest-kinds", Where: pipeline.Where{File: inspect}}}
		for _, in := range r.Inspected {
			for _, d := range in.Digests {
				if in.Asked && d.Counts && d.Digest != r.Rebuilt {
					pulled = pipeline.OfDigest(d.Digest)
				}
			}
		}
	}
	if r.Verdict != "unchecked" {
		// Another program wrote the list: whether it rebuilt, nobody here knows.
		out.Take(key, rebuilt, hashes)
	}
	out.Refer(key, pulled, pipeline.Where{File: inspect}, "image that was pulled")
	return out
}

// Text is the form for people.
func (r *Pulled) Text(w io.Writer, _ bool) {
	line := func(format string, args ...any) { show.Line(w, format, args...) }
	line("%s  %s", strings.ToUpper(r.Verdict), r.Reason)
	if !r.Rebuilt.IsZero() {
		line("  rebuilt %s  %s", r.Name, r.Rebuilt)
	}
	for _, in := range r.Inspected {
		word := "pulled"
		if !in.Asked && !r.Rebuilt.IsZero() {
			word = "not compared, another image:"
		}
		line("  %s %s", word, strings.TrimSpace(strings.Join(in.Names, ", ")+" "+in.Platform))
		for _, d := range in.Digests {
			mark, note := " ", ""
			if d.Rebuilt {
				mark = "="
			}
			if d.Note != "" && d.Kind != string(privatemode.KindConfig) {
				note = ", not compared: " + d.Note
			}
			line("  %s %-17s  %s  (%s%s)", mark, d.Kind, d.Digest, d.Field, note)
		}
	}
}

// Rebuilt is the digest of an image in a rebuild's list, by its exact name.
func Rebuilt(list []privatemode.ImageHash, file, name string) (digest.Digest, error) {
	var known []string
	for _, h := range list {
		if h.Name == name {
			return h.Digest, nil
		}
		known = append(known, h.Name)
	}
	return digest.Digest{}, &pipeline.InputError{Op: "find image", File: file, Err: fmt.Errorf("has no digest of %q", name), Hint: "it has " + strings.Join(known, ", ") + "; {name} chooses one"}
}
