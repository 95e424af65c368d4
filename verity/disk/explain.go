package disk

import (
	"fmt"
	"io"

	"github.com/retally/retally/internal/inputfile"
	"github.com/retally/retally/verity"
	"github.com/retally/retally/verity/erofs"
)

// A Locator says what is where in an image: an *erofs.Plan from the directory,
// or an *erofs.Image from the image itself.
type Locator interface {
	Locate(off int64) (erofs.Place, error)
}

// Explained is a mismatch of a disk, with what it means for its files.
type Explained struct {
	verity.Mismatch
	Block int64 `json:"block"` // number of the block on its device
	// Place is the content at the start of the mismatching data block, or at
	// the first data block that a mismatching hash block covers.
	Place *erofs.Place `json:"place,omitempty"`
	// Last is the end of a covered range of data blocks, in bytes.
	Last int64  `json:"last,omitempty"`
	Text string `json:"text"`
}

// Explain names block, file and offset of a mismatch. Above level 0 it is a
// hash block that does not fit, and with it all data below it.
func Explain(v verity.Verdict, m verity.Mismatch, l Locator) Explained {
	e := Explained{Mismatch: m, Text: m.String()}
	if m.Device == verity.OnDataDevice {
		size := int64(v.Params.DataBlockSize)
		e.Block = m.Position / size
		if place, err := l.Locate(m.Position); err == nil {
			e.Place = &place
			e.Text = fmt.Sprintf("block %d, %s: %s", e.Block, place, m)
		}
		return e
	}
	size := int64(v.Params.HashBlockSize)
	e.Block = m.Position / size
	level := -1
	for i, at := range v.Layout.Levels {
		if m.Position >= at.Offset && m.Position < at.Offset+int64(at.Blocks)*size {
			level = i
		}
	}
	if level < 0 {
		return e
	}
	span := int64(v.Params.DataBlockSize)
	for range level + 1 {
		span *= int64(v.Params.DigestsPerBlock())
	}
	from := (m.Position - v.Layout.Levels[level].Offset) / size * span
	e.Last = min(from+span, int64(v.Layout.DataBlocks)*int64(v.Params.DataBlockSize))
	if place, err := l.Locate(from); err == nil {
		e.Place = &place
	}
	e.Text = fmt.Sprintf("hash block %d, level %d, over data bytes %d to %d: %s", e.Block, level, from, e.Last, m)
	return e
}

// OpenLocator reads the map of a disk file's own image, so that a mismatch can
// be named without the directory that it was made from.
func OpenLocator(path string) (Locator, error) {
	f, err := inputfile.Open(path, inputfile.BlockDevices)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, err
	}
	m, err := erofs.OpenImage(f, size)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return m, nil
}
