package policygen_test

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"github.com/retally/retally/policygen"
)

// TestReadPoliciesByTheirStart: words inside a file do not decide what it is.
func TestReadPoliciesByTheirStart(t *testing.T) {
	yaml := "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: m}\ndata:\n  c.toml: |\n    version = \"0.1.0\"\n    algorithm = \"x\"\n    [data]\n---\n" +
		podOfOne + "    args: [\"[data]\", \"\\npolicy_data := \", \"\\x7f\"]\n"
	in := input(t, yaml, fakeImages{"i": fakeImage(t, `{}`)})
	in.Rules.Text = []byte("package agent_policy\n# \n[data]\nversion = \"1\"\n")
	out := generate(t, in)
	p := out.Policies[0]
	var compact bytes.Buffer
	if err := json.Compact(&compact, p.Data); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string][]byte{
		"policy": p.Text(), "data": p.Data, "compact data": compact.Bytes(), "initdata": p.Initdata(),
		"annotation": []byte(p.Annotation + "\n"), "annotated YAML": out.YAML,
	} {
		t.Run(name, func(t *testing.T) {
			list, err := policygen.ReadPolicies(policygen.NamedFile{Name: "f", Data: text})
			if err != nil || len(list) != 1 {
				t.Fatalf("%d policies, want 1: %v", len(list), err)
			}
			if want := strings.HasSuffix(name, "data") && name != "initdata"; (list[0].Rules == nil) != want {
				t.Errorf("rules %q; none is wanted: %v", list[0].Rules, want)
			}
			if name != "compact data" && !bytes.Equal(list[0].Data, p.Data) {
				t.Errorf("data of %d bytes, want %d", len(list[0].Data), len(p.Data))
			}
		})
	}
}
