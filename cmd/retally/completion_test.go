package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestCompletion: what a shell offers for words that come from the program or
// from a report. The scripts of bash, zsh and fish all ask __complete.
func TestCompletion(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	env := map[string]string{"RETALLY_CACHE": filepath.Join(dir, "cache")}
	if code, _, errOut := inProcess(t, env, "demo", "--dir", ".", "-q", "--no-cache"); code != exitMatch {
		t.Fatal(errOut)
	}
	for _, tt := range []struct {
		words []string
		want  []string // among what is offered
		not   string
	}{
		{[]string{"demo", "--tamper", ""}, []string{"image", "policy", "firmware"}, ""},
		{[]string{"demo", "--tamper", "fir"}, []string{"firmware"}, ""},
		{[]string{"explain", ""}, []string{"policy/Deployment/harbor-4f2a1c/workload-tinychat", "disk/harbor-tinychat-0-5b@5e1f0c7b9a3d/root"}, ""},
		{[]string{"explain", "disk/"}, []string{"disk/harbor-tinychat-0-5b@5e1f0c7b9a3d/root"}, "policy/Deployment/harbor-4f2a1c/workload-tinychat"},
		{[]string{"explain", "--report", "retally-out/report.json", "disk/"}, []string{"disk/harbor-tinychat-0-5b@5e1f0c7b9a3d/root"}, ""},
		{[]string{"explain", "--report", "absent.json", ""}, nil, "disk/harbor-tinychat-0-5b@5e1f0c7b9a3d/root"},
		{[]string{"tdx", "measure", "--profile", ""}, []string{"secretvm", "dstack", "contrast-1.20"}, ""},
		{[]string{"snp", "measure", "--profile", ""}, []string{"contrast", "secretvm"}, "dstack"},
		{[]string{"policy", "generate", "--profile", ""}, []string{"kata-4.1", "retally"}, ""},
		{[]string{"policy", "generate", "--parity", ""}, []string{"kata-4.1"}, "retally"},
		{[]string{"init", "--profile", ""}, []string{"privatemode", "secretvm"}, ""},
		{[]string{"evidence", "verify", "x", "--profile", ""}, []string{"secretvm", "tpm", "blindllama"}, ""},
		{[]string{"tdx", ""}, []string{"measure", "replay"}, ""},
		{[]string{"run", "--report", ""}, []string{"json=", "html="}, ""},
	} {
		code, out, errOut := inProcess(t, env, append([]string{"__complete"}, tt.words...)...)
		offered := map[string]bool{}
		for _, line := range strings.Split(out, "\n") {
			word, _, _ := strings.Cut(line, "\t")
			offered[word] = true
		}
		for _, w := range tt.want {
			if code != exitMatch || !offered[w] {
				t.Errorf("%q: %q is not offered (exit %d)\n%s%s", tt.words, w, code, out, errOut)
			}
		}
		if tt.not != "" && offered[tt.not] {
			t.Errorf("%q: %q is offered", tt.words, tt.not)
		}
	}
	for _, shell := range []string{"bash", "zsh", "fish"} {
		code, out, errOut := inProcess(t, env, "completion", shell)
		if code != exitMatch || !strings.Contains(out, "__complete") {
			t.Errorf("completion %s: exit %d\n%s", shell, code, errOut)
		}
	}
}

// linked is this test's own program under the name of retally: TestMain makes it
// one.
func linked(t *testing.T) string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	exe := filepath.Join(t.TempDir(), "retally")
	if err := os.Symlink(self, exe); err != nil {
		t.Fatal(err)
	}
	return exe
}

// TestBashCompletes: bash itself offers the words.
func TestBashCompletes(t *testing.T) {
	bash, err := exec.LookPath("bash")
	if err != nil {
		t.Skip("SKIP-VISIBLE no bash")
	}
	exe := linked(t)
	cmd := exec.Command(bash, "--norc", "-c", `
# what an interactive shell and bash-completion bring
compopt() { :; }
_get_comp_words_by_ref() { words=("${COMP_WORDS[@]}"); cword=$COMP_CWORD; cur=${words[cword]}; prev=${words[cword-1]}; }
source <(retally completion bash) || exit 9
COMP_WORDS=(retally demo --tamper fir) COMP_CWORD=3 COMP_LINE="retally demo --tamper fir" COMP_POINT=25
__start_retally
printf '%s\n' "${COMPREPLY[@]}"`)
	cmd.Env = append(os.Environ(), "PATH="+filepath.Dir(exe)+string(os.PathListSeparator)+os.Getenv("PATH"))
	out, err := cmd.CombinedOutput()
	if err != nil || strings.TrimSpace(string(out)) != "firmware" {
		t.Errorf("%v\n%s", err, out)
	}
}
