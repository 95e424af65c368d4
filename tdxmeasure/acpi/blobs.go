// Package acpi makes the three fw_cfg files with ACPI tables that QEMU serves
// to a guest's firmware and that the firmware measures before it relocates
// them: etc/table-loader, etc/acpi/rsdp and etc/acpi/tables (QEMU,
// docs/specs/fw_cfg.rst and hw/acpi/bios-linker-loader.c; table layouts: ACPI
// specification 6.4, chapter 5.2).
//
// There are three sources of the tables blob: a file, built-in templates of
// QEMU's own tables with edits, and a stock QEMU on this machine. RSDP and
// loader follow from the blob.
package acpi

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"slices"
)

// Blobs are the three files as they are measured.
type Blobs struct {
	Tables []byte // a multiple of 128 KiB
	RSDP   []byte // 20 bytes
	Loader []byte // 4096 bytes
}

// Table is one ACPI table in a tables blob.
type Table struct {
	Signature string `json:"signature"`
	Offset    int    `json:"offset"` // in the blob
	Length    int    `json:"length"`
}

// Error says what is wrong with a tables blob, and where.
type Error struct {
	Offset int
	Found  string
	Want   string
}

// Error implements error.
func (e *Error) Error() string {
	return fmt.Sprintf("read ACPI tables: offset %#x: %s, want %s", e.Offset, e.Found, e.Want)
}

const (
	headerSize = 36
	blobUnit   = 128 << 10
	// maxBlob bounds a tables file; 4096 vCPUs need about 600 KiB.
	maxBlob   = 16 << 20
	maxTables = 64
)

func fail(offset int, want, format string, args ...any) error {
	return &Error{Offset: offset, Found: fmt.Sprintf(format, args...), Want: want}
}

// Parse splits a tables blob as QEMU lays it out: tables one after the other,
// RSDT last, zero bytes behind it.
func Parse(blob []byte) ([]Table, error) {
	var tables []Table
	for at := 0; ; {
		if len(tables) == maxTables {
			return nil, fail(at, fmt.Sprintf("at most %d tables", maxTables), "one more table")
		}
		if len(blob)-at < headerSize {
			return nil, fail(at, "a table or RSDT before the end", "%d bytes left", len(blob)-at)
		}
		signature := string(blob[at : at+4])
		for _, c := range []byte(signature) {
			if (c < 'A' || c > 'Z') && (c < '0' || c > '9') {
				return nil, fail(at, "a table signature", "bytes %q", signature)
			}
		}
		length := int(binary.LittleEndian.Uint32(blob[at+4:]))
		least := headerSize
		if signature == "FACS" {
			least = 64
		}
		if length < least || length > len(blob)-at {
			return nil, fail(at+4, fmt.Sprintf("%d to %d", least, len(blob)-at), "%s of %d bytes", signature, length)
		}
		tables = append(tables, Table{signature, at, length})
		at += length
		if signature == "RSDT" {
			if i := bytes.IndexFunc(blob[at:], func(r rune) bool { return r != 0 }); i >= 0 {
				return nil, fail(at+i, "zero bytes behind RSDT", "byte %#x", blob[at+i])
			}
			return tables, nil
		}
	}
}

// FromTables makes the three files from a tables blob, binary or as hex text,
// with or without its zero padding.
func FromTables(data []byte) (*Blobs, error) {
	if len(data) > 2*maxBlob+2 {
		return nil, fail(0, fmt.Sprintf("at most %d bytes", maxBlob), "%d bytes", len(data))
	}
	if text := bytes.Join(bytes.Fields(data), nil); len(text) > 0 && len(text)%2 == 0 {
		if raw := make([]byte, len(text)/2); decodesHex(raw, text) {
			data = raw
		}
	}
	tables, err := Parse(data)
	if err != nil {
		return nil, err
	}
	return assemble(data, tables)
}

func decodesHex(dst, text []byte) bool {
	_, err := hex.Decode(dst, text)
	return err == nil
}

func assemble(data []byte, tables []Table) (*Blobs, error) {
	blob := data
	if pad := len(data) % blobUnit; pad != 0 || len(data) == 0 {
		blob = append(slices.Clip(data), make([]byte, blobUnit-pad)...)
	}
	loader, err := Loader(tables)
	if err != nil {
		return nil, err
	}
	return &Blobs{Tables: blob, RSDP: RSDP(tables[len(tables)-1].Offset), Loader: loader}, nil
}

// RSDP makes etc/acpi/rsdp before relocation: the pointer is RSDT's offset in
// the tables blob, the checksum zero.
func RSDP(rsdt int) []byte {
	b := make([]byte, 0, 20)
	b = append(b, "RSD PTR \x00BOCHS \x00"...)
	return binary.LittleEndian.AppendUint32(b, uint32(rsdt))
}

