package tdxmeasure

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/ovmf"
	"github.com/retally/retally/tdxmeasure/acpi"
	"github.com/retally/retally/trace"
)

// EventName names an event of RTMR0 to RTMR2 in a profile.
type EventName string

// The events that a profile's lists are made of.
const (
	EventTDHOB      EventName = "td-hob"
	EventCFV        EventName = "cfv"
	EventBootMenu   EventName = "boot-menu"  // fw_cfg BootMenu, u16 0
	EventBootDevs   EventName = "bootorder"  // fw_cfg bootorder with a kernel given
	EventSecureBoot EventName = "SecureBoot" // and the other empty variables
	EventPK         EventName = "PK"
	EventKEK        EventName = "KEK"
	EventDB         EventName = "db"
	EventDBX        EventName = "dbx"
	EventSeparator  EventName = "separator"
	EventLoader     EventName = "acpi-loader"
	EventRSDP       EventName = "acpi-rsdp"
	EventTables     EventName = "acpi-tables"
	EventOrder      EventName = "BootOrder"   // 0000
	EventOrder01    EventName = "BootOrder01" // 0000 0001
	EventUiApp      EventName = "Boot0000"    // UiApp
	EventMenuApp    EventName = "Boot0000-BootManagerMenuApp"
	EventFrontPage  EventName = "Boot0001-FrontPage"
)

var (
	guidGlobal   = mustGUID("8be4df61-93ca-11d2-aa0d-00e098032b8c")
	guidSecurity = mustGUID("d719b2cb-3d3a-4596-a3bc-dad00e67656f")
	guidShim     = mustGUID("605dab50-e046-4300-abb6-3dd810dd8b23")
	// The firmware volume and files of OVMF's boot options.
	guidVolume    = mustGUID("7cb8bdc9-f8eb-4f34-aaea-3ee4af6516a1")
	guidUiApp     = mustGUID("462caa21-7614-4503-836e-8ab6f4662331")
	guidMenuApp   = mustGUID("eec25bdc-67f2-4d95-b1d5-f81b2039d11d")
	emptyVariable = map[EventName]ovmf.GUID{
		EventSecureBoot: guidGlobal, EventPK: guidGlobal, EventKEK: guidGlobal, EventDB: guidSecurity, EventDBX: guidSecurity,
	}
)

func mustGUID(s string) ovmf.GUID {
	g, err := ovmf.ParseGUID(s)
	if err != nil {
		panic(err)
	}
	return g
}

// bootDevices is the fw_cfg file bootorder that QEMU makes when a kernel is
// given: the option ROM that loads it.
const bootDevices = "/rom@genroms/linuxboot_dma.bin\x00"

// UTF16 encodes text as UTF-16LE without an end mark.
func UTF16(name, text string) ([]byte, error) {
	if !utf8.ValidString(text) {
		return nil, &Error{Input: name, Offset: -1, Found: "text that is not UTF-8", Want: "UTF-8"}
	}
	var b []byte
	for _, u := range utf16.Encode([]rune(text)) {
		b = binary.LittleEndian.AppendUint16(b, u)
	}
	return b, nil
}

func mustUTF16(text string) []byte {
	b, err := UTF16("", text)
	if err != nil {
		panic(err)
	}
	return b
}

// Variable makes the bytes measured for an EFI variable: GUID, number of
// UTF-16 units in the name, length of the data, name without an end, data
// (TCG PC Client Platform Firmware Profile, UEFI_VARIABLE_DATA).
func Variable(guid ovmf.GUID, name string, data []byte) []byte {
	units := mustUTF16(name)
	b := append([]byte(nil), guid[:]...)
	b = binary.LittleEndian.AppendUint64(b, uint64(len(units)/2))
	b = binary.LittleEndian.AppendUint64(b, uint64(len(data)))
	b = append(b, units...)
	return append(b, data...)
}

// bootOption makes an EFI_LOAD_OPTION for a file in OVMF's firmware volume
// (UEFI specification, 3.1.3 and 10.3.5).
func bootOption(attributes uint32, description string, file ovmf.GUID) []byte {
	var path []byte
	node := func(typ, subtype byte, data []byte) {
		path = append(path, typ, subtype)
		path = binary.LittleEndian.AppendUint16(path, uint16(4+len(data)))
		path = append(path, data...)
	}
	node(4, 7, guidVolume[:]) // media, firmware volume
	node(4, 6, file[:])       // media, firmware file
	node(0x7f, 0xff, nil)     // end
	b := binary.LittleEndian.AppendUint32(nil, attributes)
	b = binary.LittleEndian.AppendUint16(b, uint16(len(path)))
	b = append(b, mustUTF16(description+"\x00")...)
	return append(b, path...)
}

