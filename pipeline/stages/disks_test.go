package stages_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/retally/retally/pipeline"
	"github.com/retally/retally/pipeline/config"
	"github.com/retally/retally/pipeline/run"
	"github.com/retally/retally/pipeline/stages/disks"
	"github.com/retally/retally/privatemode"
	"github.com/retally/retally/verity/disk"
)

// A disk that another release of mkfs.erofs made is unchecked and that release
// named, whatever else the entry says; it is never a match, and a release that is
// reproduced differs.
func TestPublishedWithOtherErofs(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "m")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "a"), []byte("hello"), 0o644); err != nil {
		t.Fatal(err)
	}
	measured := func(mkfs string, listed *privatemode.Model) disk.Result {
		opts, err := disks.Resolve(config.Disk{Dir: dir, MKFS: mkfs}, listed)
		if err != nil {
			t.Fatal(err)
		}
		res, err := disk.Measure(t.Context(), opts)
		if err != nil {
			t.Fatal(err)
		}
		return res
	}
	right, newer := measured("1.9", nil), measured("1.9.1", nil)
	wrong := right.FileSHA256.Digest
	for _, c := range []struct {
		version  string
		root     string // "1.9", "1.9.1" or "another"
		outcome  pipeline.Verdict
		says     string
		measured string
	}{
		{"1.9", "1.9", pipeline.Match, "", "1.9"},
		{"1.9.3", "1.9.1", pipeline.Match, "", "1.9.1"},
		{"1.8.10", "1.9.1", pipeline.Match, "", "1.9.1"},
		{"1.9", "another", pipeline.Differs, "", "1.9"},
		{"1.9.3", "another", pipeline.Differs, "", "1.9.1"},
		{"1.5", "another", pipeline.Unchecked, "published with mkfs.erofs 1.5, which is not reproduced here", "1.9"},
		{"1.8.5", "another", pipeline.Unchecked, "mkfs.erofs 1.8.5", "1.9"},
		{"1.9.5", "another", pipeline.Unchecked, "mkfs.erofs 1.9.5", "1.9"},
		{"1.10", "another", pipeline.Unchecked, "mkfs.erofs 1.10", "1.9"},
		{"1.9 ", "another", pipeline.Unchecked, "mkfs.erofs 1.9 ", "1.9"},
		{"", "another", pipeline.Unchecked, "is not published", "1.9"},
		{"", "1.9", pipeline.Match, "", "1.9"},
		// The same bytes prove it, whatever the entry says of the tool.
		{"1.5", "1.9", pipeline.Match, "", "1.9"},
		{"1.5", "1.9.1", pipeline.Differs, "", "1.9"},
	} {
		listed := &privatemode.Model{Key: "m", Commit: strings.Repeat("0", 40), ErofsVersion: c.version, HashOffset: uint64(right.HashOffset), FileHash: right.FileSHA256.Digest}
		switch c.root {
		case "1.9":
			listed.RootHash = right.RootHash.Digest
		case "1.9.1":
			listed.RootHash = newer.RootHash.Digest
		default:
			listed.RootHash = wrong
		}
		res := measured("", listed)
		if string(res.Mkfs) != c.measured {
			t.Errorf("%q: measured as %s, want %s", c.version, res.Mkfs, c.measured)
		}
		out := run.NewOut()
		key := disks.Describe(out, "m", dir, res, "models.yaml", listed, nil)
		findings, _ := pipeline.Compare(out.Measurements, out.References, pipeline.CompareOptions{Complete: []string{"**"}})
		for _, f := range findings {
			if f.Key == key && (f.Verdict != c.outcome || !strings.Contains(f.Note, c.says)) {
				t.Errorf("%q with the root of %s: got %s, %q, want %s, %q", c.version, c.root, f.Verdict, f.Note, c.outcome, c.says)
			}
		}
		if c.outcome == pipeline.Unchecked && len(out.Causes[key]) > 0 {
			t.Errorf("%q: a cause is named: %+v", c.version, out.Causes[key])
		}
	}
}

// Storage classes join with what the deployment mounts as a models file does:
// copied, and a root hash of none of them is a finding.
func TestStorageClassesJoin(t *testing.T) {
	root := strings.Repeat("3c", 32)
	class := func(name, root string) string {
		return fmt.Sprintf("apiVersion: storage.k8s.io/v1\nkind: StorageClass\nmetadata:\n  name: %s\n  annotations:\n    privatemode.edgeless.systems/model_source: https://models.example/a/b\n    privatemode.edgeless.systems/commit_hash: %s\n    privatemode.edgeless.systems/root_hash: %s\n", name, strings.Repeat("2b", 20), root)
	}
	deployment := released("contrast-cc", "exec a\n", "--root-hash="+root)
	for name, c := range map[string]struct {
		classes []string
		want    pipeline.Verdict
		err     string
	}{
		"joined":          {[]string{class("m", root), class("n", strings.Repeat("4d", 32))}, pipeline.Match, ""},
		"another root":    {[]string{class("m", strings.Repeat("4d", 32))}, pipeline.Extra, ""},
		"two of one name": {[]string{class("m", root), class("m", strings.Repeat("4d", 32))}, "", "another root hash"},
		"the same twice":  {[]string{class("m", root), class("m", root)}, pipeline.Match, ""},
	} {
		dir := t.TempDir()
		cfg := &config.Config{Version: 1, Deployment: "d.yaml"}
		files := map[string]string{"d.yaml": deployment}
		for i, text := range c.classes {
			file := fmt.Sprintf("storage-class-%d.yaml", i)
			files[file] = text
			cfg.StorageClasses = append(cfg.StorageClasses, file)
		}
		for file, text := range files {
			if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		out, err := disks.Stage().Run(t.Context(), run.NewIn(cfg, run.NewReader(dir, nil)))
		if c.err != "" {
			if err == nil || !strings.Contains(err.Error(), c.err) {
				t.Errorf("%s: got %v, want %q", name, err, c.err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		findings, _ := pipeline.Compare(out.Measurements, out.References, pipeline.CompareOptions{Complete: out.Complete})
		if len(findings) != 1 || findings[0].Verdict != c.want {
			t.Errorf("%s: got %+v, want %s", name, findings, c.want)
		}
		for _, m := range out.Measurements {
			if m.Basis != pipeline.Copied {
				t.Errorf("%s: %s is %s", name, m.Key, m.Basis)
			}
		}
	}
}