const (
	tablesFile = "etc/acpi/tables"
	rsdpFile   = "etc/acpi/rsdp"
	loaderSize = 4096
	recordSize = 128

	cmdAllocate    = 1
	cmdAddPointer  = 2
	cmdAddChecksum = 3
)

// Loader makes etc/table-loader, the program by which the firmware places
// the tables: records of 128 bytes (QEMU, hw/acpi/bios-linker-loader.c).
func Loader(tables []Table) ([]byte, error) { return makeLoader(tables, false) }

// SixTableLoader makes the loader as a dstack-mr that knows only six tables
// does: without a checksum of SRAT and with a pointer less.
func SixTableLoader(tables []Table) ([]byte, error) { return makeLoader(tables, true) }

func makeLoader(tables []Table, sixTables bool) ([]byte, error) {
	at := map[string]Table{}
	for _, t := range tables {
		if needsOwnRecords(t.Signature) {
			return nil, fail(t.Offset, "tables whose loader records are known", "table %s", t.Signature)
		}
		if _, twice := at[t.Signature]; twice {
			return nil, fail(t.Offset, "one of each table", "a second %s", t.Signature)
		}
		at[t.Signature] = t
	}
	for _, need := range []string{"FACS", "DSDT", "FACP", "RSDT"} {
		if _, ok := at[need]; !ok {
			return nil, fail(0, need, "no such table")
		}
	}
	var out []byte
	out = allocate(out, rsdpFile, 16, 2)
	out = allocate(out, tablesFile, 64, 1)
	checksum := func(t Table) { out = addChecksum(out, tablesFile, t.Offset+9, t.Offset, t.Length) }
	checksum(at["DSDT"])
	facp := at["FACP"].Offset
	out = addPointer(out, tablesFile, tablesFile, facp+36, 4)
	out = addPointer(out, tablesFile, tablesFile, facp+40, 4)
	out = addPointer(out, tablesFile, tablesFile, facp+140, 8)
	checksum(at["FACP"])
	entries := 1 // FACP
	for _, t := range tables {
		switch t.Signature {
		case "FACS", "DSDT", "FACP", "RSDT":
		default:
			entries++
			if t.Signature != "SRAT" || !sixTables {
				checksum(t)
			}
		}
	}
	rsdt := at["RSDT"]
	if rsdt.Length != headerSize+4*entries {
		return nil, fail(rsdt.Offset+4, fmt.Sprintf("%d", headerSize+4*entries), "RSDT of %d bytes for %d tables", rsdt.Length, entries)
	}
	if _, numa := at["SRAT"]; numa && sixTables {
		entries--
	}
	for i := range entries {
		out = addPointer(out, tablesFile, tablesFile, rsdt.Offset+headerSize+4*i, 4)
	}
	checksum(rsdt)
	out = addPointer(out, rsdpFile, tablesFile, 16, 4)
	out = addChecksum(out, rsdpFile, 8, 0, 20)
	if len(out) > loaderSize {
		return nil, fail(0, fmt.Sprintf("at most %d records", loaderSize/recordSize), "%d loader records", len(out)/recordSize)
	}
	return append(out, make([]byte, loaderSize-len(out))...), nil
}

// needsOwnRecords reports the tables for which QEMU writes loader records
// that do not follow from the blob: buffers allocated beside it.
func needsOwnRecords(signature string) bool {
	return slices.Contains([]string{"TPM2", "TCPA", "SSDT", "NFIT", "HEST", "ERST", "XSDT"}, signature)
}

func record(out []byte, command uint32, body ...[]byte) []byte {
	start := len(out)
	out = binary.LittleEndian.AppendUint32(out, command)
	for _, b := range body {
		out = append(out, b...)
	}
	return append(out, make([]byte, recordSize-(len(out)-start))...)
}

func fileName(name string) []byte {
	b := make([]byte, 56)
	copy(b, name)
	return b
}

func word(v int) []byte { return binary.LittleEndian.AppendUint32(nil, uint32(v)) }

func allocate(out []byte, file string, align int, zone byte) []byte {
	return record(out, cmdAllocate, fileName(file), word(align), []byte{zone})
}

func addPointer(out []byte, dest, src string, offset int, size byte) []byte {
	return record(out, cmdAddPointer, fileName(dest), fileName(src), word(offset), []byte{size})
}

func addChecksum(out []byte, file string, result, start, length int) []byte {
	return record(out, cmdAddChecksum, fileName(file), word(result), word(start), word(length))
}
