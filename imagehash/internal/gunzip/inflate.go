package gunzip

import (
	"encoding/binary"
	"io"
	"math/bits"
)

// The decoder after RFC 1951. Codes are looked up in tables of a fixed width;
// longer codes go through a second table. Bits wait in a 64-bit buffer that is
// filled once for several symbols, and output goes straight into the caller's
// buffer, the last 32 KiB of the previous one in front of it.
//
// Table entry (uint32):
//
//	bits 0-7    bits to take from the buffer (code plus extra bits)
//	bits 8-11   length of the code alone; of a link: width of the second table
//	bits 12-13  unused
//	bit  14     the code is not assigned
//	bit  15     special: end of block, link or unassigned
//	bits 16-30  literal, base length, base distance, or start of a second table
//	bit  31     literal
const (
	litBits  = 11
	distBits = 9

	litTableSize  = 4096 // enough for 288 codes of up to 15 bits behind an 11-bit table
	distTableSize = 1024

	entryLiteral = 1 << 31
	entrySpecial = 1 << 15
	entryInvalid = 1 << 14

	window    = 32 << 10
	maxMatch  = 258
	inputSize = 64 << 10
	inputPad  = 64 // zero bytes behind the end of the input
	// One pass of the decoding loop takes at most two fillings of the bit
	// buffer, 16 bytes, and needs 8 more to load from.
	inputSlack = 32
)

type blockState uint8

const (
	betweenBlocks blockState = iota
	inStored
	inCodes
)

type decoder struct {
	src  io.Reader
	in   []byte // inputSize + inputPad bytes
	pos  int    // next byte to put into the bit buffer; may pass end in the padding
	end  int    // bytes of in that are input
	eof  bool
	read int64 // bytes taken from src in all

	buf  uint64
	nbuf uint // bits in buf

	st     blockState
	last   bool // the current block is the final one
	stored int  // bytes left of a stored block

	lit  *[litTableSize]uint32
	dist *[distTableSize]uint32

	dynLit  [litTableSize]uint32
	dynDist [distTableSize]uint32
	fixLit  *[litTableSize]uint32 // made on first use
	fixDist *[distTableSize]uint32

	out  int64 // bytes made of the current stream, for the distance check
	hist [window]byte
}

// more makes room in the input buffer and reads. Afterwards either more input
// is there or d.eof is set.
func (d *decoder) more() error {
	if d.eof {
		return nil
	}
	// Whole bytes in the bit buffer are kept too: align may put them back.
	from := d.pos - int(d.nbuf>>3)
	copy(d.in, d.in[from:d.end])
	d.end -= from
	d.pos -= from
	for tries := 0; ; tries++ {
		n, err := d.src.Read(d.in[d.end:inputSize])
		d.end += n
		d.read += int64(n)
		if err == io.EOF {
			d.eof = true
		} else if err != nil {
			return err
		}
		if n > 0 || d.eof {
			break
		}
		if tries == 100 {
			return io.ErrNoProgress
		}
	}
	clear(d.in[d.end : d.end+inputPad])
	return nil
}

// overrun reports whether more bits were taken than the input has.
func (d *decoder) overrun() bool { return d.eof && d.pos-int(d.nbuf>>3) > d.end }

// align drops bits up to the byte boundary and puts whole bytes back.
func (d *decoder) align() {
	d.pos -= int(d.nbuf >> 3)
	d.buf, d.nbuf = 0, 0
}

// need makes at least n bits (at most 32) available.
func (d *decoder) need(n uint) error {
	for d.nbuf < n {
		if d.pos >= d.end && !d.eof {
			if err := d.more(); err != nil {
				return err
			}
			continue
		}
		if d.pos >= d.end {
			return d.fail(Truncated, "the input ends inside a block header")
		}
		d.buf |= uint64(d.in[d.pos]) << d.nbuf
		d.pos++
		d.nbuf += 8
	}
	return nil
}

