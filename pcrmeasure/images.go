package pcrmeasure

import (
	"bytes"
	"crypto/x509"
	"encoding/binary"
	"fmt"
	"io"
	"slices"

	"github.com/foxboron/go-uefi/pkcs7"

	"github.com/retally/retally/internal/authenticode"
	"github.com/retally/retally/internal/bzimage"
	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/ovmf"
	"github.com/retally/retally/internal/place"
	"github.com/retally/retally/internal/varstore"
	"github.com/retally/retally/trace"
)

// image is one step of PCR 4.
type image struct {
	label  string
	origin trace.Origin
	sum    func() (digest.Digest, error)
	// in are the image's bytes as the firmware has them, for its signature.
	in Input
}

// boot are the images of a boot: those that firmware loads before it calls the
// boot option, and those after.
type boot struct {
	before, after []image
	legacy        bool // the kernel was started by a loader that measures nothing
}

func (r *run) fileImage(label string, in Input, key string) image {
	return image{
		label: label + ", Authenticode", origin: trace.Origin{Input: in.Name, Size: in.Size}, in: in,
		sum: func() (digest.Digest, error) { return r.image(r.ctx, key, in, r.c.Bank) },
	}
}

func (r *run) needed(in Input, what, flag string) error {
	if in.Present() {
		return nil
	}
	return missing("the %s is not given (%s)", what, flag)
}

// images lists what the pattern starts, Secure Boot aside.
func (r *run) images() (boot, error) {
	var b boot
	need := func(in Input, what, flag string) error { return r.needed(in, what, flag) }
	switch r.c.Pattern {
	case Direct:
		if err := need(r.Kernel, "kernel", "--kernel FILE"); err != nil {
			return b, err
		}
		k, err := r.directKernel()
		if err != nil {
			return b, err
		}
		b.before = append(b.before, k)
		inner, ok, err := r.inner(r.Kernel, "kernel")
		if err != nil {
			return b, err
		}
		if ok {
			if b.after, err = r.withInner(nil, inner); err != nil {
				return b, err
			}
		}
	case UKIDirect, LoaderUKI:
		if err := need(r.UKI, "unified kernel image", "--uki FILE"); err != nil {
			return b, err
		}
		if r.c.Pattern == LoaderUKI {
			if err := need(r.Loader, "boot loader", "--loader FILE"); err != nil {
				return b, err
			}
			b.after = append(b.after, r.fileImage("systemd-boot", r.Loader, "loader"))
		}
		b.after = append(b.after, r.fileImage("unified kernel image", r.UKI, "uki"))
		inner, ok, err := r.inner(r.UKI, "uki")
		if err != nil {
			return b, err
		}
		if !ok {
			return b, &place.Fault{Op: "predict", Where: place.InFile(r.UKI.Name), Field: "sections", Found: "no .linux", Want: "a unified kernel image"}
		}
		if b.after, err = r.withInner(b.after, inner); err != nil {
			return b, err
		}
	case LoaderEntry, ShimGRUB:
		first, name, flag := r.Loader, "systemd-boot", "--loader FILE"
		if r.c.Pattern == ShimGRUB {
			if err := need(r.Shim, "shim", "--shim FILE"); err != nil {
				return b, err
			}
			b.after = append(b.after, r.fileImage("shim", r.Shim, "shim"))
			name = "GRUB"
		}
		if err := need(first, "boot loader", flag); err != nil {
			return b, err
		}
		if err := need(r.Kernel, "kernel", "--kernel FILE"); err != nil {
			return b, err
		}
		b.after = append(b.after, r.fileImage(name, first, "loader"), r.fileImage("kernel", r.Kernel, "kernel"))
		if r.c.Pattern == ShimGRUB {
			// Shim measures it when GRUB asks for its signature, and again when
			// GRUB loads it.
			b.after = append(b.after, r.fileImage("kernel, again", r.Kernel, "kernel"))
		}
	case Chain:
		if len(r.Images) == 0 {
			return b, missing("no images are given")
		}
		for i, in := range r.Images {
			b.after = append(b.after, r.fileImage(fmt.Sprintf("image %d", i+1), in, fmt.Sprintf("image %d", i)))
		}
	}
	return b, nil
}