const (
	loadHidden   = 0x109 // active, hidden, category app
	loadCategory = 0x101 // active, category app
)

// emptyCFV is the digest of the empty 0x84000-byte variable store of a 4 MiB
// OVMF, which reproduce-mr and dstack-mr have as a constant.
const emptyCFV = "344bc51c980ba621aaa00da3ed7436f7d6e549197dfe699515dfa2c6583d95e6412af21c097d473155875ffd561d6790"

// ShapeRTMR0 computes RTMR0 of a machine whose firmware is not at hand: as if it
// had the memory layout of edk2-stable202411 to 202502 and an empty variable
// store. A published value that is equal proves that it has; another one proves
// nothing.
func ShapeRTMR0(ctx context.Context, c *Config) (Trace, error) {
	copied := *c
	copied.Profile.ConstantCFV, copied.Profile.HOB = true, HOBOptions{FixedLayout: true}
	m := New(Artifacts{})
	m.tdvfOnce.Do(func() { m.tdvf = &ovmf.TDVF{} })
	return m.rtmr0(ctx, &copied)
}

func (m *Measurer) rtmr0(ctx context.Context, c *Config) (Trace, error) {
	t := newTrace(trace.Extend)
	files, err := m.tables(ctx, c)
	if err != nil {
		return t, err
	}
	for _, e := range c.Profile.RTMR0 {
		if err := m.rtmr0Event(ctx, c, &t, e, files); err != nil {
			return t, err
		}
	}
	if c.Profile.TrailingSeparator {
		t.Made("separator", make([]byte, 4))
	}
	return t, nil
}

func (m *Measurer) rtmr0Event(ctx context.Context, c *Config, t *Trace, e EventSpec, files *tableEvents) error {
	if !e.Digest.IsZero() {
		t.Add(e.Label, e.Digest, trace.Origin{Size: -1})
		return nil
	}
	if files == nil {
		files = &tableEvents{} // the profile, or its switch, leaves them out
	}
	table := func(label string, d digest.Digest, size int64) {
		if !d.IsZero() {
			t.Add(label, d, trace.Origin{Input: files.source, Size: size})
		}
	}
	if guid, ok := emptyVariable[e.Name]; ok {
		t.Made("variable "+string(e.Name), Variable(guid, string(e.Name), nil))
		return nil
	}
	switch e.Name {
	case EventTDHOB:
		tdvf, err := m.descriptor()
		if err != nil {
			return err
		}
		hob, err := TDHOB(tdvf.Sections, c.Memory, c.Profile.HOB)
		if err != nil {
			return err
		}
		t.Made("TD HOB", hob)
	case EventCFV:
		return m.cfv(ctx, c, t)
	case EventBootMenu:
		t.Made("fw_cfg BootMenu", []byte{0, 0})
	case EventBootDevs:
		t.Made("fw_cfg bootorder", []byte(bootDevices))
	case EventSeparator:
		t.Made("separator", make([]byte, 4))
	case EventLoader:
		table("ACPI table-loader", files.loader, files.sizes[0])
	case EventRSDP:
		table("ACPI rsdp", files.rsdp, files.sizes[1])
	case EventTables:
		table("ACPI tables", files.tables, files.sizes[2])
	case EventOrder:
		t.Made("BootOrder", []byte{0, 0})
	case EventOrder01:
		t.Made("BootOrder", []byte{0, 0, 1, 0})
	case EventUiApp:
		t.Made("Boot0000 UiApp", bootOption(loadHidden, "UiApp", guidUiApp))
	case EventMenuApp:
		t.Made("Boot0000 BootManagerMenuApp", bootOption(loadHidden, "BootManagerMenuApp", guidMenuApp))
	case EventFrontPage:
		t.Made("Boot0001 EFI Firmware Setup", bootOption(loadCategory, "EFI Firmware Setup", guidUiApp))
	default:
		return &Error{Input: "profile " + c.Profile.Name, Offset: -1, Found: fmt.Sprintf("RTMR0 event %q", e.Name), Want: "a known event"}
	}
	return nil
}

