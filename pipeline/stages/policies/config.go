package policies

import (
	"fmt"
	"strings"

	"github.com/retally/retally/internal/yamldoc"
	"github.com/retally/retally/pipeline/config"
	"github.com/retally/retally/policygen"
	"github.com/retally/retally/policygen/rules"
)

// bindings are the words of image_binding, the default first.
var bindings = []string{string(rules.Annotation), string(rules.GuestPull), string(rules.Off)}

// check finds what is wrong with the section `policies`. bad makes an error
// with the place of a path in the file.
func check(c *config.Config, bad config.At) error {
	p := c.Policies
	if p == nil {
		return nil
	}
	if c.Deployment == "" {
		return bad("policies are those of a deployment, and none is given", "add deployment: deployment.yaml", "policies")
	}
	if p.Settings == "" {
		return bad("settings is missing", "name the genpolicy-settings.json that the generator used, or the folder that holds it", "policies")
	}
	if p.Profile != "" {
		if _, err := policygen.ProfileByName(p.Profile); err != nil {
			return bad(fmt.Sprintf("unknown policy profile %q", p.Profile), nearestOf(p.Profile, ProfileNames()), "policies", "profile")
		}
	}
	switch {
	case p.ImageBinding == "":
	case p.Rules != "":
		return bad("image_binding is a parameter of retally's own rules, and rules names a file", "leave out one of the two", "policies", "image_binding")
	default:
		if _, err := rules.Default(rules.Binding(p.ImageBinding)); err != nil {
			return bad(fmt.Sprintf("unknown image binding %q", p.ImageBinding), nearestOf(p.ImageBinding, bindings), "policies", "image_binding")
		}
	}
	if p.Lenient && p.IgnoreUnknown {
		return bad("lenient and ignore_unknown exclude each other", "leave out one of the two", "policies", "ignore_unknown")
	}
	for i, f := range p.ConfigFiles {
		if f == "" {
			return bad(fmt.Sprintf("entry %d is empty", i+1), "name a YAML file with ConfigMaps or Secrets", "policies", "config_files")
		}
	}
	return nil
}

// ProfileNames are the generators whose results can be computed.
func ProfileNames() []string {
	var names []string
	for _, p := range policygen.Profiles() {
		names = append(names, p.Name)
	}
	return names
}

// nearestOf is the hint for a word that is none of the known ones.
func nearestOf(word string, known []string) string {
	hint := "known: " + strings.Join(known, ", ")
	if near := yamldoc.Nearest(word, known); near != "" {
		hint = fmt.Sprintf("did you mean %q? %s", near, hint)
	}
	return hint
}

func fill(c *config.Config) {
	p := c.Policies
	if p == nil {
		return
	}
	if p.Profile == "" && (c.Manifest == nil || c.Manifest.Release == "") { // else the release says it
		p.Profile = policygen.Profiles()[0].Name
	}
	if p.Rules == "" && p.ImageBinding == "" {
		p.ImageBinding = bindings[0]
	}
}
