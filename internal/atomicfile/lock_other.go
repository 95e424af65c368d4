//go:build !unix

package atomicfile

import "os"

func lock(*os.File) {}

// abandoned cannot be told without locks, so nothing is swept.
func abandoned(*os.File) bool { return false }
