package main

import (
	"crypto/sha512"
	"encoding/hex"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/retally/retally/internal/testenv"
	"github.com/retally/retally/internal/testtdx"
	"github.com/retally/retally/pipeline/stages/tdx"
)

// searched is what a test needs of explain --search's JSON.
type searched struct {
	Found, Exhausted, Shape bool
	Sentence                string
	Tried                   int
	Deviations              []struct{ ID, Note, Axis, Since string }
	Error                   struct{ Message, Hint string }
}

// TestSeededMismatches publishes registers of machines that deviate in one or
// two known ways, and asks explain --search for the reason, by flags only.
func TestSeededMismatches(t *testing.T) {
	testenv.OwnSpeed(t)
	dir := t.TempDir()
	tdxArtifacts(t, dir)
	t.Chdir(dir)
	base := map[string]string{
		"profile": "secretvm", "firmware": "ovmf.fd", "kernel": "bzImage", "initrd": "auto/initramfs.cpio.gz", "docker-compose": "config/docker-compose.yaml",
		"rootfs": "rootfs.iso", "docker-files": "docker-files.tar", "cmdline": "console=ttyS0 loglevel=7 ", "app-id": strings.Repeat("0", 40), "rtmr3": "raw",
	}
	flags := func(changes ...string) []string {
		all := map[string]string{}
		for k, v := range base {
			all[k] = v
		}
		for _, c := range changes {
			name, value, _ := strings.Cut(c, "=")
			all[name] = value
		}
		var args []string
		for k, v := range all {
			args = append(args, "--"+k+"="+v)
		}
		return args
	}
	value := func(register string, args []string) string {
		m, code := measureTD(t, append(args, "--only", register)...)
		if code != exitMatch {
			t.Fatalf("measure %s: exit %d: %s", register, code, m.Error.Message)
		}
		return map[string]string{"mrtd": m.MRTD, "rtmr0": m.RTMR0, "rtmr1": m.RTMR1, "rtmr2": m.RTMR2, "rtmr3": m.RTMR3}[register]
	}
	seeds := []struct{ register, changes, want string }{
		{"mrtd", "page-order=two-pass", "page-order-two-pass"},
		{"rtmr0", "acpi-family=9.2 cpu=2", "acpi-9.2 vcpus-2"},
		{"rtmr0", "cpu=4", "vcpus-4"},
		{"rtmr0", "cpu=96", "vcpus-96"},
		{"rtmr0", "memory=16G", "memory-16384M"},
		{"rtmr0", "memory=512M", "memory-512M"},
		{"rtmr0", "acpi-family=8.2", "acpi-8.2"},
		{"rtmr0", "acpi-family=8.2 no-com1=true", "acpi-8.2 no-com1"},
		{"rtmr0", "acpi-family=9.2", "acpi-9.2"},
		{"rtmr0", "acpi-family=11.0", "acpi-11.0"},
		{"rtmr0", "acpi-family=11.1 no-com1=false", "acpi-11.1 com1"},
		{"rtmr0", "pic=true", "pic-on"},
		{"rtmr0", "no-com1=false", "com1"},
		{"rtmr0", "gpus=1", "devices-secretvm-gpu"},
		{"rtmr0", "devices=5", "devices-5"},
		{"rtmr0", "hpet=true", "hpet-on"},
		{"rtmr0", "hob=fixed", "hob-fixed"},
		{"rtmr0", "cfv=constant", "cfv-constant"},
		{"rtmr0", "trailing-separator=true", "trailing-separator"},
		{"rtmr0", "exclude-acpi-tables=true", "acpi-excluded"},
		{"rtmr0", "qemu-version=8.2.2", "qemu-8.2"},
		{"rtmr0", "qemu-version=8.2.2 cpu=4", "qemu-8.2 vcpus-4"},
		{"rtmr0", "cpu=8 memory=16G", "memory-16384M vcpus-8"},
		{"rtmr0", "cpu=4 no-com1=false", "com1 vcpus-4"},
		{"rtmr0", "cfv=constant trailing-separator=true", "cfv-constant trailing-separator"},
		{"rtmr0", "devices=5 pci-hole64=4096G", "devices-5 pci-hole-4096G"},
		{"rtmr1", "patch-kernel=false", "kernel-unpatched"},
		{"rtmr1", "qemu-version=10.2.0", "kernel-unpatched"},
		{"rtmr1", "memory=1G", "memory-1024M"},
		{"rtmr1", "memory=2815M", "memory-2815M"},
		{"rtmr1", "no-initrd=true", "no-initrd"},
		{"rtmr1", "authenticode=dstack", "authenticode-tail"},
		{"rtmr1", "memory=1G authenticode=dstack", "authenticode-tail memory-1024M"},
		{"rtmr2", "initrd-argument=suffix", "initrd-suffix"},
		{"rtmr2", "initrd-argument=prefix", "initrd-prefix"},
		{"rtmr2", "initrd-argument=suffix no-initrd=true", "initrd-suffix no-initrd"},
		{"rtmr3", "docker-compose=no-newline.yaml", "compose-no-final-newline"},
		{"rtmr3", "docker-compose=bom.yaml", "compose-bom"},
		{"rtmr3", "rootfs=rootfs-newer.iso", "rootfs-newer"},
		{"rtmr3", "docker-files=", "no-docker-files"},
		{"rtmr3", "rtmr3=secretvm-kms", "rtmr3-kms"},
		{"rtmr3", "docker-compose=windows.yaml rootfs=rootfs-older.iso", "compose-crlf rootfs-older"},
	}
	if len(seeds) < 40 {
		t.Fatalf("%d seeds, want at least 40", len(seeds))
	}
	search := func(register, want string) (s searched, code int) {
		args := []string{"explain", "tdx/machine/" + register, "--search", "--want", want, "--try-rootfs", "older=rootfs-older.iso", "--try-rootfs", "newer=rootfs-newer.iso"}
		// The shape is stated, so that only deviations from it are tried.
		code = retallyJSON(t, &s, append(args, flags("cpu=1", "memory=2G")...)...)
		return s, code
	}
	for _, s := range seeds {
		want := value(s.register, flags(strings.Fields(s.changes)...))
		if want == value(s.register, flags()) {
			t.Errorf("%s %s: the seed changes nothing", s.register, s.changes)
			continue
		}
		got, code := search(s.register, want)
		var ids []string
		for _, d := range got.Deviations {
			ids = append(ids, d.ID)
		}
		slices.Sort(ids)
		if d := cmp.Diff(s.want, strings.Join(ids, " ")); d != "" || code != exitMatch || !got.Found {
			t.Errorf("%s %s: exit %d, %s %s (-want +got):\n%s", s.register, s.changes, code, got.Sentence, got.Error.Message, d)
		}
		t.Logf("%s: %s (%d tried)", s.register, got.Sentence, got.Tried)
	}
	// The base itself, and the two blanks that cannot be flags of their own.
	if got, code := search("rtmr2", value("rtmr2", flags("cmdline=console=ttyS0 loglevel=7"))); code != exitMatch || got.Deviations[0].ID != "cmdline-trimmed" {
		t.Errorf("trimmed: %+v", got)
	}
	if got, code := search("rtmr0", value("rtmr0", flags())); code != exitMatch || got.Sentence != "matches as configured" {
		t.Errorf("no deviation: %+v", got)
	}
	for i := range 10 {
		sum := sha512.Sum384(fmt.Appendf(nil, "no cause %d", i))
		register := tdx.Registers[i%5]
		if register == "rtmr0" {
			register = "mrtd" // pairs of an RTMR0's deviations are many
		}
		got, code := search(register, hex.EncodeToString(sum[:]))
		if code != exitDiffers || got.Found || !got.Exhausted || !strings.HasPrefix(got.Sentence, "no known variant matches (") || got.Tried == 0 {
			t.Errorf("no cause %d: exit %d, %+v", i, code, got)
		}
	}
}

