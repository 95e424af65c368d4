package tpm_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/ovmf"
	"github.com/retally/retally/internal/testenv"
	"github.com/retally/retally/internal/testpe"
	"github.com/retally/retally/internal/testrun"
	"github.com/retally/retally/pipeline"
	"github.com/retally/retally/pipeline/stages/tpm"
	"github.com/retally/retally/verity"
)

// machine writes a unified kernel image and gives its configuration.
func machine(t *testing.T, more string) (dir, config string) {
	t.Helper()
	dir = t.TempDir()
	kernel := testpe.Image([]string{".text"}, []byte("kernel"))
	write(t, dir, "uki.efi", testpe.Image([]string{".linux", ".osrel", ".cmdline", ".initrd"}, kernel, []byte("ID=x"), []byte("quiet"), []byte("initrd")))
	return dir, "version: 1\nplatforms:\n  vm: {tee: tpm, uki: uki.efi, empty_vars: true, systemd: '252'" + more + "}\n"
}

func write(t *testing.T, dir, name string, data []byte) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
		t.Fatal(err)
	}
}

func pcr(n int) pipeline.Key { return tpm.Key("vm", digest.SHA256, n) }

func value(t *testing.T, r *pipeline.Report, n int) string {
	t.Helper()
	m := testrun.Measured(r, pcr(n))
	if m == nil {
		t.Fatalf("PCR %d was not predicted", n)
	}
	return m.Value.Digest().Hex()
}

// TestExpected: what is predicted agrees with what is expected, and nothing else
// does.
func TestExpected(t *testing.T) {
	dir, config := machine(t, "")
	r := testrun.Run(t, dir, config)
	if r.Outcome != pipeline.OutcomeUnchecked || len(r.Findings) != 0 {
		t.Errorf("nothing was compared: %s", r.Outcome)
	}
	want := map[int]string{}
	for _, n := range []int{2, 4, 9, 11, 12} {
		want[n] = value(t, r, n)
		if m := testrun.Measured(r, pcr(n)); m.Trace == nil || m.Basis != pipeline.Recomputed {
			t.Errorf("PCR %d: %s, trace %v", n, m.Basis, m.Trace)
		}
	}
	if want[2] != "3d458cfe55cc03ea1f443f1562beec8df51c75e14a9fcf9a7234a13f198e7969" {
		t.Errorf("PCR 2 = %s", want[2])
	}
	expect := func(list map[int]string) string {
		var parts []string
		for n, v := range list {
			parts = append(parts, fmt.Sprintf("pcr%d: '%s'", n, v))
		}
		return ", expect: {" + strings.Join(parts, ", ") + "}"
	}
	golden := func(list map[int]string) []byte {
		var parts []string
		for n, v := range list {
			parts = append(parts, fmt.Sprintf("%q: %q", fmt.Sprint(n), v))
		}
		return []byte(`{"measurements": {` + strings.Join(parts, ", ") + `}}`)
	}
	other := map[int]string{2: want[2], 4: strings.Repeat("ab", 32)}
	write(t, dir, "right.json", golden(want))
	write(t, dir, "wrong.json", golden(other))
	zeros := strings.Repeat("0", 64)
	for name, c := range map[string]struct {
		more string
		want pipeline.Outcome
	}{
		"expected":              {expect(want), pipeline.OutcomeMatch},
		"another":               {expect(other), pipeline.OutcomeDiffers},
		"golden":                {", golden: right.json", pipeline.OutcomeMatch},
		"another golden":        {", golden: wrong.json", pipeline.OutcomeDiffers},
		"golden and expect":     {", golden: right.json" + expect(other), pipeline.OutcomeDiffers},
		"no firmware":           {expect(map[int]string{0: zeros, 2: want[2]}), pipeline.OutcomeUnchecked},
		"a constant":            {", devices: virtio-disk" + expect(map[int]string{1: "5279d78eaa2b9f2745b0929e0925372686584ea26708ef40e5d8f45ca061e839"}), pipeline.OutcomeUnchecked},
		"no firmware, PCR 7":    {expect(map[int]string{2: want[2], 7: value(t, r, 7)}), pipeline.OutcomeUnchecked},
		"what runs later":       {expect(map[int]string{15: zeros}), pipeline.OutcomeUnchecked},
		"what can be reset":     {expect(map[int]string{16: zeros, 23: zeros, 2: want[2]}), pipeline.OutcomeUnchecked},
		"golden, another bank":  {", banks: [sha384], golden: right.json", pipeline.OutcomeMatch},
		"golden, another value": {", banks: [sha384], golden: wrong.json", pipeline.OutcomeDiffers},
	} {
		_, text := machine(t, c.more)
		r := testrun.Run(t, dir, text)
		if r.Outcome != c.want {
			t.Errorf("%s: %s, want %s: %s", name, r.Outcome, c.want, r.Summary)
		}
	}
}

