package snpmeasure_test

import (
	"encoding/binary"

	"github.com/retally/retally/internal/ovmf"
)

const headerSize = 18 // of an entry of the table

// stub is a firmware image of 8 KiB with the tables of k.
func (k *known) stub() []byte {
	le := binary.LittleEndian
	fw := make([]byte, 8192)
	d := []byte("ASEV")
	for _, v := range []uint32{uint32(16 + 12*len(k.Sections)), 1, uint32(len(k.Sections))} {
		d = le.AppendUint32(d, v)
	}
	for _, s := range k.Sections {
		for _, v := range []uint32{s.Address, s.Size, uint32(s.Type)} {
			d = le.AppendUint32(d, v)
		}
	}
	// The metadata lies right below the table, so that both fit into a short
	// piece of the file's end.
	const table = 3*headerSize + 16 + headerSize
	var t []byte
	entry := func(guid ovmf.GUID, values ...uint32) {
		for _, v := range values {
			t = le.AppendUint32(t, v)
		}
		t = append(le.AppendUint16(t, uint16(4*len(values)+headerSize)), guid[:]...)
	}
	entry(ovmf.SEVMetadataGUID, uint32(32+table+len(d)))
	entry(ovmf.SEVHashesGUID, k.Hashes, 0x400)
	entry(ovmf.SEVResetGUID, k.Reset)
	t = append(le.AppendUint16(t, uint16(len(t)+headerSize)), ovmf.FooterGUID[:]...)
	copy(fw[8192-32-len(t):], t)
	copy(fw[8192-32-len(t)-len(d):], d)
	return fw
}
