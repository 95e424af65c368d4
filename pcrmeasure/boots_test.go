package pcrmeasure_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/testenv"
	"github.com/retally/retally/pcrmeasure"
)

// artifact is a row of artifacts.json.
type artifact struct {
	Size         int64
	SHA256       string
	Authenticode map[string]string
}

type artifacts struct {
	t    testing.TB
	rows map[string]json.RawMessage
}

func loadArtifacts(t testing.TB) artifacts {
	return artifacts{t, decode[map[string]json.RawMessage](t, testenv.Vectors(t, "own/tpm/artifacts.json"))}
}

func (a artifacts) row(name string) artifact {
	var r artifact
	if err := json.Unmarshal(a.rows[name], &r); err != nil {
		a.t.Fatalf("artifacts.json: %s: %v", name, err)
	}
	return r
}

func hexDigest(t testing.TB, bank, s string) digest.Digest {
	t.Helper()
	alg, err := digest.ParseAlgorithm(bank)
	if err != nil {
		t.Fatal(err)
	}
	d, err := digest.ParseHex(alg, s)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// input is the artifact's file where it is installed, else its digests.
func (a artifacts) input(name string) pcrmeasure.Input {
	r := a.row(name)
	if data, ok := testenv.DebFile(name, r.SHA256); ok {
		return pcrmeasure.Bytes(name, data)
	}
	return a.digests(name)
}

// digests is an artifact without its bytes.
func (a artifacts) digests(name string) pcrmeasure.Input {
	r := a.row(name)
	in := pcrmeasure.Input{Name: name, Size: r.Size, Known: []digest.Digest{hexDigest(a.t, "sha256", r.SHA256)}}
	for bank, s := range r.Authenticode {
		in.Authenticode = append(in.Authenticode, hexDigest(a.t, bank, s))
	}
	return in
}

// patched is the kernel as QEMU hands it over, by its known digest.
func (a artifacts) patched(mib, initrd int64) pcrmeasure.Input {
	var sums map[string]string
	if err := json.Unmarshal(a.rows["patched_kernel_authenticode_sha256"], &sums); err != nil {
		a.t.Fatal(err)
	}
	return pcrmeasure.Input{Name: "kernel", Authenticode: []digest.Digest{hexDigest(a.t, "sha256", sums[fmt.Sprintf("mem%dMiB,initrd%d", mib, initrd)])}}
}

const (
	kernelName = "vmlinuz-6.1.0-56-cloud-amd64"
	ukiCmdline = "console=ttyS0 panic=-1"
)

// uki are a UKI's digests and sections; extra sections come with the boot.
func (a artifacts) uki(name string, extra ...pcrmeasure.Section) pcrmeasure.Input {
	in := a.digests(name)
	in.Sections = append([]pcrmeasure.Section{
		{Name: ".linux", Contents: a.input(kernelName)},
		{Name: ".osrel", Contents: pcrmeasure.Bytes("osrel", read(a.t, testenv.Vectors(a.t, "own/tpm/inputs/osrel")))},
		{Name: ".cmdline", Contents: pcrmeasure.Bytes("cmdline", []byte(ukiCmdline))},
		{Name: ".initrd", Contents: a.digests("initrd.gz")},
	}, extra...)
	return in
}

func gunzip(t testing.TB, path string) []byte {
	t.Helper()
	z, err := gzip.NewReader(bytes.NewReader(read(t, path)))
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// after returns the argument behind an option.
func (b *boot) after(option string) string {
	for i, a := range b.Args {
		if a == option && i+1 < len(b.Args) {
			return b.Args[i+1]
		}
	}
	return ""
}

// setup makes a boot's artifacts and machine from its QEMU arguments, without
// its log.
func (a artifacts) setup(b *boot) (pcrmeasure.Artifacts, pcrmeasure.Machine) {
	t := a.t
	mib, err := strconv.ParseInt(b.after("-m"), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	cpus, err := strconv.Atoi(b.after("-smp"))
	if err != nil {
		t.Fatal(err)
	}
	m := pcrmeasure.Machine{Type: "q35", Memory: uint64(mib) << 20, VCPUs: cpus, Pattern: pcrmeasure.Direct, Cmdline: b.after("-append"), Devices: "direct", IMA: pcrmeasure.IMASig, IMAPads: pcrmeasure.On}
	if strings.HasPrefix(b.after("-machine"), "pc") {
		m.Type = "pc"
	}
	var art pcrmeasure.Artifacts
	code, vars := "OVMF_CODE_4M.fd", "OVMF_VARS_4M.fd"
	args := strings.Join(b.Args, " ")
	if strings.Contains(args, ".secboot.fd") {
		code, vars = "OVMF_CODE_4M.secboot.fd", "OVMF_VARS_4M.ms.fd"
	}
	if b.Name == "direct-secboot-snakeoil-signed" {
		vars = "OVMF_VARS_4M.snakeoil.fd"
	}
	if b.after("-bios") != "" {
		code = "OVMF.fd"
		art.Firmware = a.input(code)
	} else {
		art.Firmware, art.Variables = a.input(code), a.input(vars)
	}
	if name := b.after("-initrd"); name != "" {
		art.Initrd = a.digests(name)
	}
	if strings.Contains(args, "virtio-blk") {
		m.Devices = "virtio-disk"
		art.Disk = pcrmeasure.Bytes("disk", gunzip(t, testenv.Vectors(t, "own/tpm/inputs/esp_uki.img.first34sectors.gz")))
	}
	switch b.Name {
	case "uki-esp", "uki-cred":
		m.Pattern, art.UKI = pcrmeasure.UKIDirect, a.uki("uki1.efi")
		m.Credentials = b.Name == "uki-cred"
	case "uki-splash":
		m.Pattern, art.UKI = pcrmeasure.UKIDirect, a.uki("uki4.efi", splash(t))
	case "sdboot-uki":
		m.Pattern, art.Loader, art.UKI = pcrmeasure.LoaderUKI, a.input("systemd-bootx64.efi"), a.uki("uki1.efi")
	case "sdboot-type1":
		m.Pattern, art.Loader, art.Kernel, art.Initrd = pcrmeasure.LoaderEntry, a.input("systemd-bootx64.efi"), a.input(kernelName), a.digests("initrd.gz")
		m.Cmdline = pcrmeasure.EntryCmdline([]string{"/initrd.gz"}, "console=ttyS0 panic=-1 t1=yes")
	case "shim-grub-secboot":
		m.Pattern, art.Shim, art.Loader, art.Kernel = pcrmeasure.ShimGRUB, a.input("shimx64.efi.signed"), a.input("grubx64.efi.signed"), a.input(kernelName)
		m.SBAT = "sbat,1,2025021800\nshim,4\ngrub,5\n"
	case "direct-uki-as-kernel":
		art.Kernel = a.uki("uki1.efi")
	default:
		art.Kernel = a.input(b.after("-kernel"))
		if art.Kernel.R == nil {
			art.Kernel = a.patched(mib, art.Initrd.Size)
		}
	}
	return art, m
}

// splash is the picture in uki4.efi, which is not shipped; its digest is in the
// boot's log.
func splash(t testing.TB) pcrmeasure.Section {
	type event struct {
		PCR     int
		Digests map[string]string
		Data    string `json:"data_hex"`
	}
	var events []event
	if err := json.Unmarshal(gunzip(t, testenv.Vectors(t, "own/tpm/boots/uki-splash/events.json.gz")), &events); err != nil {
		t.Fatal(err)
	}
	in := pcrmeasure.Input{Name: "splash"}
	n := 0
	for _, e := range events {
		if e.PCR == 11 && e.Data == "2e00730070006c006100730068000000" { // .splash
			if n++; n == 2 { // the name, then the contents
				for bank, s := range e.Digests {
					in.Known = append(in.Known, hexDigest(t, bank, s))
				}
			}
		}
	}
	return pcrmeasure.Section{Name: ".splash", Contents: in}
}

// TestVectorPredictions predicts each boot from its artifacts, in all banks. No
// value that is predicted may differ from the TPM's, and those that the vectors
// know to follow must be there.
func TestVectorPredictions(t *testing.T) {
	a := loadArtifacts(t)
	dirs, err := filepath.Glob(filepath.Join(testenv.Vectors(t, "own/tpm/boots"), "*"))
	if err != nil || len(dirs) == 0 {
		t.Fatalf("%d boots: %v", len(dirs), err)
	}
	_, haveFirmware := testenv.DebFile("OVMF_CODE_4M.fd", a.row("OVMF_CODE_4M.fd").SHA256)
	_, haveShim := testenv.DebFile("shimx64.efi.signed", a.row("shimx64.efi.signed").SHA256)
	_, haveKernel := testenv.DebFile(kernelName, a.row(kernelName).SHA256)
	if !haveFirmware || !haveKernel || !haveShim {
		t.Logf("SKIP-VISIBLE vectors: installed are firmware: %t, kernel: %t, shim: %t (RETALLY_DEB_FILES lists folders); what depends on their bytes is not predicted", haveFirmware, haveKernel, haveShim)
	}
	if testenv.Race {
		haveFirmware = false // unpacked in each boot, which takes minutes with the race detector
	}
	equal, assumed, required := map[int]int{}, 0, 0
	for _, dir := range dirs {
		b := decode[boot](t, filepath.Join(dir, "boot.json"))
		art, machine := a.setup(&b)
		if testenv.Race {
			art.Firmware = pcrmeasure.Input{}
		}
		m := pcrmeasure.New(art)
		for bankName, pcrs := range b.PCRs {
			if machine.Bank, err = digest.ParseAlgorithm(bankName); err != nil {
				t.Fatal(err)
			}
			p, err := m.Predict(context.Background(), &machine)
			if err != nil {
				t.Errorf("%s: %v", b.Name, err)
				continue
			}
			for i := range pcrmeasure.Count {
				got, reason := p.PCRs[i], p.Missing[i]
				if (got == nil) == (reason == "") {
					t.Errorf("%s: %s PCR %d: value %v and reason %q", b.Name, bankName, i, got, reason)
				}
				if got == nil {
					continue
				}
				// Other IMA records follow where a policy is on.
				if i == 10 && b.Name == "direct-ima" {
					continue
				}
				if want := pcrs[strconv.Itoa(i)]; got.Value.Hex() != want {
					t.Errorf("%s: %s PCR %d = %s, want %s", b.Name, bankName, i, got.Value.Hex(), want)
					continue
				}
				equal[i]++
				if got.Basis == pcrmeasure.Assumed {
					assumed++
				}
			}
			if bankName != "sha256" {
				continue
			}
			for i := range b.Predicted {
				n, err := strconv.Atoi(i)
				if err != nil {
					t.Fatal(err)
				}
				required++
				if needsFirmware := n == 7; p.PCRs[n] == nil && (haveFirmware || !needsFirmware) {
					t.Errorf("%s: PCR %d is missing: %s", b.Name, n, p.Missing[n])
				}
			}
			if testing.Verbose() {
				for _, i := range slices.Sorted(maps(p.Missing)) {
					t.Logf("%s: PCR %d missing: %s", b.Name, i, p.Missing[i])
				}
			}
		}
	}
	t.Logf("%d values were required; equal values by PCR %v, %d of them assumed", required, equal, assumed)
	for _, i := range []int{2, 3, 4, 5, 6, 9, 11, 12} {
		if equal[i] == 0 {
			t.Errorf("PCR %d was never predicted", i)
		}
	}
	if haveShim && equal[14] != 4*len(dirs) {
		t.Errorf("PCR 14 was predicted %d times, want in all banks of %d boots", equal[14], len(dirs))
	}
	if haveFirmware && haveShim && haveKernel && equal[7] != 4*len(dirs) {
		t.Errorf("PCR 7 was predicted %d times, want in all banks of %d boots", equal[7], len(dirs))
	}
	if haveFirmware && (equal[0] == 0 || equal[7] == 0 || equal[10] == 0) {
		t.Errorf("PCRs 0, 7, 10 were predicted %d, %d, %d times", equal[0], equal[7], equal[10])
	}
}

func maps[V any](m map[int]V) func(func(int) bool) {
	return func(yield func(int) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}

// TestVectorPCR0 compares PCR 0 of five machines with what their TPMs had.
func TestVectorPCR0(t *testing.T) {
	a := loadArtifacts(t)
	var want map[string]string
	if err := json.Unmarshal(a.rows["pcr0_sha256 OVMF_CODE_4M.fd"], &want); err != nil {
		t.Fatal(err)
	}
	m := pcrmeasure.New(pcrmeasure.Artifacts{Firmware: a.input("OVMF_CODE_4M.fd")})
	if m.Firmware.R == nil {
		t.Skip("SKIP-VISIBLE vectors: needs OVMF_CODE_4M.fd of Debian's ovmf 2022.11, which is not installed (RETALLY_DEB_FILES lists folders)")
	}
	for key, sum := range want {
		c := pcrmeasure.Machine{Bank: digest.SHA256, Pattern: pcrmeasure.Direct}
		var mib uint64
		if _, err := fmt.Sscanf(strings.ReplaceAll(key, ",", " "), "mem%dMiB smp%d %s", &mib, &c.VCPUs, &c.Type); err != nil {
			t.Fatal(err)
		}
		c.Memory = mib << 20
		got, err := m.PredictOne(context.Background(), &c, 0)
		if err != nil {
			t.Errorf("%s: %v", key, err)
		} else if got.Value.Hex() != sum {
			t.Errorf("%s: %s, want %s", key, got.Value.Hex(), sum)
		}
	}
	for name, c := range map[string]pcrmeasure.Machine{
		"no memory":    {VCPUs: 1},
		"pc, 1024 MiB": {Type: "pc", Memory: 1 << 30, VCPUs: 1},
		"48 bits":      {Memory: 1 << 30, VCPUs: 1, AddressBits: 48},
		"other type":   {Type: "microvm", Memory: 1 << 30, VCPUs: 1},
	} {
		c.Bank, c.Pattern = digest.SHA256, pcrmeasure.Direct
		if got, err := m.PredictOne(context.Background(), &c, 0); err == nil {
			t.Errorf("%s: PCR 0 = %s, want none: it was never met", name, got.Value.Hex())
		}
	}
}

// TestNewerSystemd: what was met with systemd 252 only is not predicted for 257.
func TestNewerSystemd(t *testing.T) {
	img := pe([]string{".linux", ".osrel", ".cmdline", ".initrd"}, pe([]string{".text"}, []byte("k")), []byte("ID=x"), []byte("quiet"), []byte("initrd"))
	signed := pe([]string{".linux", ".cmdline", ".initrd", ".pcrsig"}, pe([]string{".text"}, []byte("k")), []byte("quiet"), []byte("initrd"), []byte("{}"))
	loader := pcrmeasure.Bytes("loader", pe([]string{".text"}, []byte("l")))
	head := pcrmeasure.Bytes("disk", gunzip(t, testenv.Vectors(t, "own/tpm/inputs/esp_uki.img.first34sectors.gz")))
	for name, c := range map[string]struct {
		uki     []byte
		pattern pcrmeasure.Pattern
		order   pcrmeasure.SectionOrder
		missing []int
	}{
		"252":                       {img, pcrmeasure.LoaderUKI, pcrmeasure.Order252, nil},
		"257":                       {img, pcrmeasure.UKIDirect, pcrmeasure.Order257, []int{9}},
		"257, loader":               {img, pcrmeasure.LoaderUKI, pcrmeasure.Order257, []int{9}},
		"257, loader, command line": {img, pcrmeasure.LoaderUKI, pcrmeasure.Order257, []int{9, 12}},
		"257, entry":                {img, pcrmeasure.LoaderEntry, pcrmeasure.Order257, []int{9, 12}},
		"252, entry":                {img, pcrmeasure.LoaderEntry, pcrmeasure.Order252, nil},
		"252, signature":            {signed, pcrmeasure.UKIDirect, pcrmeasure.Order252, []int{9}},
	} {
		conf := pcrmeasure.Bytes("loader.conf", []byte("timeout 0\n"))
		m := pcrmeasure.New(pcrmeasure.Artifacts{UKI: pcrmeasure.Bytes("uki", c.uki), Kernel: loader, Loader: loader, LoaderConf: conf, Disk: head, NoVariables: true})
		cmdline := ""
		if strings.HasSuffix(name, "command line") || c.pattern == pcrmeasure.LoaderEntry {
			cmdline = "other"
		}
		p, err := m.Predict(context.Background(), &pcrmeasure.Machine{Bank: digest.SHA256, Pattern: c.pattern, Order: c.order, Cmdline: cmdline})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		// The recorded machine of 257 with a loader: two images and the kernel
		// inside, loader.conf behind the partition table, no command line.
		if name == "257, loader" && (len(p.PCRs[4].Trace.Events) != 5 || p.PCRs[5].Trace.Events[2].Digest.Hex() != "d5806e53425536a75edf4c1fd65a5493d771212cc12cc5def3804794c426969e" || len(p.PCRs[12].Trace.Events) != 0) {
			t.Errorf("%s: PCR 4 %v, PCR 5 %v, PCR 12 %v", name, p.PCRs[4].Trace.Events, p.PCRs[5].Trace.Events, p.PCRs[12].Trace.Events)
		}
		var got []int
		for _, i := range slices.Sorted(maps(p.Missing)) {
			if i != 0 && i != 1 && i != 10 {
				got = append(got, i)
			}
		}
		if !slices.Equal(got, c.missing) {
			t.Errorf("%s: missing %v, want %v: %v", name, got, c.missing, p.Missing)
		}
	}
}

// TestUnknownFirmware: a build whose overlay is not known has no PCR 0.
func TestUnknownFirmware(t *testing.T) {
	found := 0
	for _, dir := range filepath.SplitList(os.Getenv("RETALLY_DEB_FILES")) {
		data, err := os.ReadFile(filepath.Join(dir, "OVMF_CODE_4M.fd"))
		if err != nil {
			continue
		}
		found++
		c := pcrmeasure.Machine{Bank: digest.SHA256, Pattern: pcrmeasure.Direct, Memory: 512 << 20, VCPUs: 1}
		got, err := pcrmeasure.New(pcrmeasure.Artifacts{Firmware: pcrmeasure.Bytes("OVMF_CODE_4M.fd", data)}).PredictOne(context.Background(), &c, 0)
		if err == nil {
			t.Errorf("%s: PCR 0 = %s, want none", dir, got.Value.Hex())
		} else if !strings.Contains(err.Error(), "PEI volume sha256") {
			t.Errorf("%s: %v", dir, err)
		}
	}
	if found == 0 {
		t.Skip("SKIP-VISIBLE vectors: no newer Debian's OVMF_CODE_4M.fd in RETALLY_DEB_FILES")
	}
}
