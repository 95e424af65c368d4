package testtdx

import (
	"encoding/binary"

	"github.com/retally/retally/internal/ovmf"
)

// Firmware is a 64 KiB image with one measured section and a variable store.
func Firmware() []byte {
	le := binary.LittleEndian
	fw := make([]byte, 64<<10)
	for i := range fw {
		fw[i] = byte(i*31 + i>>8)
	}
	d := append([]byte("TDVF"), 0, 0, 0, 0, 1, 0, 0, 0, 4, 0, 0, 0)
	section := func(offset, raw uint32, address, size uint64, typ ovmf.SectionType, attributes uint32) {
		d = le.AppendUint32(d, offset)
		d = le.AppendUint32(d, raw)
		d = le.AppendUint64(d, address)
		d = le.AppendUint64(d, size)
		d = le.AppendUint32(d, uint32(typ))
		d = le.AppendUint32(d, attributes)
	}
	section(8192, 57344, 0xffff2000, 57344, ovmf.BFV, ovmf.AttrExtend)
	section(0, 8192, 0xffff0000, 8192, ovmf.CFV, 0)
	section(0, 0, 0x810000, 0x10000, ovmf.TempMem, 0)
	section(0, 0, 0x809000, 0x2000, ovmf.TDHOB, 0)
	copy(fw[len(fw)-0x900:], d)
	table := le.AppendUint32(nil, 0x900)
	table = le.AppendUint16(table, 22)
	table = append(table, ovmf.TDXMetadataGUID[:]...)
	table = le.AppendUint16(table, 22+18)
	table = append(table, ovmf.FooterGUID[:]...)
	copy(fw[len(fw)-32-len(table):], table)
	return fw
}

// Kernel is a small PE image with a setup header of protocol 2.15 and bytes
// behind its section.
func Kernel() []byte {
	le := binary.LittleEndian
	b := make([]byte, 0x2013)
	for i := range b {
		b[i] = byte(i * 13)
	}
	copy(b, "MZ")
	le.PutUint32(b[0x3c:], 0x40)
	copy(b[0x40:], "PE\x00\x00")
	le.PutUint16(b[0x46:], 1)
	le.PutUint16(b[0x54:], 240)
	le.PutUint16(b[0x58:], 0x20b)
	le.PutUint32(b[0x58+60:], 0x1000)
	le.PutUint32(b[0x58+108:], 16)
	clear(b[0x58+112 : 0x58+240])
	section := b[0x58+240:]
	clear(section[:40])
	le.PutUint32(section[16:], 0x1000)
	le.PutUint32(section[20:], 0x1000)
	copy(b[0x202:], "HdrS")
	le.PutUint16(b[0x206:], 0x20f)
	b[0x211] = 1
	le.PutUint16(b[0x236:], 0x7f)
	return b
}
