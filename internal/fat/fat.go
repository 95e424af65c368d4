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
	// short is the path by the short names: each part answers to both.
	short string
	runs  []run
	fs    *FS
}

// Is reports whether firmware that is asked for a path finds this file: without
// regard to the case of ASCII letters, each part by its long or its short name.
func (f *File) Is(path string) bool {
	return answers(strings.Split(f.Path, "/"), strings.Split(f.short, "/"), strings.Split(path, "/"))
}

// In reports whether firmware that is asked for a folder finds that of this
// file; "" is the root folder.
func (f *File) In(folder string) bool {
	long, short := strings.Split(f.Path, "/"), strings.Split(f.short, "/")
	var asked []string
	if folder != "" {
		asked = strings.Split(folder, "/")
	}
	return answers(long[:len(long)-1], short[:len(short)-1], asked)
}

func answers(long, short, asked []string) bool {
	if len(long) != len(asked) {
		return false
	}
	for i, part := range asked {
		if upper(part) != upper(long[i]) && upper(part) != upper(short[i]) {
			return false
		}
	}
	return true
}

// upper maps ASCII letters alone: other rules would find files that firmware
// does not.
func upper(s string) string {
	b := []byte(s)
	for i, c := range b {
		if 'a' <= c && c <= 'z' {
			b[i] = c - 'a' + 'A'
		}
	}
	return string(b)
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
	if err := w.folder(root, "", "", 0); err != nil {
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

func (w *walk) folder(runs []run, path, shortPath string, depth int) error {
	if depth > maxDepth {
		return fault(runs[0].offset, path, "folders in folders", fmt.Sprintf("at most %d deep", maxDepth))
	}
	var long longName
	seen := map[string]bool{}
	buf := make([]byte, entrySize)
	for _, r := range runs {
		for at := r.offset; at < r.offset+r.size; at += entrySize {
			if err := readAt(w.fs.r, buf, at); err != nil {
				return err
			}
			switch {
			case buf[0] == 0:
				return long.none(at, path)
			case buf[0] == 0xe5:
				// A deleted file's long name stands before it, deleted too.
				if err := long.none(at, path); err != nil {
					return err
				}
				continue
			case buf[11]&0x3f == attrLong:
				if err := long.add(buf, at, path); err != nil {
					return err
				}
				continue
			case buf[11]&attrVolume != 0:
				if err := long.none(at, path); err != nil {
					return err
				}
				continue
			}
			if w.entries++; w.entries > maxEntries {
				return fault(at, path, "one more entry", fmt.Sprintf("at most %d files and folders", maxEntries))
			}
			short := shortName(buf)
			name, err := long.take(buf, at, path)
			if err != nil {
				return err
			}
			if name == "" {
				name = short
			}
			if name == "." || name == ".." {
				continue
			}
			// Names that differ in case only are one name here, and a long name may
			// not be another file's short one: firmware and operating systems would
			// disagree about which file it is.
			for _, n := range slices.Compact([]string{strings.ToUpper(name), strings.ToUpper(short)}) {
				if n == "" || strings.ContainsAny(n, "/\x00") {
					return fault(at, path, fmt.Sprintf("the name %q", n), "a name without slashes")
				}
				if seen[n] {
					return fault(at, path, fmt.Sprintf("a second %q", n), "one of each name")
				}
				seen[n] = true
			}
			if err := w.entry(buf, at, path+name, shortPath+short, depth); err != nil {
				return err
			}
		}
	}
	return nil
}

func (w *walk) entry(buf []byte, at int64, path, shortPath string, depth int) error {
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
		return w.folder(runs, path+"/", shortPath+"/", depth+1)
	}
	file := File{Path: path, Size: size, short: shortPath, fs: w.fs}
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

// longName gathers the entries of a long name: the last part comes first, then
// each before it, then the file's own entry, whose short name they name by a
// checksum (FAT32 File System Specification, "Long Directory Entries"). Firmware
// falls back to the short name where that is broken; here it is an error.
type longName struct {
	parts []string
	next  int // number of the part that must follow; 0: the file's entry
	sum   byte
}

const maxLongParts = 20

func (l *longName) add(b []byte, at int64, path string) error {
	n := int(b[0] &^ 0x40)
	if b[0]&0x40 != 0 {
		if err := l.none(at, path); err != nil {
			return err
		}
		if n < 1 || n > maxLongParts {
			return fault(at, path, fmt.Sprintf("a long name of %d parts", n), fmt.Sprintf("1 to %d", maxLongParts))
		}
		*l = longName{next: n, sum: b[13]}
	}
	if n != l.next || n == 0 || b[13] != l.sum {
		return fault(at, path, fmt.Sprintf("part %d of a long name", n), "the parts in order, of one file")
	}
	l.parts = append(l.parts, longPart(b))
	l.next--
	return nil
}

// none demands that no long name waits for its file.
func (l *longName) none(at int64, path string) error {
	if len(l.parts) > 0 {
		return fault(at, path, "a long name without its file", "the file's entry behind it")
	}
	return nil
}

// take gives the long name of the file whose entry is b, "" if it has none.
func (l *longName) take(b []byte, at int64, path string) (string, error) {
	if len(l.parts) == 0 {
		return "", nil
	}
	if l.next != 0 || l.sum != checksum(b[:11]) {
		return "", fault(at, path, "a long name that is not this file's", "all its parts, with the checksum of the short name")
	}
	slices.Reverse(l.parts)
	name := strings.Join(l.parts, "")
	*l = longName{}
	return name, nil
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
