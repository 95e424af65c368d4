package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/retally/retally/imagehash"
	"github.com/retally/retally/internal/testenv"
)

// TestImageDiffCauses holds image diff against pairs that were made with other
// people's tools, each with what must be said of it (own/why).
func TestImageDiffCauses(t *testing.T) {
	type want struct {
		folder string
		ignore string
		exit   int
		proved bool
		causes []string // object kind standing class
	}
	for _, tt := range []want{
		{"01-m-hidden-entrypoint", "json-formatting", 1, true, []string{"config config.Entrypoint proved semantic"}},
		{"02-m-key-escape", "", 1, true, []string{"config json-formatting proved packaging"}},
		{"03-d-hardlink-mode", "", 1, true, []string{"layer 0 mode proved semantic", "layer 0 type proved semantic"}},
		{"04-d-pax-pid-mtime", "", 1, true, []string{"layer 0 mtime proved packaging", "layer 0 pax proved packaging"}},
		{"05-d-pigz-mtime", "", 1, false, []string{"layer 0 compression suspected packaging", "layer 0 mtime proved packaging"}},
		{"06-d-mtime-pigz", "", 1, true, []string{"layer 0 compression proved packaging", "layer 0 mtime proved packaging"}},
		{"07-e-buildah-versions", "", 1, true, []string{
			"config config.Labels proved semantic", "config config.WorkingDir proved semantic", "config history proved packaging",
			"layer 0 tar-format proved packaging", "manifest annotations proved packaging",
		}},
		{"18-f-extra-ds-store", "", 1, true, []string{"layer 0 only-in-b proved semantic"}},
	} {
		t.Run(tt.folder, func(t *testing.T) {
			dir := testenv.Vectors(t, "own/why/"+tt.folder)
			args := []string{"image", "diff", filepath.Join(dir, "a.tar"), filepath.Join(dir, "b.tar"), "-o", "json", "--progress=none"}
			if tt.ignore != "" {
				args = append(args, "--ignore", tt.ignore)
			}
			code, out, errs := inProcess(t, nil, args...)
			var d imagehash.Difference
			if err := json.Unmarshal([]byte(out), &d); err != nil || code != tt.exit {
				t.Fatalf("exit %d, want %d: %v\n%s", code, tt.exit, err, errs)
			}
			var got []string
			for _, c := range d.Causes {
				got = append(got, strings.Join([]string{c.Path[0], c.Kind, string(c.Standing), string(c.Class)}, " "))
			}
			slices.Sort(got)
			if !slices.Equal(got, tt.causes) || d.Proved != tt.proved || d.EqualIgnoring {
				t.Errorf("got %q, proved %v; want %q, %v; notes %q", got, d.Proved, tt.causes, tt.proved, d.Notes)
			}
			if tt.folder[:2] == "01" && (d.SameContent || len(d.Ignored) != 1) {
				t.Errorf("got the same content %v, ignored %+v", d.SameContent, d.Ignored)
			}
		})
	}
	// Where the tars differ no hint says that they are equal.
	dir := testenv.Vectors(t, "own/why/13-d-zstd-gzip-mtime")
	_, out, _ := inProcess(t, nil, "image", "diff", filepath.Join(dir, "a.tar"), filepath.Join(dir, "b.tar"), "--progress=none")
	if !strings.Contains(out, "compression-format") || strings.Contains(out, "diffIDs are equal") {
		t.Errorf("got\n%s", out)
	}
}

// TestImageNeverRead: what is there holds, and a layer is not there to be read.
func TestImageNeverRead(t *testing.T) {
	image := filepath.Join(testenv.Vectors(t, "own/images"), "images", "ok-foreign-layer-absent.tar")
	hashes := filepath.Join(t.TempDir(), "hashes.json")
	code, out, errs := inProcess(t, nil, "image", "digest", image, "--progress=none")
	if code != exitUnchecked || !strings.HasPrefix(out, "UNCHECKED  sha256:") || !strings.Contains(out, "never read: layer of windows/amd64, sha256:") || !strings.Contains(errs, "bytes covered; never read: 1 layer of") {
		t.Errorf("exit %d\n%s%s", code, out, errs)
	}
	code, _, errs = inProcess(t, nil, "image", "digest", image, "--hashes", hashes, "--progress=none")
	if _, err := os.Stat(hashes); code != 2 || err == nil || !strings.Contains(errs, "never read") {
		t.Errorf("hashes of what was never read: exit %d, %v\n%s", code, err, errs)
	}
}
