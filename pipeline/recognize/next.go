package recognize

import (
	"fmt"
	"path/filepath"
	"strings"

	"github.com/retally/retally/internal/show"
	"github.com/retally/retally/pipeline"
)

// Next proposes the one thing to do now, with the real names: a command, "" where
// none follows. args are the paths as they were given.
func (s *Subject) Next(args []string, outcome pipeline.Outcome) string {
	at, c := words(args), s.Config
	switch {
	case s.ConfigInput != nil:
		return "retally run -f " + show.Word(filepath.ToSlash(filepath.Join(s.Root, s.ConfigInput.File))) + ", which also writes the manifest"
	case s.Checkout != nil && c.Hashes == "":
		return fmt.Sprintf("(cd %s && scripts/calculate-image-digests.sh), then retally check %s", show.Word(s.Root), at)
	case s.Checkout != nil && c.Against == "":
		return fmt.Sprintf("retally init --profile privatemode %s, then retally run -f %s --against WORKSPACE, the proxy's", show.Word(s.Root), show.Word(filepath.ToSlash(filepath.Join(s.Root, "retally.yaml"))))
	case len(c.Disks) > 0 && c.Models == "":
		return fmt.Sprintf("retally check %s models.yaml, with the published root hashes; or retally disk %s --normalize", at, at)
	case len(c.Images) > 0 && c.Deployment == "":
		return fmt.Sprintf("retally check %s DEPLOYMENT.yaml, with the deployment that pins the image", at)
	case c.Deployment != "" && c.Hashes == "" && len(c.Images) == 0:
		return fmt.Sprintf("retally check %s hashes-HOST.json, with the digests of your own rebuild", s.Names(args))
	case c.Deployment != "" && c.Against == "":
		return fmt.Sprintf("retally check %s MANIFEST, with the published manifest", s.Names(args))
	case c.Against != "" && c.Deployment == "":
		return fmt.Sprintf("retally check %s DEPLOYMENT.yaml, with the deployment that the manifest was generated from", s.Names(args))
	case c.Models != "" && c.Deployment == "":
		return fmt.Sprintf("retally check %s DEPLOYMENT.yaml, with the deployment that mounts these disks", s.Names(args))
	case c.Hashes != "" && c.Deployment == "":
		return fmt.Sprintf("retally check %s DEPLOYMENT.yaml, with the deployment that pins these images", s.Names(args))
	case outcome != pipeline.OutcomeMatch && c.Deployment != "":
		return fmt.Sprintf("retally init %s, to describe a full run", show.Word(s.Root))
	}
	return ""
}

// Names names the files that were found so that more can be added: a folder
// cannot be combined with single files that live elsewhere.
func (s *Subject) Names(args []string) string {
	if len(args) > 1 || len(s.Found) == 0 {
		return words(args)
	}
	var names []string
	for _, f := range s.Found {
		names = append(names, filepath.ToSlash(filepath.Join(s.Root, filepath.FromSlash(f.Name))))
	}
	return words(names)
}

// words are paths as a shell takes them.
func words(paths []string) string {
	quoted := make([]string, len(paths))
	for i, p := range paths {
		quoted[i] = show.Word(p)
	}
	return strings.Join(quoted, " ")
}
