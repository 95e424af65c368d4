// Package varstore reads the variables in the flash image of an edk2 firmware,
// and the signature lists that Secure Boot keeps in some of them (UEFI
// specification, 8.2 and 32.4.1; edk2, MdeModulePkg/Include/Guid/
// VariableFormat.h).
package varstore

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"unicode/utf16"

	"github.com/retally/retally/internal/ovmf"
	"github.com/retally/retally/internal/place"
)

// The GUIDs of variables and signature types that Secure Boot uses.
var (
	Global        = guid("8be4df61-93ca-11d2-aa0d-00e098032b8c")
	ImageSecurity = guid("d719b2cb-3d3a-4596-a3bc-dad00e67656f")
	enableGUID    = guid("f0a30bc7-af08-4556-99c4-001009c93a44")
	TypeX509      = guid("a5c059a1-94e4-4aa7-87b5-ab155c2bf072")
	TypeSHA256    = guid("c1c41626-504c-4092-aca9-41f936934328")

	storeGUID = guid("aaf32c78-947b-439a-a180-2e144ec37792")
	nvFVGUID  = guid("fff12b8d-7696-4c8b-a985-2747075b4f50")
)

func guid(s string) ovmf.GUID {
	g, err := ovmf.ParseGUID(s)
	if err != nil {
		panic(err)
	}
	return g
}

const (
	maxImage     = 64 << 20
	volumeHeader = 0x38
	storeHeader  = 28
	recordHeader = 60
	startID      = 0x55aa
	stateAdded   = 0x3f
	stateLeaving = 0x3e // an update was cut off: valid unless an added one is there
)

// Variable is one live variable.
type Variable struct {
	GUID       ovmf.GUID
	Name       string
	Attributes uint32
	Data       []byte
	Offset     int64 // of its record in the file
}

// Store are the live variables of an image, in the order of the flash.
type Store struct{ Variables []Variable }

func fault(offset int64, field, found, want string) error {
	return &place.Fault{Input: "variable store", Where: place.Where{}.At(offset), Field: field, Found: found, Want: want}
}

// Read finds the variable store of a flash image: the variables alone, or the
// image with the code behind them. An image without a store is an error.
func Read(r io.ReaderAt, size int64) (*Store, error) {
	if size > maxImage {
		return nil, fault(0, "size", fmt.Sprintf("%d bytes", size), "at most 64 MiB")
	}
	image := make([]byte, size)
	if n, err := r.ReadAt(image, 0); int64(n) < size {
		if err == nil || errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return nil, &place.Fault{Input: "variable store", Where: place.Where{}.At(int64(n)), Err: err}
	}
	if len(image) < volumeHeader+storeHeader || string(image[0x28:0x2c]) != "_FVH" || ovmf.GUID(image[16:32]) != nvFVGUID {
		return nil, fault(0, "firmware volume", "no volume of variables", "one at the start of the image, such as in OVMF_VARS.fd or OVMF.fd")
	}
	at := int64(binary.LittleEndian.Uint16(image[0x30:]))
	if at < volumeHeader || at+storeHeader > size {
		return nil, fault(0x30, "HeaderLength", fmt.Sprint(at), fmt.Sprintf("%d to %d", volumeHeader, size-storeHeader))
	}
	if g := ovmf.GUID(image[at : at+16]); g != storeGUID {
		return nil, fault(at, "store", g.String(), storeGUID.String()+" (authenticated variables)")
	}
	length := int64(binary.LittleEndian.Uint32(image[at+16:]))
	if length < storeHeader || at+length > size {
		return nil, fault(at+16, "size", fmt.Sprint(length), fmt.Sprintf("%d to %d", storeHeader, size-at))
	}
	if image[at+20] != 0x5a || image[at+21] != 0xfe {
		return nil, fault(at+20, "format and state", fmt.Sprintf("%#x %#x", image[at+20], image[at+21]), "0x5a 0xfe (formatted, healthy)")
	}
	return records(image[:at+length], at+storeHeader)
}

func records(image []byte, at int64) (*Store, error) {
	type id struct {
		guid ovmf.GUID
		name string
	}
	s := &Store{}
	index, leaving := map[id]int{}, map[id]bool{}
	end := int64(len(image))
	le := binary.LittleEndian
	for {
		at = (at + 3) &^ 3
		if at+recordHeader > end || le.Uint16(image[at:]) != startID {
			if at < end && len(bytes.Trim(image[at:], "\xff")) > 0 {
				return nil, fault(at, "record", fmt.Sprintf("bytes %x", image[at:min(at+8, end)]), "a record that starts with aa55, or unused flash of ff bytes")
			}
			return s, nil
		}
		nameSize, dataSize := int64(le.Uint32(image[at+36:])), int64(le.Uint32(image[at+40:]))
		// A record that was cut off while it was written has no sizes yet.
		if state := image[at+2]; state == 0xff && nameSize == 0xffffffff {
			return nil, fault(at+2, "state", "a record without a header", "a store that was not cut off while it was written")
		}
		if nameSize%2 != 0 || nameSize < 2 || nameSize > end-at-recordHeader || dataSize > end-at-recordHeader-nameSize {
			return nil, fault(at+36, "name and data size", fmt.Sprintf("%d and %d bytes", nameSize, dataSize), fmt.Sprintf("an even number and at most %d together", end-at-recordHeader))
		}
		name := at + recordHeader
		data := name + nameSize
		state := image[at+2]
		if state == stateAdded || state == stateLeaving {
			v := Variable{
				GUID: ovmf.GUID(image[at+44 : at+60]), Name: decodeName(image[name:data]), Attributes: le.Uint32(image[at+4:]),
				Data: bytes.Clone(image[data : data+dataSize]), Offset: at,
			}
			key := id{v.GUID, v.Name}
			switch i, known := index[key]; {
			case !known:
				index[key], leaving[key] = len(s.Variables), state == stateLeaving
				s.Variables = append(s.Variables, v)
			case leaving[key] && state == stateAdded:
				s.Variables[i], leaving[key] = v, false
			case state == stateAdded || leaving[key]:
				return nil, fault(at, "variable", fmt.Sprintf("a second live value of %q", v.Name), "one")
			}
		}
		at = data + dataSize
	}
}

