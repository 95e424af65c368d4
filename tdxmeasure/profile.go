package tdxmeasure

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/retally/retally/internal/authenticode"
	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/yamldoc"
	"github.com/retally/retally/profiles"
	"github.com/retally/retally/tdxmeasure/acpi"
)

// EventSpec is an entry of a profile's event list: a known event, or a digest
// that is only known as such.
type EventSpec struct {
	Name   EventName
	Label  string
	Digest digest.Digest
}

// Profile is how a family of hypervisor and firmware behaves. Every field is
// a switch that a caller may set after loading.
type Profile struct {
	Name, Title string
	Source      string // where it is known from
	Confirmed   string // what confirms it; "" if nothing does

	PageOrder PageOrder
	MRTD      MRTDOptions

	RTMR0             []EventSpec
	HOB               HOBOptions
	ConstantCFV       bool
	ExcludeACPI       bool
	TrailingSeparator bool
	SixTableLoader    bool // the table-loader of a dstack-mr that does not know SRAT
	ACPIFamily        acpi.Family
	PIC               bool

	PatchKernel    bool
	HeaderRule     HeaderRule
	Authenticode   authenticode.Options
	InitrdArgument InitrdArgument

	RTMR3 RTMR3Scheme

	// Layout is how the family's machines lay their devices out.
	Layout Layout
	// COM1 lists the QEMU families whose machines have a serial port where there
	// is no GPU; nil: all.
	COM1 []acpi.Family
	// Aggregates says which digests over the registers its tools print.
	Aggregates Aggregates
	// Evidence is by whose conventions its quotes are judged, "" for Intel's
	// alone.
	Evidence string
	// For lists the descriptions that name no profile and mean this one:
	// "vm_config", or a metadata file's kind, with "/" and the firmware's variant
	// where it has one, in which * stands for anything.
	For []string
	// Document is the firmware variant whose measurement documents are of this
	// family; "": none are.
	Document string

	// QEMU is the version that PageOrder, PatchKernel, ACPIFamily and PIC
	// follow from, where the profile knows one.
	QEMU  string
	Notes []string

	// Sizes are the machines that the vendor offers, by name, and Hosts the versions
	// of QEMU that its hosts are known to run.
	Sizes map[string]Size
	Hosts []string
}

// Size is a machine that a vendor offers.
type Size struct {
	VCPUs  int
	Memory uint64 // bytes
	GPU    bool
}

func (p *Profile) needsACPI() bool {
	return slices.ContainsFunc(p.RTMR0, func(e EventSpec) bool {
		return e.Name == EventLoader || e.Name == EventRSDP || e.Name == EventTables
	})
}

// profileFile is the YAML form.
type profileFile struct {
	Version   int      `yaml:"version"`
	Name      string   `yaml:"name"`
	Title     string   `yaml:"title"`
	Source    string   `yaml:"source"`
	Confirmed string   `yaml:"confirmed"`
	QEMU      string   `yaml:"qemu"`
	PageOrder string   `yaml:"page_order"`
	RTMR0     []string `yaml:"rtmr0"`
	CFV       string   `yaml:"cfv"`
	HOB       string   `yaml:"hob"`
	ACPI      struct {
		Family string `yaml:"family"`
		PIC    *bool  `yaml:"pic"`
	} `yaml:"acpi"`
	Kernel struct {
		Patch        *bool  `yaml:"patch"`
		HeaderRule   string `yaml:"header_rule"`
		Authenticode string `yaml:"authenticode"`
	} `yaml:"kernel"`
	InitrdArgument string `yaml:"initrd_argument"`
	RTMR3          string `yaml:"rtmr3"`
	Devices        struct {
		Layout string   `yaml:"layout"`
		COM1   []string `yaml:"com1"`
	} `yaml:"devices"`
	Aggregates string   `yaml:"aggregates"`
	Evidence   string   `yaml:"evidence"`
	For        []string `yaml:"for"`
	Document   string   `yaml:"document"`
	Notes      []string `yaml:"notes"`
	Hosts      []string `yaml:"hosts"`
	Sizes      map[string]struct {
		VCPUs  int    `yaml:"vcpus"`
		Memory string `yaml:"memory"`
		GPU    bool   `yaml:"gpu"`
	} `yaml:"sizes"`
}

// LoadProfile returns a built-in profile.
func LoadProfile(name string) (Profile, error) {
	data, ok := profiles.TDX(name)
	if !ok {
		return Profile{}, &Error{Input: "profile", Offset: -1, Found: fmt.Sprintf("%.80q", name), Want: strings.Join(profiles.TDXNames(), ", ")}
	}
	return ParseProfile("profiles/tdx/"+name+".yaml", data)
}

