package policies

import (
	"bytes"
	"slices"

	"github.com/retally/retally/deployment"
	"github.com/retally/retally/pipeline"
	"github.com/retally/retally/pipeline/stages/published"
)

// absence says why the bytes of an image cannot be used, "" if they can: they
// must be those that the images stage recounted, and those that are pinned.
func (r *policyRun) absence(text string) string {
	if why, ok := r.absent[text]; ok {
		return why
	}
	why := r.lookForImage(text)
	r.absent[text] = why
	return why
}

func (r *policyRun) lookForImage(text string) string {
	key, ref := r.imageKey(text)
	if key == "" {
		return "it is no image reference"
	}
	if _, ok := r.in.Config.Images[ref.Name]; !ok {
		return "no source of it is given"
	}
	m, ok := r.in.Get(key)
	switch {
	case !ok:
		return "what is given for it has no digest that holds"
	case m.Basis == pipeline.Copied:
		return "only its digest is known"
	case !ref.Digest.IsZero() && !m.Value.Equal(pipeline.OfDigest(ref.Digest)):
		return "what is given for it is another image, " + m.Value.String()
	}
	return ""
}

// imageKey is the key under which the images stage measured an image.
func (r *policyRun) imageKey(text string) (pipeline.Key, deployment.ImageRef) {
	ref, err := deployment.ParseImageRef(text)
	if err != nil {
		return "", ref
	}
	if _, pinned := r.names[ref.Full()+"@"+ref.Digest.String()]; pinned {
		return published.ImageKey(r.names, ref), ref
	}
	for _, p := range r.d.Images() {
		if p.Pinned && p.Ref.Name == ref.Name {
			return published.ImageKey(r.names, p.Ref), ref
		}
	}
	return pipeline.NewKey("image", ref.Name, "manifest"), ref
}

func (r *policyRun) pauseImage() string { return r.input.Settings.PauseImage() }

// pausePin is the reference that pinned settings make: every pod runs this
// image, and the deployment does not name it.
func (r *policyRun) pausePin() {
	key, ref := r.imageKey(r.pauseImage())
	if key == "" || ref.Digest.IsZero() || slices.ContainsFunc(r.d.Images(), func(p deployment.ImagePin) bool { return p.Pinned && published.ImageKey(r.names, p.Ref) == key }) {
		return
	}
	line := 0
	if before, _, ok := bytes.Cut(r.base.Data, []byte(ref.Text)); ok {
		line = 1 + bytes.Count(before, []byte("\n"))
	}
	r.out.References = append(r.out.References, pipeline.Reference{
		Key: key, Relation: pipeline.Equal, Want: pipeline.OfDigest(ref.Digest), Where: pipeline.Where{File: r.base.Name, Line: line},
		Words: "image " + ref.Full() + " (every pod's pause container)", Note: "pinned by the settings, but not reproduced here",
	})
}

func lastPart(image string) string {
	ref, err := deployment.ParseImageRef(image)
	if err != nil || ref.Name == "" {
		return "NAME"
	}
	return ref.Name
}
