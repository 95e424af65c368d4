package deployment_test

import (
	"bufio"
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/retally/retally/deployment"
	"github.com/retally/retally/internal/testenv"
)

// counts is what a reader of lines finds in a release, knowing nothing of YAML
// or shell.
type counts struct{ images, disks, checks int }

// lineFact is a value and the line it was found on.
type lineFact struct {
	text string
	line int
}

func byLine(data []byte) (images, disks, checks []lineFact) {
	image := regexp.MustCompile(`^\s+(?:- )?image: '?([^'\s]+)'?$`)
	flag := regexp.MustCompile(`^\s+- --root-hash=([0-9a-f]{64})$`)
	positional := regexp.MustCompile(`^\s+- '([0-9a-f]{64})'$`)
	check := regexp.MustCompile(`if \[ \$\(sha256sum \S+ \| cut -d ' ' -f 1\) != '([0-9a-f]{64})' \]; then`)
	s := bufio.NewScanner(bytes.NewReader(data))
	for n := 1; s.Scan(); n++ {
		if m := image.FindStringSubmatch(s.Text()); m != nil {
			images = append(images, lineFact{m[1], n})
		}
		for _, re := range []*regexp.Regexp{flag, positional} {
			if m := re.FindStringSubmatch(s.Text()); m != nil {
				disks = append(disks, lineFact{m[1], n})
			}
		}
		if m := check.FindStringSubmatch(s.Text()); m != nil {
			checks = append(checks, lineFact{m[1], n})
		}
	}
	return images, disks, checks
}

func TestReleases(t *testing.T) {
	want := map[string]counts{
		"v1.10.0": {5, 1, 0}, "v1.12.0": {11, 2, 0}, "v1.13.0": {12, 2, 0}, "v1.15.0": {12, 2, 0},
		"v1.16.0": {20, 4, 0}, "v1.18.0": {16, 3, 0}, "v1.19.0": {19, 4, 1}, "v1.24.0": {26, 6, 2},
		"v1.25.0": {26, 6, 2}, "v1.26.0": {26, 6, 3}, "v1.33.0": {26, 6, 14}, "v1.35.1": {26, 6, 6},
		"v1.37.0": {26, 6, 12}, "v1.38.0": {30, 7, 13}, "v1.40.0": {34, 8, 15},
	}
	total := counts{}
	dir := testenv.Vectors(t, "published/privatemode/deployments")
	files, err := filepath.Glob(filepath.Join(dir, "*.yaml"))
	if err != nil || len(files) != len(want) {
		t.Fatalf("got %d deployments (%v), want %d", len(files), err, len(want))
	}
	for _, file := range files {
		version := strings.TrimSuffix(filepath.Base(file), ".deployment.yaml")
		t.Run(version, func(t *testing.T) {
			data, d := load(t, file)
			images, disks, checks := byLine(data)
			got := counts{len(d.Images()), len(d.Disks()), len(d.FileChecks())}
			if want[version] != got || got != (counts{len(images), len(disks), len(checks)}) {
				t.Errorf("got %+v, by line %d %d %d, want %+v", got, len(images), len(disks), len(checks), want[version])
			}
			for _, p := range d.Problems() {
				t.Errorf("false problem: %v", p)
			}
			for _, o := range d.Opaque() {
				t.Errorf("not understood: %+v", o)
			}
			for _, u := range d.Unknown() {
				t.Errorf("unknown kind: %+v", u)
			}
			// Init containers come first, which is file order only without
			// containers before them; so compare as sets with lines.
			compare(t, "images", images, d.Images(), func(p deployment.ImagePin) lineFact { return lineFact{p.Ref.Text, p.Ref.Line} })
			compare(t, "disks", disks, d.Disks(), func(p deployment.DiskPin) lineFact { return lineFact{p.RootHash.Hex(), p.Line} })
			compare(t, "checks", checks, d.FileChecks(), func(c deployment.FileCheck) lineFact { return lineFact{c.Expected.Hex(), c.Line} })
			for _, p := range d.Images() {
				if !p.Pinned {
					t.Errorf("%s not pinned", p.Ref.Text)
				}
			}
			for _, p := range d.Disks() {
				if p.Used {
					total.disks++
				}
				if !p.Used || p.InCommand || p.StorageClass == "" && p.Claim == "" {
					t.Errorf("disk %+v: want used, from args, with its claim", p)
				}
				if column(data, p.Line, p.Column, p.RootHashText) != p.RootHashText {
					t.Errorf("root hash not at %d:%d", p.Line, p.Column)
				}
			}
			for _, c := range d.FileChecks() {
				if c.Enforcement == deployment.Enforced {
					total.checks++
				}
				if c.Enforcement != deployment.Enforced || c.ConfigMap == "" || c.Key == "" {
					t.Errorf("check %+v: want enforced, from a ConfigMap", c)
				}
				if column(data, c.Line, c.Column, c.ExpectedText) != c.ExpectedText {
					t.Errorf("hash not at %d:%d", c.Line, c.Column)
				}
			}
		})
	}
	// Refusing everything is no solution.
	if total.disks != 69 || total.checks != 68 {
		t.Errorf("%d disks and %d checks are understood, want all 69 and all 68", total.disks, total.checks)
	}
}

