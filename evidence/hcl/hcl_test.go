package hcl_test

import (
	"bytes"
	"crypto/rsa"
	"encoding/binary"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/retally/retally/evidence/hcl"
	"github.com/retally/retally/evidence/tdxquote"
	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/testenv"
)

func read(t testing.TB, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestField: the reports of Azure's machines, SNP and TDX, are read, written
// back byte by byte, and their hardware report vouches for the runtime data.
func TestField(t *testing.T) {
	dir := testenv.Vectors(t, "published/field")
	for file, want := range map[string]struct {
		kind  hcl.Type
		quote string // TDX: the quote beside it, whose report data count
		vm    string
	}{
		"attestation-rs/az_snp/hcl-report.bin":           {hcl.SNP, "", ""},
		"azure/cvm-tooling/hcl-report-snp.bin":           {hcl.SNP, "", "BAEFD3E1-184B-4C4C-AB88-0BDAD260505F"},
		"cosmian/azure_cvm/data/hcl_report_sev.bin":      {hcl.SNP, "", "D91A5567-1318-43B0-BB40-B575DBD70231"},
		"trustee/az-snp-vtpm/hcl-report.bin":             {hcl.SNP, "", "911B0EF8-9DBA-48B0-B275-4E4DF2D39252"},
		"attestation-rs/az_tdx/hcl-report.bin":           {hcl.TDX, "attestation-rs/az_tdx/td-quote.bin", ""},
		"azure/cvm-tooling/hcl-report-tdx.bin":           {hcl.TDX, "", ""},
		"constellation/azure/tdx/testdata/hclreport.bin": {hcl.TDX, "", ""},
		"cosmian/azure_cvm/data/hcl_report_tdx.bin":      {hcl.TDX, "", ""},
		"trustee/az-tdx-vtpm/hcl-report.bin":             {hcl.TDX, "trustee/az-tdx-vtpm/td-quote.bin", "6332533D-5649-4D02-8AA7-8F64B7C3EE21"},
	} {
		raw := read(t, filepath.Join(dir, file))
		r, err := hcl.Parse(raw)
		if err != nil {
			t.Errorf("%s: %v", file, err)
			continue
		}
		if !bytes.Equal(r.Marshal(), raw) {
			t.Errorf("%s: Marshal does not give the bytes back", file)
		}
		if r.Type != want.kind || r.Runtime.AK == nil || r.Runtime.AK.N.BitLen() != 2048 || want.vm != "" && r.Runtime.VMID != want.vm {
			t.Errorf("%s: %s, VM %s, AK %v", file, r.Type, r.Runtime.VMID, r.Runtime.AK)
		}
		if !r.Bound(r.ReportData()) {
			t.Errorf("%s: report data %x, runtime data %x", file, r.ReportData(), r.RuntimeDigest())
		}
		if want.quote != "" {
			q, err := tdxquote.Parse(read(t, filepath.Join(dir, want.quote)))
			if err != nil {
				t.Fatal(err)
			}
			if !r.Bound(q.Body.ReportData) {
				t.Errorf("%s: the quote's report data are %x", file, q.Body.ReportData)
			}
		}
	}
}

// made is a report of ours.
func made() *hcl.Report {
	ak := &rsa.PublicKey{N: new(big.Int).SetBit(big.NewInt(1), 2047, 1), E: 65537}
	r := &hcl.Report{Version: 1, Type: hcl.SNP, Algorithm: digest.SHA256, RuntimeData: hcl.RuntimeJSON(ak, "vm")}
	sum := r.RuntimeDigest()
	copy(r.Hardware[0x50:], sum[:])
	return r
}

func TestParseRefuses(t *testing.T) {
	good := append(made().Marshal(), make([]byte, 100)...)
	if r, err := hcl.Parse(good); err != nil || !r.Bound(r.ReportData()) || r.Runtime.VMID != "vm" || r.Runtime.SecureBoot == nil || !*r.Runtime.SecureBoot {
		t.Fatalf("%v %+v", err, r)
	}
	set := func(at int, v uint32) []byte {
		raw := bytes.Clone(good)
		binary.LittleEndian.PutUint32(raw[at:], v)
		return raw
	}
	runtime := func(text string) []byte {
		r := made()
		r.RuntimeData = []byte(text)
		return r.Marshal()
	}
	const key = `{"kid":"HCLAkPub","kty":"RSA","e":"AQAB","n":"`
	long := strings.Repeat("_", 341) + "w"
	tdx := made()
	tdx.Type, tdx.Hardware[1100] = hcl.TDX, 1
	for _, tt := range []struct {
		name, want string
		data       []byte
	}{
		{"nothing", "0 bytes", nil},
		{"short", "1000 bytes", good[:1000]},
		{"large", "want 1236 to", make([]byte, 1<<20)},
		{"signature", "signature", set(0, 7)},
		{"version", "version: found 3", set(4, 3)},
		{"report size", "report size", set(8, 7)},
		{"request", "request type", set(12, 3)},
		{"status", "status", set(16, 1)},
		{"reserved", "reserved", set(24, 1)},
		{"request size", "size of the request data", set(1216, 1)},
		{"request version", "version of the request data", set(1220, 2)},
		{"type", "report type: found 3", set(1224, 3)},
		{"hash", "hash type: found 4", set(1228, 4)},
		{"runtime size", "what is left", set(1232, 0xffffffff)},
		{"after the end", "after the runtime data", set(len(good)-4, 1)},
		{"after the TD report", "after the TD report", tdx.Marshal()},
		{"no JSON", "runtime data", runtime("hello")},
		{"a key twice", "appears twice", runtime(`{"keys":[],"keys":[]}`)},
		{"no keys", "no array", runtime(`{}`)},
		{"no AK", "no key HCLAkPub", runtime(`{"keys":[{"kid":"x"}]}`)},
		{"two AKs", "a second key HCLAkPub", runtime(`{"keys":[` + key + long + `"},` + key + long + `"}]}`)},
		{"short key", "a modulus of 12 bits", runtime(`{"keys":[` + key + `D_8"}]}`)},
		{"long key", "at most 4096 bits", runtime(`{"keys":[` + key + strings.Repeat("_", 4000) + `"}]}`)},
		{"exponent", "the exponent 3", runtime(`{"keys":[{"kid":"HCLAkPub","kty":"RSA","e":"Aw","n":"` + long + `"}]}`)},
		{"no RSA", `kty "EC"`, runtime(`{"keys":[{"kid":"HCLAkPub","kty":"EC"}]}`)},
		{"user data", "hexadecimal", runtime(`{"keys":[` + key + long + `"}],"user-data":"xx"}`)},
	} {
		if _, err := hcl.Parse(tt.data); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want %q", tt.name, err, tt.want)
		}
	}
}

// FuzzHCL: no panic; what parses is written back byte by byte; and report data
// vouch for no other runtime data.
func FuzzHCL(f *testing.F) {
	f.Add(append(made().Marshal(), 0, 0, 0))
	tdx := made()
	tdx.Type, tdx.Version, tdx.Algorithm = hcl.TDX, 2, digest.SHA512
	f.Add(tdx.Marshal())
	vouched := made().ReportData()
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := hcl.Parse(data)
		if err != nil {
			return
		}
		if !bytes.Equal(r.Marshal(), data) {
			t.Fatal("Marshal does not give the bytes back")
		}
		if r.Runtime.AK == nil {
			t.Fatal("no key and no error")
		}
		if r.Bound(vouched) && !bytes.Equal(r.RuntimeData, made().RuntimeData) {
			t.Fatal("other runtime data are vouched for")
		}
	})
}