// TestEachByte: a changed byte of the image changes PCR 4, one of a section
// PCR 11 too.
func TestEachByte(t *testing.T) {
	dir, config := machine(t, "")
	r := testrun.Run(t, dir, config)
	image, err := os.ReadFile(filepath.Join(dir, "uki.efi"))
	if err != nil {
		t.Fatal(err)
	}
	at := strings.Index(string(image), "quiet")
	image[at] = 'Q'
	write(t, dir, "uki.efi", image)
	changed := testrun.Run(t, dir, config)
	for _, n := range []int{4, 9, 11} {
		if value(t, r, n) == value(t, changed, n) {
			t.Errorf("PCR %d is the same for another command line", n)
		}
	}
}

// TestCommandLine: one that nobody gave is not an empty one.
func TestCommandLine(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "kernel", testpe.Image([]string{".text"}, []byte("kernel")))
	config := "version: 1\nplatforms:\n  vm: {tee: tpm, kernel: kernel, empty_vars: true, ima: ima-sig"
	r := testrun.Run(t, dir, config+"}\n")
	for _, n := range []int{9, 10} {
		if m := testrun.Measured(r, pcr(n)); m != nil {
			t.Errorf("PCR %d = %s without a command line", n, m.Value)
		}
	}
	if r := testrun.Run(t, dir, config+", cmdline: ''}\n"); testrun.Measured(r, pcr(9)) == nil {
		t.Error("PCR 9 is missing with an empty command line")
	}
	// The search does not fill it in either, and a deviation is found and proved.
	want := value(t, testrun.Run(t, dir, config+", cmdline: 'quiet '}\n"), 9)
	r = testrun.Run(t, dir, config+", cmdline: quiet, expect: {pcr9: '"+want+"'}}\n")
	f := testrun.Finding(t, r, pcr(9))
	if r.Outcome != pipeline.OutcomeDiffers || !strings.Contains(testrun.Causes(f), "cmdline-space") || len(f.Why) != 1 || f.Why[0].Standing != pipeline.Proved {
		t.Errorf("%s: %s", r.Outcome, testrun.Causes(f))
	}
}

// TestKernelNotMeasured: with Secure Boot on, PCR 4 is equal for every kernel of
// -kernel: an equal value is no match.
func TestKernelNotMeasured(t *testing.T) {
	const vars = "/usr/share/OVMF/OVMF_VARS_4M.ms.fd"
	data, err := os.ReadFile(vars)
	if err != nil {
		testenv.Missing(t, "OVMF_VARS_4M.ms.fd of Debian's ovmf")
	}
	dir := t.TempDir()
	write(t, dir, "vars.fd", data)
	write(t, dir, "kernel", testpe.Image([]string{".text"}, []byte("kernel")))
	config := "version: 1\nplatforms:\n  vm: {tee: tpm, kernel: kernel, cmdline: '', vars: vars.fd"
	r := testrun.Run(t, dir, config+"}\n")
	if got := value(t, r, 4); !strings.HasPrefix(got, "7a94ffe8") { // as recorded boots have it
		t.Errorf("PCR 4 = %s", got)
	}
	r = testrun.Run(t, dir, config+", expect: {pcr4: '"+value(t, r, 4)+"'}}\n")
	if f := testrun.Finding(t, r, pcr(4)); f.Verdict != pipeline.Match || r.Outcome != pipeline.OutcomeDiffers {
		t.Errorf("an equal PCR 4 that has no kernel: %s, %s", f.Verdict, r.Outcome)
	}
	found := false
	for _, p := range r.Problems {
		found = found || p.Code == "secure-boot-kernel-not-measured" && p.Level == pipeline.LevelError
	}
	if !found {
		t.Errorf("problems: %v", r.Problems)
	}
}

