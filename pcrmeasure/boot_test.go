package pcrmeasure_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/u-root/u-root/pkg/cpio"

	"github.com/retally/retally/evidence/tpmquote"
	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/ovmf"
	"github.com/retally/retally/internal/testenv"
	"github.com/retally/retally/pcrmeasure"
)

const (
	bootLimit  = 300 * time.Second // of one machine
	maxConsole = 8 << 20
	bootMemory = 768 << 20
	bootVCPUs  = 2
)

// fromArtifacts are the PCRs that follow from the artifacts of any build of the
// firmware.
var fromArtifacts = []int{2, 3, 4, 5, 6, 7, 9, 11, 12}

// TestBoot predicts the PCRs of two machines that never ran, starts them, and
// compares: a kernel of -kernel, and a unified kernel image on a disk. The
// prediction is written down before the machine starts and read back after.
func TestBoot(t *testing.T) {
	if testenv.Race {
		t.Skip("SKIP-VISIBLE race: a booting machine has no race of ours to find; run without -race")
	}
	lab := newBootLab(t)
	t.Run("direct", func(t *testing.T) {
		nonce := lab.nonce(t)
		cmdline := "console=ttyS0 panic=-1 nonce=" + hex.EncodeToString(nonce)
		lab.boot(t, bootCase{
			artifacts: pcrmeasure.Artifacts{Kernel: lab.kernel, Initrd: lab.initrd},
			machine:   pcrmeasure.Machine{Pattern: pcrmeasure.Direct, Cmdline: cmdline, Devices: "direct"},
			args:      []string{"-kernel", lab.kernel.Name, "-initrd", lab.initrd.Name, "-append", cmdline},
			nonce:     nonce,
		})
	})
	t.Run("uki", func(t *testing.T) {
		nonce := lab.nonce(t)
		image := lab.uki(t, "console=ttyS0 panic=-1 nonce="+hex.EncodeToString(nonce))
		disk := lab.disk(t, image)
		lab.boot(t, bootCase{
			artifacts: pcrmeasure.Artifacts{UKI: openInput(t, image), Disk: openInput(t, disk)},
			machine:   pcrmeasure.Machine{Pattern: pcrmeasure.UKIDirect, Devices: "virtio-disk", Order: pcrmeasure.Order252},
			args:      []string{"-drive", "file=" + disk + ",format=raw,if=none,id=d0", "-device", "virtio-blk-pci,drive=d0,bootindex=1"},
			nonce:     nonce,
		})
	})
}

// TestBootNewerFirmware boots the kernel with firmware of newer releases of
// Debian, as far as it is understood: what is predicted must be equal, and PCR 0
// of a build whose overlay is not known is reported as not compared.
func TestBootNewerFirmware(t *testing.T) {
	if testenv.Race {
		t.Skip("SKIP-VISIBLE race: a booting machine has no race of ours to find; run without -race")
	}
	found := false
	for _, dir := range filepath.SplitList(os.Getenv("RETALLY_DEB_FILES")) {
		code, vars := filepath.Join(dir, "OVMF_CODE_4M.fd"), filepath.Join(dir, "OVMF_VARS_4M.fd")
		if _, err := os.Stat(code); err != nil {
			continue
		}
		found = true
		t.Run(dir, func(t *testing.T) {
			lab := newBootLab(t)
			lab.firmware, lab.variables = openInput(t, code), openInput(t, vars)
			t.Logf("input: %s, SHA-256 %s", code, inputSum(t, lab.firmware))
			nonce := lab.nonce(t)
			cmdline := "console=ttyS0 panic=-1 nonce=" + hex.EncodeToString(nonce)
			lab.boot(t, bootCase{
				artifacts: pcrmeasure.Artifacts{Kernel: lab.kernel, Initrd: lab.initrd},
				machine:   pcrmeasure.Machine{Pattern: pcrmeasure.Direct, Cmdline: cmdline, Devices: "direct", InitrdArgument: initrdArgument(t, lab.firmware)},
				args:      []string{"-kernel", lab.kernel.Name, "-initrd", lab.initrd.Name, "-append", cmdline},
				nonce:     nonce,
			})
		})
	}
	if !found {
		testenv.Missing(t, "a newer Debian's OVMF_CODE_4M.fd in RETALLY_DEB_FILES")
	}
}

