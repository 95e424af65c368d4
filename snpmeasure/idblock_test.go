package snpmeasure_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"strings"
	"testing"

	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/snpmeasure"
)

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func sha384(t testing.TB, s string) digest.Digest {
	t.Helper()
	d, err := digest.ParseHex(digest.SHA384, s)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// TestIDBlockOracle compares with sev-snp-measure's snp-create-id-block:
// everything but the randomized signatures byte by byte, and those verify.
func TestIDBlockOracle(t *testing.T) {
	var v struct {
		ID     string `json:"id_key_pem"`
		Author string `json:"author_key_pem"`
		Cases  []struct {
			Digest string `json:"launch_digest"`
			Block  string `json:"id_block_hex"`
			Auth   string `json:"id_auth_hex"`
			IDSum  string `json:"id_key_digest"`
			Author string `json:"author_key_digest"`
		}
	}
	readJSON(t, fixture(t, "id_block.json"), &v)
	id, err := snpmeasure.ParsePrivateKey("id.pem", []byte(v.ID))
	if err != nil {
		t.Fatal(err)
	}
	author, err := snpmeasure.ParsePrivateKey("author.pem", []byte(v.Author))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range v.Cases {
		b := snpmeasure.IDBlock{LaunchDigest: sha384(t, c.Digest), Version: 1, Policy: snpmeasure.DefaultPolicy}
		block, err := b.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		if hex.EncodeToString(block) != c.Block {
			t.Errorf("block = %x, want %s", block, c.Block)
		}
		back, err := snpmeasure.ParseIDBlock("block", block)
		if err != nil || *back != b {
			t.Errorf("read back = %+v, %v, want %+v", back, err, b)
		}
		want := unhex(t, c.Auth)
		theirs, err := snpmeasure.ParseIDAuth("auth", want)
		if err != nil {
			t.Fatal(err)
		}
		if err := theirs.Verify(block); err != nil {
			t.Error(err)
		}
		if !bytes.Equal(theirs.Bytes(), want) {
			t.Error("the reference's structure does not survive reading and writing")
		}
		ours, err := snpmeasure.SignID(block, id, author)
		if err != nil {
			t.Fatal(err)
		}
		if err := ours.Verify(block); err != nil {
			t.Error(err)
		}
		if err := ours.Verify(append(bytes.Clone(block[:95]), 1)); !errors.Is(err, snpmeasure.ErrIDKeys) {
			t.Errorf("another block: error = %v, want ErrIDKeys", err)
		}
		if ours.IDKey.Digest().Hex() != c.IDSum || ours.AuthorKey.Digest().Hex() != c.Author {
			t.Errorf("key digests = %s, %s, want %s, %s", ours.IDKey.Digest().Hex(), ours.AuthorKey.Digest().Hex(), c.IDSum, c.Author)
		}
		ours.Signature, ours.AuthorSignature = theirs.Signature, theirs.AuthorSignature
		if !bytes.Equal(ours.Bytes(), want) {
			t.Error("structure differs outside the signatures")
		}
	}
}

// TestIDAuthEveryBit: no changed bit of block or authentication is accepted,
// but for the author's algorithm where there is no author.
func TestIDAuthEveryBit(t *testing.T) {
	id, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	author, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	b := snpmeasure.IDBlock{LaunchDigest: digest.SHA384.Sum(nil), Version: 1, GuestSVN: 7, Policy: 0xb0000}
	block, err := b.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	signed, err := snpmeasure.SignID(block, id, author)
	if err != nil {
		t.Fatal(err)
	}
	auth := signed.Bytes()
	accepts := func(block, auth []byte) bool {
		a, err := snpmeasure.ParseIDAuth("auth", auth)
		return err == nil && a.Verify(block) == nil
	}
	if !accepts(block, auth) {
		t.Fatal("the signed block is not accepted")
	}
	for i := range len(block) * 8 {
		block[i/8] ^= 1 << (i % 8)
		if accepts(block, auth) {
			t.Errorf("block: bit %d makes no difference", i)
		}
		block[i/8] ^= 1 << (i % 8)
	}
	for i := range len(auth) {
		bit := byte(1) << (i % 8)
		auth[i] ^= bit
		if accepts(block, auth) {
			t.Errorf("authentication: byte %#x makes no difference", i)
		}
		auth[i] ^= bit
	}
}

func TestContrastID(t *testing.T) {
	type row struct {
		Name, Variant string
		Digest        string `json:"launch_digest"`
		Policy        uint64 `json:"guest_policy_u64"`
		Block         string `json:"id_block_base64"`
		AuthSum       string `json:"id_auth_sha256"`
		X             string `json:"id_key_x_be"`
		Y             string `json:"id_key_y_be"`
		Key           string `json:"id_key_sha384"`
	}
	for _, name := range []string{"idblock.json", "idblock-early.json"} {
		var rows []row
		readJSON(t, fixture(t, name), &rows)
		if len(rows) == 0 {
			t.Fatalf("%s is empty", name)
		}
		for _, r := range rows {
			b, a, err := snpmeasure.ContrastID(snpmeasure.ContrastForm(r.Variant), sha384(t, r.Digest), r.Policy)
			if err != nil {
				t.Errorf("%s: %v", r.Name, err)
				continue
			}
			block, err := b.Bytes()
			if err != nil {
				t.Fatal(err)
			}
			for _, c := range [][3]string{
				{"block", base64.StdEncoding.EncodeToString(block), r.Block},
				{"authentication", digest.SHA256.Sum(a.Bytes()).Hex(), r.AuthSum},
				{"x", hex.EncodeToString(a.IDKey.X[:]), r.X},
				{"y", hex.EncodeToString(a.IDKey.Y[:]), r.Y},
				{"key digest", a.IDKey.Digest().Hex(), r.Key},
			} {
				if c[1] != c[2] {
					t.Errorf("%s: %s = %s, want %s", r.Name, c[0], c[1], c[2])
				}
			}
		}
	}
	if _, _, err := snpmeasure.ContrastID("late", digest.SHA384.Sum(nil), 0); !errors.Is(err, snpmeasure.ErrSetting) {
		t.Errorf("unknown form: error = %v", err)
	}
}

func TestParseID(t *testing.T) {
	for in, want := range map[string]string{
		"":                                 strings.Repeat("00", 16),
		"prod-small-sev##":                 hex.EncodeToString([]byte("prod-small-sev##")),
		"v1":                               "7631" + strings.Repeat("00", 14),
		"000102030405060708090a0b0c0d0eff": "000102030405060708090a0b0c0d0eff",
	} {
		got, err := snpmeasure.ParseID(in)
		if err != nil || hex.EncodeToString(got[:]) != want {
			t.Errorf("ParseID(%q) = %x, %v, want %s", in, got, err, want)
		}
	}
	for _, bad := range []string{"seventeen letters", "+0102030405060708090a0b0c0d0eff0", "0x0102030405060708090a0b0c0d0eff", "00_102030405060708090a0b0c0d0e0f"} {
		if got, err := snpmeasure.ParseID(bad); err == nil {
			t.Errorf("ParseID(%q) = %x, want an error", bad, got)
		}
	}
}

func TestPrivateKeysRefused(t *testing.T) {
	for name, pem := range map[string]string{
		"nothing":     "",
		"certificate": "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n",
		"not a key":   "-----BEGIN PRIVATE KEY-----\nMAA=\n-----END PRIVATE KEY-----\n",
	} {
		if _, err := snpmeasure.ParsePrivateKey(name, []byte(pem)); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
