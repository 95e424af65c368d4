package formtest

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/transparency-dev/formats/log"
	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"
	"github.com/transparency-dev/tessera/api"
	"github.com/transparency-dev/tessera/client"
	"github.com/transparency-dev/tessera/fsck"
	"golang.org/x/mod/sumdb/note"
)

// TestReleases reads a list of releases back with transparency-dev's own tools:
// their checker recomputes the whole log, their client proves entries and that
// the list has grown from an earlier checkpoint, and a changed entry proves
// nothing.
func TestReleases(t *testing.T) {
	l := newLab(t)
	const origin, size, before = "retally.example/formtest", 5, 3
	report := string(l.read(t, "out/report.json"))
	var seen []byte
	for i := range size {
		name := filepath.Join(l.dir, "report.json")
		// Each recount is of another subject.
		if err := os.WriteFile(name, []byte(strings.Replace(report, `"subject": "`, fmt.Sprintf(`"subject": "%d `, i), 1)), 0o644); err != nil {
			t.Fatal(err)
		}
		args := []string{"releases", "add", "log", "report.json", "--release", fmt.Sprintf("v1.%d", i), "--key", "k"}
		if i == 0 {
			args = append(args, "--new-key", origin)
		}
		l.run(t, args...)
		if i+1 == before {
			seen = l.read(t, "log/checkpoint")
		}
	}
	v, err := note.NewVerifier(strings.TrimSpace(string(l.read(t, "k.pub"))))
	if err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	files := client.FileFetcher{Root: filepath.Join(l.dir, "log")}
	hasher := func(b []byte) (hashes [][]byte, _ error) {
		var bundle api.EntryBundle
		if err := bundle.UnmarshalText(b); err != nil {
			return nil, err
		}
		for _, e := range bundle.Entries {
			hashes = append(hashes, rfc6962.DefaultHasher.HashLeaf(e))
		}
		return hashes, nil
	}
	if err := fsck.New(origin, v, files, hasher, fsck.Opts{N: 1}).Check(ctx); err != nil {
		t.Fatalf("fsck: %v", err)
	}

	cp, _, _, err := client.FetchCheckpoint(ctx, files.ReadCheckpoint, v, origin)
	if err != nil || cp.Size != size {
		t.Fatalf("checkpoint of %d entries, %v", cp.Size, err)
	}
	old, _, _, err := log.ParseCheckpoint(seen, origin, v)
	if err != nil || old.Size != before {
		t.Fatal(err)
	}
	pb, err := client.NewProofBuilder(ctx, cp.Size, files.ReadTile)
	if err != nil {
		t.Fatal(err)
	}
	grown, err := pb.ConsistencyProof(ctx, old.Size, cp.Size)
	if err != nil {
		t.Fatal(err)
	}
	if err := proof.VerifyConsistency(rfc6962.DefaultHasher, old.Size, cp.Size, grown, old.Hash, cp.Hash); err != nil {
		t.Error(err)
	}
	for _, i := range []uint64{0, 2, 4} {
		bundle, err := client.GetEntryBundle(ctx, files.ReadEntryBundle, i/256, cp.Size)
		if err != nil {
			t.Fatal(err)
		}
		entry := bundle.Entries[i%256]
		if !bytes.Contains(entry, fmt.Appendf(nil, `"release":"v1.%d"`, i)) {
			t.Errorf("entry %d is %s", i, entry)
		}
		included, err := pb.InclusionProof(ctx, i)
		if err != nil {
			t.Fatal(err)
		}
		if err := proof.VerifyInclusion(rfc6962.DefaultHasher, i, cp.Size, rfc6962.DefaultHasher.HashLeaf(entry), included, cp.Hash); err != nil {
			t.Errorf("entry %d: %v", i, err)
		}
	}

	// What is damaged proves nothing.
	name := filepath.Join(l.dir, "log/tile/entries/000.p/5")
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, bytes.Replace(data, []byte(`"v1.2"`), []byte(`"v1.3"`), 1), 0o644); err != nil {
		t.Fatal(err)
	}
	bundle, err := client.GetEntryBundle(ctx, files.ReadEntryBundle, 0, cp.Size)
	if err != nil {
		t.Fatal(err)
	}
	included, err := pb.InclusionProof(ctx, 2)
	if err != nil {
		t.Fatal(err)
	}
	if proof.VerifyInclusion(rfc6962.DefaultHasher, 2, cp.Size, rfc6962.DefaultHasher.HashLeaf(bundle.Entries[2]), included, cp.Hash) == nil {
		t.Error("a changed entry is in the list")
	}
}
