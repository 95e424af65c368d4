package check_test

import (
	"encoding/json"
	"testing"

	"github.com/retally/retally/policygen/check"
	"github.com/retally/retally/policygen/rules"
)

// FuzzRequest feeds requests: reading never fails in another way than by an
// error, and an input that the rules never saw is never allowed by accident of
// a missing member.
func FuzzRequest(f *testing.F) {
	text := committedData(f, "kind-deployment")
	r, err := rules.Default(rules.Annotation)
	if err != nil {
		f.Fatal(err)
	}
	p, err := check.Parse("policy.rego", append(append(append([]byte{}, r.Text...), "\npolicy_data := "...), text...))
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte(`{"OCI":{"Process":{"Args":["sh"]}}}`), "")
	f.Add([]byte(`CreateContainerRequest is blocked: {\"OCI\": null}`), "")
	f.Add([]byte(`{"path":"/x","file_type":"Regular"}`), "CopyFileRequest")
	f.Fuzz(func(t *testing.T, in []byte, kind string) {
		request, err := check.ParseRequest(in, kind)
		if err != nil {
			return
		}
		if !json.Valid(request.Input) {
			t.Fatalf("input is no JSON: %s", request.Input)
		}
		d, err := p.Evaluate(t.Context(), request.Kind, request.Input)
		if err == nil && d.Allowed && request.Kind == "CreateContainerRequest" {
			t.Fatalf("allowed without an image digest: %s", request.Input)
		}
	})
}
