package recognize

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"gopkg.in/yaml.v3"

	"github.com/retally/retally/internal/show"
	"github.com/retally/retally/pipeline"
	"github.com/retally/retally/pipeline/config"
	"github.com/retally/retally/pipeline/run"
)

// Init writes a commented retally.yaml for what was found.
func Init(s *Subject, profile string) ([]byte, error) {
	if !slices.Contains([]string{"", "privatemode"}, profile) {
		return nil, &pipeline.InputError{Op: "init", File: s.Root, Err: fmt.Errorf("unknown profile %q", profile), Hint: "known: privatemode, secretvm"}
	}
	if profile == "privatemode" && s.Checkout == nil {
		return nil, &pipeline.InputError{Op: "init", File: s.Root, Err: fmt.Errorf("is not a checkout of Privatemode's public repository"), Hint: "give the folder that git clone made, or leave out --profile"}
	}
	c := s.Config
	var b bytes.Buffer
	line := func(key, value, comment, example string) {
		if value == "" {
			fmt.Fprintf(&b, "\n# %s\n# %s: %s\n", comment, key, example)
			return
		}
		fmt.Fprintf(&b, "\n# %s\n%s: %s\n", comment, key, scalar(value))
	}
	b.WriteString("# What retally recounts here. `retally plan` shows what follows from it,\n# `retally run` does it. Names start from this file's folder.\nversion: 1\n")
	line("deployment", c.Deployment, "The Kubernetes YAML that pins images and disks.", "deployment.yaml")
	line("models", c.Models, "The published root hashes of the model disks.", "models.yaml")
	if len(c.StorageClasses) > 0 {
		b.WriteString("\n# Where releases without a models.yaml published the root hashes.\nstorage_classes:\n")
		for _, f := range c.StorageClasses {
			fmt.Fprintf(&b, "  - %s\n", scalar(f))
		}
	}
	line("hashes", c.Hashes, "Image digests of your own rebuild (scripts/calculate-image-digests.sh).", "hashes-HOST.json")
	if err := initFolders(&b, s); err != nil {
		return nil, err
	}
	b.WriteString("\n# The runtime policies of the deployment: the settings of the generator, the\n# generator's version (retally, kata-4.1, contrast-1.20, kata-3.28) and its rules;\n# without rules, retally's own are taken. images must name every image, the pause\n# image of the settings too.\n")
	if err := initPolicies(&b, s, profile); err != nil {
		return nil, err
	}
	version := ""
	if s.Checkout != nil {
		version = s.Checkout.Version
	}
	base, against := "", c.Against
	if s.Checkout != nil && against != "" {
		// In a checkout, manifest.json is what the vendor's script generated.
		base, against = against, ""
	}
	if base != "" {
		fmt.Fprintf(&b, "\n# The manifest as generated from the deployment. Privatemode's script edits it\n# after generation; if base is the file before these edits, say which plan to apply.\nmanifest:\n  base: %s\n", scalar(base))
		if version != "" {
			fmt.Fprintf(&b, "  # adjust: profile:privatemode@%s\n", version)
		}
	} else if release := s.release(profile); release != "" {
		b.WriteString(release)
	} else {
		b.WriteString("\n# How the manifest is made: base is what `contrast generate` wrote, adjust the\n# plan of the edits after it.\n# manifest:\n#   base: manifest.json\n")
		if version != "" {
			fmt.Fprintf(&b, "#   adjust: profile:privatemode@%s\n", version)
		} else {
			b.WriteString("#   adjust: adjustments.yaml\n")
		}
	}
	if profile == "privatemode" {
		line("proxy", s.Inspect, "The proxy's own image: what `docker inspect IMAGE` prints of it.", "proxy-inspect.json")
		initMachines(&b)
	}
	line("against", against, "The published manifest to compare with, for instance the one that\n# `retally proxy-log WORKSPACE` names, or the WORKSPACE itself.", "manifest.published.json")
	b.WriteString("\n# Keys that may stay unchecked or rest on copied values (globs). Each is shown in\n# the report.\n# allow_unchecked:\n#   - image/vllm-openai/manifest\n")
	if _, err := run.ParseConfig(s.table, config.FileName, b.Bytes()); err != nil {
		hint := "give a folder with a deployment YAML, a models file, image layouts, hashes or a manifest"
		if len(c.Evidence)+len(c.Platforms) > 0 || c.Registry != "" || c.Compose != "" {
			hint = "a SecretVM's files: retally init --profile secretvm"
		}
		return nil, &pipeline.InputError{Op: "init", File: s.Root, Err: fmt.Errorf("nothing was found that a configuration could start from"), Hint: hint}
	}
	return b.Bytes(), nil
}

