package manifest_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/retally/retally/manifest"
)

// mutate edits a manifest by one plan step, written as YAML.
func mutate(t testing.TB, data []byte, steps string) []byte {
	t.Helper()
	plan := mustPlan(t, "mutation", []byte("version: 1\nsteps:\n"+steps))
	res, err := plan.Apply(data, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range res.Warnings() {
		if !strings.Contains(w, "nothing") || strings.Contains(steps, "delete") {
			t.Fatalf("mutation: %s", w)
		}
	}
	return res.Bytes
}

func TestValidateMutations(t *testing.T) {
	coordinator, web := sum256("coordinator").Hex(), sum256("web").Hex()
	p := "/Policies/" + web
	seedshare := ownerKey(t, "seedshare-owner.pub.pem")
	owner := ownerKey(t, "workload-owner.pub.pem")
	set := func(path string, value any) string {
		return fmt.Sprintf("- {op: set, path: %q, value: %v}\n", path, value)
	}
	del := func(path string) string { return fmt.Sprintf("- {op: delete, path: %q}\n", path) }
	const snp, tdx = "/ReferenceValues/snp/0", "/ReferenceValues/tdx/0"
	h := func(n int) string { return `"` + strings.Repeat("ab", n) + `"` }
	for _, tc := range []struct {
		name    string
		version manifest.Version
		steps   string
		pointer string
		code    string
	}{
		{"policy hash too short", manifest.Newer, set("/Policies/abcd", "{SANs: [x]}"), "/Policies/abcd", "policy-hash"},
		{"policy hash no hex", manifest.Newer, set("/Policies/"+strings.Repeat("xy", 32), "{SANs: [x]}"), "/Policies/" + strings.Repeat("xy", 32), "policy-hash"},
		{"policy hash with a slash", manifest.Newer, set("/Policies/a~1b", "{SANs: [x]}"), "/Policies/a~1b", "policy-hash"},
		{"policy hash twice, other case", manifest.Newer, set("/Policies/"+strings.ToUpper(web), "{SANs: [x]}"), "/Policies/" + strings.ToUpper(web), "duplicate-policy"},
		{"policy is text", manifest.Newer, set(p, "x"), p, "wrong-type"},
		{"no policies", manifest.Newer, set("/Policies", "{}"), "/Policies", "no-policies"},
		{"policies null", manifest.Newer, set("/Policies", "null"), "/Policies", "no-policies"},
		{"unknown role", manifest.Newer, set(p+"/Role", "boss"), p + "/Role", "role"},
		{"role a number", manifest.Newer, set(p+"/Role", 1), p + "/Role", "wrong-type"},
		{"no coordinator", manifest.Newer, del("/Policies/" + coordinator + "/Role"), "/Policies", "no-coordinator"},
		{"two coordinators of old", manifest.V116, set(p+"/Role", "coordinator"), "/Policies/" + coordinator + "/Role", "coordinator-count"},
		{"misspelt SANs", manifest.Newer, set(p+"/Sans", "[x]"), p + "/Sans", "field-case"},
		{"unknown policy field", manifest.Newer, set(p+"/WorkloadSecret", "x"), p + "/WorkloadSecret", "unknown-field"},
		{"unknown field up to 1.20", manifest.V120, set("/ReferenceValues/cca", "[]"), "/ReferenceValues/cca", "unknown-field"},
		{"newer API version", manifest.Newer, set("/MinimumAPIVersion", 1), "/MinimumAPIVersion", "newer-field"},
		{"alternatives of RTMR0", manifest.Newer, set(tdx+"/RTMR0Alternatives", "["+h(48)+"]"), tdx + "/RTMR0Alternatives", "newer-field"},
		{"alternatives under a near name", manifest.Newer, set(tdx+"/Rtmr0s", "["+h(48)+", "+h(48)+"]"), tdx + "/Rtmr0s", "newer-field"},
		{"alternatives in place", manifest.Newer, set(tdx+"/Rtmrs/0", "["+h(48)+", "+h(48)+"]"), tdx + "/Rtmrs/0", "newer-form"},
		{"alternatives too short", manifest.Newer, set(tdx+"/Rtmrs/0", "["+h(48)+", "+h(47)+"]"), tdx + "/Rtmrs/0", "wrong-type"},
		{"no alternative", manifest.Newer, set(tdx+"/Rtmrs/0", "[]"), tdx + "/Rtmrs/0", "wrong-type"},
		{"alternatives up to 1.20", manifest.V120, set(tdx+"/Rtmrs/0", "["+h(48)+"]"), tdx + "/Rtmrs/0", "wrong-type"},
		{"near name", manifest.Newer, set(tdx+"/Rtmr", "x"), tdx + "/Rtmr", "unknown-field"},
		{"pseudo field", manifest.Newer, set(p+"/CommonName", "x"), p + "/CommonName", "unknown-field"},
		{"SANs text", manifest.Newer, set(p+"/SANs", "x"), p + "/SANs", "wrong-type"},
		{"SAN a number", manifest.Newer, set(p+"/SANs/1", 5), p + "/SANs/1", "wrong-type"},
		{"SAN empty", manifest.Newer, set(p+"/SANs/0", `""`), p + "/SANs/0", "empty"},
		{"secret id a list", manifest.Newer, set(p+"/WorkloadSecretID", "[a]"), p + "/WorkloadSecretID", "wrong-type"},
		{"unknown top field", manifest.Newer, set("/Policy", 1), "/Policy", "newer-field"},
		{"top field in lower case", manifest.Newer, set("/policies", "{}"), "/policies", "field-case"},
		{"no reference values", manifest.Newer, set("/ReferenceValues", "{}"), "/ReferenceValues", "no-reference-values"},
		{"empty lists", manifest.Newer, set("/ReferenceValues", "{snp: [], tdx: null}"), "/ReferenceValues", "no-reference-values"},
		{"snp an object", manifest.Newer, set("/ReferenceValues/snp", "{a: 1}"), "/ReferenceValues/snp", "wrong-type"},
		{"snp entry a number", manifest.Newer, set(snp, 1), snp, "wrong-type"},
		{"unknown TEE", manifest.Newer, set("/ReferenceValues/cca", "[]"), "/ReferenceValues/cca", "newer-field"},
		{"product", manifest.Newer, set(snp+"/ProductName", "Rome"), snp + "/ProductName", "product"},
		{"product missing", manifest.Newer, del(snp + "/ProductName"), snp + "/ProductName", "missing-field"},
		{"product null", manifest.Newer, set(snp+"/ProductName", "null"), snp + "/ProductName", "missing-field"},
		{"measurement short", manifest.Newer, set(snp+"/TrustedMeasurement", h(47)), snp + "/TrustedMeasurement", "length"},
		{"measurement empty", manifest.Newer, set(snp+"/TrustedMeasurement", `""`), snp + "/TrustedMeasurement", "length"},
		{"measurement no hex", manifest.Newer, set(snp+"/TrustedMeasurement", `"zz"`), snp + "/TrustedMeasurement", "hex"},
		{"measurement odd", manifest.Newer, set(snp+"/TrustedMeasurement", `"abc"`), snp + "/TrustedMeasurement", "hex"},
		{"measurement missing", manifest.Newer, del(snp + "/TrustedMeasurement"), snp + "/TrustedMeasurement", "missing-field"},
		{"APEIP", manifest.Newer, set(snp+"/APEIP", `"0080b0"`), snp + "/APEIP", "length"},
		{"CPUs zero", manifest.V120, set(snp+"/CPUs", 0), snp + "/CPUs", "range"},
		{"CPUs text", manifest.V120, set(snp+"/CPUs", `"1"`), snp + "/CPUs", "wrong-type"},
		{"CPUs a fraction", manifest.V120, set(snp+"/CPUs", 1.5), snp + "/CPUs", "range"},
		{"TCB too high", manifest.Newer, set(snp+"/MinimumTCB/SNPVersion", 256), snp + "/MinimumTCB/SNPVersion", "range"},
		{"TCB negative", manifest.Newer, set(snp+"/MinimumTCB/SNPVersion", -1), snp + "/MinimumTCB/SNPVersion", "range"},
		{"TCB text", manifest.Newer, set(snp+"/MinimumTCB/TEEVersion", `"0"`), snp + "/MinimumTCB/TEEVersion", "wrong-type"},
		{"TCB a list", manifest.Newer, set(snp+"/MinimumTCB", "[]"), snp + "/MinimumTCB", "wrong-type"},
		{"TCB misspelt", manifest.Newer, set(snp+"/MinimumTCB/MicroCodeVersion", 1), snp + "/MinimumTCB/MicroCodeVersion", "field-case"},
		{"debug", manifest.Newer, set(snp+"/GuestPolicy/Debug", true), snp + "/GuestPolicy/Debug", "debug"},
		{"SMT off up to 1.20", manifest.V120, set(snp+"/GuestPolicy/SMT", false), snp + "/GuestPolicy/SMT", "guest-policy"},
		{"SMT absent up to 1.20", manifest.V120, del(snp + "/GuestPolicy/SMT"), snp + "/GuestPolicy/SMT", "guest-policy"},
		{"ABI up to 1.20", manifest.V120, set(snp+"/GuestPolicy/ABIMinor", 55), snp + "/GuestPolicy/ABIMinor", "guest-policy"},
		{"single socket up to 1.20", manifest.V120, set(snp+"/GuestPolicy/SingleSocket", true), snp + "/GuestPolicy/SingleSocket", "guest-policy"},
		{"policy bit text", manifest.Newer, set(snp+"/GuestPolicy/SMT", `"true"`), snp + "/GuestPolicy/SMT", "wrong-type"},
		{"unknown policy bit", manifest.Newer, set(snp+"/GuestPolicy/PageSwapDisabled", true), snp + "/GuestPolicy/PageSwapDisabled", "unknown-field"},
		{"unknown platform bit", manifest.Newer, set(snp+"/PlatformInfo/SMT", true), snp + "/PlatformInfo/SMT", "unknown-field"},
		{"vector negative", manifest.Newer, set(snp+"/MinimumMitigationVector", -1), snp + "/MinimumMitigationVector", "range"},
		{"chip id short", manifest.Newer, set(snp+"/AllowedChipIDs/1", h(63)), snp + "/AllowedChipIDs/1", "length"},
		{"chip id a number", manifest.Newer, set(snp+"/AllowedChipIDs/1", 5), snp + "/AllowedChipIDs/1", "wrong-type"},
		{"chip ids text", manifest.Newer, set(snp+"/AllowedChipIDs", h(64)), snp + "/AllowedChipIDs", "wrong-type"},
		{"platform of the other TEE", manifest.Newer, set(snp+"/Platform", "Metal-QEMU-TDX"), snp + "/Platform", "platform"},
		{"insecure beside secure", manifest.Newer, set(tdx+"/Platform", "Insecure-Metal-QEMU"), tdx + "/Platform", "insecure-mixed"},
		{"field of the other TEE", manifest.Newer, set(tdx+"/TrustedMeasurement", h(48)), tdx + "/TrustedMeasurement", "unknown-field"},
		{"MrTd long", manifest.Newer, set(tdx+"/MrTd", h(49)), tdx + "/MrTd", "length"},
		{"MrTd missing", manifest.Newer, del(tdx + "/MrTd"), tdx + "/MrTd", "missing-field"},
		{"MrSeam short", manifest.Newer, set(tdx+"/MrSeam", h(32)), tdx + "/MrSeam", "length"},
		{"three RTMRs", manifest.Newer, del(tdx + "/Rtmrs/3"), tdx + "/Rtmrs", "rtmr-count"},
		{"no RTMRs", manifest.Newer, del(tdx + "/Rtmrs"), tdx + "/Rtmrs", "missing-field"},
		{"RTMR short", manifest.Newer, set(tdx+"/Rtmrs/2", h(32)), tdx + "/Rtmrs/2", "length"},
		{"Xfam short", manifest.Newer, set(tdx+"/Xfam", h(4)), tdx + "/Xfam", "length"},
		{"Xfam null", manifest.Newer, set(tdx+"/Xfam", "null"), tdx + "/Xfam", "missing-field"},
		{"PIID long", manifest.Newer, set(tdx+"/AllowedPIIDs/0", h(17)), tdx + "/AllowedPIIDs/0", "length"},
		{"TDX bool number", manifest.Newer, set(tdx+"/StaticPlatform", 1), tdx + "/StaticPlatform", "wrong-type"},
		{"owner key no hex", manifest.V120, set("/WorkloadOwnerPubKeys/0", "x y"), "/WorkloadOwnerPubKeys/0", "hex"},
		{"owner key a digest", manifest.V120, set("/WorkloadOwnerPubKeys/0", `"`+owner.Digest.Hex()+`"`), "/WorkloadOwnerPubKeys/0", "owner-key"},
		{"owner key RSA", manifest.V120, set("/WorkloadOwnerPubKeys/0", `"`+seedshare.Hex+`"`), "/WorkloadOwnerPubKeys/0", "owner-key"},
		{"owner digest a key", manifest.V116, set("/WorkloadOwnerKeyDigests/0", `"`+owner.Hex+`"`), "/WorkloadOwnerKeyDigests/0", "length"},
		{"seedshare key EC", manifest.V120, set("/SeedshareOwnerPubKeys/0", `"`+owner.Hex+`"`), "/SeedshareOwnerPubKeys/0", "owner-key"},
		{"seedshare key cut", manifest.V120, set("/SeedshareOwnerPubKeys/0", `"`+seedshare.Hex[:len(seedshare.Hex)-2]+`"`), "/SeedshareOwnerPubKeys/0", "owner-key"},
		{"seedshare keys object", manifest.V120, set("/SeedshareOwnerPubKeys", "{}"), "/SeedshareOwnerPubKeys", "wrong-type"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			m := parse(t, mutate(t, generated(t, tc.version), tc.steps))
			var found *manifest.Problem
			for _, p := range m.Validate() {
				severity := manifest.SeverityError
				if strings.HasPrefix(tc.code, "newer-") {
					severity = manifest.SeverityUnjudged
				}
				if p.Severity == severity && p.Code == tc.code && p.Pointer == tc.pointer {
					found = &p
				}
			}
			if found == nil {
				t.Fatalf("no error %q at %s; got %v", tc.code, tc.pointer, m.Validate())
			}
			if found.Line < 1 || found.Column < 1 || found.Msg == "" {
				t.Errorf("no place or no message: %+v", *found)
			}
		})
	}
}

