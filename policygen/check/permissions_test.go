package check_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/retally/retally/internal/policytest"
	"github.com/retally/retally/policygen/check"
	"github.com/retally/retally/policygen/rules"
)

func permissions(t *testing.T, text string) (*check.Permissions, map[string]check.Permission) {
	t.Helper()
	p, err := check.Permitted(t.Context(), "p.rego", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	by := map[string]check.Permission{}
	for _, k := range p.Kinds {
		by[k.Kind] = k
	}
	return p, by
}

// TestPermitted: what the rules permit is never more closed than what the agent's
// question gives.
func TestPermitted(t *testing.T) {
	const head = "package agent_policy\n"
	for _, tt := range []struct {
		name, rules string
		want        check.Verdict
		words       string
	}{
		{"no rule", "", check.Never, "no rule"},
		{"open default", "default ExecProcessRequest := true", check.Always, ""},
		{"closed default", "default ExecProcessRequest := false", check.Never, ""},
		{"open without default", "ExecProcessRequest := true", check.Always, ""},
		{"answer as an object", `default ExecProcessRequest := {"allowed": true, "ops": []}`, check.Always, ""},
		{"answer as a ref head", "ExecProcessRequest.allowed := true", check.Always, ""},
		{"a text is no answer", `default ExecProcessRequest := "true"`, check.Never, ""},
		{"a set is no answer", "ExecProcessRequest contains true", check.Never, ""},
		{"through another rule", "default ExecProcessRequest := false\nExecProcessRequest if debug\ndebug := 1 < 2", check.Always, ""},
		{"through data", "default ExecProcessRequest := false\nExecProcessRequest if policy_data.exec\npolicy_data := {\"exec\": true}", check.Always, ""},
		{"through closed data", "default ExecProcessRequest := false\nExecProcessRequest if policy_data.exec\npolicy_data := {\"exec\": false}", check.Never, ""},
		{"contradiction", "ExecProcessRequest := true\nExecProcessRequest := false if 1 < 2", check.Never, "no answer"},
		{"one command", "default ExecProcessRequest := false\nExecProcessRequest if input.process.Args[0] == \"ls\"", check.Conditions, `process.Args[0] is "ls"`},
		{"commands of data", "default ExecProcessRequest := false\nExecProcessRequest if input.process.Cwd in policy_data.ok\npolicy_data := {\"ok\": [\"/a\", \"/b\"]}", check.Conditions, `process.Cwd is one of ["/a", "/b"]`},
		{"any argument", "ExecProcessRequest if {\n  some a in input.process.Args\n  startswith(a, \"x\")\n}", check.Conditions, `process.Args[any] starts with "x"`},
		{"two conditions on one element", "ExecProcessRequest if {\n  some a in input.process.Args\n  startswith(a, \"x\")\n  endswith(a, \"y\")\n}", check.NotUnderstood, "depends"},
		{"unless", "default ExecProcessRequest := true\nExecProcessRequest := false if input.process.Args[0] == \"sh\"", check.Unless, `process.Args[0] is "sh"`},
		{"always, whatever is asked", "default ExecProcessRequest := true\nExecProcessRequest := true if input.process.Args[0] == \"sh\"", check.Always, ""},
		{"open default, rules too large to describe", "default ExecProcessRequest := true\nExecProcessRequest if f(input.process)\nf(p) if count(p.Args) == 1", check.Always, ""},
		{"open default, an else that says no", "default ExecProcessRequest := true\nExecProcessRequest if input.a == 1\nelse := false if input.b == 1", check.NotUnderstood, "allowed where no rule says no"},
		{"open default, one of two says no", "default ExecProcessRequest := true\nExecProcessRequest if f(input.a)\nExecProcessRequest := false if f(input.b)\nf(p) if count(p.Args) == 1", check.NotUnderstood, "allowed where no rule says no"},
		{"closed default, rules that say no", "default ExecProcessRequest := false\nExecProcessRequest := false if f(input.a)\nf(p) if count(p.Args) == 1", check.Never, ""},
		{"open default, other values", "default ExecProcessRequest := true\nExecProcessRequest := x if x := input.process.Terminal", check.NotUnderstood, "depends"},
		{"a function of the request", "default ExecProcessRequest := false\nExecProcessRequest if f(input.process)\nf(p) if count(p.Args) == 1", check.NotUnderstood, "depends"},
		{"not", "default ExecProcessRequest := false\nExecProcessRequest if not input.process.Terminal", check.NotUnderstood, "depends"},
		{"else", "ExecProcessRequest if input.a == 1\nelse := true if input.b == 2", check.NotUnderstood, "depends"},
		{"never, though it asks", "default ExecProcessRequest := false\nExecProcessRequest if {\n  input.a == 1\n  1 == 2\n}", check.Never, ""},
		{"state", "default ExecProcessRequest := false\nExecProcessRequest if data.pstate.open", check.NotUnderstood, "depends"},
		{"data of somebody else", "default ExecProcessRequest := false\nExecProcessRequest if data.agent_policy.fragments.exec", check.NotUnderstood, "not in the text"},
		{"data beside the policy", "default ExecProcessRequest := false\nExecProcessRequest if data.elsewhere.open", check.NotUnderstood, "not in the text"},
		{"a name made from the request", "default ExecProcessRequest := false\nExecProcessRequest if table[input.container_id]\ntable := {\"a\": true}", check.Conditions, `container_id is "a"`},
		{"before version 1", "import future.keywords.in\ndefault ExecProcessRequest = false\nExecProcessRequest { input.process.Args[0] == \"ls\" }", check.Conditions, `process.Args[0] is "ls"`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, by := permissions(t, head+tt.rules+"\n")
			got := by["ExecProcessRequest"]
			if got.Verdict != tt.want {
				t.Errorf("%q (%s %q), want %q", got.Verdict, got.Why, got.Conditions, tt.want)
			}
			if words := got.Why + strings.Join(got.Conditions, " or "); !strings.Contains(words, tt.words) {
				t.Errorf("%q, want %q in it", words, tt.words)
			}
		})
	}
}