// initrdArgument is where a build of OVMF puts initrd=initrd: before the command
// line after 2025.02. A build names its version; of one that does not, newer than
// that, as Debian sid's, is assumed.
func initrdArgument(t *testing.T, firmware pcrmeasure.Input) pcrmeasure.InitrdArgument {
	t.Helper()
	volumes, err := ovmf.PayloadVolumes(firmware.R, firmware.Size)
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range volumes {
		text := bytes.ReplaceAll(v.Data, []byte{0}, nil) // UTF-16
		if m := regexp.MustCompile(`20[0-9]{2}\.[0-9]{2}(\.[0-9]+)?-[0-9]+[+~a-z0-9]*`).Find(text); m != nil {
			t.Logf("version: firmware %s", m)
			if string(m[:7]) <= "2025.02" {
				return pcrmeasure.ArgumentSuffix
			}
		}
	}
	return pcrmeasure.ArgumentPrefix
}

// bootLab are the programs and files that the machines are made of.
type bootLab struct {
	dir                                  string
	qemu, swtpm                          string
	firmware, variables, kernel, initrd  pcrmeasure.Input
	stub, osrel, sfdisk, mkfs, mcopy, md string
}

type bootCase struct {
	artifacts pcrmeasure.Artifacts
	machine   pcrmeasure.Machine
	args      []string // of QEMU, for what is booted
	nonce     []byte
}

// debPath finds the newest file of a Debian package that fits a pattern.
func debPath(t *testing.T, what string, dirs []string, pattern string) string {
	t.Helper()
	for _, dir := range append(dirs, filepath.SplitList(os.Getenv("RETALLY_DEB_FILES"))...) {
		found, err := filepath.Glob(filepath.Join(dir, pattern))
		if err != nil {
			t.Fatal(err)
		}
		if len(found) > 0 {
			return found[len(found)-1]
		}
	}
	testenv.Missing(t, what)
	return ""
}

