package snpmeasure_test

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/ovmf"
	"github.com/retally/retally/internal/testenv"
	"github.com/retally/retally/snpmeasure"
)

// known is a firmware of which only seed and tables are published.
type known struct {
	Seed     string
	Hashes   uint32
	Reset    uint32
	Sections []snpmeasure.Section
}

func (k *known) layout() *snpmeasure.Layout {
	return &snpmeasure.Layout{MetadataOffset: -1, HasMetadata: true, HashesTable: &k.Hashes, ResetEIP: &k.Reset, Sections: k.Sections}
}

func (k *known) artifacts(t testing.TB, kernel, initrd string) snpmeasure.Artifacts {
	return snpmeasure.Artifacts{
		Layout: k.layout(), Kernel: snpmeasure.Input{Name: "kernel", Known: sha256Of(t, kernel)}, Initrd: snpmeasure.Input{Name: "initrd", Known: sha256Of(t, initrd)},
	}
}

func cpu(t testing.TB, name string) snpmeasure.CPU {
	t.Helper()
	c, err := snpmeasure.CPUOfType(name)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestPublishedReports recomputes the MEASUREMENT of real reports from public
// inputs; the last one must not come out.
func TestPublishedReports(t *testing.T) {
	dir := testenv.Vectors(t, "published/snp")
	var rows []struct {
		ID, Measurement, Report string
		Matches                 bool
		Inputs                  struct {
			Seed     string `json:"ovmf_hash_seed"`
			Kernel   string `json:"kernel_sha256"`
			Initrd   string `json:"initrd_sha256"`
			Cmdline  string
			Hashes   uint32      `json:"sev_hashes_table_gpa"`
			Reset    uint32      `json:"sev_es_reset_eip"`
			Sections [][3]uint32 `json:"ovmf_sections_gpa_size_type"`
			VCPUs    int
			Type     string `json:"vcpu_type"`
			Features uint64 `json:"guest_features"`
		}
	}
	readJSON(t, filepath.Join(dir, "end_to_end.json"), &rows)
	if len(rows) != 3 {
		t.Fatalf("%d rows", len(rows))
	}
	for _, r := range rows {
		k := known{Seed: r.Inputs.Seed, Hashes: r.Inputs.Hashes, Reset: r.Inputs.Reset}
		for _, s := range r.Inputs.Sections {
			k.Sections = append(k.Sections, snpmeasure.Section{Address: s[0], Size: s[1], Type: ovmf.SEVSectionType(s[2])})
		}
		got, err := snpmeasure.New(k.artifacts(t, r.Inputs.Kernel, r.Inputs.Initrd)).Measure(context.Background(), snpmeasure.Config{
			Mode: snpmeasure.SNP, VMM: snpmeasure.QEMU, VCPUs: r.Inputs.VCPUs, CPU: cpu(t, r.Inputs.Type), Features: r.Inputs.Features,
			Cmdline: r.Inputs.Cmdline, Seed: sha384(t, k.Seed),
		})
		if err != nil {
			t.Errorf("%s: %v", r.ID, err)
			continue
		}
		if (got.Digest.Hex() == r.Measurement) != r.Matches {
			t.Errorf("%s: digest = %s, measurement %s, want equal: %v", r.ID, got.Digest.Hex(), r.Measurement, r.Matches)
		}
		report, err := os.ReadFile(filepath.Join(dir, "../..", r.Report))
		if err != nil {
			t.Fatal(err)
		}
		if m := hex.EncodeToString(report[0x90:0xc0]); m != r.Measurement {
			t.Errorf("%s: the report has %s", r.ID, m)
		}
	}
}

// TestPublishedOak extends Google's digests for one CPU to more.
func TestPublishedOak(t *testing.T) {
	var v struct {
		Sets map[string]map[string]string
		Page string `json:"vmsa_ap_page_sha384"`
	}
	readJSON(t, testenv.Vectors(t, "published/field/oak/vcpu_digests.json"), &v)
	n := 0
	for name, set := range v.Sets {
		one := sha384(t, set["1"])
		for count, want := range set {
			var vcpus int
			if _, err := fmt.Sscan(count, &vcpus); err != nil {
				t.Fatal(err)
			}
			r, err := snpmeasure.Extend(context.Background(), one, 0x3009, snpmeasure.Config{VMM: snpmeasure.GCE, Features: 1}, []int{vcpus})
			if err != nil {
				t.Fatal(err)
			}
			if r[0].Digest.Hex() != want {
				t.Errorf("%s with %d vCPUs = %s, want %s", name, vcpus, r[0].Digest.Hex(), want)
			}
			if vcpus > 1 {
				n++
			}
		}
	}
	if n != 3 {
		t.Errorf("%d digests, want 3", n)
	}
}

// TestContrastExtend extends the digest of a Contrast manifest by its APEIP,
// in whatever order the counts come.
func TestContrastExtend(t *testing.T) {
	var v struct {
		AP      string `json:"ap_vmsa_sha256"`
		EIP     string `json:"ap_eip"`
		Digests map[string]string
	}
	readJSON(t, fixture(t, "snp-extend.json"), &v)
	raw := unhex(t, v.EIP)
	eip := uint32(raw[0])<<24 | uint32(raw[1])<<16 | uint32(raw[2])<<8 | uint32(raw[3])
	one := sha384(t, v.Digests["1"])
	counts := []int{4, 1, 3, 2, 4}
	rs, err := snpmeasure.Extend(context.Background(), one, eip, snpmeasure.Config{VMM: snpmeasure.QEMU, CPU: cpu(t, "EPYC-Genoa"), Features: 1}, counts)
	if err != nil {
		t.Fatal(err)
	}
	for i, r := range rs {
		if want := v.Digests[fmt.Sprint(counts[i])]; r.Digest.Hex() != want {
			t.Errorf("%d vCPUs = %s, want %s", counts[i], r.Digest.Hex(), want)
		}
		if counts[i] > 1 && r.VMSA[0].Hex() != v.AP {
			t.Errorf("registers %s, want %s", r.VMSA[0].Hex(), v.AP)
		}
	}
}

// secretRow is a row of SecretVM's registry.
type secretRow struct {
	Env      string `json:"vm_type"`
	Version  string `json:"artifacts_ver"`
	Kernel   string `json:"kernel_hash"`
	Initrd   string `json:"initrd_hash"`
	Type     string `json:"vcpu_type"`
	Rootfs   string `json:"rootfs_hash"`
	Seed     string `json:"ovmf_hash"`
	Hashes   uint32 `json:"sev_hashes_table_gpa"`
	Reset    uint32 `json:"sev_es_reset_eip"`
	Extra    string `json:"cmdline_extra"`
	Sections []struct {
		Address uint32              `json:"gpa"`
		Size    uint32              `json:"size"`
		Type    ovmf.SEVSectionType `json:"section_type"`
	} `json:"ovmf_sections"`
}

func secretRows(t testing.TB) []secretRow {
	var rows []secretRow
	readJSON(t, testenv.Vectors(t, "published/field/secretvm/artifacts_registry/sev.json"), &rows)
	if len(rows) != 22 {
		t.Fatalf("%d rows, want 22", len(rows))
	}
	return rows
}

func (r *secretRow) known() *known {
	k := &known{Seed: r.Seed, Hashes: r.Hashes, Reset: r.Reset}
	for _, s := range r.Sections {
		k.Sections = append(k.Sections, snpmeasure.Section{Address: s.Address, Size: s.Size, Type: s.Type})
	}
	return k
}

func (r *secretRow) cmdline(compose []byte) string {
	line := "console=ttyS0 loglevel=7"
	if r.Extra != "" {
		line += " " + r.Extra
	}
	return fmt.Sprintf("%s docker_compose_hash=%s rootfs_hash=%s", line, digest.SHA256.Sum(compose).Hex(), r.Rootfs)
}

// sizes are SecretVM's machines by their number of CPUs: small to 2xlarge.
var sizes = []int{1, 2, 4, 8}

func (r *secretRow) measure(t testing.TB, compose []byte) []*snpmeasure.Result {
	t.Helper()
	rs, err := snpmeasure.New(r.known().artifacts(t, r.Kernel, r.Initrd)).Matrix(context.Background(), snpmeasure.Config{
		Mode: snpmeasure.SNP, VMM: snpmeasure.QEMU, CPU: cpu(t, r.Type), Features: 1, Cmdline: r.cmdline(compose), Seed: sha384(t, r.Seed),
	}, sizes, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	return rs
}

// TestPublishedSecretVM: a real machine's report is prod v0.0.25 with one CPU.
func TestPublishedSecretVM(t *testing.T) {
	dir := testenv.Vectors(t, "published/field/secretvm")
	compose, err := os.ReadFile(filepath.Join(dir, "amd_cpu_docker_check_compose.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	const want = "4f2f8168a6e12c416f24fc0dab99a3eac9403637640d497a781fac269e3e3dc8ac76d2fd2bd8b13b02ec77a7c6002c7b"
	var found []string
	for _, row := range secretRows(t) {
		for i, r := range row.measure(t, compose) {
			if r.Digest.Hex() == want {
				found = append(found, fmt.Sprintf("%s %s, %d vCPU", row.Env, row.Version, sizes[i]))
			}
		}
	}
	if got := strings.Join(found, "; "); got != "prod v0.0.25, 1 vCPU" {
		t.Errorf("the report is of %q", got)
	}
}

// TestOracleSecretVM compares every row and size with sev-snp-measure, which
// gets a stub firmware with the row's tables, and the row's seed and hashes.
func TestOracleSecretVM(t *testing.T) {
	oraclePython(t)
	dir := t.TempDir()
	write := func(name string, data []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	compose := []byte("services: {}\n")
	file := write("file", []byte("its hash is replaced"))
	var cases []oracleCase
	var ours []string
	for i, row := range secretRows(t) {
		stub := row.known().stub()
		fw := write(fmt.Sprint("stub-", i), stub)
		l, err := ovmf.ReadSEV(bytes.NewReader(stub), int64(len(stub)))
		if err != nil || *l.ResetEIP != row.Reset || len(l.Sections) != len(row.Sections) {
			t.Fatalf("stub firmware: %+v, %v", l, err)
		}
		for j, r := range row.measure(t, compose) {
			ours = append(ours, r.Digest.Hex())
			cases = append(cases, oracleCase{
				Mode: "snp", VMM: "QEMU", OVMF: fw, Kernel: file, Initrd: file, Append: row.cmdline(compose), VCPUs: sizes[j], Type: row.Type,
				Features: 1, Seed: row.Seed, KernelHash: row.Kernel, InitrdHash: row.Initrd,
			})
		}
	}
	equal := 0
	for i, a := range askOracle(t, cases) {
		if a.Digest == ours[i] {
			equal++
			continue
		}
		line, _ := json.Marshal(cases[i])
		t.Errorf("%s: digest %s, the oracle has %+v", line, ours[i], a)
	}
	t.Logf("%d of %d equal", equal, len(cases))
	if len(cases) != 88 {
		t.Errorf("%d cases, want 22 rows of 4 sizes", len(cases))
	}
}
