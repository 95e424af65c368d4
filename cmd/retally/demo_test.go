package main

import (
	"bytes"
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"

	"github.com/retally/retally/fixtures"
	"github.com/retally/retally/internal/testenv"
	"github.com/retally/retally/pipeline"
)

// TestDemoAllowsNothing: the example ends in a match because everything was
// recounted, not because its configuration lets anything pass.
func TestDemoAllowsNothing(t *testing.T) {
	files, err := fixtures.Demo()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if f.Name == "retally.yaml" && bytes.Contains(f.Data, []byte("allow_unchecked")) {
			t.Error("the demo allows something in the user's name")
		}
	}
	rep, code := demoReport(t, "")
	if code != exitMatch || !strings.HasPrefix(rep.Summary, "TEST ROOT: Everything published was recounted and agrees: 103 values (8 of images, ") {
		t.Errorf("exit %d: %s", code, rep.Summary)
	}
	for _, f := range rep.Findings {
		if f.Allowed {
			t.Errorf("%s is allowed", f.Key)
		}
		if f.Verdict != pipeline.Match && f.Class != pipeline.ClassVolatile {
			t.Errorf("%s: %s", f.Key, f.Verdict)
		}
	}
}

// TestTampers: every change is found, and what was changed is named: a finding
// with its cause, or an error with its place.
func TestTampers(t *testing.T) {
	testenv.OwnSpeed(t)
	for _, tamper := range fixtures.Tampers() {
		rep, code := demoReport(t, tamper.Name)
		if code != exitDiffers {
			t.Errorf("%s: exit %d: %s", tamper.Name, code, rep.Summary)
		}
		named := 0
		for _, f := range rep.Findings {
			if f.Bad() && len(f.Why) > 0 {
				named++
			}
		}
		for _, p := range rep.Problems {
			if p.Level == pipeline.LevelError && p.Where.File != "" {
				named++
			}
		}
		if named == 0 {
			t.Errorf("%s: nothing says why", tamper.Name)
		}
	}
}

func demoReport(t *testing.T, tamper string) (*pipeline.Report, int) {
	t.Helper()
	args := []string{"demo", "-q", "--dir", filepath.Join(t.TempDir(), "d"), "--no-cache", "-o", "json"}
	if tamper != "" {
		args = append(args, "--tamper", tamper)
	}
	code, out, stderr := inProcess(t, nil, args...)
	var rep pipeline.Report
	if err := json.Unmarshal([]byte(out), &rep); err != nil {
		t.Fatalf("%s: %v\n%s%s", tamper, err, out, stderr)
	}
	return &rep, code
}

// TestDemoTamperSNP: a manifest that lists the digest of a larger AMD machine is
// found, and what was changed is named with proof.
func TestDemoTamperSNP(t *testing.T) {
	env := map[string]string{"RETALLY_CACHE": t.TempDir()}
	code, out, stderr := inProcess(t, env, "demo", "--dir", t.TempDir()+"/d", "--no-cache", "--tamper", "snp", "-o", "json")
	if code != exitDiffers {
		t.Fatalf("exit %d: %s", code, stderr)
	}
	for _, want := range []string{`"snp-vcpu-count"`, `"the other value matches with 2 vCPUs"`, `"proved"`} {
		if !strings.Contains(out, want) {
			t.Errorf("no %s in the report", want)
		}
	}
}
