package disk_test

import (
	"context"
	"encoding/json"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/retally/retally/internal/testenv"
	"github.com/retally/retally/verity/disk"
	"github.com/retally/retally/verity/erofs"
	"github.com/retally/retally/verity/internal/vectest"
)

func trees(t testing.TB) []vectest.Tree {
	return vectest.Trees(t)
}

// expected puts a result in the vectors' form.
func expected(r disk.Result, p erofs.Profile) vectest.Expect {
	e := vectest.Expect{
		DiskSize: r.HashOffset, Blocks: r.Blocks, Inodes: r.Inodes, FileSize: r.FileSize,
		ErofsSHA256: r.ErofsSHA.Hex(), RootHash: r.RootHash.Hex(), FileSHA256: r.FileSHA256.Hex(),
	}
	for _, o := range r.Others {
		if o.Mkfs == p {
			e.ErofsSHA256, e.RootHash, e.FileSHA256 = o.ErofsSHA.Hex(), o.RootHash.Hex(), o.FileSHA256.Hex()
		}
	}
	return e
}

func TestTreeVectors(t *testing.T) {
	for k, v := range trees(t) {
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
			o := disk.Options{AllFiles: true, Profile: erofs.Profiles()[k%2]}
			got, err := disk.MeasurePlan(context.Background(), plan, contents, o)
			if err != nil {
				t.Fatal(err)
			}
			for p, name := range map[erofs.Profile]string{erofs.Profile19: "erofs-1.9", erofs.Profile191: "erofs-1.9.1+"} {
				if diff := cmp.Diff(v.Expect[name], expected(got, p)); diff != "" {
					t.Errorf("%s (-tools +retally):\n%s", name, diff)
				}
			}
			// The root alone, without a table, is the same in both profiles.
			o = disk.Options{RootOnly: true, Profile: o.Profile, Workers: 3, Chunk: 64 << 10}
			alone, err := disk.MeasurePlan(context.Background(), plan, contents, o)
			if err != nil {
				t.Fatal(err)
			}
			if alone.RootHash != got.RootHash || alone.Others[0].RootHash != got.Others[0].RootHash {
				t.Errorf("root alone: got %v %v, want %v %v", alone.RootHash, alone.Others, got.RootHash, got.Others)
			}
		})
	}
}

// The same trees as folders on disk.
func TestTreeVectorsOnDisk(t *testing.T) {
	for _, v := range trees(t) {
		t.Run(v.Name, func(t *testing.T) {
			if v.Large {
				testenv.Long(t)
			}
			t.Parallel()
			dir := filepath.Join(t.TempDir(), "tree")
			if !v.Write(t, dir) {
				t.Skip("SKIP-VISIBLE root: device nodes cannot be made")
			}
			got, err := disk.Measure(context.Background(), disk.Options{Dir: dir})
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(v.Expect["erofs-1.9"], expected(got, erofs.Profile19)); diff != "" {
				t.Errorf("(-tools +retally):\n%s", diff)
			}
			if want := v.Expect["erofs-1.9.1+"].RootHash; got.Others[0].RootHash.Hex() != want {
				t.Errorf("got other root %s, want %s", got.Others[0].RootHash.Hex(), want)
			}
		})
	}
}

// The JSON form is the command contract.
func TestResultJSON(t *testing.T) {
	v := vectest.Tree{RootMode: "0755", Entries: []vectest.Entry{{Path: "a", Type: "file", Mode: "0644", Content: vectest.Content{Content: "text", Text: "hello\n", Size: 6}}}}
	root, contents := v.Nodes()
	plan, err := erofs.NewPlan(root)
	if err != nil {
		t.Fatal(err)
	}
	res, err := disk.MeasurePlan(context.Background(), plan, contents, disk.Options{})
	if err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(res)
	if err != nil {
		t.Fatal(err)
	}
	var got map[string]any
	if err := json.Unmarshal(b, &got); err != nil {
		t.Fatal(err)
	}
	want := map[string]any{
		"mkfs": "1.9", "hash_offset": 4096.0, "root_hash": res.RootHash.Hex(), "file_hash_sha256": res.FileSHA256.Hex(),
		"file_size": 8192.0, "blocks": 1.0, "inodes": 2.0, "erofs_sha256": res.ErofsSHA.Hex(),
		"other_profiles": []any{map[string]any{"mkfs": "1.9.1", "root_hash": res.Others[0].RootHash.Hex()}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if res.RootHash == res.Others[0].RootHash || len(res.RootHash.Hex()) != 64 {
		t.Errorf("got roots %v and %v", res.RootHash, res.Others[0].RootHash)
	}
}
