package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"gopkg.in/yaml.v3"

	"github.com/retally/retally/internal/testenv"
)

// ciStep is what a CI system would run, by docs/gate.md.
type ciStep struct {
	name, shell, script string
	env                 []string
	leaves              []string // files
}

// ciSteps reads the three commands, the composite action and the GitLab template.
func ciSteps(t *testing.T) []ciStep {
	t.Helper()
	text := string(readFileOf(t, filepath.Join(testenv.ModuleRoot(t), "docs", "gate.md")))
	block := func(after, kind string) string {
		_, rest, ok := strings.Cut(text, after)
		_, rest, ok2 := strings.Cut(rest, "```"+kind+"\n")
		body, _, ok3 := strings.Cut(rest, "```\n")
		if !ok || !ok2 || !ok3 {
			t.Fatalf("docs/gate.md: no block of %s after %q", kind, after)
		}
		return body
	}
	three := block("CI in three commands", "sh")
	if n := strings.Count(three, "\n"); n != 3 {
		t.Errorf("%d commands, want three", n)
	}
	var action struct {
		Name, Description string
		Inputs            map[string]struct{ Description, Default string }
		Runs              struct {
			Using string
			Steps []struct {
				Shell, Run, If, Uses string
				Env, With            map[string]string
			}
		}
	}
	var gitlab map[string]struct {
		Variables map[string]string
		Script    []string
		Artifacts struct {
			When    string
			Reports map[string]string
		}
	}
	for _, d := range []struct {
		text string
		into any
	}{{block("composite action", "yaml"), &action}, {block("template of GitLab", "yaml"), &gitlab}} {
		dec := yaml.NewDecoder(strings.NewReader(d.text))
		dec.KnownFields(true)
		if err := dec.Decode(d.into); err != nil {
			t.Fatal(err)
		}
	}
	if action.Runs.Using != "composite" || len(action.Runs.Steps) != 2 || action.Runs.Steps[1].If != "always()" || len(gitlab) != 1 {
		t.Fatalf("%+v %+v", action, gitlab)
	}
	run := action.Runs.Steps[0]
	step := ciStep{name: "action", shell: run.Shell, script: run.Run, leaves: []string{action.Runs.Steps[1].With["sarif_file"]}}
	input := regexp.MustCompile(`^\$\{\{ inputs\.([a-z]+) \}\}$`)
	for name, value := range run.Env {
		m := input.FindStringSubmatch(value)
		if m == nil {
			t.Fatalf("env %s: %s", name, value)
		}
		step.env = append(step.env, name+"="+action.Inputs[m[1]].Default)
	}
	steps := []ciStep{{name: "three commands", shell: "sh", script: three, leaves: []string{"gate.sarif", "retally-out/report.json"}}, step}
	for name, job := range gitlab {
		step := ciStep{name: name, shell: "sh", script: strings.Join(job.Script, "\n")}
		for k, v := range job.Variables {
			step.env = append(step.env, k+"="+v)
		}
		for _, file := range job.Artifacts.Reports {
			step.leaves = append(step.leaves, file)
		}
		steps = append(steps, step)
	}
	return steps
}

// TestGateInCI runs what docs/gate.md has for CI systems, on the demo: the gate
// opens, a changed input shuts it, and what engineers look at is there both times.
func TestGateInCI(t *testing.T) {
	exe := linked(t)
	for _, step := range ciSteps(t) {
		t.Run(step.name, func(t *testing.T) {
			for want, tamper := range map[int][]string{0: nil, 1: {"--tamper", "image"}} {
				dir := filepath.Join(t.TempDir(), "d")
				env := map[string]string{"HOME": t.TempDir()}
				if code, _, errOut := inProcess(t, env, append([]string{"demo", "-q", "--no-cache", "--dir", dir}, tamper...)...); code == exitTrouble {
					t.Fatal(errOut)
				}
				if err := os.RemoveAll(filepath.Join(dir, "retally-out")); err != nil {
					t.Fatal(err)
				}
				putFile(t, filepath.Join(dir, "gate.yaml"), []byte(gatePolicy))
				flags := "-ec"
				if step.shell == "bash" {
					flags = "-eo pipefail -c" // as GitHub does
				}
				cmd := exec.Command(step.shell, append(strings.Fields(flags), step.script)...)
				cmd.Dir = dir
				cmd.Env = append(append(os.Environ(), step.env...), "PATH="+filepath.Dir(exe)+string(os.PathListSeparator)+os.Getenv("PATH"), "NO_COLOR=1")
				var out bytes.Buffer
				cmd.Stdout, cmd.Stderr = &out, &out
				_ = cmd.Run()
				if code := cmd.ProcessState.ExitCode(); code != want {
					t.Errorf("exit %d, want %d\n%s", code, want, firstOf(out.String()))
				}
				if shown := strings.Contains(out.String(), "::error file="); strings.Contains(step.script, "github=") && shown != (want == 1) {
					t.Errorf("annotations shown: %v", shown)
				}
				for _, name := range step.leaves {
					if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Size() == 0 {
						t.Errorf("%s: %v", name, err)
					}
				}
			}
		})
	}
}
