package pcrmeasure

import (
	"encoding/binary"
	"slices"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/place"
	"github.com/retally/retally/trace"
)

// loadOptions is a command line as EFI images get it: UTF-16LE with an end
// mark.
func loadOptions(text string) ([]byte, error) {
	if !utf8.ValidString(text) {
		return nil, &place.Fault{Op: "predict", Input: "command line", Found: "text that is not UTF-8", Want: "UTF-8"}
	}
	var b []byte
	for _, u := range utf16.Encode([]rune(text)) {
		b = binary.LittleEndian.AppendUint16(b, u)
	}
	return append(b, 0, 0), nil
}

func (r *run) pcr8(g *register) error {
	switch r.c.Pattern {
	case ShimGRUB:
		return missing("GRUB measures each command that it runs: it follows from GRUB's configuration and the disk, or from the event log")
	case Chain:
		return missing("what the images of a chain measure is not known")
	}
	g.note("only GRUB extends it")
	return nil
}

// pcr9 has what the kernel's EFI stub was given: its load options and its
// initrd (Linux, drivers/firmware/efi/libstub/efi-stub-helper.c).
func (r *run) pcr9(g *register) error {
	switch r.c.Pattern {
	case ShimGRUB:
		return missing("GRUB measures each file that it reads: it follows from GRUB's configuration and the disk, or from the event log")
	case Chain:
		return missing("what the images of a chain measure is not known")
	}
	if r.c.Pattern == LoaderEntry && r.c.Order == Order257 {
		return missing("what systemd-boot hands to the kernel of a type 1 entry was met with version 252 only")
	}
	b, err := r.measured()
	if err != nil {
		return err
	}
	if !b.legacy {
		text, err := r.kernelOptions()
		if err != nil {
			return err
		}
		data, err := loadOptions(text)
		if err != nil {
			return err
		}
		g.trace.Made("load options of the kernel", data)
	} else {
		g.note("a loader that is not EFI's starts the kernel: no load options")
	}
	return r.initrd(g)
}

// kernelOptions are the load options that the kernel's own stub sees.
func (r *run) kernelOptions() (string, error) {
	_, sections, err := r.booted()
	if err != nil {
		return "", err
	}
	if len(sections) == 0 {
		switch {
		case r.c.Pattern != Direct || !r.Initrd.Present() || r.c.InitrdArgument == ArgumentNone:
			return r.c.Cmdline, nil
		case r.c.InitrdArgument == ArgumentPrefix:
			return "initrd=initrd " + r.c.Cmdline, nil
		}
		return r.c.Cmdline + " initrd=initrd", nil
	}
	if r.c.Cmdline != "" {
		if r.secure {
			return "", missing("under Secure Boot systemd's stub ignores a command line that it is given if the image has one; whether this one does is not known")
		}
		return r.c.Cmdline, nil
	}
	text, ok, err := r.ukiText(sections, ".cmdline")
	switch {
	case err != nil:
		return "", err
	case !ok:
		return "", missing("the unified kernel image has no command line and none is given")
	case text != "" && (text[len(text)-1] == '\n' || text[0] == ' '):
		return "", missing("the command line in the unified kernel image begins or ends with white space, which stubs of different versions treat differently")
	}
	return text, nil
}

func (r *run) initrd(g *register) error {
	if r.c.Credentials {
		return missing("systemd's stub packs credentials and extensions into the initrd at boot: it follows from the event log")
	}
	_, sections, err := r.booted()
	if err != nil {
		return err
	}
	in, key := r.Initrd, "initrd"
	if len(sections) > 0 {
		in, key = Input{}, "uki .initrd"
		for _, name := range []string{".ucode", ".initrd"} {
			i := slices.IndexFunc(sections, func(s Section) bool { return s.Name == name })
			if i < 0 {
				continue
			}
			if name == ".ucode" {
				return missing("systemd's stub joins .ucode and .initrd: not known how it fills between them")
			}
			in = sections[i].Contents
		}
		// These a stub hands to the initrd as files of its own (systemd,
		// systemd-stub(7), "Initrd Resources").
		handed := []string{pcrSignature, ".pcrpkey"}
		if r.c.Order == Order257 {
			handed = append(handed, ".osrel", ".profile")
		}
		for _, s := range sections {
			if slices.Contains(handed, s.Name) && (s.Contents.R == nil || s.Contents.Size > 0) {
				return missing("systemd's stub packs %s into the initrd at boot: it follows from the event log", s.Name)
			}
		}
		if r.c.Pattern == Direct && r.Initrd.Present() {
			return missing("a unified kernel image and an initrd are given together: what systemd's stub makes of both is not known")
		}
	}
	if !in.Present() {
		g.note("no initrd")
		return nil
	}
	if in.R != nil && in.Size == 0 {
		return missing("the initrd is empty: whether the kernel measures it is not known")
	}
	d, err := r.file(r.ctx, key, in, r.c.Bank)
	if err != nil {
		return err
	}
	origin := trace.Origin{Input: in.Name, Size: in.Size}
	if p, ok := in.R.(part); ok {
		origin.Offset = p.offset
	}
	g.trace.Add("initrd", d, origin)
	return nil
}

