package disk_test

import (
	"io/fs"
	"syscall"
	"testing"
)

// allocated returns the bytes that a file occupies.
func allocated(t *testing.T, st fs.FileInfo) int64 {
	t.Helper()
	s, ok := st.Sys().(*syscall.Stat_t)
	if !ok {
		t.Skip("SKIP-VISIBLE stat: no allocation figures here")
	}
	return s.Blocks * 512
}
