package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// buildContrast builds a program with embedded files as a Contrast release has
// them. An empty file is left out.
func buildContrast(out string, files map[string]string) error {
	dir, err := os.MkdirTemp("", "contrast-program")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	var b strings.Builder
	b.WriteString("package main\n\nimport (\n\t_ \"embed\"\n\t\"os\"\n)\n")
	use := ""
	for i, name := range slices.Sorted(maps.Keys(files)) {
		if files[name] == "" {
			continue
		}
		fmt.Fprintf(&b, "\n//go:embed %s\nvar f%d string\n", name, i)
		use += fmt.Sprintf("\tos.Stdout.WriteString(f%d)\n", i)
		if err := os.WriteFile(filepath.Join(dir, name), []byte(files[name]), 0o600); err != nil {
			return err
		}
	}
	fmt.Fprintf(&b, "\nfunc main() {\n%s}\n", use)
	for name, text := range map[string]string{"go.mod": "module github.com/edgelesssys/contrast\n\ngo 1.24\n", "main.go": b.String()} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			return err
		}
	}
	cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-o", out, ".")
	cmd.Dir, cmd.Env = dir, append(os.Environ(), "GOOS=linux", "GOARCH=amd64", "CGO_ENABLED=0", "GOWORK=off", "GOFLAGS=")
	if msg, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go build: %w\n%s", err, msg)
	}
	return nil
}

// contrastProgram builds a program in a folder that has a Contrast release's
// launch values and rules embedded, and lays the rules beside it.
func contrastProgram(t *testing.T, dir string) string {
	t.Helper()
	dir, err := filepath.Abs(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	refs := `{"contrast-cc-metal-qemu-snp-1a2b3c4d": {"snp": [{"ProductName": "Milan", "TrustedMeasurement": "` + strings.Repeat("ab", 48) + `"}]}}` + "\n"
	rules := "# Copyright\npackage agent_policy\n\ndefault A := false\n"
	putFile(t, filepath.Join(dir, "rules.rego"), []byte(rules))
	program := filepath.Join(dir, "contrast")
	if err := buildContrast(program, map[string]string{"refs.json": refs, "rules.rego": rules}); err != nil {
		t.Fatal(err)
	}
	return program
}

// contrastProgramCommand is contrast-program OUT FILE..., for scripts: a program
// that embeds the files.
func contrastProgramCommand(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: contrast-program OUT FILE...")
	}
	files := map[string]string{}
	for _, name := range args[1:] {
		files[filepath.Base(name)] = ts.ReadFile(name)
	}
	ts.Check(buildContrast(ts.MkAbs(args[0]), files))
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
	rulesFile := filepath.Join(dir, "rules.rego")
	rules := string(readFileOf(t, rulesFile))
	other := write("other.rego", rules+"#\n")
	rebuilt := filepath.Join(dir, "rebuilt")
	if err := buildContrast(rebuilt, map[string]string{"refs.json": `{"contrast-cc-metal-qemu-snp-1a2b3c4d": {"snp": []}}` + "\n", "rules.rego": rules + "#\n"}); err != nil {
		t.Fatal(err)
	}
	code, out, errs := inProcess(t, nil, "contrast", "cli", program, "-o", "json")
	var res contrastCLI
	if err := json.Unmarshal([]byte(out), &res); code != 0 || err != nil || len(res.Embedded) != 2 || len(res.Absent) != 3 || res.Signature.Verdict != "unchecked" || res.Genpolicy != nil {
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
		{"the same rebuilt", 0, []string{"--rebuild", program}},
		{"another rebuild", exitDiffers, []string{"--rebuild", rebuilt}},
		{"a rebuild of something else", 2, []string{"--rebuild", rulesFile}},
		{"digest and manifest", 0, []string{"--checksum", write("both", digest+"\n"), "--against", manifest("b.json", "Metal-QEMU-SNP", good)}},
		{"digest and a value that is not there", exitUnchecked, []string{"--checksum", write("half", digest+"\n"), "--against", manifest("h.json", "Metal-QEMU-SNP-GPU", good)}},
		{"manifest without values", exitUnchecked, []string{"--against", write("e.json", `{"Policies":{},"ReferenceValues":{}}`)}},
	} {
		if code, out, errs := inProcess(t, nil, append([]string{"contrast", "cli", program}, tt.args...)...); code != tt.want {
			t.Errorf("%s: exit %d, want %d\n%s%s", tt.name, code, tt.want, out, errs)
		}
	}
	_, text, _ := inProcess(t, nil, "contrast", "cli", program, "--rebuild", rebuilt, "--report", "json="+filepath.Join(dir, "report.json"))
	if b, err := os.ReadFile(filepath.Join(dir, "report.json")); err != nil || !strings.Contains(string(b), "the embedded rules.rego of the rebuild is another") || !strings.Contains(string(b), "signature-unchecked") {
		t.Errorf("a rebuild with other rules: %v\n%s\n%s", err, text, b)
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
