//go:build unix

package atomicfile

import (
	"os"
	"syscall"
)

// lock marks the file as in use until it is closed. File systems without locks
// only lose the sweeping of left-over files.
func lock(f *os.File) { _ = syscall.Flock(int(f.Fd()), syscall.LOCK_EX) }

// abandoned reports whether no process holds the file.
func abandoned(f *os.File) bool {
	return syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) == nil
}
