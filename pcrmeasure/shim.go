package pcrmeasure

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
	"unicode/utf16"

	"github.com/retally/retally/internal/authenticode"
	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/ovmf"
	"github.com/retally/retally/internal/place"
	"github.com/retally/retally/internal/varstore"
	"github.com/retally/retally/trace"
)

// shimLock is the GUID of shim's variables and protocol (shim, lib/guid.c).
var shimLock = func() ovmf.GUID {
	g, err := ovmf.ParseGUID("605dab50-e046-4300-abb6-3dd810dd8b23")
	if err != nil {
		panic(err)
	}
	return g
}()

const maxVendor = 4 << 20

// Mok are the lists that a shim mirrors into variables and measures into PCR 14
// on a machine without keys of its owner.
type Mok struct {
	List  []byte // MokList
	ListX []byte // MokListX
	// Trusted says that the shim knows MokListTrusted, which it measures as on.
	Trusted bool
	// Vendor is the vendor's certificate, where the shim has one and no list.
	Vendor []byte
}

// ReadMok reads a shim's section .vendor_cert: sizes of the vendor's allowed and
// denied lists, their offsets in the section, and the lists (shim, cert.S and
// mok.c). A certificate is made a list of one, an empty denied list one of a
// SHA-256 of zeros.
func ReadMok(in Input) (*Mok, error) {
	if in.R == nil {
		return nil, missing("the bytes of the shim are not given")
	}
	sections, err := authenticode.Sections(in.R, in.Size)
	if err != nil {
		return nil, inFile(in.Name, err)
	}
	// A name of more than eight bytes is cut, or is a reference to a table of
	// strings that loaders do not read.
	i := slices.IndexFunc(sections, func(s authenticode.Section) bool { return s.Name == ".vendor_" || s.Name == ".vendor_cert" })
	if i < 0 {
		if i, err = vendorSection(in, sections); err != nil {
			return nil, err
		}
	}
	s := sections[i]
	if s.Size > maxVendor || s.Size < 16 {
		return nil, &place.Fault{Input: "shim", Where: place.InFile(in.Name).At(s.At), Field: ".vendor_cert", Found: fmt.Sprintf("%d bytes", s.Size), Want: fmt.Sprintf("16 to %d", maxVendor)}
	}
	b := make([]byte, s.Size)
	if _, err := in.R.ReadAt(b, s.Offset); err != nil {
		return nil, &place.Fault{Input: "shim", Where: place.InFile(in.Name).At(s.Offset), Err: err}
	}
	le := binary.LittleEndian
	list := func(field string, size, offset uint32) ([]byte, error) {
		if uint64(offset)+uint64(size) > uint64(len(b)) {
			return nil, &place.Fault{Input: "shim", Where: place.InFile(in.Name).At(s.Offset), Field: field, Found: fmt.Sprintf("%d bytes at %d", size, offset), Want: fmt.Sprintf("an end of at most %d", len(b))}
		}
		return b[offset : offset+size], nil
	}
	auth, err := list("vendor_authorized", le.Uint32(b), le.Uint32(b[8:]))
	if err != nil {
		return nil, err
	}
	deny, err := list("vendor_deauthorized", le.Uint32(b[4:]), le.Uint32(b[12:]))
	if err != nil {
		return nil, err
	}
	m := &Mok{List: auth, ListX: deny}
	if _, err := varstore.Signatures(auth); err != nil && len(auth) > 0 {
		m.Vendor = auth
		m.List = varstore.AppendList(nil, varstore.TypeX509, shimLock, auth)
	}
	if len(deny) == 0 {
		m.ListX = EmptyMokListX()
	} else if _, err := varstore.Signatures(deny); err != nil {
		return nil, missing("the shim's denied list is no signature list: what it measures of it is not known")
	}
	m.Trusted, err = mentions(in, "MokListTrusted")
	return m, err
}

// EmptyMokListX is what a shim that denies nothing measures as MokListX: a list
// with a SHA-256 of zeros.
func EmptyMokListX() []byte {
	return varstore.AppendList(nil, varstore.TypeSHA256, shimLock, make([]byte, 32))
}

