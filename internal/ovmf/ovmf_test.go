package ovmf_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/retally/retally/internal/ovmf"
)

// image builds a firmware image of one TDVF descriptor.
type image struct {
	size     int
	sections []ovmf.Section
	back     uint32  // distance of the descriptor from the end
	count    *uint32 // overrides the number of sections
	version  uint32
	sig      string
	entry    uint16 // length of the TDX entry
	table    *uint16
	guid     ovmf.GUID
	footer   ovmf.GUID
}

func plain(sections ...ovmf.Section) image {
	return image{
		size: 65536, sections: sections, back: 0x900, version: 1, sig: "TDVF", entry: 22, guid: ovmf.TDXMetadataGUID, footer: ovmf.FooterGUID,
	}
}

func (im image) bytes() []byte {
	le := binary.LittleEndian
	fw := make([]byte, im.size)
	d := []byte(im.sig)
	d = le.AppendUint32(d, 7) // ignored by every tool
	d = le.AppendUint32(d, im.version)
	n := uint32(len(im.sections))
	if im.count != nil {
		n = *im.count
	}
	d = le.AppendUint32(d, n)
	for _, s := range im.sections {
		d = le.AppendUint32(d, s.DataOffset)
		d = le.AppendUint32(d, s.RawSize)
		d = le.AppendUint64(d, s.MemoryAddress)
		d = le.AppendUint64(d, s.MemorySize)
		d = le.AppendUint32(d, uint32(s.Type))
		d = le.AppendUint32(d, s.Attributes)
	}
	if int(im.back) <= im.size {
		copy(fw[im.size-int(im.back):], d)
	}
	t := le.AppendUint32(nil, im.back)
	t = le.AppendUint16(t, im.entry)
	t = append(t, im.guid[:]...)
	total := uint16(len(t) + 18)
	if im.table != nil {
		total = *im.table
	}
	t = le.AppendUint16(t, total)
	t = append(t, im.footer[:]...)
	if im.size >= 32+len(t) {
		copy(fw[im.size-32-len(t):], t)
	}
	return fw
}

func good() ovmf.Section {
	return ovmf.Section{DataOffset: 0, RawSize: 8192, MemoryAddress: 0xffff0000, MemorySize: 8192, Type: ovmf.BFV, Attributes: ovmf.AttrExtend}
}

func read(data []byte) (*ovmf.TDVF, error) {
	return ovmf.ReadTDVF(bytes.NewReader(data), int64(len(data)))
}

func TestReadTDVF(t *testing.T) {
	want := []ovmf.Section{good(), {Type: ovmf.TDHOB, MemoryAddress: 0x809000, MemorySize: 0x2000}}
	got, err := read(plain(want...).bytes())
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, got.Sections); d != "" {
		t.Error(d)
	}
	if i := got.First(ovmf.TDHOB); i != 1 {
		t.Errorf("First(TDHOB) = %d, want 1", i)
	}
	if i := got.First(ovmf.CFV); i != -1 {
		t.Errorf("First(CFV) = %d, want -1", i)
	}
}

