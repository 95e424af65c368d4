package disks

import (
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"

	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/show"
	"github.com/retally/retally/pipeline"
	"github.com/retally/retally/pipeline/config"
	"github.com/retally/retally/pipeline/run"
	"github.com/retally/retally/verity/disk"
	"github.com/retally/retally/verity/oms"
	"github.com/retally/retally/verity/source"
)

// Signed is a model's signature as it was judged before the files are read.
type Signed struct {
	file    string
	signers []string
	sig     *oms.Signature
	signer  oms.Signer
	err     error // why nobody signed it, or why that is not known

	key  pipeline.Key // of the root hash that was signed, once it is described
	note string       // who signed it, or why that is not known
}

// maxSigners bounds a file of keys and roots in bytes.
const maxSigners = 1 << 20

// Bind reads what a disk's directory is to be bound to, and asks for it in the
// options: a hub's listing, and a signature, which comes back judged; nil
// without one. read reads an input, path says where it lies.
func Bind(read func(name string, limit int64) ([]byte, error), path func(string) string, c config.Disk, o *disk.Options) (*Signed, error) {
	if c.Listing != "" {
		data, err := read(c.Listing, 256<<20)
		if err != nil {
			return nil, err
		}
		if o.Source, err = source.ParseList(c.Listing, data); err != nil {
			return nil, err
		}
	}
	if c.ModelSig == "" {
		return nil, nil
	}
	data, err := read(c.ModelSig, oms.MaxSize)
	if err != nil {
		return nil, err
	}
	s := &Signed{file: c.ModelSig, signers: c.Signers}
	if s.sig, err = oms.Parse(c.ModelSig, data); err != nil {
		return nil, &pipeline.InputError{Op: "read model signature", File: c.ModelSig, Err: err, Hint: "give the model.sig of the model's publisher"}
	}
	var t oms.Trust
	for _, name := range c.Signers {
		pem, err := read(name, maxSigners)
		if err != nil {
			return nil, err
		}
		if err := oms.ParseTrust(name, pem, &t); err != nil {
			return nil, &pipeline.InputError{Op: "read signers", File: name, Err: err}
		}
	}
	s.signer, s.err = s.sig.Verify(t)
	o.Signed = s.sig.Statement
	dir, err := filepath.Abs(path(c.Dir))
	if err != nil {
		return nil, err
	}
	file, err := filepath.Abs(path(c.ModelSig))
	if err != nil {
		return nil, err
	}
	if rel, err := filepath.Rel(dir, file); err == nil && filepath.IsLocal(rel) {
		o.Signature = filepath.ToSlash(rel)
	}
	return s, nil
}

// unjudged reports whether nothing is known about the signature.
func (s *Signed) unjudged() bool {
	var not *oms.NotJudgedError
	return errors.As(s.err, &not)
}

