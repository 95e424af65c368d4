package ovmf_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/retally/retally/internal/ovmf"
)

// sevImage is an image with SEV metadata; edits come last.
type sevImage struct {
	size     int
	sections []ovmf.SEVSection
	sig      string
	version  uint32
	length   *uint32 // of the metadata
	count    *uint32
	back     uint32
	entries  []entry // lowest first
	table    *uint16
}

type entry struct {
	guid ovmf.GUID
	data []byte
	size *uint16
}

func u32(v uint32) []byte { return binary.LittleEndian.AppendUint32(nil, v) }

func sevPlain(sections ...ovmf.SEVSection) sevImage {
	return sevImage{
		size: 8192, sections: sections, sig: "ASEV", version: 1, back: 0x400,
		entries: []entry{{guid: ovmf.SEVMetadataGUID, data: u32(0x400)}, {guid: ovmf.SEVHashesGUID, data: append(u32(0x810c00), u32(0x400)...)}, {guid: ovmf.SEVResetGUID, data: u32(0x80b004)}},
	}
}

func (im sevImage) bytes() []byte {
	le := binary.LittleEndian
	fw := make([]byte, im.size)
	n, length := uint32(len(im.sections)), uint32(16+12*len(im.sections))
	if im.count != nil {
		n = *im.count
	}
	if im.length != nil {
		length = *im.length
	}
	d := []byte(im.sig)
	for _, v := range []uint32{length, im.version, n} {
		d = le.AppendUint32(d, v)
	}
	for _, s := range im.sections {
		for _, v := range []uint32{s.Address, s.Size, uint32(s.Type)} {
			d = le.AppendUint32(d, v)
		}
	}
	copy(fw[im.size-int(im.back):], d)
	var t []byte
	for _, e := range im.entries {
		t = append(t, e.data...)
		size := uint16(len(e.data) + 18)
		if e.size != nil {
			size = *e.size
		}
		t = append(le.AppendUint16(t, size), e.guid[:]...)
	}
	total := uint16(len(t) + 18)
	if im.table != nil {
		total = *im.table
	}
	t = append(le.AppendUint16(t, total), ovmf.FooterGUID[:]...)
	copy(fw[im.size-32-len(t):], t)
	return fw
}

func readSEV(data []byte) (*ovmf.SEV, error) {
	return ovmf.ReadSEV(bytes.NewReader(data), int64(len(data)))
}

func TestReadSEV(t *testing.T) {
	want := []ovmf.SEVSection{{0x800000, 0x9000, ovmf.SEVMemory}, {0x80e000, 0x1000, ovmf.SEVCPUID}, {0x810000, 0x1000, ovmf.SEVKernelHashes}, {1, 2, 7}}
	got, err := readSEV(sevPlain(want...).bytes())
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, got.Sections); d != "" {
		t.Error(d)
	}
	if *got.ResetEIP != 0x80b004 || *got.HashesTable != 0x810c00 || got.SVSMEntry != nil || !got.HasMetadata {
		t.Errorf("got %+v", got)
	}
	if !got.Has(ovmf.SEVCPUID) || got.Has(ovmf.SEVSecrets) {
		t.Error("Has is wrong")
	}
	if at := got.SectionOffset(1); at != 8192-0x400+16+12 {
		t.Errorf("section 1 at %#x", at)
	}
}

// TestReadSEVRefuses has what an attacker can put into the tables.
func TestReadSEVRefuses(t *testing.T) {
	with := func(edit func(*sevImage)) []byte {
		im := sevPlain(ovmf.SEVSection{Address: 0x800000, Size: 0x1000, Type: ovmf.SEVMemory})
		edit(&im)
		return im.bytes()
	}
	p32 := func(v uint32) *uint32 { return &v }
	p16 := func(v uint16) *uint16 { return &v }
	for name, c := range map[string]struct {
		data []byte
		want ovmf.Code
	}{
		"too small":              {make([]byte, 49), ovmf.TooSmall},
		"table beyond the file":  {with(func(im *sevImage) { im.table = p16(65535) }), ovmf.BadTableLength},
		"entry of 17 bytes":      {with(func(im *sevImage) { im.entries[0].size = p16(17) }), ovmf.BadEntryLength},
		"entry beyond the table": {with(func(im *sevImage) { im.entries[0].size = p16(40) }), ovmf.BadEntryLength},
		"offset of 3 bytes":      {with(func(im *sevImage) { im.entries[0].data = []byte{1, 2, 3} }), ovmf.BadEntryLength},
		"reset of 3 bytes":       {with(func(im *sevImage) { im.entries[2].data = []byte{1, 2, 3} }), ovmf.BadEntryLength},
		"metadata outside":       {with(func(im *sevImage) { im.entries[0].data = u32(8193) }), ovmf.BadSEVMetadata},
		"metadata at the end":    {with(func(im *sevImage) { im.entries[0].data = u32(15) }), ovmf.BadSEVMetadata},
		"signature":              {with(func(im *sevImage) { im.sig = "ASEW" }), ovmf.BadSEVMetadata},
		"version":                {with(func(im *sevImage) { im.version = 2 }), ovmf.BadSEVMetadata},
		"size below the count's": {with(func(im *sevImage) { im.length = p32(27) }), ovmf.BadSEVMetadata},
		"count beyond the file":  {with(func(im *sevImage) { im.count, im.length = p32(86), p32(1<<32-1) }), ovmf.BadSEVMetadata},
		"count that overflows":   {with(func(im *sevImage) { im.count, im.length = p32(1<<32-1), p32(1<<32-1) }), ovmf.BadSEVMetadata},
	} {
		_, err := readSEV(c.data)
		var typed *ovmf.Error
		if !errors.As(err, &typed) || typed.Code != c.want {
			t.Errorf("%s: error = %v, want %s", name, err, c.want)
		}
	}
	large := sevPlain()
	large.size, large.count, large.length, large.back = 1<<20, p32(4097), p32(1<<32-1), 0xf0000
	large.entries[0].data = u32(0xf0000)
	var typed *ovmf.Error
	if _, err := readSEV(large.bytes()); !errors.As(err, &typed) || typed.Code != ovmf.BadSectionCount {
		t.Errorf("4097 sections: error = %v", err)
	}
}

