package tdxmeasure

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/crypto/sha3"

	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/jsondoc"
	"github.com/retally/retally/internal/ovmf"
	"github.com/retally/retally/profiles"
	"github.com/retally/retally/tdxmeasure/acpi"
	"github.com/retally/retally/trace"
)

// DstackMeasurement is dstack's measurement document (measurement.tdx.cbor):
// what of an image does not depend on the machine.
type DstackMeasurement struct {
	Version                 uint64
	Cmdline, Kernel, Initrd digest.Digest // the events, not the files' digests
	Variant                 string        // of the firmware: "pre202505"
	SinglePass, TwoPass     digest.Digest // MRTD
	Sections                []ovmf.Section
}

// ParseDstackMeasurement reads the CBOR document.
func ParseDstackMeasurement(data []byte) (*DstackMeasurement, error) {
	fail := func(err error) (*DstackMeasurement, error) {
		return nil, fmt.Errorf("read measurement document: %w", err)
	}
	doc, err := parseCBOR(data)
	if err != nil {
		return fail(err)
	}
	var m DstackMeasurement
	version, err := doc.member("version", 0)
	if err != nil {
		return fail(err)
	}
	m.Version = version.num
	image, err := doc.member("image", 5)
	if err != nil {
		return fail(err)
	}
	tdvf, err := doc.member("tdvf", 5)
	if err != nil {
		return fail(err)
	}
	mrtd, err := tdvf.member("mrtd", 5)
	if err != nil {
		return fail(err)
	}
	for _, f := range []struct {
		in   cborValue
		name string
		to   *digest.Digest
	}{
		{image, "cmdline_sha384", &m.Cmdline},
		{image, "kernel_authenticode", &m.Kernel},
		{image, "initrd_sha384", &m.Initrd},
		{mrtd, "single_pass", &m.SinglePass},
		{mrtd, "two_pass", &m.TwoPass},
	} {
		v, err := f.in.member(f.name, 2)
		if err != nil {
			return fail(err)
		}
		if *f.to, err = digest.FromBytes(digest.SHA384, v.bytes); err != nil {
			return fail(fmt.Errorf("member %s: %w", f.name, err))
		}
	}
	variant, err := tdvf.member("ovmf", 3)
	if err != nil {
		return fail(err)
	}
	m.Variant = string(variant.bytes)
	witness, err := tdvf.member("td_hob", 2)
	if err != nil {
		return fail(err)
	}
	if m.Sections, err = ParseHOBWitness(witness.bytes); err != nil {
		return fail(err)
	}
	return &m, nil
}

// MRTD returns the value of one page order.
func (m *DstackMeasurement) MRTD(order PageOrder) digest.Digest {
	if order == TwoPass {
		return m.TwoPass
	}
	return m.SinglePass
}

// ParseHOBWitness reads dstack's short form of the sections that decide a TD
// HOB: unsigned LEB128 numbers in pages of 4 KiB. First the lowest address,
// then the distance to TD_HOB, the count, and for each range its distance and
// length.
func ParseHOBWitness(b []byte) ([]ovmf.Section, error) {
	at := 0
	next := func() (uint64, error) {
		v, n := binary.Uvarint(b[at:])
		if n <= 0 || v > 1<<40 {
			return 0, fmt.Errorf("td_hob: number at byte %d is cut short or beyond 2^40", at)
		}
		at += n
		return v, nil
	}
	var head [3]uint64
	for i := range head {
		v, err := next()
		if err != nil {
			return nil, err
		}
		head[i] = v
	}
	if head[2] > uint64(len(b)) {
		return nil, fmt.Errorf("td_hob: %d ranges in %d bytes", head[2], len(b))
	}
	var sections []ovmf.Section
	hob := (head[0] + head[1]) * ovmf.PageSize
	found := false
	for range head[2] {
		start, err := next()
		if err != nil {
			return nil, err
		}
		pages, err := next()
		if err != nil {
			return nil, err
		}
		s := ovmf.Section{MemoryAddress: (head[0] + start) * ovmf.PageSize, MemorySize: pages * ovmf.PageSize, Type: ovmf.TempMem}
		if s.MemoryAddress == hob && !found {
			s.Type, found = ovmf.TDHOB, true
		}
		sections = append(sections, s)
	}
	if at != len(b) {
		return nil, fmt.Errorf("td_hob: %d bytes behind the last range", len(b)-at)
	}
	if !found {
		return nil, fmt.Errorf("td_hob: no range at the TD_HOB address %#x", hob)
	}
	return sections, nil
}

