package igvm_test

import (
	"bytes"
	"context"
	"crypto/sha512"
	"encoding/binary"
	"encoding/json"
	"errors"
	"hash/crc32"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/retally/retally/igvm"
	"github.com/retally/retally/internal/place"
	"github.com/retally/retally/internal/testenv"
)

// builder makes IGVM files. Data goes behind the headers; where it will be is
// known once all headers are.
type builder struct {
	headers []byte
	data    []byte
	fixups  []int // offsets in headers of file offsets, relative to the data
}

func le(values ...any) []byte {
	var b []byte
	for _, v := range values {
		switch v := v.(type) {
		case uint8:
			b = append(b, v)
		case uint16:
			b = binary.LittleEndian.AppendUint16(b, v)
		case uint32:
			b = binary.LittleEndian.AppendUint32(b, v)
		case uint64:
			b = binary.LittleEndian.AppendUint64(b, v)
		case []byte:
			b = append(b, v...)
		}
	}
	return b
}

func (b *builder) header(typ igvm.Type, body []byte) *builder {
	b.headers = append(b.headers, le(uint32(typ), uint32(len(body)), body)...)
	for len(b.headers)%8 != 0 {
		b.headers = append(b.headers, 0)
	}
	return b
}

func (b *builder) platform(mask uint32, p igvm.Platform) *builder {
	return b.header(igvm.SupportedPlatform, le(mask, uint8(0), uint8(p), uint16(1), uint64(0)))
}

// store appends data and returns a marker for its offset.
func (b *builder) store(field int, content []byte) uint32 {
	b.fixups = append(b.fixups, len(b.headers)+8+field)
	at := uint32(len(b.data))
	b.data = append(b.data, content...)
	return at
}

func (b *builder) page(address uint64, mask uint32, content []byte, flags uint32, typ uint16) *builder {
	offset := uint32(0)
	if content != nil {
		offset = b.store(12, append(bytes.Clone(content), make([]byte, 4096-len(content))...))
	}
	return b.header(igvm.PageData, le(address, mask, offset, flags, typ, uint16(0)))
}

func (b *builder) context(vp uint16, mask uint32, content []byte) *builder {
	offset := b.store(12, append(bytes.Clone(content), make([]byte, 4096-len(content))...))
	return b.header(igvm.VPContext, le(uint64(0xfffffffff000), mask, offset, vp, uint16(0)))
}

func (b *builder) bytes() []byte {
	headers := bytes.Clone(b.headers)
	for _, at := range b.fixups {
		old := binary.LittleEndian.Uint32(headers[at:])
		binary.LittleEndian.PutUint32(headers[at:], old+uint32(24+len(headers)))
	}
	file := append(le([]byte("IGVM"), uint32(1), uint32(24), uint32(len(headers)), uint32(24+len(headers)+len(b.data)), uint32(0)), headers...)
	return seal(append(file, b.data...))
}

// seal writes the checksum.
func seal(file []byte) []byte {
	start, length := binary.LittleEndian.Uint32(file[8:]), binary.LittleEndian.Uint32(file[12:])
	if uint64(start)+uint64(length) > uint64(len(file)) {
		return file
	}
	head := bytes.Clone(file[:24])
	clear(head[20:])
	binary.LittleEndian.PutUint32(file[20:], crc32.Update(crc32.ChecksumIEEE(head), crc32.IEEETable, file[start:start+length]))
	return file
}

func parse(data []byte) (*igvm.File, error) {
	return igvm.Parse("test.igvm", bytes.NewReader(data), int64(len(data)))
}

