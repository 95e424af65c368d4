package main

import (
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/note"

	"github.com/retally/retally/releases"
)

// TestEmptyReleases: a list without entries, signed by the right key, is no list
// that holds.
func TestEmptyReleases(t *testing.T) {
	const origin = "retally.example/empty"
	private, public, err := releases.NewKey(origin)
	if err != nil {
		t.Fatal(err)
	}
	signer, _, err := releases.ParseSigner(private)
	if err != nil {
		t.Fatal(err)
	}
	root := sha256.Sum256(nil)
	signed, err := note.Sign(&note.Note{Text: fmt.Sprintf("%s\n0\n%s\n", origin, base64.StdEncoding.EncodeToString(root[:]))}, signer)
	if err != nil {
		t.Fatal(err)
	}
	t.Chdir(t.TempDir())
	if err := os.MkdirAll(filepath.Join("log", "tile", "entries"), 0o755); err != nil {
		t.Fatal(err)
	}
	putFile(t, filepath.Join("log", "checkpoint"), signed)
	putFile(t, "log.pub", []byte(public+"\n"))
	code, out, errOut := inProcess(t, nil, "releases", "check", "log", "--log-key", "log.pub", "-o", "json")
	if code != exitUnchecked || !strings.Contains(out, "no entry") {
		t.Errorf("exit %d, want %d\n%s%s", code, exitUnchecked, out, errOut)
	}
}
