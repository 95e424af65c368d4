package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/retally/retally/internal/testenv"
	"github.com/retally/retally/pipeline"
)

const gatePolicy = `version: 1
basis:
- {keys: 'image/**', at_least: recomputed}
permit:
- {rule: test-root, reason: the demo has no processor, owner: demo@harbor.example, expires: 2035-01-01}
`

// gateLab is a demo that a gate judges.
type gateLab struct {
	t   *testing.T
	dir string
}

func newGateLab(t *testing.T) *gateLab {
	t.Helper()
	l := &gateLab{t, t.TempDir()}
	if code, out := l.retally("demo", "-q", "--dir", l.path("d")); code != exitMatch {
		t.Fatalf("demo: exit %d\n%s", code, out)
	}
	l.write("d/gate.yaml", gatePolicy)
	return l
}

func (l *gateLab) path(name string) string { return filepath.Join(l.dir, filepath.FromSlash(name)) }

func (l *gateLab) read(name string) string {
	l.t.Helper()
	data, err := os.ReadFile(l.path(name))
	if err != nil {
		l.t.Fatal(err)
	}
	return string(data)
}

func (l *gateLab) write(name, text string) {
	l.t.Helper()
	if err := os.WriteFile(l.path(name), []byte(text), 0o644); err != nil {
		l.t.Fatal(err)
	}
}

// edit replaces the first occurrence of a text and returns the line it is on.
func (l *gateLab) edit(name, from, to string) int {
	l.t.Helper()
	text := l.read(name)
	i := strings.Index(text, from)
	if i < 0 {
		l.t.Fatalf("%s does not hold %q", name, from)
	}
	l.write(name, text[:i]+to+text[i+len(from):])
	return 1 + strings.Count(text[:i], "\n")
}

func (l *gateLab) retally(args ...string) (int, string) {
	var out bytes.Buffer
	code := execute(context.Background(), append(args, "--progress", "none"), func(string) string { return "" }, strings.NewReader(""), &out, &out)
	return code, out.String()
}

// judge runs the gate; its report comes back with the exit code.
func (l *gateLab) judge(args ...string) (*pipeline.Report, int) {
	l.t.Helper()
	var r pipeline.Report
	code := retallyJSON(l.t, &r, append([]string{"gate", "-f", l.path("d/retally.yaml"), "--at", "2026-11-30T00:00:00Z", "--policy", l.path("d/gate.yaml")}, args...)...)
	if r.Gate == nil {
		l.t.Fatalf("exit %d, and no gate in the report", code)
	}
	return &r, code
}

