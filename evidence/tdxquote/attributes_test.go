package tdxquote_test

import (
	"bytes"
	"crypto/elliptic"
	"crypto/x509"
	"encoding/binary"
	"fmt"
	"math/big"
	"strings"
	"testing"

	"github.com/retally/retally/evidence/fake"
	"github.com/retally/retally/evidence/tdxquote"
	"github.com/retally/retally/evidence/verdict"
	"github.com/retally/retally/internal/digest"
)

// attributeChecks judges a body and gives the checks of attributes by name, and
// the whole.
func attributeChecks(t *testing.T, p *fake.Platform, b tdxquote.Body, f fake.Options, o tdxquote.Options) (map[string]verdict.Check, verdict.Verdict) {
	t.Helper()
	f.AsGiven = true
	q, err := tdxquote.Parse(quote(t, p, b, f))
	if err != nil {
		t.Fatal(err)
	}
	o.At, o.Roots = now, []*x509.Certificate{p.Root}
	r, err := tdxquote.Verify(q, o)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]verdict.Check{}
	for _, c := range r.Checks {
		if strings.HasPrefix(c.Name, "td-") {
			out[c.Name] = c
		}
	}
	return out, verdict.Fold(r.Checks).Verdict
}

// TestAttributeBits goes through all 64 bits: each is named, and none that bears
// on the protection leaves a plain pass.
func TestAttributeBits(t *testing.T) {
	p := platform(t)
	fails := func(name string) func(int) (string, verdict.Verdict) {
		return func(int) (string, verdict.Verdict) { return name, verdict.Fail }
	}
	opens := func(name string) func(int) (string, verdict.Verdict) {
		return func(int) (string, verdict.Verdict) { return name, verdict.Unchecked }
	}
	passes := func(int) (string, verdict.Verdict) { return "td-attributes", verdict.Pass }
	want := map[int]func(int) (string, verdict.Verdict){
		16: passes, 27: passes, 28: passes, 30: passes, 63: passes,
		17: opens("td-service"), 29: opens("td-migratable"), 31: opens("td-attributes"), 62: opens("td-provisioning-agent"),
	}
	for bit := range 64 {
		b := body()
		b.TDAttributes = [8]byte{3: 0x10}
		b.TDAttributes[bit/8] |= 1 << (bit % 8)
		checks, whole := attributeChecks(t, p, b, fake.Options{}, tdxquote.Options{})
		judge := want[bit]
		switch {
		case bit < 16:
			judge = fails("td-debug")
		case judge == nil:
			judge = fails("td-attributes")
		}
		name, v := judge(bit)
		if checks[name].Verdict != v || whole != v || checks[name].Optional {
			t.Errorf("bit %d: %s is %s, the whole %s, want %s: %s", bit, name, checks[name].Verdict, whole, v, checks[name].Reason)
		}
		if v == verdict.Fail && bit > 16 && !strings.Contains(checks[name].Reason, fmt.Sprint(bit)) {
			t.Errorf("bit %d is not named: %s", bit, checks[name].Reason)
		}
	}
}

// TestPendingVE: without SEPT_VE_DISABLE nothing is proved wrong, but it is said;
// where Linux must be running, the bit must be there.
func TestPendingVE(t *testing.T) {
	p := platform(t)
	b := body()
	b.TDAttributes = [8]byte{}
	checks, whole := attributeChecks(t, p, b, fake.Options{}, tdxquote.Options{})
	if c := checks["td-sept-ve"]; c.Verdict != verdict.Unchecked || !c.Optional || whole != verdict.Pass {
		t.Errorf("an unknown guest: %+v, the whole %s", c, whole)
	}
	checks, whole = attributeChecks(t, p, b, fake.Options{}, tdxquote.Options{LinuxGuest: true})
	if c := checks["td-sept-ve"]; c.Verdict != verdict.Unchecked || c.Optional || whole != verdict.Unchecked {
		t.Errorf("Linux: %+v, the whole %s", c, whole)
	}
	b.TDAttributes = [8]byte{3: 0x10}
	if _, whole = attributeChecks(t, p, b, fake.Options{}, tdxquote.Options{LinuxGuest: true}); whole != verdict.Pass {
		t.Errorf("Linux with the bit: %s", whole)
	}
}

