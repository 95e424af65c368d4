package disk

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"

	"github.com/retally/retally/verity"
)

// table keeps the hash blocks of a tree until it is known what comes in front
// of them: on disk the tree lies behind the data, its top first. Level 0 is
// nearly all of it and goes to memory up to a limit, then to a file.
type table struct {
	layout verity.Layout
	upper  [][]byte // levels from 1 on
	mem    []byte   // level 0, as long as it fits
	limit  int64
	dir    string // of the temporary file
	spool  *os.File
	buf    *bufio.Writer
	size   int64 // bytes of level 0 so far
}

func newTable(layout verity.Layout, limit int64, dir string) *table {
	t := &table{layout: layout, limit: limit, dir: dir}
	for i := range layout.Levels {
		if i > 0 {
			t.upper = append(t.upper, make([]byte, 0, int64(layout.Levels[i].Blocks)*blockSize))
		}
	}
	if len(layout.Levels) > 0 {
		if need := int64(layout.Levels[0].Blocks) * blockSize; need <= limit {
			t.mem = make([]byte, 0, need) // no growing, no copies
		}
	}
	return t
}

// add appends the next hash block of a level.
func (t *table) add(level int, block []byte) error {
	if level > 0 {
		t.upper[level-1] = append(t.upper[level-1], block...)
		return nil
	}
	t.size += int64(len(block))
	if t.spool == nil && int64(len(t.mem)+len(block)) <= t.limit {
		t.mem = append(t.mem, block...)
		return nil
	}
	if t.spool == nil {
		if err := t.spill(); err != nil {
			return fmt.Errorf("digest table exceeds %d bytes of memory: %w", t.limit, err)
		}
	}
	_, err := t.buf.Write(block)
	return err
}

// spill moves level 0 to a temporary file that has no name any more.
func (t *table) spill() error {
	f, err := os.CreateTemp(t.dir, "retally-digests-")
	if err != nil {
		return err
	}
	if err := os.Remove(f.Name()); err != nil {
		f.Close()
		return err
	}
	t.spoolTo(f)
	_, err = t.buf.Write(t.mem)
	t.mem = nil
	return err
}

func (t *table) spoolTo(f *os.File) {
	t.spool, t.buf = f, bufio.NewWriterSize(f, 1<<20)
}

// level returns a reader of one level's blocks. All blocks must have been added.
func (t *table) level(i int) (io.Reader, error) {
	if i > 0 {
		return bytes.NewReader(t.upper[i-1]), nil
	}
	if t.spool == nil {
		return bytes.NewReader(t.mem), nil
	}
	if err := t.buf.Flush(); err != nil {
		return nil, err
	}
	return bufio.NewReaderSize(io.NewSectionReader(t.spool, 0, t.size), 1<<20), nil
}

func (t *table) close() {
	if t.spool != nil {
		t.spool.Close()
	}
}
