package tdxquote_test

import (
	"bytes"
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/retally/retally/evidence/certs"
	"github.com/retally/retally/evidence/fake"
	"github.com/retally/retally/evidence/tdxquote"
	"github.com/retally/retally/evidence/verdict"
	"github.com/retally/retally/internal/testenv"
)

// TestExpectations: each demand passes where it holds, fails where it does not,
// and stays open where what it rests on is not known.
func TestExpectations(t *testing.T) {
	q, err := tdxquote.Parse(quote(t, platform(t), body(), fake.Options{}))
	if err != nil {
		t.Fatal(err)
	}
	yes, no := true, false
	full := func() *tdxquote.PCK {
		return &tdxquote.PCK{FMSPC: [6]byte{1}, PIID: bytes.Repeat([]byte{7}, 16), SGXType: tdxquote.SGXScalableIntegrity, Configuration: &tdxquote.Configuration{DynamicPlatform: &no, SMT: &no}}
	}
	pck := func(edit func(*tdxquote.PCK)) *tdxquote.PCK {
		p := full()
		edit(p)
		return p
	}
	tcb := &tdxquote.TCB{Evaluation: 17}
	b := q.Body
	svn := func(at int, by int) []byte {
		out := bytes.Clone(b.TEETCBSVN[:])
		out[at] = byte(int(out[at]) + by)
		return out
	}
	for name, tt := range map[string]struct {
		x    tdxquote.Expectations
		pck  *tdxquote.PCK
		tcb  *tdxquote.TCB
		want string // verdict, then what the reason holds
	}{
		"attributes":            {tdxquote.Expectations{TDAttributes: b.TDAttributes[:]}, nil, nil, "pass"},
		"other attributes":      {tdxquote.Expectations{TDAttributes: make([]byte, 8)}, nil, nil, "fail is 0000001000000000, expected is 0000000000000000"},
		"XFAM":                  {tdxquote.Expectations{XFAM: b.XFAM[:]}, nil, nil, "pass"},
		"another XFAM":          {tdxquote.Expectations{XFAM: make([]byte, 8)}, nil, nil, "fail"},
		"MRCONFIGID":            {tdxquote.Expectations{MRConfigID: b.MRCONFIGID[:]}, nil, nil, "pass"},
		"another MRCONFIGID":    {tdxquote.Expectations{MRConfigID: b.MROWNER[:]}, nil, nil, "fail"},
		"another MROWNER":       {tdxquote.Expectations{MROwner: make([]byte, 48)}, nil, nil, "fail"},
		"another MROWNERCONFIG": {tdxquote.Expectations{MROwnerConfig: make([]byte, 48)}, nil, nil, "fail"},
		"this SVN":              {tdxquote.Expectations{MinimumTEETCBSVN: b.TEETCBSVN[:]}, nil, nil, "pass"},
		"a lower SVN":           {tdxquote.Expectations{MinimumTEETCBSVN: svn(0, -1)}, nil, nil, "pass"},
		"a higher SVN":          {tdxquote.Expectations{MinimumTEETCBSVN: svn(2, 1)}, nil, nil, "fail byte 2 of"},
		"a higher last byte":    {tdxquote.Expectations{MinimumTEETCBSVN: svn(15, 1)}, nil, nil, "fail byte 15 of"},
		"a higher QE SVN":       {tdxquote.Expectations{MinimumQESVN: 1}, nil, nil, "fail is 0 in the header"},
		"an SVN beyond 16 bits": {tdxquote.Expectations{MinimumPCESVN: 1 << 16}, nil, nil, "fail"},
		"evaluation":            {tdxquote.Expectations{MinimumEvaluation: 17}, nil, tcb, "pass"},
		"a later evaluation":    {tdxquote.Expectations{MinimumEvaluation: 18}, nil, tcb, "fail of TCB evaluation 17, expected is at least 18"},
		"no collateral":         {tdxquote.Expectations{MinimumEvaluation: 1}, full(), nil, "unchecked"},
		"FMSPC":                 {tdxquote.Expectations{FMSPCs: [][]byte{make([]byte, 6), {1, 0, 0, 0, 0, 0}}}, full(), nil, "pass"},
		"another FMSPC":         {tdxquote.Expectations{FMSPCs: [][]byte{make([]byte, 6)}}, full(), nil, "fail"},
		"FMSPC, no certificate": {tdxquote.Expectations{FMSPCs: [][]byte{make([]byte, 6)}}, nil, nil, "unchecked"},
		"PIID":                  {tdxquote.Expectations{PIIDs: [][]byte{make([]byte, 16), full().PIID}}, full(), nil, "pass"},
		"another PIID":          {tdxquote.Expectations{PIIDs: [][]byte{make([]byte, 16)}}, full(), nil, "fail is none of those allowed"},
		"no PIID":               {tdxquote.Expectations{PIIDs: [][]byte{make([]byte, 16)}}, pck(func(p *tdxquote.PCK) { p.PIID = nil }), nil, "unchecked"},
		"integrity":             {tdxquote.Expectations{MemoryIntegrity: true}, full(), nil, "pass"},
		"no integrity":          {tdxquote.Expectations{MemoryIntegrity: true}, pck(func(p *tdxquote.PCK) { p.SGXType = tdxquote.SGXScalable }), nil, "fail"},
		"a standard platform":   {tdxquote.Expectations{MemoryIntegrity: true}, pck(func(p *tdxquote.PCK) { p.SGXType = tdxquote.SGXStandard }), nil, "fail"},
		"integrity not said":    {tdxquote.Expectations{MemoryIntegrity: true}, pck(func(p *tdxquote.PCK) { p.SGXType = -1 }), nil, "unchecked"},
		"SMT off":               {tdxquote.Expectations{SMTDisabled: true}, full(), nil, "pass"},
		"SMT on":                {tdxquote.Expectations{SMTDisabled: true}, pck(func(p *tdxquote.PCK) { p.Configuration.SMT = &yes }), nil, "fail hyper-threading is on"},
		"SMT not said":          {tdxquote.Expectations{SMTDisabled: true}, pck(func(p *tdxquote.PCK) { p.Configuration.SMT = nil }), nil, "unchecked"},
		"static":                {tdxquote.Expectations{StaticPlatform: true}, full(), nil, "pass"},
		"dynamic":               {tdxquote.Expectations{StaticPlatform: true}, pck(func(p *tdxquote.PCK) { p.Configuration.DynamicPlatform = &yes }), nil, "fail"},
		"no configuration":      {tdxquote.Expectations{StaticPlatform: true}, pck(func(p *tdxquote.PCK) { p.Configuration = nil }), nil, "unchecked"},
		"no certificate":        {tdxquote.Expectations{StaticPlatform: true}, nil, nil, "unchecked"},
		"nothing is expected":   {tdxquote.Expectations{}, nil, nil, ""},
	} {
		checks := tt.x.Check(q, tt.pck, tt.tcb)
		want, text, _ := strings.Cut(tt.want, " ")
		switch {
		case want == "" && len(checks) == 0:
		case len(checks) != 1 || checks[0].Verdict != verdict.Verdict(want) || checks[0].Optional || !strings.Contains(checks[0].Reason, text):
			t.Errorf("%s: got %+v, want %s", name, checks, tt.want)
		}
	}
}

