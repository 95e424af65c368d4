package tdxquote_test

import (
	"bytes"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/retally/retally/evidence/fake"
	"github.com/retally/retally/evidence/malformed"
	"github.com/retally/retally/evidence/tdxquote"
	"github.com/retally/retally/evidence/verdict"
	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/testenv"
)

var (
	from  = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	until = time.Date(2033, 1, 1, 0, 0, 0, 0, time.UTC)
	now   = time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC)
)

func platform(t testing.TB) *fake.Platform {
	t.Helper()
	p, err := fake.NewPlatform("tdxquote", from, until)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func quote(t testing.TB, p *fake.Platform, b tdxquote.Body, o fake.Options) []byte {
	t.Helper()
	raw, err := p.Quote(b, o)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// body is a report with every field different from its neighbors.
func body() tdxquote.Body {
	var b tdxquote.Body
	b.TEETCBSVN = [16]byte{6, 1, 3}
	b.MRTD = digest.SHA384.Sum([]byte("mrtd"))
	for i := range b.RTMR {
		b.RTMR[i] = digest.SHA384.Sum([]byte{byte(i)})
	}
	b.TDAttributes, b.XFAM = [8]byte{0, 0, 0, 0x10}, [8]byte{0xe7, 0x02, 0x06}
	copy(b.ReportData[:], bytes.Repeat([]byte("rd"), 32))
	b.MRCONFIGID[0], b.MROWNER[1], b.MROWNERCONFIG[2] = 1, 2, 3
	b.TEETCBSVN2 = [16]byte{13, 1, 3}
	b.Extended = tdxquote.Extended{VMID: 2, TDID: [32]byte{9: 7}, InitTEEFMSPC: [12]byte{1}}
	return b
}

func failed(checks []verdict.Check) []string {
	var out []string
	for _, c := range checks {
		if c.Verdict == verdict.Fail {
			out = append(out, c.Name)
		}
	}
	return out
}

// TestVersions signs and verifies every version and body type.
func TestVersions(t *testing.T) {
	p := platform(t)
	for _, tt := range []struct {
		name string
		o    fake.Options
		size int
	}{
		{"v4", fake.Options{Trailing: 70}, 584},
		{"v5 TD 1.0", fake.Options{Version: 5, BodyType: tdxquote.TD10}, 584},
		{"v5 TD 1.5", fake.Options{Version: 5, BodyType: tdxquote.TD15}, 648},
		{"v5 extended", fake.Options{Version: 5, BodyType: tdxquote.TD15Ex}, 885},
	} {
		raw := quote(t, p, body(), tt.o)
		q, err := tdxquote.Parse(raw)
		if err != nil {
			t.Fatalf("%s: %v", tt.name, err)
		}
		if !bytes.Equal(q.Marshal(), raw) {
			t.Errorf("%s: Marshal does not give the bytes back", tt.name)
		}
		head := 48
		if tt.o.Version == 5 {
			head = 54
		}
		if got := len(q.SignedBytes()); got != head+tt.size {
			t.Errorf("%s: %d bytes are signed, want %d", tt.name, got, head+tt.size)
		}
		if got, reason := judge(raw, tdxquote.Options{At: now, Roots: []*x509.Certificate{p.Root}}); got != "accept" {
			t.Errorf("%s: %s %s", tt.name, got, reason)
		}
		if got, reason := judge(raw, tdxquote.Options{At: now}); got != "reject" || !strings.Contains(reason, "root that is not trusted") {
			t.Errorf("%s under Intel's root: got %s %q, want a rejected root", tt.name, got, reason)
		}
	}
}

// TestNotTrusted are quotes that are signed and still must not pass.
func TestNotTrusted(t *testing.T) {
	p := platform(t)
	roots := []*x509.Certificate{p.Root}
	seam := digest.SHA384.Sum([]byte("module"))
	for _, tt := range []struct {
		name   string
		change func(*tdxquote.Body)
		o      fake.Options
		v      tdxquote.Options
		want   string
	}{
		{name: "debug", change: func(b *tdxquote.Body) { b.TDAttributes[0] = 1 }, want: "td-debug"},
		{name: "under-debug group", change: func(b *tdxquote.Body) { b.TDAttributes[0] = 0x80 }, want: "td-debug"},
		{name: "module not Intel's", change: func(b *tdxquote.Body) { b.MRSIGNERSEAM = seam }, want: "mr-signer-seam"},
		{name: "module not for production", change: func(b *tdxquote.Body) { b.SEAMAttributes[7] = 1 }, want: "seam-attributes"},
		{name: "foreign quoting enclave", o: fake.Options{ForeignQE: true}, want: "qe-identity"},
		{name: "module not listed", change: func(b *tdxquote.Body) { b.MRSEAM = digest.SHA384.Sum(nil) }, v: tdxquote.Options{MRSEAM: []digest.Digest{seam}}, want: "mr-seam"},
		{name: "before", v: tdxquote.Options{At: from.Add(-time.Second)}, want: "pck-chain"},
		{name: "after", v: tdxquote.Options{At: until.Add(time.Second)}, want: "pck-chain"},
		{name: "good", change: func(b *tdxquote.Body) { b.MRSEAM = seam }, v: tdxquote.Options{MRSEAM: []digest.Digest{seam}}},
	} {
		b := body()
		if tt.change != nil {
			tt.change(&b)
		}
		q, err := tdxquote.Parse(quote(t, p, b, tt.o))
		if err != nil {
			t.Fatalf("%s: %v", tt.name, err)
		}
		tt.v.Roots = roots
		if tt.v.At.IsZero() {
			tt.v.At = now
		}
		r, err := tdxquote.Verify(q, tt.v)
		if err != nil {
			t.Fatalf("%s: %v", tt.name, err)
		}
		if got := strings.Join(failed(r.Checks), " "); got != tt.want {
			t.Errorf("%s: failed checks %q, want %q", tt.name, got, tt.want)
		}
	}
}

func TestNoTime(t *testing.T) {
	q, err := tdxquote.Parse(quote(t, platform(t), body(), fake.Options{}))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tdxquote.Verify(q, tdxquote.Options{}); err == nil {
		t.Error("a verdict without a time was given")
	}
	if _, err := tdxquote.Verify(q, tdxquote.Options{At: now, Roots: []*x509.Certificate{}}); err == nil {
		t.Error("a verdict under no root was given")
	}
}

// TestCollateral judges a platform by its levels.
func TestCollateral(t *testing.T) {
	p := platform(t)
	raw := quote(t, p, body(), fake.Options{})
	for _, tt := range []struct {
		name   string
		l      fake.Levels
		accept []string
		status string
		failed string
	}{
		{name: "up to date", status: "UpToDate"},
		{name: "FMSPC in small letters", l: fake.Levels{FMSPC: "b0c06f000000"}, status: "UpToDate"},
		{name: "out of date", l: fake.Levels{Status: "OutOfDate"}, status: "OutOfDate", failed: "tcb"},
		{name: "out of date, accepted", l: fake.Levels{Status: "OutOfDate"}, accept: []string{"OutOfDate"}, status: "OutOfDate"},
		{name: "revoked level cannot be accepted", l: fake.Levels{Status: "Revoked"}, accept: []string{"Revoked"}, status: "Revoked", failed: "tcb"},
		{name: "module out of date", l: fake.Levels{Module: "OutOfDate"}, status: "OutOfDate", failed: "tcb"},
		{name: "module out of date, to be configured", l: fake.Levels{Status: "ConfigurationNeeded", Module: "OutOfDate"}, status: "OutOfDateConfigurationNeeded", failed: "tcb"},
		{name: "enclave out of date, to be hardened", l: fake.Levels{Status: "SWHardeningNeeded", QE: "OutOfDate"}, accept: []string{"SWHardeningNeeded"}, status: "OutOfDate", failed: "tcb"},
		{name: "enclave revoked", l: fake.Levels{QE: "Revoked"}, status: "Revoked", failed: "tcb"},
		{name: "unknown status", l: fake.Levels{Status: "OutOfDate", QE: "Odd"}, accept: []string{"OutOfDate"}, status: "OutOfDate and Odd", failed: "tcb"},
		{name: "no level", l: fake.Levels{PCESVN: 99}, failed: "tcb"},
		{name: "other FMSPC", l: fake.Levels{FMSPC: "00606A000000"}, failed: "tcb"},
		{name: "PCK revoked", l: fake.Levels{Revoked: true}, failed: "revocation"},
		{name: "not yet", l: fake.Levels{Issued: now.Add(time.Hour), Next: until}, failed: "tcb-info qe-identity-collateral root-crl pck-crl"},
		{name: "stale", l: fake.Levels{Issued: from, Next: now.Add(-time.Hour)}, failed: "tcb-info qe-identity-collateral root-crl pck-crl"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			file, err := p.Collateral(tt.l)
			if err != nil {
				t.Fatal(err)
			}
			c, err := tdxquote.ParseCollateral("c.json", file)
			if err != nil {
				t.Fatal(err)
			}
			q, err := tdxquote.Parse(raw)
			if err != nil {
				t.Fatal(err)
			}
			r, err := tdxquote.Verify(q, tdxquote.Options{At: now, Roots: []*x509.Certificate{p.Root}, Collateral: c, AcceptTCB: tt.accept})
			if err != nil {
				t.Fatal(err)
			}
			seen := map[string]bool{}
			var names []string
			for _, n := range failed(r.Checks) {
				if !seen[n] {
					names = append(names, n)
				}
				seen[n] = true
			}
			if got := strings.Join(names, " "); got != tt.failed && !(tt.failed == "tcb-info qe-identity-collateral root-crl pck-crl" && len(names) == 4) {
				t.Errorf("failed checks %q, want %q: %+v", got, tt.failed, r.Checks)
			}
			status := ""
			if r.TCB != nil {
				status = r.TCB.Status
			}
			if status != tt.status {
				t.Errorf("status %q, want %q", status, tt.status)
			}
		})
	}
}

// TestErrors names offset, field, found and expected.
func TestErrors(t *testing.T) {
	good := quote(t, platform(t), body(), fake.Options{})
	five := quote(t, platform(t), body(), fake.Options{Version: 5, BodyType: tdxquote.TD15})
	put16 := func(at int, v uint16) func([]byte) []byte {
		return func(b []byte) []byte { binary.LittleEndian.PutUint16(b[at:], v); return b }
	}
	put32 := func(at int, v uint32) func([]byte) []byte {
		return func(b []byte) []byte { binary.LittleEndian.PutUint32(b[at:], v); return b }
	}
	for _, tt := range []struct {
		name string
		base []byte
		edit func([]byte) []byte
		want string
	}{
		{"version 3", good, put16(0, 3), "read TDX quote: offset 0: version: found 3, want 4 or 5"},
		{"key type", good, put16(2, 3), "offset 2: attestation key type: found 3"},
		{"SGX", good, put32(4, 0), "offset 4: TEE type: found 0 (SGX), want 0x81 (TDX)"},
		{"empty", good, func([]byte) []byte { return nil }, "offset 0: version: found 0 bytes left, want 2 bytes"},
		{"header only", good, func(b []byte) []byte { return b[:48] }, "offset 48: TEE_TCB_SVN: found 0 bytes left, want 16 bytes"},
		{"cut in RTMR2", good, func(b []byte) []byte { return b[:500] }, "offset 472: RTMR2: found 28 bytes left, want 48 bytes"},
		{"signature length", good, put32(632, 1<<31), "offset 632: signature data length: found 2147483648, want at most"},
		{"signature data short", good, put32(632, 40), "offset 636: quote signature: found 40 bytes left, want 64 bytes"},
		{"certification type", good, put16(764, 5), "offset 764: certification data type: found 5, want 6 (QE report)"},
		{"authentication data", good, put16(1218, 0xffff), "QE authentication data: found"},
		{"certificate type", good, put16(1252, 1), "offset 1252: PCK certificate data type: found 1, want 5 (PEM chain)"},
		{"certificate size", good, put32(1254, 7), "offset 1254: PCK certificate data size: found 7, want"},
		{"body type", five, put16(48, 1), "offset 48: body type: found 1, want 2, 3 or 4 (TDX)"},
		{"body size", five, put32(50, 584), "offset 50: body size: found 584, want 648 for TD 1.5"},
		{"too large", good, func(b []byte) []byte { return append(b, make([]byte, tdxquote.MaxSize)...) }, "want at most 131072"},
	} {
		_, err := tdxquote.Parse(tt.edit(bytes.Clone(tt.base)))
		var typed *malformed.Error
		if !errors.As(err, &typed) || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want a malformed.Error with %q", tt.name, err, tt.want)
		}
	}
}

