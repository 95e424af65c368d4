package tdxmeasure_test

import (
	"context"
	"errors"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/ovmf"
	"github.com/retally/retally/profiles"
	"github.com/retally/retally/tdxmeasure"
	"github.com/retally/retally/tdxmeasure/acpi"
)

// synthetic is a small firmware image with a variable store.
func synthetic(t testing.TB) []byte {
	t.Helper()
	r := recipe{Size: 65536}
	add := func(offset, raw uint32, address, size uint64, typ ovmf.SectionType, attributes uint32) {
		r.Sections = append(r.Sections, struct {
			DataOffset    uint32 `json:"data_offset"`
			RawSize       uint32 `json:"raw_data_size"`
			MemoryAddress uint64 `json:"memory_address"`
			MemorySize    uint64 `json:"memory_data_size"`
			Type          uint32
			Attributes    uint32
		}{offset, raw, address, size, uint32(typ), attributes})
	}
	add(8192, 57344, 0xffff2000, 57344, ovmf.BFV, ovmf.AttrExtend)
	add(0, 8192, 0xffff0000, 8192, ovmf.CFV, 0)
	add(0, 0, 0x810000, 0x10000, ovmf.TempMem, 0)
	add(0, 0, 0x809000, 0x2000, ovmf.TDHOB, 0)
	return r.Build(t, "synthetic")
}

func config(t testing.TB, name string) *tdxmeasure.Config {
	t.Helper()
	return &tdxmeasure.Config{Profile: profile(t, name), VCPUs: 2, Memory: 4 << 30, Cmdline: "quiet", ACPI: templateSource(t), Devices: acpi.Shape{Slots: acpi.SlotsUpTo(5)}}
}

var sameDigest = cmp.Comparer(func(a, b digest.Digest) bool { return a == b })

// TestProfiles: every built-in profile is valid, says where it is from, and
// gives registers that are the folds of their traces.
func TestProfiles(t *testing.T) {
	a := tdxmeasure.Artifacts{
		Firmware: tdxmeasure.Bytes("fw", synthetic(t)), Kernel: tdxmeasure.Input{Name: "kernel", Known: digest.SHA384.Sum([]byte("kernel"))},
	}
	for _, name := range profiles.TDXNames() {
		c := config(t, name)
		if c.Profile.Name != name || c.Profile.Source == "" || c.Profile.Title == "" {
			t.Errorf("%s: name %q, title %q, source %q", name, c.Profile.Name, c.Profile.Title, c.Profile.Source)
		}
		res, errs := tdxmeasure.New(a).MeasureEach(context.Background(), c)
		for i, err := range errs {
			if err != nil {
				t.Errorf("%s: register %d: %v", name, i, err)
			}
		}
		if got := compute(t, res.MRTDTrace); got != res.MRTD || got.IsZero() {
			t.Errorf("%s: MRTD is not the fold of its trace", name)
		}
		for i, trace := range res.RTMRTrace {
			if compute(t, trace) != res.RTMR[i] {
				t.Errorf("%s: RTMR%d is not the fold of its trace", name, i)
			}
			for _, e := range trace.Events {
				if e.Label == "" {
					t.Errorf("%s: RTMR%d has an event without a label", name, i)
				}
			}
		}
	}
}

func TestProfileErrors(t *testing.T) {
	for text, want := range map[string]string{
		"version: 2":                    "version 2, want 1",
		"version: 1\npage_order: three": `page_order: "three", want`,
		"version: 1\nrtmr0: [nope]":     `unknown event "nope"`,
		"version: 1\nrtmr0: [a = 00]":   `event "a"`,
		"version: 1\nqemu: '9.2'":       "three numbers",
		"version: 1\nqemu: 7.2.0":       "8.0.0 or newer",
		"version: 1\nrtmr3: x\ncfv: y":  "cfv:",
		"version: 1\nunknown: 1":        "unknown",
	} {
		if _, err := tdxmeasure.ParseProfile("p.yaml", []byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: error = %v, want it to contain %q", text, err, want)
		}
	}
	if _, err := tdxmeasure.LoadProfile("../secretvm"); err == nil {
		t.Error("a path is accepted as a profile name")
	}
}

// TestMissingInputs: each register fails by itself and says what would help.
func TestMissingInputs(t *testing.T) {
	c := config(t, "secretvm")
	c.ACPI = nil
	_, errs := tdxmeasure.New(tdxmeasure.Artifacts{Firmware: tdxmeasure.Bytes("fw", synthetic(t))}).MeasureEach(context.Background(), c)
	for i, want := range []string{"", "(acpi)", "(kernel)", "", ""} {
		if want == "" && errs[i] != nil || want != "" && (errs[i] == nil || !strings.Contains(errs[i].Error(), want)) {
			t.Errorf("register %d: error = %v, want %q", i, errs[i], want)
		}
	}
	for name, edit := range map[string]func(*tdxmeasure.Config){
		"vCPUs":       func(c *tdxmeasure.Config) { c.VCPUs = 0 },
		"many vCPUs":  func(c *tdxmeasure.Config) { c.VCPUs = 4097 },
		"memory":      func(c *tdxmeasure.Config) { c.Memory = 0 },
		"much memory": func(c *tdxmeasure.Config) { c.Memory = 1 << 60 },
	} {
		c := config(t, "secretvm")
		edit(c)
		_, errs := tdxmeasure.New(tdxmeasure.Artifacts{Firmware: tdxmeasure.Bytes("fw", synthetic(t))}).MeasureEach(context.Background(), c)
		if errs[1] == nil {
			t.Errorf("%s: RTMR0 is computed", name)
		}
	}
	c = config(t, "secretvm")
	c.Cmdline = "\xff"
	_, errs = tdxmeasure.New(tdxmeasure.Artifacts{}).MeasureEach(context.Background(), c)
	var typed *tdxmeasure.Error
	if !errors.As(errs[3], &typed) || typed.Want != "UTF-8" {
		t.Errorf("error = %v, want one about UTF-8", errs[3])
	}
}

