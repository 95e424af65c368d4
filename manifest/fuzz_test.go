package manifest_test

import (
	"bytes"
	"encoding/hex"
	"strings"
	"testing"

	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/jsondoc"
	"github.com/retally/retally/manifest"
)

// FuzzParse: whatever is read can be looked at from every side; a style that
// is found prints the very bytes; Go's form of the tree is read again with the
// same fields.
func FuzzParse(f *testing.F) {
	for v := manifest.V16; v <= manifest.Newer; v++ {
		f.Add(generated(f, v))
	}
	for _, seed := range []string{
		`{"Policies":{"aa":["x","*"]},"ReferenceValues":{"SNP":{"MinimumTCB":{"SNPVersion":8}},"TrustedMeasurement":"00"},"WorkloadOwnerKeyDigests":["00"]}`,
		`{"Policies":{"a/b~c":{"SANs":[null,1,"<&\u2028"],"Role":1}},"ReferenceValues":{"snp":[null,[],{"CPUs":1e0,"MinimumTCB":[],"GuestPolicy":{"Debug":"x"}}],"tdx":[{"Rtrms":[1,null],"Xfam":"zz","Platform":"Insecure"}]}}`,
		`{"ReferenceValues":null,"Policies":null,"policies":{},"WorkloadOwnerPubKeys":["30",5],"SeedshareOwnerPubKeys":{"a":[]}}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := manifest.Parse("fuzz", data)
		if err != nil {
			return
		}
		if style, ok := m.Style(); ok && !bytes.Equal(style.Format(m.Tree()), data) {
			t.Fatalf("style %+v does not print the input", style)
		}
		_, _, _, _ = m.Policies(), m.SNP(), m.TDX(), m.Shape().String()
		for _, p := range m.Validate() {
			if p.Line < 1 || p.Column < 1 || p.Code == "" || p.Msg == "" {
				t.Fatalf("problem without place or text: %+v", p)
			}
		}
		again, err := manifest.Parse("again", jsondoc.Go.Format(m.Tree()))
		if err != nil {
			t.Fatalf("own output refused: %v", err)
		}
		first, second := m.Fields(), again.Fields()
		if len(first) != len(second) {
			t.Fatalf("%d fields, then %d", len(first), len(second))
		}
		seen := map[string]bool{}
		for i := range first {
			if first[i].Path != second[i].Path || first[i].Normalized() != second[i].Normalized() || first[i].Neutral() != second[i].Neutral() {
				t.Fatalf("field %s became %s", first[i].Path, second[i].Path)
			}
			if seen[first[i].Path] {
				t.Fatalf("path %s occurs twice", first[i].Path)
			}
			seen[first[i].Path] = true
		}
	})
}

// FuzzPlan: a plan that is read can be applied to a small manifest without
// panic; its output is stable under an empty plan, and the input stays as it
// was.
func FuzzPlan(f *testing.F) {
	for _, seed := range []string{
		"version: 1\nsteps: []\n",
		"version: 1\nvariables: {x: {from: deployment, kind: any, name: n, field: 'a[\"b\"].c'}}\nsteps:\n- {op: append, path: /Policies/*/SANs, where: {WorkloadSecretID: {contains: b}}, value: 'a${x}'}\n",
		"version: 1\nsteps:\n- {op: keep, path: /ReferenceValues/snp, where: {CPUs: 1}}\n- {op: remove, path: /Policies, where: {Role: null}}\n- {op: delete, path: /ReferenceValues/*/*/Platform}\n",
		"version: 1\nsteps:\n- {op: set, path: /a/b/*/c, value: {d: [1.0, 1e3, ~, x]}}\n- {op: prepend, path: /l, value: [1, [2]]}\n- {op: set, path: /*/0, value: null}\n",
		"version: 1\nsteps:\n- &a {op: set, path: /Policies/*, value: *a}\n",
		"version: 1\nsteps:\n- {op: set, path: /x, value: &v {<<: {a: 1}, b: [*w]}}\n- {op: delete, path: /~0/~1}\n",
	} {
		f.Add([]byte(seed))
	}
	in := []byte(`{"Policies":{"aa":{"SANs":["x"],"WorkloadSecretID":"a/b"},"bb":{"SANs":null}},"ReferenceValues":{"snp":[{"CPUs":1.0,"Platform":"p"},{"CPUs":2}],"tdx":[]},"l":[[],null]}`)
	empty, err := manifest.ParsePlan("empty", []byte("version: 1\nsteps: []\n"))
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		plan, err := manifest.ParsePlan("fuzz", data)
		if err != nil {
			return
		}
		vars := map[string]string{}
		for _, name := range plan.VariableNames() {
			vars[name] = "v"
			if _, err := plan.Variables()[name].FieldPath(); err != nil {
				t.Fatalf("variable %s was read with a bad field: %v", name, err)
			}
		}
		m, err := manifest.Parse("in", in)
		if err != nil {
			t.Fatal(err)
		}
		before := jsondoc.Go.Format(m.Tree())
		res, err := plan.ApplyTree(m.Tree(), vars)
		if !bytes.Equal(before, jsondoc.Go.Format(m.Tree())) {
			t.Fatal("the input was changed")
		}
		if err != nil {
			return
		}
		again, err := empty.Apply(res.Bytes, nil)
		if err != nil {
			if strings.Contains(err.Error(), "nested deeper") {
				return // a deep value at a deep path
			}
			t.Fatalf("own output refused: %v\n%s", err, res.Bytes)
		}
		if !bytes.Equal(again.Bytes, res.Bytes) {
			t.Fatalf("not stable:\n%s\n%s", res.Bytes, again.Bytes)
		}
	})
}

// FuzzOwnerKey: a key that is read has the hex and digest of one encoding.
func FuzzOwnerKey(f *testing.F) {
	for _, name := range []string{"workload-owner.pub.pem", "seedshare-owner.pub.pem"} {
		f.Add(read(f, "testdata/"+name))
	}
	f.Add([]byte("-----BEGIN EC PRIVATE KEY-----\nMAA=\n-----END EC PRIVATE KEY-----\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		k, err := manifest.ParseOwnerKey("fuzz", data)
		if err != nil {
			return
		}
		der, err := hex.DecodeString(k.Hex)
		if err != nil || digest.SHA256.Sum(der) != k.Digest || k.Field == "" {
			t.Fatalf("inconsistent key %+v", k)
		}
	})
}
