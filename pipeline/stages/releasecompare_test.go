package stages_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/retally/retally/pipeline"
	"github.com/retally/retally/pipeline/stages"
)

// released is a deployment of one workload with a start script, a disk and a
// runtime class.
func released(class, script, disk string) string {
	s := "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web, namespace: x}\nspec:\n  selector: {matchLabels: {a: b}}\n  template:\n    metadata: {labels: {a: b}}\n    spec:\n"
	if class != "" {
		s += "      runtimeClassName: " + class + "\n"
	}
	image := "registry.example/a@sha256:" + strings.Repeat("ab", 32)
	if disk != "" {
		s += "      initContainers:\n      - name: mount\n        image: registry.example/disk-mounter@sha256:" + strings.Repeat("cd", 32) + "\n        args: [" + disk + "]\n"
	}
	return s + fmt.Sprintf("      containers:\n      - name: app\n        image: %s\n        command: [sh, -c, %q]\n      - name: side\n        image: %s\n", image, script, image)
}

func TestReleaseChanges(t *testing.T) {
	hash := strings.Repeat("1a", 32)
	check := "if [ \"$(sha256sum /cm/f.py | cut -d ' ' -f 1)\" != '" + hash + "' ]; then exit 1; fi\n"
	other := strings.ReplaceAll(check, hash, strings.Repeat("2b", 32))
	weak := strings.ReplaceAll(check, "exit 1", "echo bad")
	disk := "m, \"0\", " + strings.Repeat("3c", 32)
	const cc, none = "contrast-cc", ""
	for name, c := range map[string]struct {
		a, b string
		want []string // key's end, class
	}{
		"nothing":          {released(cc, check, disk), released(cc, check, disk), nil},
		"to insecure":      {released(cc, check, disk), released("contrast-insecure-metal-qemu", check, disk), []string{"runtime loosened"}},
		"class taken away": {released("contrast-cc-metal-qemu-snp-0123abcd", check, disk), released(none, check, disk), []string{"runtime loosened"}},
		"class nobody knows": {
			released(cc, check, disk), released("contrast-ccx", check, disk), []string{"runtime loosened"},
		},
		"into confidential":    {released("runc", check, disk), released(cc, check, disk), []string{"runtime tightened"}},
		"another platform":     {released(cc, check, disk), released("contrast-cc-metal-qemu-tdx", check, disk), []string{"runtime unexplained"}},
		"outside to outside":   {released("runc", check, disk), released("gvisor", check, disk), []string{"runtime unexplained"}},
		"check dropped":        {released(cc, check+"exec a\n", disk), released(cc, "exec a\n", disk), []string{"check/app/hash of f.py loosened", "file/f.py/sha256 unexplained"}},
		"check not enforced":   {released(cc, check, disk), released(cc, weak, disk), []string{"check/app/hash of f.py loosened"}},
		"check added":          {released(cc, "exec a\n", disk), released(cc, check, disk), []string{"check/app/hash of f.py tightened", "file/f.py/sha256 unexplained"}},
		"another hash":         {released(cc, check, disk), released(cc, other, disk), []string{"file/f.py/sha256 unexplained"}},
		"disk without a root":  {released(cc, check, disk), released(cc, check, ""), []string{"check/mount/root hash of disk m loosened"}},
		"disk of another name": {released(cc, check, disk), released(cc, check, strings.Replace(disk, "m,", "n,", 1)), []string{"workload-disk/m", "workload-disk/n"}},
	} {
		dir := t.TempDir()
		for file, text := range map[string]string{"a.yaml": c.a, "b.yaml": c.b} {
			if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		rep, err := stages.CompareReleases(t.Context(), filepath.Join(dir, "a.yaml"), filepath.Join(dir, "b.yaml"), pipeline.Tool{})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		var got []string
		for _, f := range rep.Findings {
			if f.Verdict == pipeline.Match || strings.HasSuffix(string(f.Key), "/containers") || strings.HasPrefix(string(f.Key), "image/disk-mounter") {
				continue
			}
			key := strings.ReplaceAll(strings.TrimPrefix(string(f.Key), "workload/Deployment/web/"), "%20", " ")
			if strings.HasPrefix(key, "workload-disk/") {
				if name != "disk of another name" {
					continue
				}
				got = append(got, key)
				continue
			}
			got = append(got, fmt.Sprintf("%s %s", key, f.Class))
		}
		slices.Sort(got)
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}
