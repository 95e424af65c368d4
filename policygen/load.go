package policygen

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/retally/retally/internal/digest"
)

// imageNeed is one distinct image with the place of its first use.
type imageNeed struct {
	text  string
	w     *workloadItem // nil for the pause image
	path  string
	ref   ImageReference
	image *image
	use   ImageUse
	err   error
}

// loadImages resolves every distinct image once and reads its user databases.
func (g *generator) loadImages(ctx context.Context) {
	if len(g.workloads) == 0 {
		return
	}
	needs, byText := g.imageNeeds()
	layers := &layerReads{g: g, byDigest: map[digest.Digest]*layerRead{}}
	g.parallel(ctx, len(needs), func(i int) {
		n := needs[i]
		if n.err == nil {
			n.image, n.use, n.err = layers.image(ctx, n.ref)
		}
	})
	if ctx.Err() != nil {
		return
	}
	g.images = make(map[string]*image, len(byText))
	for _, n := range needs {
		if n.err != nil {
			g.imageProblem(n)
			continue
		}
		g.uses = append(g.uses, n.use)
		for _, text := range byText[n] {
			g.images[text] = n.image
		}
	}
}

func (g *generator) imageProblem(n *imageNeed) {
	p := Problem{File: g.in.YAML.Name, Kind: Image, Message: n.err.Error()}
	if n.w == nil {
		p.File, p.Path = g.in.Settings.name, "cluster_config.pause_container_image"
	} else if at := locate(n.w.tree, n.path); at != nil {
		p.Line, p.Column, p.Path = at.line, at.column, n.path
	}
	g.problems = append(g.problems, p)
}

// imageNeeds lists the images of all containers; different texts for one
// image (busybox, docker.io/library/busybox:latest) are one need.
func (g *generator) imageNeeds() ([]*imageNeed, map[*imageNeed][]string) {
	var needs []*imageNeed
	seen := map[string]bool{}
	byRef := map[string]*imageNeed{}
	byText := map[*imageNeed][]string{}
	need := func(text string, w *workloadItem, path string) {
		if g.in.Rules.RequirePinned && w != nil {
			if ref, err := ParseImageReference(text); err == nil && !ref.Pinned() {
				w.add(locate(w.tree, path), path, Unpinned, "image %q has no digest, and the rules bind the image to its digest", text)
				w.hint("write it as name@sha256:..., or generate with image binding off")
			}
		}
		if seen[text] {
			return
		}
		seen[text] = true
		n := &imageNeed{text: text, w: w, path: path}
		n.ref, n.err = ParseImageReference(text)
		key := text
		if n.err == nil {
			key = n.ref.String()
			if n.ref.Pinned() {
				key = n.ref.Registry + "/" + n.ref.Repository + "@" + n.ref.Digest.String()
			}
		}
		if same := byRef[key]; same != nil {
			byText[same] = append(byText[same], text)
			return
		}
		byRef[key], byText[n] = n, []string{text}
		needs = append(needs, n)
	}
	for _, w := range g.workloads {
		for i := range w.pod.Containers {
			need(w.pod.Containers[i].Image, w, fmt.Sprintf("%s.containers[%d].image", w.podPath, i))
		}
		for i := range w.pod.InitContainers {
			need(w.pod.InitContainers[i].Image, w, fmt.Sprintf("%s.initContainers[%d].image", w.podPath, i))
		}
	}
	need(g.in.Settings.s.ClusterConfig.PauseContainerImage, nil, "")
	for _, w := range g.workloads {
		g.problems = append(g.problems, w.problems...)
		w.problems = nil
	}
	return needs, byText
}

// layerReads reads every distinct layer once, whoever asks first.
type layerReads struct {
	g        *generator
	mu       sync.Mutex
	byDigest map[digest.Digest]*layerRead
}

type layerRead struct {
	once   sync.Once
	files  LayerFiles
	diffID string
	state  string
	err    error
}

func (l *layerReads) image(ctx context.Context, ref ImageReference) (*image, ImageUse, error) {
	use := ImageUse{Reference: ref.Text, Pinned: ref.Pinned()}
	resolved, err := l.g.in.Images.Resolve(ctx, ref)
	if err != nil {
		return nil, use, fmt.Errorf("image %s: %w", ref.Text, err)
	}
	if resolved == nil {
		return nil, use, fmt.Errorf("image %s: not found", ref.Text)
	}
	use.Digest = resolved.Digest
	config, err := parseImageConfig(ref.Text, resolved.Config, l.g.in.Limits)
	if err != nil {
		var list Problems
		if errors.As(err, &list) && len(list) > 0 {
			err = errors.New(list[0].Message)
		}
		return nil, use, fmt.Errorf("image %s: %w", ref.Text, err)
	}
	if err := checkLayers(config, resolved.Layers); err != nil {
		return nil, use, fmt.Errorf("image %s: %w", ref.Text, err)
	}
	img := &image{imageConfig: config}
	use.Layers, err = l.users(ctx, img, resolved.Layers)
	if err != nil {
		return nil, use, fmt.Errorf("image %s: %w", ref.Text, err)
	}
	return img, use, nil
}

// users reads the layers from the top until both files are decided: a file of
// a layer replaces those below, so the rest cannot change the answer.
func (l *layerReads) users(ctx context.Context, img *image, layers []Layer) ([]LayerUse, error) {
	uses := make([]LayerUse, len(layers))
	profile := l.g.in.Profile
	unread := profile.SkipUsersWithGuestPull && l.g.in.Settings.s.ClusterConfig.GuestPull
	var passwd, group string
	for i := len(layers) - 1; i >= 0; i-- {
		layer := layers[i]
		uses[i] = LayerUse{Digest: layer.Digest, MediaType: layer.MediaType, DiffID: "unchecked"}
		switch {
		case compressionOf(layer.MediaType, profile.ReadAllLayers) == compressionSkip:
			uses[i].State = "skipped"
			continue
		case unread, passwd != "" && group != "" && !l.g.in.Full:
			uses[i].State = "not needed"
			continue
		}
		diffID := ""
		if len(img.diffIDs) == len(layers) {
			diffID = img.diffIDs[i]
		}
		files, use, err := l.read(ctx, layer, diffID)
		if err != nil {
			return nil, err
		}
		uses[i] = use
		passwd, group = cmp.Or(passwd, files.Passwd), cmp.Or(group, files.Group)
	}
	img.passwd, img.group = visible(passwd), visible(group)
	return uses, nil
}

func (l *layerReads) read(ctx context.Context, layer Layer, diffID string) (LayerFiles, LayerUse, error) {
	l.mu.Lock()
	r := l.byDigest[layer.Digest]
	first := r == nil
	if first {
		r = &layerRead{}
		l.byDigest[layer.Digest] = r
	}
	l.mu.Unlock()
	r.once.Do(func() {
		cache := l.g.in.Cache
		if cache != nil && !l.g.in.Full {
			if files, ok := cache.Get(layer.Digest); ok {
				r.files, r.state, r.diffID = files, "cached", "unchecked"
				return
			}
		}
		r.state = "read"
		r.files, r.diffID, r.err = scanLayer(ctx, layer, scanOptions{
			all: l.g.in.Profile.ReadAllLayers, full: l.g.in.Full, diffID: diffID, limits: l.g.in.Limits,
		})
		if cache != nil && r.err == nil {
			cache.Put(layer.Digest, r.files)
		}
	})
	use := LayerUse{Digest: layer.Digest, MediaType: layer.MediaType, DiffID: r.diffID, State: r.state}
	if !first {
		use.State = "shared"
	}
	return r.files, use, r.err
}