func newBootLab(t *testing.T) *bootLab {
	t.Helper()
	l := &bootLab{
		dir:  t.TempDir(),
		qemu: testenv.Oracle(t, "qemu-system-x86_64"), swtpm: testenv.Oracle(t, "swtpm"),
		sfdisk: testenv.Oracle(t, "sfdisk"), mkfs: testenv.Oracle(t, "mkfs.fat"), mcopy: testenv.Oracle(t, "mcopy"), md: testenv.Oracle(t, "mmd"),
		stub:      debPath(t, "systemd-boot-efi 252 (linuxx64.efi.stub)", []string{"/usr/lib/systemd/boot/efi"}, "linuxx64.efi.stub"),
		firmware:  openInput(t, debPath(t, "OVMF_CODE_4M.fd of Debian's ovmf", []string{"/usr/share/OVMF"}, "OVMF_CODE_4M.fd")),
		variables: openInput(t, debPath(t, "OVMF_VARS_4M.fd of Debian's ovmf", []string{"/usr/share/OVMF"}, "OVMF_VARS_4M.fd")),
		// The cloud kernel is the one whose IMA was met; others differ in their
		// configuration.
		kernel: openInput(t, debPath(t, "a cloud kernel of Debian (vmlinuz-*-cloud-amd64)", []string{"/boot"}, "vmlinuz-6.1.*-cloud-amd64")),
	}
	testenv.Oracle(t, "objcopy")
	l.osrel = filepath.Join(l.dir, "osrel")
	if err := os.WriteFile(l.osrel, []byte("ID=retally\nNAME=\"retally's boot test\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	// What is looked at is part of the result.
	for _, args := range [][]string{{l.qemu, "--version"}, {l.swtpm, "--version"}, {"dpkg-query", "-W", "qemu-system-x86", "ovmf", "swtpm", "systemd-boot-efi", "binutils"}} {
		out, err := exec.Command(args[0], args[1:]...).Output() // dpkg-query names what it knows
		if err != nil && len(out) == 0 {
			t.Logf("versions: %s: %v", args[0], err)
		}
		for _, line := range strings.Split(strings.TrimSpace(string(out)), "\n") {
			t.Logf("version: %s", line)
		}
	}
	for _, in := range []pcrmeasure.Input{l.firmware, l.variables, l.kernel} {
		t.Logf("input: %s, SHA-256 %s", in.Name, inputSum(t, in))
	}
	stub, err := os.ReadFile(l.stub)
	if err != nil {
		t.Fatal(err)
	}
	version := regexp.MustCompile(`#### LoaderInfo: systemd-stub (\S+) ####`).FindSubmatch(stub)
	if version == nil || !bytes.HasPrefix(version[1], []byte("252")) {
		t.Fatalf("%s: LoaderInfo %q, want systemd-stub 252", l.stub, version)
	}
	t.Logf("version: systemd-stub %s", version[1])
	l.initrd = openInput(t, l.makeInitrd(t))
	return l
}

func openInput(t *testing.T, name string) pcrmeasure.Input {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	return pcrmeasure.Input{Name: name, R: f, Size: info.Size()}
}

func inputSum(t *testing.T, in pcrmeasure.Input) string {
	t.Helper()
	h := sha256.New()
	if _, err := io.Copy(h, io.NewSectionReader(in.R, 0, in.Size)); err != nil {
		t.Fatal(err)
	}
	return hex.EncodeToString(h.Sum(nil))
}

func (l *bootLab) nonce(t *testing.T) []byte {
	t.Helper()
	b := make([]byte, 16)
	if _, err := rand.Read(b); err != nil {
		t.Fatal(err)
	}
	return b
}

// makeInitrd compiles the machine's first process and packs it.
func (l *bootLab) makeInitrd(t *testing.T) string {
	t.Helper()
	program := filepath.Join(l.dir, "init")
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", program, "./testdata/bootinit/main.go")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	data, err := os.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	w := cpio.Newc.Writer(z)
	records := []cpio.Record{cpio.StaticFile("init", string(data), 0o755)}
	cpio.MakeAllReproducible(records)
	name := filepath.Join(l.dir, "initrd.gz")
	if err := errors.Join(cpio.WriteRecords(w, records), cpio.WriteTrailer(w), z.Close(), os.WriteFile(name, b.Bytes(), 0o600)); err != nil {
		t.Fatal(err)
	}
	return name
}

func runTool(t *testing.T, stdin, name string, args ...string) {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Stdin = strings.NewReader(stdin)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s %q: %v\n%s", name, args, err, out)
	}
}

// uki joins systemd's stub and the other parts as its documentation says to
// (systemd-stub(7), version 252).
func (l *bootLab) uki(t *testing.T, cmdline string) string {
	t.Helper()
	text := filepath.Join(l.dir, "cmdline")
	if err := os.WriteFile(text, []byte(cmdline), 0o600); err != nil {
		t.Fatal(err)
	}
	image := filepath.Join(l.dir, "uki.efi")
	var args []string
	for _, s := range [][3]string{{".osrel", l.osrel, "0x20000"}, {".cmdline", text, "0x30000"}, {".linux", l.kernel.Name, "0x2000000"}, {".initrd", l.initrd.Name, "0x3000000"}} {
		args = append(args, "--add-section", s[0]+"="+s[1], "--change-section-vma", s[0]+"="+s[2])
	}
	runTool(t, "", "objcopy", append(args, l.stub, image)...)
	return image
}

// disk makes a disk with the image where firmware looks for it.
func (l *bootLab) disk(t *testing.T, image string) string {
	t.Helper()
	const mib = 1 << 20
	name, esp := filepath.Join(l.dir, "disk"), filepath.Join(l.dir, "esp")
	runTool(t, "", l.mkfs, "-C", esp, strconv.Itoa(64<<10))
	runTool(t, "", l.md, "-i", esp, "::/EFI", "::/EFI/BOOT")
	runTool(t, "", l.mcopy, "-i", esp, image, "::/EFI/BOOT/BOOTX64.EFI")
	fs, err := os.ReadFile(esp)
	if err != nil {
		t.Fatal(err)
	}
	data := make([]byte, 66*mib)
	copy(data[mib:], fs)
	if err := os.WriteFile(name, data, 0o600); err != nil {
		t.Fatal(err)
	}
	runTool(t, "label: gpt\nstart=2048, size=131072, type=C12A7328-F81F-11D2-BA4B-00A0C93EC93B\n", l.sfdisk, "--no-tell-kernel", name)
	return name
}

// predicted is what is written down before a machine starts.
type predicted struct {
	PCRs    map[string]string `json:"pcrs"`
	Assumed []string          `json:"assumed"`
	Missing map[string]string `json:"missing"`
}

// predict writes the prediction to a file.
func (l *bootLab) predict(t *testing.T, c *bootCase, name string) {
	t.Helper()
	c.artifacts.Firmware, c.artifacts.Variables = l.firmware, l.variables
	m := c.machine
	m.Bank, m.Type, m.Memory, m.VCPUs, m.IMA = digest.SHA256, "q35", bootMemory, bootVCPUs, pcrmeasure.IMASig
	p, err := pcrmeasure.New(c.artifacts).Predict(context.Background(), &m)
	if err != nil {
		t.Fatal(err)
	}
	out := predicted{PCRs: map[string]string{}, Missing: map[string]string{}}
	for i := range pcrmeasure.Count {
		n := strconv.Itoa(i)
		if got := p.PCRs[i]; got == nil {
			out.Missing[n] = p.Missing[i]
		} else {
			out.PCRs[n] = got.Value.Hex()
			if got.Basis == pcrmeasure.Assumed {
				out.Assumed = append(out.Assumed, n)
			}
		}
	}
	data, err := json.Marshal(out)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, data, 0o400); err != nil {
		t.Fatal(err)
	}
}

