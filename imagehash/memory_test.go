package imagehash_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/retally/retally/imagehash"
	"github.com/retally/retally/internal/testenv"
)

// All vectors, one after the other in one process, stay within 64 MiB.
func TestVectorsMemory(t *testing.T) {
	testenv.OwnMemory(t)
	if _, err := os.Stat("/proc/self/status"); err != nil {
		testenv.Missing(t, "/proc")
	}
	dir, list := vectors(t)
	var files []string
	for _, v := range list {
		files = append(files, filepath.Join(dir, v.File))
	}
	cmd := child("vectors", strings.Join(files, "\n"))
	c := measure(cmd)
	if c.err != "" || c.resident == 0 {
		t.Fatalf("got %+v", c)
	}
	if c.resident > 64<<10 {
		t.Errorf("%d KiB resident, want at most 64 MiB", c.resident)
	}
	t.Logf("%v", c)
}

// Layers with the largest zstd window, two at a time.
func TestMemory(t *testing.T) {
	testenv.OwnMemory(t)
	if _, err := os.Stat("/proc/self/status"); err != nil {
		testenv.Missing(t, "/proc")
	}
	dir := t.TempDir()
	makeLayout(t, dir, "zstd", 3, 16<<20, 0)
	c := measure(child("imagehash", dir))
	if c.err != "" || c.resident == 0 || c.resident > 64<<10 {
		t.Errorf("got %v, want at most 64 MiB resident", c)
	}
	t.Logf("%v", c)
}

func TestHashesJSON(t *testing.T) {
	good, err := imagehash.VerifyRef(t.Context(), "testdata/ok-gzip-single.tar", imagehash.Options{})
	if err != nil {
		t.Fatal(err)
	}
	got, err := imagehash.HashesJSON([]*imagehash.Report{good})
	const want = "{\n  \"ok-gzip-single.tar\": \"sha256:9b92ab39c1ad68633a654edd58be1249cf76e409dcc63512d15b709d04673985\"\n}\n"
	if err != nil || string(got) != want {
		t.Errorf("got %q, %v, want %q", got, err, want)
	}
	if _, err := imagehash.HashesJSON([]*imagehash.Report{good, good}); err == nil || !strings.Contains(err.Error(), "two sources are called") {
		t.Errorf("two sources of one name: got %v, want an error", err)
	}
	bad, err := imagehash.VerifyRef(t.Context(), "testdata/bad-diffid.tar", imagehash.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := imagehash.HashesJSON([]*imagehash.Report{good, bad}); err == nil || !strings.Contains(err.Error(), "diffid-mismatch") {
		t.Errorf("got %v, want the refusal", err)
	}
}
