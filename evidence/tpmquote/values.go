package tpmquote

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/retally/retally/evidence/malformed"
	"github.com/retally/retally/internal/digest"
)

// Values are what PCRs hold: by bank, by index.
type Values map[digest.Algorithm]map[int]digest.Digest

// set adds a value; false: there is one already.
func (v Values) set(bank digest.Algorithm, pcr int, d digest.Digest) bool {
	if v[bank] == nil {
		v[bank] = map[int]digest.Digest{}
	}
	_, twice := v[bank][pcr]
	v[bank][pcr] = d
	return !twice
}

// Banks lists the banks, the weakest first.
func (v Values) Banks() []digest.Algorithm { return slices.Sorted(maps.Keys(v)) }

// text lists which PCRs there are: "sha256:0-7,14".
func (v Values) text() string {
	var out []string
	for _, bank := range v.Banks() {
		if pcrs := slices.Sorted(maps.Keys(v[bank])); len(pcrs) > 0 {
			out = append(out, bank.String()+":"+ranges(pcrs))
		}
	}
	if out == nil {
		return "none"
	}
	return strings.Join(out, " and ")
}

func ranges(pcrs []int) string {
	var out []string
	for i := 0; i < len(pcrs); {
		j := i
		for j+1 < len(pcrs) && pcrs[j+1] == pcrs[j]+1 {
			j++
		}
		text := strconv.Itoa(pcrs[i])
		if j > i {
			text += "-" + strconv.Itoa(pcrs[j])
		}
		out = append(out, text)
		i = j + 1
	}
	return strings.Join(out, ",")
}

// SelectionText writes selections as tpm2-tools does: "sha256:0,1,2" with
// ranges, banks in the order of their strength.
func SelectionText(selections []Selection) string {
	v := Values{}
	for _, s := range selections {
		for _, p := range s.PCRs {
			v.set(s.Bank, p, digest.Digest{})
		}
	}
	return v.text()
}

// Resettable says that a PCR can be set back without a reboot, by anything that
// runs (16, 23) or by a dynamic launch (17 to 22), which is not recognized here:
// what such a PCR holds shows nothing about the boot (PC Client Platform TPM
// Profile, 4.6.2).
func Resettable(pcr int) bool { return pcr >= 16 }

// Unmeasured says that a PCR holds what it holds after a reset, so that nothing
// was measured into it.
func Unmeasured(pcr int, d digest.Digest) bool { return initial(pcr, d) }

// initial says that a PCR holds what it holds after a reset, so that nothing was
// measured into it: zeros, or ones in those of a dynamic launch. PCR 0 ends in
// the locality of the startup.
func initial(pcr int, d digest.Digest) bool {
	b := d.Bytes()
	if pcr == 0 {
		b[len(b)-1] &^= 7
	}
	return len(bytes.Trim(b, "\x00")) == 0 || pcr >= 17 && pcr <= 22 && len(bytes.Trim(b, "\xff")) == 0
}

// composite is the PCR digest of a quote: the hash over the values in the order
// of the signed selections, each ascending (Part 1, clause 17.5).
func (v Values) composite(h digest.Algorithm, selections []Selection) (digest.Digest, error) {
	sum := h.New()
	for _, s := range selections {
		for _, p := range s.PCRs {
			d, ok := v[s.Bank][p]
			if !ok {
				return digest.Digest{}, fmt.Errorf("PCR %d of the bank %s is quoted, but no value came with the quote", p, s.Bank)
			}
			sum.Write(d.Bytes())
		}
	}
	return digest.FromHash(h, sum), nil
}

// covered splits values into those that the selections cover and the rest.
func (v Values) covered(selections []Selection) (in, out Values) {
	in, out = Values{}, Values{}
	for _, bank := range v.Banks() {
		for pcr, d := range v[bank] {
			if slices.ContainsFunc(selections, func(s Selection) bool { return s.Bank == bank && slices.Contains(s.PCRs, pcr) }) {
				in.set(bank, pcr, d)
			} else {
				out.set(bank, pcr, d)
			}
		}
	}
	return in, out
}

// Layout of the PCR file that tpm2_quote writes: C structures as they lie in the
// memory of a little-endian machine (tpm2-tools 5.x; tss2_tpm2_types.h).
const (
	fileBanks      = 16
	fileSelect     = 8 // u16 hash, u8 size, 4 bytes map, padding
	fileSelections = 4 + fileBanks*fileSelect
	fileDigests    = 8
	fileDigest     = 2 + 64
	fileList       = 4 + fileDigests*fileDigest
)