// What Contrast only prints, or does not see, is a warning.
func TestValidateWarnings(t *testing.T) {
	web := sum256("web").Hex()
	for _, tc := range []struct {
		name, steps, pointer, code string
	}{
		{"TCB null", "- {op: set, path: /ReferenceValues/snp/0/MinimumTCB/SNPVersion, value: null}\n", "/ReferenceValues/snp/0/MinimumTCB/SNPVersion", "tcb-missing"},
		{"TCB absent", "- {op: delete, path: /ReferenceValues/snp/0/MinimumTCB/SNPVersion}\n", "/ReferenceValues/snp/0/MinimumTCB/SNPVersion", "tcb-missing"},
		{"MrSeam empty", "- {op: set, path: /ReferenceValues/tdx/0/MrSeam, value: ''}\n", "/ReferenceValues/tdx/0/MrSeam", "mrseam-missing"},
		{"MrSeam absent", "- {op: delete, path: /ReferenceValues/tdx/0/MrSeam}\n", "/ReferenceValues/tdx/0/MrSeam", "mrseam-missing"},
		{"upper-case hash", "- {op: delete, path: /Policies/" + web + "}\n- {op: set, path: /Policies/" + strings.ToUpper(web) + ", value: {SANs: [web]}}\n", "/Policies/" + strings.ToUpper(web), "policy-hash-case"},
		{"chip id twice", "- {op: append, path: /ReferenceValues/snp/0/AllowedChipIDs, value: '" + strings.Repeat("a1", 64) + "'}\n", "/ReferenceValues/snp/0/AllowedChipIDs/2", "duplicate"},
		{"SAN twice", "- {op: prepend, path: /Policies/" + web + "/SANs, value: '*'}\n", "/Policies/" + web + "/SANs/2", "duplicate"},
		{"Xfam byte order", "- {op: set, path: /ReferenceValues/tdx/0/Xfam, value: '00000000000602e7'}\n", "/ReferenceValues/tdx/0/Xfam", "xfam"},
		{"secret id twice", "- {op: set, path: /Policies/" + web + "/WorkloadSecretID, value: core/v1/Pod/default/db}\n", "/Policies/" + sum256("db").Hex() + "/WorkloadSecretID", "duplicate-secret-id"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			problems := parse(t, mutate(t, generated(t, manifest.Newer), tc.steps)).Validate()
			if len(problems) != 1 || problems[0].Severity != manifest.SeverityWarning || problems[0].Code != tc.code || problems[0].Pointer != tc.pointer {
				t.Errorf("got %v, want one warning %q at %s", problems, tc.code, tc.pointer)
			}
		})
	}
}

