package acpi_test

import (
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/retally/retally/internal/testenv"
	"github.com/retally/retally/tdxmeasure/acpi"
)

const mib = 1 << 20

func readJSON(t *testing.T, path string, into any) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, into); err != nil {
		t.Fatal(err)
	}
}

func templates(t testing.TB) *acpi.Templates {
	t.Helper()
	tpl, err := acpi.NewTemplates()
	if err != nil {
		t.Fatal(err)
	}
	return tpl
}

func hex384(b []byte) string { s := sha512.Sum384(b); return hex.EncodeToString(s[:]) }
func hex256(b []byte) string { s := sha256.Sum256(b); return hex.EncodeToString(s[:]) }

type indexEntry struct {
	Name, File, Desc string
	SHA384           string `json:"sha384_padded"`
	SHA256           string `json:"sha256_padded"`
	RSDP             string `json:"rsdp_sha384"`
	Loader           string `json:"loader_sha384"`
	Profile          string
	PCIHotplug       bool `json:"pci_hotplug"`
	NumaPXB          bool `json:"numa_pxb"`
	CPUs             int
	MemoryMiB        uint64 `json:"memory_mib"`
	PCAT             int
	COM1             *bool
	Occupied         bool `json:"root_port_occupied"`
	Secret           int  `json:"root_port_slot"`
}

type index struct {
	Bases []indexEntry
	Blobs map[string]indexEntry
}

func readIndex(t *testing.T) (index, string) {
	t.Helper()
	dir := testenv.Vectors(t, "own/tdx/acpi")
	var ix index
	readJSON(t, filepath.Join(dir, "index.json"), &ix)
	return ix, filepath.Dir(dir)
}

func same(t *testing.T, name string, got *acpi.Blobs, want indexEntry) {
	t.Helper()
	if g := hex384(got.Tables); g != want.SHA384 {
		t.Errorf("%s: tables digest = %s, want %s", name, g, want.SHA384)
	}
	if g := hex384(got.RSDP); want.RSDP != "" && g != want.RSDP {
		t.Errorf("%s: RSDP digest = %s, want %s", name, g, want.RSDP)
	}
	if g := hex384(got.Loader); want.Loader != "" && g != want.Loader {
		t.Errorf("%s: loader digest = %s, want %s", name, g, want.Loader)
	}
}

// TestVectorBases makes every base of every family from the QEMU 10 ones.
func TestVectorBases(t *testing.T) {
	ix, _ := readIndex(t)
	tpl := templates(t)
	for _, b := range ix.Bases {
		s := acpi.Shape{
			Family: acpi.Family(b.Profile), VCPUs: b.CPUs, Memory: b.MemoryMiB * mib, PIC: b.PCAT == 1,
			NoHotplug: !b.PCIHotplug, NUMA: b.NumaPXB, PXB: b.NumaPXB, Slots: acpi.SlotsUpTo(5),
		}
		if b.Secret == 1 {
			s.Base, s.Slots, s.NoCOM1 = acpi.SecretVM, nil, !*b.COM1
			if b.Occupied {
				s.Base = acpi.SecretVMGPU
			}
		}
		got, err := tpl.Make(s)
		if err != nil {
			t.Errorf("%s: %v", b.Name, err)
			continue
		}
		same(t, b.Name, got, b)
	}
	t.Logf("bases: %d run", len(ix.Bases))
}

// TestVectorFiles derives RSDP and loader from every blob of the vectors.
func TestVectorFiles(t *testing.T) {
	ix, dir := readIndex(t)
	for name, b := range ix.Blobs {
		path := filepath.Join(dir, b.File)
		if _, err := os.Stat(path); err != nil {
			path = filepath.Join(filepath.Dir(filepath.Dir(dir)), "published/tdx", b.File)
		}
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		got, err := acpi.FromTables(data)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		same(t, name, got, b)
	}
	t.Logf("blobs as files: %d run", len(ix.Blobs))
}

type dstackShape struct {
	QEMU     string `json:"qemu_version"`
	CPU      int
	Memory   string
	GPUs     int    `json:"num_gpus"`
	Switches int    `json:"num_nvswitches"`
	NICs     *int   `json:"num_nics"`
	Volumes  int    `json:"num_verity_volumes"`
	Off      bool   `json:"hotplug_off"`
	PIC      bool   `json:"pic"`
	Huge     bool   `json:"hugepages"`
	Hole     uint64 `json:"pci_hole64_size"`
}

