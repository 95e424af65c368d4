//go:build unix

package disk

import (
	"os"
	"syscall"
)

// ownerOf is the owner of a directory.
func ownerOf(dir string) (uid, gid uint32, ok bool) {
	info, err := os.Stat(dir)
	if err != nil {
		return 0, 0, false
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, 0, false
	}
	return st.Uid, st.Gid, true
}
