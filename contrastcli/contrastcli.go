// Package contrastcli looks into a Contrast command line program without running
// it: who it says it is (Go build information) and the files that the compiler
// embedded into it (reference values, policy settings, rules, image
// replacements, genpolicy). A program that cannot be read whole is refused.
package contrastcli

import (
	"bytes"
	"crypto/sha256"
	"debug/buildinfo"
	"debug/elf"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/retally/retally/internal/digest"
)

// Names of embedded files, by what they hold.
const (
	ReferenceValues = "reference-values.json"
	Settings        = "genpolicy-settings.json"
	Rules           = "rules.rego"
	Replacements    = "image-replacements.txt"
	Genpolicy       = "genpolicy"
)

// Kinds are the names of all kinds of embedded files, in order.
func Kinds() []string {
	return []string{Genpolicy, Settings, Replacements, ReferenceValues, Rules}
}

// MaxSize bounds a program, maxEmbedded one file in it except genpolicy, and
// maxWork the bytes that are looked at as a document.
const (
	MaxSize     = 512 << 20
	maxEmbedded = 8 << 20
	maxWork     = 256 << 20
	minEmbedded = 24
)

// modulePath is what the build information of a Contrast program names.
const modulePath = "github.com/edgelesssys/contrast"

// Program is what a Contrast program holds.
type Program struct {
	Digest digest.Digest // SHA-256 of the file
	// Version is what the image replacements name, or else the build
	// information; it is a claim of the program. Empty where neither says one.
	Version string
	Arch    string // amd64 or arm64
	Files   []File // in order of their names
}

// File is an embedded file. Its bytes share memory with the program's.
type File struct {
	Name   string
	Data   []byte
	SHA256 digest.Digest
}

// Error says why a program is not believed.
type Error struct {
	Op, Found, Hint string
}

func (e *Error) Error() string {
	if e.Hint == "" {
		return e.Op + ": " + e.Found
	}
	return e.Op + ": " + e.Found + "; " + e.Hint
}

// File finds an embedded file.
func (p *Program) File(name string) (File, bool) {
	i := slices.IndexFunc(p.Files, func(f File) bool { return f.Name == name })
	if i < 0 {
		return File{}, false
	}
	return p.Files[i], true
}

// Read reads a program. Errors are *Error: not a whole ELF program of amd64 or
// arm64, packed, position independent, not Contrast by its build information,
// two embedded files of one kind that differ, or no reference values.
func Read(data []byte) (*Program, error) {
	if len(data) > MaxSize {
		return nil, &Error{"read program", fmt.Sprintf("%d bytes, more than %d", len(data), MaxSize), ""}
	}
	f, err := open(data)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	p := &Program{Arch: "amd64"}
	if f.Machine == elf.EM_AARCH64 {
		p.Arch = "arm64"
	}
	sum := sha256.Sum256(data)
	if p.Digest, err = digest.FromBytes(digest.SHA256, sum[:]); err != nil {
		return nil, err
	}
	claimed, err := build(data, p.Arch)
	if err != nil {
		return nil, err
	}
	if p.Files, err = embedded(f, data); err != nil {
		return nil, err
	}
	if _, ok := p.File(ReferenceValues); !ok {
		return nil, &Error{"find embedded files", "no reference values in the program", "give the program of a Contrast release"}
	}
	if err := p.version(claimed); err != nil {
		return nil, err
	}
	return p, nil
}