func (l *bootLab) boot(t *testing.T, c bootCase) {
	name := filepath.Join(t.TempDir(), "prediction.json")
	l.predict(t, &c, name)
	start := time.Now()
	got := l.start(t, c.args)
	t.Logf("booted in %.0f s", time.Since(start).Seconds())
	want := decode[predicted](t, name)

	for _, i := range fromArtifacts {
		if n := strconv.Itoa(i); want.PCRs[n] == "" {
			t.Errorf("PCR %d was not predicted: %s", i, want.Missing[n])
		} else if slices.Contains(want.Assumed, n) {
			t.Errorf("PCR %d was assumed", i)
		}
	}
	if !slices.Contains(want.Assumed, "1") {
		t.Errorf("PCR 1 is a constant, and not labeled as one: %v", want.Assumed)
	}
	for i := range pcrmeasure.Count {
		n := strconv.Itoa(i)
		has := got.pcrs["sha256"][i].Hex()
		switch {
		case want.PCRs[n] == "":
			t.Logf("PCR %2d %s not predicted: %s", i, has, want.Missing[n])
		case i == 1 || i == 10 && slices.Contains(want.Assumed, "10"):
			t.Logf("PCR %2d %s assumed %s, equal %t", i, has, want.PCRs[n], has == want.PCRs[n])
			if i == 10 && has != want.PCRs[n] {
				t.Errorf("PCR 10 = %s, want %s by boot_aggregate over PCRs 0 to 9, PCR 1 among them", has, want.PCRs[n])
			}
		case has != want.PCRs[n]:
			t.Errorf("PCR %d = %s, predicted %s", i, has, want.PCRs[n])
			got.events(t, i)
		default:
			t.Logf("PCR %2d %s predicted", i, has)
		}
	}
	got.replays(t)
	got.quoted(t, c.nonce)
	l.verified(t, &want, got, c.nonce)
	// PCR 0 follows from builds whose overlay is known.
	t.Run("PCR 0", func(t *testing.T) {
		if reason := want.Missing["0"]; reason != "" {
			t.Skipf("SKIP-VISIBLE firmware: PCR 0 was not compared: %s", reason)
		}
		if want.PCRs["0"] != got.pcrs["sha256"][0].Hex() {
			t.Errorf("PCR 0 = %s, predicted %s", got.pcrs["sha256"][0].Hex(), want.PCRs["0"])
		}
	})
}

