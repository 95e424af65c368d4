package main

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// contrastProgram builds a program in a folder that has a Contrast release's
// launch values and rules embedded.
func contrastProgram(t *testing.T, dir string) string {
	t.Helper()
	dir, err := filepath.Abs(dir)
	if err != nil {
		t.Fatal(err)
	}
	source := filepath.Join(dir, "source")
	if err := os.MkdirAll(source, 0o755); err != nil {
		t.Fatal(err)
	}
	put := func(name, text string) { putFile(t, filepath.Join(source, name), []byte(text)) }
	refs := `{"contrast-cc-metal-qemu-snp-1a2b3c4d": {"snp": [{"ProductName": "Milan", "TrustedMeasurement": "` + strings.Repeat("ab", 48) + `"}]}}` + "\n"
	rules := "# Copyright\npackage agent_policy\n\ndefault A := false\n"
	put("go.mod", "module github.com/edgelesssys/contrast\n\ngo 1.24\n")
	put("refs.json", refs)
	put("rules.rego", rules)
	put("main.go", "package main\n\nimport (\n\t_ \"embed\"\n\t\"os\"\n)\n\n//go:embed refs.json\nvar a string\n\n//go:embed rules.rego\nvar b string\n\nfunc main() { os.Stdout.WriteString(a + b) }\n")
	program := filepath.Join(dir, "contrast")
	cmd := exec.Command("go", "build", "-buildvcs=false", "-o", program, ".")
	cmd.Dir, cmd.Env = source, append(os.Environ(), "GOOS=linux", "GOARCH=amd64", "CGO_ENABLED=0", "GOWORK=off", "GOFLAGS=")
	if msg, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, msg)
	}
	putFile(t, filepath.Join(dir, "rules.rego"), []byte(rules))
	return program
}

// TestContrastCLI compares a program that is built here, with files embedded as
// a Contrast release has them.
func TestContrastCLI(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return p
	}
	good, evil := strings.Repeat("ab", 48), strings.Repeat("cd", 48)
	program := contrastProgram(t, dir)
	rules := string(readFileOf(t, filepath.Join(dir, "rules.rego")))
	rulesFile, other := filepath.Join(dir, "rules.rego"), write("other.rego", rules+"#\n")
	code, out, errs := inProcess(t, nil, "contrast", "cli", program, "-o", "json")
	var res contrastCLI
	if err := json.Unmarshal([]byte(out), &res); code != 0 || err != nil || len(res.Embedded) != 2 {
		t.Fatalf("exit %d, %v, embedded %v\n%s%s", code, err, res.Embedded, out, errs)
	}
	digest := res.Digest.String()
	hex := strings.TrimPrefix(digest, "sha256:")
	wrong := strings.Repeat("0", 64)
	manifest := func(name, platform, measurement string) string {
		return write(name, `{"Policies":{},"ReferenceValues":{"snp":[{"Platform":"`+platform+`","ProductName":"Milan","TrustedMeasurement":"`+measurement+`"}]}}`)
	}
	for _, tt := range []struct {
		name string
		want int
		args []string
	}{
		{"sha256sum", 0, []string{"--checksum", write("sums", wrong+"  other\n"+hex+" *contrast\n")}},
		{"digest of a release", 0, []string{"--checksum", write("digest", digest+"\n")}},
		{"another digest", exitDiffers, []string{"--checksum", write("wrong", wrong+"  contrast\n")}},
		{"two digests of one name", 2, []string{"--checksum", write("two", wrong+"  contrast\n"+hex+"  contrast\n")}},
		{"no digest of the name", 2, []string{"--checksum", write("none", hex+"  a\n"+hex+"  b\n")}},
		{"empty checksum", 2, []string{"--checksum", write("empty", "\n")}},
		{"rules", 0, []string{"--rules", rulesFile}},
		{"other rules", exitDiffers, []string{"--rules", other}},
		{"settings that were not found", exitUnchecked, []string{"--settings", rulesFile}},
		{"manifest", 0, []string{"--against", manifest("m.json", "Metal-QEMU-SNP", good)}},
		{"another launch digest", exitDiffers, []string{"--against", manifest("d.json", "Metal-QEMU-SNP", evil)}},
		{"another platform", exitUnchecked, []string{"--against", manifest("p.json", "Metal-QEMU-SNP-GPU", good)}},
		{"manifest without values", exitUnchecked, []string{"--against", write("e.json", `{"Policies":{},"ReferenceValues":{}}`)}},
	} {
		if code, out, errs := inProcess(t, nil, append([]string{"contrast", "cli", program}, tt.args...)...); code != tt.want {
			t.Errorf("%s: exit %d, want %d\n%s%s", tt.name, code, tt.want, out, errs)
		}
	}
	folder := filepath.Join(dir, "out")
	if code, _, errs := inProcess(t, nil, "contrast", "cli", program, "--extract", folder); code != 0 {
		t.Fatalf("extract: exit %d\n%s", code, errs)
	}
	if b, err := os.ReadFile(filepath.Join(folder, "rules.rego")); err != nil || string(b) != rules {
		t.Errorf("extracted %q, %v", b, err)
	}
	if code, _, _ := inProcess(t, nil, "contrast", "cli", program, "--rules", rulesFile, "--extract", dir, "--force"); code != 2 {
		t.Errorf("extract over an input: exit %d, want 2", code)
	}
}
