// Package fat reads FAT12, FAT16 and FAT32 file systems in the process, such as
// those of EFI system partitions, without mounting them (Microsoft, "FAT32 File
// System Specification"; ECMA-107). It reads what is there and repairs nothing:
// chains that form a circle, that are shared or that end early are errors.
package fat

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode/utf16"

	"github.com/retally/retally/internal/place"
)

const (
	maxFAT     = 64 << 20 // bytes of a table
	maxEntries = 1 << 16  // files and folders
	maxDepth   = 32
	entrySize  = 32
	attrVolume = 0x08
	attrFolder = 0x10
	attrLong   = 0x0f
)

// FS is a file system.
type FS struct {
	Bits    int // 12, 16 or 32
	r       io.ReaderAt
	table   []byte
	cluster int64 // bytes
	data    int64 // offset of cluster 2
	count   uint32
	root    []run // of FAT12 and FAT16
	rootAt  uint32
}

// File is a file of the file system.
type File struct {
	Path string // with slashes, without one at the start
	Size int64
	runs []run
	fs   *FS
}

// run is a run of bytes of the image; start is where in the file it begins.
type run struct{ offset, size, start int64 }

func fault(offset int64, field, found, want string) error {
	return &place.Fault{Input: "FAT file system", Where: place.Where{}.At(offset), Field: field, Found: found, Want: want}
}

func readAt(r io.ReaderAt, b []byte, at int64) error {
	n, err := r.ReadAt(b, at)
	if n == len(b) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return &place.Fault{Input: "FAT file system", Where: place.Where{}.At(at + int64(n)), Err: err}
}

// Open reads the boot sector and the first allocation table of an image of the
// given size.
func Open(r io.ReaderAt, size int64) (*FS, error) {
	b := make([]byte, 512)
	if err := readAt(r, b, 0); err != nil {
		return nil, err
	}
	le := binary.LittleEndian
	sector, perCluster := int64(le.Uint16(b[11:])), int64(b[13])
	reserved, fats, rootEntries := int64(le.Uint16(b[14:])), int64(b[16]), int64(le.Uint16(b[17:]))
	total, fatSectors := int64(le.Uint16(b[19:])), int64(le.Uint16(b[22:]))
	if total == 0 {
		total = int64(le.Uint32(b[32:]))
	}
	big := fatSectors == 0
	if big {
		fatSectors = int64(le.Uint32(b[36:]))
	}
	switch {
	case b[510] != 0x55 || b[511] != 0xaa:
		return nil, fault(510, "signature", fmt.Sprintf("%x", b[510:512]), "55aa")
	case !slices.Contains([]int64{512, 1024, 2048, 4096}, sector):
		return nil, fault(11, "bytes per sector", fmt.Sprint(sector), "512, 1024, 2048 or 4096")
	case perCluster == 0 || perCluster&(perCluster-1) != 0:
		return nil, fault(13, "sectors per cluster", fmt.Sprint(perCluster), "a power of two")
	case reserved == 0:
		return nil, fault(14, "reserved sectors", "0", "at least 1")
	case fats == 0 || fats > 4:
		return nil, fault(16, "allocation tables", fmt.Sprint(fats), "1 to 4")
	case fatSectors == 0 || fatSectors*sector > maxFAT:
		return nil, fault(22, "sectors per allocation table", fmt.Sprint(fatSectors), fmt.Sprintf("1 to %d", maxFAT/sector))
	case total == 0 || total*sector > size:
		return nil, fault(32, "sectors", fmt.Sprint(total), fmt.Sprintf("1 to %d", size/sector))
	}
	rootSize := (rootEntries*entrySize + sector - 1) / sector * sector
	rootOffset := (reserved + fats*fatSectors) * sector
	f := &FS{r: r, cluster: perCluster * sector, data: rootOffset + rootSize}
	clusters := (total*sector - f.data) / f.cluster
	if f.data >= total*sector || clusters < 1 {
		return nil, fault(32, "sectors", fmt.Sprint(total), "room for a cluster behind the tables")
	}
	f.count = uint32(clusters)
	switch {
	case clusters < 4085:
		f.Bits = 12
	case clusters < 65525:
		f.Bits = 16
	default:
		f.Bits = 32
	}
	if big != (f.Bits == 32) || big != (rootEntries == 0) {
		return nil, fault(17, "root folder and allocation table", fmt.Sprintf("%d root entries, %d clusters", rootEntries, clusters), "fields of one width of FAT")
	}
	need := ((clusters+2)*int64(f.Bits) + 7) / 8
	if need > fatSectors*sector {
		return nil, fault(22, "sectors per allocation table", fmt.Sprint(fatSectors), fmt.Sprintf("at least %d for %d clusters", (need+sector-1)/sector, clusters))
	}
	f.table = make([]byte, need)
	if err := readAt(r, f.table, reserved*sector); err != nil {
		return nil, err
	}
	if big {
		f.rootAt = le.Uint32(b[44:])
	} else {
		f.root = []run{{offset: rootOffset, size: rootEntries * entrySize}}
	}
	return f, nil
}

