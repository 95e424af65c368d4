package manifest_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/retally/retally/internal/testenv"
	"github.com/retally/retally/manifest"
)

// yq runs mikefarah's yq v4.45.1, the version whose behavior Apply follows,
// in place on a JSON file, one call for each expression, as the scripts do.
func yq(t *testing.T, in []byte, expressions ...string) string {
	t.Helper()
	program := testenv.Oracle(t, "yq")
	version, err := exec.Command(program, "--version").CombinedOutput()
	if err != nil || !strings.Contains(string(version), "mikefarah/yq") || !strings.Contains(string(version), "v4.45.1") {
		testenv.Missing(t, "yq v4.45.1 of mikefarah")
	}
	file := filepath.Join(t.TempDir(), "manifest.json")
	if err := os.WriteFile(file, in, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, e := range expressions {
		if out, err := exec.Command(program, "eval", "-i", e, file).CombinedOutput(); err != nil {
			t.Fatalf("yq %s: %v\n%s", e, err, out)
		}
	}
	return string(read(t, file))
}

func TestYQOracle(t *testing.T) {
	base := generated(t, manifest.V120)
	for _, tc := range []struct {
		name, in, steps string
		expressions     []string
	}{
		{"numbers", `{"a":[1.0,1e3,0.1,12345678901234567890,-0,1e-7,1e21,1e20,123456789012345678,9007199254740993,1.10,5e-324,1e-400,123456.789,-2.50,1e-6,9.999999e-7,999999999999999999999,1e5,0.1e-5]}`, "", []string{"."}},
		{"strings", `{"a":"\u0000\u0001\b\f\n\r\t\u001f\u007f\u0080\u2028\u2029\ufeff\ud83d\ude00\/\"\\<>&'","<k>":{"":[],"x":{}},"n":null}`, "", []string{"."}},
		{"looks like YAML", `{"a":["true","1","null","~","0x10","<<","2020-01-01","1e3","- x","a: b","#c","&a","*a","!!str x"," x ","a\nb\n"],"1":1,"true":2,"~":3}`, "", []string{"."}},
		{"generated", string(base), `
- {op: keep, path: /ReferenceValues/snp, where: {CPUs: 1}}
- {op: set, path: /ReferenceValues/snp/*/MinimumTCB/SNPVersion, value: 30}
- {op: set, path: /ReferenceValues/snp/*/GuestPolicy, value: {SMT: true, Debug: false}}
- {op: set, path: /ReferenceValues/snp/*/New/Field, value: [1, x, null]}
- {op: append, path: /Policies/*/SANs, where: {WorkloadSecretID: {contains: Deployment}}, value: new}
- {op: prepend, path: /Policies/*/SANs, where: {WorkloadSecretID: {contains: v1}}, value: first}
- {op: delete, path: /WorkloadOwnerPubKeys}
- {op: remove, path: /ReferenceValues/tdx, where: {Platform: Metal-QEMU-TDX}}
`, []string{
			`.ReferenceValues.snp |= map(select(.CPUs == 1))`,
			`.ReferenceValues.snp[].MinimumTCB.SNPVersion=30`,
			`.ReferenceValues.snp[].GuestPolicy={"SMT":true,"Debug":false}`,
			`.ReferenceValues.snp[].New.Field=[1,"x",null]`,
			`(.Policies[] | select(.WorkloadSecretID | contains("Deployment")).SANs) += ["new"]`,
			`(.Policies[] | select(.WorkloadSecretID | contains("v1")).SANs) |= ["first"] + .`,
			`del(.WorkloadOwnerPubKeys)`,
			`del(.ReferenceValues.tdx[] | select(.Platform == "Metal-QEMU-TDX"))`,
		}},
		{"missing", `{"z":1}`, `
- {op: set, path: /R/snp/*/M/B, value: 1}
- {op: append, path: /P/*/S, where: {W: {contains: x}}, value: y}
- {op: keep, path: /R/tdx, where: {C: 1}}
- {op: remove, path: /Q/x, where: {C: 1}}
- {op: delete, path: /Q/y}
`, []string{`.R.snp[].M.B=1`, `(.P[] | select(.W | contains("x")).S) += ["y"]`, `.R.tdx |= map(select(.C == 1))`, `del(.Q.x[] | select(.C == 1))`, `del(.Q.y)`}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			steps := "steps:" + tc.steps
			if tc.steps == "" {
				steps = "steps: []"
			}
			res, err := mustPlan(t, "plan", []byte("version: 1\n"+steps)).Apply([]byte(tc.in), nil)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(yq(t, []byte(tc.in), tc.expressions...), string(res.Bytes)); diff != "" {
				t.Errorf("-yq +got:\n%s", diff)
			}
		})
	}
}
