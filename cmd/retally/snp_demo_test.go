package main

import (
	"strings"
	"testing"
)

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
