package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/retally/retally/internal/testenv"
)

// An imageDifference is what `image diff -o json` says, as far as the vectors
// of own/why ask.
type imageDifference struct {
	SameContent bool         `json:"sameContent"`
	Proved      bool         `json:"proved"`
	Causes      []imageCause `json:"causes"`
}

type imageCause struct {
	Kind     string       `json:"kind"`
	Path     []string     `json:"path"`
	Expected string       `json:"expected"`
	Actual   string       `json:"actual"`
	Standing string       `json:"standing"`
	Class    string       `json:"class"`
	Children []imageCause `json:"children"`
}

// compressionKinds stands for every kind that says how a blob was compressed.
const compressionKinds = "compression, gzip-header"

func (c imageCause) is(kind string) bool {
	if kind == compressionKinds {
		return strings.HasPrefix(c.Kind, "compression") || strings.HasPrefix(c.Kind, "gzip-header")
	}
	return c.Kind == kind
}

// has reports whether a cause, or one below it, is of a kind and fits.
func (d *imageDifference) has(kind string, fits func(imageCause) bool) bool {
	var in func([]imageCause) bool
	in = func(list []imageCause) bool {
		return slices.ContainsFunc(list, func(c imageCause) bool {
			return c.is(kind) && (fits == nil || fits(c)) || in(c.Children)
		})
	}
	return in(d.Causes)
}

// lacks names the kinds that are not among the causes.
func (d *imageDifference) lacks(kinds ...string) string {
	kinds = slices.DeleteFunc(kinds, func(k string) bool { return d.has(k, nil) })
	if len(kinds) == 0 {
		return ""
	}
	return "no cause " + strings.Join(kinds, ", ")
}

// falseProofs are the first rows of vectors/own/why: pairs of images whose
// difference was proved falsely, or by the wrong cause. Each check is the
// folder's file expect. An open row that holds fails: close it.
var falseProofs = []struct {
	folder string
	args   []string
	want   int
	check  func(*imageDifference) string
	open   bool
}{
	// A cause config.Entrypoint (class semantic) beside json-formatting.
	{"01-m-hidden-entrypoint", []string{"--ignore", "json-formatting"}, exitDiffers, func(d *imageDifference) string {
		switch {
		case !d.has("config.Entrypoint", func(c imageCause) bool { return c.Class == "semantic" }):
			return "no semantic cause config.Entrypoint"
		case d.SameContent:
			return "the content is said to be the same"
		}
		return ""
	}, false},
	// A cause json-formatting at config: another escape in a member's name.
	{"02-m-key-escape", nil, exitDiffers, func(d *imageDifference) string {
		if !d.has("json-formatting", func(c imageCause) bool { return slices.Contains(c.Path, "config") }) {
			return "no cause json-formatting at config"
		}
		return ""
	}, false},
	// type and mode 0644 -> 0600 of one file.
	{"03-d-hardlink-mode", nil, exitDiffers, func(d *imageDifference) string {
		if !d.has("mode", func(c imageCause) bool {
			return slices.Contains(c.Path, "usr/share/app/data.bin") && c.Expected == "0644" && c.Actual == "0600"
		}) {
			return "no cause mode 0644 -> 0600 of usr/share/app/data.bin"
		}
		return d.lacks("type")
	}, false},
	// mtime and pax: the process number in the extension header's name.
	{"04-d-pax-pid-mtime", nil, exitDiffers, func(d *imageDifference) string { return d.lacks("mtime", "pax") }, false},
	// mtime proved up to the diffID, compression suspected because A's blob was
	// not made again; or all proved where the compressor is known.
	{"05-d-pigz-mtime", nil, exitDiffers, func(d *imageDifference) string {
		if lack := d.lacks("mtime"); lack != "" {
			return lack
		}
		if !d.has(compressionKinds, nil) {
			return "no cause about the compression"
		}
		suspected := d.has(compressionKinds, func(c imageCause) bool { return c.Standing == "suspected" })
		mtime := d.has("mtime", func(c imageCause) bool { return c.Standing == "proved" })
		switch {
		case !mtime:
			return "mtime is not proved"
		case suspected == d.Proved:
			return fmt.Sprintf("compression suspected: %v, all proved: %v", suspected, d.Proved)
		}
		return ""
	}, false},
	// B's tar with the times undone, compressed as A was, is A's blob.
	{"06-d-mtime-pigz", nil, exitDiffers, func(d *imageDifference) string {
		if !d.Proved {
			return "not proved"
		}
		if !d.has(compressionKinds, nil) {
			return "no cause about the compression"
		}
		return d.lacks("mtime")
	}, false},
	// The old writer puts the file type's bits into the mode field: packaging.
	{"07-e-buildah-versions", nil, exitDiffers, func(d *imageDifference) string {
		switch {
		case d.has("mode", nil):
			return "a mode is said to differ, the permissions are equal"
		case !d.has("tar-format", func(c imageCause) bool { return c.Class == "packaging" }):
			return "no cause tar-format (packaging)"
		}
		return d.lacks("config.Labels", "config.WorkingDir", "history", "annotations")
	}, false},
}