// initFolders writes the images and model directories that were found.
func initFolders(b *bytes.Buffer, s *Subject) error {
	images, err := s.layouts()
	if err != nil {
		return err
	}
	b.WriteString("\n# The images that were built or copied here: every byte of them is read. A name is\n# that of the repository in the deployment.\n")
	if len(images) == 0 {
		b.WriteString("# images:\n#   NAME: {oci: result/NAME}\n")
	} else {
		b.WriteString("images:\n")
		for _, name := range slices.Sorted(maps.Keys(images)) {
			fmt.Fprintf(b, "  %s: {oci: %s}\n", scalar(name), scalar(images[name]))
		}
	}
	b.WriteString("\n# The models whose disks are computed from their files; normalize takes the modes\n# of a checkout.\n")
	if len(s.Config.Disks) == 0 {
		b.WriteString("# disks:\n#   NAME: {dir: models/NAME, normalize: true}\n")
		return nil
	}
	b.WriteString("disks:\n")
	for _, name := range slices.Sorted(maps.Keys(s.Config.Disks)) {
		fmt.Fprintf(b, "  %s: {dir: %s, normalize: true}\n", scalar(name), scalar(s.Config.Disks[name].Dir))
	}
	return nil
}

// layouts are the image layouts in the folder and one level below: builds leave
// them side by side in a folder of their own. Two with one name are an error:
// which of them is meant, nobody but the user knows.
func (s *Subject) layouts() (map[string]string, error) {
	out := map[string]string{}
	for name, image := range s.Config.Images {
		if image.OCI != "" {
			out[name] = image.OCI
		}
	}
	list := func(dir string) ([]os.DirEntry, error) {
		entries, err := os.ReadDir(s.Reader.Path(dir))
		if err == nil && len(entries) > foldersAtMost {
			entries = nil
		}
		return entries, err
	}
	top, err := list(".")
	if err != nil {
		return nil, pipeline.NewInputError("list", s.Root, err)
	}
	for _, e := range top {
		if !e.IsDir() || strings.HasPrefix(e.Name(), ".") || isLayout(s.Reader.Path(e.Name())) {
			continue
		}
		below, err := list(e.Name())
		if err != nil {
			continue // not readable: nothing that could be named
		}
		for _, f := range below {
			dir := path.Join(e.Name(), f.Name())
			if !isLayout(s.Reader.Path(dir)) {
				continue
			}
			if other, known := out[f.Name()]; known && other != dir {
				return nil, &pipeline.InputError{Op: "init", File: dir, Err: fmt.Errorf("two image layouts are called %s: %s and %s", f.Name(), other, dir), Hint: "move one away, or name the right one in retally.yaml yourself"}
			}
			out[f.Name()] = dir
		}
	}
	return out, nil
}

// scalar writes a text as a YAML scalar that is that text and nothing else
// wherever it stands, in a flow mapping too.
func scalar(s string) string {
	plain := s != "" && strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789./_-") == "" && !strings.HasPrefix(s, "-")
	var back any
	if plain && yaml.Unmarshal([]byte(s), &back) == nil && back == any(s) {
		return s
	}
	out, err := yaml.Marshal(&yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: s, Style: yaml.DoubleQuotedStyle})
	if err != nil {
		return fmt.Sprintf("%q", s)
	}
	return strings.TrimSuffix(string(out), "\n")
}

// InitFolder recognizes what a folder holds and writes a configuration for it.
// now is the day that a machine's evidence is judged at.
func InitFolder(ctx context.Context, table []run.Stage, dir, profile string, now time.Time) (data []byte, found []Found, title string, err error) {
	if profile == "secretvm" {
		data, found, err = InitSecretVM(ctx, table, dir, now.UTC().Truncate(24*time.Hour))
		return data, found, show.Plural(len(found), "file of a SecretVM", "files of a SecretVM"), err
	}
	s, err := Look(ctx, table, []string{dir}, nil)
	if err != nil {
		return nil, nil, "", err
	}
	defer s.Close()
	data, err = Init(s, profile)
	return data, s.Found, s.Title, err
}
