package privatemode

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/jsondoc"
)

// The texts that people keep beside the whole output of inspect: what --format
// prints of RepoDigests and Id (docs.docker.com, "Format command and log output"),
// the table of docker images --digests, and what docker pull says at its end.

// maxInspectText bounds such a text in bytes.
const maxInspectText = 1 << 20

// textForms reads the forms that are no JSON document, nil if it is none of them.
func (r *inspectReader) textForms() []InspectedImage {
	if len(r.data) > maxInspectText {
		return nil
	}
	var lines []textLine
	for i, s := range strings.Split(string(r.data), "\n") {
		if s = strings.TrimSpace(s); s != "" {
			lines = append(lines, textLine{i + 1, s})
		}
	}
	if len(lines) == 0 || len(lines) > maxInspected {
		return nil
	}
	if images := r.table(lines); images != nil {
		return images
	}
	if images := r.pullOutput(lines); images != nil {
		return images
	}
	var out []InspectedImage
	for _, l := range lines {
		img, ok := r.textLine(l)
		if !ok {
			if len(r.faults) == 0 {
				return nil
			}
			return []InspectedImage{}
		}
		out = join(out, img)
	}
	return out
}

// textLine is a line with its number.
type textLine struct {
	line int
	text string
}

func (r *inspectReader) fault(l textLine, path, format string, args ...any) {
	r.faults.add(Problem{File: r.file, Line: l.line, Column: 1, Path: path, Msg: fmt.Sprintf(format, args...)})
}

// textLine reads what --format printed of one image.
func (r *inspectReader) textLine(l textLine) (InspectedImage, bool) {
	text := strings.Trim(l.text, "'")
	if strings.HasPrefix(text, `"`) || strings.HasPrefix(text, "{") || strings.HasPrefix(text, `["`) {
		doc, err := jsondoc.Parse([]byte(text), jsondoc.Limits{Bytes: maxInspectText})
		if err != nil {
			return InspectedImage{}, false
		}
		if doc.Kind == jsondoc.Object {
			img, ok := r.image(doc)
			img.Line = l.line
			return img, ok
		}
		return r.value(doc, l)
	}
	if inner, ok := strings.CutPrefix(text, "["); ok {
		if inner, ok = strings.CutSuffix(inner, "]"); !ok {
			return InspectedImage{}, false
		}
		if text = strings.TrimSpace(inner); text == "" {
			r.fault(l, "RepoDigests", "is empty: the image was built or loaded here, not pulled")
			return InspectedImage{}, false
		}
	}
	return r.references(strings.FieldsFunc(text, func(c rune) bool { return c == ' ' || c == '\t' || c == ',' }), l)
}

// value reads a JSON string, or an array of them.
func (r *inspectReader) value(doc *jsondoc.Value, l textLine) (InspectedImage, bool) {
	list := []*jsondoc.Value{doc}
	if doc.Kind == jsondoc.Array {
		list = doc.Elems
	}
	var words []string
	for _, v := range list {
		if v.Kind != jsondoc.String {
			return InspectedImage{}, false
		}
		words = append(words, v.Text)
	}
	return r.references(words, l)
}

var bareHex = regexp.MustCompile(`^[0-9a-f]{64}$`)

// references reads REPOSITORY@DIGEST words, or one digest alone.
func (r *inspectReader) references(words []string, l textLine) (InspectedImage, bool) {
	img := InspectedImage{Line: l.line}
	if len(words) == 1 && !strings.Contains(words[0], "@") {
		word := words[0]
		if bareHex.MatchString(word) {
			word = "sha256:" + word // as podman writes an Id
		}
		if d, err := digest.Parse(word); err == nil && d.String() == word {
			img.ID = ImageDigest{KindUntold, d, "Id", l.line}
			return img, true
		}
		return img, false
	}
	for i, word := range words {
		repo, dig, ok := strings.Cut(word, "@")
		if !ok || repo == "" {
			if i > 0 {
				r.fault(l, fmt.Sprintf("RepoDigests[%d]", i), "%q is not of the form REPOSITORY@sha256:<64 hex digits>", clip(word))
			}
			return img, false
		}
		d, err := digest.Parse(dig)
		if err == nil && d.String() != dig {
			err = fmt.Errorf("digest %q has upper-case digits", clip(dig))
		}
		if err != nil {
			r.fault(l, fmt.Sprintf("RepoDigests[%d]", i), "%v", err)
			return img, false
		}
		img.RepoDigests = append(img.RepoDigests, RepoDigest{repo, ImageDigest{KindTarget, d, fmt.Sprintf("RepoDigests[%d]", i), l.line}})
	}
	return img, len(words) > 0
}