// TestErrors has every row of the table of errors that hypervisors' tools
// panic, loop or fail on.
func TestErrors(t *testing.T) {
	ptr32 := func(v uint32) *uint32 { return &v }
	ptr16 := func(v uint16) *uint16 { return &v }
	with := func(edit func(*image)) []byte {
		im := plain(good())
		edit(&im)
		return im.bytes()
	}
	section := func(edit func(*ovmf.Section)) []byte {
		s := good()
		edit(&s)
		return plain(s).bytes()
	}
	var other ovmf.GUID
	for name, c := range map[string]struct {
		data   []byte
		want   ovmf.Code
		offset int64
	}{
		"empty":                 {nil, ovmf.TooSmall, -1},
		"49 bytes":              {make([]byte, 49), ovmf.TooSmall, -1},
		"no footer":             {with(func(im *image) { im.footer = other }), ovmf.NoFooter, 65536 - 48},
		"table of no length":    {with(func(im *image) { im.table = ptr16(0) }), ovmf.BadTableLength, 65536 - 50},
		"table beyond the file": {with(func(im *image) { im.table = ptr16(65535) }), ovmf.BadTableLength, 65536 - 50},
		"no TDX entry":          {with(func(im *image) { im.guid = other }), ovmf.NoTDXEntry, 65536 - 50},
		"entry of no length":    {with(func(im *image) { im.guid, im.entry = other, 0 }), ovmf.BadEntryLength, 65536 - 50 - 18},
		"entry too long":        {with(func(im *image) { im.guid, im.entry = other, 16384 }), ovmf.BadEntryLength, 65536 - 50 - 18},
		"descriptor too far":    {with(func(im *image) { im.back = 131072 }), ovmf.BadDescriptor, 65536 - 50 - 22},
		"descriptor too near":   {with(func(im *image) { im.back = 8 }), ovmf.BadDescriptor, 65536 - 50 - 22},
		"signature":             {with(func(im *image) { im.sig = "TDVG" }), ovmf.BadDescriptor, 65536 - 0x900},
		"version":               {with(func(im *image) { im.version = 2 }), ovmf.BadDescriptor, 65536 - 0x900 + 8},
		"section count":         {with(func(im *image) { im.count = ptr32(1<<32 - 1) }), ovmf.BadSectionCount, 65536 - 0x900 + 12},
		"address":               {section(func(s *ovmf.Section) { s.MemoryAddress++ }), ovmf.BadSection, 65536 - 0x900 + 16 + 8},
		"memory size":           {section(func(s *ovmf.Section) { s.MemorySize++ }), ovmf.BadSection, 65536 - 0x900 + 16 + 16},
		"memory below raw":      {section(func(s *ovmf.Section) { s.MemorySize = 4096 }), ovmf.BadSection, 65536 - 0x900 + 16 + 16},
		"wrap":                  {section(func(s *ovmf.Section) { s.MemoryAddress = 1<<64 - 4096 }), ovmf.BadSection, 65536 - 0x900 + 16 + 8},
	} {
		_, err := read(c.data)
		var got *ovmf.Error
		if !errors.As(err, &got) {
			t.Errorf("%s: error = %v, want an *ovmf.Error", name, err)
			continue
		}
		if got.Code != c.want || got.Offset != c.offset || got.Found == "" {
			t.Errorf("%s: error = %+v, want %s at %#x", name, got, c.want, c.offset)
		}
	}
	tdvf, err := read(section(func(s *ovmf.Section) { s.DataOffset = 65536 - 4096 }))
	if err != nil {
		t.Fatal(err)
	}
	var past *ovmf.Error
	if _, err := tdvf.Data(bytes.NewReader(nil), 0); !errors.As(err, &past) || past.Code != ovmf.SectionPastEnd || past.Section != 0 {
		t.Errorf("error = %v, want %s", err, ovmf.SectionPastEnd)
	}
}

// TestRoundTrip: every descriptor that can be built is read as it is.
func TestRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		sections := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) ovmf.Section {
			pages := rapid.Uint64Range(0, 1<<20).Draw(t, "pages")
			return ovmf.Section{
				DataOffset: rapid.Uint32().Draw(t, "offset"), RawSize: uint32(rapid.Uint64Range(0, min(pages*4096, 1<<32-1)).Draw(t, "raw")),
				MemoryAddress: rapid.Uint64Range(0, 1<<40).Draw(t, "page") * 4096, MemorySize: pages * 4096,
				Type: ovmf.SectionType(rapid.Uint32Range(0, 20).Draw(t, "type")), Attributes: rapid.Uint32Range(0, 3).Draw(t, "attributes"),
			}
		}), 0, 8).Draw(t, "sections")
		got, err := read(plain(sections...).bytes())
		if err != nil {
			t.Fatal(err)
		}
		if len(sections) > 0 && !cmp.Equal(sections, got.Sections) {
			t.Fatal(cmp.Diff(sections, got.Sections))
		}
	})
}

func TestGUID(t *testing.T) {
	const text = "96b582de-1fb2-45f7-baea-a366c55a082d"
	g, err := ovmf.ParseGUID(text)
	if err != nil || g.String() != text {
		t.Errorf("GUID = %s, %v, want %s", g, err, text)
	}
	for _, bad := range []string{"", "96b582de1fb245f7baeaa366c55a082d", text + "0", "96b582dg-1fb2-45f7-baea-a366c55a082d"} {
		if _, err := ovmf.ParseGUID(bad); err == nil {
			t.Errorf("ParseGUID(%q) gives no error", bad)
		}
	}
}
