package erofs_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"testing"

	"github.com/retally/retally/internal/testenv"
	"github.com/retally/retally/verity/erofs"
	"github.com/retally/retally/verity/internal/vectest"
)

const zeroUUID = "-U00000000-0000-0000-0000-000000000000"

// 200 random trees on disk against mkfs.erofs, byte for byte.
func TestRandomTreesOracle(t *testing.T) {
	c := testenv.NewChroot(t)
	r := rand.New(rand.NewPCG(5, 4))
	for i := range 200 {
		size := []int{30, 150, 700}[i%3]
		v := vectest.RandomTree(r, fmt.Sprintf("tree-%d", i), size)
		dir, image := c.Path("tree"), c.Path("image")
		if !v.Write(t, dir) {
			t.Fatal("cannot make device nodes")
		}
		c.Run(t, "mkfs.erofs", "-T0", "-x-1", "--all-root", zeroUUID, "image", "tree")
		root, err := erofs.ReadDir(dir, erofs.ReadOptions{})
		if err != nil {
			t.Fatal(err)
		}
		plan, err := erofs.NewPlan(root)
		if err != nil {
			t.Fatal(err)
		}
		want, err := os.ReadFile(image)
		if err != nil {
			t.Fatal(err)
		}
		got := make([]byte, plan.Size())
		content, err := erofs.OpenDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		reader := plan.NewReader(erofs.Profile191, content)
		if err := reader.Fill(got, 0); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(reader.Close(), content.Close()); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			at := 0
			for at < min(len(got), len(want)) && got[at] == want[at] {
				at++
			}
			place, _ := plan.Locate(int64(at))
			t.Fatalf("tree %d (%d entries): got %d bytes, want %d; first difference at %d: %v", i, len(v.Entries), len(got), len(want), at, place)
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
	}
}
