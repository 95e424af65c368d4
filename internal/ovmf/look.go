package ovmf

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
)

// Look is what an image says about its launch, and what of it is measured by
// whom: the tables of TDX and of SEV side by side.
type Look struct {
	Size  int64       `json:"size"`
	Table []LookEntry `json:"table"`
	TDX   LookTDX     `json:"tdx"`
	SEV   LookSEV     `json:"sev"`
}

// LookEntry is a structure of the table, from the end of the file.
type LookEntry struct {
	GUID   string `json:"guid"`
	Name   string `json:"name,omitempty"` // where it is known
	Offset int64  `json:"offset"`
	Size   int    `json:"size"`
	// Value is the number that the structure begins with, where it is known.
	Value string `json:"value,omitempty"`
}

// LookTDX is the view of a TDX guest.
type LookTDX struct {
	// Missing is why there is no launch under TDX; Fault is set where the image
	// has a table for it that is malformed.
	Missing  string           `json:"missing,omitempty"`
	Fault    error            `json:"-"`
	Sections []LookTDXSection `json:"sections"`
	// Unmeasured are ranges of the file whose contents MRTD does not depend on.
	Unmeasured []FileRange `json:"unmeasured_bytes"`
}

// LookTDXSection is a section of the TDVF descriptor.
type LookTDXSection struct {
	Type    string    `json:"type"`
	Address string    `json:"address"` // hexadecimal
	Size    uint64    `json:"size"`
	File    FileRange `json:"file"`
	// MRTD is what of the section MRTD depends on: "contents", "addresses" of
	// its pages only, or "nothing".
	MRTD string `json:"mrtd"`
}

// FileRange is a run of bytes of the file.
type FileRange struct {
	Offset int64 `json:"offset"`
	Size   int64 `json:"size"`
}

// LookSEV is the view of a guest of SEV, SEV-ES or SEV-SNP. All bytes of the
// file are measured there.
type LookSEV struct {
	Missing string `json:"missing,omitempty"`
	Fault   error  `json:"-"`
	// Address is where the image lies in the guest.
	Address string `json:"address,omitempty"`
	// Kernel says whether a kernel that is given to the VMM is measured under
	// SEV-SNP: "measured", or why it cannot be.
	Kernel string `json:"kernel"`
	// CPUs says how many CPUs a guest can have.
	CPUs     string           `json:"cpus"`
	Sections []LookSEVSection `json:"sections"`
	Repeated []string         `json:"repeated_structures,omitempty"`
}

// LookSEVSection is a section of the SEV metadata.
type LookSEVSection struct {
	Type    string `json:"type"`
	Address string `json:"address"`
	Size    uint32 `json:"size"`
	// SNP is what the launch digest depends on: "addresses" of the section's
	// pages, "address" of its first page, or also "kernel, initrd, command line".
	SNP string `json:"snp"`
}

// name names the structures of the table that are known.
func (g GUID) name() string {
	switch g {
	case TDXMetadataGUID:
		return "TDX metadata, bytes before the end of the file"
	case SEVMetadataGUID:
		return "SEV metadata, bytes before the end of the file"
	case SEVHashesGUID:
		return "SEV hashes of kernel, initrd and command line, guest address"
	case SEVResetGUID:
		return "SEV-ES reset block, start address of further CPUs"
	case SEVSecretGUID:
		return "SEV secret, guest address"
	case SVSMInfoGUID:
		return "SVSM info, entry from the load address"
	default:
		return ""
	}
}

// LookAt reads both views of an image. A view that is missing or malformed
// does not hide the other; an error is one of reading, or of the table.
func LookAt(r io.ReaderAt, size int64) (*Look, error) {
	l := &Look{Size: size, Table: []LookEntry{}}
	l.TDX.Sections, l.TDX.Unmeasured, l.SEV.Sections = []LookTDXSection{}, []FileRange{}, []LookSEVSection{}
	entries, _, tableErr := walkTable(r, size)
	var bad *Error
	if tableErr != nil && !errors.As(tableErr, &bad) {
		return nil, tableErr
	}
	for _, e := range entries {
		row := LookEntry{GUID: e.GUID.String(), Name: e.GUID.name(), Offset: e.Offset, Size: len(e.Data)}
		if row.Name != "" && len(e.Data) >= 4 {
			row.Value = fmt.Sprintf("%#x", binary.LittleEndian.Uint32(e.Data))
		}
		l.Table = append(l.Table, row)
	}
	if err := l.TDX.read(r, size); err != nil {
		return nil, err
	}
	return l, l.SEV.read(r, size)
}