func TestValidateInsecure(t *testing.T) {
	m := parse(t, []byte(`{"Policies":{"`+sum256("c").Hex()+`":{"SANs":[],"Role":"coordinator"}},"ReferenceValues":{"snp":[{"Platform":"Insecure-Metal-QEMU"}]}}`))
	problems := m.Validate()
	if len(problems) != 1 || problems[0].Code != "insecure" || problems[0].Severity != manifest.SeverityWarning {
		t.Errorf("got %v, want the warning insecure alone", problems)
	}
}

// No number of warnings hides an error.
func TestWarningsHideNoError(t *testing.T) {
	var policies []string
	for i := range 3000 {
		policies = append(policies, fmt.Sprintf(`"%064X": {"SANs": ["w%d"], "WorkloadSecretID": "apps/v1/Deployment/n/w%d"}`, i+0xabcdef, i, i))
	}
	in := `{"Policies":{` + strings.Join(policies, ",") + `},"ReferenceValues":{"snp":[{"GuestPolicy":{"Debug":true}}]}}`
	problems := parse(t, []byte(in)).Validate()
	if len(problems) > 2001 {
		t.Errorf("%d problems are listed", len(problems))
	}
	errors := 0
	for _, p := range problems {
		if p.Severity == manifest.SeverityError && p.Code != "too-many" {
			errors++
		}
	}
	if errors == 0 || problems[len(problems)-1].Code != "too-many" {
		t.Errorf("%d errors besides the cut, the last is %v", errors, problems[len(problems)-1])
	}
}

func TestValidateBounded(t *testing.T) {
	in := `{"Policies":{` + strings.TrimSuffix(strings.Repeat(`"%d":1,`, 5000), ",") + `},"ReferenceValues":{}}`
	args := make([]any, 5000)
	for i := range args {
		args[i] = i
	}
	problems := parse(t, fmt.Appendf(nil, in, args...)).Validate()
	if len(problems) != 1000 || problems[999].Code != "too-many" {
		t.Errorf("got %d problems, the last %v", len(problems), problems[len(problems)-1])
	}
}
