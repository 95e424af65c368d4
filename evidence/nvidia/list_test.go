package nvidia_test

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/retally/retally/evidence/fake"
	"github.com/retally/retally/evidence/nvidia"
	"github.com/retally/retally/evidence/verdict"
	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/testenv"
)

// listed is a device as NVIDIA's SDKs list it.
type listed struct {
	Arch        string `json:"arch"`
	Certificate []byte `json:"certificate"`
	Evidence    []byte `json:"evidence"`
	Nonce       string `json:"nonce"`
	Driver      string `json:"driver_version,omitempty"`
	VBIOS       string `json:"vbios_version,omitempty"`
}

func device(t *testing.T, g *fake.GPU, arch string) listed {
	t.Helper()
	raw, err := g.Exchange(nonce, nil)
	if err != nil {
		t.Fatal(err)
	}
	return listed{Arch: arch, Certificate: fake.PEM(g.Leaf, g.CA, g.Root), Evidence: raw, Nonce: hex.EncodeToString(nonce[:]), Driver: "550.144.03", VBIOS: "96.00.9f.00.02"}
}

// TestList: the list of devices gives the verdict of the file with a list in it,
// and what it says of a device must be what the device signed.
func TestList(t *testing.T) {
	one, two := gpu(t, "one"), gpu(t, "two")
	o := nvidia.Options{At: now, Roots: []digest.Digest{one.Pin(), two.Pin()}}
	for name, tt := range map[string]struct {
		edit func(l []listed) []listed
		want string // "" accepted
	}{
		"two GPUs":         {func(l []listed) []listed { return l }, ""},
		"a GPU, a switch":  {func(l []listed) []listed { l[1].Arch, l[1].Driver, l[1].VBIOS = "LS10", "", ""; return l }, ""},
		"capital nonce":    {func(l []listed) []listed { l[1].Nonce = strings.ToUpper(l[1].Nonce); return l }, ""},
		"zeros behind":     {func(l []listed) []listed { l[0].Evidence = append(l[0].Evidence, 0, 0, 0); return l }, ""},
		"another byte":     {func(l []listed) []listed { l[0].Evidence = append(l[0].Evidence, 0, 1); return l }, "end: found 2 bytes more"},
		"another driver":   {func(l []listed) []listed { l[0].Driver = "1.0"; return l }, `gpu0-claims: the list says driver version "1.0"`},
		"another VBIOS":    {func(l []listed) []listed { l[1].VBIOS = "00.00.00.00.00"; return l }, "gpu1-claims: the list says VBIOS version"},
		"another nonce":    {func(l []listed) []listed { l[1].Nonce = strings.Repeat("ab", 32); return l }, "/1/nonce: found"},
		"no nonce":         {func(l []listed) []listed { l[1].Nonce = ""; return l }, "/1/nonce: found"},
		"the device again": {func(l []listed) []listed { return []listed{l[0], l[0]} }, "gpu1-chain: is the same device as gpu0"},
		"not its key":      {func(l []listed) []listed { l[0].Evidence, l[1].Evidence = l[1].Evidence, l[0].Evidence; return l }, "gpu0-signature: "},
		"nothing":          {func([]listed) []listed { return []listed{} }, "1 to 64 devices"},
	} {
		file, err := json.Marshal(tt.edit([]listed{device(t, one, "HOPPER"), device(t, two, "HOPPER")}))
		if err != nil {
			t.Fatal(err)
		}
		got, why := judge(file, o)
		if tt.want == "" && got != "accept" || tt.want != "" && (got != "reject" || !strings.Contains(why, tt.want)) {
			t.Errorf("%s: %s %s, want %q", name, got, why, tt.want)
		}
	}
}

// TestContradiction: a device's own words in a file that has them for all.
func TestContradiction(t *testing.T) {
	g := gpu(t, "one")
	file := string(evidence(t, nil, g))
	for _, tt := range []struct{ old, new, want string }{
		{`{"certificate"`, `{"arch":"BLACKWELL","certificate"`, `/evidence_list/0/arch: found "BLACKWELL", want "HOPPER"`},
		{`{"certificate"`, `{"nonce":"` + strings.Repeat("00", 32) + `","certificate"`, "/evidence_list/0/nonce: found"},
		{`{"certificate"`, `{"driver_version":1,"certificate"`, "/evidence_list/0/driver_version: found a value of type"},
	} {
		_, err := nvidia.ParseFile("f", []byte(strings.Replace(file, tt.old, tt.new, 1)))
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", tt.new, err, tt.want)
		}
	}
}