func TestPermittedWhole(t *testing.T) {
	p, _ := permissions(t, "package agent_policy\ndefault AllowRequestsFailingPolicy := true\n")
	if !p.Everything {
		t.Error("AllowRequestsFailingPolicy is not seen")
	}
	// The package's path can be the kind.
	p, by := permissions(t, "package agent_policy.ExecProcessRequest\nallowed := true\n")
	if by["ExecProcessRequest"].Verdict != check.Always || p.Everything {
		t.Errorf("a package named as the request: %+v", by["ExecProcessRequest"])
	}
	_, by = permissions(t, "package agent_policy.ExecProcessRequest\nallowed := input.ok\n")
	if by["ExecProcessRequest"].Verdict != check.NotUnderstood {
		t.Errorf("a package named as the request, asking: %+v", by["ExecProcessRequest"])
	}
	p, by = permissions(t, "package policy\ndefault ExecProcessRequest := true\n")
	if by["ExecProcessRequest"].Verdict != check.Never || len(p.Notes) != 1 {
		t.Errorf("another package: %+v %q", by["ExecProcessRequest"], p.Notes)
	}
	// A kind that no agent of today has is no reason to be silent.
	_, by = permissions(t, "package agent_policy\ndefault TeleportRequest := true\n")
	if by["TeleportRequest"].Verdict != check.Always {
		t.Errorf("an unknown kind: %+v", by["TeleportRequest"])
	}
	own, err := rules.Default(rules.Off)
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(policytest.Unpack(t), "cases/anno-null/policy_data.0.json"))
	if err != nil {
		t.Fatal(err)
	}
	data := "\npolicy_data := " + strings.Replace(string(text), `"ReadStreamRequest": false`, `"ReadStreamRequest": true`, 1)
	_, by = permissions(t, string(own.Text)+data)
	for kind, want := range map[string]check.Verdict{
		"ExecProcessRequest": check.Data, "CreateContainerRequest": check.Data, "ReadStreamRequest": check.Always,
		"SetPolicyRequest": check.Never, "SignalProcessRequest": check.Always,
	} {
		if by[kind].Verdict != want {
			t.Errorf("our rules, %s: %+v, want %s", kind, by[kind], want)
		}
	}
	// One line more, and the rules are nobody's.
	_, by = permissions(t, string(own.Text)+"\nexec_checks := []\n"+data)
	if v := by["CreateContainerRequest"].Verdict; v != check.NotUnderstood {
		t.Errorf("changed rules of ours are %s", v)
	}
	opened := strings.Replace(string(own.Text), "default ExecProcessRequest := false", "default ExecProcessRequest := true", 1)
	_, by = permissions(t, opened+data)
	if v := by["ExecProcessRequest"].Verdict; v != check.Always {
		t.Errorf("an opened default is %s", v)
	}
}

// TestHandWritten asks policies without data.
func TestHandWritten(t *testing.T) {
	for _, tt := range []struct {
		name, text string
		allowed    bool
		note       string
	}{
		{"open", "package agent_policy\ndefault ExecProcessRequest := true\n", true, ""},
		{"closed", "# comment\n\npackage agent_policy\ndefault ExecProcessRequest := false\n", false, "no data to explain"},
		{"failures allowed", "package agent_policy\ndefault ExecProcessRequest := false\nAllowRequestsFailingPolicy := true", true, "AllowRequestsFailingPolicy"},
		{"nothing but failures allowed", "package agent_policy\ndefault AllowRequestsFailingPolicy := true", true, "AllowRequestsFailingPolicy"},
		{"before version 1", "package agent_policy\nExecProcessRequest { input.process.Args[0] == \"sh\" }", true, "before version 1"},
		{"data that no generator wrote", "package agent_policy\nExecProcessRequest if input.process.Args[0] in policy_data.ok\n\npolicy_data := {\"ok\": [\"sh\"]}\n", true, ""},
		{"data, then a rule", "package agent_policy\npolicy_data := {\"containers\": []}\nExecProcessRequest := true\n", true, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p, err := check.Parse("p.rego", []byte(tt.text))
			if err != nil {
				t.Fatal(err)
			}
			d, err := p.Evaluate(t.Context(), "ExecProcessRequest", []byte(`{"process":{"Args":["sh"]}}`))
			if err != nil {
				t.Fatal(err)
			}
			if d.Allowed != tt.allowed || !strings.Contains(d.Note, tt.note) {
				t.Errorf("%+v, want %v and %q", d, tt.allowed, tt.note)
			}
		})
	}
	for _, text := range []string{"package agent_policy\ndefault X := {\n", "package agent_policy\nallow := time.now_ns()\n", "package x\nimport rego.v1\nX { true }"} {
		if _, err := check.Permitted(t.Context(), "p.rego", []byte(text)); err == nil {
			t.Errorf("%q is read", text)
		}
	}
}