// HOBWitness is the short form of the sections, ranges by address.
func HOBWitness(sections []ovmf.Section) []byte {
	var ranges []ovmf.Section
	hob := uint64(defaultHOBBase)
	for _, s := range sections {
		if s.Type == ovmf.TDHOB {
			hob = s.MemoryAddress
		}
		if s.Type == ovmf.TDHOB || s.Type == ovmf.TempMem {
			ranges = append(ranges, s)
		}
	}
	slices.SortStableFunc(ranges, func(a, b ovmf.Section) int {
		switch {
		case a.MemoryAddress < b.MemoryAddress:
			return -1
		case a.MemoryAddress > b.MemoryAddress:
			return 1
		}
		return 0
	})
	base := hob
	if len(ranges) > 0 {
		base = min(base, ranges[0].MemoryAddress)
	}
	out := binary.AppendUvarint(nil, base/ovmf.PageSize)
	out = binary.AppendUvarint(out, (hob-base)/ovmf.PageSize)
	out = binary.AppendUvarint(out, uint64(len(ranges)))
	for _, s := range ranges {
		out = binary.AppendUvarint(out, (s.MemoryAddress-base)/ovmf.PageSize)
		out = binary.AppendUvarint(out, s.MemorySize/ovmf.PageSize)
	}
	return out
}

// DstackConfig is the vm_config that dstack sends with a quote.
type DstackConfig struct {
	OSImageHash string
	VCPUs       int
	Memory      uint64
	QEMU        string
	TwoPass     *bool
	PIC         *bool
	Devices     acpi.Shape
	Measurement *DstackMeasurement // nil if not sent along
	// Problems are contradictions inside the document: a measurement document
	// that does not belong to the image's hash.
	Problems []string
}

// ParseDstackConfig reads vm_config.
func ParseDstackConfig(file string, data []byte) (*DstackConfig, error) {
	doc, err := jsondoc.Parse(data, jsondoc.Limits{Bytes: 1 << 20})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	g := getter{file: file, doc: doc}
	c := &DstackConfig{
		OSImageHash: g.text("os_image_hash"),
		VCPUs:       int(g.number("cpu_count", 1)),
		Memory:      g.number("memory_size", 2<<30),
		QEMU:        g.text("qemu_version"),
		// The name says single, the tool reads it as two: kept as it is.
		TwoPass: g.flag("qemu_single_pass_add_pages"),
		PIC:     g.flag("pic"),
	}
	c.Devices = DstackDevices{
		NICs: int(g.number("num_nics", 1)), Volumes: int(g.number("num_verity_volumes", 0)),
		GPUs: int(g.number("num_gpus", 0)), NVSwitches: int(g.number("num_nvswitches", 0)),
		HotplugOff: g.is("hotplug_off"), HugePages: g.is("hugepages"), PCIHole64: g.number("pci_hole64_size", 0),
	}.Shape()
	if g.is("swtpm") {
		g.fail("/swtpm", "a software TPM", "none: its tables are not known")
	}
	if m := doc.Get("tdx_measurement"); !m.IsNull() {
		sub := getter{file: file + " tdx_measurement", doc: m}
		raw, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(sub.text("measurement"), "="))
		if err != nil {
			sub.fail("/measurement", "not base64", "base64")
		} else if c.Measurement, err = ParseDstackMeasurement(raw); err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		sums, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(sub.text("checksum_file"), "="))
		if err != nil {
			sub.fail("/checksum_file", "not base64", "base64")
		}
		g.err = firstError(g.err, sub.err)
		if g.err == nil {
			c.Problems = checkImageHash(c.OSImageHash, sums, raw)
		}
	}
	if g.err != nil {
		return nil, g.err
	}
	return c, nil
}

