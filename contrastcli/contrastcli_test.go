package contrastcli_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/retally/retally/contrastcli"
)

const (
	refs  = "{\n  \"contrast-cc-metal-qemu-snp-1a2b3c4d\": {\"snp\": [{\"ProductName\": \"Milan\"}]}\n}\n"
	sets  = `{"common": {"a": 1}, "request_defaults": {"b": [2]}}` + "\n"
	rules = "# Copyright\npackage agent_policy\n\ndefault AllowRequestsFailingPolicy := false\n"
)

var repl = "ghcr.io/edgelesssys/contrast/initializer:latest=ghcr.io/edgelesssys/contrast/initializer:v1.2.3@sha256:" + strings.Repeat("ab", 32) + "\n"

// compile builds a program with embedded files.
func compile(t *testing.T, arch, module, extra string, more ...string) []byte {
	t.Helper()
	dir := t.TempDir()
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("go.mod", "module "+module+"\n\ngo 1.24\n")
	write("refs.json", refs)
	write("sets.json", sets)
	write("rules.rego", rules)
	write("repl.txt", repl)
	for i := 0; i+1 < len(more); i += 2 {
		write(more[i], more[i+1])
	}
	write("main.go", `package main

import (
	_ "embed"
	"os"
)

//go:embed refs.json
var a []byte

//go:embed sets.json
var b []byte

//go:embed rules.rego
var c string

//go:embed repl.txt
var d string

`+extra+`

func main() { os.Stdout.Write(a); os.Stdout.Write(b); os.Stdout.WriteString(c + d) }
`)
	out := filepath.Join(dir, "contrast.bin")
	cmd := exec.Command("go", "build", "-buildvcs=false", "-o", out, ".")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GOOS=linux", "GOARCH="+arch, "CGO_ENABLED=0", "GOWORK=off", "GOFLAGS=")
	if msg, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, msg)
	}
	b, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

const contrast = "github.com/edgelesssys/contrast"

func TestRead(t *testing.T) {
	for _, arch := range []string{"amd64", "arm64"} {
		p, err := contrastcli.Read(compile(t, arch, contrast, ""))
		if err != nil {
			t.Fatalf("%s: %v", arch, err)
		}
		if p.Arch != arch || p.Version != "v1.2.3" {
			t.Errorf("got %s %s, want %s v1.2.3", p.Arch, p.Version, arch)
		}
		for name, want := range map[string]string{contrastcli.ReferenceValues: refs, contrastcli.Settings: sets, contrastcli.Rules: rules, contrastcli.Replacements: repl} {
			if f, _ := p.File(name); string(f.Data) != want {
				t.Errorf("%s: %s: got %q, want %q", arch, name, f.Data, want)
			}
		}
	}
}

func TestRefused(t *testing.T) {
	good := compile(t, "amd64", contrast, "")
	change := func(off int, b byte) []byte { c := bytes.Clone(good); c[off] = b; return c }
	packed := append(bytes.Clone(good[:64]), "UPX!"...)
	for _, off := range []int{0x28, 0x29, 0x2a, 0x2b, 0x2c, 0x2d, 0x2e, 0x2f, 0x38, 0x39, 0x3c, 0x3d, 0x3e, 0x3f} {
		packed[off] = 0 // no section or program headers
	}
	for _, c := range []struct {
		name, want string
		data       []byte
	}{
		{"empty", "no ELF header", nil},
		{"text", "no ELF header", []byte("#!/bin/sh\n")},
		{"PE", "a PE program", []byte("MZ\x90\x00")},
		{"Mach-O", "a Mach-O program", []byte("\xcf\xfa\xed\xfe\x07")},
		{"headers only", "truncated", good[:64]},
		{"half", "truncated", good[:len(good)/2]},
		{"packed", "UPX", packed},
		{"machine", "wanted a 64-bit", change(18, 0xf3)},
		{"arm64 header on amd64", "GOARCH", change(18, 183)},
		{"position independent", "ET_EXEC", change(16, 3)},
		{"other module", "module", compile(t, "amd64", "example.com/other", "")},
		{"two reference values", "differ", compile(t, "amd64", contrast, "//go:embed two.json\nvar E string\n\nvar _ = os.Getenv(E)\n", "two.json", strings.Replace(refs, "Milan", "Genoa", 1))},
		{"a copy that no header names", "not the embedded file", append(bytes.Clone(good), strings.Replace(refs, "Milan", "Genoa", 1)...)},
		{"endless starts", "too many places", append(bytes.Clone(good), bytes.Repeat([]byte("{\"contrast-cc-\":"), 200_000)...)},
		{"two releases", "not of one release", compile(t, "amd64", contrast, "", "repl.txt", repl+strings.Replace(repl, "v1.2.3", "v1.2.4", 1))},
		{"no reference values", "no reference values", compile(t, "amd64", contrast, "", "refs.json", "{}")},
	} {
		if p, err := contrastcli.Read(c.data); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, %v, want an error with %q", c.name, p, err, c.want)
		}
	}
}

// TestGenpolicy opens a program inside the program: whole, cut off, of another
// machine, and not there.
func TestGenpolicy(t *testing.T) {
	inner := compile(t, "amd64", "example.com/genpolicy", "")
	packed := bytes.Clone(inner)
	copy(packed[0xc00:], "UPX!")
	foreign := compile(t, "arm64", "example.com/genpolicy", "")
	for _, c := range []struct {
		name, odd string
		data      []byte
	}{
		{"whole", "", inner},
		{"cut off", "cut off", inner[:len(inner)-4096]},
		{"packed", "packed", packed},
		{"another machine", "cannot run it", foreign},
	} {
		p, err := contrastcli.Read(compile(t, "amd64", contrast, "//go:embed genpolicy\nvar G string\n\nfunc init() { os.Stdout.WriteString(G) }\n", "genpolicy", string(c.data)))
		if c.name == "cut off" && err == nil {
			if _, ok := p.File(contrastcli.Genpolicy); !ok {
				continue // without its section headers it is no ELF file, and listed as absent
			}
		}
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		f, ok := p.File(contrastcli.Genpolicy)
		if !ok || !bytes.Equal(f.Data, c.data) {
			t.Errorf("%s: genpolicy found: %v", c.name, ok)
			continue
		}
		g, err := contrastcli.OpenGenpolicy(f, p.Arch)
		if err != nil || (g.Odd == "") != (c.odd == "") || !strings.Contains(g.Odd, c.odd) {
			t.Errorf("%s: %+v, %v, want odd %q", c.name, g, err, c.odd)
		}
	}
	if _, err := contrastcli.OpenGenpolicy(contrastcli.File{Data: []byte("\x7fELF")}, "amd64"); err == nil {
		t.Error("no ELF file is opened")
	}
}

func FuzzGenpolicy(f *testing.F) {
	f.Add([]byte("\x7fELF\x02\x01\x01"))
	if self, err := os.Executable(); err == nil {
		if b, err := os.ReadFile(self); err == nil {
			f.Add(b[:min(len(b), 64<<10)])
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if g, err := contrastcli.OpenGenpolicy(contrastcli.File{Data: data}, "amd64"); err == nil && g.Arch == "" {
			t.Fatal("opened without a machine")
		}
	})
}

func FuzzRead(f *testing.F) {
	f.Add([]byte("\x7fELF"))
	f.Add([]byte("MZ"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if p, err := contrastcli.Read(data); (p == nil) == (err == nil) {
			t.Fatal("neither a program nor an error")
		}
	})
}
