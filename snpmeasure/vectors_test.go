package snpmeasure_test

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/ovmf"
	"github.com/retally/retally/internal/testenv"
	"github.com/retally/retally/snpmeasure"
)

func readJSON(t testing.TB, path string, into any) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, into); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
}

// fixture is a file of fixtures/snp.
func fixture(t testing.TB, name string) string {
	t.Helper()
	return filepath.Join(testenv.ModuleRoot(t), "fixtures", "snp", name)
}

// files are the inputs of the vectors by their names.
type files struct {
	dir  string
	list map[string]struct {
		SHA256, File, Source string
		Size                 int
	}
}

func newFiles(t testing.TB, dir string) *files {
	t.Helper()
	f := &files{dir: dir}
	readJSON(t, filepath.Join(dir, "files.json"), &f.list)
	return f
}

func repeat(what string, n int) []byte { return bytes.Repeat([]byte(what), n) }

// get returns an input's bytes, or nil where the vectors do not ship it and it
// is not installed either.
func (f *files) get(t testing.TB, name string) []byte {
	t.Helper()
	row, ok := f.list[name]
	if !ok {
		t.Fatalf("no input %q", name)
	}
	var data []byte
	switch {
	case row.File != "":
		packed, err := os.ReadFile(filepath.Join(f.dir, row.File))
		if err != nil {
			t.Fatal(err)
		}
		z, err := gzip.NewReader(bytes.NewReader(packed))
		if err != nil {
			t.Fatal(err)
		}
		if data, err = io.ReadAll(z); err != nil {
			t.Fatal(err)
		}
	case strings.HasPrefix(name, "deb-"):
		return installed(strings.TrimPrefix(name, "deb-"), row.SHA256)
	case strings.HasPrefix(name, "ssm-"):
		return nil
	default:
		data = map[string][]byte{
			"k1": repeat("kernel one", 100), "k2": {}, "k3": allBytes(16), "i1": repeat("initrd one", 50), "i2": make([]byte, 4096),
		}[name]
	}
	if sum := sha256.Sum256(data); hex.EncodeToString(sum[:]) != row.SHA256 {
		t.Fatalf("input %s is another file", name)
	}
	return data
}

func allBytes(n int) []byte {
	var b []byte
	for i := range 256 * n {
		b = append(b, byte(i))
	}
	return b
}

// installed looks for a package's file by its SHA-256 where packages put it
// and in the folders that RETALLY_DEB_FILES lists.
func installed(base, sum string) []byte {
	dirs := append([]string{"/usr/share/ovmf", "/usr/share/OVMF"}, filepath.SplitList(os.Getenv("RETALLY_DEB_FILES"))...)
	for _, dir := range dirs {
		data, err := os.ReadFile(filepath.Join(dir, base))
		if got := sha256.Sum256(data); err == nil && strings.HasPrefix(hex.EncodeToString(got[:]), sum) {
			return data
		}
	}
	return nil
}

type input struct {
	Mode, OVMF, Kernel, Initrd, Append, SVSM string
	VMM                                      string  `json:"vmm_type"`
	Type                                     string  `json:"vcpu_type"`
	Sig                                      *uint32 `json:"vcpu_sig"`
	FMS                                      []int
	VCPUs                                    int
	Features                                 *uint64 `json:"guest_features"`
	Seed                                     string  `json:"snp_ovmf_hash"`
	Vars                                     int64   `json:"vars_size"`
}

type vector struct {
	ID   string
	In   input
	Want struct {
		Digest, Error string
		Text          string   `json:"error_text"`
		Sig           *uint32  `json:"vcpu_sig"`
		VMSA          []string `json:"vmsa_sha256"`
	}
}

// machine makes what the library is asked; missing says which input is not at
// hand.
func (in *input) machine(t testing.TB, f *files) (a snpmeasure.Artifacts, c snpmeasure.Config, missing string, err error) {
	t.Helper()
	file := func(name string) snpmeasure.Input {
		if name == "" {
			return snpmeasure.Input{}
		}
		data := f.get(t, name)
		if data == nil && name != "k2" {
			missing = name
		}
		return snpmeasure.Bytes(name, data)
	}
	a = snpmeasure.Artifacts{Firmware: file(in.OVMF), Kernel: file(in.Kernel), Initrd: file(in.Initrd), SVSM: file(in.SVSM)}
	c = snpmeasure.Config{VMM: snpmeasure.QEMU, VCPUs: in.VCPUs, Cmdline: in.Append, Features: 1, VarsSize: in.Vars}
	if c.Mode, err = snpmeasure.ParseMode(in.Mode); err != nil {
		t.Fatal(err)
	}
	if in.VMM != "" {
		if c.VMM, err = snpmeasure.ParseVMM(in.VMM); err != nil {
			t.Fatal(err)
		}
	}
	if in.Features != nil {
		c.Features = *in.Features
	}
	switch {
	case in.FMS != nil:
		c.CPU, err = snpmeasure.CPUOfFamily(in.FMS[0], in.FMS[1], in.FMS[2])
	case in.Sig != nil:
		c.CPU = snpmeasure.CPUOfSignature(*in.Sig)
	case in.Type != "":
		c.CPU, err = snpmeasure.CPUOfType(in.Type)
	}
	if err == nil && in.Seed != "" {
		c.Seed, err = digest.ParseHex(digest.SHA384, in.Seed)
	}
	return a, c, missing, err
}

