package tpm

import (
	"context"
	"errors"
	"fmt"

	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/gpt"
	"github.com/retally/retally/pcrmeasure"
	"github.com/retally/retally/pipeline"
	"github.com/retally/retally/pipeline/config"
	"github.com/retally/retally/trace"
	"github.com/retally/retally/verity"
)

// appRegister is the PCR of an application, appUse the name of its partition
// (mithril-security/blind_llama, version 2).
const (
	appRegister = 15
	appUse      = "app"
)

// appKey is the name of the root hash of the application's disk.
func (m *Machine) appKey() pipeline.Key { return pipeline.NewKey("tpm", m.name, "app-root") }

// application measures the disk with the application, and gives PCR 15 where the
// CA is there too: root hash, 32 zero bytes, SHA-256 of the CA's PEM text. Model
// weights and containers are files on that disk: only the root hash covers them.
func (r *stageRun) application(ctx context.Context, m *Machine) (*pcrmeasure.PCR, error) {
	root, err := r.appRoot(ctx, m)
	if err != nil || root.IsZero() || m.conf.AppCA == "" {
		return nil, err
	}
	ca, err := r.in.ReadFile(ctx, m.conf.AppCA, config.MetadataLimit)
	if err != nil {
		return nil, err
	}
	zeros, err := digest.FromBytes(digest.SHA256, make([]byte, digest.SHA256.Size()))
	if err != nil {
		return nil, err
	}
	t := trace.Trace{Fold: trace.Extend, Algorithm: digest.SHA256, Initial: make([]byte, digest.SHA256.Size()), Events: []trace.Event{}}
	t.Add("root hash of the application's disk", root, trace.Origin{Input: m.conf.AppDisk, Size: -1})
	t.Add("32 zero bytes", zeros, trace.Origin{Size: -1})
	t.Add("CA of the web server, as PEM", digest.SHA256.Sum(ca), trace.Origin{Input: m.conf.AppCA, Size: int64(len(ca))})
	d, err := t.Compute()
	if err != nil {
		return nil, err
	}
	return &pcrmeasure.PCR{Index: appRegister, Value: d, Trace: t, Basis: pcrmeasure.Recomputed, Notes: []string{"the CA is measured, not the server's own certificate"}}, nil
}

// appRoot is the root hash of the application's disk: of a tree that fits the
// disk's data, or taken over from the configuration.
func (r *stageRun) appRoot(ctx context.Context, m *Machine) (root digest.Digest, err error) {
	var given digest.Digest
	if m.conf.AppRoot != "" {
		if given, err = digest.ParseHex(digest.SHA256, m.conf.AppRoot); err != nil {
			return root, err
		}
	}
	add := func(v digest.Digest, basis pipeline.Basis, note string, from ...pipeline.InputRef) {
		r.out.Measurements = append(r.out.Measurements, pipeline.Measurement{Key: m.appKey(), Value: pipeline.OfDigest(v), Basis: basis, Inputs: from, Note: note})
	}
	if m.conf.AppDisk == "" {
		if !given.IsZero() {
			add(given, pipeline.Copied, "root hash of the application's disk, taken over from app_root")
		}
		return given, nil
	}
	in, err := m.input(ctx, r.in, m.conf.AppDisk)
	if err != nil {
		return root, err
	}
	bad := func(err error) error {
		return &pipeline.InputError{Op: "read", File: m.conf.AppDisk, Err: err}
	}
	table, err := gpt.Read(in.R, in.Size, gpt.Options{})
	if err != nil {
		return root, bad(err)
	}
	var pair *gpt.Verity
	for _, v := range table.VerityPairs() {
		if v.Use != appUse {
			continue
		}
		if pair != nil {
			return root, bad(fmt.Errorf("has two pairs of partitions %s and %s-verity", appUse, appUse))
		}
		pair = &v
	}
	if pair == nil {
		return root, bad(fmt.Errorf("has no partitions %s and %s-verity", appUse, appUse))
	}
	if root, err = digest.FromBytes(digest.SHA256, pair.RootHash[:]); err != nil {
		return root, err
	}
	// The UUIDs only say it: the tree must fit.
	data, tree := section(in, pair.Data), section(in, pair.Tree)
	params, err := verity.ReadSuperblock(tree, 0)
	if err != nil {
		return digest.Digest{}, bad(fmt.Errorf("partition %d: %w", pair.Tree.Index, err))
	}
	verdict, err := verity.Verify(ctx, data, tree, pair.Tree.Size, params, root, verity.VerifyOptions{})
	if err != nil {
		return digest.Digest{}, bad(errors.Join(fmt.Errorf("partition %d", pair.Tree.Index), err))
	}
	if !verdict.OK() {
		r.out.Problems = append(r.out.Problems, pipeline.Problem{
			Level: pipeline.LevelError, Code: "app-disk-differs", Where: pipeline.Where{File: m.conf.AppDisk},
			Msg:  fmt.Sprintf("partitions %d and %d do not have the root hash %s that their UUIDs spell", pair.Data.Index, pair.Tree.Index, root.Hex()),
			Hint: "retally verity verify on the two partitions says where",
		})
		return digest.Digest{}, nil
	}
	add(root, pipeline.Recomputed, "root hash of the application's disk, whose tree fits its data", pipeline.FromFile(m.conf.AppDisk))
	if !given.IsZero() {
		set := "app_root of " + m.name
		r.out.References = append(r.out.References, pipeline.Reference{
			Set: set, Group: set, Key: m.appKey(), Relation: pipeline.Equal, Want: pipeline.OfDigest(given), Words: "root hash of the application's disk of " + m.name,
			Where: pipeline.Where{File: config.FileName, Pointer: "/platforms/" + m.name + "/app_root"},
		})
	}
	return root, nil
}
