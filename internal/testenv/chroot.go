package testenv

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// A Chroot is a folder with newer tools than the system's, made by
// .ci/oracle-chroot and named by RETALLY_SID_ROOT.
type Chroot struct {
	root string
	work string // folder below root/tmp that belongs to the test
}

// NewChroot finds the chroot or ends the test visibly.
func NewChroot(t testing.TB) Chroot {
	t.Helper()
	root := os.Getenv("RETALLY_SID_ROOT")
	if root == "unavailable" {
		t.Skip("SKIP-VISIBLE oracle: no chroot of a newer Debian could be made on this machine")
	}
	if root == "" || os.Geteuid() != 0 {
		Missing(t, "chroot of a newer Debian (RETALLY_SID_ROOT, .ci/oracle-chroot, root)")
	}
	work, err := os.MkdirTemp(filepath.Join(root, "tmp"), "retally-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(work) })
	return Chroot{root, work}
}

// Path is where a file of the test is outside the chroot.
func (c Chroot) Path(name string) string { return filepath.Join(c.work, name) }

// Run runs a tool inside, with the test's folder as the working directory, and
// fails the test if the tool fails.
func (c Chroot) Run(t testing.TB, tool string, args ...string) string {
	t.Helper()
	out, code := c.Try(t, tool, args...)
	if code != 0 {
		t.Fatalf("%s %q: exit %d\n%s", tool, args, code, out)
	}
	return out
}

// Try runs a tool and returns what it printed and its exit code.
func (c Chroot) Try(t testing.TB, tool string, args ...string) (string, int) {
	t.Helper()
	// "sh -c cd" and not chroot's own option: it is missing in older ones.
	inside := "/tmp/" + filepath.Base(c.work)
	cmd := exec.Command("chroot", append([]string{c.root, "/bin/sh", "-c", `cd "$0" && exec "$@"`, inside, tool}, args...)...)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C"}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return out.String(), cmd.ProcessState.ExitCode()
}