func decodeName(b []byte) string {
	units := make([]uint16, 0, len(b)/2)
	for i := 0; i+2 <= len(b); i += 2 {
		u := binary.LittleEndian.Uint16(b[i:])
		if u == 0 {
			break
		}
		units = append(units, u)
	}
	return string(utf16.Decode(units))
}

// Get returns a variable's data; nil where there is none.
func (s *Store) Get(g ovmf.GUID, name string) []byte {
	for _, v := range s.Variables {
		if v.GUID == g && v.Name == name {
			return v.Data
		}
	}
	return nil
}

// SecureBoot reports whether firmware with these variables starts with Secure
// Boot on: a platform key is enrolled, and the switch of the setup menu is not
// off (edk2, SecurityPkg/Library/AuthVariableLib).
func (s *Store) SecureBoot() bool {
	enable := s.Get(enableGUID, "SecureBootEnable")
	return len(s.Get(Global, "PK")) > 0 && (len(enable) == 0 || enable[0] != 0)
}

// Signature is one entry of a signature list.
type Signature struct {
	Type  ovmf.GUID
	Owner ovmf.GUID
	Data  []byte // a certificate in DER, or a digest
	Raw   []byte // owner and data, as measured
}

const maxSignatures = 1 << 16

// Signatures reads the signature lists in a variable such as db (UEFI
// specification, 32.4.1, EFI_SIGNATURE_LIST).
func Signatures(data []byte) ([]Signature, error) {
	bad := func(at int, field, found, want string) error {
		return &place.Fault{Input: "signature list", Where: place.Where{}.At(int64(at)), Field: field, Found: found, Want: want}
	}
	var out []Signature
	for at := 0; at < len(data); {
		rest := data[at:]
		if len(rest) < 28 {
			return nil, bad(at, "list", fmt.Sprintf("%d bytes", len(rest)), "at least 28")
		}
		list, header, size := binary.LittleEndian.Uint32(rest[16:]), binary.LittleEndian.Uint32(rest[20:]), binary.LittleEndian.Uint32(rest[24:])
		if uint64(list) > uint64(len(rest)) || list < 28 {
			return nil, bad(at+16, "SignatureListSize", fmt.Sprint(list), fmt.Sprintf("28 to %d", len(rest)))
		}
		if header > list-28 || size < 16 || (list-28-header)%size != 0 {
			return nil, bad(at+20, "SignatureHeaderSize and SignatureSize", fmt.Sprintf("%d and %d", header, size), fmt.Sprintf("sizes that fill a list of %d bytes", list))
		}
		for p := 28 + header; p < list; p += size {
			if len(out) == maxSignatures {
				return nil, bad(at+int(p), "signature", "one more", fmt.Sprintf("at most %d", maxSignatures))
			}
			raw := rest[p : p+size : p+size]
			out = append(out, Signature{Type: ovmf.GUID(rest[:16]), Owner: ovmf.GUID(raw[:16]), Data: raw[16:], Raw: raw})
		}
		at += int(list)
	}
	return out, nil
}

// AppendList writes a signature list of one entry.
func AppendList(dst []byte, typ, owner ovmf.GUID, data []byte) []byte {
	dst = append(dst, typ[:]...)
	dst = binary.LittleEndian.AppendUint32(dst, uint32(28+16+len(data)))
	dst = binary.LittleEndian.AppendUint32(dst, 0)
	dst = binary.LittleEndian.AppendUint32(dst, uint32(16+len(data)))
	dst = append(dst, owner[:]...)
	return append(dst, data...)
}

// Measured makes the bytes measured for a variable: GUID, number of UTF-16
// units in the name, length of the data, name without an end, data (TCG PC
// Client Platform Firmware Profile, UEFI_VARIABLE_DATA).
func Measured(g ovmf.GUID, name string, data []byte) []byte {
	units := utf16.Encode([]rune(name))
	b := bytes.Clone(g[:])
	b = binary.LittleEndian.AppendUint64(b, uint64(len(units)))
	b = binary.LittleEndian.AppendUint64(b, uint64(len(data)))
	for _, u := range units {
		b = binary.LittleEndian.AppendUint16(b, u)
	}
	return append(b, data...)
}