// OSImageHash is dstack's os_image_hash: SHA-256 of sha256sum.txt. document is
// the SHA-256 that its one line for measurement.tdx.cbor gives.
func OSImageHash(sums []byte) (hash, document digest.Digest, err error) {
	n := 0
	for line := range strings.Lines(string(sums)) {
		sum, name, ok := strings.Cut(strings.TrimRight(line, "\n"), "  ")
		if !ok || name != "measurement.tdx.cbor" {
			continue
		}
		n++
		if document, err = digest.ParseHex(digest.SHA256, sum); err != nil {
			return hash, document, fmt.Errorf("read sha256sum.txt: %w", err)
		}
	}
	if n != 1 {
		return hash, document, fmt.Errorf("read sha256sum.txt: %d lines for measurement.tdx.cbor, want 1", n)
	}
	return digest.SHA256.Sum(sums), document, nil
}

func checkImageHash(want string, sums, document []byte) (problems []string) {
	hash, sum, err := OSImageHash(sums)
	if err != nil {
		return []string{err.Error()}
	}
	if got := digest.SHA256.Sum(document); got != sum {
		problems = append(problems, fmt.Sprintf("measurement document has SHA-256 %s, sha256sum.txt says %s", got.Hex(), sum.Hex()))
	}
	if want != "" && hash.Hex() != strings.ToLower(want) {
		problems = append(problems, fmt.Sprintf("sha256sum.txt has SHA-256 %s, os_image_hash is %s", hash.Hex(), want))
	}
	return problems
}

// DstackDevices are the devices of a dstack machine.
type DstackDevices struct {
	NICs, Volumes, GPUs, NVSwitches int
	NoRootDisk                      bool // root_verity false: a CD-ROM without a slot
	HotplugOff, HugePages           bool
	PCIHole64                       uint64
}

// Shape lays the devices out: a disk, volumes, network cards, vsock, the host
// share and the root disk in slots from 1; then GPUs and NVSwitches as root
// ports, or below an expander bridge with huge pages.
func (d DstackDevices) Shape() acpi.Shape {
	n := 4 + d.NICs + d.Volumes
	if d.NoRootDisk {
		n--
	}
	s := acpi.Shape{NoHotplug: d.HotplugOff, PCIHole64: d.PCIHole64, NUMA: d.HugePages, PXB: d.HugePages && d.GPUs > 0}
	const slots = 31
	s.Slots = acpi.SlotsUpTo(max(0, min(n, slots)))
	if !s.PXB {
		for i := range max(0, min(d.GPUs+d.NVSwitches, slots)) {
			s.RootPorts = append(s.RootPorts, n+1+i)
		}
	}
	return s
}

// Profile returns the built-in profile of the machines that the document is of.
func (m *DstackMeasurement) Profile() (Profile, error) {
	var known []string
	for _, name := range profiles.TDXNames() {
		p, err := LoadProfile(name)
		if err != nil {
			return p, err
		}
		if p.Document == "" {
			continue
		}
		if p.Document == m.Variant {
			return p, nil
		}
		known = append(known, p.Document)
	}
	return Profile{}, m.otherVariant(strings.Join(known, ", "))
}

func (m *DstackMeasurement) otherVariant(want string) error {
	return &Error{Input: "measurement document", Offset: -1, Found: fmt.Sprintf("firmware variant %.40q", m.Variant), Want: want}
}