func TestCollateralErrors(t *testing.T) {
	file, err := platform(t).Collateral(fake.Levels{})
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ old, new, want string }{
		{`"tcb_info_signature"`, `"other"`, "/tcb_info_signature: found nothing, want a string"},
		{`"root_ca_crl":"30`, `"root_ca_crl":"3`, "/root_ca_crl: found encoding/hex: odd length"},
		{`"root_ca_crl":"30`, `"root_ca_crl":"31`, "/root_ca_crl: found x509"},
		{`\"id\":\"TD_QE\"`, `\"id\":\"QE\"`, `/qe_identity: /id: found "QE", want "TD_QE"`},
		{`\"pcesvn\":13`, `\"pcesvn\":-1`, "/tcb_info: /tcbLevels/0/tcb/pcesvn: found -1"},
		{`{\"svn\":5},`, ``, "/sgxtcbcomponents: found 15 components, want 16"},
		{`\"version\":3`, `\"version\":2`, "/version: found 2, want 3"},
		{`\"fmspc\":\"B0`, `\"fmspc\":\"`, "/fmspc: found"},
		{`{"`, `["`, "read c.json: "},
	} {
		edited := strings.Replace(string(file), tt.old, tt.new, 1)
		if edited == string(file) {
			t.Fatalf("%s is not in the file", tt.old)
		}
		_, err := tdxquote.ParseCollateral("c.json", []byte(edited))
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want %q", tt.old, err, tt.want)
		}
	}
}