// TestVectorDstackShapes makes the blobs that are described as dstack shapes.
func TestVectorDstackShapes(t *testing.T) {
	ix, _ := readIndex(t)
	tpl := templates(t)
	run := 0
	for name, b := range ix.Blobs {
		text, ok := strings.CutPrefix(b.Desc, "dstack shape ")
		if !ok {
			continue
		}
		d := dstackShape{CPU: 1, Memory: "2G"}
		if err := json.Unmarshal([]byte(text), &d); err != nil {
			t.Fatalf("%s: %v", b.Desc, err)
		}
		nics := 1
		if d.NICs != nil {
			nics = *d.NICs
		}
		memory, err := strconv.ParseUint(strings.TrimRight(d.Memory, "GM"), 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		if memory *= mib; strings.HasSuffix(d.Memory, "G") {
			memory *= 1024
		}
		version := strings.Split(d.QEMU, ".")
		major, _ := strconv.Atoi(version[0])
		minor, _ := strconv.Atoi(version[1])
		family, _ := acpi.FamilyOf(major, minor)
		s := acpi.Shape{
			Family: family, VCPUs: d.CPU, Memory: memory, PIC: d.PIC, NoHotplug: d.Off,
			Slots: acpi.SlotsUpTo(4 + nics + d.Volumes), PCIHole64: d.Hole, NUMA: d.Huge, PXB: d.Huge && d.GPUs > 0,
		}
		if !s.PXB {
			for i := range d.GPUs + d.Switches {
				s.RootPorts = append(s.RootPorts, len(s.Slots)+1+i)
			}
		}
		got, err := tpl.Make(s)
		if err != nil {
			t.Errorf("%s: %v", b.Desc, err)
			continue
		}
		same(t, name+" "+b.Desc, got, b)
		run++
	}
	if run < 16 {
		t.Errorf("only %d dstack shapes run", run)
	}
	t.Logf("dstack shapes: %d run", run)
}

// TestVectorDigests are digests recorded by OVMF in running guests, and
// published digests of another generator.
func TestVectorDigests(t *testing.T) {
	path := testenv.Vectors(t, "own/tdx/acpi_digests.json")
	var v struct {
		Recorded []struct {
			MemoryMiB            uint64 `json:"memory_mib"`
			CPUs                 int
			Profile              string
			Slots                int `json:"root_slots"`
			PCAT                 int
			Tables, RSDP, Loader string
		} `json:"ovmf_recorded"`
		Golden struct {
			Versions map[string]string
			CPUs     map[string]string `json:"cpus_11_1"`
			Slots    map[string]string `json:"root_slots_11_1"`
			Numa     map[string]string `json:"numa_pxb_11_1_cpu2"`
		}
	}
	readJSON(t, path, &v)
	tpl := templates(t)
	mk := func(name string, s acpi.Shape) *acpi.Blobs {
		t.Helper()
		got, err := tpl.Make(s)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			return &acpi.Blobs{}
		}
		return got
	}
	for _, r := range v.Recorded {
		s := acpi.Shape{Family: acpi.Family(r.Profile), VCPUs: r.CPUs, Memory: r.MemoryMiB * mib, PIC: r.PCAT == 1, Slots: acpi.SlotsUpTo(r.Slots)}
		same(t, s.String(), mk(s.String(), s), indexEntry{SHA384: r.Tables, RSDP: r.RSDP, Loader: r.Loader})
	}
	plain := acpi.Shape{Family: acpi.Family111, VCPUs: 1, Memory: 2048 * mib, Slots: acpi.SlotsUpTo(5)}
	golden := func(name, want string, s acpi.Shape) {
		t.Helper()
		if got := hex256(mk(name, s).Tables); got != want {
			t.Errorf("%s: tables SHA-256 = %s, want %s", name, got, want)
		}
	}
	for version, want := range v.Golden.Versions {
		parts := strings.Split(version, ".")
		major, _ := strconv.Atoi(parts[0])
		minor, _ := strconv.Atoi(parts[1])
		s := plain
		s.Family, _ = acpi.FamilyOf(major, minor)
		golden("version "+version, want, s)
	}
	for n, want := range v.Golden.CPUs {
		s := plain
		s.VCPUs, _ = strconv.Atoi(n)
		golden(n+" vCPUs", want, s)
	}
	for n, want := range v.Golden.Slots {
		s := plain
		count, _ := strconv.Atoi(n)
		s.Slots = acpi.SlotsUpTo(count)
		golden(n+" slots", want, s)
	}
	for n, want := range v.Golden.Numa {
		s := plain
		count, _ := strconv.ParseUint(n, 10, 64)
		// The published digests were made with QEMU's default CPU model, AMD's.
		s.VCPUs, s.Memory, s.NUMA, s.PXB, s.AMDCPU = 2, count*mib, true, true, true
		golden("NUMA "+n+" MiB", want, s)
	}
	t.Logf("digests: %d recorded by OVMF, %d published", len(v.Recorded),
		len(v.Golden.Versions)+len(v.Golden.CPUs)+len(v.Golden.Slots)+len(v.Golden.Numa))
}
