package nix

import (
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"unicode"
)

// Allowed are the options of nix.conf that Settings may name: how much is done at
// once and for how long, and nothing else. A list of what is forbidden would have
// to know every alias that a version of Nix has.
var Allowed = []string{
	"connect-timeout", "cores", "download-attempts", "http-connections", "log-lines", "max-build-log-size", "max-free", "max-jobs", "max-silent-time",
	"min-free", "narinfo-cache-negative-ttl", "narinfo-cache-positive-ttl", "stalled-download-timeout",
}

// Check refuses what would write options into Nix's configuration, or mean more
// than it says there.
func (o *Options) Check() error {
	store := o.Store
	if strings.ContainsAny(store, "?&%#") || strings.ContainsFunc(store, unicode.IsControl) {
		return fmt.Errorf("nix: the folder %q cannot be a store: its name holds a character that Nix reads as an option", store)
	}
	for name, value := range o.Settings {
		if !slices.Contains(Allowed, name) {
			return fmt.Errorf("nix: option %q cannot be set here: what a build may trust is decided by this program (known: %s)", name, strings.Join(Allowed, ", "))
		}
		if !digits.MatchString(value) && value != "auto" {
			return fmt.Errorf("nix: option %s: %q is no number", name, value)
		}
	}
	for _, list := range []struct {
		what  string
		words []string
	}{{"substituter", o.Substituters}, {"trusted key", o.TrustedKeys}, {"path for the sandbox", o.SandboxPaths}} {
		for _, w := range list.words {
			if err := word(list.what, w); err != nil {
				return err
			}
		}
	}
	for _, p := range o.SandboxPaths {
		in, from, ok := strings.Cut(strings.TrimSuffix(p, "?"), "=")
		if !ok {
			from = in
		}
		if !filepath.IsAbs(in) || !filepath.IsAbs(from) {
			return fmt.Errorf("nix: path for the sandbox %q: want /INSIDE=/OUTSIDE", p)
		}
	}
	for _, pair := range o.Overrides {
		if err := errors.Join(word("override of an input", pair[0]), word("override of an input", pair[1])); err != nil {
			return err
		}
	}
	return nil
}

var digits = regexp.MustCompile(`^[0-9]{1,18}$`)

// word refuses what is not one word of Nix's configuration or command line.
func word(what, s string) error {
	if s == "" || strings.HasPrefix(s, "-") || strings.ContainsFunc(s, func(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) }) {
		return fmt.Errorf("nix: %s %q is no single word", what, s)
	}
	return nil
}

var attribute = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_'-]*(\.[A-Za-z0-9_][A-Za-z0-9_'-]*)*$`)

// CheckInstallable accepts FLAKE#ATTRIBUTE and nothing that Nix could read as an
// option, as a selection of outputs, or as something else than a flake.
func CheckInstallable(s string) error {
	flake, attr, ok := strings.Cut(s, "#")
	if !ok || strings.Contains(attr, "#") {
		return fmt.Errorf("nix: %q names no attribute of a flake: want FLAKE#ATTRIBUTE, for instance path:.#images", s)
	}
	if err := word("flake", flake); err != nil {
		return err
	}
	if !attribute.MatchString(attr) {
		return fmt.Errorf("nix: %q is no attribute: want names with dots between them", attr)
	}
	return nil
}