func (l *LookTDX) read(r io.ReaderAt, size int64) error {
	t, err := ReadTDVF(r, size)
	var bad *Error
	switch {
	case errors.As(err, &bad):
		switch bad.Code {
		case NoFooter, TooSmall:
			l.Missing = "no table of structures"
		case NoTDXEntry:
			l.Missing = bad.Found + ": " + bad.Hint
		default:
			l.Missing, l.Fault = err.Error(), err
		}
		return nil
	case err != nil:
		return err
	}
	var measured []FileRange
	for _, s := range t.Sections {
		row := LookTDXSection{
			Type: s.Type.String(), Address: fmt.Sprintf("%#x", s.MemoryAddress), Size: s.MemorySize,
			File: FileRange{int64(s.DataOffset), int64(s.RawSize)}, MRTD: "addresses",
		}
		switch {
		case s.Attributes&AttrExtend != 0:
			row.MRTD = "contents"
			measured = append(measured, row.File)
		case s.Attributes&AttrAug != 0:
			row.MRTD = "nothing"
		}
		l.Sections = append(l.Sections, row)
	}
	l.Unmeasured = append(l.Unmeasured, gaps(measured, size)...)
	return nil
}

// gaps are the runs of a file that no range covers.
func gaps(covered []FileRange, size int64) (out []FileRange) {
	slices.SortFunc(covered, func(a, b FileRange) int {
		switch {
		case a.Offset < b.Offset:
			return -1
		case a.Offset > b.Offset:
			return 1
		}
		return 0
	})
	at := int64(0)
	for _, c := range covered {
		if start := min(c.Offset, size); start > at {
			out = append(out, FileRange{at, start - at})
		}
		at = max(at, min(c.Offset+c.Size, size))
	}
	if at < size {
		out = append(out, FileRange{at, size - at})
	}
	return out
}

func (l *LookSEV) read(r io.ReaderAt, size int64) error {
	if size <= 1<<32 {
		l.Address = fmt.Sprintf("%#x", 1<<32-size)
	}
	s, err := ReadSEV(r, size)
	var bad *Error
	switch {
	case errors.As(err, &bad):
		if l.Missing = "no table of structures"; bad.Code != TooSmall {
			l.Missing, l.Fault = err.Error(), err
		}
		return nil
	case err != nil:
		return err
	}
	if !s.HasMetadata {
		l.Missing = "no SEV metadata: the launch digest has the image's pages and the CPUs' registers only"
	}
	for _, g := range s.Repeated {
		l.Repeated = append(l.Repeated, g.String())
	}
	switch {
	case s.HashesTable == nil || *s.HashesTable == 0:
		l.Kernel = "cannot be measured: the image gives no guest address for its hash"
	case !s.Has(SEVKernelHashes):
		l.Kernel = "cannot be measured: the SEV metadata has no section for kernel hashes"
	default:
		l.Kernel = "measured"
	}
	switch {
	case s.ResetEIP == nil:
		l.CPUs = "none: there is no SEV-ES reset block"
	case *s.ResetEIP == 0:
		l.CPUs = "one: the SEV-ES reset block gives the start address 0"
	default:
		l.CPUs = fmt.Sprintf("any number; the second and later ones start at %#x", *s.ResetEIP)
	}
	for _, x := range s.Sections {
		row := LookSEVSection{Type: x.Type.String(), Address: fmt.Sprintf("%#x", x.Address), Size: x.Size, SNP: "addresses"}
		switch {
		case !x.Type.Known():
			row.SNP = "refused: the type is not known"
		case x.Type == SEVSecrets || x.Type == SEVCPUID:
			row.SNP = "address"
		case x.Type == SEVKernelHashes:
			row.SNP = "addresses; kernel, initrd, command line where a kernel is given"
		}
		l.Sections = append(l.Sections, row)
	}
	return nil
}
