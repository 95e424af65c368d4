package tdxmeasure_test

import (
	"context"
	"encoding/json"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/retally/retally/internal/ovmf"
	"github.com/retally/retally/internal/testenv"
	"github.com/retally/retally/tdxmeasure"
	"github.com/retally/retally/tdxmeasure/acpi"
)

type registers struct {
	MRTD, RTMR0, RTMR1, RTMR2, RTMR3 string
	Aggregated                       string `json:"mr_aggregated"`
	Image                            string `json:"mr_image"`
	Log0, Log1, Log2                 []string
	Error                            string
}

// value is a digest or an error that a peer printed.
type value struct{ Hex, Error string }

func (v *value) UnmarshalJSON(b []byte) error {
	if len(b) > 0 && b[0] == '{' {
		var e struct{ Error string }
		err := json.Unmarshal(b, &e)
		v.Error = e.Error
		return err
	}
	if string(b) == "null" {
		return nil
	}
	return json.Unmarshal(b, &v.Hex)
}

type run struct {
	ID, Kind, Firmware, Kernel, Initrd, Fixture, Want string
	Note                                              string
	ACPI                                              string           `json:"acpi"`
	Blob                                              string           `json:"acpi_blob"`
	MemoryMiB                                         uint64           `json:"memory_mib"`
	SinglePass                                        map[string]value `json:"single_pass"`
	TwoPass                                           map[string]value `json:"two_pass"`
	RTMR0                                             map[string]value
	HOB                                               map[string]value `json:"td_hob_digest"`
	Event                                             map[string]value `json:"kernel_event_digest"`
	RTMR1                                             map[string]value
	Inputs                                            runInputs
	Outputs, Expected                                 registers
	Memory, Cmdline                                   string
	CPUs                                              int
	PatchKernel                                       bool `json:"patch_kernel"`
	Metadata                                          json.RawMessage
	Needs                                             []string
}

type runInputs struct {
	FW, Kernel, Initrd, Rootfs, Compose, DockerFiles, Memory, Cmdline, MRKP string
	CPU                                                                     *int
	TCBVer                                                                  int
	Blob                                                                    string `json:"acpi_blob"`
	QEMU                                                                    string `json:"qemu_version"`
	PIC                                                                     *bool
	GPUs                                                                    int    `json:"num_gpus"`
	NICs                                                                    *int   `json:"num_nics"`
	Volumes                                                                 int    `json:"num_verity_volumes"`
	Switches                                                                int    `json:"num_nvswitches"`
	Hole                                                                    uint64 `json:"pci_hole64_size"`
	HugePages                                                               bool
	HotplugOffJSON                                                          bool  `json:"hotplug_off"`
	RootVerity                                                              *bool `json:"root_verity"`
}