// next reads an entry of the allocation table.
func (f *FS) next(c uint32) (next uint32, end bool) {
	var v, last uint32
	switch f.Bits {
	case 12:
		i := c + c/2
		v = uint32(binary.LittleEndian.Uint16(append(slices.Clone(f.table[i:min(int(i)+2, len(f.table))]), 0)))
		if c&1 != 0 {
			v >>= 4
		}
		v &= 0xfff
		last = 0xff8
	case 16:
		v, last = uint32(binary.LittleEndian.Uint16(f.table[2*c:])), 0xfff8
	default:
		v, last = binary.LittleEndian.Uint32(f.table[4*c:])&0x0fffffff, 0x0ffffff8
	}
	return v, v >= last
}

// chain follows a chain of clusters. used has every cluster met so far: one
// that is met twice belongs to two files, or to a circle.
func (f *FS) chain(first uint32, used []uint64, path string, limit int64) ([]run, error) {
	var runs []run
	var total int64
	for c := first; ; {
		if c < 2 || c-2 >= f.count {
			return nil, fault(-1, path, fmt.Sprintf("cluster %d", c), fmt.Sprintf("2 to %d", f.count+1))
		}
		if used[c/64]&(1<<(c%64)) != 0 {
			return nil, fault(f.data+int64(c-2)*f.cluster, path, fmt.Sprintf("cluster %d, which is in use already", c), "a chain of its own clusters")
		}
		used[c/64] |= 1 << (c % 64)
		at := f.data + int64(c-2)*f.cluster
		if n := len(runs); n > 0 && runs[n-1].offset+runs[n-1].size == at {
			runs[n-1].size += f.cluster
		} else {
			runs = append(runs, run{at, f.cluster, total})
		}
		if total += f.cluster; total > limit {
			return nil, fault(at, path, "a chain that is longer than the file", fmt.Sprintf("at most %d bytes", limit))
		}
		next, end := f.next(c)
		if end {
			return runs, nil
		}
		c = next
	}
}

const maxFolder = 4 << 20

// Files lists all files, in the order of the folders' entries.
func (f *FS) Files() ([]File, error) {
	w := &walk{fs: f, used: make([]uint64, (uint64(f.count)+2+63)/64)}
	root := f.root
	if f.Bits == 32 {
		var err error
		if root, err = f.chain(f.rootAt, w.used, "root folder", maxFolder); err != nil {
			return nil, err
		}
	}
	if err := w.folder(root, "", 0); err != nil {
		return nil, err
	}
	return w.files, nil
}

type walk struct {
	fs      *FS
	used    []uint64
	files   []File
	entries int
}

