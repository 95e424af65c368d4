package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/retally/retally/internal/testenv"
)

// knownDivergences are the machines for which flags and retally.yaml give two
// answers today. A machine that is not listed must agree, and a listed one that
// agrees must leave the list: it only gets shorter.
var knownDivergences = []string{}

// A doorCase is one machine described at both doors, as
// vectors/own/house/divergence.sh has them.
type doorCase struct {
	name string
	// metadata is written to metadata.json where it is not empty.
	metadata string
	// flags go to `tdx measure`; yaml is the platform in a retally.yaml.
	flags []string
	yaml  string
	// keys are the registers that are compared.
	keys []string
	// also is what else must hold.
	also func(t *testing.T, flags, yaml answer) string
}

// An answer is what one door says.
type answer struct {
	code      int
	registers map[string]string
	refused   string // the error's message
	hint      string
}

var allRegisters = []string{"mrtd", "rtmr0", "rtmr1", "rtmr2"}

func metadataOf(machine string) string {
	return fmt.Sprintf(`{"boot_config":{"bios":"ovmf.fd","cpus":2,"memory":"4G","qemu":{"machine":%q,"devices":["virtio-net-pci,netdev=n0"]}},`+
		`"direct":{"kernel":"bzImage","initrd":"initrd","cmdline":"console=ttyS0"}}`, machine)
}

const dstackImage = `{"bios":"ovmf.fd","kernel":"bzImage","initrd":"initrd","cmdline":"console=ttyS0","rootfs":"rootfs.bin","version":"0.5.4"}`

var doorCases = []doorCase{
	{
		name: "control: metadata alone", metadata: metadataOf("q35,kernel_irqchip=split"), keys: allRegisters,
		flags: []string{"--profile", "tdx-measure", "--metadata", "metadata.json"},
		yaml:  "profile: tdx-measure, metadata: metadata.json",
	},
	{
		name: "pic off, said over metadata", metadata: metadataOf("q35,kernel_irqchip=split"), keys: allRegisters,
		flags: []string{"--profile", "tdx-measure", "--metadata", "metadata.json", "--pic=false"},
		yaml:  "profile: tdx-measure, metadata: metadata.json, pic: false",
	},
	{
		name: "pic off in metadata, QEMU 8.2.0", metadata: metadataOf("q35,pic=off,kernel_irqchip=split"), keys: allRegisters,
		flags: []string{"--profile", "tdx-measure", "--metadata", "metadata.json", "--qemu-version", "8.2.0"},
		yaml:  "profile: tdx-measure, metadata: metadata.json, qemu: 8.2.0",
	},
	{
		name: "no profile, metadata has it", metadata: metadataOf("q35,pic=off,kernel_irqchip=split"), keys: allRegisters,
		flags: []string{"--metadata", "metadata.json"},
		yaml:  "metadata: metadata.json",
		also: func(t *testing.T, flags, _ answer) string {
			// What check proposes must be able to run where the flags do.
			if code, out, errOut := inProcess(t, nil, "-q", "check", "metadata.json", "--no-cache"); code == exitTrouble && flags.code != exitTrouble {
				return "check refuses the metadata: " + out + errOut
			}
			return ""
		},
	},
	{
		name: "no initrd", keys: []string{"rtmr1", "rtmr2"},
		flags: []string{"--profile", "secretvm", "--firmware", "ovmf.fd", "--kernel", "bzImage", "--cmdline", "x", "--memory", "2G", "--cpu", "1", "--only", "rtmr1,rtmr2"},
		yaml:  "profile: secretvm, firmware: ovmf.fd, kernel: bzImage, cmdline: x, memory: 2G, vcpus: 1",
	},
	{
		name: "dstack image without size", metadata: dstackImage, keys: allRegisters,
		flags: []string{"--profile", "dstack", "--metadata", "metadata.json", "--only", "mrtd,rtmr0,rtmr1,rtmr2"},
		yaml:  "profile: dstack, metadata: metadata.json",
	},
	{
		name: "dstack with one GPU", keys: []string{"rtmr0"},
		flags: []string{"--profile", "dstack", "--firmware", "ovmf.fd", "--gpus", "1", "--memory", "8G", "--cpu", "4", "--only", "rtmr0"},
		yaml:  "profile: dstack, firmware: ovmf.fd, gpus: 1, memory: 8G, vcpus: 4",
	},
	{
		name: "profile of the user's own", keys: []string{"mrtd"},
		flags: []string{"--profile", "own.yaml", "--firmware", "ovmf.fd", "--only", "mrtd"},
		yaml:  "profile: own.yaml, firmware: ovmf.fd",
	},
	{
		name: "a hint of the other door", metadata: metadataOf("pc"), keys: allRegisters,
		flags: []string{"--profile", "tdx-measure", "--metadata", "metadata.json"},
		yaml:  "profile: tdx-measure, metadata: metadata.json",
		also: func(_ *testing.T, _, yaml answer) string {
			if text := yaml.refused + " " + yaml.hint; strings.Contains(text, " --") || strings.Contains(text, "(--") {
				return "retally.yaml's user is told a flag that run does not have: " + text
			}
			return ""
		},
	},
}

