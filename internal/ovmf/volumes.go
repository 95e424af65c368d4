package ovmf

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/ulikunitz/xz/lzma"

	"github.com/retally/retally/internal/place"
)

var (
	ffsGUIDs = []GUID{mustGUID("8c8ce578-8a3d-4f1c-9935-896185c32dd3"), mustGUID("5473c07a-3dcb-4dca-bd6f-1e9689e7349a")}
	lzmaGUID = mustGUID("ee4e5898-3914-4259-9d6e-dc7bd79403cf")
)

const (
	maxImage      = 64 << 20
	maxPayload    = 64 << 20
	lzmaHeader    = 13
	sectionGUIDed = 0x02
	sectionVolume = 0x17
	fileVolume    = 0x0b
	volumeScan    = 0x1000
)

// Volume is a firmware volume that OVMF unpacks into memory before it runs it.
type Volume struct {
	Data []byte
}

// PayloadVolumes unpacks the volumes in the LZMA section of an OVMF image, in
// their order: the first is that of PEI, the second that of DXE (PI
// specification volume 3, 2.1 and 2.2; OVMF, OvmfPkgX64.fdf). The image is a
// code image or one with variables before the code.
func PayloadVolumes(r io.ReaderAt, size int64) ([]Volume, error) {
	if size > maxImage {
		return nil, volumeFault(0, "size", fmt.Sprintf("%d bytes", size), "at most 64 MiB")
	}
	image := make([]byte, size)
	if err := readAt(r, image, 0); err != nil {
		return nil, err
	}
	stream, at, err := findLZMA(image)
	if err != nil {
		return nil, err
	}
	payload, err := unpack(stream, at)
	if err != nil {
		return nil, err
	}
	return volumesIn(payload)
}

func volumeFault(offset int64, field, found, want string) error {
	return &place.Fault{Input: "firmware volumes", Where: place.Where{}.At(offset), Field: field, Found: found, Want: want}
}

// volumeAt returns the length of a firmware volume's header and of the volume,
// where one begins at an offset.
func volumeAt(image []byte, at int) (header, length int, ok bool) {
	b := image[at:]
	if len(b) < 0x48 || string(b[0x28:0x2c]) != "_FVH" {
		return 0, 0, false
	}
	n, h := binary.LittleEndian.Uint64(b[0x20:]), int(binary.LittleEndian.Uint16(b[0x30:]))
	if n > uint64(len(b)) || h < 0x38 || uint64(h) > n {
		return 0, 0, false
	}
	return h, int(n), true
}

// findLZMA walks the image's volumes, their files of type firmware volume and
// these files' sections up to the first LZMA section.
func findLZMA(image []byte) ([]byte, int64, error) {
	for at := 0; at < len(image); {
		header, length, ok := volumeAt(image, at)
		if !ok {
			at += volumeScan
			continue
		}
		guid := GUID(image[at+16 : at+32])
		if guid == ffsGUIDs[0] || guid == ffsGUIDs[1] {
			if stream, offset := lzmaFile(image[at:at+length], header); stream != nil {
				return stream, int64(at + offset), nil
			}
		}
		at += length
	}
	return nil, 0, volumeFault(0, "LZMA section", "none", "one in a firmware volume of the image, as OVMF's builds have it")
}

// HasFile reports whether a firmware volume has a file of a name (PI
// specification volume 3, 2.1 and 2.2). known is false where the volume is not
// understood to its end: what was not found may be there.
func HasFile(volume []byte, name GUID) (has, known bool) {
	if len(volume) < 0x48 {
		return false, false
	}
	header, length, ok := volumeAt(volume, 0)
	if !ok {
		return false, false
	}
	end := eachFile(volume[:length], header, func(at, _ int) bool {
		has = GUID(volume[at:at+16]) == name
		return has
	})
	if has {
		return true, true
	}
	// Free space has all bits set.
	for _, b := range volume[end:length] {
		if b != 0xff {
			return false, false
		}
	}
	return false, true
}

// lzmaFile finds the first LZMA section in a volume's files of type firmware
// volume.
func lzmaFile(volume []byte, header int) (stream []byte, offset int) {
	eachFile(volume, header, func(at, size int) bool {
		if volume[at+18] == fileVolume {
			if got, behind := lzmaSection(volume[at+24 : at+size]); got != nil {
				stream, offset = got, at+24+behind
			}
		}
		return stream != nil
	})
	return stream, offset
}