// TestGateBlocks: each thing that must stop a release stops it, and stands in
// SARIF and JUnit at its file and line.
func TestGateBlocks(t *testing.T) {
	testenv.OwnSpeed(t)
	for _, tt := range []struct {
		name    string
		do      func(l *gateLab) (file string, line int, args []string)
		code    int
		outcome pipeline.Outcome
		rule    string
	}{
		{"open", func(*gateLab) (string, int, []string) { return "", 0, nil }, exitMatch, pipeline.OutcomeMatch, ""},
		{"an unchecked key", func(l *gateLab) (string, int, []string) {
			l.edit("d/retally.yaml", "  unstructured-api: {oci: images/unstructured-api}\n", "")
			return "deployment.yaml", 1 + strings.Count(strings.SplitN(l.read("d/deployment.yaml"), "unstructured-api:", 2)[0], "\n"), nil
		}, exitUnchecked, pipeline.OutcomeUnchecked, "unchecked"},
		{"an unpinned image", func(l *gateLab) (string, int, []string) {
			text := l.read("d/deployment.yaml")
			i := strings.Index(text, "@sha256:")
			end := i + len("@sha256:") + 64
			return "deployment.yaml", l.edit("d/deployment.yaml", text[i:end], ""), nil
		}, exitDiffers, pipeline.OutcomeDenied, "image-unpinned"},
		{"a minimum that is lower in what is published", func(l *gateLab) (string, int, []string) {
			return "manifest.published.json", l.edit("d/manifest.published.json", `"SNPVersion": 28`, `"SNPVersion": 20`), nil
		}, exitDiffers, pipeline.OutcomeDenied, "gate-loosened"},
		{"a minimum that is lower than in the release before", func(l *gateLab) (string, int, []string) {
			l.judge("--out", l.path("before"))
			l.edit("d/adjustments.yaml", "SNPVersion: 28", "SNPVersion: 20")
			return "manifest.json", l.edit("d/manifest.published.json", `"SNPVersion": 28`, `"SNPVersion": 20`), []string{"--previous", l.path("before")}
		}, exitDiffers, pipeline.OutcomeDenied, "gate-loosened"},
		{"a policy that the release before did not have", func(l *gateLab) (string, int, []string) {
			l.judge("--out", l.path("before"))
			var m map[string]any
			if err := json.Unmarshal([]byte(l.read("before/manifest.json")), &m); err != nil {
				l.t.Fatal(err)
			}
			policies := m["Policies"].(map[string]any)
			gone := ""
			for hash, p := range policies {
				if strings.HasSuffix(p.(map[string]any)["WorkloadSecretID"].(string), "/unstructured-api") {
					gone = hash
				}
			}
			delete(policies, gone)
			data, err := json.MarshalIndent(m, "", "  ")
			if err != nil {
				l.t.Fatal(err)
			}
			l.write("old.json", string(data)+"\n")
			return "manifest.json", 1 + strings.Count(strings.SplitN(l.read("before/manifest.json"), gone, 2)[0], "\n"), []string{"--previous", l.path("old.json")}
		}, exitDiffers, pipeline.OutcomeDenied, "gate-new-policy"},
		{"a guest that may be debugged, on both sides", func(l *gateLab) (string, int, []string) {
			l.edit("d/manifest.generated.json", `"Debug": false`, `"Debug": true`)
			return "manifest.published.json", l.edit("d/manifest.published.json", `"Debug": false`, `"Debug": true`), nil
		}, exitDiffers, pipeline.OutcomeDenied, "gate-debug"},
		{"an acknowledgement that is past its term", func(l *gateLab) (string, int, []string) {
			l.write("d/gate.yaml", gatePolicy+"known:\n- {key: image/x/manifest, got: a, want: b, reason: r, owner: o, expires: 2026-11-29}\n")
			return filepath.ToSlash(l.path("d/gate.yaml")), 7, nil
		}, exitDiffers, pipeline.OutcomeDenied, "gate-expired"},
		{"an acknowledgement that nothing needs", func(l *gateLab) (string, int, []string) {
			l.write("d/gate.yaml", gatePolicy+"known:\n- {key: image/x/manifest, got: a, want: b, reason: r, owner: o, expires: 2027-11-29}\n")
			return filepath.ToSlash(l.path("d/gate.yaml")), 7, nil
		}, exitDiffers, pipeline.OutcomeDenied, "gate-unused"},
		{"a value that is not known well enough", func(l *gateLab) (string, int, []string) {
			l.edit("d/gate.yaml", "at_least: recomputed", "at_least: rebuilt")
			return "deployment.yaml", 50, nil
		}, exitDiffers, pipeline.OutcomeDenied, "gate-basis"},
		{"a leave in retally.yaml, which does not count", func(l *gateLab) (string, int, []string) {
			l.edit("d/retally.yaml", "  unstructured-api: {oci: images/unstructured-api}\n", "")
			l.write("d/retally.yaml", l.read("d/retally.yaml")+"\nallow_unchecked: ['**']\n")
			return "", 0, nil
		}, exitUnchecked, pipeline.OutcomeUnchecked, "unchecked"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := newGateLab(t)
			file, line, args := tt.do(l)
			r, code := l.judge(append(args, "--report", "sarif="+l.path("o.sarif"), "--report", "junit="+l.path("o.xml"))...)
			if code != tt.code || r.Outcome != tt.outcome {
				t.Fatalf("exit %d %s, want %d %s: %s %v", code, r.Outcome, tt.code, tt.outcome, r.Summary, r.Gate.Denied)
			}
			if tt.rule == "" {
				return
			}
			var log struct {
				Runs []struct {
					Results []struct {
						RuleID    string
						Locations []struct {
							PhysicalLocation struct {
								ArtifactLocation struct{ URI string }
								Region           struct{ StartLine int }
							}
						}
					}
				}
			}
			if err := json.Unmarshal([]byte(l.read("o.sarif")), &log); err != nil {
				t.Fatal(err)
			}
			var seen []string
			for _, res := range log.Runs[0].Results {
				place := ""
				if len(res.Locations) > 0 {
					p := res.Locations[0].PhysicalLocation
					place = fmt.Sprintf("%s:%d", p.ArtifactLocation.URI, p.Region.StartLine)
				}
				seen = append(seen, res.RuleID+" "+place)
			}
			want := tt.rule + " " + fmt.Sprintf("%s:%d", file, line)
			if file != "" && !slices.Contains(seen, want) {
				t.Errorf("SARIF has no %q:\n%s", want, strings.Join(seen, "\n"))
			}
			xml := l.read("o.xml")
			if !strings.Contains(xml, `type="`+tt.rule+`"`) || file != "" && !strings.Contains(xml, fmt.Sprintf(">%s:%d: ", file, line)) {
				t.Errorf("JUnit has no %s at %s:%d\n%s", tt.rule, file, line, xml)
			}
		})
	}
}

