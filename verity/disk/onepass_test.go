package disk_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/verity/disk"
	"github.com/retally/retally/verity/erofs"
	"github.com/retally/retally/verity/oms"
	"github.com/retally/retally/verity/source"
)

// omsOf is a statement of a directory's files as a signature has it, for
// measuring: what it takes to hold a model against it.
func omsOf(b *testing.B, dir string, hash oms.HashType) *oms.Statement {
	b.Helper()
	files, err := os.ReadDir(dir)
	if err != nil {
		b.Fatal(err)
	}
	s := &oms.Statement{Model: "m", Hash: hash}
	for _, f := range files {
		s.Resources = append(s.Resources, oms.Resource{Path: f.Name(), Digest: make([]byte, 32)})
	}
	return s
}

// lfsOf is a hub's listing of the same files.
func lfsOf(b *testing.B, dir string) *source.Tree {
	b.Helper()
	files, err := os.ReadDir(dir)
	if err != nil {
		b.Fatal(err)
	}
	t := &source.Tree{Name: "listing", Partial: true, Entries: map[string]source.Entry{}}
	for _, f := range files {
		info, err := f.Info()
		if err != nil {
			b.Fatal(err)
		}
		d, err := digest.ParseHex(digest.SHA256, hex.EncodeToString(make([]byte, sha256.Size)))
		if err != nil {
			b.Fatal(err)
		}
		t.Entries[f.Name()] = source.Entry{Mode: erofs.ModeRegular | 0o644, Size: info.Size(), SHA256: d, LFS: true}
	}
	return t
}

// BenchmarkOnePass holds one read for everything against each of it alone: the
// root hash, Git LFS digests, a signature's, and Xet hashes. With
// RETALLY_BENCH_DIR the model has 4 GiB in 8 files.
func BenchmarkOnePass(b *testing.B) {
	size := int64(32 << 20)
	if os.Getenv("RETALLY_BENCH_DIR") != "" {
		size = 512 << 20
	}
	dir := benchModel(b, "one-pass", 8, size, size)
	slowest := time.Duration(0)
	for _, c := range []struct {
		name string
		o    disk.Options
	}{
		{"root", disk.Options{}},
		{"root+lfs", disk.Options{Source: lfsOf(b, dir)}},
		{"root+oms", disk.Options{Signed: omsOf(b, dir, oms.SHA256)}},
		{"root+xet", disk.Options{Xet: true}},
		{"all", disk.Options{Source: lfsOf(b, dir), Signed: omsOf(b, dir, oms.SHA256), Xet: true}},
		{"all-blake3", disk.Options{Source: lfsOf(b, dir), Signed: omsOf(b, dir, oms.BLAKE3), Xet: true}},
		{"all-blake2b", disk.Options{Source: lfsOf(b, dir), Signed: omsOf(b, dir, oms.BLAKE2b), Xet: true}},
	} {
		b.Run(fmt.Sprintf("%s/%s", filepath.Base(dir), c.name), func(b *testing.B) {
			c.o.Dir, c.o.RootOnly = dir, true
			start := time.Now()
			cpu, bytes := cpuTime(), int64(0)
			for b.Loop() {
				r, err := disk.Measure(context.Background(), c.o)
				if err != nil {
					b.Fatal(err)
				}
				bytes = r.HashOffset
			}
			one := time.Since(start) / time.Duration(b.N)
			b.SetBytes(bytes)
			b.ReportMetric((cpuTime()-cpu).Seconds()/float64(b.N), "cpu-s/op")
			b.ReportMetric(procValue("/proc/self/status", "VmHWM")/1024, "peak-MiB")
			if c.name == "all" {
				b.ReportMetric(one.Seconds()/slowest.Seconds(), "x-slowest")
			} else if len(c.name) < 9 {
				slowest = max(slowest, one)
			}
		})
	}
}
