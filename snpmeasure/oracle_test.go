package snpmeasure_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/testenv"
	"github.com/retally/retally/snpmeasure"
)

// oracleCase is a line for testdata/oracle.py.
type oracleCase struct {
	Mode     string  `json:"mode"`
	VMM      string  `json:"vmm,omitempty"`
	OVMF     string  `json:"ovmf"`
	SVSM     string  `json:"svsm,omitempty"`
	Vars     int64   `json:"vars,omitempty"`
	Kernel   string  `json:"kernel,omitempty"`
	Initrd   string  `json:"initrd,omitempty"`
	Append   string  `json:"append,omitempty"`
	VCPUs    int     `json:"vcpus,omitempty"`
	Type     string  `json:"type,omitempty"`
	Sig      *uint32 `json:"sig,omitempty"`
	FMS      []int   `json:"fms,omitempty"`
	Features uint64  `json:"features"`
	Seed     string  `json:"seed,omitempty"`
	// Known hashes in place of files, as SHA-256 in hex.
	KernelHash string `json:"kernel_hash,omitempty"`
	InitrdHash string `json:"initrd_hash,omitempty"`
}

type oracleAnswer struct{ Digest, Error string }

// oraclePython finds the Python in which sev-snp-measure is installed: beside
// the program or in its first line.
func oraclePython(t *testing.T) string {
	t.Helper()
	program := os.Getenv("RETALLY_SEV_SNP_MEASURE")
	if program == "" {
		program, _ = exec.LookPath("sev-snp-measure")
	}
	data, err := os.ReadFile(program)
	if err != nil {
		testenv.Missing(t, "sev-snp-measure 0.0.13 (RETALLY_SEV_SNP_MEASURE names the program)")
	}
	line, _, _ := strings.Cut(string(data), "\n")
	python, ok := strings.CutPrefix(line, "#!")
	if !ok {
		t.Fatalf("%s does not begin with the path of a Python", program)
	}
	out, err := exec.Command(python, "-c", "import importlib.metadata as m; print(m.version('sev-snp-measure'))").CombinedOutput()
	if err != nil || strings.TrimSpace(string(out)) != "0.0.13" {
		t.Fatalf("sev-snp-measure 0.0.13 is wanted, %s has %s: %v", python, out, err)
	}
	return python
}

