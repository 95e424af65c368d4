package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/retally/retally/internal/testenv"
)

// allVerbs are the commands that people see.
func allVerbs() (root *cobra.Command, verbs []*cobra.Command) {
	a := &app{env: func(string) string { return "" }, stdin: strings.NewReader(""), stdout: &bytes.Buffer{}, stderr: &bytes.Buffer{}}
	root = a.rootCommand()
	var walk func(*cobra.Command)
	walk = func(c *cobra.Command) {
		if c == root || c.IsAvailableCommand() {
			verbs = append(verbs, c)
		}
		for _, sub := range c.Commands() {
			walk(sub)
		}
	}
	walk(root)
	return root, verbs
}

// TestHelpFlags: help shows at most 15 flags, with --all every one, each below a
// heading; the tables of help name flags that there are.
func TestHelpFlags(t *testing.T) {
	_, verbs := allVerbs()
	if len(verbs) < 45 {
		t.Fatalf("%d verbs", len(verbs))
	}
	line := regexp.MustCompile(`(?m)^ {2,6}(?:-\w, )?--[a-z0-9-]+`)
	named := map[string]bool{}
	for _, v := range verbs {
		path := strings.Fields(verbName(v))
		flags := map[string]bool{}
		v.LocalFlags().VisitAll(func(f *pflag.Flag) { flags[f.Name] = !f.Hidden })
		v.InheritedFlags().VisitAll(func(f *pflag.Flag) { flags[f.Name] = !f.Hidden })
		total := 0
		for name, shown := range flags {
			named[name], named[verbName(v)+" "+name] = true, true
			if shown {
				total++
				if groupOf(v, name) == "" {
					t.Errorf("%s --%s has no place in flagGroups", v.CommandPath(), name)
				}
			}
		}
		for _, name := range mainFlags[verbName(v)] {
			if !flags[name] {
				t.Errorf("mainFlags: %s has no --%s", v.CommandPath(), name)
			}
		}
		if _, ok := mainFlags[verbName(v)]; !ok && total > mostFlags {
			t.Errorf("%s has %d flags and no row in mainFlags", v.CommandPath(), total)
		}
		if v.DisableFlagParsing {
			continue // another program's flags
		}
		code, short, _ := inProcess(t, nil, append(path, "--help")...)
		_, long, _ := inProcess(t, nil, append(path, "--help", "--all")...)
		n, all := len(line.FindAllString(short, -1)), len(line.FindAllString(long, -1))
		if code != exitMatch || n > mostFlags || n == 0 {
			t.Errorf("%s --help: exit %d, %d flags, want 1 to %d\n%s", v.CommandPath(), code, n, mostFlags, short)
		}
		// help and version join when help is asked for.
		if want := total + len(slices.DeleteFunc([]string{"help", "version"}, func(s string) bool { return flags[s] || s == "version" && v.HasParent() })); all != want {
			t.Errorf("%s --help --all: %d flags, want %d\n%s", v.CommandPath(), all, want, long)
		}
		if left := fmt.Sprintf("%d more flags: %s --help --all", all-n, v.CommandPath()); all > n && !strings.Contains(short, left) {
			t.Errorf("%s --help does not say: %s", v.CommandPath(), left)
		}
	}
	for _, g := range flagGroups {
		for _, name := range g.flags {
			if !named[name] && name != "help" && name != "version" {
				t.Errorf("flagGroups: %q is no flag", name)
			}
		}
	}
}

// TestExamples runs the three examples of every verb, as printed, in the folder
// that the demo writes, with what else they name. A verdict may be bad; that a
// command cannot run is an error.
func TestExamples(t *testing.T) {
	testenv.OwnSpeed(t)
	exe := linked(t)
	_, verbs := allVerbs()
	words, env := exampleFolder(t)
	base := append(os.Environ(), "PATH="+filepath.Dir(exe)+string(os.PathListSeparator)+os.Getenv("PATH"))
	for _, name := range slices.Sorted(maps.Keys(env)) {
		base = append(base, name+"="+env[name])
	}
	ran := 0
	seen := map[string]bool{}
	for _, v := range verbs {
		code, help, _ := inProcess(t, nil, append(strings.Fields(verbName(v)), "--help")...)
		lines := exampleLines(v.Example)
		if code != exitMatch || len(lines) != 3 || !strings.Contains(help, "\nExamples:\n"+v.Example+"\n") {
			t.Errorf("%s --help has %d examples, want 3", v.CommandPath(), len(lines))
		}
		for _, line := range lines {
			if seen[line] {
				continue // a group shows those of its verbs
			}
			seen[line] = true
			if !strings.Contains(" "+line, " "+v.CommandPath()+" ") && !strings.HasSuffix(line, v.CommandPath()) && !v.HasSubCommands() && verbName(v) != "version" {
				t.Errorf("%s: an example of another verb: %s", v.CommandPath(), line)
			}
		}
	}
	for _, name := range append([]string{"verity format"}, slices.Sorted(maps.Keys(examples))...) {
		for _, line := range examples[name] {
			if !seen[line] {
				if name != "verity format" {
					t.Errorf("%s: no verb shows %s", name, line)
				}
				continue
			}
			if name == "verity format" && ran >= 3 {
				continue // ran first: others read what it writes
			}
			if _, err := exec.LookPath("nix"); err != nil && strings.Contains(line, "--sandbox-path") {
				t.Run("nix", func(t *testing.T) { testenv.Oracle(t, "nix") })
				continue
			}
			ran++
			command := strings.NewReplacer("machine.example:29343", words["$HOST"], "machine.example", words["$HOST"], "/tmp/retally-cache", filepath.Join(words["$WORK"], "other-cache")).Replace(line)
			cmd := exec.Command("sh", "-c", command)
			cmd.Env = base
			var out, errOut bytes.Buffer
			cmd.Stdout, cmd.Stderr = &out, &errOut
			_ = cmd.Run()
			if code := cmd.ProcessState.ExitCode(); code != exitMatch && code != exitDiffers && code != exitUnchecked {
				t.Errorf("$ %s\nexit code %d\n%s%s", line, code, firstOf(out.String()), errOut.String())
			} else if strings.Contains(line, "-o json") {
				if err := schemasInTree().check(out.Bytes(), code); err != nil {
					t.Errorf("$ %s\n%v", line, err)
				}
			}
		}
	}
	if ran < 120 {
		t.Errorf("%d examples ran", ran)
	}
}

