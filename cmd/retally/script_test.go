package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/retally/retally/internal/testenv"
)

var update = flag.Bool("update", false, "rewrite the golden output in the scripts")

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"retally": func() {
			os.Exit(executeHeld(os.Args[1:]))
		},
	})
}

// executeHeld is execute for scripts: what -o json prints is held against its
// schema, and its outcome against the exit code, whatever the script looks at.
func executeHeld(args []string) int {
	dir := os.Getenv("RETALLY_TEST_SCHEMAS")
	if dir == "" || !wantsJSON(args) {
		return execute(context.Background(), args, os.Getenv, os.Stdin, os.Stdout, os.Stderr)
	}
	var out bytes.Buffer
	code := execute(context.Background(), args, os.Getenv, os.Stdin, io.MultiWriter(os.Stdout, &out), os.Stderr)
	if code == exitInterrupted {
		return code
	}
	if err := newSchemaSet(dir).check(out.Bytes(), code); err != nil {
		fmt.Fprintf(os.Stderr, "retally %s: %v\n", strings.Join(args, " "), err)
		return 99
	}
	return code
}

func TestScripts(t *testing.T) {
	testenv.OwnSpeed(t)
	testscript.Run(t, testscript.Params{
		Dir:                 filepath.Join("testdata", "script"),
		UpdateScripts:       *update,
		RequireExplicitExec: true,
		Cmds:                scriptCommands(t),
		Setup: func(e *testscript.Env) error {
			setupScript(t, e)
			return nil
		},
		Condition: func(cond string) (bool, error) {
			if cond == "vectors" {
				return os.Getenv("RETALLY_VECTORS") != "", nil
			}
			if cond == "nix" {
				for _, name := range []string{"nix", "busybox"} {
					if _, err := exec.LookPath(name); err != nil && os.Getenv("RETALLY_ORACLES") != "require" {
						return false, nil
					}
				}
				return true, nil
			}
			return false, errors.New("unknown condition " + cond)
		},
	})
}

// TestVectorsVisible makes it visible when scripts left out their real inputs.
func TestVectorsVisible(t *testing.T) {
	testenv.Vectors(t, "published/privatemode")
}

func setupScript(t *testing.T, e *testscript.Env) {
	e.Setenv("RETALLY_CACHE", filepath.Join(e.WorkDir, ".cache"))
	e.Setenv("HOME", e.WorkDir)
	e.Setenv("NO_COLOR", "1")
	e.Setenv("RETALLY_TEST_SCHEMAS", filepath.Join(testenv.ModuleRoot(t), "docs", "schema"))
	e.Setenv("COLUMNS", "100")
	e.Setenv("TMPDIR", filepath.Join(e.WorkDir, ".tmp"))
	if err := os.MkdirAll(filepath.Join(e.WorkDir, ".tmp"), 0o755); err != nil {
		t.Fatal(err)
	}
	if v := os.Getenv("RETALLY_VECTORS"); v != "" {
		if !filepath.IsAbs(v) {
			v = filepath.Join(testenv.ModuleRoot(t), v)
		}
		e.Setenv("V", filepath.Join(v, "published", "privatemode"))
	}
}

