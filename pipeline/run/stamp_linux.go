package run

import (
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

func stampOf(info os.FileInfo) stamp {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return stamp{}
	}
	return stamp{
		Dev: st.Dev, Ino: st.Ino, Size: st.Size,
		MTime: st.Mtim.Nano(), CTime: st.Ctim.Nano(),
	}
}

// hold makes a later write through an open memory mapping change the file's
// times. The kernel notices the first write to a page that is clean: pages that
// are dirty already, and writable, are therefore written back before the file
// is read. It reports whether this file system works like that; where it does
// not, or is not known to, a stamp tells nothing.
func hold(f *os.File) bool {
	var fs unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &fs); err != nil {
		return false
	}
	switch uint32(fs.Type) {
	case unix.EXT4_SUPER_MAGIC, unix.XFS_SUPER_MAGIC, unix.BTRFS_SUPER_MAGIC, unix.F2FS_SUPER_MAGIC:
		const all = unix.SYNC_FILE_RANGE_WAIT_BEFORE | unix.SYNC_FILE_RANGE_WRITE | unix.SYNC_FILE_RANGE_WAIT_AFTER
		return unix.SyncFileRange(int(f.Fd()), 0, 0, all) == nil
	case unix.OVERLAYFS_SUPER_MAGIC:
		return f.Sync() == nil // passes on to the file below
	case unix.EROFS_SUPER_MAGIC_V1, unix.SQUASHFS_MAGIC, unix.ISOFS_SUPER_MAGIC:
		return true // nothing writes there
	default:
		return false
	}
}
