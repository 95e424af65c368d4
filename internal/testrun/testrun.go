// Package testrun runs configurations in tests and looks into what came out.
package testrun

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/retally/retally/fixtures"
	"github.com/retally/retally/pipeline"
	"github.com/retally/retally/pipeline/config"
	"github.com/retally/retally/pipeline/run"
	"github.com/retally/retally/pipeline/stages"
)

// Demo writes the demo's files, changed as asked.
func Demo(t testing.TB, changes map[string]string) string {
	t.Helper()
	files, err := fixtures.Demo()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	write := func(name string, data []byte) {
		t.Helper()
		path := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, f := range files {
		write(f.Name, f.Data)
	}
	for name, text := range changes {
		write(name, []byte(text))
	}
	return dir
}

// VM is the configuration of the demo's VM, with more or other fields behind it.
func VM(more string, without ...string) string {
	fields := []string{
		"tee: tdx", "profile: secretvm", "firmware: vm/OVMF.fd", "kernel: vm/bzImage", "initrd: vm/initrd.cpio", "rootfs: vm/rootfs.img",
		"compose: vm/docker-compose.yaml", "cmdline: console=ttyS0 loglevel=7 initrd=initrd", "memory: 4G", "vcpus: 2",
	}
	var b strings.Builder
	b.WriteString("version: 1\nplatforms:\n  harbor-vm:\n")
next:
	for _, f := range fields {
		for _, w := range without {
			if strings.HasPrefix(f, w+":") {
				continue next
			}
		}
		b.WriteString("    " + f + "\n")
	}
	return b.String() + more
}

// Config reads a configuration.
func Config(t testing.TB, text string) *config.Config {
	t.Helper()
	c, err := run.ParseConfig(stages.Table(), "retally.yaml", []byte(text))
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	return c
}

// Base is the demo's configuration with the manifest read from what the vendor's
// program wrote, in place of one that is generated. What then rests on it may.
func Base(config string) string {
	before, rest, _ := strings.Cut(config, "\npolicies:\n")
	_, after, _ := strings.Cut(rest, "\n\n")
	config = before + "\n" + after
	before, rest, _ = strings.Cut(config, "\nmanifest:\n")
	_, after, _ = strings.Cut(rest, "\n\n")
	return before + "\nmanifest: {base: manifest.generated.json, adjust: adjustments.yaml}\nallow_unchecked: ['policy/**']\n" + after
}

// Run runs a configuration in a folder.
func Run(t testing.TB, dir, config string) *pipeline.Report {
	t.Helper()
	res, err := run.Run(context.Background(), stages.Table(), Config(t, config), run.Options{TestRootOK: true, Root: dir})
	if err != nil {
		t.Fatal(err)
	}
	return res.Report
}

// Findings returns the findings of a key, one for each set that speaks of it.
func Findings(r *pipeline.Report, k pipeline.Key) []pipeline.Finding {
	var out []pipeline.Finding
	for _, f := range r.Findings {
		if f.Key == k {
			out = append(out, f)
		}
	}
	return out
}

// Finding is the only finding of a key.
func Finding(t testing.TB, r *pipeline.Report, k pipeline.Key) pipeline.Finding {
	t.Helper()
	fs := Findings(r, k)
	if len(fs) != 1 {
		t.Fatalf("%d findings of %s, want 1", len(fs), k)
	}
	return fs[0]
}

// Causes are a finding's causes, one a line.
func Causes(f pipeline.Finding) string {
	var all []string
	for _, c := range f.Why {
		all = append(all, fmt.Sprintf("%s %s: %s", c.Standing, strings.Join(c.Path, " > "), c.Note))
	}
	return strings.Join(all, "\n")
}

// Measured is the measurement of a key, nil if there is none.
func Measured(r *pipeline.Report, k pipeline.Key) *pipeline.Measurement {
	for i := range r.Measurements {
		if r.Measurements[i].Key == k {
			return &r.Measurements[i]
		}
	}
	return nil
}

// Read is a file of a folder.
func Read(t testing.TB, dir, name string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}