// flips turns single bits at random over all bytes that signatures cover and
// over the signatures themselves: none may be accepted. QE authentication data,
// certificates in PEM and length fields are among them.
func flips(t *testing.T, raw []byte, o tdxquote.Options, n int) {
	t.Helper()
	if got, reason := judge(raw, o); got != "accept" {
		t.Fatalf("the quote itself: %s %s", got, reason)
	}
	q, err := tdxquote.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	covered := len(raw) - len(q.Trailing)
	r := rand.New(rand.NewPCG(1, uint64(n)))
	mutant := bytes.Clone(raw)
	for range n {
		bit := r.IntN(covered * 8)
		mutant[bit/8] ^= 1 << (bit % 8)
		if got, _ := judge(mutant, o); got != "reject" {
			t.Errorf("bit %d of byte %d can be flipped", bit%8, bit/8)
		}
		mutant[bit/8] ^= 1 << (bit % 8)
	}
}

func TestFlipsOwn(t *testing.T) {
	p := platform(t)
	n := 300
	if testenv.IsLong() {
		n = 10000
	}
	o := tdxquote.Options{At: now, Roots: []*x509.Certificate{p.Root}}
	flips(t, quote(t, p, body(), fake.Options{}), o, n)
	flips(t, quote(t, p, body(), fake.Options{Version: 5, BodyType: tdxquote.TD15Ex}), o, n)
}

func TestFlipsReal(t *testing.T) {
	dir := testenv.Vectors(t, "published/quotes/tdx")
	n := 150
	if testenv.IsLong() {
		n = 10000
	}
	for name, at := range map[string]time.Time{
		"tdx-small.bin": now, "tdx-gpu.bin": now, "tdx-spr-e4.bin": time.Date(2023, 7, 1, 0, 0, 0, 0, time.UTC),
		"dcap-v4.bin": time.Unix(1750332747, 0), "dcap-v5-td15.bin": time.Unix(1771415931, 0), "dcap-v5-td15ex.bin": time.Unix(1791421786, 0),
	} {
		raw, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		flips(t, raw, tdxquote.Options{At: at}, n)
	}
}

func TestIntelRoot(t *testing.T) {
	root, err := tdxquote.IntelRoot()
	if err != nil {
		t.Fatal(err)
	}
	if got, want := digest.SHA256.Sum(root.Raw).Hex(), "44a0196b2b99f889b8e149e95b807a350e7424964399e885a7cbb8ccfab674d3"; got != want {
		t.Errorf("embedded root is %s, want %s", got, want)
	}
	if err := root.CheckSignatureFrom(root); err != nil {
		t.Errorf("the root does not sign itself: %v", err)
	}
}