// TestGateAcknowledged: what a denial proposes is an entry that is enough, as
// long as it is not past its term and the difference is there.
func TestGateAcknowledged(t *testing.T) {
	l := newGateLab(t)
	l.edit("d/manifest.published.json", `"SNPVersion": 28`, `"SNPVersion": 30`)
	r, _ := l.judge()
	entries := "known:\n"
	for _, d := range r.Gate.Denied {
		if _, entry, ok := strings.Cut(d.Hint, "under known: "); ok {
			entries += "- " + strings.NewReplacer("reason: …", "reason: rolled out by hand", "owner: …", "owner: o", "expires: …", "expires: 2026-12-31").Replace(entry) + "\n"
		}
	}
	l.write("d/gate.yaml", gatePolicy+entries)
	r, code := l.judge()
	if code != exitMatch || len(r.Gate.Accepted) < 3 {
		t.Fatalf("exit %d: %s\n%s%v", code, r.Summary, entries, r.Gate.Denied)
	}
	if r, code := l.judge("--at", "2027-01-01T00:00:00Z"); code != exitDiffers || r.Outcome != pipeline.OutcomeDenied {
		t.Errorf("past its term: exit %d", code)
	}
	// A copy of the leave in the demo's own configuration changes nothing.
	l.edit("d/manifest.published.json", `"SNPVersion": 30`, `"SNPVersion": 28`)
	if r, code := l.judge(); code != exitDiffers || r.Gate.Denied[0].Code != "gate-unused" {
		t.Errorf("no longer needed: exit %d %v", code, r.Gate.Denied)
	}
}

// TestReportForms: the forms that others read satisfy the schemas that they
// publish, whatever stands in the report.
func TestReportForms(t *testing.T) {
	schemas := testenv.Vectors(t, "published/schemas")
	xmllint := testenv.Oracle(t, "xmllint")
	sarif, err := jsonschema.NewCompiler().Compile(filepath.Join(schemas, "sarif-schema-2.1.0.json"))
	if err != nil {
		t.Fatal(err)
	}
	l := newGateLab(t)
	for _, tt := range []struct {
		name string
		do   func()
	}{
		{"match", func() {}},
		{"denied", func() { l.edit("d/manifest.published.json", `"SNPVersion": 28`, `"SNPVersion": 20`) }},
		{"hostile", func() {
			l.edit("d/manifest.published.json", `"unstructured-api",`, `"\u0001\u202e<x>]]>&%0A::error::",`)
		}},
	} {
		tt.do()
		code, out := l.retally("gate", "-f", l.path("d/retally.yaml"), "--report", "sarif="+l.path(tt.name+".sarif"), "--report", "junit="+l.path(tt.name+".xml"), "--report", "github="+l.path(tt.name+".txt"))
		if code == exitTrouble {
			t.Fatalf("%s: exit %d\n%s", tt.name, code, out)
		}
		v, err := jsonschema.UnmarshalJSON(strings.NewReader(l.read(tt.name + ".sarif")))
		if err != nil {
			t.Fatal(err)
		}
		if err := sarif.Validate(v); err != nil {
			t.Errorf("%s: SARIF: %v", tt.name, err)
		}
		if out, err := exec.Command(xmllint, "--noout", "--schema", filepath.Join(schemas, "JUnit.xsd"), l.path(tt.name+".xml")).CombinedOutput(); err != nil {
			t.Errorf("%s: JUnit: %s", tt.name, out)
		}
		for _, line := range strings.Split(strings.TrimSpace(l.read(tt.name+".txt")), "\n") {
			if !strings.HasPrefix(line, "::error ") && !strings.HasPrefix(line, "::warning ") && !strings.HasPrefix(line, "::notice ") {
				t.Errorf("%s: a line of its own: %q", tt.name, line)
			}
		}
	}
}
