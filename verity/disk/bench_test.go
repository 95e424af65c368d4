package disk_test

import (
	"bufio"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/retally/retally/verity/disk"
)

// benchModel makes a directory of files with random sizes and content. With
// RETALLY_BENCH_DIR it is kept there for the next run and for other tools.
func benchModel(b *testing.B, name string, files int, lo, hi int64) string {
	b.Helper()
	root := os.Getenv("RETALLY_BENCH_DIR")
	if root == "" {
		root = b.TempDir()
	}
	dir := filepath.Join(root, name)
	if _, err := os.Stat(dir); err == nil {
		return dir
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		b.Fatal(err)
	}
	r := rand.New(rand.NewPCG(7, 7))
	var seed [32]byte
	src := rand.NewChaCha8(seed)
	for i := range files {
		f, err := os.Create(filepath.Join(dir, fmt.Sprintf("file-%05d.bin", i)))
		if err != nil {
			b.Fatal(err)
		}
		w := bufio.NewWriterSize(f, 1<<20)
		var word [8]byte
		size := lo + r.Int64N(hi-lo+1)
		for n := int64(0); n < size; n += 8 {
			v := src.Uint64()
			for k := range word {
				word[k] = byte(v >> (8 * k))
			}
			if _, err := w.Write(word[:min(8, size-n)]); err != nil {
				b.Fatal(err)
			}
		}
		if err := w.Flush(); err != nil {
			b.Fatal(err)
		}
		if err := f.Close(); err != nil {
			b.Fatal(err)
		}
	}
	return dir
}

func cpuTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// procValue reads a number out of a "key: value" file of the kernel's.
func procValue(path, key string) float64 {
	text, err := os.ReadFile(path)
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, key+":"); ok {
			n, _ := strconv.ParseFloat(strings.Fields(rest)[0], 64)
			return n
		}
	}
	return 0
}

// BenchmarkDisk measures directories like models, page cache warm: 2 GiB in 8
// files and 20,000 small files with RETALLY_BENCH_DIR, small ones without.
func BenchmarkDisk(b *testing.B) {
	large, small := int64(16<<20), 1000
	if os.Getenv("RETALLY_BENCH_DIR") != "" {
		large, small = 256<<20, 20000
	}
	dirs := []string{
		benchModel(b, "8-files", 8, large, large),
		benchModel(b, "small-files", small, 4<<10, 64<<10),
	}
	for _, dir := range dirs {
		for _, o := range []disk.Options{{}, {RootOnly: true}} {
			b.Run(fmt.Sprintf("%s/root-only=%v", filepath.Base(dir), o.RootOnly), func(b *testing.B) {
				o.Dir = dir
				b.ReportAllocs()
				written := procValue("/proc/self/io", "write_bytes")
				start, size := cpuTime(), int64(0)
				for b.Loop() {
					r, err := disk.Measure(context.Background(), o)
					if err != nil {
						b.Fatal(err)
					}
					size = r.HashOffset
				}
				b.SetBytes(size)
				b.ReportMetric((cpuTime()-start).Seconds()/float64(b.N), "cpu-s/op")
				b.ReportMetric(procValue("/proc/self/status", "VmHWM")/1024, "peak-MiB")
				b.ReportMetric(procValue("/proc/self/io", "write_bytes")-written, "bytes-written")
			})
		}
	}
}
