package disk

import (
	"bytes"
	"fmt"
	"io"
	"os"

	"github.com/retally/retally/internal/inputfile"
	"github.com/retally/retally/verity/erofs"
)

// maxDifferences bounds what is listed; all are counted.
const maxDifferences = 20

// Against is the comparison with an existing disk file.
type Against struct {
	Path     string `json:"path"`
	Size     int64  `json:"size"`      // bytes of the existing file
	WantSize int64  `json:"want_size"` // bytes of the computed disk
	// HasTree is false for a bare image: the tree area was not compared.
	HasTree     bool         `json:"has_tree"`
	Blocks      int64        `json:"differing_blocks"`
	Differences []Difference `json:"differences,omitempty"` // the first few
}

// OK reports whether the files are equal.
func (a Against) OK() bool {
	return a.Blocks == 0 && (a.Size == a.WantSize || !a.HasTree)
}

// Difference is one differing block: the first differing byte in it.
type Difference struct {
	Block  int64        `json:"block"`  // of 4096 bytes
	Offset int64        `json:"offset"` // in the disk, bytes
	Got    byte         `json:"got"`    // in the existing file
	Want   byte         `json:"want"`   // computed from the directory
	What   string       `json:"what"`
	Place  *erofs.Place `json:"place,omitempty"` // in the image
}

// against compares blocks with an open file.
type against struct {
	f    *os.File
	size int64
}

func openAgainst(path string) (*against, error) {
	f, err := inputfile.Open(path, inputfile.BlockDevices)
	if err != nil {
		return nil, err
	}
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		f.Close()
		return nil, err
	}
	return &against{f, size}, nil
}

// compare finds the differing blocks of want, which belongs at off. What the
// existing file does not have counts as different.
func (a *against) compare(buf, want []byte, off int64, found *[]Difference) (blocks int64, err error) {
	got := buf[:len(want)]
	n, err := a.f.ReadAt(got, off)
	if err != nil && err != io.EOF {
		return 0, err
	}
	for at := 0; at < len(want); at += blockSize {
		end := min(at+blockSize, len(want))
		have := got[at:max(at, min(end, n))]
		if bytes.Equal(have, want[at:end]) {
			continue
		}
		blocks++
		if len(*found) >= maxDifferences {
			continue
		}
		k := 0
		for k < len(have) && have[k] == want[at+k] {
			k++
		}
		d := Difference{Block: (off + int64(at)) / blockSize, Offset: off + int64(at+k), Want: want[at+k]}
		if k < len(have) {
			d.Got = have[k]
		} else {
			d.What = "the file ends here"
		}
		*found = append(*found, d)
	}
	return blocks, nil
}

// explain names what differs.
func (a *Against) explain(p *erofs.Plan) {
	for k := range a.Differences {
		d := &a.Differences[k]
		what := ""
		switch {
		case d.Offset >= p.Size()+blockSize:
			what = "hash tree"
		case d.Offset >= p.Size():
			what = "verity superblock"
		default:
			place, err := p.Locate(d.Offset)
			if err != nil {
				continue
			}
			d.Place = &place
			what = place.String()
			if place.Kind == erofs.SuperblockPlace && d.Offset < 1024+128 {
				what += profileHint(d.Offset)
			}
		}
		if d.What != "" {
			what += ": " + d.What
		}
		d.What = what
	}
}

// profileHint says what a difference in the superblock usually means.
func profileHint(off int64) string {
	if off >= 1024+4 && off < 1024+8 || off == 1024+80 {
		return " (checksum or feature bits: another mkfs profile, or other inodes or file tails in block 0)"
	}
	return fmt.Sprintf(" at byte %d", off-1024)
}
