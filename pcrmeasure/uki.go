package pcrmeasure

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/retally/retally/internal/authenticode"
	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/place"
	"github.com/retally/retally/trace"
)

// SectionOrder names the order in which systemd's stub measures a unified
// kernel image's sections.
type SectionOrder string

// The orders.
const (
	// Order252 is that of systemd 252 (Debian 12): src/fundamental/tpm-pcr.h.
	Order252 SectionOrder = "252"
	// Order257 is that of systemd 257 (Debian 13): src/fundamental/uki.h.
	Order257 SectionOrder = "257"
)

var sectionOrders = map[SectionOrder][]string{
	Order252: {".linux", ".osrel", ".cmdline", ".initrd", ".splash", ".dtb", ".pcrpkey"},
	Order257: {
		".linux", ".osrel", ".cmdline", ".initrd", ".ucode", ".splash", ".dtb", ".uname", ".sbat", ".pcrpkey",
		".profile", ".dtbauto", ".hwids", ".efifw",
	},
}

// names gives the order's sections; the empty order is 252.
func (o SectionOrder) names() ([]string, error) {
	if o == "" {
		o = Order252
	}
	if n, ok := sectionOrders[o]; ok {
		return n, nil
	}
	return nil, &place.Fault{Op: "predict", Input: "PCR 11", Field: "section order", Found: fmt.Sprintf("%q", string(o)), Want: "252 or 257"}
}

// chosen are sections of which an image may have many; a stub takes one.
var chosen = []string{".profile", ".dtbauto", ".hwids", ".efifw"}

// Sections reads the sections of a unified kernel image that stubs know, .pcrsig
// among them, which signs the measurement and is never part of it. Two of one
// name are an error: stubs differ in which they take. A section that is larger in memory
// than in the file is one too.
func Sections(in Input) ([]Section, error) {
	if in.R == nil {
		return in.Sections, nil
	}
	table, err := authenticode.Sections(in.R, in.Size)
	if err != nil {
		return nil, inFile(in.Name, err)
	}
	var out []Section
	for _, s := range table {
		if !stubKnows(s.Name) {
			continue
		}
		fault := func(found, want string) error {
			return &place.Fault{Input: "unified kernel image", Where: place.InFile(in.Name).At(s.At), Field: "section " + s.Name, Found: found, Want: want}
		}
		if slices.ContainsFunc(out, func(o Section) bool { return o.Name == s.Name }) {
			if slices.Contains(chosen, s.Name) {
				return nil, missing("%s has several sections %s: which of them a stub measures is chosen at boot, by profile or hardware", in.Name, s.Name)
			}
			return nil, fault("a second one", "one; stubs differ in which of two they take")
		}
		if s.Virtual > s.Size {
			return nil, fault(fmt.Sprintf("%d bytes in memory, %d in the file", s.Virtual, s.Size), "as many in the file")
		}
		out = append(out, Section{Name: s.Name, Contents: Input{Name: in.Name + ":" + s.Name, R: newPart(in.R, s.Offset, s.Size), Size: s.Size}})
	}
	return out, nil
}

const pcrSignature = ".pcrsig"

// stubKnows reports whether a stub does something with sections of this name.
func stubKnows(name string) bool {
	if name == pcrSignature {
		return true
	}
	for _, o := range sectionOrders {
		if slices.Contains(o, name) {
			return true
		}
	}
	return false
}

func (r *run) sections(in Input) ([]Section, error) {
	if len(in.Sections) > 0 || in.R == nil {
		return in.Sections, nil
	}
	// A kernel of -kernel need not be a PE image at all.
	head := make([]byte, 2)
	if _, err := in.R.ReadAt(head, 0); err != nil || string(head) != "MZ" {
		return nil, nil
	}
	return Sections(in)
}

// MeasureSections makes the trace of PCR 11: for each section of the order that
// is there and not empty its name with an end mark, then its contents; then the
// phase words (systemd, src/boot/efi/stub.c and src/boot/pcrphase.c).
func MeasureSections(ctx context.Context, bank digest.Algorithm, order SectionOrder, sections []Section, phases []string) (Trace, error) {
	return New(Artifacts{}).measureSections(ctx, bank, order, sections, phases, "")
}

func (m *Measurer) measureSections(ctx context.Context, bank digest.Algorithm, order SectionOrder, sections []Section, phases []string, key string) (Trace, error) {
	t := Trace{Fold: trace.Extend, Algorithm: bank, Events: []trace.Event{}}
	names, err := order.names()
	if err != nil {
		return t, err
	}
	for _, name := range names {
		i := slices.IndexFunc(sections, func(s Section) bool { return s.Name == name })
		if i < 0 {
			continue
		}
		in := sections[i].Contents
		if in.R != nil && in.Size == 0 {
			continue
		}
		var d digest.Digest
		if in.R == nil {
			d, err = known(in, in.Known, "of its contents", bank)
		} else if key == "" {
			d, err = m.run(ctx, in, 0, in.Size, bank)
		} else {
			d, err = m.file(ctx, key+" "+name, in, bank)
		}
		if err != nil {
			return t, err
		}
		t.Made("section name "+name, []byte(name+"\x00"))
		origin := trace.Origin{Input: in.Name, Size: in.Size}
		if p, ok := in.R.(part); ok {
			origin = trace.Origin{Input: strings.TrimSuffix(in.Name, ":"+name), Offset: p.offset, Size: in.Size}
		}
		t.Add("section "+name, d, origin)
	}
	for _, p := range phases {
		t.Made("phase "+p, []byte(p))
	}
	return t, nil
}

// booted is the unified kernel image that a pattern starts, if it starts one.
func (r *run) booted() (in Input, sections []Section, err error) {
	switch r.c.Pattern {
	case UKIDirect, LoaderUKI:
		in = r.UKI
		if err := r.needed(in, "unified kernel image", "--uki FILE"); err != nil {
			return in, nil, err
		}
	case Direct:
		in = r.Kernel
		if err := r.needed(in, "kernel", "--kernel FILE"); err != nil {
			return in, nil, err
		}
	default:
		return in, nil, nil
	}
	sections, err = r.sections(in)
	if err == nil && !slices.ContainsFunc(sections, func(s Section) bool { return s.Name == ".linux" }) {
		sections = nil
	}
	if err == nil && len(sections) == 0 && r.c.Pattern != Direct {
		return in, nil, missing("the sections of %s are not known: give its bytes", in.Name)
	}
	return in, sections, err
}

func (r *run) pcr11(g *register) error {
	_, sections, err := r.booted()
	switch {
	case err != nil:
		return err
	case r.c.Pattern == Chain:
		return missing("what the images of a chain measure is not known")
	case len(sections) == 0:
		for _, p := range r.c.Phases {
			g.trace.Made("phase "+p, []byte(p))
		}
		if len(r.c.Phases) == 0 {
			g.note("no unified kernel image is started")
		}
		return nil
	}
	g.trace, err = r.measureSections(r.ctx, r.c.Bank, r.c.Order, sections, r.c.Phases, "uki")
	order := r.c.Order
	if order == "" {
		order = Order252
	}
	g.note("order of sections of systemd %s", order)
	if len(r.c.Phases) == 0 {
		g.note("before systemd-pcrphase extends it")
	}
	return err
}

// ukiText reads a small section as text.
func (r *run) ukiText(sections []Section, name string) (string, bool, error) {
	i := slices.IndexFunc(sections, func(s Section) bool { return s.Name == name })
	if i < 0 {
		return "", false, nil
	}
	b, err := sections[i].Contents.whole(r.ctx, 1<<20)
	return string(bytes.TrimRight(b, "\x00")), true, err
}