// isClass reports whether an error is of the class that the reference's text
// stands for.
func isClass(t *testing.T, v *vector, err error) bool {
	t.Helper()
	code := func(c ovmf.Code) bool {
		var e *ovmf.Error
		return errors.As(err, &e) && e.Code == c
	}
	for text, is := range map[string]func() bool{
		"doesn't include SNP_KERNEL_HASHES": func() bool { return errors.Is(err, snpmeasure.ErrNoHashesSection) },
		"doesn't support kernel/initrd":     func() bool { return errors.Is(err, snpmeasure.ErrNoHashesTable) },
		"SEV_ES_RESET_BLOCK_GUID":           func() bool { return errors.Is(err, snpmeasure.ErrNoResetBlock) },
		"SVSM_INFO_GUID":                    func() bool { return errors.Is(err, snpmeasure.ErrNoSVSMInfo) },
		"ap_save_area":                      func() bool { return errors.Is(err, snpmeasure.ErrResetZero) },
		"valid SectionType":                 func() bool { return errors.Is(err, snpmeasure.ErrSectionType) },
		"metadata signature":                func() bool { return code(ovmf.BadSEVMetadata) && strings.Contains(err.Error(), "signature") },
		"metadata version":                  func() bool { return code(ovmf.BadSEVMetadata) && strings.Contains(err.Error(), "version") },
		"Buffer size too small":             func() bool { return code(ovmf.BadSEVMetadata) && strings.Contains(err.Error(), "sections") },
		"negative count":                    func() bool { return errors.Is(err, snpmeasure.ErrHashesPlace) },
		"only implemented for Qemu":         func() bool { return errors.Is(err, snpmeasure.ErrSetting) && strings.Contains(err.Error(), "VMM") },
		"only works with SNP": func() bool {
			return errors.Is(err, snpmeasure.ErrSetting) && strings.Contains(err.Error(), "OVMF hash")
		},
		"non-hexadecimal": func() bool { return strings.Contains(err.Error(), "hexadecimal") },
	} {
		if strings.Contains(v.Want.Text, text) {
			return is()
		}
	}
	// The reference's assertions have no text: a size that is no whole number
	// of pages, or a seed of another length.
	if v.Want.Error == "AssertionError" && v.Want.Text == "" {
		return errors.Is(err, snpmeasure.ErrPageSize) || strings.Contains(err.Error(), "hex digits")
	}
	t.Fatalf("no class for %s %q", v.Want.Error, v.Want.Text)
	return false
}

func readVectors(t *testing.T, path string) (out []vector) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(bytes.NewReader(data))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var v vector
		if err := json.Unmarshal(lines.Bytes(), &v); err != nil {
			t.Fatal(err)
		}
		out = append(out, v)
	}
	return out
}

