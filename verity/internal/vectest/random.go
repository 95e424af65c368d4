package vectest

import (
	"fmt"
	"math/rand/v2"
	"strings"
)

// RandomTree draws a tree that visits the corners of the layout: sizes around
// block borders, inline tails that just fit, long names, many entries, hard
// links, long symlinks, special files, odd modes.
func RandomTree(r *rand.Rand, name string, maxEntries int) Tree {
	v := Tree{Name: name, RootMode: randomMode(r, "0755")}
	dirs := []string{""}
	var files, symlinks []string
	taken := map[string]bool{}
	n := r.IntN(maxEntries + 1)
	if r.IntN(4) == 0 {
		n = r.IntN(12)
	}
	nameStyle, whiteouts := r.IntN(4), r.IntN(8) == 0
	for k := range n {
		dir := dirs[r.IntN(len(dirs))]
		base := randomName(r, nameStyle, k)
		path := dir + base
		if taken[path] {
			continue
		}
		taken[path] = true
		e := Entry{Path: path, Mode: randomMode(r, "0644")}
		switch d := r.IntN(100); {
		case d < 14 && strings.Count(path, "/") < 12 && len(path) < 2000:
			e.Type, e.Mode = "dir", randomMode(r, "0755")
			dirs = append(dirs, path+"/")
		case d < 22:
			e.Type, e.Target = "symlink", strings.Repeat("t/", 2048)[:1+r.IntN([]int{20, 300, 4095}[r.IntN(3)])]
			symlinks = append(symlinks, path)
		case d < 29 && len(files) > 0:
			e.Type, e.Target = "hardlink", files[r.IntN(len(files))]
			if len(symlinks) > 0 && r.IntN(5) == 0 {
				e.Target = symlinks[r.IntN(len(symlinks))]
			}
		case d < 31:
			e.Type = "fifo"
		case d < 33:
			e.Type = "sock"
		case d < 36:
			e.Type, e.Major, e.Minor = []string{"chr", "blk"}[r.IntN(2)], 1+r.Uint32N(4095), r.Uint32N(1<<20)
			if whiteouts && r.IntN(2) == 0 {
				e.Type, e.Major, e.Minor = "chr", 0, 0
			}
		default:
			e.Type = "file"
			e.Content = Content{Content: "sha256ctr", Seed: name + path, Size: randomSize(r)}
			files = append(files, path)
		}
		v.Entries = append(v.Entries, e)
	}
	return v
}

func randomMode(r *rand.Rand, usual string) string {
	if r.IntN(3) > 0 {
		return usual
	}
	// The owner keeps what a test that is not root needs.
	return fmt.Sprintf("%04o", r.IntN(0o10000)|0o600|map[string]int{"0755": 0o100}[usual])
}

func randomSize(r *rand.Rand) int64 {
	switch r.IntN(6) {
	case 0:
		return 0
	case 1:
		return r.Int64N(100)
	case 2:
		return r.Int64N(5000)
	case 3: // around the borders of blocks and of what fits inline
		return max(0, int64(r.IntN(4))*4096+[]int64{-1, 0, 1, 2848, 4031, 4032, 4033, 4063, 4064, 4065}[r.IntN(10)])
	case 4:
		return 4000 + r.Int64N(200)
	default:
		return r.Int64N(40000)
	}
}

func randomName(r *rand.Rand, style, k int) string {
	switch {
	case style == 0:
		return fmt.Sprintf("model-%05d-of-00100.safetensors", k)
	case style == 1 && r.IntN(3) == 0:
		return fmt.Sprintf("%04d", k) + strings.Repeat("n", r.IntN(252))
	case r.IntN(4) == 0:
		return []string{"!", "#", "+", ",", "-", "..", ".a", "é", "日本語", "Z", "_", "~", "\xff\xfe"}[r.IntN(13)] + fmt.Sprint(k)
	default:
		return fmt.Sprintf("%x", r.Uint32N(1<<uint(4+r.IntN(24))))
	}
}