// TestDoors describes each machine by flags and by retally.yaml and wants one
// answer: the same registers, or the same reason for none.
func TestDoors(t *testing.T) {
	files := testenv.Vectors(t, "own/tdx/files")
	profile := readFileOf(t, filepath.Join(testenv.ModuleRoot(t), "profiles", "tdx", "secretvm.yaml"))
	dir := t.TempDir()
	t.Chdir(dir)
	copies := map[string]string{
		"ovmf.fd": "fw01-layoutA.fd", "bzImage": "k01-modern.efi", "initrd": "initrd-1.bin", "rootfs.bin": "rootfs-small.bin", "compose.yaml": "compose-a.yaml",
	}
	for to, from := range copies {
		putFile(t, to, readFileOf(t, filepath.Join(files, from)))
	}
	putFile(t, "own.yaml", bytes.Replace(profile, []byte("\nname: secretvm\n"), []byte("\nname: own\n"), 1))
	if !bytes.Contains(readFileOf(t, "own.yaml"), []byte("name: own\n")) {
		t.Fatal("profiles/tdx/secretvm.yaml has no name to change")
	}
	names := []string{"capture whose page is a link out of the folder"}
	for _, c := range doorCases {
		names = append(names, c.name)
		t.Run(c.name, func(t *testing.T) {
			if c.metadata != "" {
				putFile(t, "metadata.json", []byte(c.metadata))
			}
			flags, yaml := byFlags(t, c.flags), byYAML(t, c.yaml)
			problem := differing(flags, yaml, c.keys)
			if problem == "" && c.also != nil {
				problem = c.also(t, flags, yaml)
			}
			divergence(t, c.name, problem)
		})
	}
	t.Run(names[0], func(t *testing.T) { divergence(t, names[0], captureDoors(t, dir)) })
	for _, known := range knownDivergences {
		if !slices.Contains(names, known) {
			t.Errorf("knownDivergences has %q, which is no case", known)
		}
	}
}

// divergence fails where the list of known ones and a case's outcome disagree.
func divergence(t *testing.T, name, problem string) {
	t.Helper()
	switch known := slices.Contains(knownDivergences, name); {
	case problem != "" && !known:
		t.Error(problem)
	case problem == "" && known:
		t.Error("both doors agree now: take this case off knownDivergences")
	}
}

func byFlags(t *testing.T, flags []string) answer {
	t.Helper()
	code, out, errOut := inProcess(t, nil, append([]string{"-q", "tdx", "measure", "-o", "json"}, flags...)...)
	var doc map[string]any
	if err := json.Unmarshal([]byte(out), &doc); err != nil {
		t.Fatalf("tdx measure %q: %v\n%s%s", flags, err, out, errOut)
	}
	a := answer{code: code, registers: map[string]string{}}
	a.takeError(doc)
	for _, name := range allRegisters {
		if value, ok := doc[name].(string); ok && value != "" {
			a.registers[name] = value
		}
	}
	return a
}

func byYAML(t *testing.T, platform string) answer {
	t.Helper()
	putFile(t, "machine.yaml", []byte("version: 1\nplatforms:\n  m: {tee: tdx, "+platform+"}\n"))
	code, out, errOut := inProcess(t, nil, "-q", "run", "-f", "machine.yaml", "--no-cache", "--out", "out", "-o", "json")
	var doc map[string]any
	if err := json.Unmarshal([]byte(out), &doc); err != nil {
		t.Fatalf("run %q: %v\n%s%s", platform, err, out, errOut)
	}
	a := answer{code: code, registers: map[string]string{}}
	a.takeError(doc)
	for key, value := range measurementsOf(t, doc) {
		if name := strings.TrimPrefix(strings.TrimPrefix(key, "tdx/m/"), "assumed/"); slices.Contains(allRegisters, name) {
			_, hex, _ := strings.Cut(value, ":")
			a.registers[name] = hex
		}
	}
	return a
}

