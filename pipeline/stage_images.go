package pipeline

import (
	"context"
	"fmt"
	"slices"

	"github.com/retally/retally/deployment"
	"github.com/retally/retally/privatemode"
)

// imagesStage gives the digests of the images that were rebuilt. Digests out
// of a hashes file are copied: another program printed them, nothing was
// recounted here.
var imagesStage = Stage{Name: "images", Version: 1, Run: runImages, Plan: planImages}

func planImages(c *Config) []PlanLine {
	if c.Hashes == "" {
		return []PlanLine{{Key: "image/*/manifest", Missing: "image digests", How: "hashes: hashes-<host>.json, from the vendor's rebuild script"}}
	}
	return []PlanLine{{Key: "image/*/manifest", From: c.Hashes}}
}

func runImages(ctx context.Context, in *In) (*Out, error) {
	out := new(Out)
	var pins []deployment.ImagePin
	if in.Config.Deployment != "" {
		d, err := readDeployment(ctx, in)
		if err != nil {
			return nil, err
		}
		pins = d.Images()
	}
	if in.Config.Hashes == "" {
		if len(pins) > 0 {
			in.Lack("image digests", "image/*/manifest", "rebuild the images (scripts/calculate-image-digests.sh) and add hashes: hashes-<host>.json")
		}
		out.Notes = map[Key]string{}
		names := imageNames(pins)
		for _, p := range pins {
			if p.Pinned {
				out.Notes[imageKey(names, p.Ref)] = "pinned, but not reproduced here"
			}
		}
		return out, nil
	}
	data, err := in.ReadFile(ctx, in.Config.Hashes, jsonLimit)
	if err != nil {
		return nil, err
	}
	hashes, err := privatemode.ParseHashes(in.Config.Hashes, data)
	if err != nil {
		return nil, err
	}
	names := imageNames(pins)
	out.Notes = map[Key]string{}
	var rebuilt []string // repositories that have a rebuilt sibling
	for _, h := range hashes {
		key := NewKey("image", h.Name, "manifest")
		for _, p := range pins {
			if p.Pinned && p.Ref.Name == h.Name {
				key = imageKey(names, p.Ref)
				rebuilt = append(rebuilt, vendorRepository(p.Ref))
				break
			}
		}
		out.Measurements = append(out.Measurements, Measurement{
			Key: key, Value: OfDigest(h.Digest), Basis: Copied, Inputs: []InputRef{FromFile(in.Config.Hashes)},
			Note: fmt.Sprintf("%s:%d", in.Config.Hashes, h.Line),
		})
		if out.Causes == nil {
			out.Causes = map[Key][]Cause{}
		}
		out.Causes[key] = []Cause{{
			Path: []string{string(key), in.Config.Hashes}, Actual: h.Digest.String(),
			Note:     "the rebuild gave another image than the deployment pins: other source, another tag, or a build that does not reproduce",
			Hint:     "image-digest",
			Standing: Suspected, Where: Where{File: in.Config.Hashes, Line: h.Line},
		}}
	}
	for _, p := range pins {
		if !p.Pinned {
			continue
		}
		key := imageKey(names, p.Ref)
		if slices.ContainsFunc(out.Measurements, func(m Measurement) bool { return m.Key == key }) {
			continue
		}
		if slices.Contains(rebuilt, vendorRepository(p.Ref)) {
			out.Notes[key] = "pinned, but not among the rebuilt images"
		} else {
			out.Notes[key] = "pinned, but not reproduced here (third party)"
		}
	}
	return out, nil
}
