package images

import (
	"cmp"
	"fmt"
	"io"
	"strings"

	"github.com/retally/retally/imagehash"
	"github.com/retally/retally/internal/show"
	"github.com/retally/retally/pipeline"
	"github.com/retally/retally/pipeline/run"
)

// Digests holds each image that was read against the digest by which its source
// names it. An image with a defect has no digest that counts, and of one that
// was not read whole nothing is known.
func Digests(reports []*imagehash.Report) *run.Out {
	out := run.NewOut()
	keys := map[pipeline.Key]int{}
	for _, rep := range reports {
		for _, p := range rep.AllProblems() {
			out.Problems = append(out.Problems, imageProblem(rep.Source, p))
		}
		for i := range rep.Images {
			img := &rep.Images[i]
			key, value := pipeline.NewKey("image", cmp.Or(img.Name, img.Source), "manifest"), pipeline.OfDigest(img.Digest)
			if value.IsNone() && len(img.Platforms) > 0 {
				// An archive of the docker save kind names its configuration.
				key, value = pipeline.NewKey("image", cmp.Or(img.Name, img.Source), "config"), pipeline.OfDigest(img.Platforms[0].Config)
			}
			if keys[key]++; keys[key] > 1 {
				key = pipeline.NewKey(append(key.Parts(), fmt.Sprint(keys[key]))...)
			}
			if value.IsNone() {
				continue // a defect says why
			}
			out.Refer(key, value, pipeline.Where{File: img.Source}, "image as its source names it")
			switch {
			case len(rep.Problems)+len(img.Problems) > 0:
				out.Notes[key] = "the image's bytes do not hold together"
			case !img.Complete():
				out.Notes[key] = imagehash.Unchecked([]imagehash.Image{*img})
			default:
				out.Measure(key, value, img.Source, fmt.Sprintf("%s recounted", show.Plural(len(img.Platforms), "platform", "platforms")))
			}
		}
	}
	return out
}

// DigestsText shows images with all their digests.
func DigestsText(w io.Writer, rows []imagehash.Image, verbose bool) {
	for i := range rows {
		r := &rows[i]
		verdict := "ok"
		switch {
		case len(r.Problems) > 0:
			verdict = "REFUSED"
		case !r.Complete():
			verdict = "UNCHECKED"
		}
		id := "no digest of its own"
		if !r.Digest.IsZero() {
			id = r.Digest.String()
		}
		show.Line(w, "%s  %s  %s", verdict, id, strings.TrimSpace(r.Source+" "+r.Name))
		for _, p := range r.Platforms {
			platformText(w, r, p, verbose)
		}
		for _, x := range r.Artifacts {
			show.Line(w, "  %s  %s", x.Kind, x.Digest)
		}
		for _, u := range r.Unread {
			show.Line(w, "  never read: %s", unreadText(u))
		}
		for _, u := range r.Unopened {
			show.Line(w, "  never opened: layer of %s, %s (%s): %s; its diffID and content were not checked", u.Platform, u.Digest, u.MediaType, u.Why)
		}
		if len(r.Unread) > 0 {
			show.Line(w, "  %s", imagehash.Unchecked(rows[i:i+1]))
		}
		for _, p := range r.Problems {
			show.Line(w, "  %s", problemText("problem", p))
		}
		for _, p := range r.Notes {
			show.Line(w, "  %s", problemText("note", p))
		}
	}
}

func platformText(w io.Writer, r *imagehash.Image, p imagehash.Platform, verbose bool) {
	if p.Digest != r.Digest {
		show.Line(w, "  %s  manifest %s", p.Platform, p.Digest)
	} else {
		show.Line(w, "  %s", p.Platform)
	}
	show.Line(w, "    config %s", p.Config)
	for _, l := range p.Layers {
		switch {
		case l.Unread:
			show.Line(w, "    layer  %s  %d bytes as the manifest says, never read", l.Digest, l.Size)
			continue
		case l.Digest.IsZero():
			show.Line(w, "    layer  diffID %s  %d bytes", l.DiffID, l.Size)
			continue
		}
		show.Line(w, "    layer  %s  %d bytes", l.Digest, l.Size)
		if verbose && l.DiffID != l.Digest {
			show.Line(w, "           diffID %s", l.DiffID)
		}
	}
}

func unreadText(u imagehash.Unread) string {
	s := u.Part
	if u.Platform != "" {
		s += " of " + u.Platform
	}
	if u.Part == "platform" {
		s = "platform " + u.Platform
	}
	return fmt.Sprintf("%s, %s, %d bytes (%s): %s", s, u.Digest, u.Size, u.Place, u.Why)
}

func problemText(word string, p imagehash.Problem) string {
	s := fmt.Sprintf("%s %s: %s", word, p.Code, p.Place)
	if p.Detail != "" {
		s += ": " + p.Detail
	}
	if p.Found != "" {
		s += ": found " + p.Found
	}
	if p.Expected != "" {
		s += ", expected " + p.Expected
	}
	return s
}

