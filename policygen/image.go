package policygen

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/jsondoc"
)

// Images finds images. For an index it gives the first entry whose platform is
// linux/amd64 whatever its variant, and an error where there is none. With a
// digest in the reference a tag counts for nothing. It is called at most once
// per distinct reference, from several goroutines at once.
type Images interface {
	Resolve(ctx context.Context, ref ImageReference) (*ResolvedImage, error)
}

// ResolvedImage is an image's config and layers.
type ResolvedImage struct {
	Digest digest.Digest // of the manifest; zero where it is not known
	Config []byte        // the config blob, its digest checked
	Layers []Layer       // bottom first
}

// Layer is one layer blob.
type Layer struct {
	Digest    digest.Digest
	MediaType string
	Size      int64
	// Open starts reading the blob as it is stored. Its digest need not have
	// been checked: the reader of the layer does that.
	Open func(ctx context.Context) (io.ReadCloser, error)
}

// LayerFiles are the user databases found in one layer. The zero value says
// that the layer has neither. A whiteout is the text WHITEOUT.
type LayerFiles struct {
	Passwd string `json:"passwd"`
	Group  string `json:"group"`
}

// whiteout marks a removed file; it is the reference's own mark, and a file of
// that very content is taken for one.
const whiteout = "WHITEOUT"

// LayerCache keeps what layers hold between runs, by the layer blob's digest.
// What it returns is trusted. It is used from several goroutines at once.
type LayerCache interface {
	Get(layer digest.Digest) (LayerFiles, bool)
	Put(layer digest.Digest, files LayerFiles)
}

// ImageUse says what was read of an image.
type ImageUse struct {
	Reference string        `json:"reference"`
	Digest    digest.Digest `json:"digest"`
	Pinned    bool          `json:"pinned"`
	Layers    []LayerUse    `json:"layers"`
}

// LayerUse says what was read of a layer.
type LayerUse struct {
	Digest digest.Digest `json:"digest"`
	// State: "read" (scanned, blob digest checked), "cached", "shared" (read for
	// another image of this run), "not needed" (the layers above decided),
	// "skipped" (a media type that the profile does not look into).
	State     string `json:"state"`
	MediaType string `json:"media_type"`
	// DiffID is "checked", "unchecked" (inflating stopped at the answer) or
	// "differs".
	DiffID string `json:"diff_id"`
}

// imageConfig is the part of an image config that policies use.
type imageConfig struct {
	User       string
	TTY        bool
	Env        []string
	HasEnv     bool
	Cmd        []string
	WorkingDir string
	Entrypoint []string
	Volumes    []string // sorted
	diffIDs    []string
}

// image is everything policies need of an image.
type image struct {
	imageConfig
	passwd, group string
}

type configSchema struct {
	Architecture string `k:"architecture,req"`
	Config       struct {
		User       *string           `k:"User"`
		TTY        *bool             `k:"Tty"`
		Env        *[]string         `k:"Env"`
		Cmd        []string          `k:"Cmd"`
		WorkingDir *string           `k:"WorkingDir"`
		Entrypoint []string          `k:"Entrypoint"`
		Volumes    map[string]*value `k:"Volumes"`
	} `k:"config,req"`
	RootFS struct {
		Type    string   `k:"type,req"`
		DiffIDs []string `k:"diff_ids,req"`
	} `k:"rootfs,req"`
}

// parseImageConfig reads an image config (OCI image-spec, config.md).
func parseImageConfig(name string, data []byte, limits Limits) (imageConfig, error) {
	var c imageConfig
	doc, err := jsondoc.Parse(data, jsondoc.Limits{Bytes: limits.JSONBytes})
	if err != nil {
		p := jsonProblem(name, err)
		p.Kind, p.Message = Image, "image config: "+p.Message
		return c, Problems{p}
	}
	var s configSchema
	d := decoder{collector: &collector{file: name}, json: true}
	d.decode(fromJSON(doc, newLineIndex(data)), "", &s)
	if len(d.problems) > 0 {
		for i := range d.problems {
			d.problems[i].Kind = Image
			d.problems[i].Message = "image config: " + d.problems[i].Message
		}
		return c, d.problems
	}
	c.Cmd, c.Entrypoint, c.diffIDs = s.Config.Cmd, s.Config.Entrypoint, s.RootFS.DiffIDs
	if s.Config.User != nil {
		c.User = *s.Config.User
	}
	if s.Config.TTY != nil {
		c.TTY = *s.Config.TTY
	}
	if s.Config.WorkingDir != nil {
		c.WorkingDir = *s.Config.WorkingDir
	}
	if s.Config.Env != nil {
		c.Env, c.HasEnv = *s.Config.Env, true
	}
	for v := range s.Config.Volumes {
		c.Volumes = append(c.Volumes, v)
	}
	slices.Sort(c.Volumes)
	return c, nil
}

// visible is what a container sees of a file whose topmost layer text is s: a
// whiteout hides it. An empty file in an upper layer hides nothing (kata's
// rule), so s is the topmost text that is not empty.
func visible(s string) string {
	if s == whiteout {
		return ""
	}
	return s
}

const (
	compressionNone = iota
	compressionGzip
	compressionZstd
	compressionSkip
)

// compressionOf decides by media type how a layer is read. kata looks only
// into the two gzip types.
func compressionOf(mediaType string, all bool) int {
	mediaType, _, _ = strings.Cut(mediaType, ";")
	switch mediaType {
	case "application/vnd.docker.image.rootfs.diff.tar.gzip", "application/vnd.oci.image.layer.v1.tar+gzip":
		return compressionGzip
	}
	if !all {
		return compressionSkip
	}
	switch mediaType {
	case "application/vnd.oci.image.layer.v1.tar+zstd", "application/vnd.docker.image.rootfs.diff.tar.zstd":
		return compressionZstd
	case "application/vnd.oci.image.layer.v1.tar", "application/vnd.docker.image.rootfs.diff.tar":
		return compressionNone
	}
	return compressionSkip
}

// checkLayers refuses a manifest with more gzip layers than diff ids.
func checkLayers(c imageConfig, layers []Layer) error {
	n := 0
	for _, l := range layers {
		if compressionOf(l.MediaType, false) == compressionGzip {
			n++
		}
	}
	if n > len(c.diffIDs) {
		return fmt.Errorf("%d gzip layers but only %d diff ids in the image config", n, len(c.diffIDs))
	}
	return nil
}
