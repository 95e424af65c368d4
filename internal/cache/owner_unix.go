//go:build unix

package cache

import (
	"fmt"
	"os"
	"syscall"
)

// nofollow keeps an entry from leading elsewhere, nonblock a pipe in its place
// from holding the run.
const nofollow = syscall.O_NOFOLLOW | syscall.O_NONBLOCK

// foreign says why others could have written what lies there, "" if only this
// user could.
func foreign(info os.FileInfo) string {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return "its owner is not known"
	}
	if uid := os.Geteuid(); int(st.Uid) != uid {
		return fmt.Sprintf("it belongs to user %d, not to %d", st.Uid, uid)
	}
	if p := info.Mode().Perm(); p&0o022 != 0 {
		return fmt.Sprintf("other users may write to it (mode %04o)", p)
	}
	return ""
}