// TestServiceTD: what another TD may do to this one is as good as that TD.
func TestServiceTD(t *testing.T) {
	p := platform(t)
	service := digest.SHA384.Sum([]byte("migration TD"))
	v4, td15, extended := fake.Options{}, fake.Options{Version: 5, BodyType: tdxquote.TD15}, fake.Options{Version: 5, BodyType: tdxquote.TD15Ex}
	allow := tdxquote.Options{ServiceTD: []digest.Digest{digest.SHA384.Sum(nil), service}}
	bind := func(b *tdxquote.Body) { b.MRSERVICETD = service }
	migrate := func(b *tdxquote.Body) { b.TDAttributes[3] |= 0x20 }
	both := func(b *tdxquote.Body) { bind(b); migrate(b) }
	for _, tt := range []struct {
		name   string
		f      fake.Options
		change func(*tdxquote.Body)
		o      tdxquote.Options
		want   verdict.Verdict
		check  string
	}{
		{"none, v4", v4, func(*tdxquote.Body) {}, tdxquote.Options{}, verdict.Pass, ""},
		{"none, TD 1.5", td15, func(*tdxquote.Body) {}, tdxquote.Options{}, verdict.Pass, ""},
		{"none, extended", extended, func(*tdxquote.Body) {}, tdxquote.Options{}, verdict.Pass, ""},
		{"migratable, v4", v4, migrate, tdxquote.Options{}, verdict.Unchecked, "td-migratable"},
		{"migratable, v4, with a list that cannot be compared", v4, both, allow, verdict.Unchecked, "td-migratable"},
		{"migratable without a service TD", td15, migrate, allow, verdict.Unchecked, "td-migratable"},
		{"bound", td15, bind, tdxquote.Options{}, verdict.Unchecked, "td-service"},
		{"bound to another", td15, func(b *tdxquote.Body) { b.MRSERVICETD = digest.SHA384.Sum([]byte("x")) }, allow, verdict.Unchecked, "td-service"},
		{"bound to one that is allowed", td15, bind, allow, verdict.Pass, ""},
		{"migratable by one that is allowed", td15, both, allow, verdict.Pass, ""},
		{"migratable and bound", td15, both, tdxquote.Options{}, verdict.Unchecked, "td-migratable"},
		{"bound, extended", extended, bind, tdxquote.Options{}, verdict.Unchecked, "td-service"},
		{"bound at first", extended, func(b *tdxquote.Body) { b.Extended.InitServiceTDHash[47] = 1 }, allow, verdict.Unchecked, "td-service"},
		{"bound now", extended, func(b *tdxquote.Body) { b.Extended.CurrentServiceTDHash[0] = 1 }, allow, verdict.Unchecked, "td-service"},
		{"attributes of one", extended, func(b *tdxquote.Body) { b.Extended.CurrentServiceTDAttrs[0] = 1 }, allow, verdict.Unchecked, "td-service"},
	} {
		b := body()
		tt.change(&b)
		checks, whole := attributeChecks(t, p, b, tt.f, tt.o)
		if whole != tt.want || tt.check != "" && (checks[tt.check].Verdict != verdict.Unchecked || checks[tt.check].Optional) {
			t.Errorf("%s: %s, %s is %+v", tt.name, whole, tt.check, checks[tt.check])
		}
	}
}

