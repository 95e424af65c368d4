// Command testall runs every test of the module and shows what plain `go test`
// hides: each skipped test with its reason, and how many tests really ran.
//
//	go run ./internal/testall [-race] [-long] [-v] [-run REGEXP] [package...]
package main

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"sort"
	"strings"
	"time"
)

type event struct {
	Action  string
	Package string
	Test    string
	Output  string
	Elapsed float64
}

type tally struct {
	passed, failed, skipped int
	skips                   map[string][]string // reason -> tests
	failedPackages          []string
}

func main() {
	race := flag.Bool("race", false, "find data races (needs a C compiler)")
	long := flag.Bool("long", false, "run the large and slow cases too")
	verbose := flag.Bool("v", false, "print every test's output")
	only := flag.String("run", "", "only tests whose names match, as in go test")
	flag.Parse()
	os.Exit(run(*race, *long, *verbose, *only, flag.Args()))
}

func run(race, long, verbose bool, only string, packages []string) int {
	if len(packages) == 0 {
		packages = []string{"./..."}
	}
	args := []string{"test", "-json", "-timeout=60m"}
	if race {
		args = append(args, "-race")
	}
	if only != "" {
		args = append(args, "-run="+only)
	}
	cmd := exec.Command("go", append(args, packages...)...)
	cmd.Stderr = os.Stderr
	cmd.Env = os.Environ()
	if long {
		cmd.Env = append(cmd.Env, "RETALLY_LONG=1")
	}
	if race {
		cmd.Env = append(cmd.Env, "CGO_ENABLED=1")
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		fmt.Fprintln(os.Stderr, "testall:", err)
		return 2
	}
	if err := cmd.Start(); err != nil {
		fmt.Fprintln(os.Stderr, "testall:", err)
		return 2
	}
	t := &tally{skips: map[string][]string{}}
	outputs := map[string][]string{}
	sc := bufio.NewScanner(out)
	sc.Buffer(make([]byte, 1<<20), 1<<26)
	for sc.Scan() {
		var e event
		if err := json.Unmarshal(sc.Bytes(), &e); err != nil {
			fmt.Println(sc.Text()) // a build failure is plain text
			continue
		}
		t.take(e, outputs, verbose)
	}
	waitErr := cmd.Wait()
	t.print()
	if waitErr != nil || t.failed > 0 || len(t.failedPackages) > 0 {
		return 1
	}
	return 0
}

// take follows the stream of test events; a test's output is kept until its
// outcome is known.
func (t *tally) take(e event, outputs map[string][]string, verbose bool) {
	id := e.Package + " " + e.Test
	switch e.Action {
	case "output", "build-output":
		if verbose {
			fmt.Print(e.Output)
		}
		if e.Action == "build-output" {
			fmt.Print(e.Output)
			return
		}
		outputs[id] = append(outputs[id], e.Output)
	case "pass", "fail", "skip":
		if e.Test == "" {
			t.endPackage(e, outputs[id])
			delete(outputs, id)
			return
		}
		switch e.Action {
		case "pass":
			t.passed++
		case "fail":
			t.failed++
			if !verbose {
				fmt.Print(strings.Join(outputs[id], ""))
			}
		case "skip":
			t.skipped++
			r := reason(outputs[id])
			t.skips[r] = append(t.skips[r], strings.TrimPrefix(id, "github.com/retally/retally/"))
		}
		delete(outputs, id)
	}
}

func (t *tally) endPackage(e event, output []string) {
	switch e.Action {
	case "pass":
		fmt.Printf("ok    %s  %s\n", e.Package, time.Duration(e.Elapsed*float64(time.Second)).Round(time.Millisecond))
	case "fail":
		fmt.Print(strings.Join(output, ""))
		t.failedPackages = append(t.failedPackages, e.Package)
	}
}

// reason finds what a test said when it skipped itself.
func reason(output []string) string {
	for _, line := range output {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "===") || strings.HasPrefix(line, "---") {
			continue
		}
		if _, text, ok := strings.Cut(line, ".go:"); ok {
			if _, text, ok = strings.Cut(text, ": "); ok {
				line = text
			}
		}
		return strings.TrimPrefix(line, "SKIP-VISIBLE ")
	}
	return "no reason given"
}

func (t *tally) print() {
	var reasons []string
	for r := range t.skips {
		reasons = append(reasons, r)
	}
	sort.Strings(reasons)
	for _, r := range reasons {
		tests := t.skips[r]
		fmt.Printf("skip  %s: %s", r, tests[0])
		if len(tests) > 1 {
			fmt.Printf(" and %d more", len(tests)-1)
		}
		fmt.Println()
	}
	for _, p := range t.failedPackages {
		fmt.Printf("FAIL  %s\n", p)
	}
	failed := max(t.failed, len(t.failedPackages))
	fmt.Printf("%d passed, %d failed, %d skipped\n", t.passed, failed, t.skipped)
}
