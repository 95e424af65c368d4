package tdxmeasure_test

import (
	"context"
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/ovmf"
	"github.com/retally/retally/internal/testenv"
	"github.com/retally/retally/tdxmeasure"
	"github.com/retally/retally/tdxmeasure/acpi"
)

// layouts are the sections that decide a TD HOB (specification, 3).
func layouts() map[string][]ovmf.Section {
	hob := func(typ ovmf.SectionType, at, size uint64) ovmf.Section {
		return ovmf.Section{MemoryAddress: at, MemorySize: size, Type: typ}
	}
	head := []ovmf.Section{hob(ovmf.TempMem, 0x80b000, 0x2000), hob(ovmf.TDHOB, 0x809000, 0x2000), hob(ovmf.TempMem, 0x800000, 0x6000)}
	with := func(s ...ovmf.Section) []ovmf.Section { return append(s, head...) }
	return map[string][]ovmf.Section{
		"A": with(hob(ovmf.TempMem, 0x810000, 0x10000)),
		"B": with(hob(ovmf.TempMem, 0x811000, 0xf000)),
		"C": with(hob(ovmf.TempMem, 0x814000, 0xc000), hob(ovmf.TempMem, 0x820000, 0x10000)),
	}
}

func TestVectorTDHOB(t *testing.T) {
	var rows []struct {
		Layout    string
		MemoryMiB uint64 `json:"memory_mib"`
		Digest    string
		Hex       string `json:"hob_hex"`
		Bytes     int    `json:"hob_bytes"`
	}
	readJSON(t, testenv.Vectors(t, "own/tdx/td_hob.json"), &rows)
	for _, r := range rows {
		got, err := tdxmeasure.TDHOB(layouts()[r.Layout], r.MemoryMiB*mib, tdxmeasure.HOBOptions{})
		if err != nil {
			t.Errorf("%s %d MiB: %v", r.Layout, r.MemoryMiB, err)
			continue
		}
		if r.Digest != "" {
			equal(t, r.Layout+" TD HOB", digest.SHA384.Sum(got), r.Digest)
		}
		if r.Hex != "" && hex.EncodeToString(got) != r.Hex {
			t.Errorf("%s %d MiB = %x, want %s", r.Layout, r.MemoryMiB, got, r.Hex)
		}
		if r.Bytes != 0 && len(got) != r.Bytes {
			t.Errorf("%s %d MiB has %d bytes, want %d", r.Layout, r.MemoryMiB, len(got), r.Bytes)
		}
		if r.Layout == "B" {
			fixed, err := tdxmeasure.TDHOB(nil, r.MemoryMiB*mib, tdxmeasure.HOBOptions{FixedLayout: true})
			if err != nil || string(fixed) != string(got) {
				t.Errorf("fixed layout of %d MiB differs from layout B: %v", r.MemoryMiB, err)
			}
		}
	}
	t.Logf("td_hob.json: %d run", len(rows))
}

func TestVectorCmdline(t *testing.T) {
	var rows []struct{ Cmdline, Digest string }
	readJSON(t, testenv.Vectors(t, "own/tdx/cmdline.json"), &rows)
	for _, r := range rows {
		d, err := tdxmeasure.CmdlineDigest(r.Cmdline)
		if err != nil {
			t.Error(err)
		}
		equal(t, r.Cmdline, d, r.Digest)
	}
	t.Logf("cmdline.json: %d run", len(rows))
}

