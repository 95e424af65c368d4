package verity_test

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/retally/retally/verity"
)

// A tree speaks of the bytes that it covers and of no others.
func TestCoverage(t *testing.T) {
	dir := t.TempDir()
	data, hash := filepath.Join(dir, "data"), filepath.Join(dir, "hash")
	content := bytes.Repeat([]byte("retally "), 512*8)
	if err := os.WriteFile(data, content, 0o600); err != nil {
		t.Fatal(err)
	}
	p := verity.Defaults()
	res, err := verity.FormatFiles(t.Context(), data, hash, p, verity.FEC{}, verity.Options{})
	if err != nil {
		t.Fatal(err)
	}
	verify := func(hash string, p verity.Params) verity.Verdict {
		t.Helper()
		v, err := verity.VerifyFiles(t.Context(), data, hash, res.Root.Hex(), p, verity.VerifyOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if !v.OK() {
			t.Fatalf("got %v", v.Mismatches)
		}
		return v
	}
	if v := verify(hash, p); v.Covered != 32768 || v.Uncovered != 0 {
		t.Errorf("whole: got %d covered, %d not", v.Covered, v.Uncovered)
	}
	if err := os.WriteFile(data, append(content, make([]byte, 70000)...), 0o600); err != nil {
		t.Fatal(err)
	}
	if v := verify(hash, p); v.Covered != 32768 || v.Uncovered != 70000 {
		t.Errorf("appended: got %d covered, %d not", v.Covered, v.Uncovered)
	}
	// Data and tree in one file: the tree is no uncovered data, what follows is.
	if err := os.WriteFile(data, content, 0o600); err != nil {
		t.Fatal(err)
	}
	p.HashOffset, p.DataBlocks = 32768, 8
	if res, err = verity.FormatFiles(t.Context(), data, data, p, verity.FEC{}, verity.Options{}); err != nil {
		t.Fatal(err)
	}
	if v := verify(data, p); v.Covered != 32768 || v.Uncovered != 0 {
		t.Errorf("one file: got %d covered, %d not", v.Covered, v.Uncovered)
	}
	f, err := os.OpenFile(data, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.Write(make([]byte, 5)); err != nil {
		t.Fatal(err)
	}
	if v := verify(data, p); v.Uncovered != 5 {
		t.Errorf("behind the tree: got %d not covered, want 5", v.Uncovered)
	}
}