// TestPlatformOfPCK reads instance and configuration of a real certificate: of the
// quote in published/reports/b26.
func TestPlatformOfPCK(t *testing.T) {
	raw, err := os.ReadFile(filepath.Join(testenv.Vectors(t, "published/reports/b26-ra-tls-certificate"), "quote.bin"))
	if err != nil {
		t.Fatal(err)
	}
	q, err := tdxquote.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	chain, err := certs.ReadPEM("chain", q.PCKChain)
	if err != nil {
		t.Fatal(err)
	}
	pck, err := tdxquote.ReadPCK(chain[0])
	if err != nil {
		t.Fatal(err)
	}
	c := pck.Configuration
	if hex.EncodeToString(pck.PIID) != "191e72033908188ba4a6f3524364284e" || pck.SGXType != tdxquote.SGXScalable || c == nil || c.SMT == nil || !*c.SMT || c.DynamicPlatform == nil || !*c.DynamicPlatform || c.CachedKeys == nil || !*c.CachedKeys {
		t.Errorf("got PIID %x, type %d, configuration %+v", pck.PIID, pck.SGXType, c)
	}
}

// TestSGX: an SGX quote is told from everything else that is read here.
func TestSGX(t *testing.T) {
	good := quote(t, platform(t), body(), fake.Options{})
	header := func(version byte, kind byte, size int, vendor bool) []byte {
		b := make([]byte, size)
		b[0], b[2] = version, kind
		if vendor {
			copy(b[12:], unhex(t, "939a7233f79c4ca9940a0db3957f0607"))
		}
		return b
	}
	epid := header(2, 1, 436+100, false)
	epid[432] = 100
	five := header(5, 2, 500, false)
	five[48], five[438] = 1, 40
	for name, tt := range map[string]struct {
		raw  []byte
		want string
	}{
		"version 3":               {header(3, 2, 600, true), "an SGX quote (version 3)"},
		"version 3, cut":          {header(3, 2, 432, true), "an SGX quote (version 3)"},
		"version 3, P-384":        {header(3, 3, 600, true), "an SGX quote (version 3)"},
		"version 4":               {header(4, 2, 600, true), "an SGX quote (version 4)"},
		"version 5":               {five, "an SGX quote (version 5)"},
		"EPID":                    {epid, "an SGX quote (version 2, EPID)"},
		"a TDX quote":             {good, ""},
		"version 6":               {header(6, 2, 600, true), ""},
		"short":                   {header(3, 2, 400, true), ""},
		"another key":             {header(3, 1, 600, true), ""},
		"zeros":                   {make([]byte, 600), ""},
		"EPID with another size":  {append(epid, 0), ""},
		"an SNP report's version": {append([]byte{3, 0, 0, 0}, make([]byte, 1180)...), ""},
	} {
		if got := tdxquote.SGX(tt.raw); got != tt.want {
			t.Errorf("%s: got %q, want %q", name, got, tt.want)
		}
	}
}
