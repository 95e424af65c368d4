// Command asm writes the SHA-256 kernels that digest several blocks at once
// (FIPS 180-4, section 6.2.2).
package main

import (
	"github.com/mmcloughlin/avo/attr"
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// k are the round constants (FIPS 180-4, section 4.2.2): the fractional parts
// of the cube roots of the first 64 primes.
var k = [64]uint32{
	0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
	0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
	0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
	0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
	0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
	0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
	0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
	0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
}

func main() {
	ConstraintExpr("amd64")
	constants := GLOBL("roundConstants", attr.RODATA|attr.NOPTR)
	for i, v := range k {
		DATA(4*i, U32(v))
	}
	swap := GLOBL("swapBytes", attr.RODATA|attr.NOPTR)
	for i := range 16 { // the bytes of every 32-bit word in reverse
		DATA(4*i, U32(0x00010203+0x04040404*uint32(i%4)))
	}
	compress16(constants, swap)
	compress2(constants, swap)
	extendedFeatures()
	Generate()
}

// extendedFeatures reads what the sys/cpu package does not tell: whether there
// are SHA instructions.
func extendedFeatures() {
	TEXT("extendedFeatures", attr.NOSPLIT, "func() (ebx uint32)")
	Doc("extendedFeatures returns EBX of CPUID leaf 7, 0 if there is no such leaf.")
	XORL(reg.EAX, reg.EAX)
	XORL(reg.ECX, reg.ECX)
	CPUID()
	XORL(reg.EBX, reg.EBX)
	CMPL(reg.EAX, U32(7))
	JB(LabelRef("none"))
	MOVL(U32(7), reg.EAX)
	XORL(reg.ECX, reg.ECX)
	CPUID()
	Label("none")
	Store(reg.EBX, ReturnIndex(0))
	RET()
}

// compress16 keeps 16 states in eight 512-bit registers, one word of all
// states in each, and the last 16 words of the message schedule in another
// sixteen.
func compress16(constants, swap Mem) {
	TEXT("compress16", attr.NOSPLIT, "func(state *uint32, data *byte, stride int, n int)")
	Pragma("noescape")
	Doc("compress16 feeds n message blocks to each of 16 SHA-256 states, with AVX-512.")
	state := Load(Param("state"), GP64())
	data := Load(Param("data"), GP64())
	stride := Load(Param("stride"), GP64())
	n := Load(Param("n"), GP64())

	// Row i of the input is at rows[i/4] + i%4 strides.
	stride3 := GP64()
	LEAQ(Mem{Base: stride, Index: stride, Scale: 2}, stride3)
	rows := [4]reg.GPVirtual{data.(reg.GPVirtual), GP64(), GP64(), GP64()}
	for i := 1; i < 4; i++ {
		LEAQ(Mem{Base: rows[i-1], Index: stride, Scale: 4}, rows[i])
	}
	constantsAt := GP64()
	LEAQ(constants, constantsAt)
	row := func(i int) Mem {
		m := Mem{Base: rows[i/4]}
		switch i % 4 {
		case 1:
			m.Index, m.Scale = stride, 1
		case 2:
			m.Index, m.Scale = stride, 2
		case 3:
			m.Index, m.Scale = stride3, 1
		}
		return m
	}

	var z [32]reg.VecPhysical
	for i := range z {
		z[i] = []reg.VecPhysical{
			reg.Z0, reg.Z1, reg.Z2, reg.Z3, reg.Z4, reg.Z5, reg.Z6, reg.Z7,
			reg.Z8, reg.Z9, reg.Z10, reg.Z11, reg.Z12, reg.Z13, reg.Z14, reg.Z15,
			reg.Z16, reg.Z17, reg.Z18, reg.Z19, reg.Z20, reg.Z21, reg.Z22, reg.Z23,
			reg.Z24, reg.Z25, reg.Z26, reg.Z27, reg.Z28, reg.Z29, reg.Z30, reg.Z31,
		}[i]
	}
	s := [8]reg.VecPhysical(z[0:8])
	w := [16]reg.VecPhysical(z[8:24])
	t := [8]reg.VecPhysical(z[24:32])

	for i := range 8 {
		VMOVDQU32(Mem{Base: state, Disp: 64 * i}, s[i])
	}
	Label("block16")
	Comment("Load a message block of every lane, big-endian words.")
	VMOVDQU32(swap, t[7])
	for i := range 16 {
		VMOVDQU32(row(i), w[i])
		VPSHUFB(t[7], w[i], w[i])
	}
	t[0] = transpose(&w, t[0])

	for i := range 64 {
		a, b, c, d, e, f, g, h := s[0], s[1], s[2], s[3], s[4], s[5], s[6], s[7]
		// h + K + W does not depend on the round before: first.
		VPADDD_BCST(Mem{Base: constantsAt, Disp: 4 * i}, w[i%16], t[3])
		VPADDD(t[3], h, h)
		VPRORD(U8(6), e, t[0])
		VPRORD(U8(11), e, t[1])
		VPRORD(U8(25), e, t[2])
		VMOVDQA32(e, t[3])
		VPTERNLOGD(U8(0xca), g, f, t[3]) // choose
		VPTERNLOGD(U8(0x96), t[2], t[1], t[0])
		VPADDD(t[3], h, h)
		VPRORD(U8(2), a, t[4])
		VPRORD(U8(13), a, t[5])
		VPRORD(U8(22), a, t[6])
		VPADDD(t[0], h, h) // T1
		VMOVDQA32(a, t[7])
		VPTERNLOGD(U8(0xe8), c, b, t[7]) // majority
		VPTERNLOGD(U8(0x96), t[6], t[5], t[4])
		VPADDD(h, d, d)
		VPADDD(t[7], t[4], t[4]) // T2
		if i < 48 {
			// The schedule word 16 rounds ahead takes this one's place.
			w1, w9, w14 := w[(i+1)%16], w[(i+9)%16], w[(i+14)%16]
			VPRORD(U8(7), w1, t[0])
			VPRORD(U8(18), w1, t[1])
			VPSRLD(U8(3), w1, t[2])
			VPTERNLOGD(U8(0x96), t[2], t[1], t[0])
			VPRORD(U8(17), w14, t[3])
			VPRORD(U8(19), w14, t[5])
			VPSRLD(U8(10), w14, t[6])
			VPTERNLOGD(U8(0x96), t[6], t[5], t[3])
			VPADDD(w9, w[i%16], w[i%16])
			VPADDD(t[0], t[3], t[3])
			VPADDD(t[3], w[i%16], w[i%16])
		}
		VPADDD(t[4], h, h)
		s = [8]reg.VecPhysical{h, a, b, c, d, e, f, g}
	}
	for i := range 8 {
		at := Mem{Base: state, Disp: 64 * i}
		VPADDD(at, s[i], s[i])
		VMOVDQU32(s[i], at)
	}
	for i := range rows {
		ADDQ(U8(64), rows[i])
	}
	DECQ(n)
	JNZ(LabelRef("block16"))
	VZEROUPPER()
	RET()
}

// transpose turns 16 rows of 16 words into 16 columns. Registers trade places
// with the spare one where that saves a move; it returns the one left over.
func transpose(w *[16]reg.VecPhysical, spare reg.VecPhysical) reg.VecPhysical {
	// pair replaces rows i, j by lo(i, j) and hi(i, j).
	pair := func(i, j int, lo, hi func(b, a, dst reg.VecPhysical)) {
		lo(w[j], w[i], spare)
		hi(w[j], w[i], w[j])
		w[i], spare = spare, w[i]
	}
	words := func(i, j int) {
		pair(i, j, func(b, a, dst reg.VecPhysical) { VPUNPCKLDQ(b, a, dst) }, func(b, a, dst reg.VecPhysical) { VPUNPCKHDQ(b, a, dst) })
	}
	doubles := func(i, j int) {
		pair(i, j, func(b, a, dst reg.VecPhysical) { VPUNPCKLQDQ(b, a, dst) }, func(b, a, dst reg.VecPhysical) { VPUNPCKHQDQ(b, a, dst) })
	}
	quads := func(i, j int, lo, hi uint8) {
		pair(i, j, func(b, a, dst reg.VecPhysical) { VSHUFI32X4(U8(lo), b, a, dst) }, func(b, a, dst reg.VecPhysical) { VSHUFI32X4(U8(hi), b, a, dst) })
	}
	for g := 0; g < 16; g += 4 {
		words(g, g+1)
		words(g+2, g+3)
		doubles(g, g+2)   // words 0 and 1 of each 128 bits
		doubles(g+1, g+3) // words 2 and 3
		w[g+1], w[g+2] = w[g+2], w[g+1]
	}
	// Now row 4g+k holds words k, 4+k, 8+k, 12+k of rows 4g to 4g+3.
	for c := range 4 {
		quads(c, 4+c, 0x44, 0xee)
		quads(8+c, 12+c, 0x44, 0xee)
		quads(c, 8+c, 0x88, 0xdd)    // columns c, 4+c
		quads(4+c, 12+c, 0x88, 0xdd) // columns 8+c, 12+c
		w[4+c], w[8+c] = w[8+c], w[4+c]
	}
	return spare
}

// compress2 runs two streams of the SHA instructions side by side: one alone
// waits for the latency of its rounds.
func compress2(constants, swap Mem) {
	TEXT("compress2", attr.NOSPLIT, "func(state *uint32, data *byte, stride int, n int)")
	Pragma("noescape")
	Doc("compress2 feeds n message blocks to each of two SHA-256 states, with the SHA extensions.")
	state := Load(Param("state"), GP64())
	data := Load(Param("data"), GP64())
	stride := Load(Param("stride"), GP64())
	n := Load(Param("n"), GP64())
	ADDQ(data, stride)
	in := [2]reg.Register{data, stride}
	constantsAt := GP64()
	LEAQ(constants, constantsAt)
	saved := AllocLocal(64)

	kw := reg.X0 // the implicit operand of the rounds
	mask, tmp := reg.X13, reg.X14
	abef := [2]reg.VecPhysical{reg.X1, reg.X2}
	cdgh := [2]reg.VecPhysical{reg.X3, reg.X4}
	msg := [2][4]reg.VecPhysical{{reg.X5, reg.X6, reg.X7, reg.X8}, {reg.X9, reg.X10, reg.X11, reg.X12}}
	MOVOU(swap, mask)
	// Word j of stream i is at state[2j+i]; a register holds its words from the
	// highest down.
	word := func(j, i int) Mem { return Mem{Base: state, Disp: 4 * (2*j + i)} }
	for i := range 2 {
		for k, j := range []int{5, 4, 1, 0} {
			PINSRD(U8(k), word(j, i), abef[i])
		}
		for k, j := range []int{7, 6, 3, 2} {
			PINSRD(U8(k), word(j, i), cdgh[i])
		}
	}
	Label("block2")
	for i := range 2 {
		MOVOU(abef[i], saved.Offset(32*i))
		MOVOU(cdgh[i], saved.Offset(32*i+16))
		for m := range 4 {
			MOVOU(Mem{Base: in[i], Disp: 16 * m}, msg[i][m])
			PSHUFB(mask, msg[i][m])
		}
	}
	for r := range 16 { // four rounds each
		for i := range 2 {
			m := &msg[i]
			now, next, before := m[r%4], m[(r+1)%4], m[(r+3)%4]
			MOVOU(Mem{Base: constantsAt, Disp: 16 * r}, kw)
			PADDD(now, kw)
			SHA256RNDS2(kw, abef[i], cdgh[i])
			if r >= 3 && r < 15 {
				MOVO(now, tmp)
				PALIGNR(U8(4), before, tmp)
				PADDD(tmp, next)
				SHA256MSG2(now, next)
			}
			PSHUFD(U8(0x0e), kw, kw)
			SHA256RNDS2(kw, cdgh[i], abef[i])
			if r >= 1 && r < 13 {
				SHA256MSG1(now, before)
			}
		}
	}
	for i := range 2 {
		// Not as memory operands: the stack need not be aligned to 16 bytes.
		MOVOU(saved.Offset(32*i), tmp)
		PADDD(tmp, abef[i])
		MOVOU(saved.Offset(32*i+16), tmp)
		PADDD(tmp, cdgh[i])
		ADDQ(U8(64), in[i])
	}
	DECQ(n)
	JNZ(LabelRef("block2"))
	for i := range 2 {
		for k, j := range []int{5, 4, 1, 0} {
			PEXTRD(U8(k), abef[i], word(j, i))
		}
		for k, j := range []int{7, 6, 3, 2} {
			PEXTRD(U8(k), cdgh[i], word(j, i))
		}
	}
	RET()
}