// TestFalseProofs: a proof names everything that differs.
func TestFalseProofs(t *testing.T) {
	root := testenv.Vectors(t, "own/why")
	for _, p := range falseProofs {
		t.Run(p.folder, func(t *testing.T) {
			args := append([]string{"image", "diff"}, p.args...)
			args = append(args, filepath.Join(root, p.folder, "a.tar"), filepath.Join(root, p.folder, "b.tar"), "-o", "json")
			code, stdout, stderr := inProcess(t, nil, args...)
			var d imageDifference
			if err := json.Unmarshal([]byte(stdout), &d); err != nil {
				t.Fatalf("%v\n%s%s", err, stdout, stderr)
			}
			problem := p.check(&d)
			if code != p.want {
				problem = fmt.Sprintf("exit %d, want %d; %s", code, p.want, problem)
			}
			switch {
			case problem != "" && !p.open:
				t.Errorf("%s\n%s", problem, stdout)
			case problem == "" && p.open:
				t.Error("this holds now: close the row")
			case p.open:
				t.Logf("open: %s", problem)
			}
		})
	}
}

// TestFalseProofFuzzers lets an independent differ look for proofs that leave
// something out: 300 pairs of each kind, 10,000 with -long.
func TestFalseProofFuzzers(t *testing.T) {
	testenv.OwnSpeed(t)
	root := testenv.Vectors(t, "own/why")
	python := testenv.Oracle(t, "python3")
	exe := program(t)
	for _, f := range []struct {
		folder, script string
		seeds, long    int // some seeds give two equal images
		open           bool
	}{
		{"34-fuzz-documents", "fuzzdoc.py", 310, 10_300, false},
		{"35-fuzz-tars", "fuzztar.py", 350, 11_600, false},
	} {
		t.Run(f.folder, func(t *testing.T) {
			t.Parallel()
			dir, seeds, pairs := t.TempDir(), f.seeds, 300
			if testenv.IsLong() {
				seeds, pairs = f.long, 10_000
			}
			// The scripts write their images where they are.
			if err := os.CopyFS(dir, os.DirFS(filepath.Join(root, f.folder))); err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			cmd := exec.Command(python, f.script, strconv.Itoa(seeds), exe)
			cmd.Dir = dir
			out, err := cmd.CombinedOutput()
			if err != nil {
				t.Fatalf("%s: %v\n%s", f.script, err, out)
			}
			text := string(out)
			m := regexp.MustCompile(`(?m)^(\d+) pairs (\d+) proved`).FindStringSubmatch(text)
			if m == nil {
				t.Fatalf("%s did not come to its end\n%s", f.script, text)
			}
			n, _ := strconv.Atoi(m[1])
			if n < pairs {
				t.Errorf("%d pairs, want %d", n, pairs)
			}
			// A differ that proves nothing would prove nothing falsely.
			if proved, _ := strconv.Atoi(m[2]); proved < n*9/10 {
				t.Errorf("%d of %d pairs proved", proved, n)
			}
			if regexp.MustCompile(`(?m)^error `).MatchString(text) {
				t.Errorf("the program refused a pair\n%s", text)
			}
			switch found := strings.Contains(text, "FALSE PROOF"); {
			case found && !f.open:
				t.Error(text)
			case !found && f.open:
				t.Error("no false proof: close the row")
			}
		})
	}
}