// TestShapeFromFlags finds the machine behind an RTMR0 when only the firmware
// is given.
func TestShapeFromFlags(t *testing.T) {
	testenv.OwnSpeed(t)
	dir := t.TempDir()
	tdxArtifacts(t, dir)
	t.Chdir(dir)
	m, code := measureTD(t, "--profile", "secretvm", "--firmware", "ovmf.fd", "--only", "rtmr0", "--cpu", "8", "--memory", "4G", "--no-com1=false")
	if code != exitMatch {
		t.Fatal(m.Error.Message)
	}
	var s searched
	code = retallyJSON(t, &s, "explain", "rtmr0", "--search", "--firmware", "ovmf.fd", "--want", m.RTMR0)
	if code != exitMatch || !s.Shape || s.Sentence != "matches with a serial port, 8 vCPUs and 4 GiB of memory" {
		t.Errorf("exit %d, %+v", code, s)
	}
}

// TestVectorShapeSearch finds published machines of SecretVM from their RTMR0
// and a firmware of the same memory layout, whose variable store is another.
func TestVectorShapeSearch(t *testing.T) {
	testenv.OwnSpeed(t)
	f := inputFiles{testtdx.NewFiles(t), t.TempDir()}
	var v struct {
		Shapes []struct {
			Template, RTMR0 string
			Shape           secretVMShape
		}
	}
	testtdx.ReadJSON(t, filepath.Join(f.Dir, "secretvm_rtmr0_shapes.json"), &v)
	for _, m := range v.Shapes {
		var s searched
		code := retallyJSON(t, &s, "explain", "rtmr0", "--search", "--firmware", f.path(t, "fw02-layoutB.fd"), "--want", m.RTMR0)
		// All of them are usual machines: tens of thousands of combinations would
		// mean that they are looked for last.
		if code != exitMatch || s.Tried > 20000 {
			t.Errorf("%s: exit %d, %+v", m.Template, code, s)
		}
		t.Logf("%s: %s (%d tried)", m.Template, s.Sentence, s.Tried)
	}
}