// eachFile walks the files of a volume until stop, or until something is no file
// within it, and returns where it ended. A file has at least 24 bytes, its header.
func eachFile(volume []byte, header int, stop func(at, size int) bool) int {
	at := header
	if ext := int(binary.LittleEndian.Uint16(volume[0x34:])); ext != 0 {
		if ext+20 > len(volume) {
			return at
		}
		size := binary.LittleEndian.Uint32(volume[ext+16:])
		if uint64(size) > uint64(len(volume)-ext) {
			return at
		}
		at = ext + int(size)
	}
	for {
		at = min((at+7)&^7, len(volume))
		if at+24 > len(volume) {
			return at
		}
		size := int(volume[at+20]) | int(volume[at+21])<<8 | int(volume[at+22])<<16
		if size < 24 || size > len(volume)-at || stop(at, size) {
			return at
		}
		at += size
	}
}

func lzmaSection(sections []byte) ([]byte, int) {
	for at := 0; at+4 <= len(sections); {
		size, head := ffsSectionSize(sections[at:])
		if size < head || size > len(sections)-at {
			return nil, 0
		}
		s := sections[at : at+size]
		if s[3] == sectionGUIDed && len(s) >= head+20 && GUID(s[head:head+16]) == lzmaGUID {
			data := int(binary.LittleEndian.Uint16(s[head+16:]))
			if data >= head+20 && data <= len(s) {
				return s[data:], at + data
			}
		}
		at += (size + 3) &^ 3
	}
	return nil, 0
}

// ffsSectionSize reads a section's size and the length of its common header.
func ffsSectionSize(b []byte) (size, header int) {
	size = int(b[0]) | int(b[1])<<8 | int(b[2])<<16
	if size == 0xffffff && len(b) >= 8 {
		if n := binary.LittleEndian.Uint32(b[4:]); n < 1<<31 {
			return int(n), 8
		}
		return -1, 8
	}
	return size, 4
}

// unpack reads an LZMA stream whose header says how long the result is.
func unpack(stream []byte, at int64) ([]byte, error) {
	if len(stream) < lzmaHeader {
		return nil, volumeFault(at, "LZMA header", fmt.Sprintf("%d bytes", len(stream)), "13")
	}
	want := binary.LittleEndian.Uint64(stream[5:])
	if want > maxPayload {
		return nil, volumeFault(at+5, "unpacked size", fmt.Sprint(want), "at most 64 MiB")
	}
	r, err := lzma.ReaderConfig{DictCap: maxPayload}.NewReader(bytes.NewReader(stream))
	if err != nil {
		return nil, &place.Fault{Input: "firmware volumes", Where: place.Where{}.At(at), Field: "LZMA stream", Err: err}
	}
	out := make([]byte, want)
	if n, err := io.ReadFull(r, out); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return nil, &place.Fault{Input: "firmware volumes", Where: place.Where{}.At(at), Field: fmt.Sprintf("LZMA stream after %d bytes", n), Err: err}
	}
	return out, nil
}

func volumesIn(sections []byte) ([]Volume, error) {
	var out []Volume
	for at := 0; at+4 <= len(sections); {
		size, head := ffsSectionSize(sections[at:])
		if size < head || size > len(sections)-at {
			return nil, &place.Fault{Input: "firmware volumes", Where: place.Where{Part: fmt.Sprintf("unpacked sections at %#x", at)}, Field: "section size", Found: fmt.Sprint(size), Want: fmt.Sprintf("%d to %d", head, len(sections)-at)}
		}
		s := sections[at : at+size]
		if s[3] == sectionVolume {
			_, length, ok := volumeAt(s, head)
			if !ok || length != len(s)-head {
				return nil, &place.Fault{Input: "firmware volumes", Where: place.Where{Part: fmt.Sprintf("unpacked sections at %#x", at)}, Field: "firmware volume", Found: fmt.Sprintf("%d bytes that are not one volume", len(s)-head), Want: "a volume that fills its section"}
			}
			out = append(out, Volume{Data: s[head:]})
		}
		at += (size + 3) &^ 3
	}
	return out, nil
}
