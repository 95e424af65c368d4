package imageref_test

import (
	"math/rand/v2"
	"regexp"
	"strings"
	"testing"

	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/imageref"
)

// ociSpec is the grammar of the crate oci-spec 0.9.0 written as one
// expression: the other side of ParseGenpolicy.
var ociSpec = regexp.MustCompile(`^((?:` +
	`(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])(?:\.(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9]))*(?::[0-9]+)?/)?` +
	`[a-z0-9]+(?:(?:[._]|__|-*)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:[._]|__|-*)[a-z0-9]+)*)*)` +
	`(?::([0-9A-Za-z_][0-9A-Za-z_.-]{0,127}))?` +
	`(?:@([A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*:[0-9a-fA-F]{32,}))?$`)

func oracle(text string) (registry, repository, tag string, ok bool) {
	m := ociSpec.FindStringSubmatch(text)
	if m == nil || len(text) > 1024 || len(m[1]) > 255 {
		return "", "", "", false
	}
	if m[3] != "" {
		if _, err := digest.Parse(m[3]); err != nil {
			return "", "", "", false
		}
	}
	registry, repository, tag = "docker.io", m[1], m[2]
	if first, rest, cut := strings.Cut(m[1], "/"); cut && (strings.ContainsAny(first, ".:") || first == "localhost") {
		registry, repository = first, rest
	}
	if registry == "index.docker.io" {
		registry = "docker.io"
	}
	if registry == "docker.io" && !strings.Contains(repository, "/") {
		repository = "library/" + repository
	}
	if tag == "" && m[3] == "" {
		tag = "latest"
	}
	return registry, repository, tag, strings.ToLower(repository) == repository
}

var hex64 = strings.Repeat("ab", 32)

// Where the two grammars differ, and where they do not.
func TestGrammars(t *testing.T) {
	for _, tt := range []struct{ text, runtime, genpolicy string }{
		{"busybox", "docker.io/library/busybox", "docker.io/library/busybox:latest"},
		{"busybox:1", "docker.io/library/busybox:1", "docker.io/library/busybox:1"},
		{"index.docker.io/a", "docker.io/library/a", "docker.io/library/a:latest"},
		{"localhost/x:1", "localhost/x:1", "localhost/x:1"},
		{"localhost:5000/x:1@sha256:" + hex64, "localhost:5000/x:1", "localhost:5000/x:1"},
		{"a.test/x@sha256:" + hex64, "a.test/x", "a.test/x"},
		{"host/x:1", "docker.io/host/x:1", "docker.io/host/x:1"},
		{"Upper/x:1", "Upper/x:1", ""},
		{"Upper.test/x:1", "Upper.test/x:1", "Upper.test/x:1"},
		{"a_b.test/x:1", "", "a_b.test/x:1"},
		{"[::1]:5000/x:1", "[::1]:5000/x:1", ""},
		{"x@sha256:" + strings.ToUpper(hex64), "", "docker.io/library/x"},
		{"x@sha1:" + hex64[:40], "", "docker.io/library/x"},
		{hex64, "", "docker.io/library/" + hex64 + ":latest"},
		{"", "", ""},
		{"x:", "", ""},
		{"x@sha256:12", "", ""},
		{"x//y", "", ""},
		{"https://x/y", "", ""},
		{"x y", "", ""},
		{"a-/x", "", ""},
		{"a/x-", "", ""},
		{"-a.b/x", "", ""},
		{"x@", "", ""},
		{"x\n", "", ""},
	} {
		for i, want := range []string{tt.runtime, tt.genpolicy} {
			r, err := imageref.Parse(tt.text)
			if i == 1 {
				r, err = imageref.ParseGenpolicy(tt.text)
			}
			got := ""
			if err == nil {
				if got = r.Full(); r.Tag != "" {
					got += ":" + r.Tag
				}
			}
			if got != want {
				t.Errorf("%q by grammar %d: got %q, %v, want %q", tt.text, i, got, err, want)
			}
		}
	}
}

// The quirks are all of them: random texts of the pieces of references.
func TestGenpolicyOracle(t *testing.T) {
	pieces := []string{
		"a", "b0", "A", "_", "__", "___", ".", "-", "--", "/", ":", "@", "localhost", "docker.io", "index.docker.io", "library", "5000", "latest", "sha256:" + hex64, "sha512:" + hex64 + hex64, "sha1:" + hex64[:40],
		"@sha256:" + hex64, "@sha256:" + strings.ToUpper(hex64), "@md5:" + hex64[:32], "[::1]", "x.y", " ", "é", "/a", "/b", ":1", "%", strings.Repeat("a", 250), strings.Repeat("t", 128),
	}
	accepted := 0
	for seed := range uint64(200_000) {
		r := rand.New(rand.NewPCG(seed, 2))
		var b strings.Builder
		for range 1 + r.IntN(7) {
			b.WriteString(pieces[r.IntN(len(pieces))])
		}
		text := b.String()
		registry, repository, tag, ok := oracle(text)
		got, err := imageref.ParseGenpolicy(text)
		if ok != (err == nil) || ok && (got.Registry != registry || got.Repository != repository || got.Tag != tag) {
			t.Fatalf("%q: got %+v, %v, want %q %q %q %v", text, got, err, registry, repository, tag, ok)
		}
		if ok {
			accepted++
		}
	}
	if accepted < 10_000 {
		t.Errorf("only %d references are accepted, which shows little", accepted)
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"a", "a.b/c:d@sha256:" + hex64, "[::1]:1/x", "A/b", "a_b.c/d"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if r, err := imageref.Parse(s); err == nil {
			again, err := imageref.Parse(r.Full() + "@sha256:" + hex64)
			if err != nil || again.Full() != r.Full() || again.Name != r.Name {
				t.Errorf("%q: %q is read as %+v, %v", s, r.Full(), again, err)
			}
		}
		_, _, _, ok := oracle(s)
		if _, err := imageref.ParseGenpolicy(s); ok != (err == nil) {
			t.Errorf("%q: genpolicy takes it: %v, we say %v", s, ok, err)
		}
	})
}
