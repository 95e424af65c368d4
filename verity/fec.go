package verity

import (
	"context"
	"fmt"
	"io"
	"os"
)

// FEC asks for forward error correction data beside a tree (kernel
// Documentation, device-mapper/verity, "fec"): Reed-Solomon parity over data
// and hash blocks that lie far apart, so that a run of bad blocks can be
// repaired.
type FEC struct {
	Path   string // "" for none
	Offset int64  // bytes in the FEC file, a multiple of 512
	Roots  int    // parity bytes per codeword of 255
}

// Bounds of the number of parity bytes.
const (
	MinFECRoots     = 2
	MaxFECRoots     = 24
	DefaultFECRoots = 2

	codeword = 255
)

func (f FEC) validate(p Params) error {
	switch {
	case f.Path == "":
		return nil
	case f.Roots < MinFECRoots || f.Roots > MaxFECRoots:
		return &ParamError{"fec-roots", fmt.Sprint(f.Roots), "from 2 to 24"}
	case f.Offset < 0 || f.Offset%sectorSize != 0:
		return &ParamError{"fec-offset", fmt.Sprint(f.Offset), "a multiple of 512"}
	case p.DataBlockSize != p.HashBlockSize:
		return &ParamError{"fec-device", fmt.Sprintf("used with data blocks of %d and hash blocks of %d bytes", p.DataBlockSize, p.HashBlockSize), "equal block sizes"}
	}
	return nil
}

// rounds is the number of interleaved codeword groups for covered bytes.
func (f FEC) rounds(covered int64, blockSize int) int64 {
	blocks := (covered + int64(blockSize) - 1) / int64(blockSize)
	rsn := int64(codeword - f.Roots)
	return (blocks + rsn - 1) / rsn
}

// size is the length of the FEC area in bytes for a tree that ends its device.
func (f FEC) size(r Result) int64 {
	covered := int64(r.Layout.DataBlocks)*int64(r.Params.DataBlockSize) + r.Layout.End - r.Layout.TreeOffset
	return f.rounds(covered, r.Params.DataBlockSize) * int64(r.Params.DataBlockSize) * int64(f.Roots)
}

// FECInput is what parity is computed over: the data area and the hash area,
// one behind the other. The superblock is not part of it.
type FECInput struct {
	Data       io.ReaderAt
	DataSize   int64 // bytes of the data area
	Hash       io.ReaderAt
	HashOffset int64 // where the tree starts on the hash device
	HashSize   int64 // bytes from there on, to the end of the device
}

// ReadAt reads the concatenation; behind its end there are zeros.
func (in FECInput) readBlock(b []byte, off int64) error {
	clear(b)
	if off < in.DataSize {
		n := min(int64(len(b)), in.DataSize-off)
		if m, err := in.Data.ReadAt(b[:n], off); int64(m) < n {
			return fmt.Errorf("read data at offset %d: %w", off, err)
		}
		b, off = b[n:], in.DataSize
	}
	if n := min(int64(len(b)), in.DataSize+in.HashSize-off); n > 0 {
		at := in.HashOffset + off - in.DataSize
		if m, err := in.Hash.ReadAt(b[:n], at); int64(m) < n {
			return fmt.Errorf("read hash area at offset %d: %w", at, err)
		}
	}
	return nil
}

// EncodeFEC writes the parity of in to w: for every group of interleaved
// codewords, for every byte of a block, roots bytes, the coefficient of the
// highest degree first. Symbols are bytes of GF(2^8) with polynomial 0x11d;
// the generator's roots are alpha^0 to alpha^(roots-1).
func EncodeFEC(ctx context.Context, w io.Writer, in FECInput, blockSize, roots int) error {
	if roots < MinFECRoots || roots > MaxFECRoots {
		return &ParamError{"fec-roots", fmt.Sprint(roots), "from 2 to 24"}
	}
	f := FEC{Roots: roots}
	rounds := f.rounds(in.DataSize+in.HashSize, blockSize)
	times := generatorTables(roots)
	row := make([]byte, blockSize)
	// parity[j] is the shift register's cell j of every byte column.
	parity := make([][]byte, roots)
	for j := range parity {
		parity[j] = make([]byte, blockSize)
	}
	out := make([]byte, blockSize*roots)
	for n := range rounds {
		if err := ctx.Err(); err != nil {
			return err
		}
		for j := range parity {
			clear(parity[j])
		}
		for i := range int64(codeword - roots) {
			if err := in.readBlock(row, (n+i*rounds)*int64(blockSize)); err != nil {
				return err
			}
			for b, v := range row {
				feedback := v ^ parity[0][b]
				for j := range roots - 1 {
					parity[j][b] = parity[j+1][b] ^ times[j][feedback]
				}
				parity[roots-1][b] = times[roots-1][feedback]
			}
		}
		for b := range blockSize {
			for j := range roots {
				out[b*roots+j] = parity[j][b]
			}
		}
		if _, err := w.Write(out); err != nil {
			return err
		}
	}
	return nil
}

// generatorTables returns, for every coefficient of the generator polynomial
// below the leading one, highest degree first, its products with all bytes.
func generatorTables(roots int) [][256]byte {
	// g = product of (x + alpha^i), g[0] the leading coefficient.
	g := []byte{1}
	alpha := byte(1)
	for range roots {
		next := make([]byte, len(g)+1)
		for i, c := range g {
			next[i] ^= c
			next[i+1] ^= gfMul(c, alpha)
		}
		g = next
		alpha = gfMul(alpha, 2)
	}
	tables := make([][256]byte, roots)
	for j := range tables {
		for v := range 256 {
			tables[j][v] = gfMul(g[j+1], byte(v))
		}
	}
	return tables
}

// gfMul multiplies in GF(2^8) modulo x^8+x^4+x^3+x^2+1.
func gfMul(a, b byte) byte {
	var p byte
	for ; b != 0; b >>= 1 {
		if b&1 != 0 {
			p ^= a
		}
		carry := a & 0x80
		a <<= 1
		if carry != 0 {
			a ^= 0x1d
		}
	}
	return p
}

// writeFile writes the parity of a finished tree. The hash area reaches to the
// end of the hash device, or to the FEC area where that is on the same device.
func (f FEC) writeFile(ctx context.Context, data, hash *os.File, r Result) error {
	out, _, err := openSized(f.Path, os.O_RDWR|os.O_CREATE)
	if err != nil {
		return err
	}
	defer out.Close()
	hashEnd, err := hash.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	a, err := hash.Stat()
	if err != nil {
		return err
	}
	b, err := out.Stat()
	if err != nil {
		return err
	}
	dataSize := int64(r.Layout.DataBlocks) * int64(r.Params.DataBlockSize)
	if os.SameFile(a, b) {
		if f.Offset < r.Layout.End {
			return &ParamError{"fec-offset", fmt.Sprint(f.Offset), fmt.Sprintf("at least %d: the hash area ends there on the same device", r.Layout.End)}
		}
		hashEnd = f.Offset
	}
	in := FECInput{data, dataSize, hash, r.Layout.TreeOffset, max(hashEnd-r.Layout.TreeOffset, 0)}
	if err := EncodeFEC(ctx, io.NewOffsetWriter(out, f.Offset), in, r.Params.DataBlockSize, f.Roots); err != nil {
		return fmt.Errorf("encode fec: %w", err)
	}
	return out.Close()
}
