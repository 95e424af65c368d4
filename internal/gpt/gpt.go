// Package gpt reads the partition table of a disk image in the process, without
// loop devices (UEFI specification, chapter 5), and what the discoverable
// partitions specification says about partitions by their types.
//
// The image is foreign data: every offset and count is bounded, and what is
// wrong names its place.
package gpt

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"slices"
	"strings"
	"unicode/utf16"

	"github.com/retally/retally/internal/ovmf"
	"github.com/retally/retally/internal/place"
)

const (
	signature  = "EFI PART"
	headerSize = 92
	maxEntries = 1024
	entrySize  = 128
)

// GUID is in the byte order in which EFI stores it.
type GUID = ovmf.GUID

// Partition is one entry.
type Partition struct {
	Index      int // from 1, as operating systems number them
	Type       GUID
	UUID       GUID
	Name       string
	Attributes uint64
	Offset     int64 // bytes
	Size       int64 // bytes
}

// Table is a primary partition table.
type Table struct {
	Disk       GUID
	SectorSize int64
	Partitions []Partition // those in use, in the order of their entries
	header     []byte      // 92 bytes
	entries    [][]byte    // raw, those in use
}

func fault(offset int64, field, found, want string) *place.Fault {
	return &place.Fault{Input: "partition table", Where: place.Where{}.At(offset), Field: field, Found: found, Want: want}
}

// Options say how strict the reading is.
type Options struct {
	// HeadOnly reads an image that is cut off behind its table: partitions may
	// lie behind its end.
	HeadOnly bool
}

// Read reads the primary table of an image with sectors of 512 or 4096 bytes.
// Checksums must hold, and partitions must not overlap.
func Read(r io.ReaderAt, size int64, opt Options) (*Table, error) {
	for _, sector := range []int64{512, 4096} {
		if size < 2*sector {
			continue
		}
		head := make([]byte, sector)
		if err := readAt(r, head, sector); err != nil {
			return nil, err
		}
		if string(head[:8]) == signature {
			return read(r, size, sector, head, opt)
		}
	}
	return nil, fault(512, "signature", "none at the second sector of 512 or 4096 bytes", signature)
}

func readAt(r io.ReaderAt, b []byte, at int64) error {
	n, err := r.ReadAt(b, at)
	if n == len(b) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return &place.Fault{Input: "disk image", Where: place.Where{}.At(at + int64(n)), Err: err}
}

func read(r io.ReaderAt, size, sector int64, head []byte, opt Options) (*Table, error) {
	le := binary.LittleEndian
	length := le.Uint32(head[12:])
	if length < headerSize || int64(length) > sector {
		return nil, fault(sector+12, "HeaderSize", fmt.Sprint(length), fmt.Sprintf("%d to %d", headerSize, sector))
	}
	sum := bytes.Clone(head[:length])
	clear(sum[16:20])
	if got, want := crc32.ChecksumIEEE(sum), le.Uint32(head[16:]); got != want {
		return nil, fault(sector+16, "HeaderCRC32", fmt.Sprintf("%08x", want), fmt.Sprintf("%08x, that of the header", got))
	}
	if lba := le.Uint64(head[24:]); lba != 1 {
		return nil, fault(sector+24, "MyLBA", fmt.Sprint(lba), "1")
	}
	first, last := le.Uint64(head[40:]), le.Uint64(head[48:])
	at, count, each := le.Uint64(head[72:]), le.Uint32(head[80:]), le.Uint32(head[84:])
	switch {
	case each != entrySize:
		return nil, fault(sector+84, "SizeOfPartitionEntry", fmt.Sprint(each), "128")
	case count > maxEntries:
		return nil, fault(sector+80, "NumberOfPartitionEntries", fmt.Sprint(count), fmt.Sprintf("at most %d", maxEntries))
	case at < 2 || at > uint64(size/sector):
		return nil, fault(sector+72, "PartitionEntryLBA", fmt.Sprint(at), fmt.Sprintf("2 to %d", size/sector))
	case first > last || last >= 1<<50:
		return nil, fault(sector+40, "FirstUsableLBA and LastUsableLBA", fmt.Sprintf("%d and %d", first, last), "a range")
	}
	raw := make([]byte, count*entrySize)
	if err := readAt(r, raw, int64(at)*sector); err != nil {
		return nil, err
	}
	if got, want := crc32.ChecksumIEEE(raw), le.Uint32(head[88:]); got != want {
		return nil, fault(sector+88, "PartitionEntryArrayCRC32", fmt.Sprintf("%08x", want), fmt.Sprintf("%08x, that of the entries", got))
	}
	t := &Table{Disk: GUID(head[56:72]), SectorSize: sector, header: bytes.Clone(head[:headerSize])}
	for i := range int(count) {
		e := raw[i*entrySize : (i+1)*entrySize : (i+1)*entrySize]
		if GUID(e[:16]) == (GUID{}) {
			continue
		}
		from, to := le.Uint64(e[32:]), le.Uint64(e[40:])
		where := int64(at)*sector + int64(i)*entrySize + 32
		if from < first || to > last || from > to {
			return nil, fault(where, fmt.Sprintf("partition %d", i+1), fmt.Sprintf("sectors %d to %d", from, to), fmt.Sprintf("a range within %d to %d", first, last))
		}
		p := Partition{
			Index: i + 1, Type: GUID(e[:16]), UUID: GUID(e[16:32]), Attributes: le.Uint64(e[48:]),
			Offset: int64(from) * sector, Size: int64(to-from+1) * sector, Name: utf16Name(e[56:128]),
		}
		if !opt.HeadOnly && p.Size > size-p.Offset {
			return nil, fault(where, fmt.Sprintf("partition %d", i+1), fmt.Sprintf("an end at %d", p.Offset+p.Size), fmt.Sprintf("at most %d, the image's size", size))
		}
		t.Partitions = append(t.Partitions, p)
		t.entries = append(t.entries, e)
	}
	return t, t.overlaps()
}

