package tdxmeasure

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/retally/retally/internal/jsondoc"
)

// getter takes members out of a JSON object and keeps the first error.
type getter struct {
	file string
	doc  *jsondoc.Value
	err  error
}

func (g *getter) fail(pointer, found, want string) {
	if g.err == nil {
		g.err = &Error{Input: g.file + " " + pointer, Offset: -1, Found: found, Want: want}
	}
}

func (g *getter) member(key string, kind jsondoc.Kind) *jsondoc.Value {
	if g.doc == nil || g.doc.Kind != jsondoc.Object {
		g.fail("", "not an object", "an object")
		return nil
	}
	v := g.doc.Get(key)
	if v.IsNull() {
		return nil
	}
	if v.Kind != kind {
		g.fail("/"+jsondoc.EscapePointer(key), "a "+v.Kind.String(), "a "+kind.String())
		return nil
	}
	return v
}

func (g *getter) text(key string) string {
	if v := g.member(key, jsondoc.String); v != nil {
		return v.Text
	}
	return ""
}

func (g *getter) flag(key string) *bool {
	if v := g.member(key, jsondoc.Bool); v != nil {
		return &v.Bool
	}
	return nil
}

func (g *getter) is(key string) bool {
	f := g.flag(key)
	return f != nil && *f
}

func (g *getter) number(key string, absent uint64) uint64 {
	v := g.member(key, jsondoc.Number)
	if v == nil {
		return absent
	}
	n, ok := v.Uint64()
	if !ok || n > 1<<52 {
		g.fail("/"+jsondoc.EscapePointer(key), v.Text, "a whole number up to 2^52")
	}
	return n
}

func (g *getter) object(key string) *getter {
	return &getter{file: g.file + " /" + key, doc: g.member(key, jsondoc.Object), err: g.err}
}

func (g *getter) texts(key string) []string {
	v := g.member(key, jsondoc.Array)
	if v == nil {
		return nil
	}
	var out []string
	for i, e := range v.Elems {
		if e.Kind != jsondoc.String {
			g.fail(fmt.Sprintf("/%s/%d", key, i), "a "+e.Kind.String(), "a string")
			return nil
		}
		out = append(out, e.Text)
	}
	return out
}

// ParseMemory reads a memory size: digits with the unit M or G, in either
// case, and with an i or B behind it or not; without a unit, bytes.
func ParseMemory(s string) (uint64, error) {
	bad := &Error{Input: "memory", Offset: -1, Found: fmt.Sprintf("%.40q", s), Want: "a size such as 2G or 2048M, up to 4 PiB"}
	text := strings.ToUpper(strings.TrimSpace(s))
	text = strings.TrimSuffix(strings.TrimSuffix(text, "B"), "I")
	shift := 0
	switch {
	case strings.HasSuffix(text, "T"):
		shift = 40
	case strings.HasSuffix(text, "G"):
		shift = 30
	case strings.HasSuffix(text, "M"):
		shift = 20
	case strings.HasSuffix(text, "K"):
		shift = 10
	}
	if shift > 0 {
		text = text[:len(text)-1]
	}
	n, err := strconv.ParseUint(text, 10, 53)
	if err != nil || n == 0 || n > MaxMemory>>shift {
		return 0, bad
	}
	return n << shift, nil
}

// The kinds of metadata files.
const (
	dstackKind     = "dstack"
	tdxMeasureKind = "tdx-measure"
)

// Metadata is a metadata file of dstack (an image's metadata.json) or of
// tdx-measure: names of files, and the machine as far as it says.
type Metadata struct {
	Kind                           string // "dstack" or "tdx-measure"
	Firmware, Kernel, Initrd       string // relative to the metadata file
	Rootfs, RootfsHash             string
	Cmdline                        string
	ACPITables                     string
	VCPUs                          int
	Memory                         uint64
	Machine, CPU                   string
	Globals, Objects, Devices, Net []string
	Variant, Version               string
	Indirect                       bool // boots a disk: registers 1 and 2 need shim and grub
	// Of a boot from disk: files with the variables' raw values, and a folder
	// of Boot####.bin. Disk is an image whose files are not looked into.
	BootOrder, BootEntries            string
	MokList, MokListX, MokListTrusted string
	Disk                              string
}

// ParseMetadata recognizes the kind by its members.
func ParseMetadata(file string, data []byte) (*Metadata, error) {
	doc, err := jsondoc.Parse(data, jsondoc.Limits{Bytes: 1 << 20})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	g := &getter{file: file, doc: doc}
	if doc.Kind != jsondoc.Object {
		return nil, &Error{Input: file, Offset: 0, Found: "a " + doc.Kind.String(), Want: "an object"}
	}
	if !doc.Get("boot_config").IsNull() {
		return parseTDXMeasure(g)
	}
	m := &Metadata{
		Kind: dstackKind, Firmware: g.text("bios"), Kernel: g.text("kernel"), Initrd: g.text("initrd"), Cmdline: g.text("cmdline"),
		Rootfs: g.text("rootfs"), RootfsHash: g.text("rootfs_hash"), Variant: g.text("ovmf_variant"), Version: g.text("version"),
		VCPUs: 1, Memory: 2 << 30,
	}
	if m.Firmware == "" || m.Kernel == "" {
		g.fail("", "neither boot_config nor bios and kernel", "metadata of tdx-measure or of a dstack image")
	}
	if g.err != nil {
		return nil, g.err
	}
	return m, nil
}

func parseTDXMeasure(g *getter) (*Metadata, error) {
	boot := g.object("boot_config")
	m := &Metadata{
		Kind: tdxMeasureKind, Firmware: boot.text("bios"), ACPITables: boot.text("acpi_tables"), VCPUs: int(boot.number("cpus", 1)),
		BootOrder: boot.text("boot_order"), BootEntries: boot.text("path_boot_xxxx"),
	}
	size := boot.text("memory")
	memory, err := ParseMemory(size)
	if err != nil {
		boot.fail("/memory", fmt.Sprintf("%.40q", size), "a size such as 2048M")
	}
	m.Memory = memory
	err = boot.err
	if !boot.doc.Get("qemu").IsNull() {
		q := boot.object("qemu")
		m.Machine, m.CPU = q.text("machine"), q.text("cpu")
		m.Globals, m.Objects, m.Devices, m.Net = q.texts("globals"), q.texts("objects"), q.texts("devices"), q.texts("netdevs")
		err = firstError(err, q.err)
	}
	if !g.doc.Get("direct").IsNull() {
		d := g.object("direct")
		m.Kernel, m.Initrd, m.Cmdline = d.text("kernel"), d.text("initrd"), d.text("cmdline")
		err = firstError(err, d.err)
	} else {
		m.Indirect = true
		if !g.doc.Get("indirect").IsNull() {
			d := g.object("indirect")
			m.Disk, m.Cmdline = d.text("qcow2"), d.text("cmdline")
			m.MokList, m.MokListX, m.MokListTrusted = d.text("mok_list"), d.text("mok_list_x"), d.text("mok_list_trusted")
			err = firstError(err, d.err)
		}
	}
	if err = firstError(err, g.err); err != nil {
		return nil, err
	}
	return m, nil
}