// pcr10 has the first record of IMA: boot_aggregate, a hash over PCRs 0 to 9 of
// the SHA-256 bank (Linux, security/integrity/ima/ima_init.c, ima_template.c).
func (r *run) pcr10(g *register) error {
	switch r.c.IMA {
	case IMAUnsaid:
		return missing("whether the kernel measures with IMA is not said")
	case IMAOff:
		g.note("the kernel has no IMA")
		return nil
	}
	aggregate := digest.SHA256.New()
	if r.c.Bank == digest.SHA256 {
		for i := range 10 {
			p := r.p.PCRs[i]
			if p == nil {
				return missing("boot_aggregate is over PCRs 0 to 9, and PCR %d is missing: %s", i, r.p.Missing[i])
			}
			if p.Basis == Assumed {
				g.basis = Assumed
				g.note("rests on PCR %d, which is assumed", i)
			}
			aggregate.Write(p.Value.Bytes())
		}
	} else {
		other := *r.c
		other.Bank = digest.SHA256
		q, err := r.predict(r.ctx, &other, func(i int) bool { return i < 10 })
		if err != nil {
			return err
		}
		for i := range 10 {
			p := q.PCRs[i]
			if p == nil {
				return missing("boot_aggregate is over PCRs 0 to 9 of the SHA-256 bank, and PCR %d is missing: %s", i, q.Missing[i])
			}
			if p.Basis == Assumed {
				g.basis = Assumed
				g.note("rests on PCR %d, which is assumed", i)
			}
			aggregate.Write(p.Value.Bytes())
		}
	}
	record := imaTemplate(r.c.IMA, "sha256", aggregate.Sum(nil), "boot_aggregate")
	switch {
	case r.c.Bank == digest.SHA1 || r.c.Bank == digest.SHA256 || r.c.IMAPads == Off:
		g.trace.Made("IMA record boot_aggregate", record)
	case r.c.IMAPads == On:
		d, err := digest.FromBytes(r.c.Bank, append(digest.SHA1.Sum(record).Bytes(), make([]byte, r.c.Bank.Size()-digest.SHA1.Size())...))
		if err != nil {
			return err
		}
		g.trace.Add("IMA record boot_aggregate, SHA-1 and zeros", d, trace.Origin{Size: -1})
	default:
		return missing("a kernel without built-in %s extends this bank with a SHA-1 digest and zeros: whether this one does is not said", r.c.Bank)
	}
	g.note("IMA's first record only")
	return nil
}

// imaTemplate makes the template data that IMA hashes: each field with its
// length, the digest behind its algorithm's name.
func imaTemplate(template IMA, alg string, sum []byte, name string) []byte {
	field := func(dst, data []byte) []byte {
		dst = binary.LittleEndian.AppendUint32(dst, uint32(len(data)))
		return append(dst, data...)
	}
	b := field(nil, append([]byte(alg+":\x00"), sum...))
	b = field(b, []byte(name+"\x00"))
	if template == IMASig {
		b = field(b, nil) // no signature
	}
	return b
}

// pcr12 has command lines that replace the built-in one, and credentials.
func (r *run) pcr12(g *register) error {
	if r.c.Credentials {
		return missing("systemd's stub packs credentials at boot: it follows from the event log")
	}
	times := 0
	switch r.c.Pattern {
	case Chain:
		return missing("what the images of a chain measure is not known")
	case LoaderEntry:
		if r.c.Cmdline == "" {
			return missing("the command line of the boot entry is not given (--cmdline)")
		}
		if r.c.Order == Order257 {
			return missing("what systemd-boot measures of a type 1 entry was met with version 252 only")
		}
		times = 1
	case LoaderUKI:
		switch {
		case r.c.Order != Order257:
			times = 2 // the loader, then the stub
		case r.c.Cmdline != "":
			return missing("how often systemd-boot and its stub measure a command line that replaces the image's own was met with version 252 only")
		}
	case UKIDirect, Direct:
		_, sections, err := r.booted()
		if err != nil {
			return err
		}
		if len(sections) > 0 && r.c.Cmdline != "" {
			times = 1
		}
	case ShimGRUB:
	}
	if times == 0 {
		g.note("no command line replaces a built-in one")
		return nil
	}
	text := r.c.Cmdline
	if r.c.Pattern != LoaderEntry {
		var err error
		if text, err = r.kernelOptions(); err != nil {
			return err
		}
	}
	data, err := loadOptions(text)
	if err != nil {
		return err
	}
	for range times {
		g.trace.Made("command line", data)
	}
	return nil
}

func (r *run) pcr13(g *register) error {
	switch {
	case r.c.Credentials:
		return missing("systemd's stub packs system extensions at boot: it follows from the event log")
	case r.c.Pattern == Chain:
		return missing("what the images of a chain measure is not known")
	}
	g.note("no system extensions")
	return nil
}
