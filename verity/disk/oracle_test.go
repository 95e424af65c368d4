package disk_test

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"regexp"
	"testing"

	"github.com/retally/retally/internal/testenv"
	"github.com/retally/retally/verity/disk"
	"github.com/retally/retally/verity/erofs"
	"github.com/retally/retally/verity/internal/vectest"
)

var rootLine = regexp.MustCompile(`Root hash:\s+([0-9a-f]{64})`)

// 200 random trees through the whole recipe with the real tools: the disk
// file byte for byte, every hash, and fsck.erofs on what --write makes.
func TestRecipeOracle(t *testing.T) {
	c := testenv.NewChroot(t)
	r := rand.New(rand.NewPCG(5, 5))
	for i := range 200 {
		v := vectest.RandomTree(r, fmt.Sprintf("recipe-%d", i), []int{20, 80, 300}[i%3])
		dir := c.Path("tree")
		if !v.Write(t, dir) {
			t.Fatal("cannot make device nodes")
		}
		c.Run(t, "mkfs.erofs", "-T0", "-x-1", "--all-root", "-U00000000-0000-0000-0000-000000000000", "disk", "tree")
		st, err := os.Stat(c.Path("disk"))
		if err != nil {
			t.Fatal(err)
		}
		out := c.Run(t, "veritysetup", "format", "--uuid=00000000-0000-0000-0000-000000000000", "--salt=00", fmt.Sprintf("--hash-offset=%d", st.Size()), "disk", "disk")
		want, err := os.ReadFile(c.Path("disk"))
		if err != nil {
			t.Fatal(err)
		}
		got, err := disk.Measure(context.Background(), disk.Options{Dir: dir, Profile: erofs.Profile191, Write: c.Path("ours")})
		if err != nil {
			t.Fatal(err)
		}
		root := rootLine.FindStringSubmatch(out)
		if root == nil || got.RootHash.Hex() != root[1] || got.HashOffset != st.Size() || got.FileSHA256.Hex() != sha(want) {
			t.Fatalf("tree %d: got root %v, offset %d, file %v; want %d, %s and\n%s", i, got.RootHash, got.HashOffset, got.FileSHA256, st.Size(), sha(want), out)
		}
		ours, err := os.ReadFile(c.Path("ours"))
		if err != nil || !bytes.Equal(ours, want) {
			t.Fatalf("tree %d: the written disk differs (%v)", i, err)
		}
		if out, code := c.Try(t, "fsck.erofs", "ours"); code != 0 {
			t.Fatalf("tree %d: fsck.erofs: exit %d\n%s", i, code, out)
		}
		if _, code := c.Try(t, "veritysetup", "verify", "ours", "ours", root[1], fmt.Sprintf("--hash-offset=%d", st.Size())); code != 0 {
			t.Fatalf("tree %d: veritysetup does not verify the written disk", i)
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
	}
}