// join adds what another line says. Lines of one repository may be of one image,
// whose digests were printed one below the other, or of several.
func join(list []InspectedImage, img InspectedImage) []InspectedImage {
	repos := func(i *InspectedImage) []string {
		var out []string
		for _, d := range i.RepoDigests {
			out = append(out, d.Repository)
		}
		return out
	}
	if img.Tool == "" && len(img.RepoDigests) > 0 {
		for i := range list {
			old := &list[i]
			if old.Tool == "" && len(old.RepoDigests) > 0 && slices.ContainsFunc(repos(old), func(s string) bool { return slices.Contains(repos(&img), s) }) {
				old.RepoDigests, old.Untold = append(old.RepoDigests, img.RepoDigests...), true
				return list
			}
		}
	}
	return append(list, img)
}

var columns = regexp.MustCompile(`\s{2,}`)

// table reads what docker images --digests or podman images --digests prints.
func (r *inspectReader) table(lines []textLine) []InspectedImage {
	head := columns.Split(lines[0].text, -1)
	repo, tag, dig, id := slices.Index(head, "REPOSITORY"), slices.Index(head, "TAG"), slices.Index(head, "DIGEST"), slices.Index(head, "IMAGE ID")
	if repo != 0 {
		return nil
	}
	if dig < 0 {
		r.fault(lines[0], "", "the table has no column DIGEST: docker images prints one where it is asked for digests")
		return []InspectedImage{}
	}
	out := []InspectedImage{}
	for _, l := range lines[1:] {
		cells := columns.Split(l.text, -1)
		if len(cells) <= max(repo, tag, dig) {
			r.fault(l, "", "has %d columns, the head has %d", len(cells), len(head))
			return []InspectedImage{}
		}
		img := InspectedImage{Line: l.line}
		name := cells[repo]
		if name != "<none>" && tag >= 0 && cells[tag] != "<none>" {
			img.RepoTags = []string{name + ":" + cells[tag]}
		}
		if text := cells[dig]; text != "<none>" {
			d, err := digest.Parse(text)
			if err == nil && d.String() != text {
				err = fmt.Errorf("digest %q has upper-case digits", clip(text))
			}
			if err != nil {
				r.fault(l, "DIGEST", "%v", err)
				return []InspectedImage{}
			}
			img.RepoDigests = []RepoDigest{{name, ImageDigest{KindTarget, d, "DIGEST", l.line}}}
		}
		if id >= 0 && id < len(cells) {
			if d, err := digest.Parse(cells[id]); err == nil {
				img.ID = ImageDigest{KindUntold, d, "IMAGE ID", l.line}
			}
		}
		out = append(out, img)
	}
	if len(out) == 0 {
		r.fault(lines[0], "", "the table lists no image")
	}
	return out
}

// pullOutput reads the end of what docker pull says: the digest that the registry
// served, and the reference that was asked for.
func (r *inspectReader) pullOutput(lines []textLine) []InspectedImage {
	at := slices.IndexFunc(lines, func(l textLine) bool { return strings.HasPrefix(l.text, "Digest: ") })
	if at < 0 || slices.IndexFunc(lines[at+1:], func(l textLine) bool { return strings.HasPrefix(l.text, "Digest: ") }) >= 0 {
		return nil
	}
	last := lines[len(lines)-1]
	text := strings.TrimPrefix(lines[at].text, "Digest: ")
	d, err := digest.Parse(text)
	if err != nil || d.String() != text {
		r.fault(lines[at], "Digest", "%q is no digest", clip(text))
		return []InspectedImage{}
	}
	if at == len(lines)-1 || strings.ContainsAny(last.text, " \t") {
		r.fault(last, "", "the reference that was pulled is not in the last line")
		return []InspectedImage{}
	}
	repo, _, _ := strings.Cut(last.text, "@")
	if colon := strings.LastIndexByte(repo, ':'); colon > strings.LastIndexByte(repo, '/') {
		repo = repo[:colon]
	}
	return []InspectedImage{{Line: lines[at].line, RepoTags: []string{last.text}, RepoDigests: []RepoDigest{{repo, ImageDigest{KindTarget, d, "Digest", lines[at].line}}}}}
}
