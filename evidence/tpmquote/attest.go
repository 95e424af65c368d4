// Package tpmquote reads and verifies quotes of TPM 2.0 devices: what a TPM says
// its platform configuration registers (PCRs) hold, signed by an attestation key
// (AK). Who vouches for that key is half of the verdict: a provider's certificate
// chain, the runtime data of Azure's HCL report, or the caller.
//
// Sources: TCG, "Trusted Platform Module Library", Part 2 (Structures) and
// Part 1, clause 36 (attestation); TCG, "PC Client Platform TPM Profile" (which
// PCRs can be reset); the containers of tpm2-tools, go-tpm-tools, go-attestation
// and of the attesters for Azure, each named where it is read.
package tpmquote

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"

	"github.com/retally/retally/evidence/malformed"
	"github.com/retally/retally/internal/digest"
)

// Limits of the structures, in bytes (Part 2, table 231 and the implementation
// values of the reference code).
const (
	MaxMessage = 1024 // of a TPMS_ATTEST; real ones have 113 to 145
	maxName    = 2 + digest.MaxSize
	maxData    = 2 + digest.MaxSize // TPM2B_DATA holds at most a TPMT_HA
	maxBanks   = 16
	maxSelect  = 4
)

// PCRCount is how many PCRs a platform's TPM has (PC Client Platform TPM
// Profile, 4.6).
const PCRCount = 24

const (
	magic     = 0xff544347 // TPM_GENERATED_VALUE: a TPM made this, no caller
	typeQuote = 0x8018     // TPM_ST_ATTEST_QUOTE
)

// algorithm gives the hash of a TPM_ALG_ID.
func algorithm(id uint16) (digest.Algorithm, bool) {
	a, ok := map[uint16]digest.Algorithm{0x04: digest.SHA1, 0x0b: digest.SHA256, 0x0c: digest.SHA384, 0x0d: digest.SHA512}[id]
	return a, ok
}

func algorithmID(a digest.Algorithm) uint16 {
	return map[digest.Algorithm]uint16{digest.SHA1: 0x04, digest.SHA256: 0x0b, digest.SHA384: 0x0c, digest.SHA512: 0x0d}[a]
}

// Clock is TPMS_CLOCK_INFO: milliseconds that the TPM ran, and how often it was
// reset and restarted. Safe says that the clock never went back.
type Clock struct {
	Milliseconds uint64 `json:"milliseconds"`
	ResetCount   uint32 `json:"reset_count"`
	RestartCount uint32 `json:"restart_count"`
	Safe         bool   `json:"safe"`
}

// Selection is the PCRs of one bank, ascending.
type Selection struct {
	Bank digest.Algorithm
	PCRs []int
	size int // of the bit map, in bytes
}

// Attest is a TPMS_ATTEST of the type quote.
type Attest struct {
	Signer     []byte // qualified name of the key: algorithm, then digest
	ExtraData  []byte // the nonce of whoever asked
	Clock      Clock
	Firmware   uint64 // firmwareVersion
	Selections []Selection
	PCRDigest  []byte // over the selected values, in the order of the selections
}

// ParseAttest reads a quote's signed bytes. Everything is read, nothing may be
// left over, and Marshal gives the same bytes back: no two messages have one
// meaning. name is the input in errors.
func ParseAttest(name string, data []byte) (*Attest, error) {
	r := &reader{name: name, data: data}
	if len(data) > MaxMessage {
		r.fail(0, "size", fmt.Sprintf("%d bytes", len(data)), fmt.Sprintf("at most %d", MaxMessage))
		return nil, r.err
	}
	if m := r.u32("magic"); r.err == nil && m != magic {
		r.fail(0, "magic", fmt.Sprintf("%08x", m), fmt.Sprintf("%08x: no TPM made these bytes", magic))
	}
	if t := r.u16("type"); r.err == nil && t != typeQuote {
		r.fail(4, "type", fmt.Sprintf("%04x", t), fmt.Sprintf("%04x (quote)", typeQuote))
	}
	a := &Attest{Signer: r.sized("qualifiedSigner", maxName), ExtraData: r.sized("extraData", maxData)}
	a.Clock.Milliseconds = r.u64("clock")
	a.Clock.ResetCount, a.Clock.RestartCount = r.u32("resetCount"), r.u32("restartCount")
	at := r.at
	safe := r.u8("safe")
	if r.err == nil && safe > 1 {
		r.fail(at, "safe", fmt.Sprint(safe), "0 or 1")
	}
	a.Clock.Safe = safe == 1
	a.Firmware = r.u64("firmwareVersion")
	a.Selections = r.selections()
	a.PCRDigest = r.sized("pcrDigest", digest.MaxSize)
	r.end()
	if r.err != nil {
		return nil, r.err
	}
	return a, nil
}