// Difference holds image B against image A. What the user asked to ignore is
// left out of what is compared, and named.
func Difference(d *imagehash.Difference, ignored []string) *run.Out {
	out := run.NewOut()
	key := pipeline.NewKey("image", cmp.Or(d.A.Name, d.A.Source), "manifest")
	got, want := pipeline.OfDigest(d.A.Digest), pipeline.OfDigest(d.B.Digest)
	switch {
	case d.Equal && got.IsNone():
		// Two docker archives: configuration and layers were compared.
		got, want = pipeline.OfText("configuration and layers"), pipeline.OfText("configuration and layers")
	case d.EqualIgnoring:
		key = pipeline.NewKey("image", cmp.Or(d.A.Name, d.A.Source), "manifest-ignoring", strings.Join(ignored, "+"))
		got, want = pipeline.OfText("all but what is ignored"), pipeline.OfText("all but what is ignored")
	case !d.Equal && (got.IsNone() || want.IsNone() || got.Equal(want)):
		got, want = pipeline.OfText("image of "+d.A.Source), pipeline.OfText("another image, of "+d.B.Source)
	}
	out.Measure(key, got, d.A.Source, "")
	out.Refer(key, want, pipeline.Where{File: d.B.Source}, "the other image")
	for _, c := range d.Causes {
		cause := pipeline.Cause{
			Path: append([]string{string(key)}, c.Path...), Expected: c.Expected, Actual: c.Actual, Standing: pipeline.Suspected, Hint: "image-digest",
			Note: strings.TrimSuffix(c.Kind+": "+c.Note, ": "), Where: pipeline.Where{File: d.B.Source},
		}
		if c.Standing == imagehash.Proved {
			cause.Standing = pipeline.Proved
		}
		out.Causes[key] = append(out.Causes[key], cause)
	}
	for _, n := range d.Notes {
		out.Problem(pipeline.LevelNote, "image-diff", pipeline.Where{}, n, "")
	}
	return out
}

// DifferenceText shows why two images differ.
func DifferenceText(w io.Writer, d *imagehash.Difference, ignored []string, verbose bool) {
	switch {
	case d.Equal:
		show.Line(w, "MATCH  the two images are the same")
	case d.EqualIgnoring:
		show.Line(w, "MATCH  but for what was ignored (%s)", strings.Join(ignored, ", "))
	case d.SameContent:
		show.Line(w, "DIFFERS  the same content, packed differently")
	default:
		show.Line(w, "DIFFERS  %s", show.Plural(len(d.Causes), "cause", "causes"))
	}
	show.Line(w, "  A %s  %s", sideID(d.A), d.A.Source)
	show.Line(w, "  B %s  %s", sideID(d.B), d.B.Source)
	if !d.Equal && len(d.Causes)+len(d.Ignored) > 0 {
		if d.Proved {
			show.Line(w, "  proved: undoing these causes on B gives A, digest for digest")
		} else {
			show.Line(w, "  not proved: undoing what is listed does not give A's digest exactly")
		}
	}
	for _, c := range d.Causes {
		causeText(w, c, 1, "", verbose)
	}
	for _, c := range d.Ignored {
		causeText(w, c, 1, "ignored: ", verbose)
	}
	for _, n := range d.Notes {
		show.Line(w, "  note: %s", n)
	}
}

func causeText(w io.Writer, c imagehash.Cause, depth int, prefix string, verbose bool) {
	s := fmt.Sprintf("%s%s%s: %s", strings.Repeat("  ", depth), prefix, strings.Join(c.Path, " > "), c.Kind)
	if c.Count > 1 {
		s += fmt.Sprintf(" (%d)", c.Count)
	}
	if c.Expected != "" || c.Actual != "" {
		s += fmt.Sprintf(": %s -> %s", show.Or(c.Expected, "(none)"), show.Or(c.Actual, "(none)"))
	}
	if c.Note != "" {
		s += ": " + c.Note
	}
	if depth == 1 {
		s += fmt.Sprintf(" [%s]", c.Standing)
	}
	if c.Hint != "" && depth == 1 {
		s += " (" + c.Hint + ")"
	}
	show.Line(w, "%s", s)
	const most = 5
	for i, child := range c.Children {
		if i == most && !verbose {
			show.Line(w, "%sand %d more (-v shows all)", strings.Repeat("  ", depth+1), c.Count-most)
			break
		}
		causeText(w, child, depth+1, "", verbose)
	}
	for i, part := range c.Inside {
		if i == most && !verbose {
			show.Line(w, "%sand %d more inside (-v shows all)", strings.Repeat("  ", depth+1), len(c.Inside)-most)
			break
		}
		causeText(w, part, depth+1, "", verbose)
	}
}

// sideID is what tells an image from another: its digest, if it has one.
func sideID(s imagehash.DiffSide) string {
	if s.Digest.IsZero() {
		return "no digest of its own"
	}
	return s.Digest.String()
}
