package disks

import (
	"fmt"
	"io"
	"strconv"

	"github.com/retally/retally/internal/show"
	"github.com/retally/retally/pipeline"
	"github.com/retally/retally/pipeline/run"
	"github.com/retally/retally/privatemode"
	"github.com/retally/retally/verity"
	"github.com/retally/retally/verity/disk"
)

// Compare adds to a described disk what else it was held against: an existing
// disk file, and the source that the directory is to be bound to.
func Compare(out *run.Out, name, dir string, res disk.Result) {
	if x := res.Against; x != nil {
		key, same := pipeline.NewKey("disk", name, "image"), pipeline.OfText("the computed disk")
		want := same
		if !x.OK() {
			want = pipeline.OfText(fmt.Sprintf("a file of %d bytes, %s not those of the computed disk", x.Size, show.Plural(int(x.Blocks), "block", "blocks")))
		}
		out.Measure(key, same, dir, "")
		out.Refer(key, want, pipeline.Where{File: x.Path}, "the existing disk file")
		for _, d := range x.Differences {
			out.Causes[key] = append(out.Causes[key], pipeline.Cause{
				Path: []string{string(key), fmt.Sprintf("block %d", d.Block)}, Expected: fmt.Sprintf("%#02x", d.Want), Actual: fmt.Sprintf("%#02x", d.Got),
				Note: fmt.Sprintf("offset %d: %s", d.Offset, d.What), Standing: pipeline.Suspected, Hint: "disk-root-hash", Where: pipeline.Where{File: x.Path},
			})
		}
	}
	if s := res.Source; s != nil {
		key := pipeline.NewKey("disk", name, "source")
		got := pipeline.OfText(s.Source)
		if !s.OK() {
			got = pipeline.OfText(s.String())
		}
		out.Measure(key, got, dir, "every file's content and mode")
		out.Refer(key, pipeline.OfText(s.Source), pipeline.Where{File: dir}, "what the directory is to be")
		for _, p := range s.Problems {
			out.Problem(pipeline.LevelError, "disk-source", pipeline.Where{File: dir}, p.String(), "")
		}
		for _, u := range s.Unbound {
			out.Problem(pipeline.LevelError, "disk-source", pipeline.Where{File: dir}, fmt.Sprintf("the source has no digest of %q", u), "")
		}
	}
}

// Row is what a published entry says beside what was computed.
type Row struct {
	Field string `json:"field"`
	Got   string `json:"got"`
	Want  string `json:"want"`
	Match bool   `json:"match"`
	// Unchecked says why another value proves nothing here.
	Unchecked string `json:"unchecked,omitempty"`
}

// View is a measured disk beside its published entry, as a verb shows them.
type View struct {
	Result disk.Result
	Listed *privatemode.Model // nil: nothing to compare with
	Why    []pipeline.Cause   // of a root hash that differs
	Signed *Signed            // nil: no signature was given
}

// JSON is the form that scripts read.
func (v *View) JSON() any {
	type signature struct {
		Signature *Judged `json:"signature,omitempty"`
	}
	var sig signature
	if v.Signed != nil {
		sig.Signature = v.Signed.judged()
	}
	if v.Listed == nil {
		return struct {
			disk.Result
			signature
		}{v.Result, sig}
	}
	rows, note := v.rows()
	return struct {
		disk.Result
		signature
		Published []Row  `json:"published"`
		Note      string `json:"note,omitempty"`
	}{v.Result, sig, rows, note}
}

func (v *View) rows() (rows []Row, note string) {
	res, m := v.Result, v.Listed
	if m == nil {
		return nil, ""
	}
	unchecked := notReproduced(res, m)
	add := func(field, got, want string) {
		switch {
		case got == "" || want == "":
		case got == want:
			rows = append(rows, Row{field, got, want, true, ""})
		default:
			rows = append(rows, Row{field, got, want, false, unchecked})
		}
	}
	if m.HashOffset > 0 {
		add("hash_offset", strconv.FormatInt(res.HashOffset, 10), strconv.FormatUint(m.HashOffset, 10))
	}
	if !res.RootHash.IsZero() {
		add("root_hash", res.RootHash.Hex(), m.RootHash.Hex())
	}
	if !res.FileSHA256.IsZero() {
		add("file_hash_sha256", res.FileSHA256.Hex(), m.FileHash.Hex())
	}
	if o := otherRelease(res, m); o != nil {
		note = fmt.Sprintf("the published root hash is that of mkfs.erofs %s over the same files", o.Mkfs)
	}
	return rows, note
}