// ParseProfile reads a profile from YAML, strictly.
func ParseProfile(file string, data []byte) (Profile, error) {
	docs, err := yamldoc.Parse(file, data, yamldoc.Limits{})
	if err != nil {
		return Profile{}, err
	}
	if len(docs) != 1 {
		return Profile{}, fmt.Errorf("%s: %d documents, want 1", file, len(docs))
	}
	var f profileFile
	if err := yamldoc.DecodeStrict(file, docs[0], &f); err != nil {
		return Profile{}, err
	}
	p, err := f.profile()
	if err != nil {
		return p, fmt.Errorf("%s: %w", file, err)
	}
	return p, nil
}

func (f *profileFile) profile() (Profile, error) {
	p := Profile{Name: f.Name, Title: f.Title, Source: f.Source, Confirmed: f.Confirmed, Notes: f.Notes, Evidence: f.Evidence, For: f.For, Document: f.Document}
	if f.Version != 1 {
		return p, fmt.Errorf("version %d, want 1", f.Version)
	}
	var errs []error
	for _, e := range f.RTMR0 {
		spec, err := parseEvent(e)
		errs = append(errs, err)
		p.RTMR0 = append(p.RTMR0, spec)
	}
	errs = append(errs,
		pick("page_order", f.PageOrder, map[string]func(){
			"": func() {}, string(SinglePass): func() { p.PageOrder = SinglePass }, "single": func() { p.PageOrder = SinglePass },
			string(TwoPass): func() { p.PageOrder = TwoPass }, string(RawExtend): func() { p.PageOrder = RawExtend },
		}),
		pick("cfv", f.CFV, map[string]func(){"": func() {}, "firmware": func() {}, "constant": func() { p.ConstantCFV = true }}),
		pick("hob", f.HOB, map[string]func(){
			"": func() {}, "firmware": func() {},
			"fixed": func() { p.HOB = HOBOptions{FixedLayout: true, FirstBase: true} },
		}),
		pick("kernel.header_rule", f.Kernel.HeaderRule, map[string]func(){
			"": func() { p.HeaderRule = HeaderQEMU }, "qemu": func() { p.HeaderRule = HeaderQEMU }, "dstack": func() { p.HeaderRule = HeaderDstack },
		}),
		pick("kernel.authenticode", f.Kernel.Authenticode, map[string]func(){
			"":       func() { p.Authenticode.PadTo8 = true },
			"uefi":   func() { p.Authenticode.PadTo8 = true },
			"dstack": func() { p.Authenticode = authenticode.Options{PadTo8: true, TailOnlyWithCertificate: true} },
		}),
		pick("initrd_argument", f.InitrdArgument, map[string]func(){
			"":       func() { p.InitrdArgument = ArgumentAsGiven },
			"suffix": func() { p.InitrdArgument = ArgumentSuffix }, "prefix": func() { p.InitrdArgument = ArgumentPrefix },
			"as-given": func() { p.InitrdArgument = ArgumentAsGiven },
		}),
		pick("rtmr3", f.RTMR3, map[string]func(){
			"": func() { p.RTMR3 = RTMR3None }, "none": func() { p.RTMR3 = RTMR3None }, "raw": func() { p.RTMR3 = RTMR3Raw },
			"secretvm-kms": func() { p.RTMR3 = RTMR3SecretVMKMS }, "events": func() { p.RTMR3 = RTMR3Events },
		}),
		pick("devices.layout", f.Devices.Layout, map[string]func(){
			"": func() {}, string(SecretVMLayout): func() { p.Layout = SecretVMLayout }, string(DstackLayout): func() { p.Layout = DstackLayout },
		}),
		pick("aggregates", f.Aggregates, map[string]func(){
			"": func() { p.Aggregates = ReproduceMRAggregates }, string(ReproduceMRAggregates): func() { p.Aggregates = ReproduceMRAggregates },
			string(DstackAggregates): func() { p.Aggregates = DstackAggregates }, string(NoAggregates): func() { p.Aggregates = NoAggregates },
		}),
	)
	for _, name := range f.Devices.COM1 {
		if !slices.Contains(acpi.Families(), acpi.Family(name)) {
			errs = append(errs, fmt.Errorf("devices.com1: %.40q is no family of QEMU", name))
		}
		p.COM1 = append(p.COM1, acpi.Family(name))
	}
	for name, s := range f.Sizes {
		memory, err := ParseMemory(s.Memory)
		if err != nil || s.VCPUs < 1 || s.VCPUs > acpi.MaxVCPUs {
			errs = append(errs, fmt.Errorf("sizes: %.40q: want vcpus and memory of a machine", name))
		}
		if p.Sizes == nil {
			p.Sizes = map[string]Size{}
		}
		p.Sizes[name] = Size{s.VCPUs, memory, s.GPU}
	}
	for _, version := range f.Hosts {
		_, err := ParseQEMUVersion(version)
		errs = append(errs, err)
	}
	p.Hosts = f.Hosts
	if err := errors.Join(errs...); err != nil {
		return p, err
	}
	return p, f.machine(&p)
}