func (d *decoder) take(n uint) uint32 {
	v := uint32(d.buf & (1<<n - 1))
	d.buf >>= n
	d.nbuf -= n
	return v
}

// offset is the input offset of the next byte not yet taken.
func (d *decoder) offset() int64 {
	return d.read - int64(d.end) + int64(min(d.pos, d.end)) - int64(d.nbuf>>3)
}

func (d *decoder) fail(kind Kind, msg string) error {
	return &Error{Kind: kind, Offset: d.offset(), Msg: msg}
}

// inflate writes decoded bytes to buf[o:] and returns the new o; done is true
// at the end of the stream. It stops early when the buffer has less room than
// one pass of the loop may need. buf[:o] holds at least the last min(32 KiB,
// d.out) bytes of the stream.
func (d *decoder) inflate(buf []byte, o int) (n int, done bool, err error) {
	for {
		switch d.st {
		case betweenBlocks:
			if d.last {
				d.last = false
				return o, true, nil
			}
			if err := d.blockHeader(); err != nil {
				return o, false, err
			}
		case inStored:
			if o, err = d.copyStored(buf, o); err != nil || d.stored > 0 {
				return o, false, err
			}
			d.st = betweenBlocks
		case inCodes:
			var full bool
			if o, full, err = d.codes(buf, o); err != nil || full {
				return o, false, err
			}
			d.st = betweenBlocks
		}
	}
}

func (d *decoder) blockHeader() error {
	if err := d.need(3); err != nil {
		return err
	}
	d.last = d.take(1) == 1
	switch d.take(2) {
	case 0:
		d.take(d.nbuf & 7)
		d.align()
		if err := d.need(32); err != nil {
			return err
		}
		n, complement := d.take(16), d.take(16)
		if n != ^complement&0xffff {
			return d.fail(Corrupt, "the length of a stored block and its complement differ")
		}
		d.stored, d.st = int(n), inStored
		return nil
	case 1:
		if d.fixLit == nil {
			d.fixLit, d.fixDist = fixedTables()
		}
		d.lit, d.dist, d.st = d.fixLit, d.fixDist, inCodes
		return nil
	case 2:
		d.lit, d.dist, d.st = &d.dynLit, &d.dynDist, inCodes
		return d.dynamicTables()
	}
	return d.fail(Corrupt, "block of the reserved type 3")
}

func (d *decoder) copyStored(buf []byte, o int) (int, error) {
	for d.stored > 0 && o < len(buf) {
		if d.pos >= d.end {
			if d.eof {
				return o, d.fail(Truncated, "the input ends inside a stored block")
			}
			if err := d.more(); err != nil {
				return o, err
			}
			continue
		}
		n := copy(buf[o:min(len(buf), o+d.stored)], d.in[d.pos:d.end])
		d.pos += n
		d.stored -= n
		d.out += int64(n)
		o += n
	}
	return o, nil
}

