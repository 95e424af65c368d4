package nvidia_test

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/retally/retally/evidence/fake"
	"github.com/retally/retally/evidence/malformed"
	"github.com/retally/retally/evidence/nvidia"
	"github.com/retally/retally/evidence/verdict"
	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/testenv"
)

var (
	from  = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	until = time.Date(2033, 1, 1, 0, 0, 0, 0, time.UTC)
	now   = time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC)
	nonce = [32]byte{1, 2, 3}
)

func gpu(t testing.TB, seed string) *fake.GPU {
	t.Helper()
	g, err := fake.NewGPU(seed, from, until)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func evidence(t testing.TB, change func(*nvidia.Exchange), gpus ...*fake.GPU) []byte {
	t.Helper()
	file, err := fake.Evidence(nonce, change, gpus...)
	if err != nil {
		t.Fatal(err)
	}
	return file
}

func judge(file []byte, o nvidia.Options) (string, string) {
	f, err := nvidia.ParseFile("gpu.json", file)
	if err != nil {
		return "reject", err.Error()
	}
	checks, err := nvidia.Verify(f, o)
	if err != nil {
		return "reject", err.Error()
	}
	if j := verdict.Fold(checks); j.Verdict != verdict.Pass {
		return "reject", j.Reasons[0]
	}
	return "accept", ""
}

// real is the published evidence with one device taken apart.
type real struct {
	Nonce    string `json:"nonce"`
	Arch     string `json:"arch"`
	Evidence []struct {
		Certificate []byte `json:"certificate"`
		Evidence    []byte `json:"evidence"`
	} `json:"evidence_list"`
}

func published(t testing.TB) (string, real) {
	dir := testenv.Vectors(t, "published/quotes/gpu")
	data, err := os.ReadFile(filepath.Join(dir, "gpu_attest.json"))
	if err != nil {
		t.Fatal(err)
	}
	var r real
	if err := json.Unmarshal(data, &r); err != nil {
		t.Fatal(err)
	}
	return dir, r
}

func encode(t testing.TB, r real) []byte {
	t.Helper()
	out, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestMutants(t *testing.T) {
	dir, _ := published(t)
	data, err := os.ReadFile(filepath.Join(dir, "mutants.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	count := map[string]int{}
	for _, line := range bytes.Split(bytes.TrimSpace(data), []byte("\n")) {
		var m struct {
			ID, Part, Want string
			Op             struct {
				Flip  []int   `json:"evidence_flip"`
				Set   []int   `json:"cert_pem_set"`
				Nonce *string `json:"nonce"`
			}
		}
		if err := json.Unmarshal(line, &m); err != nil {
			t.Fatal(err)
		}
		_, r := published(t)
		o := nvidia.Options{At: now}
		switch {
		case m.Op.Flip != nil:
			r.Evidence[0].Evidence[m.Op.Flip[0]] ^= 1 << m.Op.Flip[1]
		case m.Op.Set != nil:
			r.Evidence[0].Certificate[m.Op.Set[0]] = byte(m.Op.Set[1])
		case m.Op.Nonce != nil:
			if o.Nonce, err = hex.DecodeString(*m.Op.Nonce); err != nil {
				t.Fatal(err)
			}
		}
		if got, reason := judge(encode(t, r), o); got != m.Want {
			t.Errorf("%s (%s): got %s %s, want %s", m.ID, m.Part, got, reason, m.Want)
		}
		count[m.Want]++
	}
	t.Logf("GPU mutants: %v", count)
	if count["accept"] == 0 || count["reject"] == 0 {
		t.Error("the vectors hold no mutants of both kinds")
	}
}

func TestPublished(t *testing.T) {
	dir, r := published(t)
	data, err := os.ReadFile(filepath.Join(dir, "gpu_attest.json"))
	if err != nil {
		t.Fatal(err)
	}
	f, err := nvidia.ParseFile("gpu_attest.json", data)
	if err != nil {
		t.Fatal(err)
	}
	x := f.Devices[0].Exchange
	if x.Driver() != "550.144.03" || x.VBIOS() != "96.00.9F.00.02" || len(x.Blocks) != 64 || f.Arch != "HOPPER" || hex.EncodeToString(f.Nonce[:]) != r.Nonce {
		t.Errorf("driver %q, VBIOS %q, %d blocks, arch %q, nonce %x", x.Driver(), x.VBIOS(), len(x.Blocks), f.Arch, f.Nonce)
	}
	if !bytes.Equal(x.Marshal(), r.Evidence[0].Evidence) {
		t.Error("Marshal does not give the bytes back")
	}
	checks, err := nvidia.Verify(f, nvidia.Options{At: now})
	if err != nil {
		t.Fatal(err)
	}
	firmware := false
	for _, c := range checks {
		firmware = firmware || c.Name == "gpu-firmware" && c.Verdict == verdict.Pass
	}
	if !firmware {
		t.Errorf("the firmware identity is not held against the certificate: %+v", checks)
	}
}

// flips turns single bits of the decoded exchange and of the PEM chain.
func flips(t *testing.T, r real, o nvidia.Options, n int) {
	t.Helper()
	if got, reason := judge(encode(t, r), o); got != "accept" {
		t.Fatalf("the evidence itself: %s %s", got, reason)
	}
	random := rand.New(rand.NewPCG(2, uint64(n)))
	for i := range n {
		part, name := r.Evidence[0].Evidence, "exchange"
		if i%2 == 1 {
			part, name = bytes.TrimRight(r.Evidence[0].Certificate, "\n"), "certificates"
		}
		bit := random.IntN(len(part) * 8)
		part[bit/8] ^= 1 << (bit % 8)
		if got, _ := judge(encode(t, r), o); got != "reject" {
			t.Errorf("bit %d of byte %d of the %s can be flipped", bit%8, bit/8, name)
		}
		part[bit/8] ^= 1 << (bit % 8)
	}
}

func TestFlips(t *testing.T) {
	g := gpu(t, "flips")
	var r real
	if err := json.Unmarshal(evidence(t, nil, g), &r); err != nil {
		t.Fatal(err)
	}
	n := 100
	if testenv.IsLong() {
		n = 10000
	}
	flips(t, r, nvidia.Options{At: now, Roots: []digest.Digest{g.Pin()}}, n)
}

func TestFlipsPublished(t *testing.T) {
	_, r := published(t)
	n := 100
	if testenv.IsLong() {
		n = 10000
	}
	flips(t, r, nvidia.Options{At: now}, n)
}

func TestVerify(t *testing.T) {
	a, b := gpu(t, "a"), gpu(t, "b")
	roots := []digest.Digest{a.Pin(), b.Pin()}
	for _, tt := range []struct {
		name   string
		gpus   []*fake.GPU
		change func(*nvidia.Exchange)
		o      nvidia.Options
		want   string
	}{
		{name: "one", gpus: []*fake.GPU{a}, o: nvidia.Options{At: now, Roots: roots}},
		{name: "two", gpus: []*fake.GPU{a, b}, o: nvidia.Options{At: now, Roots: roots, Nonce: nonce[:]}},
		{name: "one shown twice", gpus: []*fake.GPU{a, a}, o: nvidia.Options{At: now, Roots: roots}, want: "gpu1-chain: is the same device"},
		{name: "NVIDIA's root", gpus: []*fake.GPU{a}, o: nvidia.Options{At: now}, want: "gpu-chain: certificate 3"},
		{name: "late", gpus: []*fake.GPU{a}, o: nvidia.Options{At: until.Add(time.Second), Roots: roots}, want: "gpu-chain: certificate 1"},
		{name: "other nonce asked for", gpus: []*fake.GPU{a}, o: nvidia.Options{At: now, Roots: roots, Nonce: make([]byte, 32)}, want: "gpu-file-nonce: "},
		{name: "other nonce requested", gpus: []*fake.GPU{a}, change: func(x *nvidia.Exchange) { x.RequestNonce[0]++ }, o: nvidia.Options{At: now, Roots: roots}, want: "gpu-nonce: "},
		{name: "other firmware", gpus: []*fake.GPU{a}, change: func(x *nvidia.Exchange) { x.Opaque[2].Value = make([]byte, 48) }, o: nvidia.Options{At: now, Roots: roots}, want: "gpu-firmware: "},
		{name: "no time", gpus: []*fake.GPU{a}, o: nvidia.Options{Roots: roots}, want: "no time given"},
	} {
		got, reason := judge(evidence(t, tt.change, tt.gpus...), tt.o)
		if (got == "accept") != (tt.want == "") || !strings.Contains(reason, tt.want) {
			t.Errorf("%s: got %s %s, want %q", tt.name, got, reason, tt.want)
		}
	}
}

func TestErrors(t *testing.T) {
	g := gpu(t, "errors")
	good, err := g.Exchange(nonce, nil)
	if err != nil {
		t.Fatal(err)
	}
	set := func(at int, v byte) func([]byte) []byte {
		return func(b []byte) []byte { b[at] = v; return b }
	}
	for _, tt := range []struct {
		name string
		edit func([]byte) []byte
		want string
	}{
		{"empty", func([]byte) []byte { return nil }, "offset 0: request SPDM version: found 0 bytes left"},
		{"version", set(0, 0x12), "offset 0: request SPDM version: found 0x12, want 0x11"},
		{"no signature asked for", set(2, 0), "offset 2: request attributes"},
		{"code", set(38, 0x61), "offset 38: response code: found 0x61, want 0x60"},
		{"count", set(41, 9), "measurement record: found 4 blocks, want 9"},
		{"record length", set(44, 0xff), "measurement record: found"},
		{"specification", set(46, 2), "offset 46: measurement specification"},
		{"block size", set(47, 9), "offset 47: block size: found 9, want 51"},
		{"same index", set(45+55, 1), "block index: found 1 again"},
		{"cut", func(b []byte) []byte { return b[:len(b)-1] }, "signature: found 95 bytes left, want 96"},
		{"more", func(b []byte) []byte { return append(b, 1) }, "end: found 1 bytes more"},
		{"more behind zeros", func(b []byte) []byte { return append(b, 0, 0, 1) }, "end: found 3 bytes more"},
		{"too large", func([]byte) []byte { return make([]byte, nvidia.MaxExchange+1) }, "want at most 65536"},
	} {
		_, err := nvidia.ParseExchange(tt.edit(bytes.Clone(good)))
		var typed *malformed.Error
		if !errors.As(err, &typed) || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want %q", tt.name, err, tt.want)
		}
	}
	file := string(evidence(t, nil, g))
	for _, tt := range []struct{ old, new, want string }{
		{`"nonce":"01`, `"nonce":"0`, "/nonce: found"},
		{`"nonce"`, `"once"`, "/nonce: found nothing"},
		{`"arch":"HOPPER"`, `"arch":7`, "/arch: found a value of type number"},
		{`"evidence_list":[`, `"evidence_list":[],"x":[`, "/evidence_list: found no list, want 1 to 64 devices"},
		{`"certificate":"LS`, `"certificate":"L`, "/evidence_list/0/certificate: found illegal base64"},
		{`"evidence":"E`, `"evidence":"A`, "/evidence_list/0: read SPDM exchange: offset 0"},
	} {
		edited := strings.Replace(file, tt.old, tt.new, 1)
		if edited == file {
			t.Fatalf("%s is not in the file", tt.old)
		}
		if _, err := nvidia.ParseFile("gpu.json", []byte(edited)); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want %q", tt.old, err, tt.want)
		}
	}
}

// FuzzSPDM: no panic; what parses is written back byte by byte; nothing that
// the device did not sign is accepted.
func FuzzSPDM(f *testing.F) {
	g := gpu(f, "fuzz")
	good, err := g.Exchange(nonce, nil)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	certificates := fake.PEM(g.Leaf, g.CA, g.Root)
	f.Fuzz(func(t *testing.T, raw []byte) {
		x, err := nvidia.ParseExchange(raw)
		if err != nil {
			return
		}
		if !bytes.Equal(x.Marshal(), raw) {
			t.Fatal("Marshal does not give the bytes back")
		}
		file := &nvidia.File{Nonce: nonce, Devices: []nvidia.Device{{CertificatesPEM: certificates, Raw: raw, Exchange: *x}}}
		checks, err := nvidia.Verify(file, nvidia.Options{At: now, Roots: []digest.Digest{g.Pin()}})
		if err != nil {
			t.Fatal(err)
		}
		if verdict.Fold(checks).Verdict == verdict.Pass && !bytes.Equal(raw[:len(raw)-x.Padding], good) {
			t.Fatal("an exchange that nobody signed is accepted")
		}
	})
}

// FuzzFile: no panic on any evidence file.
func FuzzFile(f *testing.F) {
	g := gpu(f, "fuzz")
	f.Add(evidence(f, nil, g))
	f.Add([]byte(`[{"arch":"LS10","certificate":"AAAA","evidence":"EeAB","nonce":"` + strings.Repeat("0", 64) + `","driver_version":"1"}]`))
	f.Add([]byte(`{"nonce":"` + strings.Repeat("0", 64) + `","arch":"","evidence_list":[{"certificate":"` + base64.StdEncoding.EncodeToString([]byte("-----BEGIN CERTIFICATE-----")) + `","evidence":"EeA="}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		file, err := nvidia.ParseFile("fuzz", data)
		if err != nil {
			return
		}
		if _, err := nvidia.Verify(file, nvidia.Options{At: now, Roots: []digest.Digest{g.Pin()}}); err != nil {
			t.Fatal(err)
		}
	})
}