// TestSameTwice: many machines measured at once by one Measurer give what
// each gives alone.
func TestSameTwice(t *testing.T) {
	a := tdxmeasure.Artifacts{Firmware: tdxmeasure.Bytes("fw", synthetic(t)), Kernel: tdxmeasure.Input{Name: "kernel", Known: digest.SHA384.Sum(nil)}}
	m := tdxmeasure.New(a)
	shared := make([]*tdxmeasure.Result, 16)
	var wg sync.WaitGroup
	for i := range shared {
		wg.Go(func() {
			c := config(t, "secretvm")
			c.VCPUs = 1 + i%4
			r, err := m.Measure(context.Background(), c)
			if err != nil {
				t.Error(err)
			}
			shared[i] = r
		})
	}
	wg.Wait()
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	for i := range 4 {
		c := config(t, "secretvm")
		c.VCPUs = 1 + i
		alone, err := tdxmeasure.New(a).Measure(context.Background(), c)
		if err != nil {
			t.Fatal(err)
		}
		for j := i; j < len(shared); j += 4 {
			if d := cmp.Diff(alone, shared[j], sameDigest); d != "" {
				t.Errorf("machine %d: %s", j, d)
			}
		}
	}
}

func TestHugeSection(t *testing.T) {
	tdvf := &ovmf.TDVF{Offset: 0x100, FileSize: 16, Sections: []ovmf.Section{{MemorySize: 1 << 40, Type: ovmf.TempMem}}}
	_, err := tdxmeasure.MeasureMRTD(context.Background(), tdxmeasure.Bytes("fw", nil), tdvf, tdxmeasure.MRTDOptions{}, tdxmeasure.TwoPass)
	var typed *ovmf.Error
	if !errors.As(err, &typed) || typed.Code != ovmf.SectionTooLarge || typed.Offset != 0x120 {
		t.Errorf("error = %v, want %s at 0x120, the section's memory size", err, ovmf.SectionTooLarge)
	}
}

// TestConfigIDs has MRCONFIGID's forms; version 1 is a real quote's.
func TestConfigIDs(t *testing.T) {
	var compose [32]byte
	copy(compose[:], unhex(t, "86b0e55f2fa8e4fb69d890f14f54d5612707646e2573d54e0d2ddaaade77caa9"))
	id := tdxmeasure.ConfigIDV1(compose)
	if want := "0186b0e55f2fa8e4fb69d890f14f54d5612707646e2573d54e0d2ddaaade77caa9" + strings.Repeat("00", 15); string(unhex(t, want)) != string(id[:]) {
		t.Errorf("version 1 = %x, want %s", id, want)
	}
	if app := tdxmeasure.DefaultAppID(compose); string(app[:]) != string(compose[:20]) {
		t.Errorf("app id = %x", app)
	}
	// Keccak-256 of 53 zero bytes and of nothing differ: the provider's id counts.
	if a, b := tdxmeasure.ConfigIDV2(compose, [20]byte{}, tdxmeasure.KeyProviderNone, nil), tdxmeasure.ConfigIDV2(compose, [20]byte{}, tdxmeasure.KeyProviderKMS, []byte("x")); a == b || a[0] != 2 || a[33] != 0 {
		t.Errorf("version 2 = %x and %x", a, b)
	}
	if id := tdxmeasure.ConfigIDV3([]byte("{}")); id[0] != 3 || id[47] != 0 {
		t.Errorf("version 3 = %x", id)
	}
	if got, want := string(tdxmeasure.KeyProviderPayload("none", "")), `{"name":"none","id":""}`; got != want {
		t.Errorf("payload = %s, want %s", got, want)
	}
}

func TestParseMemory(t *testing.T) {
	for text, want := range map[string]uint64{"2G": 2 << 30, "2048M": 2 << 30, "2048MiB": 2 << 30, "512m": 512 << 20, "1073741824": 1 << 30, "1T": 1 << 40} {
		if got, err := tdxmeasure.ParseMemory(text); err != nil || got != want {
			t.Errorf("ParseMemory(%q) = %d, %v, want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"", "G", "0", "-1G", "2X", "99999999999G", "2GG"} {
		if _, err := tdxmeasure.ParseMemory(text); err == nil {
			t.Errorf("ParseMemory(%q) gives no error", text)
		}
	}
}
