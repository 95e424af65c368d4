package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/retally/retally/internal/testenv"
)

// A reportCase is one folder of vectors/published/reports: what people bring.
// Its cmd is run as it is; expect.txt says in prose what is right, and the
// calls say it so that a test can fail.
type reportCase struct {
	folder string
	calls  []reportCall // one for each run of the program, in order
	// needs names programs beside sh that the case's own script calls.
	needs []string
	// env names variables of the environment that it asks for, such as MIRROR, a
	// clone of the vendor's public repository.
	env []string
	// open: the program does not do it yet. An open case that holds fails too, so
	// that it gets closed.
	open bool
}

// A reportCall is what one run of the program must give.
type reportCall struct {
	code int
	// says are regular expressions (?s) that stdout and stderr together hold once
	// runs of white space are one space; never are ones that they do not hold.
	says, never []string
}

// reportCases is filled by the tables of reports_*_test.go.
var reportCases = slices.Concat(reportsImages, reportsDisks, reportsManifests, reportsPolicies, reportsMachines, reportsEvidence)

// TestReports runs every case of vectors/published/reports.
func TestReports(t *testing.T) {
	testenv.OwnSpeed(t)
	vectors := testenv.Vectors(t, "published/reports")
	entries, err := os.ReadDir(vectors)
	if err != nil {
		t.Fatal(err)
	}
	known := map[string]bool{}
	for _, c := range reportCases {
		known[c.folder] = true
	}
	for _, e := range entries {
		if e.IsDir() && !strings.HasPrefix(e.Name(), "_") && !known[e.Name()] {
			t.Errorf("vectors/published/reports/%s has no row in the tables", e.Name())
		}
	}
	dir := t.TempDir()
	if err := os.Symlink(filepath.Join(vectors, "_images"), filepath.Join(dir, "_images")); err != nil {
		t.Fatal(err)
	}
	real := filepath.Join(dir, "retally-real")
	if out, err := exec.Command("go", "build", "-o", real, ".").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	program := filepath.Join(dir, "retally")
	if err := os.WriteFile(program, fmt.Appendf(nil, attackWrapper, real), 0o755); err != nil {
		t.Fatal(err)
	}
	slots := make(chan struct{}, 2)
	for _, c := range reportCases {
		t.Run(c.folder, func(t *testing.T) {
			t.Parallel()
			for _, tool := range c.needs {
				testenv.Oracle(t, tool)
			}
			for _, name := range c.env {
				if os.Getenv(name) == "" {
					t.Skipf("SKIP-VISIBLE %s: the case's script needs it", name)
				}
			}
			slots <- struct{}{}
			defer func() { <-slots }()
			c.run(t, vectors, dir, program)
		})
	}
}

func (c reportCase) run(t *testing.T, vectors, dir, program string) {
	work, calls := filepath.Join(dir, c.folder), filepath.Join(dir, c.folder+".calls")
	if err := copyFiles(work, filepath.Join(vectors, c.folder)); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(calls, 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("sh", "./cmd")
	cmd.Dir = work
	cmd.Env = append(os.Environ(), "RETALLY="+program, "RETALLY_VECTORS="+filepath.Dir(filepath.Dir(vectors)),
		"CALLS="+calls, "NO_COLOR=1", "LC_ALL=C.UTF-8", "XDG_CACHE_HOME="+filepath.Join(dir, c.folder+".cache"))
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil {
		t.Fatal(err)
	}
	names, err := filepath.Glob(filepath.Join(calls, "*.args"))
	if err != nil {
		t.Fatal(err)
	}
	if len(names) != len(c.calls) {
		t.Fatalf("the case ran the program %d times, the table has %d\n%s", len(names), len(c.calls), out)
	}
	var problems []string
	for i, name := range names {
		read := func(kind string) string {
			data, err := os.ReadFile(strings.TrimSuffix(name, "args") + kind)
			if err != nil {
				t.Fatal(err)
			}
			return string(data)
		}
		code, err := strconv.Atoi(strings.TrimSpace(read("rc")))
		if err != nil {
			t.Fatal(err)
		}
		text := read("out") + read("err")
		for _, p := range c.calls[i].broken(code, text) {
			problems = append(problems, fmt.Sprintf("call %d (%s): %s", i+1, strings.TrimSpace(read("args")), p))
		}
		if len(problems) > 0 && !c.open {
			t.Logf("call %d printed\n%s", i+1, text)
		}
	}
	switch {
	case c.open && len(problems) == 0:
		t.Error("this holds now: close the row")
	case c.open:
		t.Logf("open: %s", problems[0])
	default:
		for _, p := range problems {
			t.Error(p)
		}
	}
}

var whiteSpace = regexp.MustCompile(`(\s|\\\n)+`)

func (r reportCall) broken(code int, text string) (problems []string) {
	if code != r.code {
		problems = append(problems, fmt.Sprintf("exit %d, want %d", code, r.code))
	}
	text = whiteSpace.ReplaceAllString(text, " ")
	for _, re := range r.says {
		if !regexp.MustCompile(`(?s)` + re).MatchString(text) {
			problems = append(problems, fmt.Sprintf("does not say %q", re))
		}
	}
	for _, re := range r.never {
		if m := regexp.MustCompile(`(?s)` + re).FindString(text); m != "" {
			problems = append(problems, fmt.Sprintf("says %q", m))
		}
	}
	return problems
}

// TestReportTables: what the tables say must be able to fail.
func TestReportTables(t *testing.T) {
	seen := map[string]bool{}
	for _, c := range reportCases {
		if seen[c.folder] {
			t.Errorf("%s stands in the tables twice", c.folder)
		}
		seen[c.folder] = true
		said := false
		for _, r := range c.calls {
			said = said || len(r.says) > 0
			for _, re := range slices.Concat(r.says, r.never) {
				if _, err := regexp.Compile(`(?s)` + re); err != nil {
					t.Errorf("%s: %v", c.folder, err)
				}
			}
		}
		if !said {
			t.Errorf("%s: no call says anything: the exit code alone proves little", c.folder)
		}
	}
}
