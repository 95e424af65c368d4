package deployment

import (
	"fmt"
	"strings"

	"gopkg.in/yaml.v3"

	"github.com/retally/retally/internal/imageref"
	"github.com/retally/retally/internal/yamldoc"
)

// ImageRef is an image reference with its place. See internal/imageref for
// the grammar.
type ImageRef struct {
	imageref.Ref
	Line, Column int // of the reference; of the digest's fault see the problem
}

// A RefError says which part of an image reference is wrong.
type RefError = imageref.Error

// ParseImageRef reads a reference. On error (*RefError) the parts that could
// be read are returned beside it.
func ParseImageRef(text string) (ImageRef, error) {
	r, err := imageref.Parse(text)
	return ImageRef{Ref: r}, err
}

// collectImages lists the references and what is odd about them: those of the
// containers, and those in any other field of any object that a cluster could
// run.
func (d *Deployment) collectImages() {
	first := map[imageName]ImagePin{}
	seen := map[*yaml.Node]bool{}
	for _, w := range d.Workloads {
		for _, c := range w.Containers {
			n := yamldoc.Get(c.node, "image")
			text, ok := yamldoc.Text(n)
			if !ok || text == "" {
				d.reportAt(orNode(n, c.node), ImageMissing, w.ID(), c.Name, "no image")
				continue
			}
			if n.ShortTag() != "!!str" {
				d.reportAt(n, ShapeWrong, w.ID(), c.Name, "image is not a string")
			}
			seen[n] = true
			d.addImage(n, text, ImagePin{Object: w.Identity(), Workload: w.ID(), Container: c.Name, Init: c.Init, Ref: c.Image}, first)
		}
	}
	for _, o := range d.Objects {
		d.imagesBelow(o, o.Node, "", first, seen)
	}
}

type imageName struct{ name, tag string }

// imagesBelow finds images in fields that are no container's: volumes of
// images, and whatever a kind that is not known calls an image. Maps of the
// user's own words are not fields.
func (d *Deployment) imagesBelow(o Object, n *yaml.Node, at string, first map[imageName]ImagePin, seen map[*yaml.Node]bool) {
	for i, e := range yamldoc.Elems(n) {
		d.imagesBelow(o, e, fmt.Sprintf("%s[%d]", at, i), first, seen)
	}
	for _, p := range yamldoc.Pairs(n) {
		key, field := strings.ToLower(p.Key.Value), strings.TrimPrefix(at+"."+p.Key.Value, ".")
		if ownWords(o, field) {
			continue
		}
		if len(field) > maxField {
			d.reportAt(p.Key, ShapeWrong, o.ID(), "", "a field whose path has more than %d characters is not looked into", maxField)
			continue
		}
		value := p.Value
		isImage := key == "image" || key == "images" || !inert(o) && strings.HasSuffix(key, "image")
		if isImage && value.Kind == yaml.MappingNode && yamldoc.Get(value, "reference") != nil {
			value, field = yamldoc.Get(value, "reference"), field+".reference"
		}
		switch {
		case isImage && value.Kind == yaml.ScalarNode && !yamldoc.IsNull(value):
			d.imageIn(o, value, field, first, seen)
		case isImage && value.Kind == yaml.SequenceNode:
			for i, e := range yamldoc.Elems(value) {
				if e.Kind == yaml.ScalarNode && !yamldoc.IsNull(e) {
					d.imageIn(o, e, fmt.Sprintf("%s[%d]", field, i), first, seen)
				}
			}
		case isImage && value.Kind == yaml.MappingNode && !inert(o):
			d.reportAt(p.Key, ImageUnpinned, o.ID(), "", "%s is an image in parts, which is not read", field)
		}
		d.imagesBelow(o, p.Value, field, first, seen)
	}
}

// maxField bounds the path of a field, which every level makes longer.
const maxField = 1000

// ownWords holds for fields whose keys are names that the user chose.
func ownWords(o Object, field string) bool {
	switch last := field[strings.LastIndexByte(field, '.')+1:]; last {
	case "labels", "annotations", "matchLabels", "nodeSelector":
		return true
	case "data", "binaryData", "stringData":
		return field == last && (o.Kind == "ConfigMap" || o.Kind == "Secret")
	}
	return false
}

func (d *Deployment) imageIn(o Object, n *yaml.Node, field string, first map[imageName]ImagePin, seen map[*yaml.Node]bool) {
	if seen[n] {
		return
	}
	seen[n] = true
	text, _ := yamldoc.Text(n)
	ref, _ := ParseImageRef(text)
	ref.Line, ref.Column = d.src.find(n, 0, text)
	d.addImage(n, text, ImagePin{Object: o.Identity(), Workload: o.ID(), Field: field, Ref: ref}, first)
}

// addImage lists one reference.
func (d *Deployment) addImage(n *yaml.Node, text string, pin ImagePin, first map[imageName]ImagePin) {
	pin.Pinned = !pin.Ref.Digest.IsZero()
	d.images = append(d.images, pin)
	if _, err := imageref.Parse(text); err != nil {
		d.reportImage(n, pin, err.(*RefError))
		return
	}
	where := ""
	if pin.Field != "" {
		where = " in " + clip(pin.Field)
	}
	if !pin.Pinned {
		d.report(Problem{
			Code: ImageUnpinned, Workload: pin.Workload, Container: pin.Container, Line: pin.Ref.Line, Column: pin.Ref.Column,
			Msg: fmt.Sprintf("image %q%s has no digest, so it may be any image", clip(text), where), Hint: "append @sha256:<64 hex digits>",
		})
		return
	}
	k := imageName{pin.Ref.Full(), pin.Ref.Tag}
	if prev, dup := first[k]; !dup {
		first[k] = pin
	} else if prev.Ref.Digest != pin.Ref.Digest {
		d.report(Problem{
			Code: ImageTwoDigests, Workload: pin.Workload, Container: pin.Container, Line: pin.Ref.Line, Column: pin.Ref.Column,
			Msg: fmt.Sprintf("image %s has digest %s here and %s on line %d", tagged(pin.Ref), pin.Ref.Digest, prev.Ref.Digest, prev.Ref.Line),
		})
	}
}

func (d *Deployment) reportImage(n *yaml.Node, pin ImagePin, e *RefError) {
	line, col := pin.Ref.Line, pin.Ref.Column
	// The fault's own column, where the text stands in the file as it is.
	if l, c := d.src.find(n, 0, e.Text); l == line && c == col {
		col += len([]rune(e.Text[:min(e.Offset, len(e.Text))]))
	}
	d.report(Problem{
		Code: ImageMalformed, Workload: pin.Workload, Container: pin.Container, Line: line, Column: col,
		Msg: fmt.Sprintf("image %q: %s: %s", clip(e.Text), e.Part, e.Msg),
	})
}

func tagged(r ImageRef) string {
	if r.Tag == "" {
		return r.Full()
	}
	return r.Full() + ":" + r.Tag
}

func isAlnum(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
}

func all(s string, ok func(byte) bool) bool {
	for i := range len(s) {
		if !ok(s[i]) {
			return false
		}
	}
	return true
}

func isHex(s string) bool {
	return s != "" && all(s, func(c byte) bool {
		return '0' <= c && c <= '9' || 'a' <= c && c <= 'f' || 'A' <= c && c <= 'F'
	})
}

func orNode(n, other *yaml.Node) *yaml.Node {
	if n == nil {
		return other
	}
	return n
}
