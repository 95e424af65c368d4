package evidence_test

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/retally/retally/evidence"
	"github.com/retally/retally/evidence/verdict"
	"github.com/retally/retally/internal/digest"
)

func registry(t testing.TB) *evidence.Registry {
	t.Helper()
	r, err := evidence.ParseRegistry("tdx.csv", vector(t, "published/quotes/registry/tdx.csv"))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func small(t testing.TB) *evidence.Bundle {
	return read(t, "secretvm-small.hex", vector(t, "published/tdx/quotes/secretvm-small-v0.0.25.quote.hex"))
}

// TestRealMachine follows SecretVM's procedure on a real machine's quote.
func TestRealMachine(t *testing.T) {
	compose := evidence.File{Name: "docker-compose.yaml", Data: vector(t, "published/tdx/quotes/secretvm-small-v0.0.25.compose.yaml")}
	reg := registry(t)
	if len(reg.Rows) != 109 {
		t.Fatalf("registry has %d rows, want 109", len(reg.Rows))
	}
	base := evidence.Request{Profile: evidence.SecretVM, Registry: reg, Compose: &compose, RTMR3: rtmr3(t)}

	r := base
	r.Evidence = small(t)
	got := verify(t, r)
	if short(got) != "ppu" || got.Claims.Release != "small prod v0.0.25" {
		t.Errorf("verdicts %s, release %q:\n%s\n%s", short(got), got.Claims.Release, reasons(got.Authentic), reasons(got.Expected))
	}
	if !strings.HasPrefix(got.Claims.Quote.RTMR3, "542733230d9c7556") || !strings.Contains(reasons(got.Expected), "small prod v0.0.25 (line 8) fits as a whole: mrtd, rtmr0, rtmr1, rtmr2, rtmr3") {
		t.Errorf("RTMR3 %s:\n%s", got.Claims.Quote.RTMR3, reasons(got.Expected))
	}
	if !strings.Contains(reasons(got.Bound), "0420a01d1553c533") || !strings.Contains(reasons(got.Bound), "gpu: the report data binds no GPU") {
		t.Errorf("report data is not explained:\n%s", reasons(got.Bound))
	}

	changed := compose
	changed.Data = append([]byte(nil), compose.Data...)
	changed.Data[0] ^= 1
	r = base
	r.Evidence, r.Compose = small(t), &changed
	got = verify(t, r)
	if short(got) != "pfu" || !strings.HasPrefix(got.Expected.Reasons[0], "compose: rtmr3 is 542733230d9c7556") || !strings.Contains(got.Expected.Reasons[0], "docker-compose.yaml") {
		t.Errorf("a changed compose byte: verdicts %s:\n%s", short(got), reasons(got.Expected))
	}

	newline := compose
	newline.Data = append(bytes.Clone(compose.Data), '\n')
	r.Compose = &newline
	if got = verify(t, r); short(got) != "pfu" || !strings.Contains(got.Expected.Reasons[0], "It matches small prod v0.0.25 (line 8) without the line breaks at its end") {
		t.Errorf("a compose file with a line break more: verdicts %s:\n%s", short(got), reasons(got.Expected))
	}

	r = base
	r.Evidence, r.Compose = small(t), nil
	if got = verify(t, r); short(got) != "puu" || got.Verdict() != verdict.Unchecked || !strings.Contains(reasons(got.Expected), "no compose file given") {
		t.Errorf("without a compose file: verdicts %s, %s:\n%s", short(got), got.Verdict(), reasons(got.Expected))
	}

	r = base
	r.Evidence, r.At = small(t), time.Date(2040, 1, 1, 0, 0, 0, 0, time.UTC)
	if got = verify(t, r); short(got) != "fpu" || !strings.Contains(reasons(got.Authentic), "was valid until 2033-01-30T08:52:58Z") {
		t.Errorf("later: verdicts %s:\n%s", short(got), reasons(got.Authentic))
	}
}

// TestMixedRows: MRTD of one row with RTMR0 of another is no release, although
// each of the values is published.
func TestMixedRows(t *testing.T) {
	quote := small(t)
	compose := evidence.File{Name: "c", Data: vector(t, "published/tdx/quotes/secretvm-small-v0.0.25.compose.yaml")}
	reg := registry(t)
	var only evidence.Registry
	only.Name = "mixed.csv"
	for _, row := range reg.Rows {
		for _, other := range reg.Rows {
			if row.MRTD != other.MRTD && row.RTMR[0] != other.RTMR[0] {
				row.RTMR[0] = other.RTMR[0] // MRTD of one, RTMR0 of another
				break
			}
		}
		only.Rows = append(only.Rows, row)
	}
	got := verify(t, evidence.Request{Profile: evidence.SecretVM, Evidence: quote, Registry: &only, Compose: &compose, RTMR3: rtmr3(t)})
	if got.Expected.Verdict != verdict.Fail || !strings.Contains(reasons(got.Expected), "no set of values fits as a whole") {
		t.Errorf("mixed rows: %s\n%s", got.Expected.Verdict, reasons(got.Expected))
	}
}

// TestMixedSets: a row that has the quote's MRTD and another one that has its
// RTMR0 do not make a fit between them.
func TestMixedSets(t *testing.T) {
	quote := small(t)
	reg := registry(t)
	fits := -1
	for i, row := range reg.Rows {
		if row.Name() == "small prod v0.0.25" && fits < 0 {
			fits = i
		}
	}
	a, b := reg.Rows[fits], reg.Rows[fits]
	a.RTMR[0] = digest.SHA384.Sum([]byte("other"))
	b.MRTD = digest.SHA384.Sum([]byte("other"))
	got := verify(t, evidence.Request{Evidence: quote, Registry: &evidence.Registry{Name: "two.csv", Rows: []evidence.Row{a, b}}})
	if got.Expected.Verdict != verdict.Fail || !strings.Contains(reasons(got.Expected), "but is that of small prod v0.0.25") {
		t.Errorf("two rows, one value each: %s\n%s", got.Expected.Verdict, reasons(got.Expected))
	}
}

// TestKMSMachines: the registers of two real machines with a key management
// service follow from their app ids.
func TestKMSMachines(t *testing.T) {
	var all []struct {
		Scheme, AppID, Compose, Rootfs, RTMR3, RegistryRow string
		Real                                               bool
	}
	raw := vector(t, "own/tdx/rtmr3.json")
	for old, new := range map[string]string{`"app_id"`: `"AppID"`, `"registry_row"`: `"RegistryRow"`, `"real_quote"`: `"Real"`} {
		raw = bytes.ReplaceAll(raw, []byte(old), []byte(new))
	}
	if err := json.Unmarshal(raw, &all); err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, v := range all {
		if !v.Real || v.AppID == "" {
			continue
		}
		n++
		want, err := digest.ParseHex(digest.SHA384, v.RTMR3)
		if err != nil {
			t.Fatal(err)
		}
		var row evidence.Row
		for _, r := range registry(t).Rows {
			if r.Name() == v.RegistryRow {
				row = r
			}
		}
		body := ownBody(t)
		body.MRTD, body.RTMR[0], body.RTMR[1], body.RTMR[2], body.RTMR[3] = row.MRTD, row.RTMR[0], row.RTMR[1], row.RTMR[2], want
		p := ownPlatform(t)
		appID, err := hex.DecodeString(v.AppID)
		if err != nil {
			t.Fatal(err)
		}
		r := evidence.Request{
			Profile: evidence.SecretVM, Evidence: read(t, "own", ownQuote(t, p, body)), IntelRoots: roots(p), Registry: registry(t), AppID: appID,
			Compose: &evidence.File{Name: "c", Data: vector(t, v.Compose)}, RTMR3: rtmr3(t),
		}
		if got := verify(t, r); got.Expected.Verdict != verdict.Pass || got.Claims.Release != v.RegistryRow {
			t.Errorf("%s: %s %q\n%s", v.RegistryRow, got.Expected.Verdict, got.Claims.Release, reasons(got.Expected))
		}
		r.AppID = nil
		if got := verify(t, r); got.Expected.Verdict != verdict.Fail || !strings.Contains(reasons(got.Expected), "no app id of a key management service was given") {
			t.Errorf("%s without its app id: %s\n%s", v.RegistryRow, got.Expected.Verdict, reasons(got.Expected))
		}
	}
	if n != 2 {
		t.Errorf("%d machines, want 2", n)
	}
}

// TestRealGPU: quote and GPU evidence of one machine belong together, and those
// of two machines do not.
func TestRealGPU(t *testing.T) {
	gpu := read(t, "gpu.json", vector(t, "published/quotes/gpu/gpu_attest.json"))
	own := read(t, "gpu.bin", vector(t, "published/quotes/tdx/tdx-gpu.bin"))
	for _, tt := range []struct {
		name  string
		quote *evidence.Bundle
		want  string
		text  string
	}{
		{"same machine", own, "puu", "gpu: the second half of the report data is the nonce that the GPU answered"},
		{"other machine", small(t), "puf", "it is no GPU of this machine"},
	} {
		both, err := evidence.Merge(tt.quote, gpu)
		if err != nil {
			t.Fatal(err)
		}
		got := verify(t, evidence.Request{Profile: evidence.SecretVM, Evidence: both})
		if short(got) != tt.want || !strings.Contains(reasons(got.Bound), tt.text) {
			t.Errorf("%s: %s\n%s\n%s", tt.name, short(got), reasons(got.Authentic), reasons(got.Bound))
		}
	}
	got := verify(t, evidence.Request{Evidence: own, Profile: evidence.SecretVM})
	if got.Bound.Verdict != verdict.Unchecked || !strings.Contains(reasons(got.Bound), "binds a GPU by the nonce a768bb3a") {
		t.Errorf("GPU evidence missing:\n%s", reasons(got.Bound))
	}
	got = verify(t, evidence.Request{Evidence: gpu})
	if got.Profile != evidence.NVIDIA || short(got) != "puu" || got.Claims.GPU[0].VBIOS != "96.00.9F.00.02" {
		t.Errorf("GPU alone: %s %s", got.Profile, short(got))
	}
}

// TestDstackLogs: dstack's quotes with their event logs.
func TestDstackLogs(t *testing.T) {
	for name, config := range map[string]string{"tdx-lite-getquote": "mrconfigid: is version 1 of the compose hash", "quote-report": "mrconfigid: is zero"} {
		data := vector(t, "published/quotes/tdx/"+name+".json")
		got := verify(t, evidence.Request{Evidence: read(t, name, data), Replay: replay(t)})
		if got.Profile != evidence.Dstack || got.Authentic.Verdict != verdict.Pass || got.Expected.Verdict != verdict.Unchecked {
			t.Errorf("%s: %s %s\n%s\n%s", name, got.Profile, short(got), reasons(got.Authentic), reasons(got.Expected))
		}
		for _, want := range []string{"event-log: the log folds to rtmr0", "event-log: the log folds to rtmr1", "event-log: the log folds to rtmr2", "event-log: the log folds to rtmr3", config} {
			if !strings.Contains(reasons(got.Expected), want) {
				t.Errorf("%s: no %q in\n%s", name, want, reasons(got.Expected))
			}
		}
		if !strings.Contains(reasons(got.Bound), "report-data: the report data beside the quote is the quote's") {
			t.Errorf("%s:\n%s", name, reasons(got.Bound))
		}
		// One digit of the log.
		broken := bytes.Replace(data, []byte(`0a2e01c85dea`), []byte(`0b2e01c85dea`), 1)
		if bytes.Equal(broken, data) {
			t.Fatalf("%s: the log holds another RTMR1 event", name)
		}
		got = verify(t, evidence.Request{Evidence: read(t, name, broken), Replay: replay(t)})
		if got.Expected.Verdict != verdict.Fail || !strings.Contains(reasons(got.Expected), "rtmr1 in the quote is") {
			t.Errorf("%s with a changed log: %s\n%s", name, short(got), reasons(got.Expected))
		}
	}
}

// TestSamples: the other published quotes are authentic in their time and no
// release of the registry.
func TestSamples(t *testing.T) {
	for name, at := range map[string]time.Time{
		"tdx-spr-e4.bin": time.Date(2023, 7, 1, 0, 0, 0, 0, time.UTC), "dcap-v4.bin": time.Unix(1750332747, 0),
		"dcap-v5-td15.bin": time.Unix(1771415931, 0), "dcap-v5-td15ex.bin": time.Unix(1791421786, 0),
	} {
		got := verify(t, evidence.Request{Profile: evidence.TDX, At: at, Evidence: read(t, name, vector(t, "published/quotes/tdx/"+name)), Registry: registry(t)})
		if short(got) != "pfu" || got.Verdict() != verdict.Fail {
			t.Errorf("%s: %s\n%s", name, short(got), reasons(got.Authentic))
		}
		bare := verifyOnly(t, evidence.Request{Profile: evidence.TDX, At: at, Evidence: read(t, name, vector(t, "published/quotes/tdx/"+name))}, false, evidence.Authentic)
		if short(bare) != "puu" || bare.Verdict() != verdict.Pass {
			t.Errorf("%s, only authenticity asked for: %s %s", name, short(bare), bare.Verdict())
		}
	}
}