// Describe turns a measured disk of signed files into values: that the files are
// the signed ones, who signed them, and the root hash that is thereby signed,
// if both hold.
func (s *Signed) Describe(out *run.Out, root pipeline.Key, dir string, res disk.Result) {
	of := func(what string) pipeline.Key { return pipeline.Key(strings.TrimSuffix(string(root), "root") + what) }
	files, signer := of("model-sig"), of("signer")
	s.key = of("signed")
	r, where := res.Signed, pipeline.Where{File: s.file}
	want, err := digest.ParseHex(digest.SHA256, r.Root)
	if err != nil {
		panic(err) // the digest was computed here
	}
	out.Refer(files, pipeline.OfDigest(want), where, "the signed content of "+show.Clip(r.Model, 80))
	switch {
	case r.OK():
		out.Measure(files, pipeline.OfDigest(want), dir, fmt.Sprintf("%s by %s of %s", show.Plural(r.Files, "file", "files"), r.Hash, r.Method))
	case r.Differs():
		out.Measure(files, pipeline.OfText(r.String()), dir, "")
	default:
		out.Notes[files] = r.String()
	}
	for i, p := range r.Problems {
		if i == 20 {
			out.Problem(pipeline.LevelError, "disk-signed", where, fmt.Sprintf("and %d more", len(r.Problems)-i), "")
			break
		}
		out.Problem(pipeline.LevelError, "disk-signed", where, p.String(), "")
	}
	s.uncovered(out, r)

	switch {
	case s.err == nil:
		out.Measurements = append(out.Measurements, pipeline.Measurement{
			Key: signer, Value: pipeline.OfText(s.signer.Name), Basis: pipeline.Endorsed, Inputs: []pipeline.InputRef{pipeline.FromFile(s.file)}, Note: s.signer.Note,
		})
		out.Refer(signer, pipeline.OfText(s.signer.Name), where, "a signer that is trusted by "+strings.Join(s.signers, ", "))
		s.note = "signed by " + s.signer.Name
	case s.unjudged():
		out.Refer(signer, pipeline.OfText("somebody who is trusted"), where, "who signed the weights")
		out.Notes[signer] = s.err.Error()
		s.note = s.err.Error()
	default:
		out.Measure(signer, pipeline.OfText(s.err.Error()), s.file, "")
		out.Refer(signer, pipeline.OfText("a valid signature"), where, "a signer that is trusted by "+strings.Join(s.signers, ", "))
		s.note = s.err.Error()
	}
	if s.err != nil || !r.OK() || res.RootHash.IsZero() {
		return
	}
	out.Measurements = append(out.Measurements, pipeline.Measurement{
		Key: s.key, Value: pipeline.OfDigest(res.RootHash.Digest), Basis: pipeline.Endorsed,
		Inputs: []pipeline.InputRef{pipeline.FromKey(root), pipeline.FromKey(files), pipeline.FromKey(signer)}, Note: s.note,
	})
	out.Facts = append(out.Facts, fmt.Sprintf("%s: root hash %s is of %s that are %s", dir, res.RootHash.Hex(), show.Plural(r.Files, "file", "files"), s.note))
}

// uncovered says of which files on the disk the signature says nothing.
func (s *Signed) uncovered(out *run.Out, r *oms.Report) {
	if len(r.Uncovered) == 0 {
		return
	}
	var names []string
	for i, u := range r.Uncovered {
		if i == 5 {
			names = append(names, fmt.Sprintf("and %d more", len(r.Uncovered)-i))
			break
		}
		names = append(names, fmt.Sprintf("%q (%s)", u.Path, u.Why))
	}
	out.Problem(pipeline.LevelNote, "disk-unsigned", pipeline.Where{File: s.file}, fmt.Sprintf("the signature says nothing of %s on the disk: %s", show.Plural(len(r.Uncovered), "file", "files"), strings.Join(names, ", ")), "")
}

// Deployed holds the signed root hash against one that the deployment mounts,
// which stays unchecked where no signature holds.
func (s *Signed) Deployed(out *run.Out, ref pipeline.Reference) {
	ref.Key, ref.Words = s.key, ref.Words+", "+s.note
	out.References = append(out.References, ref)
	if _, known := out.Notes[s.key]; !known {
		out.Notes[s.key] = s.note
	}
}

// Judged is a signature as a verb shows it.
type Judged struct {
	Verdict string `json:"verdict"` // pass, fail, unchecked
	Signer  string `json:"signer,omitempty"`
	Reason  string `json:"reason,omitempty"`
}

func (s *Signed) judged() *Judged {
	switch {
	case s.err == nil:
		return &Judged{"pass", s.signer.Name, s.signer.Note}
	case s.unjudged():
		return &Judged{"unchecked", "", s.err.Error()}
	}
	return &Judged{"fail", "", s.err.Error()}
}

func (s *Signed) text(w io.Writer, res disk.Result, verbose bool) {
	r := res.Signed
	show.Line(w, "signed            %s (%s by %s of %s)", r.String(), show.Plural(r.Files, "file", "files"), r.Hash, r.Method)
	for i, p := range r.Problems {
		if i == 10 && !verbose {
			show.Line(w, "                  and %d more (-v shows all)", len(r.Problems)-i)
			break
		}
		show.Line(w, "                  %s", p.String())
	}
	if s.err != nil {
		show.Line(w, "signature         %s", s.err)
		return
	}
	show.Line(w, "signature         by %s", s.signer.Name)
	if s.signer.Note != "" {
		show.Line(w, "                  %s", s.signer.Note)
	}
}
