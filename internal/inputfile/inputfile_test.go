//go:build unix

package inputfile_test

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/retally/retally/internal/inputfile"
)

func TestOpen(t *testing.T) {
	dir := t.TempDir()
	fifo := filepath.Join(dir, "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("content"), 0o600); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(dir, "link")
	if err := os.Symlink(fifo, link); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]bool{file: true, fifo: false, link: false, "/dev/zero": false, dir: false} {
		f, err := inputfile.Open(path, 0)
		if want && err != nil {
			t.Errorf("%s: %v", path, err)
		}
		var kind *inputfile.KindError
		if !want && !errors.As(err, &kind) {
			t.Errorf("%s: got %v, want a KindError", path, err)
		}
		if (inputfile.Check(path, 0) == nil) != want {
			t.Errorf("%s: Check and Open differ", path)
		}
		if f != nil {
			f.Close()
		}
	}
	if f, err := inputfile.Open(dir, inputfile.Folders); err != nil {
		t.Error(err)
	} else {
		f.Close()
	}
	if data, err := inputfile.Read(file, 7); err != nil || string(data) != "content" {
		t.Errorf("got %q, %v", data, err)
	}
	if _, err := inputfile.Read(file, 6); err == nil {
		t.Error("a file over the limit was read")
	}
}

func TestPipeThatTheShellOpened(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	go func() {
		io.WriteString(w, "from a process")
		w.Close()
	}()
	path := filepath.Join("/dev/fd", fmt.Sprint(r.Fd()))
	if _, err := os.Stat(path); err != nil {
		t.Skip("SKIP-VISIBLE system: no /dev/fd here")
	}
	if data, err := inputfile.Read(path, 100); err != nil || string(data) != "from a process" {
		t.Errorf("got %q, %v", data, err)
	}
}