func memory(t testing.TB, s string) uint64 {
	t.Helper()
	if s == "" {
		return 2048 * mib
	}
	n, err := strconv.ParseUint(s[:len(s)-1], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	if n *= mib; s[len(s)-1] == 'G' {
		n *= 1024
	}
	return n
}

// TestVectorOracleRuns recomputes every recorded run of a peer program. Where
// a peer differs from the specification its value is reached by its switch.
func TestVectorOracleRuns(t *testing.T) {
	f := newFiles(t)
	var v struct{ Vectors []run }
	readJSON(t, filepath.Join(f.dir, "oracle_runs.json"), &v)
	var oasis struct{ Vectors []run }
	readJSON(t, testenv.Vectors(t, "published/tdx/oracle_runs_oasis.json"), &oasis)
	for i := range oasis.Vectors {
		oasis.Vectors[i].ID = "oasis-" + strconv.Itoa(i)
	}
	counts := map[string][3]int{}
	for _, r := range append(v.Vectors, oasis.Vectors...) {
		var ran, ok bool
		t.Run(r.ID+"/"+r.Kind, func(t *testing.T) {
			defer func() { ran, ok = !t.Skipped(), !t.Failed() && !t.Skipped() }()
			switch r.Kind {
			case "mrtd", "mrtd+rtmr0":
				r.checkFirmware(t, f)
			case "firmware-error":
				r.checkFirmwareError(t, f)
			case "kernel":
				r.checkKernel(t, f)
			case "reproduce-mr":
				r.checkReproduceMR(t, f)
			case "dstack-mr":
				r.checkDstack(t, f)
			case "tdx-measure", "tdx-measure-fixture":
				r.checkTDXMeasure(t, f)
			default:
				t.Fatalf("unknown kind %q", r.Kind)
			}
		})
		c := counts[r.Kind]
		switch {
		case ok:
			c[1]++
			fallthrough
		case ran:
			c[0]++
		default:
			c[2]++
		}
		counts[r.Kind] = c
	}
	for kind, c := range counts {
		t.Logf("%s: %d run, %d equal, %d not run for want of inputs", kind, c[0], c[1], c[2])
	}
}

// checkFirmware compares MRTD in both orders, and RTMR0 and TD HOB of the
// peers that differ in the layout and in the variable store.
func (r run) checkFirmware(t *testing.T, f *files) {
	ctx := context.Background()
	fw := f.input(t, r.Firmware)
	for peer, want := range map[string]map[string]value{"single": r.SinglePass, "two": r.TwoPass} {
		order := tdxmeasure.SinglePass
		if peer == "two" {
			order = tdxmeasure.TwoPass
		}
		for name, w := range want {
			opt := tdxmeasure.MRTDOptions{ReadOn: name != "reproduce-mr"}
			tdvf, err := ovmf.ReadTDVF(fw.R, fw.Size)
			var got []tdxmeasure.Trace
			if err == nil {
				got, err = tdxmeasure.MeasureMRTD(ctx, fw, tdvf, opt, order)
			}
			if w.Error != "" {
				if err == nil && !strings.Contains(w.Error, "CFV section does not exist") {
					t.Errorf("%s %s: MRTD computed, the peer fails with %.80s", name, order, w.Error)
				}
				continue
			}
			if err != nil {
				t.Errorf("%s %s: %v", name, order, err)
				continue
			}
			equal(t, name+" "+string(order), compute(t, got[0]), w.Hex)
		}
	}
	if r.Kind != "mrtd+rtmr0" {
		return
	}
	for peer, w := range r.RTMR0 {
		p := profile(t, map[string]string{"reproduce-mr (fixed HOB layout)": "reproduce-mr", "dstack-mr": "dstack", "tdx-measure": "tdx-measure"}[peer])
		p.MRTD.ReadOn = peer != "reproduce-mr (fixed HOB layout)"
		m := tdxmeasure.New(tdxmeasure.Artifacts{Firmware: fw})
		res, errs := m.MeasureEach(ctx, &tdxmeasure.Config{Profile: p, VCPUs: 1, Memory: r.MemoryMiB * mib, ACPI: f.acpi(t, r.ACPI)})
		if w.Error != "" {
			if errs[0] == nil && errs[1] == nil {
				t.Errorf("%s: computed, the peer fails with %.80s", peer, w.Error)
			}
			continue
		}
		if errs[1] != nil {
			t.Errorf("%s: RTMR0: %v", peer, errs[1])
			continue
		}
		equal(t, peer+" RTMR0", res.RTMR[0], w.Hex)
		if hob := r.HOB[strings.Fields(peer)[0]].Hex; hob != "" {
			equal(t, peer+" TD HOB", res.RTMRTrace[0].Events[0].Digest, hob)
		}
	}
}

func (r run) checkFirmwareError(t *testing.T, f *files) {
	fw := f.input(t, r.Firmware)
	tdvf, err := ovmf.ReadTDVF(fw.R, fw.Size)
	if err == nil {
		_, err = tdxmeasure.MeasureMRTD(context.Background(), fw, tdvf, tdxmeasure.MRTDOptions{}, tdxmeasure.SinglePass)
	}
	var typed *ovmf.Error
	if !asError(err, &typed) {
		t.Fatalf("error = %v, want an *ovmf.Error", err)
	}
	t.Log(err)
}

func (r run) checkKernel(t *testing.T, f *files) {
	ctx := context.Background()
	a := tdxmeasure.Artifacts{Kernel: f.input(t, r.Kernel), Initrd: f.input(t, r.Initrd)}
	for peer, w := range r.RTMR1 {
		p := profile(t, "secretvm")
		switch peer {
		case "reproduce-mr":
		case "dstack-mr", "tdx-measure --patch-kernel":
			p.HeaderRule, p.Authenticode.TailOnlyWithCertificate = tdxmeasure.HeaderDstack, true
		case "tdx-measure (unpatched)":
			p.PatchKernel, p.Authenticode.TailOnlyWithCertificate = false, true
		default:
			t.Fatalf("unknown peer %q", peer)
		}
		res, errs := tdxmeasure.New(a).MeasureEach(ctx, &tdxmeasure.Config{Profile: p, VCPUs: 1, Memory: r.MemoryMiB * mib})
		if w.Error != "" {
			if errs[2] == nil {
				t.Errorf("%s: computed, the peer fails with %.80s", peer, w.Error)
			}
			continue
		}
		if errs[2] != nil {
			t.Errorf("%s: %v", peer, errs[2])
			continue
		}
		equal(t, peer+" RTMR1", res.RTMR[1], w.Hex)
		if e, ok := r.Event[peer]; ok {
			equal(t, peer+" kernel event", res.RTMRTrace[1].Events[0].Digest, e.Hex)
		}
	}
}

func (r run) checkReproduceMR(t *testing.T, f *files) {
	in := r.Inputs
	a := tdxmeasure.Artifacts{
		Firmware: f.input(t, in.FW), Kernel: f.input(t, in.Kernel), Initrd: f.input(t, in.Initrd),
		Rootfs: f.input(t, in.Rootfs), Compose: f.input(t, in.Compose), DockerFiles: f.input(t, in.DockerFiles),
	}
	p := profile(t, "reproduce-mr")
	switch in.TCBVer {
	case 7:
		p.PageOrder = tdxmeasure.TwoPass
	case 6:
		p.PageOrder = tdxmeasure.SinglePass
	default:
		p.PageOrder = "tcbver " + tdxmeasure.PageOrder(strconv.Itoa(in.TCBVer))
	}
	var provider []byte
	var err error
	if in.MRKP != "" {
		provider, err = tdxmeasure.ParseKeyProvider(in.MRKP)
	}
	var res *tdxmeasure.Result
	if err == nil {
		res, err = tdxmeasure.New(a).Measure(context.Background(), &tdxmeasure.Config{
			Profile: p, VCPUs: *in.CPU, Memory: memory(t, in.Memory), Cmdline: in.Cmdline, ACPI: f.acpi(t, in.Blob),
		})
	}
	if r.Outputs.Error != "" {
		if err == nil {
			t.Errorf("computed, the peer fails with %s", r.Outputs.Error)
		}
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	r.Outputs.check(t, res)
	equal(t, "MR_AGGREGATED", res.MRAggregated(provider), r.Outputs.Aggregated)
	equal(t, "MR_IMAGE", res.MRImage(), r.Outputs.Image)
}

// check compares the registers and every event of the logs.
func (want registers) check(t *testing.T, got *tdxmeasure.Result) {
	t.Helper()
	equal(t, "MRTD", got.MRTD, want.MRTD)
	for i, w := range []string{want.RTMR0, want.RTMR1, want.RTMR2, want.RTMR3} {
		if w != "" {
			equal(t, "RTMR"+strconv.Itoa(i), got.RTMR[i], w)
		}
	}
	for i, log := range [][]string{want.Log0, want.Log1, want.Log2} {
		if log == nil {
			continue
		}
		events := got.RTMRTrace[i].Events
		if len(events) != len(log) {
			t.Errorf("RTMR%d has %d events, want %d", i, len(events), len(log))
			continue
		}
		for j, w := range log {
			equal(t, "RTMR"+strconv.Itoa(i)+" event "+events[j].Label, events[j].Digest, w)
		}
	}
}

func (r run) checkDstack(t *testing.T, f *files) {
	in := r.Inputs
	p := profile(t, "dstack")
	var err error
	if in.QEMU != "" {
		err = p.SetQEMU(in.QEMU)
	}
	if in.PIC != nil {
		p.PIC = *in.PIC
	}
	p.SixTableLoader = true // this version of the tool knows six tables only
	p.PatchKernel = true    // this version of the tool patches for every QEMU
	cpus := 1
	if in.CPU != nil {
		cpus = *in.CPU
	}
	a := tdxmeasure.Artifacts{Firmware: f.input(t, in.FW), Kernel: f.input(t, in.Kernel), Initrd: f.input(t, in.Initrd)}
	c := &tdxmeasure.Config{Profile: p, VCPUs: cpus, Memory: memory(t, in.Memory), Cmdline: in.Cmdline, ACPI: templateSource(t)}
	c.Devices = in.devices()
	var res *tdxmeasure.Result
	if err == nil {
		res, err = tdxmeasure.New(a).Measure(context.Background(), c)
	}
	if r.Outputs.Error != "" {
		if err == nil {
			t.Errorf("computed, the peer fails with %s", r.Outputs.Error)
		}
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	r.Outputs.check(t, res)
}

func (in runInputs) devices() acpi.Shape {
	nics := 1
	if in.NICs != nil {
		nics = *in.NICs
	}
	n := 4 + nics + in.Volumes
	if in.RootVerity != nil && !*in.RootVerity {
		n--
	}
	s := acpi.Shape{NoHotplug: in.HotplugOffJSON, Slots: acpi.SlotsUpTo(n), PCIHole64: in.Hole, NUMA: in.HugePages, PXB: in.HugePages && in.GPUs > 0}
	if !s.PXB {
		for i := range in.GPUs + in.Switches {
			s.RootPorts = append(s.RootPorts, n+1+i)
		}
	}
	return s
}

func templateSource(t testing.TB) tdxmeasure.Source {
	t.Helper()
	s, err := tdxmeasure.NewTemplateSource()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func (r run) checkTDXMeasure(t *testing.T, f *files) {
	if r.Kind == "tdx-measure-fixture" {
		r.checkFixture(t, f)
		return
	}
	p := profile(t, "tdx-measure")
	p.PatchKernel = r.PatchKernel
	a := tdxmeasure.Artifacts{Firmware: f.input(t, r.Firmware), Kernel: f.input(t, r.Kernel), Initrd: f.input(t, r.Initrd)}
	res, err := tdxmeasure.New(a).Measure(context.Background(), &tdxmeasure.Config{
		Profile: p, VCPUs: r.CPUs, Memory: memory(t, r.Memory), Cmdline: r.Cmdline, ACPI: f.acpi(t, r.Blob),
	})
	if err != nil {
		t.Fatal(err)
	}
	r.Outputs.check(t, res)
}

// checkFixture compares the RTMR0 of a fixture whose firmware cannot be had:
// Debian's has the same memory layout and variable store, another MRTD.
func (r run) checkFixture(t *testing.T, f *files) {
	var m struct {
		Boot struct {
			CPUs   int
			Memory string
		} `json:"boot_config"`
	}
	if err := json.Unmarshal(r.Metadata, &m); err != nil {
		t.Fatal(err)
	}
	fw := f.input(t, "deb:ovmf_2025.02-8+deb13u1:OVMF.fd")
	res, errs := tdxmeasure.New(tdxmeasure.Artifacts{Firmware: fw}).MeasureEach(context.Background(), &tdxmeasure.Config{
		Profile: profile(t, "tdx-measure"), VCPUs: m.Boot.CPUs, Memory: memory(t, m.Boot.Memory), ACPI: f.acpi(t, r.Blob),
	})
	if errs[1] != nil {
		t.Fatal(errs[1])
	}
	equal(t, "RTMR0", res.RTMR[0], r.Expected.RTMR0)
}