// askOracle runs all cases in one process.
func askOracle(t *testing.T, cases []oracleCase) []oracleAnswer {
	t.Helper()
	python := oraclePython(t)
	var in bytes.Buffer
	enc := json.NewEncoder(&in)
	for _, c := range cases {
		if err := enc.Encode(c); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command(python, "testdata/oracle.py")
	cmd.Stdin, cmd.Stderr = &in, os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	var answers []oracleAnswer
	lines := bufio.NewScanner(bytes.NewReader(out))
	for lines.Scan() {
		var a oracleAnswer
		if err := json.Unmarshal(lines.Bytes(), &a); err != nil {
			t.Fatal(err)
		}
		answers = append(answers, a)
	}
	if len(answers) != len(cases) {
		t.Fatalf("%d answers to %d questions", len(answers), len(cases))
	}
	return answers
}

// measure asks the library what the oracle is asked.
func (c *oracleCase) measure(t *testing.T) (*snpmeasure.Result, error) {
	t.Helper()
	file := func(path string) snpmeasure.Input {
		if path == "" {
			return snpmeasure.Input{}
		}
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return snpmeasure.Bytes(filepath.Base(path), data)
	}
	in := input{Mode: c.Mode, VMM: c.VMM, Type: c.Type, Sig: c.Sig, FMS: c.FMS, VCPUs: c.VCPUs, Append: c.Append, Features: &c.Features, Seed: c.Seed, Vars: c.Vars}
	_, config, _, err := in.machine(t, nil)
	if err != nil {
		return nil, err
	}
	a := snpmeasure.Artifacts{Firmware: file(c.OVMF), SVSM: file(c.SVSM), Kernel: file(c.Kernel), Initrd: file(c.Initrd)}
	for to, hex := range map[*snpmeasure.Input]string{&a.Kernel: c.KernelHash, &a.Initrd: c.InitrdHash} {
		if hex != "" {
			*to = snpmeasure.Input{Name: "known", Known: sha256Of(t, hex)}
		}
	}
	return snpmeasure.New(a).Measure(context.Background(), config)
}

func sha256Of(t testing.TB, hex string) digest.Digest {
	t.Helper()
	d, err := digest.ParseHex(digest.SHA256, hex)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// compare holds the library against the oracle: the same digest, or an error
// on both sides.
func compare(t *testing.T, cases []oracleCase) (equal, errs int) {
	t.Helper()
	for i, a := range askOracle(t, cases) {
		r, err := cases[i].measure(t)
		line, _ := json.Marshal(cases[i])
		switch {
		case a.Error != "" && err != nil:
			errs++
		case a.Error != "":
			t.Errorf("%s: digest %s, the oracle fails with %s", line, r.Digest.Hex(), a.Error)
		case err != nil:
			t.Errorf("%s: %v, the oracle has %s", line, err, a.Digest)
		case r.Digest.Hex() != a.Digest:
			t.Errorf("%s: digest %s, the oracle has %s", line, r.Digest.Hex(), a.Digest)
		default:
			equal++
		}
	}
	return equal, errs
}

// randomCase draws parameters for a firmware.
func randomCase(r *rand.Rand, ovmf, kernel string, initrds []string) oracleCase {
	c := oracleCase{OVMF: ovmf, Features: 1}
	c.Mode = pick(r, "snp", "snp", "snp", "snp", "seves", "sev", "snp:ovmf-hash")
	if c.Mode == "snp:ovmf-hash" {
		return c
	}
	if c.Mode != "sev" {
		c.VMM = pick(r, "QEMU", "QEMU", "ec2", "gce")
		c.VCPUs = pick(r, 1, 1, 2, 3, 4, 8, 0, 16, 1+r.IntN(64))
		switch r.IntN(4) {
		case 0:
			sig := r.Uint32()
			c.Sig = &sig
		case 1:
			c.FMS = []int{r.IntN(300), r.IntN(256), r.IntN(20)}
		default:
			// The oracle does not know the versions of Turin.
			c.Type = pick(r, slices.DeleteFunc(snpmeasure.CPUTypes(), func(s string) bool { return strings.HasPrefix(s, "EPYC-Turin-") })...)
		}
		c.Features = pick(r, 1, 1, 0x21, 0, r.Uint64())
	}
	if r.IntN(3) > 0 {
		c.Kernel = kernel
		if r.IntN(2) > 0 {
			c.Initrd = pick(r, initrds...)
		}
		c.Append = pick(r, "", "console=ttyS0", " ", "x=1 ", "\tquiet", "größe=你", strings.Repeat("a", r.IntN(3000)))
	}
	if c.Mode == "snp" && r.IntN(5) == 0 {
		seed := make([]byte, 48)
		for i := range seed {
			seed[i] = byte(r.Uint32())
		}
		c.Seed = fmt.Sprintf("%x", seed)
	}
	return c
}

func pick[T any](r *rand.Rand, from ...T) T { return from[r.IntN(len(from))] }

// TestOracleRandom: 200 random parameter sets on synthetic firmware, the
// malformed among it too, and some with an SVSM.
func TestOracleRandom(t *testing.T) {
	oraclePython(t)
	f := newFiles(t, fixture(t, ""))
	dir := t.TempDir()
	write := func(name string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, f.get(t, name), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	var firmware, svsm []string
	for name, row := range f.list {
		switch {
		case strings.HasPrefix(name, "svsm-") && name != "svsm-ovmf-16k":
			svsm = append(svsm, write(name))
		case row.File != "":
			firmware = append(firmware, write(name))
		}
	}
	slices.Sort(firmware)
	slices.Sort(svsm)
	good := []string{filepath.Join(dir, "a-std-8k"), filepath.Join(dir, "b-std-64k"), filepath.Join(dir, "k-reorder-8k"), filepath.Join(dir, "r-twocpuid-8k")}
	r := rand.New(rand.NewPCG(14, 2026))
	var cases []oracleCase
	for len(cases) < 180 {
		fw := pick(r, good...)
		if r.IntN(2) == 0 {
			fw = pick(r, firmware...)
		}
		cases = append(cases, randomCase(r, fw, write(pick(r, "k1", "k3")), []string{write("i1"), write("i2")}))
	}
	for len(cases) < 200 {
		c := oracleCase{Mode: "snp:svsm", OVMF: pick(r, firmware...), SVSM: pick(r, svsm...), Vars: 4096 * int64(1+r.IntN(500)), VCPUs: r.IntN(5), Type: "EPYC-Milan", Features: 1}
		cases = append(cases, c)
	}
	equal, errs := compare(t, cases)
	t.Logf("%d cases: %d digests equal, %d errors on both sides", len(cases), equal, errs)
	if equal < 120 {
		t.Errorf("only %d digests", equal)
	}
}

// debian finds a file by a pattern in the folders that RETALLY_DEB_FILES lists.
func debian(t testing.TB, pattern string) string {
	t.Helper()
	for _, dir := range append(filepath.SplitList(os.Getenv("RETALLY_DEB_FILES")), "/usr/share/ovmf", "/boot") {
		if found, err := filepath.Glob(filepath.Join(dir, pattern)); err == nil && len(found) > 0 {
			return found[0]
		}
	}
	t.Skipf("SKIP-VISIBLE oracle: needs %s of a Debian package (RETALLY_DEB_FILES lists folders)", pattern)
	return ""
}

// TestOracleRealFirmware: 100 random parameter sets on Debian's OVMF for
// SEV-SNP, with Debian's cloud kernel.
func TestOracleRealFirmware(t *testing.T) {
	oraclePython(t)
	fw, kernel := debian(t, "OVMF.amdsev.fd"), debian(t, "vmlinuz-*-cloud-amd64")
	initrd := filepath.Join(t.TempDir(), "initrd")
	if err := os.WriteFile(initrd, repeat("initrd", 1000), 0o600); err != nil {
		t.Fatal(err)
	}
	r := rand.New(rand.NewPCG(100, 2026))
	var cases []oracleCase
	for len(cases) < 100 {
		cases = append(cases, randomCase(r, fw, kernel, []string{initrd}))
	}
	equal, errs := compare(t, cases)
	t.Logf("%d cases on %s with %s: %d digests equal, %d errors on both sides", len(cases), filepath.Base(fw), filepath.Base(kernel), equal, errs)
	if equal < 95 {
		t.Errorf("only %d digests", equal)
	}
}
