package erofs_test

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/retally/retally/internal/testenv"
	"github.com/retally/retally/verity/erofs"
	"github.com/retally/retally/verity/internal/vectest"
)

var profiles = map[erofs.Profile]string{erofs.Profile19: "erofs-1.9", erofs.Profile191: "erofs-1.9.1+"}

func trees(t *testing.T) []vectest.Tree {
	return vectest.Trees(t)
}

func TestTreeVectors(t *testing.T) {
	for _, v := range trees(t) {
		t.Run(v.Name, func(t *testing.T) {
			if v.Large {
				testenv.Long(t)
			}
			t.Parallel()
			root, contents := v.Nodes()
			plan, err := erofs.NewPlan(root)
			if err != nil {
				t.Fatal(err)
			}
			for profile, name := range profiles {
				want := v.Expect[name]
				got := vectest.Expect{DiskSize: plan.Size(), Blocks: plan.Blocks(), Inodes: plan.Inodes(), ErofsSHA256: imageSHA256(t, plan, profile, contents)}
				want.RootHash, want.FileSize, want.FileSHA256 = "", 0, "" // the whole disk is tested where it is made
				if diff := cmp.Diff(want, got); diff != "" {
					t.Errorf("%s (-mkfs +plan):\n%s", name, diff)
				}
			}
			if v.Layout != nil {
				checkLayout(t, plan, v.Layout)
			}
		})
	}
}

func imageSHA256(t *testing.T, plan *erofs.Plan, profile erofs.Profile, contents erofs.Content) string {
	t.Helper()
	r := plan.NewReader(profile, contents)
	h := sha256.New()
	buf := make([]byte, 1<<20)
	for off := int64(0); off < plan.Size(); off += int64(len(buf)) {
		buf = buf[:min(int64(len(buf)), plan.Size()-off)]
		if err := r.Fill(buf, off); err != nil {
			t.Fatal(err)
		}
		h.Write(buf)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	return hex.EncodeToString(h.Sum(nil))
}

func checkLayout(t *testing.T, plan *erofs.Plan, want [][]json.RawMessage) {
	t.Helper()
	rows := plan.Layout()
	if len(rows) != len(want) {
		t.Fatalf("got %d inodes, want %d", len(rows), len(want))
	}
	for k, row := range rows {
		layout := "plain"
		if row.Inline {
			layout = "inline"
		}
		got := fmt.Sprint(row.Ino, row.NID, layout, row.Start, row.Size, row.NLink)
		var name string
		if err := json.Unmarshal(want[k][3], &name); err != nil {
			t.Fatal(err)
		}
		w := fmt.Sprint(string(want[k][1]), " ", string(want[k][2]), name, string(want[k][4]), " ", string(want[k][5]), " ", string(want[k][6]))
		if got != w {
			t.Errorf("%s: got %s, want %s", row.Path, got, w)
		}
	}
}