// Measure computes MRTD and RTMR0 to RTMR2 from the measurement document and
// the machine in the configuration, which behaves as p says. The document's
// kernel event holds for machines of 2 GiB, or of 2816 MiB and more; others are refused.
func (m *DstackMeasurement) Measure(ctx context.Context, p Profile, c *DstackConfig, source Source) (*Result, error) {
	if c.Memory != 2<<30 && c.Memory < lowMemorySplit {
		return nil, &Error{
			Input: "memory", Offset: -1, Found: fmt.Sprintf("%d bytes", c.Memory), Want: "2 GiB, or 2816 MiB and more",
			Hint: "the document's kernel event is for these; measure from the image's files",
		}
	}
	if m.Variant != p.Document {
		return nil, m.otherVariant(p.Document)
	}
	if c.QEMU != "" {
		if err := p.SetQEMU(c.QEMU); err != nil {
			return nil, err
		}
	}
	if c.TwoPass != nil {
		p.PageOrder = SinglePass
		if *c.TwoPass {
			p.PageOrder = TwoPass
		}
	}
	if c.PIC != nil {
		p.PIC = *c.PIC
	}
	var err error
	r := &Result{Notes: p.Notes}
	r.MRTDTrace = newTrace(trace.Running)
	r.MRTDTrace.Add("MRTD as the measurement document has it, "+string(p.PageOrder), m.MRTD(p.PageOrder), trace.Origin{Size: -1})
	meas := New(Artifacts{Kernel: Input{Name: "measurement document", Known: m.Kernel}, Initrd: Input{Name: "measurement document", Known: m.Initrd}})
	meas.tdvfOnce.Do(func() { meas.tdvf = &ovmf.TDVF{Sections: m.Sections} })
	cfg := &Config{Profile: p, VCPUs: c.VCPUs, Memory: c.Memory, Devices: c.Devices, ACPI: source}
	if r.RTMRTrace[0], err = meas.rtmr0(ctx, cfg); err != nil {
		return nil, err
	}
	if r.RTMRTrace[1], err = meas.rtmr1(ctx, cfg); err != nil {
		return nil, err
	}
	r.RTMRTrace[2] = newTrace(trace.Extend)
	r.RTMRTrace[2].Add("kernel command line", m.Cmdline, trace.Origin{Size: -1})
	r.RTMRTrace[2].Add("initrd", m.Initrd, trace.Origin{Size: -1})
	r.RTMRTrace[3] = newTrace(trace.Extend)
	if r.MRTD, err = r.MRTDTrace.Compute(); err != nil {
		return nil, err
	}
	for i := range r.RTMR {
		if r.RTMR[i], err = r.RTMRTrace[i].Compute(); err != nil {
			return nil, err
		}
	}
	return r, nil
}

// ConfigIDV1 is dstack's MRCONFIGID of version 1: the compose hash.
func ConfigIDV1(compose [32]byte) (id [48]byte) {
	id[0] = 1
	copy(id[1:], compose[:])
	return id
}

// KeyProviderKind is the kind byte in MRCONFIGID of version 2.
type KeyProviderKind byte

// The kinds of key provider.
const (
	KeyProviderNone KeyProviderKind = iota
	KeyProviderLocal
	KeyProviderKMS
	KeyProviderTPM
)

// ConfigIDV2 is MRCONFIGID of version 2: Keccak-256 (the form before SHA-3)
// of compose hash, app id, kind and the provider's id.
func ConfigIDV2(compose [32]byte, appID [20]byte, kind KeyProviderKind, providerID []byte) (id [48]byte) {
	h := sha3.NewLegacyKeccak256()
	h.Write(compose[:])
	h.Write(appID[:])
	h.Write([]byte{byte(kind)})
	h.Write(providerID)
	id[0] = 2
	copy(id[1:], h.Sum(nil))
	return id
}

// ConfigIDV3 is MRCONFIGID of version 3: SHA-256 of a domain text, a zero byte
// and a canonical JSON document.
func ConfigIDV3(document []byte) (id [48]byte) {
	h := sha256.New()
	h.Write([]byte("dstack-mr-config-v3:\x00"))
	h.Write(document)
	id[0] = 3
	copy(id[1:], h.Sum(nil))
	return id
}

// DefaultAppID is the app id that dstack gives an app without one: the first
// 20 bytes of the compose hash.
func DefaultAppID(compose [32]byte) (id [20]byte) {
	copy(id[:], compose[:])
	return id
}

// InstanceID is dstack's instance id: the first 20 bytes of SHA-256 of seed,
// app id and, if given, the platform binding.
func InstanceID(seed, appID, binding []byte) []byte {
	sum := sha256.Sum256(slices.Concat(seed, appID, binding))
	return sum[:20]
}

// KeyProviderPayload is the payload of the key-provider event, compact JSON.
func KeyProviderPayload(name, id string) []byte {
	return jsondoc.Style{}.Compact(jsondoc.NewObject(
		jsondoc.Member{Key: "name", Value: jsondoc.NewString(name)},
		jsondoc.Member{Key: "id", Value: jsondoc.NewString(id)},
	))
}

func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