// ParsePCRFile reads tpm2-tools' PCR file: which PCRs, then their values.
// Nothing in it is signed. Unused entries and the ends of short values are
// padding. name is the input in errors.
func ParsePCRFile(name string, data []byte) (Values, error) {
	le := binary.LittleEndian
	fail := func(at int, field, found, want string) (Values, error) {
		return nil, &malformed.Error{Input: name, Place: malformed.Offset(at), Field: field, Found: found, Want: want}
	}
	if len(data) < fileSelections+4 {
		return fail(0, "size", fmt.Sprintf("%d bytes", len(data)), fmt.Sprintf("at least %d", fileSelections+4))
	}
	n := le.Uint32(data)
	if n > fileBanks {
		return fail(0, "count of selections", fmt.Sprint(n), fmt.Sprintf("at most %d", fileBanks))
	}
	var sums [][]byte
	lists := le.Uint32(data[fileSelections:])
	if int64(lists)*fileList != int64(len(data)-fileSelections-4) {
		return fail(fileSelections, "count of lists", fmt.Sprint(lists), fmt.Sprintf("what fills the file of %d bytes", len(data)))
	}
	for i := range int(lists) {
		at := fileSelections + 4 + i*fileList
		k := le.Uint32(data[at:])
		if k > fileDigests {
			return fail(at, "count of values", fmt.Sprint(k), fmt.Sprintf("at most %d", fileDigests))
		}
		for j := range int(k) {
			p := at + 4 + j*fileDigest
			size := int(le.Uint16(data[p:]))
			if size > fileDigest-2 {
				return fail(p, "size of a value", fmt.Sprint(size), "at most 64")
			}
			sums = append(sums, data[p+2:p+2+size])
		}
	}
	out := Values{}
	next := 0
	for i := range int(n) {
		at := 4 + i*fileSelect
		id, size := le.Uint16(data[at:]), int(data[at+2])
		bank, ok := algorithm(id)
		if !ok {
			return fail(at, "hash", fmt.Sprintf("%#04x", id), "SHA-1, SHA-256, SHA-384 or SHA-512")
		}
		if size > maxSelect {
			return fail(at+2, "sizeofSelect", fmt.Sprint(size), fmt.Sprintf("at most %d", maxSelect))
		}
		pcrs, ok := bits(data[at+3 : at+3+size])
		if !ok {
			return fail(at+3, "pcrSelect", "a PCR above 23", "PCRs 0 to 23")
		}
		for _, p := range pcrs {
			if next == len(sums) {
				return fail(at, "pcrSelect", fmt.Sprintf("more PCRs than the %d values", len(sums)), "one value for each")
			}
			d, err := digest.FromBytes(bank, sums[next])
			if err != nil {
				return fail(at, fmt.Sprintf("value of PCR %d", p), fmt.Sprintf("%d bytes", len(sums[next])), fmt.Sprintf("%d (%s)", bank.Size(), bank))
			}
			next++
			if !out.set(bank, p, d) {
				return fail(at, "hash", "the bank "+bank.String()+" a second time", "each bank once")
			}
		}
	}
	if next != len(sums) {
		return fail(fileSelections, "count of values", fmt.Sprint(len(sums)), fmt.Sprintf("%d, one for each PCR selected", next))
	}
	return out, nil
}

// PCRFile writes values in that layout: for tests and demonstrations.
func (v Values) PCRFile() []byte {
	le := binary.LittleEndian
	head := make([]byte, fileSelections)
	var sums []digest.Digest
	for i, bank := range v.Banks() {
		le.PutUint32(head, uint32(i+1))
		at := head[4+i*fileSelect:]
		le.PutUint16(at, algorithmID(bank))
		at[2] = PCRCount / 8
		for _, p := range slices.Sorted(maps.Keys(v[bank])) {
			at[3+p/8] |= 1 << (p % 8)
			sums = append(sums, v[bank][p])
		}
	}
	out := le.AppendUint32(head, uint32((len(sums)+fileDigests-1)/fileDigests))
	for part := range slices.Chunk(sums, fileDigests) {
		list := make([]byte, fileList)
		le.PutUint32(list, uint32(len(part)))
		for j, d := range part {
			le.PutUint16(list[4+j*fileDigest:], uint16(d.Algorithm().Size()))
			copy(list[4+j*fileDigest+2:], d.Bytes())
		}
		out = append(out, list...)
	}
	return out
}
