package manifest

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/manifest"
	"github.com/retally/retally/pipeline"
)

// difference lists what comparing two manifests finds, beside what agrees.
func difference(t *testing.T, a, b string) []string {
	t.Helper()
	var m [2]*manifest.Manifest
	for i, text := range []string{a, b} {
		var err error
		if m[i], err = manifest.Parse(fmt.Sprintf("%d.json", i), []byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	ms, refs := Sides(m[0], m[1], func(manifest.Field) (pipeline.Basis, []pipeline.InputRef) { return pipeline.Copied, nil })
	all := pipeline.CompareOptions{Complete: []string{"**"}, Published: []string{"**"}}
	findings, _ := pipeline.Compare(ms, refs, all)
	var out []string
	for _, f := range findings {
		if f.Verdict != pipeline.Match {
			out = append(out, fmt.Sprintf("%s %s %s -> %s %s", f.Verdict, f.Key, short(f.Got), short(f.Want), f.Class))
		}
	}
	slices.Sort(out)
	return out
}

func short(v pipeline.Value) string {
	s := v.String()
	if v.Kind() == pipeline.DigestKind {
		return v.Digest().Hex()[:4]
	}
	if v.Kind() == pipeline.ListKind {
		return fmt.Sprint(len(v.List()))
	}
	return s
}

func snp(cpus, eip, measured string, svn int, more string) string {
	s := fmt.Sprintf(`{"Platform":"P","ProductName":"Genoa","TrustedMeasurement":%q,"MinimumTCB":{"SNPVersion":%d}`, strings.Repeat(measured, 48), svn)
	if cpus != "" {
		s += `,"CPUs":` + cpus
	}
	if eip != "" {
		s += fmt.Sprintf(`,"APEIP":%q`, eip)
	}
	return s + more + "}"
}

func withSNP(entries ...string) string {
	return `{"Policies":{},"ReferenceValues":{"snp":[` + strings.Join(entries, ",") + `]}}`
}

func withTDX(rtmrs, more string) string {
	return `{"Policies":{},"ReferenceValues":{"tdx":[{"Platform":"T","MrTd":"` + strings.Repeat("11", 48) + `","Rtmrs":` + rtmrs + more + `}]}}`
}

func TestMachinesJoinAcrossVersions(t *testing.T) {
	const flags = `,"GuestPolicy":{"SMT":true},"PlatformInfo":{"ECCEnabled":true},"MinimumMitigationVector":15`
	r := func(b string) string { return `"` + strings.Repeat(b, 48) + `"` }
	for name, c := range map[string]struct {
		a, b string
		want []string
	}{
		"CPUs to APEIP": {withSNP(snp("1", "", "aa", 28, flags)), withSNP(snp("", "0080b004", "aa", 28, flags)), []string{
			"differs snp/P/Genoa/cpus=1/CPUs 1 -> any number (start address 0080b004) loosened",
		}},
		"and back": {withSNP(snp("", "0080b004", "aa", 28, flags)), withSNP(snp("1", "", "aa", 28, flags)), []string{
			"differs snp/P/Genoa/CPUs any number (start address 0080b004) -> 1 tightened",
		}},
		"a lowered number is seen": {withSNP(snp("1", "", "aa", 28, flags)), withSNP(snp("", "0080b004", "bb", 20, "")), []string{
			"differs snp/P/Genoa/cpus=1/CPUs 1 -> any number (start address 0080b004) loosened",
			"differs snp/P/Genoa/cpus=1/GuestPolicy/SMT true -> false tightened",
			"differs snp/P/Genoa/cpus=1/MinimumMitigationVector 15 -> 0 loosened",
			"differs snp/P/Genoa/cpus=1/MinimumTCB/SNPVersion 28 -> 20 loosened",
			"differs snp/P/Genoa/cpus=1/PlatformInfo/ECCEnabled true -> false loosened",
			"differs snp/P/Genoa/cpus=1/launch aaaa -> bbbb unexplained",
		}},
		"several CPUs to APEIP": {withSNP(snp("2", "", "cc", 28, ""), snp("1", "", "aa", 28, "")), withSNP(snp("", "0080b004", "aa", 27, "")), []string{
			"differs snp/P/Genoa/cpus=1/CPUs 1 -> any number (start address 0080b004) loosened",
			"differs snp/P/Genoa/cpus=1/MinimumTCB/SNPVersion 28 -> 27 loosened",
			"missing snp/P/Genoa/cpus=2/launch cccc ->  unexplained",
		}},
		"an exact one to any number": {withSNP(snp("", "", "aa", 28, "")), withSNP(snp("", "0080b004", "aa", 28, "")), []string{
			"differs snp/P/Genoa/CPUs as measured -> any number (start address 0080b004) loosened",
		}},
		"an older shape without numbers": {withSNP(snp("", "", "aa", 28, "")), withSNP(snp("1", "", "aa", 27, "")), []string{
			"differs snp/P/Genoa/MinimumTCB/SNPVersion 28 -> 27 loosened",
		}},
		"one of two goes": {withSNP(snp("", "", "aa", 20, ""), snp("", "", "bb", 28, "")), withSNP(snp("", "", "bb", 28, "")), []string{
			"missing snp/P/Genoa/launch aaaa ->  unexplained",
		}},
		"one comes": {withSNP(snp("", "", "bb", 28, "")), withSNP(snp("", "", "aa", 20, ""), snp("", "", "bb", 28, "")), []string{
			"extra snp/P/Genoa%232/launch  -> aaaa loosened",
		}},
		"two change places": {withSNP(snp("1", "", "aa", 28, ""), snp("2", "", "bb", 28, "")), withSNP(snp("2", "", "bb", 28, ""), snp("1", "", "aa", 28, "")), nil},
		"more values of a register": {withTDX("["+r("00")+","+r("01")+","+r("02")+","+r("03")+"]", ""), withTDX("[["+r("00")+","+r("aa")+"],"+r("01")+","+r("02")+","+r("03")+"]", ""), []string{
			"differs tdx/T/rtmr0 1 -> 2 loosened",
		}},
		"the same values in another order": {withTDX("[["+r("00")+","+r("aa")+"]]", ""), withTDX("[["+r("aa")+","+r("00")+"]]", ""), nil},
		"more under a new name":            {withTDX("[]", ""), withTDX("[]", `,"RTMR0Alternatives":[`+r("aa")+`]`), []string{"differs tdx/T/RTMR0Alternatives 0 -> 1 loosened"}},
		"fewer under a new name":           {withTDX("[]", `,"RTMR0Alternatives":[`+r("aa")+`,`+r("bb")+`]`), withTDX("[]", `,"RTMR0Alternatives":[`+r("bb")+`]`), []string{"differs tdx/T/RTMR0Alternatives 2 -> 1 tightened"}},
	} {
		if diff := cmp.Diff(c.want, difference(t, c.a, c.b)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

// An owner's key is its digest's, whichever side has which; another key, or one
// that is none, is not.
func TestOwnerKeysAgainstDigests(t *testing.T) {
	key, other := "3059", "305a"
	dig := digest.SHA256.Sum([]byte{0x30, 0x59}).Hex()
	with := func(members string) string { return `{"Policies":{},"ReferenceValues":{}` + members + `}` }
	keys := func(k ...string) string {
		return `,"WorkloadOwnerPubKeys":["` + strings.Join(k, `","`) + `"]`
	}
	digests := func(d string) string { return `,"WorkloadOwnerKeyDigests":["` + d + `"]` }
	for name, c := range map[string]struct {
		a, b string
		want []string
	}{
		"digest to key":     {with(digests(dig)), with(keys(key)), nil},
		"key to digest":     {with(keys(key)), with(digests(strings.ToUpper(dig))), nil},
		"one more":          {with(digests(dig)), with(keys(key, other)), []string{"differs keys/WorkloadOwnerKeyDigests 1 -> 2 loosened"}},
		"another":           {with(digests(dig)), with(keys(other)), []string{"differs keys/WorkloadOwnerKeyDigests 1 -> 1 loosened"}},
		"no hex":            {with(digests(dig)), with(keys("xyz")), []string{"differs keys/WorkloadOwnerKeyDigests 1 -> 1 loosened"}},
		"a digest as key":   {with(digests(dig)), with(keys(dig)), []string{"differs keys/WorkloadOwnerKeyDigests 1 -> 1 loosened"}},
		"null to key":       {with(`,"WorkloadOwnerKeyDigests":null`), with(keys(key)), []string{"differs keys/WorkloadOwnerKeyDigests 0 -> 1 loosened"}},
		"both beside":       {with(digests(dig)), with(digests(dig) + keys(key)), nil},
		"hidden beside":     {with(digests(dig)), with(digests(dig) + keys(other)), []string{"differs keys/WorkloadOwnerKeyDigests 1 -> 2 loosened"}},
		"keys of one shape": {with(keys(key)), with(keys(other)), []string{"differs keys/WorkloadOwnerPubKeys 1 -> 1 loosened"}},
	} {
		if diff := cmp.Diff(c.want, difference(t, c.a, c.b)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

// What a newer version wrote keeps a check, and a whole run that holds the same
// bytes against themselves, from being complete.
func TestUnjudgedStaysUnchecked(t *testing.T) {
	text := strings.Replace(withTDX("[]", `,"RTMR0Alternatives":["`+strings.Repeat("aa", 48)+`"]`), `"Policies":{}`, `"Policies":{"`+strings.Repeat("ab", 32)+`":{"SANs":["a"],"Role":"coordinator"}}`, 1)
	m, err := manifest.Parse("m.json", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	out := NewValidity(m).Out()
	findings, _ := pipeline.Compare(out.Measurements, out.References, pipeline.CompareOptions{Complete: manifestKeys})
	found := false
	for _, f := range findings {
		found = found || f.Key == "manifest/unjudged/1" && f.Verdict == pipeline.Unchecked && strings.Contains(f.Note, "RTMR0Alternatives")
	}
	if !found {
		t.Errorf("got %+v", findings)
	}
}