func firstOf(text string) string {
	if len(text) > 600 {
		return text[:600] + "...\n"
	}
	return text
}

// exampleLines are the commands of an example.
func exampleLines(text string) []string {
	var out []string
	for line := range strings.Lines(text) {
		out = append(out, strings.TrimSpace(line))
	}
	return out
}

// exampleFolder is the demo's folder with what examples name besides.
func exampleFolder(t *testing.T) (words, env map[string]string) {
	t.Helper()
	words, env = goldenFolder(t)
	for _, dir := range []string{"images", "models", "guest", "vm", "policies", "tpm", "endorsement", "coordinator"} {
		if err := errors.Join(os.RemoveAll(dir), os.CopyFS(dir, os.DirFS(filepath.Join("demo", dir)))); err != nil {
			t.Fatal(err)
		}
	}
	files, err := filepath.Glob("demo/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range files {
		if info, err := os.Stat(name); err == nil && info.Mode().IsRegular() {
			putFile(t, filepath.Base(name), readFileOf(t, name))
		}
	}
	copyTo := func(to, from string) { putFile(t, to, readFileOf(t, from)) }
	for _, args := range [][]string{
		{"run", "-q", "--no-cache"},
		{"run", "-q", "--no-cache", "--out", "out"},
		{"shard", "plan", "-q", "models/harbor-tinychat-0-5b", "--out", "plan.json"},
		{"shard", "run", "-q", "plan.json", "--index", "0"},
	} {
		if code, _, errOut := inProcess(t, env, args...); code == exitTrouble {
			t.Fatal(errOut)
		}
	}
	copyTo("pods.yaml", "lab.yaml")
	copyTo("tables-of-another-host.bin", "tables-no-com1.bin")
	copyTo("linux.efi", "uki.efi")
	copyTo("vmlinuz.efi", "kernel.efi")
	copyTo("binary_bios_measurements", "tpm.log")
	copyTo("650-uki.pcrlock", "uki.pcrlock")
	copyTo("ours.pcrlock", "uki.pcrlock")
	copyTo("image.raw", "gpt.img")
	copyTo("guest.igvm", "good.igvm")
	putFile(t, "guest-next.igvm", igvmFile(0x30000, []byte("two"), 0))
	copyTo("disk.img", "ovmf.fd")
	copyTo("hashes-other.json", "other-hashes.json")
	copyTo("initramfs.cpio.gz", "auto/initramfs.cpio.gz")
	putFile(t, "pcr7.txt", []byte(strings.Repeat("0", 64)))
	// A search ends soon where there is something to find.
	for name, args := range map[string][]string{
		"rtmr0.txt":  {"tdx", "measure", "--profile", "secretvm", "--firmware", "vm/OVMF.fd", "--vcpus", "4", "--only", "rtmr0"},
		"launch.txt": {"snp", "measure", "--firmware", "guest/OVMF-SNP.fd", "--vcpus", "2", "--vcpu-type", "EPYC-Milan"},
	} {
		_, out, errOut := inProcess(t, env, append(args, "-q")...)
		value := regexp.MustCompile("[0-9a-f]{96}").FindString(out)
		if value == "" {
			t.Fatal(errOut)
		}
		putFile(t, name, []byte(value))
	}
	for to, from := range map[string]string{"kata": "settings/own", "checkout": "vendor", "machine": "own"} {
		if err := os.CopyFS(to, os.DirFS(from)); err != nil {
			t.Fatal(err)
		}
	}
	putFile(t, "checkout/version.nix", []byte("{ version = \"v1.40.0\"; }\n"))
	if err := os.Mkdir("checkout/scripts", 0o755); err != nil {
		t.Fatal(err)
	}
	putFile(t, "checkout/scripts/calculate-image-digests.sh", []byte("#!/bin/sh\n"))
	rules, err := filepath.Glob("rules/*.rego")
	if err != nil || len(rules) == 0 {
		t.Fatalf("no rules: %v", err)
	}
	copyTo("rules.rego", rules[0])
	sum := sha256.Sum256(readFileOf(t, "program/contrast"))
	copyTo("contrast", "program/contrast")
	putFile(t, "contrast.sha256", fmt.Appendf(nil, "%x  contrast\n", sum))
	for _, name := range []string{"id-key", "author-key"} {
		key, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		private, err1 := x509.MarshalECPrivateKey(key)
		public, err2 := x509.MarshalPKIXPublicKey(&key.PublicKey)
		if err := errors.Join(err1, err2); err != nil {
			t.Fatal(err)
		}
		putFile(t, name+".pem", pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: private}))
		putFile(t, "owner.pem", pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public}))
	}
	return words, env
}