// TestApplication: PCR 15 has the root hash of the application's disk and the
// CA; UUIDs that the data do not fit prove nothing.
func TestApplication(t *testing.T) {
	dir := t.TempDir()
	image := appDisk(t)
	write(t, dir, "app.img", image)
	write(t, dir, "ca.pem", []byte("-----BEGIN CERTIFICATE-----\n"))
	root := hex.EncodeToString(append(gptUUID(image[1024+16:]), gptUUID(image[1024+128+16:])...))
	base := "version: 1\nplatforms:\n  vm: {tee: tpm, app_ca: ca.pem, "
	r := testrun.Run(t, dir, base+"app_disk: app.img, app_root: '"+root+"'}\n")
	m := testrun.Measured(r, "tpm/vm/app-root")
	if m == nil || m.Basis != pipeline.Recomputed || m.Value.Digest().Hex() != root {
		t.Fatalf("root hash %v, want %s; %v", m, root, r.Problems)
	}
	v := make([]byte, 32)
	ca := sha256.Sum256([]byte("-----BEGIN CERTIFICATE-----\n"))
	raw, err := hex.DecodeString(root)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range [][]byte{raw, make([]byte, 32), ca[:]} {
		sum := sha256.Sum256(append(v, d...))
		v = sum[:]
	}
	want := hex.EncodeToString(v)
	if got := value(t, r, 15); got != want {
		t.Errorf("PCR 15 = %s, want %s", got, want)
	}
	expect := ", expect: {pcr15: '" + want + "'}}\n"
	if r := testrun.Run(t, dir, base+"app_disk: app.img"+expect); r.Outcome != pipeline.OutcomeMatch {
		t.Errorf("the disk is there: %s", r.Summary)
	}
	if r := testrun.Run(t, dir, base+"app_root: '"+root+"'"+expect); r.Outcome != pipeline.OutcomeUnchecked {
		t.Errorf("the root hash is copied: %s", r.Outcome)
	}
	if r := testrun.Run(t, dir, base+"app_disk: app.img, app_root: '"+strings.Repeat("ab", 32)+"'"+expect); r.Outcome != pipeline.OutcomeDiffers {
		t.Errorf("another root hash: %s", r.Outcome)
	}
	image[40*512] ^= 1
	write(t, dir, "app.img", image)
	r = testrun.Run(t, dir, base+"app_disk: app.img"+expect)
	if testrun.Measured(r, "tpm/vm/app-root") != nil || r.Outcome != pipeline.OutcomeDiffers {
		t.Errorf("data that the root hash does not fit: %s", r.Outcome)
	}
}

// gptUUID is the text order of a stored UUID's bytes.
func gptUUID(b []byte) []byte {
	return []byte{b[3], b[2], b[1], b[0], b[5], b[4], b[7], b[6], b[8], b[9], b[10], b[11], b[12], b[13], b[14], b[15]}
}

// appDisk is a disk's image with the partitions app and app-verity.
func appDisk(t *testing.T) []byte {
	t.Helper()
	le := binary.LittleEndian
	dir := t.TempDir()
	data := bytes.Repeat([]byte("application data"), 4096/16*4)
	write(t, dir, "data", data)
	p := verity.Defaults()
	p.Salt = bytes.Repeat([]byte{7}, 32)
	res, err := verity.FormatFiles(t.Context(), filepath.Join(dir, "data"), filepath.Join(dir, "hash"), p, verity.FEC{}, verity.Options{})
	if err != nil {
		t.Fatal(err)
	}
	tree, err := os.ReadFile(filepath.Join(dir, "hash"))
	if err != nil {
		t.Fatal(err)
	}
	root := res.Root.Bytes()
	b := make([]byte, 256<<10)
	head := b[512:]
	copy(head, "EFI PART")
	le.PutUint32(head[8:], 0x10000)
	le.PutUint32(head[12:], 92)
	le.PutUint64(head[24:], 1)
	le.PutUint64(head[32:], uint64(len(b)/512-1))
	le.PutUint64(head[40:], 34)
	le.PutUint64(head[48:], uint64(len(b)/512-34))
	le.PutUint64(head[72:], 2)
	le.PutUint32(head[80:], 128)
	le.PutUint32(head[84:], 128)
	kind, err := ovmf.ParseGUID("0fc63daf-8483-4772-8e79-3d69d8477de4")
	if err != nil {
		t.Fatal(err)
	}
	at := 40
	for i, c := range []struct {
		name string
		data []byte
	}{{"app", data}, {"app-verity", tree}} {
		e := b[1024+128*i:]
		copy(e, kind[:])
		copy(e[16:], gptUUID(root[16*i:16*i+16])) // its own inverse
		sectors := (len(c.data) + 511) / 512
		le.PutUint64(e[32:], uint64(at))
		le.PutUint64(e[40:], uint64(at+sectors-1))
		for j, u := range c.name {
			le.PutUint16(e[56+2*j:], uint16(u))
		}
		copy(b[at*512:], c.data)
		at += sectors
	}
	le.PutUint32(head[88:], crc32.ChecksumIEEE(b[1024:1024+128*128]))
	le.PutUint32(head[16:], crc32.ChecksumIEEE(head[:92]))
	return b
}
