package snpreport_test

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"strings"
	"testing"

	"github.com/retally/retally/evidence/fake"
	"github.com/retally/retally/evidence/snpreport"
	"github.com/retally/retally/evidence/verdict"
)

// ints are bytes as Rust's serializer writes them.
func ints(b []byte) []int {
	out := make([]int, len(b))
	for i, v := range b {
		out[i] = int(v)
	}
	return out
}

// trusteeReport writes a report field by field: as the crate "sev" does since
// its version 6 (current), or before (older, with reserved fields).
func trusteeReport(r *snpreport.Report, older bool) map[string]any {
	raw := r.Marshal()
	turin := r.Product() == snpreport.Turin
	tcb := func(t snpreport.TCB) any {
		c := r.Components(t)
		m := map[string]any{"bootloader": c.BootLoader, "tee": c.TEE, "snp": c.SNP, "microcode": c.Microcode}
		if older {
			m["_reserved"] = []int{0, 0, 0, 0}
		} else if m["fmc"] = nil; turin {
			m["fmc"] = c.FMC
		}
		return m
	}
	out := map[string]any{
		"version": r.Version, "guest_svn": r.GuestSVN, "policy": uint64(r.Policy), "family_id": ints(r.FamilyID[:]), "image_id": ints(r.ImageID[:]),
		"vmpl": r.VMPL, "sig_algo": 1, "current_tcb": tcb(r.CurrentTCB), "plat_info": uint64(r.PlatformInfo),
		"report_data": ints(r.ReportData[:]), "measurement": ints(r.Measurement.Bytes()), "host_data": ints(r.HostData[:]),
		"id_key_digest": ints(r.IDKeyDigest.Bytes()), "author_key_digest": ints(r.AuthorKeyDigest.Bytes()),
		"report_id": ints(r.ReportID[:]), "report_id_ma": ints(r.ReportIDMA[:]), "reported_tcb": tcb(r.ReportedTCB), "chip_id": ints(r.ChipID[:]),
		"committed_tcb": tcb(r.CommittedTCB), "launch_tcb": tcb(r.LaunchTCB),
	}
	signature := map[string]any{"r": ints(raw[0x2a0:0x2e8]), "s": ints(raw[0x2e8:0x330])}
	if older {
		signature["_reserved"] = ints(raw[0x330:])
		for k, v := range map[string]any{
			"_author_key_en": 0, "_reserved_0": 0, "_reserved_1": ints(make([]byte, 24)), "_reserved_2": 0, "_reserved_3": 0, "_reserved_4": ints(make([]byte, 168)),
			"current_build": r.Current.Build, "current_minor": r.Current.Minor, "current_major": r.Current.Major,
			"committed_build": r.Committed.Build, "committed_minor": r.Committed.Minor, "committed_major": r.Committed.Major,
		} {
			out[k] = v
		}
	} else {
		version := func(v snpreport.FirmwareVersion) any {
			return map[string]any{"build": v.Build, "minor": v.Minor, "major": v.Major}
		}
		out["key_info"], out["current"], out["committed"] = uint32(r.SigningKey)<<2, version(r.Current), version(r.Committed)
		out["cpuid_fam_id"], out["cpuid_mod_id"], out["cpuid_step"] = r.CPUIDFamily, r.CPUIDModel, r.CPUIDStepping
		out["launch_mit_vector"], out["current_mit_vector"] = any(nil), any(nil)
		if r.Version >= 5 {
			out["launch_mit_vector"], out["current_mit_vector"] = r.LaunchMitVector, r.CurrentMitVector
		}
	}
	out["signature"] = signature
	return out
}

// hexadecimal spells the bytes of a report as other serializers do.
func hexadecimal(v map[string]any) map[string]any {
	out := map[string]any{}
	for k, x := range v {
		switch x := x.(type) {
		case []int:
			b := make([]byte, len(x))
			for i, n := range x {
				b[i] = byte(n)
			}
			out[k] = hex.EncodeToString(b)
		case map[string]any:
			out[k] = hexadecimal(x)
		default:
			out[k] = x
		}
	}
	return out
}