// machineState is what the machine printed.
type machineState struct {
	cmdline              string
	pcrs                 map[string][]digest.Digest
	log                  []byte
	quote, ak, signature string
}

// start boots a machine and returns what it printed. Both processes are killed
// when the time is over.
func (l *bootLab) start(t *testing.T, args []string) *machineState {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), bootLimit)
	defer cancel()
	dir, err := os.MkdirTemp("", "boot") // a socket's name is short
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	vars := filepath.Join(dir, "vars.fd")
	data := make([]byte, l.variables.Size)
	if _, err := l.variables.R.ReadAt(data, 0); err != nil && !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	if err := os.WriteFile(vars, data, 0o600); err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(dir, "tpm.sock")
	var trouble bytes.Buffer
	tpm := exec.CommandContext(ctx, l.swtpm, "socket", "--tpm2", "--tpmstate", "dir="+dir, "--ctrl", "type=unixio,path="+socket, "--terminate")
	tpm.Stderr = &trouble
	if err := tpm.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = tpm.Process.Kill()
		_ = tpm.Wait()
	}()
	for range 100 {
		if _, err := os.Stat(socket); err == nil {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	qemu := exec.CommandContext(ctx, l.qemu, append([]string{
		"-machine", "q35", "-accel", "tcg", "-cpu", "max", "-m", strconv.Itoa(bootMemory >> 20), "-smp", strconv.Itoa(bootVCPUs),
		"-nodefaults", "-display", "none", "-serial", "stdio", "-no-reboot", "-net", "none",
		"-drive", "if=pflash,format=raw,unit=0,readonly=on,file=" + l.firmware.Name, "-drive", "if=pflash,format=raw,unit=1,file=" + vars,
		"-chardev", "socket,id=chrtpm,path=" + socket, "-tpmdev", "emulator,id=tpm0,chardev=chrtpm", "-device", "tpm-tis,tpmdev=tpm0",
	}, args...)...)
	qemu.Stderr = &trouble
	console, err := qemu.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := qemu.Start(); err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(io.LimitReader(console, maxConsole))
	_ = qemu.Process.Kill() // a machine that prints without end
	_ = qemu.Wait()
	state, fault := parseConsole(text)
	if fault != nil || err != nil {
		t.Fatalf("%v %v; within %s; at the end of the console:\n%q\n%s", fault, err, bootLimit, text[max(0, len(text)-2000):], trouble.Bytes())
	}
	return state
}

var consoleLine = regexp.MustCompile(`RETALLY ([0-9]{1,6}) ([0-9a-f]{8}) ([a-z0-9.]+ [-A-Za-z0-9+/=:]*)`)

// parseConsole takes the machine's lines out of what else a console has. A line
// that something was printed into has another checksum and is left out; it
// stands there once more.
func parseConsole(text []byte) (*machineState, error) {
	lines := map[int]string{}
	last := -1
	for _, m := range consoleLine.FindAllSubmatch(text, -1) {
		n, err := strconv.Atoi(string(m[1]))
		if err != nil || fmt.Sprintf("%08x", crc32.ChecksumIEEE(m[3])) != string(m[2]) {
			continue
		}
		line := string(m[3])
		if have, ok := lines[n]; ok && have != line {
			return nil, fmt.Errorf("console: two lines %d: %q and %q", n, have, line)
		}
		lines[n] = line
		if count, ok := strings.CutPrefix(line, "done "); ok && count == strconv.Itoa(n) {
			last = n
		}
	}
	if last < 0 {
		return nil, fmt.Errorf("console: %d lines of the machine's first process, and not its last", len(lines))
	}
	s := &machineState{pcrs: map[string][]digest.Digest{}}
	for i := range last {
		word, value, ok := strings.Cut(lines[i], " ")
		if !ok {
			return nil, fmt.Errorf("console: line %d of %d is missing", i, last)
		}
		switch bank, index, isPCR := strings.Cut(word, "."); {
		case isPCR:
			alg, err := digest.ParseAlgorithm(bank)
			if err != nil {
				return nil, err
			}
			d, err := digest.ParseHex(alg, value)
			if err != nil {
				return nil, fmt.Errorf("console: %s: %w", word, err)
			}
			if index != strconv.Itoa(len(s.pcrs[bank])) {
				return nil, fmt.Errorf("console: %s out of order", word)
			}
			s.pcrs[bank] = append(s.pcrs[bank], d)
		case word == "ak":
			s.ak = value
		case word == "signature":
			s.signature = value
		default:
			b, err := base64.StdEncoding.DecodeString(value)
			if err != nil {
				return nil, fmt.Errorf("console: %s: %w", word, err)
			}
			switch word {
			case "cmdline":
				s.cmdline = string(b)
			case "log":
				s.log = append(s.log, b...)
			case "quote":
				s.quote = string(b)
			case "fault":
				return nil, fmt.Errorf("the machine's first process: %s", b)
			default:
				return nil, fmt.Errorf("console: unknown word %q", word)
			}
		}
	}
	for _, bank := range []string{"sha1", "sha256", "sha384", "sha512"} {
		if len(s.pcrs[bank]) != pcrmeasure.Count {
			return nil, fmt.Errorf("console: %d PCRs of %s", len(s.pcrs[bank]), bank)
		}
	}
	return s, nil
}

// events shows what the machine's log has of a PCR.
func (s *machineState) events(t *testing.T, pcr int) {
	t.Helper()
	log, err := pcrmeasure.ReadLog("log of the machine", s.log, pcrmeasure.FormAuto)
	if err != nil {
		t.Log(err)
		return
	}
	for _, e := range log.Events {
		if e.Register == pcr {
			t.Logf("  event %d, %s, %s, %d bytes %.120x", e.Index, e.Type, e.Label, len(e.Data), e.Data)
		}
	}
}

// replays holds the machine's own log against its PCRs in every bank.
func (s *machineState) replays(t *testing.T) {
	t.Helper()
	log, err := pcrmeasure.ReadLog("log of the machine", s.log, pcrmeasure.FormAuto)
	if err != nil {
		t.Fatal(err)
	}
	if p := log.Problems(); len(p) > 0 {
		t.Errorf("problems of the machine's log: %v", p)
	}
	all, err := log.ReplayAll()
	if err != nil {
		t.Fatal(err)
	}
	if len(all) != 4 {
		t.Errorf("%d banks were replayed", len(all))
	}
	for bank, pcrs := range all {
		for i, d := range pcrs {
			if i == 10 {
				continue // the kernel's own, which is in another log
			}
			if has := s.pcrs[bank.String()][i]; has != d {
				t.Errorf("%s PCR %d = %s, replayed %s", bank, i, has.Hex(), d.Hex())
			}
		}
	}
}

// quoted checks the quote of the same boot by hand: signature, nonce, selection
// and the digest over the PCRs that were compared (TPM 2.0 Library, part 2,
// TPMS_ATTEST).
func (s *machineState) quoted(t *testing.T, nonce []byte) {
	t.Helper()
	pair := func(text string) (a, b *big.Int) {
		x, y, _ := strings.Cut(text, ":")
		a, ok1 := new(big.Int).SetString(x, 16)
		b, ok2 := new(big.Int).SetString(y, 16)
		if !ok1 || !ok2 {
			t.Fatalf("%q is no pair of numbers", text)
		}
		return a, b
	}
	x, y := pair(s.ak)
	key, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), slices.Concat([]byte{4}, x.FillBytes(make([]byte, 32)), y.FillBytes(make([]byte, 32))))
	if err != nil {
		t.Fatal(err)
	}
	r, v := pair(s.signature)
	if sum := sha256.Sum256([]byte(s.quote)); !ecdsa.Verify(key, sum[:], r, v) {
		t.Error("the quote's signature does not hold")
	}
	h := sha256.New()
	for _, d := range s.pcrs["sha256"][:16] {
		h.Write(d.Bytes())
	}
	q := []byte(s.quote)
	head := []byte{0xff, 'T', 'C', 'G', 0x80, 0x18}
	// One selection: SHA-256, three bytes, PCRs 0 to 15; then the digest.
	tail := append([]byte{0, 0, 0, 1, 0, 0x0b, 3, 0xff, 0xff, 0, 0, 32}, h.Sum(nil)...)
	if !bytes.HasPrefix(q, head) || !bytes.HasSuffix(q, tail) {
		t.Fatalf("quote %x: want it to begin with %x and to end with %x", q, head, tail)
	}
	name := int(binary.BigEndian.Uint16(q[6:]))
	extra := q[8+name:]
	if n := int(binary.BigEndian.Uint16(extra)); n != len(nonce) || !bytes.Equal(extra[2:2+n], nonce) {
		t.Errorf("the quote's nonce is %x, want %x", extra[2:2+n], nonce)
	}
}

