package igvm

import (
	"cmp"
	"context"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	"github.com/retally/retally/internal/digest"
)

// Describe says in a line what a header asks for.
func (f *File) Describe(h Header) string {
	if !h.Known {
		return fmt.Sprintf("unknown header of type %#x, %d bytes, which a loader may pass over", uint32(h.Type&^ignorable), len(h.Body))
	}
	k, _ := h.Type.kind()
	s := k.name
	switch h.Type {
	case SupportedPlatform:
		return fmt.Sprintf("%s %s, mask %#x, highest VTL %d, shared above %#x", s, Platform(h.Body[5]), h.Mask, h.Body[4], h.u64(8))
	case GuestPolicy:
		s += fmt.Sprintf(" %#x", h.u64(0))
	case RelocatableRegion:
		s += fmt.Sprintf(" %#x, %#x bytes, to %#x up to %#x", h.u64(16), h.u64(24), h.u64(32), h.u64(40))
	case PageTableRegion:
		s += fmt.Sprintf(" %#x, %#x bytes", h.u64(8), h.u64(16))
	case CoRIMDocument, CoRIMSignature:
		s += fmt.Sprintf(", %d bytes at %#x", h.u32(8), h.u32(4))
	case ParameterArea:
		s += fmt.Sprintf(" %d, %d bytes, %s", h.u32(8), h.u64(0), data(h.u32(12)))
	case PageData:
		s += fmt.Sprintf(" %#x %s, %s", h.u64(0), pageText(&h), data(h.u32(12)))
	case ParameterInsert:
		s += fmt.Sprintf(" of area %d at %#x, unmeasured", h.u32(12), h.u64(0))
	case VPContext:
		s += fmt.Sprintf(" of VP %d, %s, page %#x", h.u16(16), data(h.u32(12)), h.u64(0))
	case RequiredMemory, ErrorRange:
		s += fmt.Sprintf(" %#x, %#x bytes", h.u64(0), h.u32(12))
	case SNPIDBlock:
		s += fmt.Sprintf(", launch digest %s, family id %s, image id %s, SVN %d", hex.EncodeToString(h.Body[8:56]), hex.EncodeToString(h.Body[56:72]), hex.EncodeToString(h.Body[72:88]), h.u32(92))
	case VBSMeasurement:
	default:
		s += fmt.Sprintf(", into area %d at %#x", h.u32(0), h.u32(4))
	}
	return s + "; " + f.supported(&h)
}

func data(offset uint32) string {
	if offset == 0 {
		return "zeros"
	}
	return fmt.Sprintf("data at %#x", offset)
}

func pageText(h *Header) string {
	text := []string{[...]string{"normal", "secrets", "CPUID", "CPUID XF"}[h.u16(20)]}
	if h.u32(16)&flagUnmeasured != 0 {
		text = append(text, "unmeasured")
	}
	if h.u32(16)&flagShared != 0 {
		text = append(text, "shared with the host")
	}
	return strings.Join(text, ", ")
}

// LaunchDigests are those that the file's own SNP ID blocks promise.
func (f *File) LaunchDigests() (out []digest.Digest) {
	for h := range f.Headers() {
		if h.Known && h.Type == SNPIDBlock {
			if d, err := digest.FromBytes(digest.SHA384, h.Body[8:56]); err == nil {
				out = append(out, d)
			}
		}
	}
	return out
}

// Difference is a header that two files do not have alike. A nil side does not
// have it.
type Difference struct {
	Text string // what differs: "added", "removed", "changed", "order"
	A, B *Header
}

// Compare holds the headers of two files against each other: by type, address
// and platforms, and the pages by their contents. Offsets into the files do
// not count. Where all headers are alike but their order, the first one out of
// order is named.
func Compare(ctx context.Context, a, b *File) ([]Difference, error) {
	left, err := a.lines(ctx)
	if err != nil {
		return nil, err
	}
	right, err := b.lines(ctx)
	if err != nil {
		return nil, err
	}
	of := map[string]*line{}
	for i := range right {
		of[right[i].key] = &right[i]
	}
	var out []Difference
	var common []*line
	for i := range left {
		l := &left[i]
		r := of[l.key]
		switch {
		case r == nil:
			out = append(out, Difference{"removed", &l.header, nil})
		case r.contents != l.contents:
			out = append(out, Difference{"changed", &l.header, &r.header})
		}
		if r != nil {
			r.met = true
			common = append(common, r)
		}
	}
	for i := range right {
		if !right[i].met {
			out = append(out, Difference{"added", nil, &right[i].header})
		}
	}
	for i := 1; i < len(common); i++ {
		if common[i].header.Index < common[i-1].header.Index {
			out = append(out, Difference{"order", nil, &common[i].header})
			break
		}
	}
	slices.SortStableFunc(out, func(x, y Difference) int { return cmp.Compare(x.at(), y.at()) })
	return out, nil
}

func (d *Difference) at() int {
	if d.A != nil {
		return d.A.Index
	}
	return d.B.Index
}

// line is a header as it is compared.
type line struct {
	header   Header
	key      string // what it is of
	contents string // what it says there
	met      bool
}

// lines makes the headers of a file comparable. Two that are of the same thing
// are told apart by their number.
func (f *File) lines(ctx context.Context) ([]line, error) {
	var out []line
	seen := map[string]int{}
	page := make([]byte, pageSize)
	for h := range f.Headers() {
		if h.Index%1024 == 0 && ctx.Err() != nil {
			return nil, ctx.Err()
		}
		key, contents := fmt.Sprintf("%x", h.Type), string(h.Body)
		if h.Known {
			offset := -1 // of the field with a file offset
			size := int64(pageSize)
			switch h.Type {
			case PageData, VPContext:
				offset = 12
				key += fmt.Sprintf(" %x %s", h.u64(0), f.supported(&h))
				if h.Type == VPContext {
					key += fmt.Sprint(" ", h.u16(16))
				}
			case ParameterArea:
				offset, size = 12, int64(h.u64(0))
				key += fmt.Sprint(" ", h.u32(8))
			case CoRIMDocument, CoRIMSignature:
				offset, size = 4, int64(h.u32(8))
			case ParameterInsert, RequiredMemory, ErrorRange:
				key += fmt.Sprintf(" %x %s", h.u64(0), f.supported(&h))
			case SupportedPlatform:
				key += fmt.Sprint(" ", h.Body[5])
			}
			if offset >= 0 {
				body := slices.Clone(h.Body)
				clear(body[offset : offset+4])
				sum, err := f.sum(int64(h.u32(offset)), size, page)
				if err != nil {
					return nil, err
				}
				contents = string(body) + sum.String()
			}
		}
		seen[key]++
		out = append(out, line{header: h, key: fmt.Sprint(key, " #", seen[key]), contents: contents})
	}
	return out, nil
}

// sum hashes n bytes of the file, or stands for n zeros at offset 0.
func (f *File) sum(offset, n int64, buf []byte) (digest.Digest, error) {
	if offset == 0 {
		return digest.Digest{}, nil
	}
	n = min(n, f.Size-offset) // a VSM context may be shorter
	h := digest.SHA256.New()
	for n > 0 {
		b := buf[:min(int64(len(buf)), n)]
		if err := f.read(b, offset); err != nil {
			return digest.Digest{}, err
		}
		h.Write(b)
		offset, n = offset+int64(len(b)), n-int64(len(b))
	}
	return digest.FromHash(digest.SHA256, h), nil
}
