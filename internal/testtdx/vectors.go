// Package testtdx makes the inputs of tests about TDX: the synthetic files of
// the golden vectors by their recipes, and small artifacts of its own. Only
// tests import it.
package testtdx

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/retally/retally/internal/ovmf"
	"github.com/retally/retally/internal/testenv"
)

// ReadJSON reads a file of the vectors.
func ReadJSON(t testing.TB, path string, into any) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, into); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
}

// Stream is SHA-256(label || counter) for counters from 0, cut to n bytes.
func Stream(label string, n int) []byte {
	var out []byte
	for i := uint32(0); len(out) < n; i++ {
		sum := sha256.Sum256(binary.LittleEndian.AppendUint32([]byte(label), i))
		out = append(out, sum[:]...)
	}
	return out[:n]
}

// Recipe describes a synthetic firmware (the vectors' recipes.json).
type Recipe struct {
	Size     int
	SHA256   string
	Note     string
	Sections []struct {
		DataOffset    uint32 `json:"data_offset"`
		RawSize       uint32 `json:"raw_data_size"`
		MemoryAddress uint64 `json:"memory_address"`
		MemorySize    uint64 `json:"memory_data_size"`
		Type          uint32
		Attributes    uint32
	}
	Overrides struct {
		Footer, MGUID, Sig string
		TL                 *uint16
		Version            *uint32
		MO, NSec, Length   *uint32
		ELen               *uint16
		ExtraEntry         *bool `json:"extra_entry"`
	}
}

// Build makes the synthetic firmware of a recipe.
func (r Recipe) Build(t testing.TB, name string) []byte {
	t.Helper()
	fw := Stream("tdvf:"+name, r.Size)
	le := binary.LittleEndian
	n := uint32(len(r.Sections))
	if r.Overrides.NSec != nil {
		n = *r.Overrides.NSec
	}
	length, version, sig := uint32(16+32*len(r.Sections)), uint32(1), []byte("TDVF")
	if r.Overrides.Length != nil {
		length = *r.Overrides.Length
	}
	if r.Overrides.Version != nil {
		version = *r.Overrides.Version
	}
	if r.Overrides.Sig != "" {
		sig, _ = hex.DecodeString(r.Overrides.Sig)
	}
	d := append([]byte(nil), sig...)
	d = le.AppendUint32(d, length)
	d = le.AppendUint32(d, version)
	d = le.AppendUint32(d, n)
	for _, s := range r.Sections {
		d = le.AppendUint32(d, s.DataOffset)
		d = le.AppendUint32(d, s.RawSize)
		d = le.AppendUint64(d, s.MemoryAddress)
		d = le.AppendUint64(d, s.MemorySize)
		d = le.AppendUint32(d, s.Type)
		d = le.AppendUint32(d, s.Attributes)
	}
	copy(fw[r.Size-0x900:], d)
	guid := func(text, override string) []byte {
		if override != "" {
			b, _ := hex.DecodeString(override)
			return b
		}
		g, err := ovmf.ParseGUID(text)
		if err != nil {
			t.Fatal(err)
		}
		return g[:]
	}
	back, entry := uint32(0x900), uint16(22)
	if r.Overrides.MO != nil {
		back = *r.Overrides.MO
	}
	if r.Overrides.ELen != nil {
		entry = *r.Overrides.ELen
	}
	table := le.AppendUint32(nil, back)
	table = le.AppendUint16(table, entry)
	table = append(table, guid("e47a6535-984a-4798-865e-4685a7bf8ec2", r.Overrides.MGUID)...)
	if r.Overrides.ExtraEntry == nil || *r.Overrides.ExtraEntry {
		table = le.AppendUint32(table, 0xdeadbeef)
		table = le.AppendUint16(table, 22)
		table = append(table, guid("00f771de-1a7e-4fcb-890e-68c77e2fb44e", "")...)
	}
	total := uint16(len(table) + 18)
	if r.Overrides.TL != nil {
		total = *r.Overrides.TL
	}
	table = le.AppendUint16(table, total)
	table = append(table, guid("96b582de-1fb2-45f7-baea-a366c55a082d", r.Overrides.Footer)...)
	copy(fw[r.Size-32-len(table):], table)
	return fw
}

// Files finds the inputs of the vectors by their names: shipped, made by a
// recipe, or of a Debian package.
type Files struct {
	Dir     string
	recipes map[string]Recipe
}