// verified has the quote of the same boot judged by retally evidence verify, as a
// user would: tpm2-tools' three files, the bare key, the machine's log, and golden
// measurements that are the prediction. Nobody certified the key of this TPM: it is
// trusted because it is given, and without it the quote proves nothing.
func (l *bootLab) verified(t *testing.T, want *predicted, s *machineState, nonce []byte) {
	t.Helper()
	dir := t.TempDir()
	number := func(text string) []byte {
		b, err := hex.DecodeString(text)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	r, v, _ := strings.Cut(s.signature, ":")
	x, y, _ := strings.Cut(s.ak, ":")
	signature := tpmquote.Signature{Scheme: tpmquote.ECDSA, Hash: digest.SHA256, R: number(r), S: number(v)}
	point := slices.Concat([]byte{4}, new(big.Int).SetBytes(number(x)).FillBytes(make([]byte, 32)), new(big.Int).SetBytes(number(y)).FillBytes(make([]byte, 32)))
	key, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), point)
	if err != nil {
		t.Fatal(err)
	}
	spki, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		t.Fatal(err)
	}
	values := tpmquote.Values{digest.SHA256: {}}
	for i, d := range s.pcrs["sha256"][:16] {
		values[digest.SHA256][i] = d
	}
	golden := func(name string, change int) string {
		m := map[string]string{}
		for _, i := range append([]int{0}, fromArtifacts...) {
			n := strconv.Itoa(i)
			if want.PCRs[n] != "" {
				m[n] = want.PCRs[n]
			}
			if i == change {
				m[n] = strings.Repeat("5a", 32)
			}
		}
		data, err := json.Marshal(map[string]any{"measurements": m})
		if err != nil {
			t.Fatal(err)
		}
		name = filepath.Join(dir, name)
		if err := os.WriteFile(name, data, 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	for name, data := range map[string][]byte{
		"quote.msg": []byte(s.quote), "quote.sig": signature.Marshal(), "quote.pcrs": values.PCRFile(), "boot.log": s.log,
		"ak.pem": pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: spki}),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	program := filepath.Join(dir, "retally")
	build := exec.Command("go", "build", "-o", program, "../cmd/retally")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	good, bad := golden("golden.json", -1), golden("other.json", 4)
	// Golden measurements that are silent about the firmware prove no machine.
	expected, code := "pass", 0
	if want.PCRs["0"] == "" {
		expected, code = "unchecked", 3
	}
	other := append([]byte{nonce[0] ^ 1}, nonce[1:]...)
	for _, c := range []struct {
		name, golden, key          string
		nonce                      []byte
		code                       int
		authentic, expected, bound string
	}{
		{"as predicted", good, "ak.pem", nonce, code, "pass", expected, "pass"},
		{"another boot", bad, "ak.pem", nonce, 1, "pass", "fail", "pass"},
		{"another nonce", good, "ak.pem", other, 1, "pass", expected, "fail"},
		{"no key", good, "", nonce, 3, "unchecked", "unchecked", "unchecked"},
	} {
		cmd := exec.Command(program, "evidence", "verify", "quote.msg", "quote.sig", "quote.pcrs", "--golden", c.golden, "--event-log", "boot.log", "--nonce", hex.EncodeToString(c.nonce), "-o", "json")
		if c.key != "" {
			cmd.Args = append(cmd.Args, "--ak", c.key)
		}
		cmd.Dir = dir
		out, err := cmd.Output()
		var exit *exec.ExitError
		if err != nil && !errors.As(err, &exit) {
			t.Fatal(err)
		}
		var got struct {
			Authentic, Expected, Bound struct{ Verdict string }
		}
		if err := json.Unmarshal(out, &got); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		if code := cmd.ProcessState.ExitCode(); code != c.code || got.Expected.Verdict != c.expected || got.Bound.Verdict != c.bound || got.Authentic.Verdict != c.authentic {
			t.Errorf("evidence verify, %s: exit %d, want %d; %+v, want %s, %s, %s\n%s", c.name, code, c.code, got, c.authentic, c.expected, c.bound, out)
		}
	}
}

