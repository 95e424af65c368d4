package tpmquote_test

import (
	"bytes"
	"crypto/elliptic"
	"encoding/binary"
	"encoding/json"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/retally/retally/evidence/fake"
	"github.com/retally/retally/evidence/tpmquote"
	"github.com/retally/retally/evidence/verdict"
	"github.com/retally/retally/internal/digest"
)

// FuzzAttest: no panic; what parses is written back byte by byte, so that no two
// messages mean the same.
func FuzzAttest(f *testing.F) {
	m := machine(f, fake.TPMOptions{Banks: []digest.Algorithm{digest.SHA1, digest.SHA256}})
	for _, s := range [][]tpmquote.Selection{{fake.Select(digest.SHA256)}, {fake.Select(digest.SHA1, 0), fake.Select(digest.SHA256, 4, 7)}, nil} {
		message, _, _, err := m.Quote(nonce, nil, s...)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(message)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		a, err := tpmquote.ParseAttest("fuzz", data)
		if err == nil && !bytes.Equal(a.Marshal(), data) {
			t.Fatal("Marshal does not give the bytes back")
		}
		if s, err := tpmquote.ParseSignature("fuzz", data); err == nil && !bytes.Equal(s.Marshal(), data) {
			t.Fatal("Marshal does not give the signature back")
		}
		if v, err := tpmquote.ParsePCRFile("fuzz", data); err == nil {
			again, err := tpmquote.ParsePCRFile("again", v.PCRFile())
			if err != nil {
				t.Fatal(err)
			}
			for bank, pcrs := range v {
				for pcr, d := range pcrs {
					if again[bank][pcr] != d {
						t.Fatalf("PCR %d of %s changes on its way", pcr, bank)
					}
				}
			}
		}
	})
}

// FuzzContainer: no panic, and nothing is authentic but what the machine signed.
func FuzzContainer(f *testing.F) {
	m := machine(f, fake.TPMOptions{Curve: elliptic.P256()})
	message, signature, values, err := m.Quote(nonce, nil, fake.Select(digest.SHA256))
	if err != nil {
		f.Fatal(err)
	}
	var pcrs []string
	type entry struct {
		Index     int
		Digest    []byte
		DigestAlg int
	}
	var entries []entry
	for i := range tpmquote.PCRCount {
		pcrs = append(pcrs, values[digest.SHA256][i].Hex())
		entries = append(entries, entry{i, values[digest.SHA256][i].Bytes(), 5})
	}
	quote := map[string]any{"message": message, "signature": signature, "pcrs": pcrs}
	for _, doc := range []any{
		quote,
		map[string]any{"ak_public": m.Public, "tpm_quote": quote},
		map[string]any{"TPMVersion": 2, "Public": m.Public, "Quotes": []any{map[string]any{"Version": 2, "Quote": message, "Signature": signature}}, "PCRs": entries, "EventLog": []byte("log")},
	} {
		data, err := json.Marshal(doc)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Add(protobuf(m, message, signature, values))
	rsa := machine(f, fake.TPMOptions{})
	other, long, all, err := rsa.Quote(nonce, nil, fake.Select(digest.SHA256))
	if err != nil {
		f.Fatal(err)
	}
	var bincode []byte
	for _, part := range [][]byte{long[6:], other} { // 6: scheme, hash and size before a bare signature
		bincode = append(binary.LittleEndian.AppendUint64(bincode, uint64(len(part))), part...)
	}
	bincode = binary.LittleEndian.AppendUint64(bincode, tpmquote.PCRCount)
	for i := range tpmquote.PCRCount {
		bincode = append(bincode, all[digest.SHA256][i].Bytes()...)
	}
	if e, err := tpmquote.Open("seed", bincode); err != nil || e.Form != tpmquote.FormBincode {
		f.Fatalf("bincode: %v", err)
	}
	f.Add(bincode)
	f.Add(m.Public)
	f.Add(fake.PEM(m.AKCert, m.Intermediate))
	o := tpmquote.Options{At: now, AK: &tpmquote.AK{Key: m.AK()}, Nonce: nonce, Expect: tpmquote.Expectations{Values: one(tpmquote.Values{digest.SHA256: {4: values[digest.SHA256][4]}})}}
	f.Fuzz(func(t *testing.T, data []byte) {
		if k, err := tpmquote.ParseAK("fuzz", data); err == nil && k.Key == nil {
			t.Fatal("a key that is none")
		}
		part := tpmquote.Recognize(data)
		e, err := tpmquote.Open("fuzz", data)
		if err != nil {
			return
		}
		if e.Form == tpmquote.FormAzure && part != tpmquote.PartContainer {
			t.Fatalf("opened, but recognized as %q", part)
		}
		r, err := e.Verify(o)
		if err != nil {
			t.Fatal(err)
		}
		if fold(r.Authentic) != verdict.Pass {
			return
		}
		for _, q := range e.Quotes {
			if !bytes.Equal(q.Message, message) {
				t.Fatal("a message that the machine did not sign")
			}
		}
		for pcr, d := range r.Values[digest.SHA256] {
			if values[digest.SHA256][pcr] != d {
				t.Fatalf("PCR %d has a value that was not signed", pcr)
			}
		}
	})
}

// protobuf is a go-tpm-tools attestation of one quote.
func protobuf(m *fake.TPM, message, signature []byte, values tpmquote.Values) []byte {
	sized := func(dst []byte, num protowire.Number, b []byte) []byte {
		return protowire.AppendBytes(protowire.AppendTag(dst, num, protowire.BytesType), b)
	}
	number := func(dst []byte, num protowire.Number, n uint64) []byte {
		return protowire.AppendVarint(protowire.AppendTag(dst, num, protowire.VarintType), n)
	}
	var all []byte
	for _, bank := range values.Banks() {
		all = number(nil, 1, map[digest.Algorithm]uint64{digest.SHA1: 4, digest.SHA256: 11}[bank])
		for i := range tpmquote.PCRCount {
			var entry []byte
			if i > 0 { // zero is left out on the wire
				entry = number(nil, 1, uint64(i))
			}
			all = sized(all, 2, sized(entry, 2, values[bank][i].Bytes()))
		}
	}
	return sized(sized(nil, 1, m.Public), 2, sized(sized(sized(nil, 1, message), 2, signature), 3, all))
}
