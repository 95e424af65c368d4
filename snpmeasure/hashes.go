package snpmeasure

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"strings"

	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/gctx"
	"github.com/retally/retally/internal/ovmf"
	"github.com/retally/retally/internal/place"
)

// The table of hashes that QEMU hands to the firmware (target/i386/sev.c,
// PaddedSevHashTable): a head and three entries, filled up to 16 bytes.
const (
	hashesEntry  = 16 + 2 + sha256.Size
	hashesSize   = 16 + 2 + 3*hashesEntry
	hashesPadded = (hashesSize + 15) / 16 * 16
)

// hashesGUIDs are the table's own and those of its entries, in their order.
func hashesGUIDs() (table string, entries [3]string) {
	return "9438d606-4f22-4cc9-b479-a793d411fd21", [3]string{
		"97d02dd8-bd20-4c94-aa78-e7714d36ab2a", // command line
		"44baf731-3a2f-4bd7-9af1-41e29169781d", // initrd
		"4de79437-abd2-427f-b835-d5b172d2045b", // kernel
	}
}

// hashesTable builds the padded table.
func hashesTable(cmdline, initrd, kernel digest.Digest) ([]byte, error) {
	b := make([]byte, 0, hashesPadded)
	head := func(guid string, size uint16) error {
		g, err := ovmf.ParseGUID(guid)
		b = binary.LittleEndian.AppendUint16(append(b, g[:]...), size)
		return err
	}
	table, entries := hashesGUIDs()
	if err := head(table, hashesSize); err != nil {
		return nil, err
	}
	for i, d := range []digest.Digest{cmdline, initrd, kernel} {
		if err := head(entries[i], hashesEntry); err != nil {
			return nil, err
		}
		b = append(b, d.Bytes()...)
	}
	return b[:hashesPadded], nil
}

// CmdlineSum is the hash of a command line as it stands in the table: of its
// bytes and a zero byte.
func CmdlineSum(line string) digest.Digest {
	return digest.SHA256.Sum(append([]byte(line), 0))
}

// hashes is the table of a machine with a kernel, nil without one, and the
// quirks that had a part in it.
func (m *Measurer) hashes(ctx context.Context, c *Config) (table []byte, quirks []Quirk, err error) {
	if !m.Kernel.Present() {
		return nil, nil, nil
	}
	kernel, err := m.kernel.get(ctx, m.Kernel)
	if err != nil {
		return nil, nil, err
	}
	initrd := digest.SHA256.Sum(nil)
	if m.Initrd.Present() {
		if initrd, err = m.initrd.get(ctx, m.Initrd); err != nil {
			return nil, nil, err
		}
	}
	cmdline := c.CmdlineSum
	if cmdline.IsZero() {
		line := c.Cmdline
		if trimmed := strings.TrimSpace(line); trimmed != line {
			if c.has(CmdlineTrimmed) {
				line, quirks = trimmed, append(quirks, CmdlineTrimmed)
			} else {
				quirks = append(quirks, CmdlineAsIs)
			}
		}
		cmdline = CmdlineSum(line)
	}
	table, err = hashesTable(cmdline, initrd, kernel)
	return table, quirks, err
}

// hashesPage is the page that the section for kernel hashes is added with: the
// table at the offset that its guest address has in its page.
func hashesPage(name string, l *ovmf.SEV, s ovmf.SEVSection, at place.Where, table []byte) ([]byte, error) {
	if l.HashesTable == nil {
		return nil, fault(place.InFile(name), "table of GUIDs", "no entry "+ovmf.SEVHashesGUID.String(), "the guest address of the kernel hashes", "this firmware cannot start a kernel that is measured", ErrNoHashesTable)
	}
	offset := *l.HashesTable % gctx.PageSize
	switch {
	case s.Size != gctx.PageSize:
		return nil, fault(at, "size of the section for kernel hashes", fmt.Sprintf("%#x", s.Size), "0x1000", "", ErrPageSize)
	case offset > gctx.PageSize-hashesPadded:
		return nil, fault(place.InFile(name), "address of the kernel hashes", fmt.Sprintf("%#x", *l.HashesTable), fmt.Sprintf("at most %d bytes into a page", gctx.PageSize-hashesPadded), "", ErrHashesPlace)
	}
	page := make([]byte, gctx.PageSize)
	copy(page[offset:], table)
	return page, nil
}