// TestConsole: what the kernel prints in between does no harm, and what is
// missing is not taken for nothing.
func TestConsole(t *testing.T) {
	var lines []string
	for _, bank := range []string{"sha1", "sha256", "sha384", "sha512"} {
		alg, err := digest.ParseAlgorithm(bank)
		if err != nil {
			t.Fatal(err)
		}
		for i := range pcrmeasure.Count {
			lines = append(lines, fmt.Sprintf("%s.%d %s", bank, i, alg.Sum(nil).Hex()))
		}
	}
	lines = append(lines, "cmdline "+base64.StdEncoding.EncodeToString([]byte("quiet")))
	lines = append(lines, fmt.Sprintf("done %d", len(lines)))
	console := func(spoil func(i, turn int, line string) string) []byte {
		var b bytes.Buffer
		for turn := range 2 {
			for i, l := range lines {
				b.WriteString("\r\n" + spoil(i, turn, fmt.Sprintf("RETALLY %d %08x %s", i, crc32.ChecksumIEEE([]byte(l)), l)) + "\r\n")
			}
		}
		return b.Bytes()
	}
	interrupted := func(_, _ int, l string) string { return l[:len(l)/2] + "[    1.0] clocksource" + l[len(l)/2:] }
	for name, c := range map[string]struct {
		text []byte
		ok   bool
	}{
		"whole":            {console(func(_, _ int, l string) string { return l }), true},
		"behind a message": {console(func(_, _ int, l string) string { return "[ 2.0] random: " + l + "[ 2.1]" }), true},
		"interrupted once": {console(func(i, turn int, l string) string {
			return map[bool]string{true: interrupted(i, turn, l), false: l}[turn == 0]
		}), true},
		"interrupted always": {console(interrupted), false},
		"a line is missing": {console(func(i, _ int, l string) string {
			if i == 7 {
				return ""
			}
			return l
		}), false},
		"cut": {console(func(_, _ int, l string) string { return l })[:4000], false},
	} {
		s, err := parseConsole(c.text)
		if (err == nil) != c.ok {
			t.Errorf("%s: %v", name, err)
		}
		if err == nil && s.cmdline != "quiet" {
			t.Errorf("%s: %q", name, s.cmdline)
		}
	}
}
