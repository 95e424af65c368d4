// Package testenv gives tests what they need from outside the module: golden
// vectors, oracle programs, and leave to be slow. What is absent is skipped
// with one line that the test runner shows, or fatal where it is required.
//
//	RETALLY_VECTORS=DIR      where the vectors are (required to exist if set)
//	RETALLY_ORACLES=require  a missing oracle program is a failure
//	RETALLY_LONG=1, -long    run the large and slow cases too
package testenv

import (
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

var long = flag.Bool("long", os.Getenv("RETALLY_LONG") != "", "run the large and slow test cases too")

// Vectors returns the path of a folder or file below the golden vectors, for
// instance "own/contrast".
func Vectors(t testing.TB, rel string) string {
	t.Helper()
	root := os.Getenv("RETALLY_VECTORS")
	if root == "" {
		t.Skipf("SKIP-VISIBLE vectors: RETALLY_VECTORS is not set, %s not tested", rel)
	}
	if !filepath.IsAbs(root) {
		root = filepath.Join(moduleRoot(t), root)
	}
	path := filepath.Join(root, filepath.FromSlash(rel))
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("vectors are required (RETALLY_VECTORS) but missing: %v", err)
	}
	return path
}

// Oracle returns the path of a real tool that a test compares with.
func Oracle(t testing.TB, program string) string {
	t.Helper()
	path, err := exec.LookPath(program)
	if err != nil {
		Missing(t, program)
	}
	return path
}

// Missing ends the test because an oracle cannot be had: a failure where
// oracles are required, else a visible skip.
func Missing(t testing.TB, oracle string) {
	t.Helper()
	if os.Getenv("RETALLY_ORACLES") == "require" {
		t.Fatalf("oracle %s is required (RETALLY_ORACLES) but not installed", oracle)
	}
	t.Skipf("SKIP-VISIBLE oracle: %s is not installed", oracle)
}

// Long skips the test unless slow cases were asked for.
func Long(t testing.TB) {
	t.Helper()
	if !*long {
		t.Skip("SKIP-VISIBLE long: run with -long or RETALLY_LONG=1")
	}
}

// IsLong reports whether slow cases were asked for.
func IsLong() bool { return *long }

// ModuleRoot returns the folder of go.mod.
func ModuleRoot(t testing.TB) string { return moduleRoot(t) }

func moduleRoot(t testing.TB) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			t.Fatal("no go.mod above the working folder")
		}
		dir = parent
	}
}

// OwnSpeed skips a test with the race detector that goes through the program
// hundreds of times, or starts it: the detector makes these five times as slow,
// and finds in them what it finds in the program's other tests. In .ci/run they
// run without it.
func OwnSpeed(t testing.TB) {
	t.Helper()
	if Race {
		t.Skip("SKIP-VISIBLE speed: hundreds of runs of the program; run without -race")
	}
}

// OwnMemory skips a test that measures memory in a program with the race
// detector; in .ci/run these tests run without it.
func OwnMemory(t testing.TB) {
	t.Helper()
	if Race {
		t.Skip("SKIP-VISIBLE race: the race detector's memory is not the program's; run without -race")
	}
}