func object(t testing.TB, v any) []byte {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// containers are the forms in which one machine's report travels.
func containers(t testing.TB, p *fake.SNPPlatform) map[snpreport.Form][][]byte {
	t.Helper()
	r := report(t, p, nil)
	raw := r.Marshal()
	table, err := p.Table()
	if err != nil {
		t.Fatal(err)
	}
	hclReport, err := p.HCL(akOf(t), snpreport.Report{})
	if err != nil {
		t.Fatal(err)
	}
	response := make([]byte, 4000)
	binary.LittleEndian.PutUint32(response[4:], snpreport.Size)
	copy(response[32:], raw)
	extended := append(bytes.Clone(raw), table...)
	chain := []any{
		map[string]any{"cert_type": "VCEK", "data": ints(p.VCEK.Raw)},
		map[string]any{"cert_type": "ASK", "data": ints(p.ASK.Raw)},
		map[string]any{"cert_type": "ARK", "data": ints(p.ARK.Raw)},
		map[string]any{"cert_type": map[string]any{"OTHER": "ecae0c0f-9502-43b1-afa2-0ae2e0d565b6"}, "data": []int{1}},
	}
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	z.Write(raw)
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return map[snpreport.Form][][]byte{
		snpreport.FormRaw:      {raw, []byte(hex.EncodeToString(raw) + "\n"), []byte("\n" + base64.StdEncoding.EncodeToString(raw)), []byte(base64.RawURLEncoding.EncodeToString(raw))},
		snpreport.FormExtended: {extended, []byte(base64.StdEncoding.EncodeToString(extended))},
		snpreport.FormPEM:      {append(bytes.Clone(raw), fake.PEM(p.VCEK, p.ASK, p.ARK)...)},
		snpreport.FormResponse: {response},
		snpreport.FormTSM: {
			object(t, map[string]any{"provider": "sev_guest\n", "outblob": base64.StdEncoding.EncodeToString(raw), "auxblob": base64.StdEncoding.EncodeToString(table)}),
			object(t, map[string]any{"outblob": base64.URLEncoding.EncodeToString(raw)}),
		},
		snpreport.FormHCL: {hclReport},
		snpreport.FormAzure: {
			object(t, map[string]any{"version": 1, "hcl_report": base64.RawURLEncoding.EncodeToString(hclReport), "vcek": base64.RawURLEncoding.EncodeToString(p.VCEK.Raw)}),
			object(t, map[string]any{"report": ints(hclReport), "vcek": string(fake.PEM(p.VCEK, p.ASK, p.ARK)), "quote": map[string]any{}}),
			object(t, map[string]any{"platform": "az-snp", "evidence": map[string]any{"hcl_report": base64.RawURLEncoding.EncodeToString(hclReport), "vcek": base64.RawURLEncoding.EncodeToString(p.VCEK.Raw)}}),
		},
		snpreport.FormTrustee: {
			object(t, map[string]any{"attestation_report": trusteeReport(r, false), "cert_chain": chain}),
			object(t, map[string]any{"attestation_report": trusteeReport(r, false), "cert_chain": nil}),
			object(t, map[string]any{"attestation_report": hexadecimal(trusteeReport(r, false))}),
			object(t, map[string]any{"platform": "snp", "evidence": map[string]any{"attestation_report": base64.StdEncoding.EncodeToString(raw), "cert_chain": map[string]any{"vcek": base64.StdEncoding.EncodeToString(p.VCEK.Raw), "ark": nil}}}),
		},
		snpreport.FormTinfoil: {object(t, map[string]any{
			"enclaveAttestationReport": map[string]any{"format": "https://tinfoil.sh/predicate/sev-snp-guest/v2", "body": base64.StdEncoding.EncodeToString(packed.Bytes())},
			"vcek":                     base64.StdEncoding.EncodeToString(p.VCEK.Raw),
		})},
	}
}

// TestContainers: whatever a report travels in, it is the same report, and its
// certificates are found.
func TestContainers(t *testing.T) {
	for _, o := range []fake.SNPOptions{{}, {Product: snpreport.Milan}, {Product: snpreport.Turin}} {
		p := platform(t, o)
		for form, files := range containers(t, p) {
			for i, data := range files {
				e, err := snpreport.Open("file", data)
				if err != nil {
					t.Errorf("%s, %s %d: %v", p.Product, form, i, err)
					continue
				}
				if e.Form != form {
					t.Errorf("%s, %s %d: form %s", p.Product, form, i, e.Form)
				}
				if e.Certificates.VCEK == nil {
					e.Certificates = p.Certificates()
				}
				r, err := e.Verify(options(p))
				if err != nil || verdict.Fold(r.Checks).Verdict != verdict.Pass {
					t.Errorf("%s, %s %d: %v %v", p.Product, form, i, err, r)
				}
			}
		}
	}
}

// TestTrusteeOlder: the crate's older form knows reports of version 2 only.
func TestTrusteeOlder(t *testing.T) {
	p := platform(t, fake.SNPOptions{Product: snpreport.Milan})
	r := report(t, p, func(r *snpreport.Report) { r.Version, r.CPUIDFamily, r.CPUIDModel, r.CPUIDStepping = 2, 0, 0, 0 })
	doc := trusteeReport(r, true)
	e, err := snpreport.Open("file", object(t, map[string]any{"attestation_report": doc}))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(e.Report.Marshal(), r.Marshal()) {
		t.Error("another report")
	}
	for name, change := range map[string]func(map[string]any){
		"reserved":    func(m map[string]any) { m["_reserved_0"] = 1 },
		"unknown":     func(m map[string]any) { m["smt"] = 1 },
		"wide":        func(m map[string]any) { m["vmpl"] = 1 << 40 },
		"negative":    func(m map[string]any) { m["vmpl"] = -1 },
		"short":       func(m map[string]any) { m["report_data"] = []int{1} },
		"no byte":     func(m map[string]any) { m["report_data"] = []int{256} },
		"FMC":         func(m map[string]any) { m["current_tcb"] = map[string]any{"fmc": 1} },
		"TCB unknown": func(m map[string]any) { m["current_tcb"] = map[string]any{"spl": 1} },
		"no hex":      func(m map[string]any) { m["family_id"] = strings.Repeat("x", 32) },
		"no object":   func(m map[string]any) { m["signature"] = 7 },
		"policy text": func(m map[string]any) { m["policy"] = "3" },
	} {
		changed := map[string]any{}
		for k, v := range doc {
			changed[k] = v
		}
		change(changed)
		if _, err := snpreport.Open("file", object(t, map[string]any{"attestation_report": changed})); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestTableRefuses(t *testing.T) {
	p := platform(t, fake.SNPOptions{})
	const vcek, ask, ark = "63da758d-e664-4564-adc5-f4b93be8accd", "4ab7b379-bbac-4fe4-a02f-05aef327c782", "c0b406a4-a803-4952-9743-3fb6014cd0ae"
	table := func(entries ...fake.TableEntry) []byte {
		raw, err := fake.SNPTable(entries...)
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	good := table(fake.TableEntry{GUID: vcek, Data: p.VCEK.Raw}, fake.TableEntry{GUID: ark, Data: p.ARK.Raw})
	set := func(at int, v uint32) []byte {
		raw := bytes.Clone(good)
		binary.LittleEndian.PutUint32(raw[at:], v)
		return raw
	}
	var many []byte
	for i := range 33 {
		many = append(many, append(bytes.Repeat([]byte{byte(i + 1)}, 16), 0, 4, 0, 0, 0, 0, 0, 0)...)
	}
	many = append(many, make([]byte, 4096)...)
	for _, tt := range []struct {
		name, want string
		data       []byte
	}{
		{"twice", "it a second time", table(fake.TableEntry{GUID: ark, Data: p.ARK.Raw}, fake.TableEntry{GUID: ark, Data: p.ARK.Raw})},
		{"VCEK under ASK's GUID", "the certificate that the GUID names", table(fake.TableEntry{GUID: ask, Data: p.VCEK.Raw})},
		{"VLEK under VCEK's GUID", "the certificate that the GUID names", table(fake.TableEntry{GUID: vcek, Data: p.VLEK.Raw})},
		{"ARK under ASK's GUID", "the certificate that the GUID names", table(fake.TableEntry{GUID: ask, Data: p.ARK.Raw})},
		{"two certificates", "found 2 certificates", table(fake.TableEntry{GUID: ask, Data: fake.PEM(p.ASK, p.ASVK)})},
		{"bytes after the certificate", "trailing data", table(fake.TableEntry{GUID: ark, Data: append(bytes.Clone(p.ARK.Raw), 1)})},
		{"no certificate", "a certificate in DER or PEM", table(fake.TableEntry{GUID: ark, Data: []byte{1, 2, 3}})},
		{"offset beyond the end", "the end of the table", set(16, 1<<20)},
		{"offset that overflows", "the end of the table", set(16, 0xffffffff)},
		{"length that overflows", "the end of the table", set(20, 0xffffffff)},
		{"offset in the head", "the end of the entries", set(16, 8)},
		{"overlap", "bytes of its own", set(24+16, 80)},
		{"no end", "the last one is zero", append(bytes.Repeat([]byte{7}, 16), make([]byte, 8)...)},
		{"half an entry", "found 6 bytes left", append(bytes.Repeat([]byte{7}, 16), make([]byte, 14)...)},
		{"too many", "at most 32", many},
		{"large", "at most 262144", make([]byte, 1<<19)},
	} {
		if _, err := snpreport.ParseTable("table", tt.data); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want %q", tt.name, err, tt.want)
		}
	}
	for name, data := range map[string][]byte{"nothing": nil, "zeros": make([]byte, 4096)} {
		if c, err := snpreport.ParseTable("table", data); err != nil || !c.IsZero() {
			t.Errorf("%s: %v", name, err)
		}
	}
	c, err := snpreport.ParseTable("table", table(fake.TableEntry{GUID: "ecae0c0f-9502-43b1-afa2-0ae2e0d565b6", Data: make([]byte, 8)}, fake.TableEntry{GUID: ask, Data: fake.PEM(p.ASK)}))
	if err != nil || len(c.Others) != 1 || len(c.Signers) != 1 {
		t.Errorf("an unknown entry, PEM in another: %v %+v", err, c)
	}
}

func TestOpenRefuses(t *testing.T) {
	p := platform(t, fake.SNPOptions{})
	raw := report(t, p, nil).Marshal()
	response := make([]byte, 4000)
	binary.LittleEndian.PutUint32(response[4:], snpreport.Size)
	copy(response[32:], raw)
	with := func(data []byte, at int, v byte) []byte {
		out := bytes.Clone(data)
		out[at] = v
		return out
	}
	nested := []byte(hex.EncodeToString(raw))
	for range 3 {
		nested = []byte(base64.StdEncoding.EncodeToString(nested))
	}
	for _, tt := range []struct {
		name, want string
		data       []byte
	}{
		{"nothing", "want an SNP report", nil},
		{"text", "want an SNP report", []byte("hello, world")},
		{"text in text in text", "want an SNP report", nested},
		{"short", "want an SNP report", raw[:1000]},
		{"report and a byte", "an entry of 24 bytes", append(bytes.Clone(raw), 7)},
		{"status", "STATUS: found 0x16", with(response, 0, 0x16)},
		{"response, reserved", "around the report", with(response, 9, 1)},
		{"response, after the report", "around the report", with(response, 3999, 1)},
		{"JSON without a report", "an object without a report", []byte(`{"a":1}`)},
		{"JSON, member twice", "appears twice", []byte(`{"outblob":"","outblob":""}`)},
		{"JSON, two reports", "more than one report: outblob, hcl_report", []byte(`{"outblob":"AA==","hcl_report":"AA=="}`)},
		{"JSON, one around the other", "more than one report", []byte(`{"platform":"snp","outblob":"AA==","evidence":{"hcl_report":"AA=="}}`)},
		{"TSM of TDX", "sev_guest", []byte(`{"provider":"tdx_guest","outblob":"AA=="}`)},
		{"TSM, no base64", "base64", []byte(`{"outblob":"*"}`)},
		{"TSM, short", "1 bytes", []byte(`{"outblob":"AA=="}`)},
		{"Azure, no HCL report", "HCL report", []byte(`{"hcl_report":"AA=="}`)},
		{"trustee, number", "bytes (an array of numbers", []byte(`{"attestation_report":1}`)},
		{"trustee, chain", "an unknown member", object(t, map[string]any{"attestation_report": ints(raw), "cert_chain": map[string]any{"root": "AA=="}})},
		{"trustee, type", "VCEK, VLEK", object(t, map[string]any{"attestation_report": ints(raw), "cert_chain": []any{map[string]any{"cert_type": "PEK", "data": []int{1}}}})},
		{"Tinfoil, other format", "sev-snp-guest/v2", []byte(`{"enclaveAttestationReport":{"format":"https://tinfoil.sh/predicate/tdx-guest/v2","body":""}}`)},
		{"Tinfoil, no gzip", "a gzipped report", []byte(`{"enclaveAttestationReport":{"format":"https://tinfoil.sh/predicate/sev-snp-guest/v2","body":"AAAA"}}`)},
		{"Tinfoil, a bomb", "more than", bomb(t)},
		{"protobuf, unknown field", "unknown field", append([]byte{0x0a, 0}, 0x7a, 0)},
		{"protobuf, field twice", "a second time", []byte{0x0a, 0, 0x0a, 0}},
		{"protobuf, cut", "Attestation", []byte{0x0a, 9, 0}},
		{"protobuf, empty", "VERSION: found 0", []byte{0x0a, 0, 0x12, 0}},
	} {
		if _, err := snpreport.Open("file", tt.data); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want %q", tt.name, err, tt.want)
		}
	}
}

// bomb is a bundle whose report unpacks to 64 MiB.
func bomb(t *testing.T) []byte {
	t.Helper()
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	for range 64 {
		z.Write(make([]byte, 1<<20))
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return object(t, map[string]any{"enclaveAttestationReport": map[string]any{"format": "https://tinfoil.sh/predicate/sev-snp-guest/v2", "body": base64.StdEncoding.EncodeToString(packed.Bytes())}})
}