func mustParse(t testing.TB, data []byte) *igvm.File {
	t.Helper()
	f, err := parse(data)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// both is a file for SEV-SNP and TDX with one page, one area and one CPU.
func both() *builder {
	b := new(builder).platform(1, igvm.SNP).platform(2, igvm.TDX)
	b.header(igvm.GuestPolicy, le(uint64(0x30000), uint32(1), uint32(0)))
	b.header(igvm.ParameterArea, le(uint64(8192), uint32(0), uint32(0)))
	b.header(igvm.CommandLine, le(uint32(0), uint32(16)))
	b.page(0x1000, 3, []byte("one"), 0, 0).page(0x2000, 3, []byte("two"), 0, 0).page(0x3000, 3, nil, 0, 0)
	b.page(0x4000, 3, []byte("unmeasured"), 2, 0).page(0x5000, 3, []byte("shared"), 4, 0)
	b.header(igvm.ParameterInsert, le(uint64(0x6000), uint32(3), uint32(0)))
	b.page(0x8000, 1, nil, 0, 1).page(0x9000, 1, nil, 0, 2).page(0xa000, 2, []byte("tdx"), 0, 0)
	return b.context(0, 1, []byte("registers"))
}

// TestSample is measured by the crate igvm 0.5.0 too.
func TestSample(t *testing.T) {
	dir := testenv.Vectors(t, "published/field/igvm")
	var want struct {
		SNP  string `json:"snp_launch_digest"`
		MRTD string
		Text []string `json:"directives_in_order"`
	}
	raw, err := os.ReadFile(filepath.Join(dir, "expected.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(raw, &want); err != nil {
		t.Fatal(err)
	}
	file, err := os.ReadFile(filepath.Join(dir, "sample.igvm"))
	if err != nil {
		t.Fatal(err)
	}
	f := mustParse(t, file)
	for p, sum := range map[igvm.Platform]string{igvm.SNP: want.SNP, igvm.TDX: want.MRTD} {
		m, err := f.Measure(context.Background(), p)
		if err != nil {
			t.Fatal(err)
		}
		if m.Digest.Hex() != sum {
			t.Errorf("%s = %s, want %s", p, m.Digest.Hex(), sum)
		}
	}
	directives := 0
	for h := range f.Headers() {
		if h.Type > 0x300 {
			directives++
		}
	}
	if directives != len(want.Text) {
		t.Errorf("%d directives, want %d", directives, len(want.Text))
	}
}

// TestMeasureStep recomputes both values from the definitions, page by page.
func TestMeasureStep(t *testing.T) {
	page := func(s string) []byte { return append([]byte(s), make([]byte, 4096-len(s))...) }
	var ld [48]byte
	snp := func(typ uint8, address uint64, content []byte) {
		var sum [48]byte
		if content != nil {
			sum = sha512.Sum384(content)
		}
		ld = sha512.Sum384(le(ld[:], sum[:], uint16(0x70), typ, uint8(0), uint32(0), address))
	}
	snp(1, 0x1000, page("one"))
	snp(1, 0x2000, page("two"))
	snp(1, 0x3000, page(""))
	snp(4, 0x4000, nil)
	snp(4, 0x6000, nil)
	snp(4, 0x7000, nil)
	snp(5, 0x8000, nil)
	snp(6, 0x9000, nil)
	snp(2, 0xfffffffff000, page("registers"))
	h := sha512.New384()
	tdx := func(address uint64, content []byte) {
		h.Write(append(le([]byte("MEM.PAGE.ADD\x00\x00\x00\x00"), address), make([]byte, 104)...))
		for at := 0; at < len(content); at += 256 {
			h.Write(append(le([]byte("MR.EXTEND\x00\x00\x00\x00\x00\x00\x00"), address+uint64(at)), make([]byte, 104)...))
			h.Write(content[at : at+256])
		}
	}
	tdx(0x1000, page("one"))
	tdx(0x2000, page("two"))
	tdx(0x3000, page(""))
	tdx(0x4000, nil)
	tdx(0x6000, nil)
	tdx(0x7000, nil)
	tdx(0xa000, page("tdx"))

	f := mustParse(t, both().bytes())
	m, err := f.Measure(context.Background(), igvm.SNP)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(m.Digest.Bytes(), ld[:]) {
		t.Errorf("launch digest = %x, want %x", m.Digest.Bytes(), ld)
	}
	var labels []string
	for _, e := range m.Trace.Events {
		labels = append(labels, e.Label)
	}
	if d := cmp.Diff([]string{
		"pages 0x1000 to 0x3000, measured", "page 0x3000, measured, zeros", "page 0x4000, unmeasured", "pages 0x6000 to 0x8000, unmeasured",
		"page 0x8000, secrets", "page 0x9000, CPUID", "page 0xfffffffff000, registers",
	}, labels); d != "" {
		t.Error(d)
	}
	if len(m.Notes) != 1 || !strings.Contains(m.Notes[0], "2 pages") {
		t.Errorf("notes = %q", m.Notes)
	}
	if m, err = f.Measure(context.Background(), igvm.TDX); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(m.Digest.Bytes(), h.Sum(nil)) {
		t.Errorf("MRTD = %x, want %x", m.Digest.Bytes(), h.Sum(nil))
	}
	if _, err := f.Measure(context.Background(), igvm.VSM); !errors.Is(err, igvm.ErrFormat) {
		t.Errorf("VSM: error = %v", err)
	}
}

// TestUnmeasuredArea: a parameter area may begin with bytes of the file, which
// nobody measures; that is told.
func TestUnmeasuredArea(t *testing.T) {
	b := new(builder).platform(1, igvm.SNP).header(igvm.GuestPolicy, le(uint64(0x30000), uint32(1), uint32(0)))
	offset := b.store(12, make([]byte, 8192))
	b.header(igvm.ParameterArea, le(uint64(8192), uint32(7), offset)).header(igvm.ParameterInsert, le(uint64(0x6000), uint32(1), uint32(7)))
	m, err := mustParse(t, b.bytes()).Measure(context.Background(), igvm.SNP)
	if err != nil || len(m.Notes) != 1 || !strings.Contains(m.Notes[0], "2 pages") {
		t.Errorf("notes = %q, %v", m.Notes, err)
	}
}

// TestEveryBit: a changed bit of a measured page changes the value, and one of
// the headers is caught by the checksum.
func TestEveryBit(t *testing.T) {
	good := both().bytes()
	want, err := mustParse(t, good).Measure(context.Background(), igvm.SNP)
	if err != nil {
		t.Fatal(err)
	}
	data := len(both().headers) + 24
	for at := 0; at < data; at++ {
		bad := bytes.Clone(good)
		bad[at] ^= 1 << (at % 8)
		if _, err := parse(bad); err == nil {
			t.Errorf("byte %#x of the headers makes no difference", at)
		}
	}
	for _, at := range []int{data, data + 4095, data + 4096} {
		bad := bytes.Clone(good)
		bad[at] ^= 1
		if m, err := mustParse(t, bad).Measure(context.Background(), igvm.SNP); err != nil || m.Digest == want.Digest {
			t.Errorf("byte %#x makes no difference: %v", at, err)
		}
	}
}

// TestRefuses has what an attacker writes into headers.
func TestRefuses(t *testing.T) {
	fixed := func(edit func([]byte)) []byte {
		file := both().bytes()
		edit(file)
		return seal(file)
	}
	put := binary.LittleEndian.PutUint32
	start := func() *builder {
		return new(builder).platform(1, igvm.SNP).platform(2, igvm.TDX)
	}
	for name, c := range map[string]struct {
		data []byte
		want error
	}{
		"empty":                      {nil, igvm.ErrFormat},
		"magic":                      {fixed(func(b []byte) { b[0] = 'X' }), igvm.ErrFormat},
		"version 3":                  {fixed(func(b []byte) { b[4] = 3 }), igvm.ErrUnknown},
		"size of another file":       {fixed(func(b []byte) { b[16]++ }), igvm.ErrFormat},
		"headers in the fixed part":  {fixed(func(b []byte) { put(b[8:], 16) }), igvm.ErrFormat},
		"headers unaligned":          {fixed(func(b []byte) { put(b[8:], 25) }), igvm.ErrFormat},
		"headers beyond the file":    {fixed(func(b []byte) { put(b[12:], 1<<31) }), igvm.ErrFormat},
		"headers beyond 32 bits":     {fixed(func(b []byte) { put(b[8:], 1<<32-8); put(b[12:], 16) }), igvm.ErrFormat},
		"checksum":                   {append(both().bytes()[:20], append([]byte{1, 2, 3, 4}, both().bytes()[24:]...)...), igvm.ErrFormat},
		"no platform":                {new(builder).page(0, 1, nil, 0, 0).bytes(), igvm.ErrFormat},
		"mask of two bits":           {new(builder).platform(3, igvm.SNP).bytes(), igvm.ErrFormat},
		"platform twice":             {start().platform(4, igvm.SNP).bytes(), igvm.ErrFormat},
		"mask twice":                 {start().platform(1, igvm.Native).bytes(), igvm.ErrFormat},
		"platform 9":                 {new(builder).platform(1, 9).bytes(), igvm.ErrUnknown},
		"platform after a directive": {start().page(0, 1, nil, 0, 0).platform(4, igvm.Native).bytes(), igvm.ErrFormat},
		"unknown directive":          {start().header(0x320, nil).bytes(), igvm.ErrUnknown},
		"unknown section":            {start().header(0x250, nil).bytes(), igvm.ErrUnknown},
		"reserved type":              {start().header(0x306, nil).bytes(), igvm.ErrUnknown},
		"longer page header":         {start().header(igvm.PageData, make([]byte, 32)).bytes(), igvm.ErrUnknown},
		"length beyond the headers":  {start().header(igvm.PageData, make([]byte, 24)).cut(8).bytes(), igvm.ErrFormat},
		"length of 2^32":             {start().raw(le(uint32(0x302), uint32(1<<32-1))).bytes(), igvm.ErrFormat},
		"half a header":              {start().raw([]byte{2, 3, 0, 0}).bytes(), igvm.ErrFormat},
		"padding":                    {start().header(igvm.VPContext, make([]byte, 20)).poke().bytes(), igvm.ErrFormat},
		"page unaligned":             {start().page(1, 1, nil, 0, 0).bytes(), igvm.ErrFormat},
		"page of 2 MiB":              {start().page(0, 1, nil, 1, 0).bytes(), igvm.ErrUnknown},
		"page of unknown flags":      {start().page(0, 1, nil, 8, 0).bytes(), igvm.ErrUnknown},
		"page of unknown type":       {start().page(0, 1, nil, 0, 4).bytes(), igvm.ErrUnknown},
		"page at the end of memory":  {start().page(1<<64-4096, 1, nil, 0, 0).bytes(), igvm.ErrFormat},
		"page inside the headers":    {start().header(igvm.PageData, le(uint64(0), uint32(1), uint32(8), uint32(0), uint32(0))).bytes(), igvm.ErrFormat},
		"page beyond the file":       {start().header(igvm.PageData, le(uint64(0), uint32(1), uint32(1<<30), uint32(0), uint32(0))).bytes(), igvm.ErrFormat},
		"area of half a page":        {start().header(igvm.ParameterArea, le(uint64(100), uint32(0), uint32(0))).bytes(), igvm.ErrFormat},
		"area of 2^63":               {start().header(igvm.ParameterArea, le(uint64(1<<63), uint32(0), uint32(0))).bytes(), igvm.ErrFormat},
		"areas of 5 GiB":             {areas(5).bytes(), igvm.ErrUnknown},
		"area twice":                 {start().header(igvm.ParameterArea, le(uint64(4096), uint32(0), uint32(0))).header(igvm.ParameterArea, le(uint64(4096), uint32(0), uint32(0))).bytes(), igvm.ErrFormat},
		"insert of no area":          {start().header(igvm.ParameterInsert, le(uint64(0), uint32(1), uint32(0))).bytes(), igvm.ErrFormat},
		"insert twice":               {both().header(igvm.ParameterInsert, le(uint64(0x6000), uint32(3), uint32(0))).bytes(), igvm.ErrFormat},
		"parameter after its insert": {both().header(igvm.CommandLine, le(uint32(0), uint32(0))).bytes(), igvm.ErrFormat},
		"context for TDX":            {start().context(0, 2, nil).bytes(), igvm.ErrFormat},
		"context for two":            {start().context(0, 3, nil).bytes(), igvm.ErrFormat},
		"context of zeros":           {start().header(igvm.VPContext, le(uint64(0), uint32(1), uint32(0), uint32(0))).bytes(), igvm.ErrFormat},
	} {
		f, err := parse(c.data)
		var at *place.Fault
		if !errors.As(err, &at) || !errors.Is(err, c.want) {
			t.Errorf("%s: %v, error = %v, want %v", name, f, err, c.want)
		}
	}
}

func areas(n uint32) *builder {
	b := new(builder).platform(1, igvm.SNP)
	for i := range n {
		b.header(igvm.ParameterArea, le(uint64(1<<30), i, uint32(0)))
	}
	return b
}

func (b *builder) cut(n int) *builder { b.headers = b.headers[:len(b.headers)-n]; return b }

func (b *builder) raw(p []byte) *builder { b.headers = append(b.headers, p...); return b }

// poke sets the last byte of the headers, which is padding.
func (b *builder) poke() *builder { b.headers[len(b.headers)-1] = 1; return b }

// TestUnknownHeader: a header that a loader may pass over is shown, but the
// file is not measured.
func TestUnknownHeader(t *testing.T) {
	for _, typ := range []igvm.Type{0x320, igvm.PageData} {
		f := mustParse(t, both().header(typ|1<<31, make([]byte, 24)).bytes())
		var last string
		for h := range f.Headers() {
			last = f.Describe(h)
		}
		if !strings.HasPrefix(last, "unknown header") {
			t.Errorf("shown as %q", last)
		}
		if m, err := f.Measure(context.Background(), igvm.SNP); !errors.Is(err, igvm.ErrUnknown) {
			t.Errorf("measured as %v, error = %v", m, err)
		}
	}
}

func TestVersion2(t *testing.T) {
	v2 := func(arch, page uint32) []byte {
		b := new(builder).platform(1, igvm.SNP).page(0x1000, 1, nil, 0, 0)
		file := le([]byte("IGVM"), uint32(2), uint32(32), uint32(len(b.headers)), uint32(32+len(b.headers)), uint32(0), arch, page, b.headers)
		head := bytes.Clone(file[:32])
		binary.LittleEndian.PutUint32(file[20:], crc32.Update(crc32.ChecksumIEEE(head), crc32.IEEETable, file[32:]))
		return file
	}
	if f, err := parse(v2(0, 4096)); err != nil || f.Version != 2 {
		t.Errorf("version 2: %v, %v", f, err)
	}
	for _, bad := range [][]byte{v2(1, 4096), v2(0, 65536)} {
		if _, err := parse(bad); !errors.Is(err, igvm.ErrUnknown) {
			t.Errorf("error = %v, want ErrUnknown", err)
		}
	}
}

func TestCompare(t *testing.T) {
	texts := func(a, b *builder) (out []string) {
		fa, fb := mustParse(t, a.bytes()), mustParse(t, b.bytes())
		list, err := igvm.Compare(context.Background(), fa, fb)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range list {
			h, f := d.A, fa
			if h == nil {
				h, f = d.B, fb
			}
			out = append(out, d.Text+": "+strings.SplitN(f.Describe(*h), ",", 2)[0])
		}
		return out
	}
	if d := texts(both(), both()); d != nil {
		t.Errorf("equal files differ: %q", d)
	}
	snp := func() *builder { return new(builder).platform(1, igvm.SNP) }
	for _, c := range []struct {
		a, b *builder
		want []string
	}{
		{snp().page(0x1000, 1, []byte("a"), 0, 0), snp().page(0x1000, 1, []byte("b"), 0, 0), []string{"changed: page 0x1000 normal"}},
		// The same contents at another offset of the file.
		{snp().page(0x1000, 1, []byte("a"), 0, 0).page(0x2000, 1, []byte("b"), 0, 0), snp().page(0x2000, 1, []byte("b"), 0, 0).page(0x1000, 1, []byte("a"), 0, 0), []string{"order: page 0x2000 normal"}},
		{snp().page(0x1000, 1, nil, 0, 0), snp(), []string{"removed: page 0x1000 normal"}},
		{snp(), snp().page(0x1000, 1, nil, 0, 0), []string{"added: page 0x1000 normal"}},
		{snp().page(0x1000, 1, nil, 0, 0), snp().page(0x1000, 1, nil, 2, 0), []string{"changed: page 0x1000 normal"}},
	} {
		if d := cmp.Diff(c.want, texts(c.a, c.b)); d != "" {
			t.Error(d)
		}
	}
}

// FuzzParse demands a fault with a place, or a file that is shown, measured
// the same twice, and equal to itself.
func FuzzParse(f *testing.F) {
	// Short inputs: the fuzzer spends its time on making long ones shorter. The
	// pages that the headers name are added here.
	for _, b := range []*builder{both(), new(builder).platform(1, igvm.SNP).page(0, 1, nil, 0, 0), areas(1)} {
		whole := b.bytes()
		f.Add(whole[24:24+len(b.headers)], uint8(len(b.data)/4096), true)
	}
	f.Add(new(builder).platform(1, igvm.TDX).bytes(), uint8(0), false)
	f.Fuzz(func(t *testing.T, data []byte, pages uint8, headers bool) {
		if headers {
			n := len(data)
			data = append(le([]byte("IGVM"), uint32(1), uint32(24), uint32(n), uint32(24+n+4096*int(pages)), uint32(0)), data...)
			data = seal(append(data, make([]byte, 4096*int(pages))...))
		}
		file, err := parse(data)
		if err != nil {
			var at *place.Fault
			if !errors.As(err, &at) {
				t.Fatalf("error %v has no place", err)
			}
			return
		}
		var memory uint64
		for h := range file.Headers() {
			file.Describe(h)
			if h.Known && h.Type == igvm.ParameterArea {
				memory += binary.LittleEndian.Uint64(h.Body)
			}
		}
		if memory > 1<<24 {
			return // slow, not wrong
		}
		for _, p := range []igvm.Platform{igvm.SNP, igvm.TDX} {
			m, err := file.Measure(context.Background(), p)
			if err != nil {
				continue
			}
			if again, err := file.Measure(context.Background(), p); err != nil || again.Digest != m.Digest {
				t.Fatalf("measured twice: %v", err)
			}
		}
		if d, err := igvm.Compare(context.Background(), file, file); err != nil || len(d) > 0 {
			t.Fatalf("the file differs from itself: %v, %v", d, err)
		}
	})
}