func known(t testing.TB, name, hex256 string) tdxmeasure.Input {
	t.Helper()
	d, err := digest.ParseHex(digest.SHA256, hex256)
	if err != nil {
		t.Fatal(err)
	}
	return tdxmeasure.Input{Name: name, Known: d}
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestVectorRTMR3(t *testing.T) {
	var rows []struct {
		Scheme, Compose, Rootfs, RTMR3, Name, Payload, Digest string
		ComposeSum                                            string `json:"compose_sha256"`
		DockerSum                                             string `json:"dockerfiles_sha256"`
		AppID                                                 string `json:"app_id"`
	}
	path := testenv.Vectors(t, "own/tdx/rtmr3.json")
	readJSON(t, path, &rows)
	for _, r := range rows {
		if strings.HasPrefix(r.Scheme, "dstack-event-digest-") {
			e := tdxmeasure.RuntimeEvent{Name: r.Name, Payload: unhex(t, r.Payload), Version: 1}
			if strings.HasSuffix(r.Scheme, "v2") {
				e.Version = 2
			}
			equal(t, r.Scheme, e.Digest(), r.Digest)
			continue
		}
		a := tdxmeasure.Artifacts{Rootfs: known(t, "rootfs", r.Rootfs)}
		if r.Compose != "" {
			data, err := os.ReadFile(filepath.Join(filepath.Dir(path), "../..", r.Compose))
			if err != nil {
				t.Fatal(err)
			}
			a.Compose = tdxmeasure.Bytes(r.Compose, data)
		} else {
			a.Compose = known(t, "compose", r.ComposeSum)
		}
		if r.DockerSum != "" {
			a.DockerFiles = known(t, "docker files", r.DockerSum)
		}
		p := profile(t, "secretvm")
		if strings.HasPrefix(r.Scheme, "dstack-events") {
			p.RTMR3 = tdxmeasure.RTMR3SecretVMKMS
		}
		res, errs := tdxmeasure.New(a).MeasureEach(context.Background(), &tdxmeasure.Config{Profile: p, VCPUs: 1, Memory: 2048 * mib, AppID: unhex(t, r.AppID)})
		if errs[4] != nil {
			t.Errorf("%s: %v", r.Scheme, errs[4])
			continue
		}
		equal(t, r.Scheme, res.RTMR[3], r.RTMR3)
	}
	t.Logf("rtmr3.json: %d run", len(rows))
}

type vmShape struct {
	Profile  string `json:"qemu_profile"`
	PCAT     int
	COM1     bool
	CPUs     int
	Memory   uint64 `json:"memory_mib"`
	Occupied bool   `json:"root_port_occupied"`
	Trailing bool   `json:"trailing_separator"`
}

// rtmr0 computes RTMR0 of a SecretVM shape on firmware whose layout and
// variable store are SecretVM's.
func (s vmShape) rtmr0(t testing.TB) digest.Digest {
	t.Helper()
	p := profile(t, "secretvm")
	p.ACPIFamily, p.PIC, p.TrailingSeparator = acpi.Family(s.Profile), s.PCAT == 1, s.Trailing
	p.ConstantCFV = true // the firmware itself is not published; its variable store is the empty one
	p.HOB.FixedLayout = true
	base := acpi.SecretVM
	if s.Occupied {
		base = acpi.SecretVMGPU
	}
	f := newFiles(t)
	m := tdxmeasure.New(tdxmeasure.Artifacts{Firmware: f.input(t, "fw02-layoutB.fd")})
	res, errs := m.MeasureEach(context.Background(), &tdxmeasure.Config{
		Profile: p, VCPUs: s.CPUs, Memory: s.Memory * mib, ACPI: templateSource(t), Devices: acpi.Shape{Base: base, NoCOM1: !s.COM1},
	})
	if errs[1] != nil {
		t.Fatal(errs[1])
	}
	return res.RTMR[0]
}

func TestVectorSecretVMShapes(t *testing.T) {
	var v struct {
		Shapes []struct {
			Template string
			RTMR0    string
			Shape    vmShape
		}
	}
	readJSON(t, testenv.Vectors(t, "own/tdx/secretvm_rtmr0_shapes.json"), &v)
	for _, s := range v.Shapes {
		equal(t, s.Template, s.Shape.rtmr0(t), s.RTMR0)
	}
	t.Logf("secretvm_rtmr0_shapes.json: %d run", len(v.Shapes))
}

func TestVectorSecretVMSample(t *testing.T) {
	var v struct {
		MRTD, RTMR0, RTMR1, RTMR2, RTMR3 string
		Aggregated                       string `json:"MR_AGGREGATED"`
		Image                            string `json:"MR_IMAGE"`
		Reproduced                       struct {
			RTMR0 vmShape
		}
	}
	readJSON(t, testenv.Vectors(t, "own/tdx/secretvm_seed.json"), &v)
	shape := v.Reproduced.RTMR0
	if shape.Profile == "" {
		t.Fatal("no shape in the sample")
	}
	equal(t, "RTMR0", shape.rtmr0(t), v.RTMR0)
	parse := func(s string) digest.Digest {
		d, err := digest.ParseHex(digest.SHA384, s)
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	r := tdxmeasure.Registers{MRTD: parse(v.MRTD), RTMR: [4]digest.Digest{parse(v.RTMR0), parse(v.RTMR1), parse(v.RTMR2), parse(v.RTMR3)}}
	equal(t, "MR_AGGREGATED", r.MRAggregated(nil), v.Aggregated)
	equal(t, "MR_IMAGE", r.MRImage(), v.Image)
}

// TestVectorContrast compares with an own computation on three texts in place
// of firmware volume, kernel and initrd; no output of the tool itself exists.
func TestVectorContrast(t *testing.T) {
	var v struct {
		Events  [][2]string `json:"events_none"`
		RTMR0   string      `json:"rtmr0_none"`
		RTMR1   string      `json:"rtmr1"`
		RTMR2   string      `json:"rtmr2"`
		Cmdline string      `json:"rtmr2_cmdline"`
	}
	readJSON(t, testenv.Vectors(t, "own/contrast/tdx-rtmr.json"), &v)
	// A firmware image whose CFV section is the three bytes of the vector.
	r := recipe{Size: 65536}
	r.Sections = append(r.Sections, struct {
		DataOffset    uint32 `json:"data_offset"`
		RawSize       uint32 `json:"raw_data_size"`
		MemoryAddress uint64 `json:"memory_address"`
		MemorySize    uint64 `json:"memory_data_size"`
		Type          uint32
		Attributes    uint32
	}{DataOffset: 0, RawSize: 3, MemoryAddress: 0xffff0000, MemorySize: 4096, Type: 1})
	fw := r.Build(t, "contrast")
	copy(fw, "CFV")
	a := tdxmeasure.Artifacts{
		Firmware: tdxmeasure.Bytes("fw", fw), Initrd: tdxmeasure.Bytes("initrd", []byte("initrd")),
		Kernel: tdxmeasure.Input{Name: "kernel", Known: digest.SHA384.Sum([]byte("kernel"))},
	}
	res, errs := tdxmeasure.New(a).MeasureEach(context.Background(), &tdxmeasure.Config{
		Profile: profile(t, "contrast-1.20-nogpu"), VCPUs: 1, Memory: 2048 * mib, Cmdline: v.Cmdline,
	})
	for i, err := range errs {
		if err != nil {
			t.Errorf("register %d: %v", i, err)
		}
	}
	events := res.RTMRTrace[0].Events
	if len(events) != len(v.Events) {
		t.Fatalf("RTMR0 has %d events, want %d", len(events), len(v.Events))
	}
	for i, e := range v.Events {
		equal(t, e[0], events[i].Digest, e[1])
	}
	equal(t, "RTMR0", res.RTMR[0], v.RTMR0)
	equal(t, "RTMR1", res.RTMR[1], v.RTMR1)
	equal(t, "RTMR2", res.RTMR[2], v.RTMR2)
}

// TestVectorFixtures are the published fixtures of tdx-measure, on Debian's
// firmware: the same memory layout and variable store, so the same RTMR0.
func TestVectorFixtures(t *testing.T) {
	dir := testenv.Vectors(t, "published/tdx/fixtures")
	f := newFiles(t)
	for _, name := range []string{"canonical-defaults", "runtime-capture"} {
		t.Run(name, func(t *testing.T) {
			fw := f.input(t, "deb:ovmf_2025.02-8+deb13u1:OVMF.fd")
			data, err := os.ReadFile(filepath.Join(dir, name, "metadata.json"))
			if err != nil {
				t.Fatal(err)
			}
			meta, err := tdxmeasure.ParseMetadata("metadata.json", data)
			if err != nil {
				t.Fatal(err)
			}
			tables, err := os.ReadFile(filepath.Join(dir, name, "acpi_tables.trimmed.hex"))
			if err != nil {
				t.Fatal(err)
			}
			src, err := tdxmeasure.NewFileSource(meta.ACPITables, tables)
			if err != nil {
				t.Fatal(err)
			}
			var want registers
			readJSON(t, filepath.Join(dir, name, "expected.json"), &want)
			res, errs := tdxmeasure.New(tdxmeasure.Artifacts{Firmware: fw}).MeasureEach(context.Background(), &tdxmeasure.Config{
				Profile: profile(t, "tdx-measure"), VCPUs: meta.VCPUs, Memory: meta.Memory, ACPI: src,
			})
			if errs[1] != nil {
				t.Fatal(errs[1])
			}
			equal(t, "RTMR0", res.RTMR[0], want.RTMR0)
		})
	}
}

// TestVectorQuotes recomputes the registers of real quotes from the machine's
// shape.
func TestVectorQuotes(t *testing.T) {
	var rows []struct {
		File      string
		Registers struct {
			MRTD, RTMR0, RTMR1, RTMR2, RTMR3, MRConfigID string
		}
		Shape struct {
			vmShape
			Kind   string `json:"profile"`
			Layout string `json:"hob_layout"`
		} `json:"vm_shape"`
	}
	path := testenv.Vectors(t, "published/tdx/real_quotes.json")
	readJSON(t, path, &rows)
	for _, r := range rows {
		if r.Shape.Kind == "secretvm" {
			r.Shape.CPUs, r.Shape.Memory = 1, 2048
			equal(t, r.File+" RTMR0", r.Shape.rtmr0(t), r.Registers.RTMR0)
		}
	}
	var lite struct {
		EventLog string `json:"event_log"`
		VMConfig string `json:"vm_config"`
	}
	readJSON(t, testenv.Vectors(t, "published/tdx/quotes/dstack-0.6.0-lite.json"), &lite)
	doc, err := tdxmeasure.ParseDstackConfig("vm_config", []byte(lite.VMConfig))
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range rows {
		if r.Shape.Kind != "dstack" {
			continue
		}
		replayed, format, err := tdxmeasure.ReplayLog("event_log", []byte(lite.EventLog))
		if err != nil {
			t.Fatal(err)
		}
		if format != tdxmeasure.DstackJSON || len(replayed.Problems) > 0 {
			t.Errorf("event log read as %s with problems %v", format, replayed.Problems)
		}
		for i, w := range []string{r.Registers.RTMR0, r.Registers.RTMR1, r.Registers.RTMR2, r.Registers.RTMR3} {
			equal(t, "replayed RTMR", replayed.RTMR[i], w)
		}
		m := doc.Measurement
		want := r.Registers
		equal(t, "MRTD", m.MRTD(tdxmeasure.TwoPass), want.MRTD)
		profile, err := m.Profile()
		if err != nil {
			t.Fatal(err)
		}
		res, err := m.Measure(context.Background(), profile, doc, templateSource(t))
		if err != nil {
			t.Fatal(err)
		}
		equal(t, "RTMR0", res.RTMR[0], want.RTMR0)
		equal(t, "RTMR1", res.RTMR[1], want.RTMR1)
		equal(t, "RTMR2", res.RTMR[2], want.RTMR2)
	}
	if len(doc.Problems) > 0 {
		t.Errorf("problems: %v", doc.Problems)
	}
}
