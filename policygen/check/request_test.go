package check_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
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

// TestCutRequest: what rules print before a request is not taken for it.
func TestCutRequest(t *testing.T) {
	const prints = `CreateContainerRequest is blocked by policy: p_env_map = {"PATH": "/bin"} p_mount = {"destination": "/proc", "path": "/x"} `
	const whole = `{"container_id":"a","OCI":{"Version":"1.1.0","Process":{"Args":["sh"]}},"stdin_port":0}`
	escaped := func(s string, times int) string {
		for range times {
			b, _ := json.Marshal(s)
			s = string(b[1 : len(b)-1])
		}
		return s
	}
	if r, err := check.ParseRequest([]byte(prints+"input = "+whole+`: end": unknown`), ""); err != nil || !strings.Contains(string(r.Input), `"container_id":"a"`) {
		t.Fatalf("the whole request: %v", err)
	}
	for n := 1; n < len(whole); n++ {
		for level := range 3 {
			for _, tail := range []string{"", `": unknown`, "... (truncated)", `"}`} {
				text := escaped(prints+"input = "+whole[:n], level) + tail
				var cut *check.CutError
				if r, err := check.ParseRequest([]byte(text), ""); !errors.As(err, &cut) {
					t.Fatalf("cut after %d bytes, escaped %d times, tail %q: %v %v", n, level, tail, r, err)
				}
			}
		}
	}
	// The front is missing: a ring buffer lost it.
	for n := 1; n < len(whole); n++ {
		var cut *check.CutError
		r, err := check.ParseRequest([]byte("CreateContainerRequest: "+whole[n:]), "")
		if err == nil || strings.Contains(whole[n:], "{") && !errors.As(err, &cut) {
			t.Fatalf("front of %d bytes missing: %v %v", n, r, err)
		}
	}
	for _, tt := range []struct{ text, kind string }{
		{`RemoveContainerRequest is blocked: p = {"a": 1} input = {"container_id": "x", "tim`, ""},
		{`{"container_id": "x", "timeout"`, "RemoveContainerRequest"},
		{`{"container_id": "x", "process": {"Args": ["sh"]}`, ""},
		{`p = {"path": "/etc"} input = {"container_id": "x", "pro`, "ExecProcessRequest"},
	} {
		var cut *check.CutError
		if r, err := check.ParseRequest([]byte(tt.text), tt.kind); !errors.As(err, &cut) {
			t.Errorf("%s: %v %v", tt.text, r, err)
		}
	}
	// A brace in prose is no beginning, and an outer log line may be cut where the
	// request in it is whole.
	for _, text := range []string{
		"CreateContainerRequest in template { " + whole,
		`{"log":"CreateContainerRequest: ` + escaped(whole, 1) + ` and more`,
		"CreateContainerRequest " + strings.Repeat(`{"p": 1} `, 1000) + whole + " {",
	} {
		if _, err := check.ParseRequest([]byte(text), ""); err != nil {
			t.Errorf("%.60s: %v", text, err)
		}
	}
}

// TestSequencesLoseNothing: the last of a sequence may be cut off.
func TestSequencesLoseNothing(t *testing.T) {
	for text, want := range map[string]int{
		`{"a":1}` + "\n" + `{"b":1`:                  2,
		`{"a":1}{"b":2}`:                             2,
		"{\n\"a\":1\n}\n{\n\"b\":2\n}\n":             2,
		`{"a":1}` + "\n" + `{bad` + "\n" + `{"c":3}`: 2,
		`{"a":1}` + "\n" + `{"b":2}` + "\nprose":     3,
		`{"a":1} and prose`:                          1,
		`{"a":1}`:                                    1,
	} {
		if list := check.SplitRequests([]byte(text)); len(list) != want {
			t.Errorf("%q: %d requests, want %d", text, len(list), want)
		}
	}
	list := check.SplitRequests([]byte("{\n\"a\":1\n}\n\n{\n\"b\":2\n}\n"))
	if list[0].Line != 1 || list[1].Line != 5 {
		t.Errorf("lines %d and %d, want 1 and 5", list[0].Line, list[1].Line)
	}
}