// vendorSection finds the section by what is in it where its name is in a table
// of strings: two sizes and two offsets that fit.
func vendorSection(in Input, sections []authenticode.Section) (int, error) {
	for i, s := range sections {
		if len(s.Name) == 0 || s.Name[0] != '/' || s.Size < 16 {
			continue
		}
		var b [16]byte
		if _, err := in.R.ReadAt(b[:], s.Offset); err != nil {
			return 0, &place.Fault{Input: "shim", Where: place.InFile(in.Name).At(s.Offset), Err: err}
		}
		le := binary.LittleEndian
		if at := le.Uint32(b[8:]); at == 16 && int64(le.Uint32(b[:]))+16 <= s.Size {
			return i, nil
		}
	}
	return 0, &place.Fault{Input: "shim", Where: place.InFile(in.Name), Field: "sections", Found: "no .vendor_cert", Want: "one, as every shim has it"}
}

// mentions looks for a variable's name, UTF-16LE with an end mark.
func mentions(in Input, name string) (bool, error) {
	var want []byte
	for _, u := range utf16.Encode([]rune(name + "\x00")) {
		want = binary.LittleEndian.AppendUint16(want, u)
	}
	const step = 1 << 20
	buf := make([]byte, step+len(want))
	for at := int64(0); at < in.Size; at += step {
		b := buf[:min(int64(len(buf)), in.Size-at)]
		if n, err := in.R.ReadAt(b, at); n < len(b) {
			return false, &place.Fault{Input: "shim", Where: place.InFile(in.Name).At(at + int64(n)), Err: err}
		}
		if bytes.Contains(b, want) {
			return true, nil
		}
	}
	return false, nil
}

// MokTrace is PCR 14 of a machine whose shim has these lists.
func (m *Mok) MokTrace(bank digest.Algorithm) Trace {
	t := Trace{Fold: trace.Extend, Algorithm: bank, Events: []trace.Event{}}
	t.Made("variable MokList", m.List)
	t.Made("variable MokListX", m.ListX)
	if m.Trusted {
		t.Made("variable MokListTrusted", []byte{1})
	}
	return t
}

func (r *run) pcr14(g *register) error {
	switch {
	case r.c.Pattern == Chain:
		return missing("what the images of a chain measure is not known")
	case r.c.Pattern != ShimGRUB:
		g.note("only shim extends it")
		return nil
	}
	if err := r.needed(r.Shim, "shim", "--shim FILE"); err != nil {
		return err
	}
	if s, err := r.variables(); err == nil {
		for _, v := range s.Variables {
			if v.GUID == shimLock && (v.Name == "MokList" || v.Name == "MokListX" || v.Name == "MokSBState" || v.Name == "MokDBState" || v.Name == "MokListTrusted") {
				return missing("the machine's owner has set %s: how shim joins it to its own lists is not known", v.Name)
			}
		}
	} else {
		g.note("no keys of the machine's owner: no variables were given")
	}
	m, err := ReadMok(r.Shim)
	if err != nil {
		return err
	}
	g.trace = m.MokTrace(r.c.Bank)
	return nil
}

// shim7 is what shim adds to PCR 7: the SBAT level in force, and what allowed
// GRUB and the kernel, each once (shim, tpm.c, tpm_measure_variable).
func (r *run) shim7(g *register, b boot) error {
	if !r.secure {
		return missing("what shim measures without Secure Boot is not known")
	}
	if r.c.SBAT == "" {
		return missing("shim measures the SbatLevel in force: give it (such as \"sbat,1,2025021800\\nshim,4\\ngrub,5\\n\")")
	}
	m, err := ReadMok(r.Shim)
	if err != nil {
		return err
	}
	if m.Vendor == nil {
		return missing("the shim has a list of vendor keys: which of them allows GRUB is not known")
	}
	vendor := []varstore.Signature{{Type: varstore.TypeX509, Owner: shimLock, Data: m.Vendor}}
	for _, img := range b.after[1:] {
		signers, err := r.signers(img.in)
		if err != nil {
			return err
		}
		allowed := false
		for _, certs := range signers {
			if _, ok := leadsTo(certs, r.db); ok {
				return missing("the %s is signed by an entry of db: how shim measures that is not known", img.label)
			}
			_, ok := leadsTo(certs, vendor)
			allowed = allowed || ok
		}
		if !allowed {
			return missing("the %s is not signed by the shim's vendor", img.label)
		}
	}
	g.trace.Made("variable SbatLevel", varstore.Measured(shimLock, "SbatLevel", []byte(r.c.SBAT)))
	g.trace.Made("authority MokListRT, the shim's vendor", varstore.Measured(shimLock, "MokListRT", slices.Concat(shimLock[:], m.Vendor)))
	return nil
}
