package shell_test

import (
	"strings"
	"testing"

	"github.com/retally/retally/deployment/internal/shell"
)

func TestFind(t *testing.T) {
	for _, tt := range []struct {
		argv   string // words with blanks between
		ok     bool
		reason bool
		params int
	}{
		{"sh -c x", true, false, 0},
		{"/bin/bash -ec x _ a b", true, false, 2},
		{"sh -e -u -c x _", true, false, 0},
		{"sh -o pipefail -c x", true, false, 0},
		{"bash -euo pipefail -c x", true, false, 0},
		{"sh", true, true, 0},
		{"sh script", true, true, 0},
		{"sh -c", true, true, 0},
		{"sh -c -- x", true, true, 0},
		{"sh -s", true, true, 0},
		{"bash -lc x", true, true, 0},
		{"bash --rcfile f -c x", true, true, 0},
		{"bash -O expand_aliases -c x", true, true, 0},
		{"sh -nc x", true, true, 0},
		{"sh -o noexec -c x", true, true, 0},
		{"/cm/sh -c x", false, false, 0},
		{"zsh -c x", false, false, 0},
		{"env sh -c x", false, false, 0},
		{"", false, false, 0},
	} {
		s, ok, reason := shell.Find(strings.Fields(tt.argv))
		if ok != tt.ok || (reason != "") != tt.reason || len(s.Params) != tt.params {
			t.Errorf("%q: got %+v %v %q", tt.argv, s, ok, reason)
		}
		if ok && reason == "" && s.Script != "x" {
			t.Errorf("%q: script %q", tt.argv, s.Script)
		}
	}
}

// Where a script stops being understood, and that what it did before is told.
func TestOpaque(t *testing.T) {
	r := shell.Follow(shell.Start{Script: "disk-mounter a 0 b\n[ \"$(sha256sum /f | cut -c1-64)\" = " + good + " ] || exit 1\neval x\n"}, shell.Container{})
	if r.Opaque == nil || r.Opaque.Off != strings.Index("disk-mounter a 0 b\n[ \"$(sha256sum /f | cut -c1-64)\" = "+good+" ] || exit 1\neval x\n", "eval") || !strings.Contains(r.Opaque.Reason, "eval") {
		t.Errorf("got %+v", r.Opaque)
	}
	if len(r.Mounts) != 1 || len(r.Checks) != 1 || r.Checks[0].Verdict != shell.Unknown {
		t.Errorf("got %+v %+v, want one of each, the check not proved", r.Mounts, r.Checks)
	}
}

// Work is bounded by the script.
func TestBounds(t *testing.T) {
	for name, script := range map[string]string{
		"long": strings.Repeat("echo a\n", 300_000), "deep": strings.Repeat("(", 100_000), "substitutions": strings.Repeat("echo $(", 10_000), "groups": strings.Repeat("{ ", 50_000),
		"ifs": strings.Repeat("if ", 80_000), "params": strings.Repeat(`echo "$@" `, 20_000), "dollars": strings.Repeat("$", 200_000), "bangs": strings.Repeat("! ", 100_000),
		"whiles": strings.Repeat("while ", 40_000), "braces": strings.Repeat("${a:-", 40_000), "ands": "true" + strings.Repeat(" && true", 30_000),
		"cases": strings.Repeat("case a in a) ", 19_000), "functions": strings.Repeat("f() ", 60_000), "arithmetic": "echo $((" + strings.Repeat("a[", 60_000), "pipes": "true" + strings.Repeat("|true", 50_000),
	} {
		for _, bash := range []bool{false, true} {
			if r := shell.Follow(shell.Start{Script: script, Bash: bash, Params: make([]string, 1000)}, shell.Container{Plain: true}); r.Opaque == nil && name != "ands" {
				t.Errorf("%s (bash %v) is understood", name, bash)
			}
		}
	}
}

func FuzzFollow(f *testing.F) {
	for _, s := range tricks {
		f.Add(s, "a b", uint8(len(s)))
	}
	f.Add("if [ $(sha256sum /f | cut -d ' ' -f 1) != '"+good+"' ]; then echo bad; exit 1; fi\nexec app \"$@\"\n", "", uint8(3))
	f.Fuzz(func(t *testing.T, script, param string, bits uint8) {
		s := shell.Start{Bash: bits&1 != 0, Errexit: bits&2 != 0, Script: script, Params: []string{param}}
		r := shell.Follow(s, shell.Container{Mounter: bits&4 != 0, Plain: bits&8 != 0, Init: bits&16 != 0, Mounts: []string{"/u"}})
		for _, c := range r.Checks {
			if r.Opaque != nil && c.Verdict != shell.Unknown {
				t.Errorf("%q: opaque (%s), but a check is %s", script, r.Opaque.Reason, c.Verdict)
			}
		}
		if r.Opaque != nil && (r.Opaque.Off < 0 || r.Opaque.Off > len(script) || r.Opaque.Reason == "") {
			t.Errorf("%q: %+v", script, r.Opaque)
		}
		if r.Opaque == nil && strings.ContainsAny(script, "\r\x00") {
			t.Errorf("%q is understood", script)
		}
	})
}