func compare[T any](t *testing.T, what string, want []lineFact, got []T, fact func(T) lineFact) {
	t.Helper()
	left := map[lineFact]int{}
	for _, w := range want {
		left[w]++
	}
	for _, g := range got {
		left[fact(g)]--
	}
	for f, n := range left {
		if n != 0 {
			t.Errorf("%s: line %d %q: seen %+d times more by line", what, f.line, f.text, n)
		}
	}
}

func column(data []byte, line, col int, text string) string {
	lines := strings.Split(string(data), "\n")
	if line < 1 || line > len(lines) || col < 1 || col-1+len(text) > len(lines[line-1]) {
		return ""
	}
	return lines[line-1][col-1 : col-1+len(text)]
}

func load(t testing.TB, file string) ([]byte, *deployment.Deployment) {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	d, err := deployment.Parse(filepath.Base(file), data)
	if err != nil {
		t.Fatal(err)
	}
	return data, d
}

func TestRelease1_40(t *testing.T) {
	_, d := load(t, testenv.Vectors(t, "published/privatemode/deployments/v1.40.0.deployment.yaml"))
	digests := map[string]bool{}
	for _, p := range d.Images() {
		digests[p.Ref.Digest.String()] = true
	}
	if len(digests) != 7 {
		t.Errorf("got %d image digests, want 7", len(digests))
	}
	type workload struct {
		ID, SecretID, Platform    string
		Confidential, Coordinator bool
	}
	var got []workload
	for _, w := range d.Workloads {
		got = append(got, workload{w.ID(), w.SecretID, w.Platform, w.Confidential, w.Coordinator})
	}
	ns, snp, tdx := "continuum-347e1b", "metal-qemu-snp-gpu", "metal-qemu-tdx-gpu"
	want := []workload{{"StatefulSet/" + ns + "/secret-service", "apps/v1/StatefulSet/" + ns + "/secret-service", "", true, false}}
	for _, w := range [][2]string{{"gemma4", tdx}, {"gptoss", snp}, {"kimi", tdx}, {"multimodal-qwenembed", snp}, {"transcriptions-codegen", snp}, {"voxtralmini", snp}} {
		want = append(want, workload{"Deployment/" + ns + "/workload-" + w[0], "apps/v1/Deployment/" + ns + "/workload-" + w[0], w[1], true, false})
	}
	want = append(want,
		workload{"Deployment/" + ns + "/unstructured-api", "apps/v1/Deployment/" + ns + "/unstructured-api", "", true, false},
		workload{"StatefulSet/" + ns + "/coordinator", "apps/v1/StatefulSet/" + ns + "/coordinator", snp, true, true})
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("workloads (-want +got):\n%s", diff)
	}
	overrides := 0
	for _, p := range d.Disks() {
		if p.Form != deployment.FormPositional || p.Volume != "modelweights-"+p.Model+"-"+p.Index {
			t.Errorf("disk %+v: want positional, on the volume of its name", p)
		}
		if p.CommandOverride {
			overrides++
			if p.Container != "disk-mounter-kimi-0" {
				t.Errorf("got a command override in %s, want kimi's only", p.Container)
			}
		}
	}
	if overrides != 1 {
		t.Errorf("got %d overrides, want 1", overrides)
	}
	for field, want := range map[string]string{"metadata.namespace": ns, `metadata.labels["app.kubernetes.io/instance"]`: "347e1b"} {
		if got, line, err := d.Lookup("any", "secret-service", field); err != nil || got != want || line == 0 {
			t.Errorf("Lookup(%s): got %q, line %d, %v, want %q", field, got, line, err, want)
		}
	}
}

func BenchmarkParse(b *testing.B) {
	data, _ := load(b, testenv.Vectors(b, "published/privatemode/deployments/v1.40.0.deployment.yaml"))
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		if _, err := deployment.Parse("f", data); err != nil {
			b.Fatal(err)
		}
	}
}