// TestReadSEVTolerates has what launches all the same.
func TestReadSEVTolerates(t *testing.T) {
	none, err := readSEV(make([]byte, 4096))
	if err != nil || none.HasMetadata || none.ResetEIP != nil {
		t.Errorf("no footer: %+v, %v", none, err)
	}
	short := sevPlain()
	n := uint16(17)
	short.table = &n
	if s, err := readSEV(short.bytes()); err != nil || len(s.Entries) != 0 {
		t.Errorf("table below its header: %+v, %v", s, err)
	}
	left := sevPlain()
	left.entries[0].data = append(make([]byte, 7), left.entries[0].data...)
	m := uint16(22)
	left.entries[0].size = &m
	if s, err := readSEV(left.bytes()); err != nil || !s.HasMetadata {
		t.Errorf("bytes above the topmost entry: %+v, %v", s, err)
	}
	twice := sevPlain()
	twice.entries = append([]entry{{guid: ovmf.SEVResetGUID, data: u32(0x1234)}}, twice.entries...)
	s, err := readSEV(twice.bytes())
	if err != nil || *s.ResetEIP != 0x1234 || len(s.Repeated) != 1 || s.Repeated[0] != ovmf.SEVResetGUID {
		t.Errorf("repeated structure: %+v, %v", s, err)
	}
}

func TestSEVRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) ovmf.SEVSection {
			return ovmf.SEVSection{
				Address: rapid.Uint32().Draw(t, "address"), Size: rapid.Uint32().Draw(t, "size"), Type: ovmf.SEVSectionType(rapid.Uint32Range(0, 20).Draw(t, "type")),
			}
		}), 1, 40).Draw(t, "sections")
		got, err := readSEV(sevPlain(want...).bytes())
		if err != nil || !cmp.Equal(want, got.Sections) {
			t.Fatal(err, cmp.Diff(want, got.Sections))
		}
	})
}

func TestLookAt(t *testing.T) {
	// Both tables in one image: the SEV metadata after the TDX one.
	data := plain(good(), ovmf.Section{Type: ovmf.TDHOB, MemoryAddress: 0x809000, MemorySize: 0x2000}, ovmf.Section{Type: ovmf.PermMem, MemorySize: 0x1000, Attributes: ovmf.AttrAug}).bytes()
	l, err := ovmf.LookAt(bytes.NewReader(data), int64(len(data)))
	if err != nil {
		t.Fatal(err)
	}
	var mrtd []string
	for _, s := range l.TDX.Sections {
		mrtd = append(mrtd, s.MRTD)
	}
	if d := cmp.Diff([]string{"contents", "addresses", "nothing"}, mrtd); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff([]ovmf.FileRange{{Offset: 8192, Size: 65536 - 8192}}, l.TDX.Unmeasured); d != "" {
		t.Error(d)
	}
	if l.SEV.Fault != nil || !strings.HasPrefix(l.SEV.CPUs, "none") {
		t.Errorf("SEV = %+v", l.SEV)
	}
	sev := sevPlain(ovmf.SEVSection{Address: 0x810000, Size: 0x1000, Type: ovmf.SEVKernelHashes}).bytes()
	if l, err = ovmf.LookAt(bytes.NewReader(sev), int64(len(sev))); err != nil {
		t.Fatal(err)
	}
	if l.SEV.Kernel != "measured" || l.SEV.Address != "0xffffe000" || l.TDX.Missing == "" || l.TDX.Fault != nil || len(l.Table) != 3 {
		t.Errorf("look = %+v", l)
	}
	// One view's fault does not hide the other's.
	bad := sevPlain(ovmf.SEVSection{Address: 0x810000, Size: 0x1000, Type: ovmf.SEVMemory})
	bad.version = 9
	if l, err = ovmf.LookAt(bytes.NewReader(bad.bytes()), int64(bad.size)); err != nil || l.SEV.Fault == nil || len(l.Table) != 3 {
		t.Errorf("malformed metadata: %+v, %v", l, err)
	}
}

// FuzzReadSEV demands an *Error or sections that lie in the file.
func FuzzReadSEV(f *testing.F) {
	f.Add(sevPlain(ovmf.SEVSection{Address: 0x800000, Size: 0x1000, Type: ovmf.SEVMemory}).bytes()[8192-0x400:])
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, data []byte) {
		size := int64(len(data))
		if l, err := ovmf.LookAt(bytes.NewReader(data), size); err != nil || l.Size != size {
			t.Fatalf("look: %v", err)
		}
		s, err := readSEV(data)
		if err != nil {
			var typed *ovmf.Error
			if !errors.As(err, &typed) {
				t.Fatalf("error %v has no place", err)
			}
			return
		}
		for i := range s.Sections {
			if at := s.SectionOffset(i); at < 16 || at+12 > size {
				t.Fatalf("section %d at %#x of %#x", i, at, size)
			}
		}
	})
}