func (w *walk) folder(runs []run, path string, depth int) error {
	if depth > maxDepth {
		return fault(runs[0].offset, path, "folders in folders", fmt.Sprintf("at most %d deep", maxDepth))
	}
	var long []string
	var sum byte
	seen := map[string]bool{}
	buf := make([]byte, entrySize)
	for _, r := range runs {
		for at := r.offset; at < r.offset+r.size; at += entrySize {
			if err := readAt(w.fs.r, buf, at); err != nil {
				return err
			}
			switch {
			case buf[0] == 0:
				return nil
			case buf[0] == 0xe5:
				long = nil
				continue
			case buf[11]&0x3f == attrLong:
				if buf[0]&0x40 != 0 {
					long, sum = nil, buf[13]
				}
				if buf[13] == sum && len(long) < 20 {
					long = append(long, longPart(buf))
				}
				continue
			case buf[11]&attrVolume != 0:
				long = nil
				continue
			}
			if w.entries++; w.entries > maxEntries {
				return fault(at, path, "one more entry", fmt.Sprintf("at most %d files and folders", maxEntries))
			}
			name := shortName(buf)
			if len(long) > 0 && sum == checksum(buf[:11]) {
				slices.Reverse(long)
				name = strings.Join(long, "")
			}
			long = nil
			if name == "." || name == ".." {
				continue
			}
			if name == "" || strings.ContainsAny(name, "/\x00") {
				return fault(at, path, fmt.Sprintf("the name %q", name), "a name without slashes")
			}
			// Names that differ in case only are one name here: firmware and
			// operating systems would disagree about which file it is.
			if key := strings.ToUpper(name); seen[key] {
				return fault(at, path, fmt.Sprintf("a second %q", name), "one of each name")
			} else {
				seen[key] = true
			}
			if err := w.entry(buf, at, path+name, depth); err != nil {
				return err
			}
		}
	}
	return nil
}

func (w *walk) entry(buf []byte, at int64, path string, depth int) error {
	le := binary.LittleEndian
	first := uint32(le.Uint16(buf[26:]))
	if w.fs.Bits == 32 {
		first |= uint32(le.Uint16(buf[20:])) << 16
	}
	size := int64(le.Uint32(buf[28:]))
	if buf[11]&attrFolder != 0 {
		runs, err := w.fs.chain(first, w.used, path, maxFolder)
		if err != nil {
			return err
		}
		return w.folder(runs, path+"/", depth+1)
	}
	file := File{Path: path, Size: size, fs: w.fs}
	if size == 0 {
		if first != 0 {
			return fault(at+26, path, fmt.Sprintf("an empty file with cluster %d", first), "no cluster")
		}
	} else {
		limit := (size + w.fs.cluster - 1) / w.fs.cluster * w.fs.cluster
		runs, err := w.fs.chain(first, w.used, path, limit)
		if err != nil {
			return err
		}
		var total int64
		for _, r := range runs {
			total += r.size
		}
		if total < size {
			return fault(at+28, path, fmt.Sprintf("%d bytes in a chain of %d", size, total), "a chain as long as the file")
		}
		file.runs = runs
	}
	w.files = append(w.files, file)
	return nil
}

func shortName(b []byte) string {
	base, ext := strings.TrimRight(string(b[:8]), " "), strings.TrimRight(string(b[8:11]), " ")
	if base != "" && base[0] == 0x05 {
		base = "\xe5" + base[1:]
	}
	if b[12]&0x08 != 0 {
		base = strings.ToLower(base)
	}
	if b[12]&0x10 != 0 {
		ext = strings.ToLower(ext)
	}
	if ext != "" {
		base += "." + ext
	}
	return strings.ToValidUTF8(base, "\ufffd")
}

func longPart(b []byte) string {
	var units []uint16
	for _, r := range [][2]int{{1, 11}, {14, 26}, {28, 32}} {
		for i := r[0]; i < r[1]; i += 2 {
			u := binary.LittleEndian.Uint16(b[i:])
			if u == 0 {
				return string(utf16.Decode(units))
			}
			units = append(units, u)
		}
	}
	return string(utf16.Decode(units))
}

func checksum(name []byte) (s byte) {
	for _, c := range name {
		s = s>>1 + s<<7 + c
	}
	return s
}

// ReadAt implements io.ReaderAt on a file's bytes.
func (f *File) ReadAt(p []byte, at int64) (int, error) {
	if at < 0 {
		return 0, fault(-1, f.Path, fmt.Sprintf("offset %d", at), "at least 0")
	}
	// The last run that starts at or before the place.
	i, found := slices.BinarySearchFunc(f.runs, at, func(r run, at int64) int { return cmp.Compare(r.start, at) })
	if !found {
		i--
	}
	n := 0
	for ; n < len(p) && at < f.Size; i++ {
		r := f.runs[i]
		b := p[n : n+int(min(int64(len(p)-n), r.start+r.size-at, f.Size-at))]
		got, err := f.fs.r.ReadAt(b, r.offset+at-r.start)
		n += got
		at += int64(got)
		if got < len(b) {
			if err == nil || errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return n, err
		}
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}
