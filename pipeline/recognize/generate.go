package recognize

import (
	"os"
	"path"
	"path/filepath"

	"github.com/retally/retally/pipeline"
	"github.com/retally/retally/pipeline/config"
	"github.com/retally/retally/profiles"
)

// privatemodePlatform is what scripts/generate-manifest.sh of Privatemode gives
// `contrast generate` as its reference values.
const privatemodePlatform = "metal-qemu-snp-gpu"

// configureGenerated lets a checkout that pins a release of Contrast have its
// manifest generated: the guide's third step, with what is at hand. Without the
// edits that the vendor makes afterwards there is nothing to compare.
func (s *Subject) configureGenerated() {
	if s.Checkout == nil || s.ConfigInput != nil || s.Config.Deployment == "" || s.releaseName() == "" {
		return
	}
	taken, _, ok := profiles.PrivatemodePlan(s.Checkout.Version)
	if !ok {
		s.Lacks = append(s.Lacks, pipeline.Lack{
			What: "the edits that " + s.Checkout.Version + " makes after contrast generate", For: "manifest/bytes", How: "retally init, and manifest: {release: " + s.releaseName() + ", adjust: FILE}",
		})
		return
	}
	m := &config.Manifest{Release: s.releaseName(), DefaultPlatform: privatemodePlatform, Adjust: config.ProfilePrefix + "privatemode@" + s.Checkout.Version}
	if skipsImageStore(taken) {
		m.Skip = []string{"image-store"}
	}
	s.Config.Manifest = m
	rules := path.Join(filepath.ToSlash(s.checkoutDir), rulesFile)
	if info, err := os.Stat(s.Reader.Path(rules)); err == nil && info.Mode().IsRegular() && s.Settings != "" && s.Config.Policies == nil {
		s.Config.Policies = &config.Policies{Settings: s.Settings, Rules: rules}
	}
}

// Ungenerated takes the generation back where the deployment is not one that
// the release can be generated from, so that the rest is checked all the same.
// It reports whether there was one.
func (s *Subject) Ungenerated(why error) bool {
	if s.ConfigInput != nil || s.Config.Manifest == nil {
		return false
	}
	release := s.Config.Manifest.Release
	s.Config.Manifest, s.Config.Policies = nil, nil
	s.Problems = append(s.Problems, pipeline.Problem{
		Level: pipeline.LevelWarning, Code: "not-generated", Where: pipeline.Where{File: s.Config.Deployment}, Msg: "the manifest was not generated: " + why.Error(), Hint: "retally manifest generate shows it alone",
	})
	s.Lacks = append(s.Lacks, pipeline.Lack{What: "a manifest generated from the deployment with " + release, For: "manifest/bytes", How: "mend what stands under the warnings"})
	return true
}
