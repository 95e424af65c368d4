package recognize

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Artifacts are what a folder holds of a machine, by what each is to it, as
// fields of platforms are called: firmware, kernel, initrd, rootfs, compose,
// docker_files, cmdline. names are those of one file: its own and those of links
// to it, the shortest first. A role that several files could have is in several.
func Artifacts(ctx context.Context, root string) (names, several map[string][]string, cmdline string, err error) {
	v, err := lookForVM(ctx, root)
	if err != nil {
		return nil, nil, "", err
	}
	names, several = map[string][]string{}, map[string][]string{}
	for _, role := range []vmRole{roleFirmware, roleKernel, roleInitrd, roleRootfs, roleCompose, roleDocker, roleCmdline} {
		files := slices.Clone(v.byRole[role])
		if len(files) == 0 {
			continue
		}
		slices.SortFunc(files, func(a, b string) int {
			if len(a) != len(b) {
				return len(a) - len(b)
			}
			return strings.Compare(a, b)
		})
		if oneFile(root, files) {
			names[string(role)] = files
		} else {
			several[string(role)] = files
		}
	}
	return names, several, v.cmdline, nil
}

// oneFile reports whether all names lead to one file.
func oneFile(root string, files []string) bool {
	first, err := os.Stat(filepath.Join(root, files[0]))
	if err != nil {
		return false
	}
	for _, f := range files[1:] {
		if info, err := os.Stat(filepath.Join(root, f)); err != nil || !os.SameFile(first, info) {
			return false
		}
	}
	return true
}