// TestXFAM holds the rule against one written down bit by bit.
func TestXFAM(t *testing.T) {
	p := platform(t)
	for _, tt := range []struct {
		xfam uint64
		want verdict.Verdict
	}{
		{0x3, verdict.Pass},
		{0x7, verdict.Pass},
		{0xe7, verdict.Pass},
		{0x602e7, verdict.Pass},
		{0x618e7, verdict.Pass},
		{0x61ae7, verdict.Pass},
		{0x642e7, verdict.Pass},
		{0x6dbe7, verdict.Pass},
		{0x80003, verdict.Pass},
		{0, verdict.Fail},
		{0x1, verdict.Fail},
		{0x2, verdict.Fail},
		{0xe4, verdict.Fail},
		{0xb, verdict.Fail},                // MPX
		{0x13, verdict.Fail},               // MPX
		{0x27, verdict.Fail},               // a third of AVX-512
		{0xc7, verdict.Fail},               // two thirds of it
		{0xe3, verdict.Fail},               // AVX-512 without AVX
		{0x803, verdict.Fail},              // half of CET
		{0x1003, verdict.Fail},             // the other half
		{0x20003, verdict.Fail},            // half of AMX
		{0x40003, verdict.Fail},            // the other half
		{0x2003, verdict.Fail},             // HDC
		{0x10003, verdict.Fail},            // HWP
		{0x403, verdict.Unchecked},         // ENQCMD
		{1<<20 | 3, verdict.Fail},          //
		{1<<62 | 3, verdict.Fail},          //
		{1<<63 | 3, verdict.Fail},          //
		{0xffffffffffffffff, verdict.Fail}, //
	} {
		b := body()
		binary.LittleEndian.PutUint64(b.XFAM[:], tt.xfam)
		checks, whole := attributeChecks(t, p, b, fake.Options{}, tdxquote.Options{})
		if checks["td-xfam"].Verdict != tt.want || whole != tt.want {
			t.Errorf("XFAM %#x: %+v, want %s", tt.xfam, checks["td-xfam"], tt.want)
		}
	}
}

// TestHighS: s and n-s are signatures of the same bytes. Both count, and nothing
// that is said of the quote rests on which one it is.
func TestHighS(t *testing.T) {
	p := platform(t)
	raw := quote(t, p, body(), fake.Options{})
	q, err := tdxquote.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	n := elliptic.P256().Params().N
	for _, sig := range [][]byte{q.Signature[:], q.QESignature[:]} {
		s := new(big.Int).SetBytes(sig[32:])
		s.Sub(n, s).FillBytes(sig[32:])
	}
	other := q.Marshal()
	o := tdxquote.Options{At: now, Roots: []*x509.Certificate{p.Root}}
	verify := func(raw []byte) []verdict.Check {
		q, err := tdxquote.Parse(raw)
		if err != nil {
			t.Fatal(err)
		}
		r, err := tdxquote.Verify(q, o)
		if err != nil {
			t.Fatal(err)
		}
		return r.Checks
	}
	if bytes.Equal(raw, other) {
		t.Fatal("nothing was changed")
	}
	if a, b := verify(raw), verify(other); verdict.Fold(a).Verdict != verdict.Pass || fmt.Sprint(a) != fmt.Sprint(b) {
		t.Errorf("one signature gives %v, the other %v", a, b)
	}
}

// TestTestRootQE: under a test root the quoting enclave is the one that the
// collateral names; without collateral, or under Intel's root, only Intel's is.
func TestTestRootQE(t *testing.T) {
	p := platform(t)
	raw := quote(t, p, body(), fake.Options{ForeignQE: true})
	file, err := p.Collateral(fake.Levels{})
	if err != nil {
		t.Fatal(err)
	}
	h := newHierarchy(t)
	if why := h.reason(raw, nil); !strings.HasPrefix(why, "qe-identity: ") {
		t.Errorf("no collateral: %q", why)
	}
	if why := h.reason(raw, file); !strings.HasPrefix(why, "qe-identity: ") {
		t.Errorf("collateral of Intel's enclave: %q", why)
	}
	if why := h.reason(raw, resigned(t, h, file, "DC9E2A7C", "DD9E2A7C")); why != "" {
		t.Errorf("collateral that names the enclave: %q", why)
	}
	if why := h.reason(quote(t, p, body(), fake.Options{}), resigned(t, h, file, "DC9E2A7C", "DD9E2A7C")); !strings.HasPrefix(why, "qe-identity: ") {
		t.Errorf("Intel's enclave under collateral that names another: %q", why)
	}
}