// cfv measures the variable store: the section's raw bytes in the file.
func (m *Measurer) cfv(ctx context.Context, c *Config, t *Trace) error {
	if c.Profile.ConstantCFV {
		d, err := digest.ParseHex(digest.SHA384, emptyCFV)
		if err != nil {
			return err
		}
		t.Add("CFV (constant of an empty 4 MiB build)", d, trace.Origin{Size: -1})
		return nil
	}
	tdvf, err := m.descriptor()
	if err != nil {
		return err
	}
	i := tdvf.First(ovmf.CFV)
	if i < 0 {
		return &FileError{m.Firmware.Name, &Error{
			Input: "TDVF descriptor", Offset: tdvf.Offset, Found: fmt.Sprintf("no CFV section among its %d", len(tdvf.Sections)), Want: "one",
			Hint: "some tools take the constant of an empty 4 MiB variable store: {cfv: constant}",
		}}
	}
	if _, err := tdvf.Data(m.Firmware.R, i); err != nil {
		return &FileError{m.Firmware.Name, err}
	}
	s := tdvf.Sections[i]
	from := trace.Origin{Input: m.Firmware.Name, Offset: int64(s.DataOffset), Size: int64(s.RawSize)}
	d, err := m.memo.Get("cfv", func() (digest.Digest, error) {
		h := digest.SHA384.New()
		err := m.Firmware.copyTo(ctx, h, from.Offset, from.Size)
		return digest.FromHash(digest.SHA384, h), err
	})
	if err != nil {
		return err
	}
	t.Add("CFV", d, from)
	return nil
}

// tableEvents are the digests of the ACPI files of one shape.
type tableEvents struct {
	source               string
	loader, rsdp, tables digest.Digest
	sizes                [3]int64
}

// tables asks the source for the ACPI files, unless no event needs them.
// Shapes with the same tables are asked for and hashed once.
func (m *Measurer) tables(ctx context.Context, c *Config) (*tableEvents, error) {
	if c.Profile.ExcludeACPI || !c.Profile.needsACPI() {
		return nil, nil
	}
	if c.ACPI == nil {
		return nil, &Error{
			Input: "ACPI tables", Offset: -1, Found: "no source", Want: "a file, the built-in templates or QEMU",
			Hint: "{acpi}",
		}
	}
	shape := c.Shape().Canonical()
	key := fmt.Sprintf("%p %t %s", c.ACPI, c.Profile.SixTableLoader, shape.Key())
	m.tablesMu.Lock()
	known := m.tablesDone[key]
	m.tablesMu.Unlock()
	if known != nil {
		return known, nil
	}
	blobs, err := c.ACPI.Tables(ctx, shape)
	if err != nil {
		return nil, err
	}
	if c.Profile.SixTableLoader {
		if blobs, err = withSixTableLoader(blobs); err != nil {
			return nil, err
		}
	}
	t := &tableEvents{
		source: c.ACPI.Name(), loader: digest.SHA384.Sum(blobs.Loader), rsdp: digest.SHA384.Sum(blobs.RSDP), tables: digest.SHA384.Sum(blobs.Tables),
		sizes: [3]int64{int64(len(blobs.Loader)), int64(len(blobs.RSDP)), int64(len(blobs.Tables))},
	}
	m.tablesMu.Lock()
	defer m.tablesMu.Unlock()
	if m.tablesDone == nil {
		m.tablesDone = map[string]*tableEvents{}
	}
	m.tablesDone[key] = t
	return t, nil
}

func withSixTableLoader(b *acpi.Blobs) (*acpi.Blobs, error) {
	tables, err := acpi.Parse(b.Tables)
	if err != nil {
		return nil, err
	}
	loader, err := acpi.SixTableLoader(tables)
	return &acpi.Blobs{Tables: b.Tables, RSDP: b.RSDP, Loader: loader}, err
}

// ParseKeyProvider reads reproduce-mr's form of a key provider: a known name,
// or hex digits of any length with an optional 0x.
func ParseKeyProvider(s string) ([]byte, error) {
	switch s {
	case "none":
		s = "3369c4d32b9f1320ebba5ce9892a283127b7e96e1d511d7f292e5d9ed2c10b8c"
	case "sgx-v0":
		s = "4888adb026ff91c1320c4f544a9f5d9e0561e13fc64947a10aa1556d0071b2cc"
	}
	if len(s) > 1 && s[0] == '0' && s[1] == 'x' {
		s = s[2:]
	}
	b, err := hex.DecodeString(s)
	if err != nil {
		return nil, &Error{Input: "key provider", Offset: -1, Found: fmt.Sprintf("%.80q", s), Want: "none, sgx-v0 or hex digits"}
	}
	return b, nil
}
