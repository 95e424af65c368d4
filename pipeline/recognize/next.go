package recognize

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/retally/retally/internal/show"
	"github.com/retally/retally/pipeline"
	"github.com/retally/retally/pipeline/config"
	"github.com/retally/retally/pipeline/run"
	"github.com/retally/retally/privatemode"
)

// Step is what to do now: a command that runs as it stands, because all that it
// names is there, and what it is for.
type Step struct{ Command, Why string }

// Next proposes the one thing to do now with the files that are there; nothing
// after a match. What would have to be brought first, More says.
// args are the paths as they were given.
func (s *Subject) Next(args []string, outcome pipeline.Outcome) Step {
	at, c := words(args), s.Config
	folder := s.folder(args)
	switch {
	case s.ConfigInput != nil:
		return Step{"retally run -f " + s.word(s.ConfigInput.File), "the same, which also writes the manifest"}
	case s.Checkout != nil && !s.rebuilt():
		return Step{fmt.Sprintf("(cd %s && %s) && retally check %s", s.word(s.checkoutDir), s.Checkout.CalculateDigests, at), "the guide's step 1: Nix builds the images from source, which takes long"}
	case s.Checkout != nil && !s.generated() && s.Checkout.GenerateManifest != "":
		return Step{fmt.Sprintf("(cd %s && %s) && retally check %s", s.word(s.checkoutDir), s.Checkout.GenerateManifest, at), "the guide's step 3: makes the manifest from the deployment"}
	case s.Made != "":
		return Step{"retally compare " + s.word(s.Made) + " " + s.word(c.Against), "the guide's last step: the manifest made here against the one that the proxy fetched"}
	case s.Inspect != "" && s.hashed(proxyImage):
		return Step{fmt.Sprintf("retally proxy-image --inspect %s --hashes %s", s.word(s.Inspect), s.word(c.Hashes)), "the image of the proxy that runs, against the one that was built here"}
	case s.Inspect != "":
		return Step{"retally proxy-image --inspect " + s.word(s.Inspect), "the digests of the image that was pulled"}
	case s.Checkout != nil && s.Workspace == nil:
		if step := s.initStep(folder, "privatemode"); step.Command != "" {
			return step
		}
	case s.Workspace != nil && s.Checkout == nil:
		return Step{"retally proxy-log " + s.word(s.workspaceDir), "every manifest that the proxy fetched, and when"}
	case len(c.Disks) > 0 && !c.PublishedDisks():
		names := s.kind(KindModelDir)
		return Step{fmt.Sprintf("retally disk %s --normalize", s.word(names[0])), "the same disk with the modes that a plain checkout has, whatever umask made this one"}
	case len(c.Images) > 0 && c.Deployment == "":
		return Step{"retally image digest " + s.list(slices.Concat(s.kind(KindImage), s.kind(KindArchive))), "every platform and layer of it"}
	case c.Against != "" && c.Deployment == "":
		return Step{"retally manifest check " + s.word(c.Against), "whether a Coordinator would take it"}
	case outcome != pipeline.OutcomeMatch && c.Deployment != "":
		if step := s.initStep(folder, ""); step.Command != "" {
			return step
		}
	}
	if outcome == pipeline.OutcomeMatch {
		return Step{}
	}
	return Step{"retally check " + at + " -v", "the same with every value and digest whole"}
}