// TestJoin: GPUs and switches of one request belong together, in either order;
// nothing else does.
func TestJoin(t *testing.T) {
	one, two := gpu(t, "one"), gpu(t, "two")
	file := func(edit func(*listed), l ...listed) []byte {
		for i := range l {
			edit(&l[i])
		}
		out, err := json.Marshal(l)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	as := func(*listed) {}
	aSwitch := func(l *listed) { l.Arch, l.Driver, l.VBIOS = "LS10", "", "" }
	gpus, switches := file(as, device(t, one, "HOPPER")), file(aSwitch, device(t, two, "LS10"))
	both := nvidia.Join(gpus, switches)
	if both == nil || !bytes.Equal(both, nvidia.Join(switches, gpus)) {
		t.Fatalf("got %s", both)
	}
	o := nvidia.Options{At: now, Roots: []digest.Digest{one.Pin(), two.Pin()}}
	if got, why := judge(both, o); got != "accept" {
		t.Errorf("%s %s", got, why)
	}
	later := nonce
	later[0]++
	raw, err := two.Exchange(later, nil)
	if err != nil {
		t.Fatal(err)
	}
	other := file(func(l *listed) { aSwitch(l); l.Evidence, l.Nonce = raw, hex.EncodeToString(later[:]) }, device(t, two, "LS10"))
	for name, b := range map[string][]byte{"GPUs": file(as, device(t, two, "HOPPER")), "another request": other, "no evidence": []byte("[]"), "both kinds": both} {
		if got := nvidia.Join(gpus, b); got != nil {
			t.Errorf("%s: %s", name, got)
		}
	}
	// A switch is a switch by its list's word alone: what it signs is its own.
	broken := bytes.Replace(both, []byte("LS10"), []byte("HOPPER"), 1)
	if got, why := judge(broken, o); got != "accept" {
		t.Errorf("named a GPU: %s %s", got, why)
	}
}

// TestPadding: zeros behind the signature change no verdict and give the bytes back.
func TestPadding(t *testing.T) {
	raw, err := gpu(t, "one").Exchange(nonce, nil)
	if err != nil {
		t.Fatal(err)
	}
	padded := append(bytes.Clone(raw), make([]byte, 100)...)
	x, err := nvidia.ParseExchange(padded)
	if err != nil || x.Padding != 100 || !bytes.Equal(x.Marshal(), padded) || bytes.Contains(x.SignedBytes(), make([]byte, 100)) {
		t.Errorf("%v %+v", err, x)
	}
}

// TestLists verifies NVIDIA's own lists: eight GPUs and four switches.
func TestLists(t *testing.T) {
	dir := testenv.Vectors(t, "published/field/nvidia")
	for file, n := range map[string]int{"gpu_evidence.json": 8, "switch_evidence.json": 4} {
		data, err := os.ReadFile(filepath.Join(dir, file))
		if err != nil {
			t.Fatal(err)
		}
		f, err := nvidia.ParseFile(file, data)
		if err != nil {
			t.Fatal(err)
		}
		checks, err := nvidia.Verify(f, nvidia.Options{At: now})
		if err != nil {
			t.Fatal(err)
		}
		if j := verdict.Fold(checks); len(f.Devices) != n || j.Verdict != verdict.Pass {
			t.Errorf("%s: %d devices, %v", file, len(f.Devices), j.Reasons[0])
		}
		// One byte of any device breaks it.
		var list []map[string]string
		if err := json.Unmarshal(data, &list); err != nil {
			t.Fatal(err)
		}
		raw, err := base64.StdEncoding.DecodeString(list[n-1]["evidence"])
		if err != nil {
			t.Fatal(err)
		}
		raw[len(raw)/2] ^= 1
		list[n-1]["evidence"] = base64.StdEncoding.EncodeToString(raw)
		edited, err := json.Marshal(list)
		if err != nil {
			t.Fatal(err)
		}
		if got, why := judge(edited, nvidia.Options{At: now}); got != "reject" {
			t.Errorf("%s with another byte: %s %s", file, got, why)
		}
	}
}
