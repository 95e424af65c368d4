package tarproof_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/retally/retally/internal/testenv"
)

// One tree as GNU tar writes it in all its formats, with holes, global headers,
// numbers that octal digits do not hold and names that no field holds: of every
// two the one is made of the other.
func TestWritersOfOneTree(t *testing.T) {
	program := testenv.Oracle(t, "tar")
	dir := t.TempDir()
	long := filepath.Join(dir, "d", strings.Repeat("l", 90), strings.Repeat("m", 90))
	if err := os.MkdirAll(long, 0o755); err != nil {
		t.Fatal(err)
	}
	holes := make([]byte, 300_000)
	holes[100_000] = 'x'
	for path, data := range map[string][]byte{filepath.Join(dir, "d", "a"): []byte("hi\n"), filepath.Join(long, "file"): []byte("y\n")} {
		if err := os.WriteFile(path, data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	f, err := os.Create(filepath.Join(dir, "d", "holes"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt(holes[100_000:100_001], 100_000); err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(int64(len(holes))); err != nil {
		t.Fatal(err)
	}
	f.Close()
	for name, target := range map[string]string{"s": "a", "long": strings.Repeat("t", 150)} {
		if err := os.Symlink(target, filepath.Join(dir, "d", name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Link(filepath.Join(dir, "d", "a"), filepath.Join(dir, "d", "h")); err != nil {
		t.Fatal(err)
	}
	written := map[string][]byte{}
	for _, args := range []string{
		"--format=gnu", "--format=gnu -S", "--format=oldgnu -S", "--format=pax", "--format=pax -S", "--format=ustar",
		"--format=gnu --owner=4000000 --mtime=@99999999999", "--format=pax --owner=4000000 --mtime=@99999999999", "--format=gnu -b 1",
		"--format=pax --pax-option=globexthdr.name=g,comment=one", "--format=pax --pax-option=globexthdr.name=h,comment=two", "--format=pax --pax-option=delete=mtime",
	} {
		cmd := exec.Command(program, append(strings.Fields(args), "--sort=name", "-C", dir, "-cf", "-", ".")...)
		var out bytes.Buffer
		cmd.Stdout = &out
		if err := cmd.Run(); err != nil && out.Len() == 0 {
			t.Fatalf("tar %s: %v", args, err)
		} // ustar leaves out what it cannot hold, and says so
		written[args] = out.Bytes()
	}
	for wa, a := range written {
		for wb, b := range written {
			if !bytes.Equal(a, b) && check(t, a, b, false) == nil {
				t.Errorf("tar %s of tar %s: not proved", wa, wb)
			}
		}
	}
}
