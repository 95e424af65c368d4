package recompress

import (
	"io"

	"github.com/retally/retally/imagehash/internal/zlib"
)

// pigz compresses as that program does with its usual options: pieces of 128
// KiB, each with the 32 KiB before it as dictionary, all but the last ended at a
// byte.
type pigz struct {
	w     io.Writer
	level int
	piece []byte
	dict  []byte
}

const (
	pigzPiece = 128 << 10
	pigzDict  = 32 << 10
)

func (p *pigz) Write(b []byte) (int, error) {
	n := len(b)
	for len(b) > 0 {
		// A full piece is ended only when more follows.
		if len(p.piece) == pigzPiece {
			if err := p.flush(false); err != nil {
				return n - len(b), err
			}
		}
		k := min(len(b), pigzPiece-len(p.piece))
		p.piece, b = append(p.piece, b[:k]...), b[k:]
	}
	return n, nil
}

func (p *pigz) flush(last bool) error {
	w, err := zlib.NewWriterDict(p.w, p.level, p.dict)
	if err != nil {
		return err
	}
	if _, err := w.Write(p.piece); err != nil {
		return err
	}
	end := w.CloseBlock
	if last {
		end = w.Close
	}
	if err := end(); err != nil {
		return err
	}
	p.dict = append(p.dict[:0], p.piece[max(0, len(p.piece)-pigzDict):]...)
	p.piece = p.piece[:0]
	return nil
}

// Close ends the stream.
func (p *pigz) Close() error { return p.flush(true) }