func scriptCommands(t *testing.T) map[string]func(*testscript.TestScript, bool, []string) {
	var mu sync.Mutex
	tried := map[string]bool{} // folders with the commands proposed in them
	first := func(dir, command string) bool {
		mu.Lock()
		defer mu.Unlock()
		known := tried[dir+"\n"+command]
		tried[dir+"\n"+command] = true
		return !known
	}
	return map[string]func(*testscript.TestScript, bool, []string){
		// policylab makes settings, rules and images to generate policies from.
		"policylab": policyLabCommand(t),
		// machine makes a confidential machine's evidence.
		"machine": machineCommand,
		// contrast-machine makes the evidence of a Coordinator, for the nonce 07...
		"contrast-machine": contrastMachineCommand,
		// contrast-program builds a program that embeds files.
		"contrast-program": contrastProgramCommand,
		// tpm-machine makes evidence of virtual TPMs.
		"tpm-machine": tpmMachineCommand,
		// exits CODE PROGRAM ARG... runs a program that must end with the code, or,
		// where CODE is a dot, with one of those that are verdicts.
		"exits": func(ts *testscript.TestScript, neg bool, args []string) {
			if neg || len(args) < 2 {
				ts.Fatalf("usage: exits CODE PROGRAM ARG...")
			}
			want, any := 0, args[0] == "."
			var err error
			if !any {
				want, err = strconv.Atoi(args[0])
				ts.Check(err)
			}
			err = ts.Exec(args[1], args[2:]...)
			got := 0
			var exit *exec.ExitError
			if errors.As(err, &exit) {
				got = exit.ExitCode()
			} else {
				ts.Check(err)
			}
			if got != want && !(any && (got == exitMatch || got == exitDiffers || got == exitUnchecked)) {
				ts.Fatalf("exit code %d, want %d\n%s", got, want, ts.ReadFile("stderr"))
			}
			// Whatever is proposed as the next command runs as it is printed.
			if next := proposed(ts.ReadFile("stdout")); next != "" && first(ts.MkAbs("."), next) {
				problem, err := runProposed(ts.MkAbs("."), []string{"PATH=" + ts.Getenv("PATH"), "HOME=" + ts.Getenv("HOME"), "NO_COLOR=1"}, next)
				ts.Check(err)
				if problem != "" {
					ts.Fatalf("%s", problem)
				}
			}
		},
		// replace FILE OLD NEW changes one text in a file and, with a fourth
		// word, keeps its modification time.
		"replace": func(ts *testscript.TestScript, _ bool, args []string) {
			if len(args) != 3 && len(args) != 4 {
				ts.Fatalf("usage: replace FILE OLD NEW [keep-mtime]")
			}
			path := ts.MkAbs(args[0])
			info, err := os.Stat(path)
			ts.Check(err)
			old := ts.ReadFile(args[0])
			if strings.Count(old, args[1]) == 0 {
				ts.Fatalf("%s does not hold %q", args[0], args[1])
			}
			ts.Check(os.WriteFile(path, []byte(strings.Replace(old, args[1], args[2], 1)), 0o644))
			if len(args) == 4 {
				ts.Check(os.Chtimes(path, info.ModTime(), info.ModTime()))
			}
		},
		// tdx-artifacts writes the artifacts of a synthetic TDX machine.
		"tdx-artifacts": func(ts *testscript.TestScript, _ bool, _ []string) {
			tdxArtifacts(scriptFatal{ts}, ts.MkAbs("."))
		},
		// tpm-artifacts writes what a machine with a TPM boots, and its logs.
		"tpm-artifacts": func(ts *testscript.TestScript, _ bool, _ []string) {
			tpmArtifacts(scriptFatal{ts}, ts.MkAbs("."))
		},
		// snp-artifacts writes the inputs of an AMD machine.
		"snp-artifacts": func(ts *testscript.TestScript, _ bool, _ []string) {
			snpArtifacts(scriptFatal{ts}, testenv.ModuleRoot(t), ts.MkAbs("."))
		},
		// lines FILE MAX checks that a file is not longer.
		"lines": func(ts *testscript.TestScript, _ bool, args []string) {
			most, err := strconv.Atoi(args[1])
			ts.Check(err)
			if n := strings.Count(ts.ReadFile(args[0]), "\n"); n > most {
				ts.Fatalf("%s has %d lines, at most %d are wanted", args[0], n, most)
			}
		},
		// printable FILE checks that nothing in it can write to a terminal.
		"printable": func(ts *testscript.TestScript, _ bool, args []string) {
			for _, r := range ts.ReadFile(args[0]) {
				if r < 0x20 && r != '\n' || r == 0x7f || r >= 0x80 && r < 0xa0 || r == 0x202e || r == 0xfffd {
					ts.Fatalf("%s holds %U", args[0], r)
				}
			}
		},
	}
}

// scriptFatal ends a script as a test is ended.
type scriptFatal struct{ ts *testscript.TestScript }

func (s scriptFatal) Fatal(args ...any) { s.ts.Fatalf("%s", args) }