func open(data []byte) (*elf.File, error) {
	switch {
	case bytes.HasPrefix(data, []byte("MZ")):
		return nil, &Error{"read program", "a PE program, wanted ELF", "give the program for Linux"}
	case len(data) >= 4 && slices.Contains([]uint32{0xfeedface, 0xfeedfacf, 0xcefaedfe, 0xcffaedfe, 0xcafebabe, 0xbebafeca}, binary.LittleEndian.Uint32(data)):
		return nil, &Error{"read program", "a Mach-O program, wanted ELF", "give the program for Linux"}
	case !bytes.HasPrefix(data, []byte(elf.ELFMAG)):
		return nil, &Error{"read program", "no ELF header at offset 0", ""}
	}
	f, err := elf.NewFile(bytes.NewReader(data))
	if err != nil {
		return nil, &Error{"read ELF headers", err.Error(), "the program may be truncated"}
	}
	size := uint64(len(data))
	switch {
	case f.Class != elf.ELFCLASS64 || f.Data != elf.ELFDATA2LSB || f.Machine != elf.EM_X86_64 && f.Machine != elf.EM_AARCH64:
		err = &Error{"read ELF headers", fmt.Sprintf("%v, %v, %v, wanted a 64-bit little-endian program of amd64 or arm64", f.Machine, f.Class, f.Data), ""}
	case len(f.Sections) == 0:
		what := "no sections"
		if bytes.Contains(data, []byte("UPX!")) {
			what = "packed with UPX"
		}
		err = &Error{"read ELF headers", what, "what it holds cannot be seen; give the program as it was released"}
	case f.Type != elf.ET_EXEC:
		err = &Error{"read ELF headers", fmt.Sprintf("type %v, wanted ET_EXEC", f.Type), "embedded files of a position-independent program are not found"}
	}
	for _, p := range f.Progs {
		if err == nil && (p.Filesz > size || p.Off > size-p.Filesz) {
			err = &Error{"read ELF headers", fmt.Sprintf("a segment of %d bytes at %d ends behind the file's %d", p.Filesz, p.Off, size), "the program is truncated"}
		}
	}
	for _, s := range f.Sections {
		if err == nil && s.Type != elf.SHT_NOBITS && (s.FileSize > size || s.Offset > size-s.FileSize) {
			err = &Error{"read ELF headers", fmt.Sprintf("section %q of %d bytes at %d ends behind the file's %d", s.Name, s.FileSize, s.Offset, size), "the program is truncated"}
		}
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// build reads the build information and the version that it claims.
func build(data []byte, arch string) (string, error) {
	info, err := buildinfo.Read(bytes.NewReader(data))
	if err != nil {
		return "", &Error{"read Go build information", err.Error(), "a Contrast program is a Go program"}
	}
	if info.Main.Path != modulePath && !strings.HasPrefix(info.Main.Path, modulePath+"/") {
		return "", &Error{"read Go build information", fmt.Sprintf("module %q, wanted %s", info.Main.Path, modulePath), ""}
	}
	for _, s := range info.Settings {
		if s.Key == "GOARCH" && s.Value != arch || s.Key == "GOOS" && s.Value != "linux" {
			return "", &Error{"read Go build information", fmt.Sprintf("%s is %q in a program of linux/%s", s.Key, s.Value, arch), "the build information is not of this program"}
		}
	}
	if releaseVersion.MatchString(info.Main.Version) {
		return info.Main.Version, nil
	}
	return "", nil
}

var (
	releaseVersion = regexp.MustCompile(`^v[0-9]+\.[0-9]+\.[0-9]+$`)
	replacement    = regexp.MustCompile(`^[^\s=]+=[^\s=]+@sha256:[0-9a-f]{64}$`)
	replacedTag    = regexp.MustCompile(`=ghcr\.io/edgelesssys/contrast/[^\s:@]+:(v[0-9]+\.[0-9]+\.[0-9]+)@`)
	handler        = regexp.MustCompile(`^contrast-(cc|insecure)-[a-z0-9-]+-[0-9a-f]{8}$`)
	handlerStart   = regexp.MustCompile(`\{\s{0,64}"contrast-(cc|insecure)-`)
	ruleStart      = regexp.MustCompile(`(?m)^package agent_policy\s`)
)

func (p *Program) version(claimed string) error {
	p.Version = claimed
	f, ok := p.File(Replacements)
	if !ok {
		return nil
	}
	for _, m := range replacedTag.FindAllSubmatch(f.Data, -1) {
		v := string(m[1])
		if p.Version != "" && p.Version != v {
			return &Error{"find version", fmt.Sprintf("both %s and %s, by the build information and the image replacements", p.Version, v), "the program is not of one release"}
		}
		p.Version = v
	}
	return nil
}

// embedded finds the files by the string headers (address, length) that Go keeps
// for each embedded file, which give exact ends, and classifies them by content.
// Reference values are also looked for without headers, so that a second copy
// does not hide.
func embedded(f *elf.File, data []byte) ([]File, error) {
	type extent struct{ off, n uint64 }
	// at gives the place in the file of n bytes at an address.
	at := func(addr, n uint64) (extent, bool) {
		for _, p := range f.Progs {
			if p.Type == elf.PT_LOAD && addr >= p.Vaddr && addr-p.Vaddr < p.Filesz && n <= p.Filesz-(addr-p.Vaddr) {
				return extent{p.Off + addr - p.Vaddr, n}, true
			}
		}
		return extent{}, false
	}
	rules := ruleStart.FindAllIndex(data, 65)
	if len(rules) > 64 {
		return nil, &Error{"find embedded files", "more than 64 places that look like policy rules", ""}
	}
	seen, work := map[extent]bool{}, 0
	found := map[string]File{}
	add := func(name string, b []byte) error {
		if old, ok := found[name]; ok {
			if !bytes.Equal(old.Data, b) {
				return &Error{"find embedded files", fmt.Sprintf("two files that are %s and differ (%d and %d bytes)", name, len(old.Data), len(b)), "which of them the program uses cannot be told"}
			}
			return nil
		}
		sum := sha256.Sum256(b)
		d, err := digest.FromBytes(digest.SHA256, sum[:])
		found[name] = File{Name: name, Data: b, SHA256: d}
		return err
	}
	scanned := 0
	for _, s := range f.Sections {
		if s.Type != elf.SHT_PROGBITS || s.Flags&elf.SHF_ALLOC == 0 || s.Flags&elf.SHF_EXECINSTR != 0 {
			continue
		}
		b := data[s.Offset : s.Offset+s.FileSize]
		if scanned += len(b); scanned > len(data) {
			return nil, &Error{"find embedded files", "sections that overlap", "this is not how a release is built"}
		}
		for i := uint64(0); i+16 <= uint64(len(b)); i += 8 {
			n := binary.LittleEndian.Uint64(b[i+8:])
			if n < minEmbedded || n > uint64(len(data)) {
				continue
			}
			e, ok := at(binary.LittleEndian.Uint64(b[i:]), n)
			if !ok || seen[e] {
				continue
			}
			doc := data[e.off : e.off+e.n]
			if !candidate(doc, e.off, rules) {
				continue
			}
			seen[e] = true
			// A longer one is an ELF file, of which the headers are read.
			if work += min(len(doc), 64<<10); n <= maxEmbedded {
				work += len(doc)
			}
			if work > maxWork {
				return nil, &Error{"find embedded files", "too many places that look like embedded files", "this is not how a release is built"}
			}
			if name := classify(doc); name != "" {
				if err := add(name, doc); err != nil {
					return nil, err
				}
			}
		}
	}
	return sorted(found, data, &work)
}

// sorted lists the files after a search for reference values that no header
// names.
func sorted(found map[string]File, data []byte, work *int) ([]File, error) {
	for pos := 0; ; {
		m := handlerStart.FindIndex(data[pos:])
		if m == nil {
			break
		}
		start := pos + m[0]
		pos += m[1]
		end := min(len(data), start+maxEmbedded)
		var doc json.RawMessage
		r := bytes.NewReader(data[start:end])
		err := json.NewDecoder(r).Decode(&doc)
		// A decoder reads on until it knows; what it read is what it cost.
		if *work += end - start - r.Len(); *work > maxWork {
			return nil, &Error{"find embedded files", "too many places that look like reference values", "this is not how a release is built"}
		}
		if err != nil || !isReferenceValues(doc) {
			continue
		}
		if have, ok := found[ReferenceValues]; !ok || !bytes.Equal(bytes.TrimSpace(have.Data), doc) {
			return nil, &Error{"find embedded files", fmt.Sprintf("reference values at offset %d that are not the embedded file", start), "which of them the program uses cannot be told"}
		}
	}
	var out []File
	for _, name := range Kinds() {
		if f, ok := found[name]; ok {
			out = append(out, f)
		}
	}
	return out, nil
}

// candidate is the cheap part of classify.
func candidate(doc []byte, off uint64, rules [][]int) bool {
	switch {
	case bytes.HasPrefix(doc, []byte(elf.ELFMAG)):
		return off != 0 // the program itself is not embedded in itself
	case doc[0] == '{':
		// An object with a member, and nothing behind it but white space: most
		// pairs of numbers that are no string header fail here.
		head := bytes.TrimLeft(doc[1:min(64, len(doc))], " \t\r\n")
		tail := bytes.TrimRight(doc[max(0, len(doc)-8):], " \t\r\n")
		return len(doc) <= maxEmbedded && bytes.HasPrefix(head, []byte(`"`)) && bytes.HasSuffix(tail, []byte("}"))
	case bytes.HasPrefix(doc, []byte("ghcr.io/")):
		return true
	}
	if len(doc) > maxEmbedded || doc[0] != '#' && !bytes.HasPrefix(doc, []byte("package agent_policy")) {
		return false
	}
	return slices.ContainsFunc(rules, func(r []int) bool { return uint64(r[0]) >= off && uint64(r[1]) <= off+uint64(len(doc)) })
}

func classify(doc []byte) string {
	if bytes.HasPrefix(doc, []byte(elf.ELFMAG)) {
		if f, err := elf.NewFile(bytes.NewReader(doc)); err == nil && f.Close() == nil {
			return Genpolicy
		}
		return ""
	}
	if len(doc) > maxEmbedded || !utf8.Valid(doc) || bytes.IndexByte(doc, 0) >= 0 {
		return ""
	}
	switch {
	case isReferenceValues(doc):
		return ReferenceValues
	case isSettings(doc):
		return Settings
	case isReplacements(doc):
		return Replacements
	case (doc[0] == '#' || bytes.HasPrefix(doc, []byte("package agent_policy"))) && ruleStart.Match(doc):
		return Rules
	}
	return ""
}

// isReferenceValues: an object of runtime handlers, each with snp or tdx
// (Contrast and Privatemode specification, 2.3).
func isReferenceValues(doc []byte) bool {
	var m map[string]map[string]json.RawMessage
	if json.Unmarshal(doc, &m) != nil || len(m) == 0 {
		return false
	}
	for k, v := range m {
		_, snp := v["snp"]
		_, tdx := v["tdx"]
		if !handler.MatchString(k) || !snp && !tdx {
			return false
		}
	}
	return true
}

func isSettings(doc []byte) bool {
	var m map[string]json.RawMessage
	if json.Unmarshal(doc, &m) != nil {
		return false
	}
	_, common := m["common"]
	_, requests := m["request_defaults"]
	return common && requests
}

func isReplacements(doc []byte) bool {
	lines := strings.Fields(string(doc))
	return len(lines) > 0 && !slices.ContainsFunc(lines, func(l string) bool { return !replacement.MatchString(l) })
}