func (t *Table) overlaps() error {
	sorted := slices.Clone(t.Partitions)
	slices.SortFunc(sorted, func(a, b Partition) int {
		if a.Offset != b.Offset {
			if a.Offset < b.Offset {
				return -1
			}
			return 1
		}
		return a.Index - b.Index
	})
	for i := 1; i < len(sorted); i++ {
		if a, b := sorted[i-1], sorted[i]; b.Offset < a.Offset+a.Size {
			return fault(b.Offset, fmt.Sprintf("partition %d", b.Index), fmt.Sprintf("it overlaps partition %d", a.Index), "partitions that do not overlap")
		}
	}
	return nil
}

func utf16Name(b []byte) string {
	var units []uint16
	for i := 0; i+2 <= len(b); i += 2 {
		u := binary.LittleEndian.Uint16(b[i:])
		if u == 0 {
			break
		}
		units = append(units, u)
	}
	return string(utf16.Decode(units))
}

// Event is what firmware measures of the table when it starts an image from the
// disk: the header, the number of entries in use, these entries (TCG PC Client
// Platform Firmware Profile, UEFI_GPT_DATA).
func (t *Table) Event() []byte {
	b := bytes.Clone(t.header)
	b = binary.LittleEndian.AppendUint64(b, uint64(len(t.entries)))
	return append(b, slices.Concat(t.entries...)...)
}

func guid(s string) GUID {
	g, err := ovmf.ParseGUID(s)
	if err != nil {
		panic(err)
	}
	return g
}

// The types of an EFI system partition and of an extended boot loader partition
// (UEFI specification, table 5.7; UAPI group, Boot Loader Specification).
var (
	ESP      = guid("c12a7328-f81f-11d2-ba4b-00a0c93ec93b")
	XBOOTLDR = guid("bc13c2ff-59e6-4262-a352-b275fd6f7172")
)

// dataVerity are pairs of types: a partition with data and the one with its
// dm-verity tree (UAPI group, Discoverable Partitions Specification).
var dataVerity = []struct {
	use          string
	data, verity GUID
}{
	{"root (x86-64)", guid("4f68bce3-e8cd-4db1-96e7-fbcaf984b709"), guid("2c7357ed-ebd2-46d9-aec1-23d437ec2bf5")},
	{"root (ARM 64)", guid("b921b045-1df0-41c3-af44-4c6f280d3fae"), guid("df3300ce-d69f-4c92-978c-9bfb0f38d820")},
	{"usr (x86-64)", guid("8484680c-9521-48c6-9c11-b0720656f69e"), guid("77ff5f63-e7b6-4633-acf4-1565b864c0e6")},
	{"usr (ARM 64)", guid("b0e01050-ee5f-4390-949a-9101b17104e9"), guid("6e11a4e7-fbca-4ded-b9e9-e1a512bb664e")},
}

// linuxData is the generic type: its pairs are found by name, "app" and
// "app-verity".
var linuxData = guid("0fc63daf-8483-4772-8e79-3d69d8477de4")

// Verity is a partition, the one with its dm-verity tree, and the root hash
// that their UUIDs spell.
type Verity struct {
	Use      string // "root (x86-64)", or the name of the partition
	Data     Partition
	Tree     Partition
	RootHash [32]byte
}

// VerityPairs finds partitions with dm-verity. By the discoverable partitions
// specification the root hash's first half is the UUID of the data partition,
// its second half that of the tree's. The UUIDs are a claim: only a tree that is
// recomputed proves the hash.
func (t *Table) VerityPairs() []Verity {
	var out []Verity
	for _, k := range dataVerity {
		for _, d := range t.Partitions {
			if d.Type != k.data {
				continue
			}
			for _, v := range t.Partitions {
				if v.Type == k.verity && (len(t.ofType(k.data)) == 1 && len(t.ofType(k.verity)) == 1 || v.Name == d.Name+"-verity") {
					out = append(out, pair(k.use, d, v))
				}
			}
		}
	}
	for _, d := range t.Partitions {
		if d.Type != linuxData || d.Name == "" {
			continue
		}
		for _, v := range t.Partitions {
			if v.Name == d.Name+"-verity" {
				out = append(out, pair(d.Name, d, v))
			}
		}
	}
	return out
}

func (t *Table) ofType(g GUID) (out []Partition) {
	for _, p := range t.Partitions {
		if p.Type == g {
			out = append(out, p)
		}
	}
	return out
}

func pair(use string, d, v Partition) Verity {
	out := Verity{Use: use, Data: d, Tree: v}
	copy(out.RootHash[:16], textOrder(d.UUID))
	copy(out.RootHash[16:], textOrder(v.UUID))
	return out
}

// textOrder are the bytes of a UUID as its text has them.
func textOrder(g GUID) []byte {
	b, err := hex.DecodeString(strings.ReplaceAll(g.String(), "-", ""))
	if err != nil {
		panic(err) // String writes hex digits
	}
	return b
}