// codes decodes symbols until the end of the block (full false) or until the
// output buffer may not take another pass (full true).
func (d *decoder) codes(buf []byte, o int) (next int, full bool, err error) {
	in, lit, dist := d.in, d.lit, d.dist
	pos, b, nb := d.pos, d.buf, d.nbuf
	start := o
	// Room for three literals and a match, and for copying in words.
	limit := len(buf) - maxMatch - 32
	safe := d.end - inputSlack
	if d.eof {
		safe = -1
	}
	fail := func(kind Kind, msg string) (int, bool, error) {
		d.pos, d.buf, d.nbuf = pos, b&(1<<nb-1), nb
		if d.overrun() {
			kind, msg = Truncated, "the input ends inside a block"
		}
		return o, false, d.fail(kind, msg)
	}
	for {
		if o > limit {
			d.pos, d.buf, d.nbuf = pos, b&(1<<nb-1), nb
			d.out += int64(o - start)
			return o, true, nil
		}
		if pos > safe {
			d.pos, d.buf, d.nbuf = pos, b&(1<<nb-1), nb
			if d.overrun() {
				return fail(Truncated, "")
			}
			if !d.eof {
				if err := d.more(); err != nil {
					return o, false, err
				}
				pos = d.pos
				safe = d.end - inputSlack
				if d.eof {
					safe = -1
				}
				if pos > safe && !d.eof {
					continue
				}
			}
		}
		b |= binary.LittleEndian.Uint64(in[pos:]) << (nb & 63)
		pos += int((63 - nb) >> 3)
		nb |= 56

		e := lit[b&(1<<litBits-1)]
		if e&entryLiteral != 0 {
			// At least 56 bits are there: three codes of up to 15
			// bits fit without filling again.
			b >>= e & 63
			nb -= uint(e & 63)
			buf[o] = byte(e >> 16)
			o++
			e = lit[b&(1<<litBits-1)]
			if e&entryLiteral != 0 {
				b >>= e & 63
				nb -= uint(e & 63)
				buf[o] = byte(e >> 16)
				o++
				e = lit[b&(1<<litBits-1)]
				if e&entryLiteral != 0 {
					b >>= e & 63
					nb -= uint(e & 63)
					buf[o] = byte(e >> 16)
					o++
					continue
				}
			}
			b |= binary.LittleEndian.Uint64(in[pos:]) << (nb & 63)
			pos += int((63 - nb) >> 3)
			nb |= 56
		}
		if e&entrySpecial != 0 {
			if e&(entryInvalid|0xf00) == 0 { // end of block
				b >>= e & 63
				nb -= uint(e & 63)
				d.pos, d.buf, d.nbuf = pos, b&(1<<nb-1), nb
				d.out += int64(o - start)
				if d.overrun() {
					return fail(Truncated, "")
				}
				return o, false, nil
			}
			if e&entryInvalid != 0 {
				return fail(Corrupt, "a code that is not assigned")
			}
			b >>= litBits
			nb -= litBits
			e = lit[(e>>16+uint32(b)&(1<<(e>>8&15)-1))&(litTableSize-1)]
			if e&entryLiteral != 0 {
				b >>= e & 63
				nb -= uint(e & 63)
				buf[o] = byte(e >> 16)
				o++
				continue
			}
			if e&entrySpecial != 0 {
				if e&entryInvalid != 0 {
					return fail(Corrupt, "a code that is not assigned")
				}
				b >>= e & 63
				nb -= uint(e & 63)
				d.pos, d.buf, d.nbuf = pos, b&(1<<nb-1), nb
				d.out += int64(o - start)
				if d.overrun() {
					return fail(Truncated, "")
				}
				return o, false, nil
			}
		}
		// A length: base plus extra bits behind the code. At most 20 bits
		// for it and 28 for the distance, the buffer holds 56.
		length := int(e>>16) + int(b&(1<<(e&63)-1)>>(e>>8&15))
		b >>= e & 63
		nb -= uint(e & 63)

		e = dist[b&(1<<distBits-1)]
		if e&entrySpecial != 0 {
			if e&entryInvalid == 0 {
				b >>= distBits
				nb -= distBits
				e = dist[(e>>16+uint32(b)&(1<<(e>>8&15)-1))&(distTableSize-1)]
			}
			if e&entryInvalid != 0 {
				return fail(Corrupt, "a distance code that is not assigned")
			}
		}
		distance := int(e>>16) + int(b&(1<<(e&63)-1)>>(e>>8&15))
		b >>= e & 63
		nb -= uint(e & 63)
		from := o - distance
		if from < 0 || int64(distance) > d.out+int64(o-start) {
			return fail(Corrupt, "a distance that reaches before the start")
		}
		end := o + length
		if distance >= 8 {
			// Words of 8 bytes, the last may run over into the slack.
			src, dst := buf[from:], buf[o:]
			for i := 0; i < length; i += 8 {
				binary.LittleEndian.PutUint64(dst[i:], binary.LittleEndian.Uint64(src[i:]))
			}
		} else if distance == 1 {
			w := uint64(buf[from]) * 0x0101010101010101
			dst := buf[o:]
			for i := 0; i < length; i += 8 {
				binary.LittleEndian.PutUint64(dst[i:], w)
			}
		} else {
			for i := o; i < end; i++ {
				buf[i] = buf[i-distance]
			}
		}
		o = end
	}
}