// Text is the form for people.
func (v *View) Text(w io.Writer, verbose bool) {
	res := v.Result
	if !res.RootHash.IsZero() {
		show.Line(w, "root_hash         %s  (mkfs.erofs %s)", res.RootHash.Hex(), res.Mkfs)
		for _, o := range res.Others {
			show.Line(w, "                  %s  (mkfs.erofs %s)", o.RootHash.Hex(), o.Mkfs)
		}
	}
	show.Line(w, "hash_offset       %d", res.HashOffset)
	show.Line(w, "file_size         %d", res.FileSize)
	if !res.FileSHA256.IsZero() {
		show.Line(w, "file_hash_sha256  %s", res.FileSHA256.Hex())
	}
	show.Line(w, "inodes, blocks    %d, %d", res.Inodes, res.Blocks)
	for _, c := range res.Changes {
		show.Line(w, "normalized        %s", c.Text())
	}
	if res.Source != nil {
		show.Line(w, "source            %s", res.Source.String())
		for i, p := range res.Source.Problems {
			if i == 10 && !verbose {
				show.Line(w, "                  and %d more (-v shows all)", len(res.Source.Problems)-i)
				break
			}
			show.Line(w, "                  %s", p.String())
		}
	}
	if v.Signed != nil {
		v.Signed.text(w, res, verbose)
	}
	for _, c := range res.Content {
		show.Line(w, "content           %s", c.Text())
	}
	if x := res.Against; x != nil && x.OK() {
		show.Line(w, "against           %s is this disk", x.Path)
	} else if x != nil {
		show.Line(w, "against           %s DIFFERS in %s; it has %d bytes, the computed disk %d", x.Path, show.Plural(int(x.Blocks), "block", "blocks"), x.Size, x.WantSize)
		for _, d := range x.Differences {
			show.Line(w, "                  block %d, offset %d: found %#02x, computed %#02x: %s", d.Block, d.Offset, d.Got, d.Want, d.What)
		}
	}
	rows, note := v.rows()
	for _, r := range rows {
		switch {
		case r.Match:
			show.Line(w, "published         %s agrees", r.Field)
		case r.Unchecked != "":
			show.Line(w, "published         %s unchecked: %s; published %s", r.Field, r.Unchecked, r.Want)
		default:
			show.Line(w, "published         %s DIFFERS: published %s", r.Field, r.Want)
		}
	}
	if note != "" {
		show.Line(w, "                  %s", note)
		return // that is the cause
	}
	for _, c := range v.Why {
		show.Line(w, "cause             %s: %s", c.Standing, c.Note)
	}
}

// Verified is a device held against its tree and a root hash, as a verb shows
// it.
type Verified struct {
	OK              bool             `json:"ok"`
	Mismatches      []disk.Explained `json:"mismatches"`
	HashDeviceShort int64            `json:"hash_device_short"`
	Blocks          uint64           `json:"data_blocks"` // that the tree is over
	BlockSize       int              `json:"data_block_size"`
	Covered         int64            `json:"covered"`        // bytes of them
	Uncovered       int64            `json:"uncovered"`      // bytes of the device that the tree says nothing of
	Gap             int64            `json:"uncovered_gap"`  // those of them in front of the hash area
	Behind          int64            `json:"uncovered_rest"` // and all others
}

// Verify explains a verdict and holds it against the root hash. Where the tree
// covers less than the device, the rest is unchecked unless the number of data
// blocks was asked for.
func Verify(data, root string, v verity.Verdict, asked bool) (*Verified, *run.Out) {
	view := &Verified{OK: v.OK(), Mismatches: []disk.Explained{}, HashDeviceShort: v.HashDeviceShort, Blocks: v.Layout.DataBlocks, BlockSize: v.Params.DataBlockSize, Covered: v.Covered, Uncovered: v.Uncovered, Gap: v.Gap, Behind: v.Uncovered - v.Gap}
	out := run.NewOut()
	key, from := pipeline.NewKey("verity", data, "root"), pipeline.Where{File: data}
	got := pipeline.OfText(root)
	if !v.OK() {
		got = pipeline.OfText(fmt.Sprintf("another one: %s", show.Plural(len(v.Mismatches), "place does not fit", "places do not fit")))
	}
	for _, m := range v.Mismatches {
		if m.Kind == verity.RootDigest {
			got = pipeline.OfText(m.Actual.Hex())
		}
	}
	out.Measure(key, got, data, view.coverage())
	out.Refer(key, pipeline.OfText(root), from, "root hash")
	if v.Uncovered > 0 && !asked {
		rest := pipeline.NewKey("verity", data, "rest")
		out.Refer(rest, pipeline.OfNumber(uint64(v.Uncovered)), from, "bytes that the tree does not cover")
		out.Notes[rest] = view.coverage()
	}
	var images disk.Locator
	if !v.OK() {
		// What is no EROFS image is named by its blocks alone.
		images, _ = disk.OpenLocator(data)
	}
	for _, m := range v.Mismatches {
		e := disk.Explained{Mismatch: m, Text: m.String()}
		if images != nil {
			e = disk.Explain(v, m, images)
		}
		view.Mismatches = append(view.Mismatches, e)
		out.Causes[key] = append(out.Causes[key], pipeline.Cause{Path: []string{string(key), m.Device}, Note: e.Text, Standing: pipeline.Suspected, Hint: "disk-root-hash", Where: from})
	}
	return view, out
}

// coverage says how much was held against the tree, and how much was not.
func (v *Verified) coverage() string {
	s := fmt.Sprintf("%s (%d bytes)", show.Plural(int(v.Blocks), "block", "blocks"), v.Covered)
	if v.Gap > 0 {
		s += fmt.Sprintf("; %d bytes before the hash area are not covered", v.Gap)
	}
	if v.Behind > 0 {
		s += fmt.Sprintf("; %d bytes at the end of the device are not covered", v.Behind)
	}
	return s
}

// Text is the form for people.
func (v *Verified) Text(w io.Writer, _ bool) {
	if v.OK {
		show.Line(w, "OK, %s", v.coverage())
	}
	for _, e := range v.Mismatches {
		show.Line(w, "%s", e.Text)
	}
}

// Words reads the parameters of a tree that are words, as veritysetup takes
// them, and checks all; a fault names its parameter in braces.
func Words(p *verity.Params, hash, salt, uuid string) (err error) {
	fail := func(name string) error {
		return &pipeline.InputError{Op: "verity", Err: fmt.Errorf("{%s}: %w", name, err)}
	}
	if p.Hash, err = verity.ParseHash(hash); err != nil {
		return fail("hash")
	}
	if p.Salt, err = verity.ParseSalt(salt); err != nil {
		return fail("salt")
	}
	if uuid != "" {
		if p.UUID, err = verity.ParseUUID(uuid); err != nil {
			return fail("uuid")
		}
	}
	return p.Validate()
}