// selections reads a TPML_PCR_SELECTION. A bank that is named twice is refused:
// a TPM may answer so, but two readers need not agree on what it covers.
func (r *reader) selections() []Selection {
	at := r.at
	n := r.u32("pcrSelect count")
	if r.err == nil && n > maxBanks {
		r.fail(at, "pcrSelect count", fmt.Sprint(n), fmt.Sprintf("at most %d", maxBanks))
	}
	var out []Selection
	for i := 0; r.err == nil && i < int(n); i++ {
		at := r.at
		id := r.u16("pcrSelect hash")
		bank, ok := algorithm(id)
		if r.err == nil && !ok {
			r.fail(at, "pcrSelect hash", fmt.Sprintf("%#04x", id), "SHA-1, SHA-256, SHA-384 or SHA-512")
		}
		for _, other := range out {
			if other.Bank == bank && r.err == nil {
				r.fail(at, "pcrSelect hash", bank.String()+" a second time", "each bank once")
			}
		}
		at = r.at
		size := int(r.u8("sizeofSelect"))
		if r.err == nil && (size < 1 || size > maxSelect) {
			r.fail(at, "sizeofSelect", fmt.Sprint(size), fmt.Sprintf("1 to %d", maxSelect))
		}
		at = r.at
		pcrs, ok := bits(r.take(size, "pcrSelect"))
		if !ok {
			r.fail(at, "pcrSelect", "a PCR above 23", "PCRs 0 to 23")
		}
		out = append(out, Selection{bank, pcrs, size})
	}
	return out
}

// bits gives the PCRs of a bit map; false: there are more than a TPM has.
func bits(m []byte) ([]int, bool) {
	var out []int
	for i := range 8 * len(m) {
		if m[i/8]>>(i%8)&1 == 0 {
			continue
		}
		if i >= PCRCount {
			return nil, false
		}
		out = append(out, i)
	}
	return out, true
}

// Marshal writes the signed bytes: for tests and demonstrations, and to show
// that parsing loses nothing.
func (a *Attest) Marshal() []byte {
	be := binary.BigEndian
	out := be.AppendUint16(be.AppendUint32(nil, magic), typeQuote)
	out = appendSized(appendSized(out, a.Signer), a.ExtraData)
	out = be.AppendUint64(out, a.Clock.Milliseconds)
	out = be.AppendUint32(be.AppendUint32(out, a.Clock.ResetCount), a.Clock.RestartCount)
	safe := byte(0)
	if a.Clock.Safe {
		safe = 1
	}
	out = be.AppendUint64(append(out, safe), a.Firmware)
	out = be.AppendUint32(out, uint32(len(a.Selections)))
	for _, s := range a.Selections {
		size := s.size
		if size == 0 {
			size = PCRCount / 8
		}
		m := make([]byte, size)
		for _, p := range s.PCRs {
			m[p/8] |= 1 << (p % 8)
		}
		out = append(append(be.AppendUint16(out, algorithmID(s.Bank)), byte(size)), m...)
	}
	return appendSized(out, a.PCRDigest)
}

func appendSized(dst, b []byte) []byte {
	return append(binary.BigEndian.AppendUint16(dst, uint16(len(b))), b...)
}

// reader reads big-endian structures; the first error stays.
type reader struct {
	name string
	data []byte
	at   int
	err  error
}

func (r *reader) fail(at int, field, found, want string) {
	if r.err == nil {
		r.err = &malformed.Error{Input: r.name, Place: malformed.Offset(at), Field: field, Found: found, Want: want}
	}
}

func (r *reader) take(n int, field string) []byte {
	if r.err != nil {
		return nil
	}
	if left := len(r.data) - r.at; n > left {
		r.fail(r.at, field, fmt.Sprintf("%d bytes left", left), fmt.Sprintf("%d", n))
		return nil
	}
	r.at += n
	return r.data[r.at-n : r.at : r.at]
}

func (r *reader) u8(field string) uint8 {
	if b := r.take(1, field); b != nil {
		return b[0]
	}
	return 0
}

func (r *reader) u16(field string) uint16 {
	if b := r.take(2, field); b != nil {
		return binary.BigEndian.Uint16(b)
	}
	return 0
}

func (r *reader) u32(field string) uint32 {
	if b := r.take(4, field); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

func (r *reader) u64(field string) uint64 {
	if b := r.take(8, field); b != nil {
		return binary.BigEndian.Uint64(b)
	}
	return 0
}

// sized reads a TPM2B: a size of two bytes, then so many.
func (r *reader) sized(field string, most int) []byte {
	at := r.at
	n := int(r.u16(field + " size"))
	if r.err == nil && n > most {
		r.fail(at, field+" size", fmt.Sprint(n), fmt.Sprintf("at most %d", most))
	}
	return bytes.Clone(r.take(n, field))
}

func (r *reader) end() {
	if r.err == nil && r.at != len(r.data) {
		r.fail(r.at, "after the end", hex.EncodeToString(r.data[r.at:min(len(r.data), r.at+8)]), "nothing")
	}
}
