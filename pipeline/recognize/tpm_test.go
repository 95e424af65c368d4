package recognize_test

import (
	"bytes"
	"crypto/sha1"
	"encoding/binary"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/retally/retally/internal/testenv"
	"github.com/retally/retally/pipeline/recognize"
	"github.com/retally/retally/pipeline/stages"
)

// sha1Record is a record of a log without a head.
func sha1Record(pcr, kind uint32, data []byte) []byte {
	le := binary.LittleEndian
	sum := sha1.Sum(data)
	b := le.AppendUint32(le.AppendUint32(nil, pcr), kind)
	b = le.AppendUint32(append(b, sum[:]...), uint32(len(data)))
	return append(b, data...)
}

// TestTPMLogs: both forms of a firmware's log are known, and little else is taken
// for one; a file that Linux calls a log is one, whatever is in it.
func TestTPMLogs(t *testing.T) {
	old := bytes.Join([][]byte{sha1Record(0, 8, []byte("v")), sha1Record(4, 0x80000007, []byte("Calling")), sha1Record(0, 4, make([]byte, 4))}, nil)
	for _, tt := range []struct {
		name string
		data []byte
		want recognize.Kind
	}{
		{"x", old, recognize.KindTPMLog},
		{"x", append(bytes.Clone(old), make([]byte, 100)...), recognize.KindTPMLog}, // filling
		{"x", old[:len(old)-1], recognize.KindUnknown},
		{"binary_bios_measurements", old[:len(old)-1], recognize.KindTPMLog},
		{"tpm0_binary_bios_measurements.bin", []byte("text"), recognize.KindTPMLog},
		{"x", sha1Record(0, 8, []byte("v")), recognize.KindUnknown}, // no separator
		{"x", append(bytes.Clone(old), sha1Record(0xffffffff, 3, []byte("of Windows"))...), recognize.KindTPMLog},
		{"x", sha1Record(0, 3, append([]byte("StartupLocality\x00"), 3)), recognize.KindTPMLog},
		{"binary_bios_measurements", nil, recognize.KindTPMLog},
		{"x", sha1Record(24, 4, make([]byte, 4)), recognize.KindUnknown},
		{"x", sha1Record(0, 0x99, make([]byte, 4)), recognize.KindUnknown},
		{"x", make([]byte, 64), recognize.KindUnknown},
		{"x", nil, recognize.KindUnknown},
	} {
		if got := recognize.Content(tt.name, tt.data); got != tt.want {
			t.Errorf("%s of %d bytes: %q, want %q", tt.name, len(tt.data), got, tt.want)
		}
	}
}

// TestGoldenForm: golden measurements are known by their form, also where a value
// of theirs is broken.
func TestGoldenForm(t *testing.T) {
	for text, want := range map[string]recognize.Kind{
		`{"measurements":{"0":"` + strings.Repeat("ab", 32) + `"}}`: recognize.KindGolden,
		`{"measurements":{}}`:                      recognize.KindGolden,
		`{"measurements":{"0":"short"},"more":1}`:  recognize.KindGolden,
		`{"measurements":{"0":1,"99":"x"}}`:        recognize.KindGolden,
		`{"measurements":[]}`:                      recognize.KindUnknown,
		`{"measurements":{"mrtd":"00"}}`:           recognize.KindUnknown,
		`{"measurements":{"0":"x","name":"host"}}`: recognize.KindUnknown,
	} {
		if got := recognize.Content("golden.json", []byte(text)); got != want {
			t.Errorf("%s: %q, want %q", text, got, want)
		}
	}
}

// TestFieldLogs: the logs that were collected from machines are all recognized.
func TestFieldLogs(t *testing.T) {
	n := 0
	err := filepath.WalkDir(testenv.Vectors(t, "own/tpm/boots"), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.Name() != "eventlog.bin" {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if n++; recognize.Content("log", data) != recognize.KindTPMLog {
			t.Errorf("%s is %q", path, recognize.Content("log", data))
		}
		return nil
	})
	if err != nil || n < 17 {
		t.Errorf("%d logs, %v", n, err)
	}
}

// TestGoogleKeys: certificates of keys that sign are known as such with and without
// an extended key usage; those of keys that only decrypt are none.
func TestGoogleKeys(t *testing.T) {
	dir := testenv.Vectors(t, "published/field/tpm/go-tpm-tools/gce-ak-certs")
	for name, want := range map[string]bool{
		"pca_tpm_ecc_sign_cert.pem": true, "pca_tpm_rsa_sign_cert.pem": true, "uca_tpm_ecc_sign_cert.pem": true, "uca_tpm_rsa_sign_cert.pem": true,
		"pca_tpm_ecc_enc_cert.pem": false, "pca_tpm_rsa_enc_cert.pem": false, "uca_tpm_ecc_enc_cert.pem": false, "uca_tpm_rsa_enc_cert.pem": false,
	} {
		data, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		folder := t.TempDir()
		if err := os.WriteFile(filepath.Join(folder, "x.pem"), data, 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := recognize.Look(t.Context(), stages.Table(), []string{folder}, nil)
		if (err == nil) != want || want && s.Found[0].Kind != recognize.KindAK {
			t.Errorf("%s in a folder: %v, want a key: %v", name, err, want)
		}
	}
}
