package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/retally/retally/internal/policytest"
	"github.com/retally/retally/internal/testenv"
)

// cost is what one run of the program took.
type cost struct {
	wall, cpu time.Duration
	rss       int64 // KiB
}

// timed runs the real program and fails unless it exits with 0.
func timed(t *testing.T, exe, cache, stdin string, args ...string) cost {
	t.Helper()
	cmd := exec.Command(exe, args...)
	cmd.Stdin = strings.NewReader(stdin)
	cmd.Env = append(os.Environ(), "RETALLY_CACHE="+cache)
	start := time.Now()
	var errOut strings.Builder
	cmd.Stderr = &errOut
	err := cmd.Run()
	wall := time.Since(start)
	if err != nil {
		t.Fatalf("%v\n%.2000s", err, errOut.String())
	}
	u, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage)
	if !ok {
		t.Fatal("no resource usage of the program")
	}
	return cost{wall, cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime(), u.Maxrss}
}

// describeCosts gives median and extremes.
func describeCosts(list []cost) string {
	slices.SortFunc(list, func(a, b cost) int { return int(a.wall - b.wall) })
	var rss int64
	var cpu time.Duration
	for _, c := range list {
		rss, cpu = max(rss, c.rss), cpu+c.cpu
	}
	ms := func(d time.Duration) string { return d.Round(time.Millisecond).String() }
	return fmt.Sprintf("%d runs: wall %s (%s to %s), CPU %s, peak memory %d MiB",
		len(list), ms(list[len(list)/2].wall), ms(list[0].wall), ms(list[len(list)-1].wall), ms(cpu/time.Duration(len(list))), rss>>10)
}

// TestPolicySpeed measures the program where its reference was measured: with
// images in a registry on loopback. It prints figures and judges none.
func TestPolicySpeed(t *testing.T) {
	testenv.Long(t)
	exe := program(t)
	own := policytest.Unpack(t)
	// A rules file of the size of kata's.
	mini, err := os.ReadFile(filepath.Join(own, "rules", "mini.rego"))
	if err != nil {
		t.Fatal(err)
	}
	rules := filepath.Join(t.TempDir(), "rules.rego")
	if err := os.WriteFile(rules, append(mini, strings.Repeat("# a rules file of kata's size\n", 57_000/30)...), 0o644); err != nil {
		t.Fatal(err)
	}
	measure := func(t *testing.T, runs int, yaml string, args ...string) {
		t.Helper()
		cache := t.TempDir()
		for _, state := range []string{"cold", "warm"} {
			var list []cost
			for range runs {
				if state == "cold" {
					cache = t.TempDir()
				}
				list = append(list, timed(t, exe, cache, yaml, append(args, "--rules", rules, "-o", "yaml")...))
			}
			t.Logf("%s: %s", state, describeCosts(list))
		}
	}
	t.Run("privatemode", func(t *testing.T) {
		vectors, published := testenv.Vectors(t, "own/policy"), testenv.Vectors(t, "published/kata")
		f := policyFamily{filepath.Join(published, "cases"), published, rules}
		registry := policytest.NewRegistry(t, filepath.Join(vectors, "images"))
		_, args := f.args(t, "privatemode-noguestpull", registry.Addr())
		input, err := os.ReadFile(filepath.Join(f.cases, "privatemode-noguestpull", "input.yaml"))
		if err != nil {
			t.Fatal(err)
		}
		measure(t, 20, string(input), args...)
	})
	t.Run("200 deployments", func(t *testing.T) {
		dir := t.TempDir()
		yaml, size, err := policytest.WriteLarge(dir, 1)
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%.2f GB of blobs", float64(size)/1e9)
		registry := policytest.NewRegistry(t, dir)
		measure(t, 3, yaml, "policy", "generate", "-f", "-", "--parity", "kata-4.1", "--settings", filepath.Join(own, "settings", "own"), "--mirror", "*="+registry.Addr())
	})
}

// TestPolicyLargeSmall runs the large case with small images, so that its
// generator cannot rot: 200 policies, every layer once, none when warm.
func TestPolicyLargeSmall(t *testing.T) {
	dir := t.TempDir()
	yaml, _, err := policytest.WriteLarge(dir, 0.001)
	if err != nil {
		t.Fatal(err)
	}
	own := policytest.Unpack(t)
	registry := policytest.NewRegistry(t, dir)
	c := commandLine{map[string]string{"RETALLY_CACHE": t.TempDir()}, yaml}
	for _, want := range []int{31 + 2*31, 2 * 31} { // layers, manifests and configs; then no layers
		code, stdout, stderr := c.run(t, "policy", "generate", "-f", "-", "--parity", "kata-4.1", "--rules", filepath.Join(own, "rules", "mini.rego"),
			"--settings", filepath.Join(own, "settings", "own"), "--mirror", "*="+registry.Addr(), "-q")
		if code != 0 || strings.Count(stdout, "Deployment ns/w") != 200 {
			t.Fatalf("exit code %d, %d policies\n%s", code, strings.Count(stdout, "Deployment ns/w"), stderr)
		}
		got := 0
		for what, n := range registry.Counts() {
			got += n
			if n > 1 && !strings.HasSuffix(what, " latest") && !strings.HasSuffix(what, " 3.6") {
				t.Errorf("%s was asked for %d times", what, n)
			}
		}
		if got != want {
			t.Errorf("%d requests, want %d", got, want)
		}
	}
}