// More is what could be brought to check more, with the command that takes it.
func (s *Subject) More(args []string) []pipeline.Lack {
	at, c := s.Names(args), s.Config
	if s.ConfigInput != nil {
		return nil
	}
	var out []pipeline.Lack
	add := func(what, keys, how string) { out = append(out, pipeline.Lack{What: what, For: keys, How: how}) }
	switch {
	case s.Checkout != nil:
		if s.Workspace == nil {
			add("the workspace of the proxy that you use, the guide's last step", "manifest/bytes", "retally check "+words(args)+" WORKSPACE")
		}
		if s.Inspect == "" {
			add("the proxy's image as docker knows it", "proxy/image", "docker inspect IMAGE > inspect.json, then retally check "+words(args)+" inspect.json")
		}
	case len(c.Disks) > 0 && !c.PublishedDisks():
		add("the published root hashes", "disk/*/root", "retally check "+at+" models.yaml")
	case len(c.Images) > 0 && c.Deployment == "":
		add("the deployment that pins the image", "image/*/manifest", "retally check "+at+" DEPLOYMENT.yaml")
	case c.Deployment != "" && c.Hashes == "" && len(c.Images) == 0:
		add("the digests of your own rebuild", "image/*/manifest", "retally check "+at+" hashes-HOST.json")
	case c.Deployment != "" && c.Against == "":
		add("the published manifest", "policy/**", "retally check "+at+" MANIFEST")
	case c.Against != "" && c.Deployment == "":
		add("the deployment that the manifest was generated from", "policy/**", "retally check "+at+" DEPLOYMENT.yaml")
	case c.PublishedDisks() && c.Deployment == "":
		add("the deployment that mounts these disks", "disk/*/root", "retally check "+at+" DEPLOYMENT.yaml")
	case c.Hashes != "" && c.Deployment == "":
		add("the deployment that pins these images", "image/*/manifest", "retally check "+at+" DEPLOYMENT.yaml")
	}
	return out
}

// rebuilt reports whether digests of an own build of the checkout are at hand.
func (s *Subject) rebuilt() bool { return s.Config.Hashes != "" || len(s.Config.Images) > 0 }

// generated reports whether the manifest that the checkout's script makes is
// there.
func (s *Subject) generated() bool {
	return slices.Contains(s.Checkout.Manifests, "manifest.json")
}

// proxyImage is the name that proxy-image looks for where none is given.
const proxyImage = "privatemode-proxy"

// hashed reports whether the digests of a rebuild name an image.
func (s *Subject) hashed(image string) bool {
	if s.Config.Hashes == "" {
		return false
	}
	list, err := run.Parsed(context.Background(), s.Reader, s.Config.Hashes, config.YAMLLimit, privatemode.ParseHashes)
	return err == nil && slices.ContainsFunc(list, func(h privatemode.ImageHash) bool { return h.Name == image })
}

// folder is the one folder that was given, "" if it was something else.
func (s *Subject) folder(args []string) string {
	if len(args) != 1 || len(s.Found) == 1 && s.Found[0].Named {
		return ""
	}
	return args[0]
}

// initStep proposes a configuration of a folder that has none.
func (s *Subject) initStep(folder, profile string) Step {
	if folder == "" || slices.ContainsFunc(s.Problems, func(p pipeline.Problem) bool { return p.Code == "config-not-obeyed" }) {
		return Step{}
	}
	// Whether a configuration can be made of it, only making it shows.
	if _, err := Init(s, profile); err != nil {
		return Step{}
	}
	command := "retally init "
	if profile != "" {
		command += "--profile " + profile + " "
	}
	return Step{command + show.Word(folder), "writes retally.yaml, which describes a full run"}
}

func (s *Subject) kind(k Kind) []string {
	var out []string
	for _, f := range s.Found {
		if f.Kind == k {
			out = append(out, f.Name)
		}
	}
	return out
}

// word is a file's name as a shell takes it where the user stands.
func (s *Subject) word(name string) string {
	return show.Word(filepath.ToSlash(filepath.Join(s.Root, filepath.FromSlash(name))))
}

func (s *Subject) list(names []string) string {
	quoted := make([]string, len(names))
	for i, name := range names {
		quoted[i] = s.word(name)
	}
	return strings.Join(quoted, " ")
}

// Names names the files that were found so that more can be added: a folder
// cannot be combined with single files that live elsewhere.
func (s *Subject) Names(args []string) string {
	if len(args) > 1 || len(s.Found) == 0 {
		return words(args)
	}
	var names []string
	for _, f := range s.Found {
		names = append(names, f.Name)
	}
	return s.list(names)
}

// words are paths as a shell takes them.
func words(paths []string) string {
	quoted := make([]string, len(paths))
	for i, p := range paths {
		quoted[i] = show.Word(p)
	}
	return strings.Join(quoted, " ")
}