var codeOrder = [19]uint8{16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15}

// dynamicTables reads the code lengths of a block (RFC 1951, section 3.2.7).
func (d *decoder) dynamicTables() error {
	if err := d.need(14); err != nil {
		return err
	}
	nlit, ndist, ncode := int(d.take(5))+257, int(d.take(5))+1, int(d.take(4))+4
	if nlit > 286 || ndist > 30 {
		return d.fail(Corrupt, "more length or distance codes than there are")
	}
	var lens [320]uint8
	for i := range ncode {
		if err := d.need(3); err != nil {
			return err
		}
		lens[codeOrder[i]] = uint8(d.take(3))
	}
	var table [128]uint32
	if !build(table[:], 7, lens[:19], func(sym int) uint32 { return uint32(sym) << 16 }) {
		return d.fail(Corrupt, "the code of code lengths is over- or underfull")
	}
	clear(lens[:])
	for i := 0; i < nlit+ndist; {
		if err := d.needCode(); err != nil {
			return err
		}
		e := table[d.buf&127]
		if e&entryInvalid != 0 {
			return d.fail(Corrupt, "a code length code that is not assigned")
		}
		if uint(e&63) > d.nbuf {
			return d.fail(Truncated, "the input ends inside a block header")
		}
		d.take(uint(e & 63))
		sym := e >> 16 & 31
		if sym < 16 {
			lens[i] = uint8(sym)
			i++
			continue
		}
		var value uint8
		var base, extra uint
		switch sym {
		case 16:
			if i == 0 {
				return d.fail(Corrupt, "a repeated code length without one before it")
			}
			value, base, extra = lens[i-1], 3, 2
		case 17:
			base, extra = 3, 3
		default:
			base, extra = 11, 7
		}
		if err := d.need(extra); err != nil {
			return err
		}
		n := int(base) + int(d.take(extra))
		if i+n > nlit+ndist {
			return d.fail(Corrupt, "code lengths repeat past their number")
		}
		for ; n > 0; n-- {
			lens[i] = value
			i++
		}
	}
	if lens[256] == 0 {
		return d.fail(Corrupt, "a block without an end")
	}
	if !build(d.dynLit[:], litBits, lens[:nlit], litEntry) {
		return d.fail(Corrupt, "the code of literals and lengths is over- or underfull")
	}
	if !build(d.dynDist[:], distBits, lens[nlit:nlit+ndist], distEntry) {
		return d.fail(Corrupt, "the code of distances is over- or underfull")
	}
	return nil
}

// needCode makes up to 7 bits available; near the end of the input fewer may
// do, so that end is no error here.
func (d *decoder) needCode() error {
	for d.nbuf < 7 {
		if d.pos >= d.end {
			if d.eof {
				return nil
			}
			if err := d.more(); err != nil {
				return err
			}
			continue
		}
		d.buf |= uint64(d.in[d.pos]) << d.nbuf
		d.pos++
		d.nbuf += 8
	}
	return nil
}

func fixedTables() (*[litTableSize]uint32, *[distTableSize]uint32) {
	var lens [288]uint8
	for i := range lens {
		switch {
		case i < 144:
			lens[i] = 8
		case i < 256:
			lens[i] = 9
		case i < 280:
			lens[i] = 7
		default:
			lens[i] = 8
		}
	}
	lit := new([litTableSize]uint32)
	build(lit[:], litBits, lens[:], litEntry)
	for i := range 32 {
		lens[i] = 5
	}
	dist := new([distTableSize]uint32)
	build(dist[:], distBits, lens[:32], distEntry)
	return lit, dist
}