// machine takes what follows from the QEMU version, then what the file says
// itself.
func (f *profileFile) machine(p *Profile) error {
	order := p.PageOrder
	if f.QEMU != "" {
		if err := p.SetQEMU(f.QEMU); err != nil {
			return err
		}
	}
	if order != "" {
		p.PageOrder = order
	}
	if f.ACPI.Family != "" {
		p.ACPIFamily = acpi.Family(f.ACPI.Family)
	}
	if f.ACPI.PIC != nil {
		p.PIC = *f.ACPI.PIC
	}
	if f.Kernel.Patch != nil {
		p.PatchKernel = *f.Kernel.Patch
	}
	return nil
}

func pick(key, value string, known map[string]func()) error {
	set, ok := known[value]
	if !ok {
		var names []string
		for k := range known {
			if k != "" {
				names = append(names, k)
			}
		}
		slices.Sort(names)
		return fmt.Errorf("%s: %.80q, want %s", key, value, strings.Join(names, ", "))
	}
	set()
	return nil
}

// parseEvent reads an event name, or "label = 96 hex digits".
func parseEvent(s string) (EventSpec, error) {
	label, hex, ok := strings.Cut(s, " = ")
	if ok {
		d, err := digest.ParseHex(digest.SHA384, hex)
		if err != nil {
			return EventSpec{}, fmt.Errorf("rtmr0: event %q: %w", label, err)
		}
		return EventSpec{Label: label, Digest: d}, nil
	}
	known := []EventName{
		EventTDHOB, EventCFV, EventBootMenu, EventBootDevs, EventSecureBoot, EventPK, EventKEK, EventDB, EventDBX, EventSeparator,
		EventLoader, EventRSDP, EventTables, EventOrder, EventOrder01, EventUiApp, EventMenuApp, EventFrontPage,
	}
	if !slices.Contains(known, EventName(s)) {
		return EventSpec{}, fmt.Errorf("rtmr0: unknown event %.80q", s)
	}
	return EventSpec{Name: EventName(s)}, nil
}

// QEMUVersion is a version of three numbers.
type QEMUVersion struct{ Major, Minor, Patch int }

// ParseQEMUVersion reads exactly three numbers.
func ParseQEMUVersion(s string) (QEMUVersion, error) {
	var v [3]int
	parts := strings.Split(s, ".")
	if len(parts) != 3 {
		return QEMUVersion{}, &Error{Input: "QEMU version", Offset: -1, Found: fmt.Sprintf("%.40q", s), Want: "three numbers, such as 9.2.1"}
	}
	for i, p := range parts {
		n, err := strconv.ParseUint(p, 10, 16)
		if err != nil {
			return QEMUVersion{}, &Error{Input: "QEMU version", Offset: -1, Found: fmt.Sprintf("%.40q", s), Want: "three numbers, such as 9.2.1"}
		}
		v[i] = int(n)
	}
	return QEMUVersion{v[0], v[1], v[2]}, nil
}

// SetQEMU sets what follows from the hypervisor's version: the page order and
// the PIC (QEMU 8: two passes, PIC on), the ACPI family, and whether the
// kernel's header is patched (not from 10.2.0 on: "Don't update kernel header
// for CoCo VMs").
func (p *Profile) SetQEMU(version string) error {
	v, err := ParseQEMUVersion(version)
	if err != nil {
		return err
	}
	if v.Major < 8 {
		return &Error{Input: "QEMU version", Offset: -1, Found: version, Want: "8.0.0 or newer", Hint: "no TDX host runs an older one"}
	}
	family, known := acpi.FamilyOf(v.Major, v.Minor)
	if !known {
		p.Notes = append(slices.Clip(p.Notes), fmt.Sprintf("no tables of QEMU %s were ever compared: those of family %s are taken", version, family))
	}
	p.QEMU, p.ACPIFamily = version, family
	p.PageOrder, p.PIC = SinglePass, false
	if v.Major == 8 {
		p.PageOrder, p.PIC = TwoPass, true
	}
	p.PatchKernel = v.Major < 10 || v.Major == 10 && v.Minor < 2
	return nil
}