func (a *answer) takeError(doc map[string]any) {
	if e, ok := doc["error"].(map[string]any); ok {
		a.refused, _ = e["message"].(string)
		a.hint, _ = e["hint"].(string)
	}
}

func measurementsOf(t *testing.T, doc map[string]any) map[string]string {
	t.Helper()
	out := map[string]string{}
	list, _ := doc["measurements"].([]any)
	for _, e := range list {
		m, ok := e.(map[string]any)
		if !ok {
			t.Fatalf("a measurement is %T", e)
		}
		key, _ := m["key"].(string)
		out[key] = fmt.Sprint(m["value"])
	}
	return out
}

// differing says in what two answers differ.
func differing(flags, yaml answer, keys []string) string {
	if flags.refused != "" && yaml.refused != "" {
		if f, y := core(flags.refused), core(yaml.refused); f != y {
			return fmt.Sprintf("refused for two reasons:\nflags: %s\nyaml:  %s", flags.refused, yaml.refused)
		}
		return ""
	}
	if flags.refused != "" || yaml.refused != "" {
		return fmt.Sprintf("one door refuses:\nflags: %s %v\nyaml:  %s %v", flags.refused, flags.registers, yaml.refused, yaml.registers)
	}
	var out []string
	for _, k := range keys {
		if f, y := flags.registers[k], yaml.registers[k]; f != y {
			out = append(out, fmt.Sprintf("%s: %q by flags, %q by retally.yaml", k, f, y))
		}
	}
	if len(out) == 0 && flags.code == exitTrouble != (yaml.code == exitTrouble) {
		out = append(out, fmt.Sprintf("exit %d by flags, %d by retally.yaml", flags.code, yaml.code))
	}
	return strings.Join(out, "\n")
}

// core is the part of a message that both doors must share: its last sentence
// without the place in front and the hint behind, which name the door.
func core(msg string) string {
	msg, _, _ = strings.Cut(msg, " (")
	parts := strings.Split(msg, ": ")
	return strings.Join(parts[max(0, len(parts)-2):], ": ")
}

// captureDoors gives a capture whose page lies outside of its folder to the
// three verbs that read captures: all refuse it, and say why.
func captureDoors(t *testing.T, dir string) string {
	if code, _, errOut := inProcess(t, nil, "-q", "demo", "--dir", "demo", "--no-cache"); code == exitTrouble {
		t.Fatal(errOut)
	}
	for _, folder := range []string{"cap", "away"} {
		if err := os.Mkdir(folder, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	page := readFileOf(t, "demo/vm/cpu.html")
	putFile(t, "away/cpu.html", page)
	if err := os.Symlink(filepath.Join(dir, "away", "cpu.html"), "cap/cpu.html"); err != nil {
		t.Fatal(err)
	}
	putFile(t, "cap/tls-chain-1.pem", readFileOf(t, "demo/vm/tls.pem"))
	putFile(t, "cap/capture.json", fmt.Appendf(nil, `{"format":"retally-capture/1","target":"h:29343","captured_at":"2026-06-01T00:00:00Z",`+
		`"pages":[{"kind":"cpu","path":"/cpu.html","status":200,"file":"cpu.html","digest":"sha256:%x","connection":1}],`+
		`"connections":[{"number":1,"tls_version":"TLS 1.3","server_name":"h","certificates":"tls-chain-1.pem"}]}`, sha256.Sum256(page)))
	putFile(t, "capture.yaml", []byte("version: 1\nevidence:\n  m: {file: cap, at: 2026-06-01T00:00:00Z, intel_root: demo/vm/test-root.pem}\n"))
	doors := map[string][]string{
		"evidence verify": {"-q", "evidence", "verify", "cap", "--at", "2026-06-01T00:00:00Z", "--intel-root", "demo/vm/test-root.pem"},
		"check":           {"-q", "check", "cap", "--no-cache"},
		"run":             {"-q", "run", "-f", "capture.yaml", "--no-cache", "--out", "out-capture"},
	}
	var out []string
	for _, name := range slices.Sorted(maps.Keys(doors)) {
		code, stdout, stderr := inProcess(t, nil, doors[name]...)
		if code != exitTrouble || !strings.Contains(stderr, "cpu.html is a link") {
			out = append(out, fmt.Sprintf("%s: exit %d, want %d and that the page is a link\n%s%s", name, code, exitTrouble, stdout, stderr))
		}
	}
	return strings.Join(out, "\n")
}

func readFileOf(t *testing.T, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func putFile(t *testing.T, name string, data []byte) {
	t.Helper()
	if err := os.WriteFile(name, data, 0o644); err != nil {
		t.Fatal(err)
	}
}