// directKernel is the kernel as QEMU hands it over.
func (r *run) directKernel() (image, error) {
	edits, err := r.kernelEdits()
	if err != nil {
		return image{}, err
	}
	in := r.Kernel
	if len(edits) == 0 {
		return r.fileImage("kernel", in, "kernel"), nil
	}
	in.R = bzimage.Overlay(in.R, edits)
	img := r.fileImage("kernel", in, fmt.Sprint("kernel with ", edits))
	img.label = "kernel, Authenticode, header as QEMU writes it"
	return img, nil
}

// inner is the kernel in a unified kernel image, where there is one.
func (r *run) inner(in Input, key string) (image, bool, error) {
	sections, err := r.sections(in)
	if err != nil {
		return image{}, false, err
	}
	i := slices.IndexFunc(sections, func(s Section) bool { return s.Name == ".linux" })
	if i < 0 {
		return image{}, false, nil
	}
	s := sections[i].Contents
	s.Name = in.Name
	img := r.fileImage("kernel in section .linux", s, key+" .linux")
	if p, ok := s.R.(part); ok {
		img.origin.Offset = p.offset
	}
	return img, true, nil
}

// withInner adds the kernel in a unified kernel image where firmware measures
// it. Under Secure Boot systemd 252's stub starts one that db does not allow by
// itself, signed by others or not.
func (r *run) withInner(list []image, inner image) ([]image, error) {
	switch {
	case r.c.Inner == On:
		return append(list, inner), nil
	case r.c.Inner == Off:
		return list, nil
	case !r.secure:
		return append(list, inner), nil
	case r.c.Order == Order257:
		return nil, missing("whether firmware measures the kernel inside the image when systemd 257's stub starts it under Secure Boot is not known: say so")
	}
	allowed, _, err := r.authority(inner.in)
	if err != nil {
		return nil, err
	}
	if allowed {
		return nil, missing("db allows the kernel inside the image by itself: whether firmware measures it under Secure Boot is not known: say so")
	}
	return list, nil
}

// pcr4 has the images that firmware starts, around the actions of the boot
// manager (edk2, DxeTpm2MeasureBootLib; Tcg2Dxe, OnReadyToBoot).
func (r *run) pcr4(g *register) error {
	b, err := r.measured()
	if err != nil {
		return err
	}
	add := func(list []image) error {
		for _, img := range list {
			d, err := img.sum()
			if err != nil {
				return err
			}
			g.trace.Add(img.label, d, img.origin)
		}
		return nil
	}
	if err := add(b.before); err != nil {
		return err
	}
	g.action(actionCalling)
	g.separator()
	for range r.c.FailedOptions {
		g.action(actionReturning)
		g.action(actionCalling)
	}
	if err := add(b.after); err != nil {
		return err
	}
	if b.legacy {
		r.finding(KernelNotMeasured, 4, "Secure Boot is on and refuses the kernel of -kernel; OVMF then starts it with a loader that measures nothing: this value is the same for every kernel")
		g.note("no kernel is measured")
	}
	if !r.said {
		g.note("Secure Boot is taken to be off: no variables were given")
	}
	return nil
}

// measured leaves out of a boot's images what Secure Boot keeps from being
// measured.
func (r *run) measured() (boot, error) {
	b, err := r.images()
	if err != nil || !r.secure {
		return b, err
	}
	switch r.c.Pattern {
	case Direct:
		if !r.edited() {
			allowed, _, err := r.authority(b.before[0].in)
			if err != nil || allowed {
				return b, err
			}
		}
		return boot{legacy: true}, nil
	case Chain:
		return b, nil
	}
	first := b.after[0]
	allowed, _, err := r.authority(first.in)
	if err != nil {
		return b, err
	}
	if !allowed {
		r.finding(ImageRefused, 4, "Secure Boot is on and no entry of db allows the %s: this machine does not boot it", first.label)
		return b, missing("Secure Boot refuses the %s: no entry of db allows it", first.label)
	}
	return b, nil
}