// distinct are the different values of a list in the order of their first use.
func distinct(list []string) (out []string) {
	for _, s := range list {
		if !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return out
}

func hexes(list []digest.Digest) (out []string) {
	for _, d := range list {
		out = append(out, d.Hex())
	}
	return out
}

// TestVectors recomputes every case of sev-snp-measure 0.0.13.
func TestVectors(t *testing.T) {
	f := newFiles(t, fixture(t, ""))
	ran, notRun := map[string]int{}, map[string]int{}
	for _, v := range readVectors(t, fixture(t, "cases.jsonl")) {
		source := "shipped"
		if strings.HasPrefix(v.In.OVMF, "deb-") {
			source = "Debian"
		} else if strings.HasPrefix(v.In.OVMF, "ssm-") {
			source = "not shipped"
		}
		t.Run(v.ID, func(t *testing.T) {
			a, c, missing, err := v.In.machine(t, f)
			if missing != "" {
				notRun[source]++
				t.Skipf("SKIP-VISIBLE vectors: needs %s (%s)", missing, f.list[missing].Source)
			}
			ran[source]++
			var r *snpmeasure.Result
			if err == nil {
				r, err = snpmeasure.New(a).Measure(context.Background(), c)
			}
			if v.Want.Error != "" {
				if err == nil {
					t.Fatalf("digest %s, the reference fails with %s %q", r.Digest, v.Want.Error, v.Want.Text)
				}
				if !isClass(t, &v, err) {
					t.Fatalf("error = %v, the reference's is %s %q", err, v.Want.Error, v.Want.Text)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if r.Digest.Hex() != v.Want.Digest {
				t.Errorf("digest = %s, want %s", r.Digest.Hex(), v.Want.Digest)
			}
			if v.Want.Sig != nil && c.CPU.Sig != *v.Want.Sig {
				t.Errorf("signature = %#x, want %#x", c.CPU.Sig, *v.Want.Sig)
			}
			if got, want := hexes(r.VMSA), distinct(v.Want.VMSA); v.Want.VMSA != nil && !slices.Equal(got, want) {
				t.Errorf("VMSA pages = %v, want %v", got, want)
			}
		})
	}
	t.Logf("run: %v, not run for want of inputs: %v", ran, notRun)
	if ran["shipped"] != 182 {
		t.Errorf("%d cases from shipped files, want 182", ran["shipped"])
	}
}

// TestRustQuirks reaches the values of the Rust crate sev 8.0.0 where they
// differ, by naming the quirks; its refusals are the rest.
func TestRustQuirks(t *testing.T) {
	f := newFiles(t, fixture(t, ""))
	var rows []struct {
		ID           string
		In           input
		Python, Rust string
	}
	readJSON(t, fixture(t, "python_vs_rust_differences.json"), &rows)
	for _, r := range rows {
		t.Run(r.ID, func(t *testing.T) {
			a, c, missing, err := r.In.machine(t, f)
			if missing != "" {
				t.Skipf("SKIP-VISIBLE vectors: needs %s", missing)
			}
			if err != nil {
				t.Fatal(err)
			}
			c.Quirks = []snpmeasure.Quirk{snpmeasure.EC2RDXZero, snpmeasure.CmdlineTrimmed, snpmeasure.MetadataRequired, snpmeasure.ResetZeroOneCPU}
			got, err := snpmeasure.New(a).Measure(context.Background(), c)
			switch {
			case strings.HasPrefix(r.In.OVMF, "t-hashoff-overflow"):
				// The crate writes past the page; there is no such quirk.
				if !errors.Is(err, snpmeasure.ErrHashesPlace) {
					t.Errorf("error = %v, want ErrHashesPlace", err)
				}
			case strings.Contains(r.Rust, `InvalidVcpuTypeError("gce")`):
				if err != nil || !slices.Contains(got.Quirks, snpmeasure.GCEOnePeer) {
					t.Errorf("quirks = %v, %v, want %s", got.Quirks, err, snpmeasure.GCEOnePeer)
				}
			case strings.Contains(r.Rust, "OVMF_SEV_METADATA_GUI"):
				if !errors.Is(err, snpmeasure.ErrNoMetadata) {
					t.Errorf("error = %v, want ErrNoMetadata", err)
				}
			case err != nil:
				t.Error(err)
			default:
				if got.Digest.Hex() != r.Rust {
					t.Errorf("digest = %s, want the crate's %s", got.Digest.Hex(), r.Rust)
				}
				if len(got.Quirks) == 0 {
					t.Error("the quirk is not in the result")
				}
			}
		})
	}
}

// TestKrun compares with the Rust crate, which alone knows this VMM.
func TestKrun(t *testing.T) {
	f := newFiles(t, fixture(t, ""))
	var rows []struct {
		ID   string
		In   input
		Rust string `json:"rust_sev_8_0_0"`
	}
	readJSON(t, fixture(t, "krun_rust_cases.json"), &rows)
	if len(rows) != 26 {
		t.Fatalf("%d rows", len(rows))
	}
	for _, r := range rows {
		t.Run(r.ID, func(t *testing.T) {
			a, c, _, err := r.In.machine(t, f)
			if err != nil {
				t.Fatal(err)
			}
			c.Quirks = []snpmeasure.Quirk{snpmeasure.ResetZeroOneCPU}
			got, err := snpmeasure.New(a).Measure(context.Background(), c)
			if err != nil {
				t.Fatal(err)
			}
			if got.Digest.Hex() != r.Rust {
				t.Errorf("digest = %s, want %s", got.Digest.Hex(), r.Rust)
			}
		})
	}
}
