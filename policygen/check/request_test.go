package check_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/retally/retally/internal/testenv"
	"github.com/retally/retally/policygen/check"
	"github.com/retally/retally/policygen/rules"
)

// requestCase is one normalized request of kata's request-level tests.
type requestCase struct {
	Description string          `json:"description"`
	Allowed     bool            `json:"allowed"`
	Kind        string          `json:"kind"`
	Input       json.RawMessage `json:"input"`
}

// requestFiles gives the cases of every folder with the policy data they are
// for; the state of a policy carries over within a folder.
func requestFiles(t *testing.T) map[string][]requestCase {
	t.Helper()
	root := testenv.Vectors(t, "published/kata/policy-testdata")
	files := map[string][]requestCase{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.Name() != "inputs.jsonl" {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		lines := bufio.NewScanner(bytes.NewReader(data))
		lines.Buffer(nil, 1<<20)
		for lines.Scan() {
			var c requestCase
			if err := json.Unmarshal(lines.Bytes(), &c); err != nil {
				return err
			}
			files[filepath.Dir(path)] = append(files[filepath.Dir(path)], c)
		}
		return lines.Err()
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func policyText(t *testing.T, b rules.Binding, data []byte) []byte {
	t.Helper()
	r, err := rules.Default(b)
	if err != nil {
		t.Fatal(err)
	}
	return slices.Concat(r.Text, []byte("\npolicy_data := "), data)
}

func TestRequestCases(t *testing.T) {
	cases, equal := 0, 0
	for dir, list := range requestFiles(t) {
		data, err := os.ReadFile(filepath.Join(dir, "policy_data.json"))
		if err != nil {
			t.Fatal(err)
		}
		p, err := check.Parse("policy.rego", policyText(t, rules.Off, data))
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range list {
			cases++
			ok := t.Run(filepath.Base(dir)+"/"+c.Description, func(t *testing.T) {
				d, err := p.Evaluate(t.Context(), c.Kind, c.Input)
				if err != nil {
					t.Fatal(err)
				}
				if d.Allowed != c.Allowed {
					text, _ := json.MarshalIndent(d, "", " ")
					t.Errorf("allowed %v, want %v:\n%s", d.Allowed, c.Allowed, text)
				}
				if !d.Allowed && len(d.Reasons) == 0 {
					t.Errorf("denied without a reason: %s", d.Note)
				}
				if !d.Allowed && len(d.Reasons) > 0 {
					t.Logf("%s: %s expected %.200s actual %.200s", d.Reasons[0].Name, d.Reasons[0].Failed[0].Check, d.Reasons[0].Failed[0].Expected, d.Reasons[0].Failed[0].Actual)
				}
			})
			if ok {
				equal++
			}
		}
	}
	t.Logf("%d of %d decisions equal", equal, cases)
	if cases != 77 {
		t.Errorf("%d cases, want 77", cases)
	}
}

// TestRawRequestCases asks with the requests as runtimes write them: the agent's
// reading of them, which fills in what is missing, is ours.
func TestRawRequestCases(t *testing.T) {
	for dir, list := range requestFiles(t) {
		data, err := os.ReadFile(filepath.Join(dir, "policy_data.json"))
		if err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(filepath.Join(dir, "testcases.json"))
		if err != nil {
			t.Fatal(err)
		}
		var raw []json.RawMessage
		if err := json.Unmarshal(text, &raw); err != nil || len(raw) != len(list) {
			t.Fatalf("%s: %d requests, want %d: %v", dir, len(raw), len(list), err)
		}
		p, err := check.Parse("policy.rego", policyText(t, rules.Off, data))
		if err != nil {
			t.Fatal(err)
		}
		for i, c := range list {
			req, err := check.ParseRequest(raw[i], "")
			if err != nil {
				t.Errorf("%s %s: %v", dir, c.Description, err)
				continue
			}
			d, err := p.Evaluate(t.Context(), req.Kind, req.Input)
			if err != nil {
				t.Fatal(err)
			}
			if d.Allowed != c.Allowed {
				text, _ := json.MarshalIndent(d, "", " ")
				t.Errorf("%s %s: allowed %v, want %v:\n%s", dir, c.Description, d.Allowed, c.Allowed, text)
			}
		}
	}
}

// TestRequestCasesBound lists which of the allowed requests are denied once
// the image is bound: their requests or policies carry no digest.
func TestRequestCasesBound(t *testing.T) {
	for _, b := range []rules.Binding{rules.Annotation, rules.GuestPull} {
		var denied []string
		for dir, list := range requestFiles(t) {
			data, err := os.ReadFile(filepath.Join(dir, "policy_data.json"))
			if err != nil {
				t.Fatal(err)
			}
			p, err := check.Parse("policy.rego", policyText(t, b, data))
			if err != nil {
				t.Fatal(err)
			}
			for _, c := range list {
				d, err := p.Evaluate(t.Context(), c.Kind, c.Input)
				if err != nil {
					t.Fatal(err)
				}
				if d.Allowed && !c.Allowed {
					t.Errorf("%s %s: allowed with binding %s", dir, c.Description, b)
				}
				if c.Allowed && !d.Allowed {
					why := d.Note
					if len(d.Reasons) > 0 {
						f := d.Reasons[0].Failed[0]
						why = f.Check + ": expected " + string(f.Expected) + ", actual " + string(f.Actual)
						if c.Kind == "CreateContainerRequest" && f.Check != "image" {
							t.Errorf("%s %s: denied by %s, want image", dir, c.Description, why)
						}
					}
					denied = append(denied, filepath.Base(dir)+": "+c.Description+": "+why)
				}
			}
		}
		slices.Sort(denied)
		t.Logf("binding %s denies %d of the allowed:\n%s", b, len(denied), strings.Join(denied, "\n"))
	}
}
