package disk_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/retally/retally/verity/disk"
	"github.com/retally/retally/verity/erofs"
)

// limited is a source that gives so many bytes a second, however many readers
// ask: a disk or a network behind one machine.
type limited struct {
	erofs.Content
	rate float64

	mu   sync.Mutex
	free time.Time // when what was given so far is paid for
}

func (l *limited) Open(path string, n *erofs.Node) (erofs.File, error) {
	f, err := l.Content.Open(path, n)
	if err != nil {
		return nil, err
	}
	return &limitedFile{f, l}, nil
}

type limitedFile struct {
	erofs.File
	l *limited
}

func (f *limitedFile) ReadAt(b []byte, off int64) (int, error) {
	n, err := f.File.ReadAt(b, off)
	f.l.mu.Lock()
	if now := time.Now(); f.l.free.Before(now) {
		f.l.free = now
	}
	f.l.free = f.l.free.Add(time.Duration(float64(n) / f.l.rate * float64(time.Second)))
	wait := time.Until(f.l.free)
	f.l.mu.Unlock()
	time.Sleep(wait)
	return n, err
}

// TestLimitedWorker is one worker of .ci/bench-shards, a process of its own: it
// reads its share of a directory behind a source of RETALLY_SHARD_RATE bytes a
// second, and writes the digests of it.
func TestLimitedWorker(t *testing.T) {
	dir := os.Getenv("RETALLY_SHARD_DIR")
	if dir == "" {
		t.Skip("SKIP-VISIBLE bench: a worker of .ci/bench-shards")
	}
	number := func(name string) int {
		n, err := strconv.Atoi(os.Getenv(name))
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	index, count, rate, out := number("RETALLY_SHARD_INDEX"), number("RETALLY_SHARD_COUNT"), number("RETALLY_SHARD_RATE"), os.Getenv("RETALLY_SHARD_OUT")
	l, err := disk.OpenLayout(disk.Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	l.Through(func(c erofs.Content) erofs.Content { return &limited{Content: c, rate: float64(rate)} })
	res, err := l.Planned()
	if err != nil {
		t.Fatal(err)
	}
	const level = 1
	step := int64(128 * 4096)
	units := res.HashOffset / step
	begin, end := units*int64(index)/int64(count)*step, units*int64(index+1)/int64(count)*step
	if index == count-1 {
		end = res.HashOffset
	}
	part, err := l.Part(context.Background(), begin, end-begin, level)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(out, fmt.Sprintf("%03d", index)), part.Sums, 0o644); err != nil {
		t.Fatal(err)
	}
	if index != count-1 {
		return
	}
	// The last one waits for the others, and joins.
	var sums []byte
	for i := range count {
		for {
			b, err := os.ReadFile(filepath.Join(out, fmt.Sprintf("%03d", i)))
			if want := units*int64(i+1)/int64(count) - units*int64(i)/int64(count); err == nil && int64(len(b))/32 >= want {
				sums = append(sums, b...)
				break
			}
			time.Sleep(time.Millisecond)
		}
	}
	root, err := disk.Params(res.HashOffset).RootOfSubtrees(level, sums, uint64(res.Blocks))
	if err != nil {
		t.Fatal(err)
	}
	fmt.Println("root", root.Hex())
}