// NewFiles reads the recipes, or ends the test visibly.
func NewFiles(t testing.TB) *Files {
	t.Helper()
	f := &Files{Dir: testenv.Vectors(t, "own/tdx")}
	ReadJSON(t, filepath.Join(f.Dir, "recipes.json"), &f.recipes)
	return f
}

// cuts of the first recipe (SOURCES.md, er15 to er18).
var cuts = map[string]func([]byte) []byte{
	"er15-truncated-40": func(b []byte) []byte { return b[:40] },
	"er16-empty":        func([]byte) []byte { return nil },
	"er17-tail-only-64": func(b []byte) []byte { return b[len(b)-64:] },
	"er18-tail-4096":    func(b []byte) []byte { return b[len(b)-4096:] },
}

// Get returns the bytes of an input, or skips the test visibly.
func (f *Files) Get(t testing.TB, name string) []byte {
	t.Helper()
	if rest, ok := strings.CutPrefix(name, "deb:"); ok {
		return debFile(t, rest)
	}
	if data, err := os.ReadFile(filepath.Join(f.Dir, "files", name)); err == nil {
		return data
	}
	base := strings.TrimSuffix(strings.TrimSuffix(name, ".fd"), ".bin")
	r, ok := f.recipes[base]
	if !ok {
		t.Skipf("SKIP-VISIBLE vectors: no input %s", name)
	}
	var data []byte
	if cut, ok := cuts[base]; ok {
		data = cut(f.Get(t, "fw01-layoutA.fd"))
	} else {
		data = r.Build(t, base)
	}
	if sum := sha256.Sum256(data); hex.EncodeToString(sum[:]) != r.SHA256 {
		t.Fatalf("recipe of %s gives another file", name)
	}
	return data
}

// debFile looks for a file of a Debian package where packages put it, and in
// the folders that RETALLY_DEB_FILES lists, by its SHA-256.
func debFile(t testing.TB, name string) []byte {
	t.Helper()
	want, known := map[string]string{
		"ovmf_2022.11-6+deb12u2:OVMF.fd":                     "7b456907dd0786d415999e801a1ac4637b8ed4d7cf5378cfc6edbe5e574dd773",
		"ovmf_2022.11-6+deb12u2:OVMF_CODE_4M.fd":             "",
		"ovmf_2025.02-8+deb13u1:OVMF.fd":                     "14954040",
		"ovmf_2025.02-8+deb13u1:OVMF_CODE_4M.fd":             "",
		"ovmf-inteltdx_2026.08+ds-2:OVMF.inteltdx.ms.fd":     "",
		"ovmf-generic_2026.08+ds-2:OVMF.fd":                  "",
		"ovmf-legacy_2026.08+ds-2:OVMF.legacy.fd":            "",
		"linux-image-6.1.0-56-cloud-amd64_6.1.192-2:vmlinuz": "51349501",
	}[name]
	if !known {
		t.Fatalf("unknown package file %s", name)
	}
	if want == "" {
		want = debSums(t)[name]
	}
	_, base, _ := strings.Cut(name, ":")
	if base == "vmlinuz" {
		base = "vmlinuz-6.1.0-56-cloud-amd64"
	}
	dirs := append([]string{"/usr/share/ovmf", "/usr/share/OVMF", "/boot"}, filepath.SplitList(os.Getenv("RETALLY_DEB_FILES"))...)
	for _, dir := range dirs {
		data, err := os.ReadFile(filepath.Join(dir, base))
		if err != nil {
			continue
		}
		if sum := sha256.Sum256(data); strings.HasPrefix(hex.EncodeToString(sum[:]), want) {
			return data
		}
	}
	t.Skipf("SKIP-VISIBLE vectors: needs %s, which is not installed (RETALLY_DEB_FILES lists folders)", name)
	return nil
}

// debSums are the SHA-256 that the vectors give for package files.
func debSums(t testing.TB) map[string]string {
	var v struct {
		Vectors []struct {
			Firmware string
			Sum      string `json:"firmware_sha256"`
		}
	}
	ReadJSON(t, filepath.Join(testenv.Vectors(t, "own/tdx"), "oracle_runs.json"), &v)
	sums := map[string]string{}
	for _, r := range v.Vectors {
		if name, ok := strings.CutPrefix(r.Firmware, "deb:"); ok && r.Sum != "" {
			sums[name] = r.Sum
		}
	}
	return sums
}
