package run

import (
	"fmt"
	"os"
	"runtime/debug"
)

// BuildIdentity tells this program from any other build, so that a changed
// program never uses a result that an older one cached.
func BuildIdentity() string {
	exe, err := os.Executable()
	if err != nil {
		return "unknown"
	}
	info, err := os.Stat(exe)
	if err != nil {
		return "unknown"
	}
	build := ""
	if bi, ok := debug.ReadBuildInfo(); ok {
		build = bi.GoVersion
	}
	return fmt.Sprintf("%s %d %d", build, info.Size(), info.ModTime().UnixNano())
}