// edited reports whether QEMU changes the kernel's header.
func (r *run) edited() bool {
	if r.c.Header == HeaderAsGiven {
		return false
	}
	if r.Kernel.R == nil {
		return true // known by the digest of what QEMU makes of it
	}
	h, err := bzimage.Read(r.Kernel.R, r.Kernel.Size)
	return err == nil && h.Protocol != 0
}

// signers are the certificates of each of an image's signatures.
func (r *run) signers(in Input) ([][]*x509.Certificate, error) {
	if in.R == nil {
		if in.SignedBy == nil {
			return nil, missing("what Secure Boot says of %s follows from its signature: give its bytes", in.Name)
		}
		var certs []*x509.Certificate
		for _, der := range in.SignedBy {
			c, err := x509.ParseCertificate(der)
			if err != nil {
				return nil, inFile(in.Name, err)
			}
			certs = append(certs, c)
		}
		if len(certs) == 0 {
			return nil, nil
		}
		return [][]*x509.Certificate{certs}, nil
	}
	list, err := authenticode.Signatures(in.R, in.Size)
	if err != nil {
		return nil, inFile(in.Name, err)
	}
	var out [][]*x509.Certificate
	for _, s := range list {
		p, err := parsePKCS7(s)
		if err != nil {
			return nil, inFile(in.Name, err)
		}
		out = append(out, p.Certs)
	}
	return out, nil
}

const maxEntries = 4096

// authority finds the entry of db that allows an image: for each of its
// signatures in turn the first certificate that its chain leads to, else its
// digest (edk2, DxeImageVerificationLib, DxeImageVerificationHandler). What is
// in dbx is not allowed. The signature's own mathematics is not judged here: an
// image whose signature does not hold is not started at all.
func (r *run) authority(in Input) (allowed bool, entry varstore.Signature, err error) {
	if len(r.db)+len(r.dbx) > maxEntries {
		return false, entry, missing("db and dbx have %d entries, more than %d", len(r.db)+len(r.dbx), maxEntries)
	}
	signers, err := r.signers(in)
	if err != nil {
		return false, entry, err
	}
	var sum digest.Digest
	if in.R == nil {
		sum, err = known(in, in.Authenticode, "of the image (Authenticode)", digest.SHA256)
	} else {
		sum, err = authenticode.Digest(r.ctx, digest.SHA256, in.R, in.Size, authenticode.Options{})
	}
	if err != nil {
		return false, entry, inFile(in.Name, err)
	}
	isSum := func(s varstore.Signature) bool {
		return s.Type == varstore.TypeSHA256 && bytes.Equal(s.Data, sum.Bytes())
	}
	if slices.ContainsFunc(r.dbx, isSum) {
		return false, entry, nil
	}
	for _, certs := range signers {
		if _, ok := leadsTo(certs, r.dbx); ok {
			return false, entry, nil
		}
		if e, ok := leadsTo(certs, r.db); ok {
			return true, e, nil
		}
	}
	if i := slices.IndexFunc(r.db, isSum); i >= 0 {
		return true, r.db[i], nil
	}
	return false, entry, nil
}

// parsePKCS7 keeps a library's panic from ending the program.
func parsePKCS7(raw []byte) (p *pkcs7.PKCS7, err error) {
	defer func() {
		if v := recover(); v != nil {
			p, err = nil, fmt.Errorf("read signature: %v", v)
		}
	}()
	// The table's entry may have filling behind the signature.
	if n, ok := derLength(raw); ok {
		raw = raw[:n]
	}
	return pkcs7.ParsePKCS7(raw)
}

