package contrastcli

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"strings"
)

// Generator is what the headers of an embedded genpolicy say. Whether its code
// is that of a release, only the digest of the program can bind.
type Generator struct {
	Arch string `json:"arch"` // as ELF names the machine
	// Interpreter is the loader that it asks for and Libraries what it loads;
	// both empty for a static program.
	Interpreter string   `json:"interpreter,omitempty"`
	Libraries   []string `json:"libraries,omitempty"`
	BuildID     string   `json:"build_id,omitempty"` // GNU build ID, hex
	// Odd says what does not fit: cut off, packed, of another machine. Empty
	// where nothing was found.
	Odd string `json:"odd,omitempty"`
}

// maxNotes bounds the notes that are read for a build ID, maxLibraries the list.
const (
	maxNotes     = 64 << 10
	maxLibraries = 64
)

// OpenGenpolicy reads the headers of an embedded genpolicy. arch is that of the
// program around it, which has to be able to run it.
func OpenGenpolicy(file File, arch string) (Generator, error) {
	f, err := elf.NewFile(bytes.NewReader(file.Data))
	if err != nil {
		return Generator{}, &Error{"open embedded genpolicy", err.Error(), ""}
	}
	defer f.Close()
	g := Generator{Arch: strings.TrimPrefix(f.Machine.String(), "EM_")}
	want := elf.EM_X86_64
	if arch == "arm64" {
		want = elf.EM_AARCH64
	}
	size := uint64(len(file.Data))
	switch {
	case f.Machine != want || f.Class != elf.ELFCLASS64:
		g.Odd = fmt.Sprintf("is of %v, %v, in a program of %s, which cannot run it", f.Machine, f.Class, arch)
	case len(f.Progs) == 0:
		g.Odd = "has no segments: it is no program"
	case bytes.Contains(file.Data[:min(len(file.Data), 4096)], []byte("UPX!")):
		g.Odd = "is packed with UPX, so that what it holds cannot be seen"
	}
	for _, p := range f.Progs {
		if p.Filesz > size || p.Off > size-p.Filesz {
			g.Odd = fmt.Sprintf("is cut off: a segment of %d bytes at %d ends behind its %d", p.Filesz, p.Off, size)
			return g, nil
		}
		switch p.Type {
		case elf.PT_INTERP:
			if p.Filesz <= 4096 {
				g.Interpreter = strings.TrimRight(string(file.Data[p.Off:p.Off+p.Filesz]), "\x00")
			}
		case elf.PT_NOTE:
			if p.Filesz <= maxNotes && g.BuildID == "" {
				g.BuildID = buildID(file.Data[p.Off:p.Off+p.Filesz], f.ByteOrder)
			}
		}
	}
	for _, s := range f.Sections {
		if s.Type != elf.SHT_NOBITS && (s.FileSize > size || s.Offset > size-s.FileSize) {
			g.Odd = fmt.Sprintf("is cut off: section %q of %d bytes at %d ends behind its %d", s.Name, s.FileSize, s.Offset, size)
			return g, nil
		}
	}
	if libs, err := f.ImportedLibraries(); err == nil {
		g.Libraries = libs[:min(len(libs), maxLibraries)]
	}
	return g, nil
}

// buildID finds the GNU build ID among notes: name size, description size,
// type, then name and description padded to four bytes (System V ABI, Note
// Section). Type 3 of owner GNU is the build ID.
func buildID(notes []byte, order binary.ByteOrder) string {
	for len(notes) >= 12 {
		name, desc, kind := uint64(order.Uint32(notes)), uint64(order.Uint32(notes[4:])), order.Uint32(notes[8:])
		notes = notes[12:]
		pad := func(n uint64) uint64 { return (n + 3) &^ 3 }
		if pad(name)+pad(desc) > uint64(len(notes)) {
			return ""
		}
		if kind == 3 && string(notes[:name]) == "GNU\x00" && desc <= 64 {
			return hex.EncodeToString(notes[pad(name) : pad(name)+desc])
		}
		notes = notes[pad(name)+pad(desc):]
	}
	return ""
}