// litEntry makes the entry of a literal/length symbol without its code length
// (RFC 1951, section 3.2.5).
func litEntry(sym int) uint32 {
	switch {
	case sym < 256:
		return entryLiteral | uint32(sym)<<16
	case sym == 256:
		return entrySpecial
	case sym == 285:
		return maxMatch << 16
	case sym > 285:
		return entrySpecial | entryInvalid
	case sym < 265:
		return uint32(sym-254) << 16
	}
	extra := uint32(sym-261) >> 2
	base := (4+uint32(sym-261)&3)<<extra + 3
	return base<<16 | extra
}

func distEntry(sym int) uint32 {
	switch {
	case sym > 29:
		return entrySpecial | entryInvalid
	case sym < 4:
		return uint32(sym+1) << 16
	}
	extra := uint32(sym-2) >> 1
	base := (2+uint32(sym)&1)<<extra + 1
	return base<<16 | extra
}

// build fills a decoding table of width bits and the second tables behind it.
// entry gives a symbol's entry with its number of extra bits in the low byte.
// A code must be complete; as with zlib and compress/flate an empty code and a
// single code of one bit are taken too, their unassigned part being invalid.
func build(table []uint32, width uint, lens []uint8, entry func(int) uint32) bool {
	var count [16]int
	for _, l := range lens {
		count[l]++
	}
	count[0] = 0
	var next [16]uint32
	code, space, used := uint32(0), 0, 0
	for l := 1; l < 16; l++ {
		code <<= 1
		next[l] = code
		code += uint32(count[l])
		space += count[l] << (15 - l)
		used += count[l]
	}
	invalid := uint32(entrySpecial | entryInvalid)
	if space != 1<<15 && (used > 1 || used == 1 && count[1] != 1) {
		return false
	}
	for i := range 1 << width {
		table[i] = invalid
	}
	// Symbols in the order of their codes: by length, then by number.
	var first [16]int
	for l := 1; l < 15; l++ {
		first[l+1] = first[l] + count[l]
	}
	var order [320]uint16
	for sym, l := range lens {
		if l != 0 {
			order[first[l]] = uint16(sym)
			first[l]++
		}
	}
	free := uint32(1) << width // where the next second table starts
	for _, sym := range order[:used] {
		n := uint(lens[sym])
		c := uint32(bits.Reverse16(uint16(next[n]))) >> (16 - n)
		next[n]++
		e := entry(int(sym))
		drop := uint(0)
		if n > width {
			drop = width
		}
		e += uint32(n-drop) | uint32(n-drop)<<8
		if e&entrySpecial != 0 {
			e &^= 0xf00
		}
		if n <= width {
			for i := c; i < 1<<width; i += 1 << n {
				table[i] = e
			}
			count[n]--
			continue
		}
		low := c & (1<<width - 1)
		if table[low]&entryInvalid != 0 {
			sub := subWidth(&count, n, width)
			table[low] = entrySpecial | free<<16 | uint32(sub)<<8 | uint32(width)
			for i := range uint32(1) << sub {
				table[free+i] = invalid
			}
			free += 1 << sub
		}
		link := table[low]
		start, sub := link>>16&0x7fff, uint(link>>8&15)
		for i := c >> width; i < 1<<sub; i += 1 << (n - width) {
			table[start+i] = e
		}
		count[n]--
	}
	return true
}

// subWidth is the width of the second table that starts with a code of n bits;
// count holds the codes not yet placed. Codes come by rising length, so the
// table ends at the length at which the codes left fill it.
func subWidth(count *[16]int, n, width uint) uint {
	sub := n - width
	room := 1<<sub - count[n]
	for room > 0 && sub+width < 15 {
		sub++
		room = room<<1 - count[sub+width]
	}
	return sub
}