func derLength(b []byte) (int, bool) {
	if len(b) < 4 || b[0] != 0x30 || b[1] != 0x82 {
		return 0, false
	}
	n := 4 + int(binary.BigEndian.Uint16(b[2:]))
	return n, n <= len(b)
}

// leadsTo finds the first certificate of a list that is one of a signature's,
// or that issued one of them. Times are not looked at, as firmware does not.
func leadsTo(certs []*x509.Certificate, list []varstore.Signature) (varstore.Signature, bool) {
	for _, e := range list {
		if e.Type != varstore.TypeX509 {
			continue
		}
		anchor, err := x509.ParseCertificate(e.Data)
		if err != nil {
			continue
		}
		for _, c := range certs {
			if bytes.Equal(c.Raw, anchor.Raw) || bytes.Equal(c.RawIssuer, anchor.RawSubject) && c.CheckSignatureFrom(anchor) == nil {
				return e, true
			}
		}
	}
	return varstore.Signature{}, false
}

var secureVariables = []struct {
	guid ovmf.GUID
	name string
}{
	{varstore.Global, "PK"}, {varstore.Global, "KEK"}, {varstore.ImageSecurity, "db"}, {varstore.ImageSecurity, "dbx"},
}

// pcr7 has Secure Boot's variables, then what allowed each image (edk2,
// Tcg2Dxe, MeasureAllSecureVariables; DxeImageVerificationLib, SecureBootHook).
func (r *run) pcr7(g *register) error {
	s, err := r.variables()
	if err != nil {
		return err
	}
	on := []byte{0}
	if r.secure {
		on = []byte{1}
	}
	switch knows, known := r.knowsSecureBoot(); {
	case !known:
		// Nothing tells whether this firmware has the variable at all.
		g.basis = Assumed
		g.note("a firmware that was built with Secure Boot is assumed: it is not given, or not understood")
	case !knows && s.SecureBoot():
		return missing("the firmware was built without Secure Boot, and the variables have keys: what it measures of them was not met")
	case !knows:
		on = nil // as Debian's OVMF 2025.02 and 2026.08 without Secure Boot have it
		g.note("the firmware was built without Secure Boot, and has no variable SecureBoot")
	}
	g.trace.Made("variable SecureBoot", varstore.Measured(varstore.Global, "SecureBoot", on))
	for _, v := range secureVariables {
		g.trace.Made("variable "+v.name, varstore.Measured(v.guid, v.name, s.Get(v.guid, v.name)))
	}
	g.separator()
	var b boot
	if r.secure || r.c.Pattern == ShimGRUB {
		if b, err = r.measured(); err != nil {
			return err
		}
	}
	if r.secure {
		if err := r.authorities(g, b); err != nil {
			return err
		}
	}
	if r.c.Pattern == ShimGRUB {
		return r.shim7(g, b)
	}
	return nil
}

// authorities adds what allowed the images that firmware checked. Each entry of
// db is measured once.
func (r *run) authorities(g *register, b boot) error {
	if r.c.Pattern == Chain {
		return missing("what allows each image of a chain, and who asks, is not known")
	}
	images := slices.Concat(b.before, b.after)
	if r.c.Pattern == ShimGRUB {
		images = images[:1] // shim checks the rest
	}
	var seen [][]byte
	for _, img := range images {
		allowed, e, err := r.authority(img.in)
		if err != nil {
			return err
		}
		if !allowed {
			return missing("Secure Boot refuses the %s: no entry of db allows it", img.label)
		}
		if slices.ContainsFunc(seen, func(b []byte) bool { return bytes.Equal(b, e.Raw) }) {
			continue
		}
		seen = append(seen, e.Raw)
		g.trace.Made("authority db, which allows the "+img.label, varstore.Measured(varstore.ImageSecurity, "db", e.Raw))
	}
	return nil
}

// part is a run of another reader's bytes.
type part struct {
	*io.SectionReader
	offset int64
}

func newPart(r io.ReaderAt, offset, size int64) part {
	return part{io.NewSectionReader(r, offset, size), offset}
}
