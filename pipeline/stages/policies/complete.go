package policies

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/retally/retally/pipeline"
	"github.com/retally/retally/pipeline/config"
	"github.com/retally/retally/policygen"
	"github.com/retally/retally/policygen/rules"
)

// settingsDefault is the settings file that genpolicy takes if none is named.
const settingsDefault = "genpolicy-settings.json"

// Complete fills in what a description of policies leaves out where policies are
// generated and nothing else: the profile, that of parity where the bytes of a
// generator are asked for, the settings that genpolicy takes, the binding of
// retally's own rules. Hints name inputs in braces.
func Complete(c *config.Policies, parity string) error {
	fail := func(hint, format string, args ...any) error {
		return &pipeline.InputError{Op: "policy generate", Err: fmt.Errorf(format, args...), Hint: hint}
	}
	var matched []string
	for _, p := range policygen.Profiles() {
		if p.Reference != "" {
			matched = append(matched, p.Name)
		}
	}
	known := "with a reference: " + strings.Join(matched, ", ") + "; all profiles: " + strings.Join(ProfileNames(), ", ")
	if parity != "" && c.Profile != "" && parity != c.Profile {
		return fail(known, "{parity} %s and {profile} %s contradict each other", parity, c.Profile)
	}
	c.Profile = cmp.Or(parity, c.Profile, policygen.Profiles()[0].Name)
	p, err := policygen.ProfileByName(c.Profile)
	switch {
	case err != nil:
		return fail(known, "%v", err)
	case parity != "" && p.Reference == "":
		return fail(known, "{parity} %s: nothing was there to compare its bytes with, so that no parity can be promised; {profile} %s computes it", p.Name, p.Name)
	case c.Lenient && c.IgnoreUnknown:
		return fail("", "{lenient} and {ignore-unknown} exclude each other")
	}
	if c.Settings == "" {
		c.Settings = settingsDefault
		if _, err := os.Stat(settingsDefault); err != nil {
			return fail("{settings} PATH names the cluster's genpolicy-settings.json (kata-containers, src/tools/genpolicy; Contrast writes its own) or the folder with its drop-ins",
				"no settings given, and there is no %s here", settingsDefault)
		}
	}
	return RulesOrBinding("policy generate", c, rules.Annotation)
}

// RulesOrBinding sets the binding of retally's own rules, which those of a file
// do not have.
func RulesOrBinding(op string, c *config.Policies, standard rules.Binding) error {
	if c.Rules != "" && c.ImageBinding != "" {
		return &pipeline.InputError{Op: op, Err: errors.New("{image-binding} is a matter of retally's own rules and does nothing to those of {rules}"), Hint: "leave one of them away"}
	}
	if c.Rules == "" {
		c.ImageBinding = cmp.Or(c.ImageBinding, string(standard))
		if _, err := rules.Default(rules.Binding(c.ImageBinding)); err != nil {
			return &pipeline.InputError{Op: op, Err: fmt.Errorf("{image-binding} %s: unknown word", c.ImageBinding), Hint: "known: annotation, guest_pull, off"}
		}
	}
	return nil
}
