package shard

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/verity/erofs"
)

// ResultFormat is the form of a result.
const ResultFormat = "retally/shard-result/1"

// Result is what one worker says about one part.
type Result struct {
	Format  string        `json:"format"`
	Version string        `json:"version"` // of the program that read it
	Plan    digest.Digest `json:"plan"`
	Part    int           `json:"part"`
	Copy    int           `json:"copy"` // which of the workers that were given the part
	Worker  string        `json:"worker"`
	Source  string        `json:"source"`
	Offset  int64         `json:"offset"`
	Length  int64         `json:"length"`
	Level   int           `json:"level"`
	Files   digest.Digest `json:"files"` // identity of what was read, see Part.Files
	Found
}

// Found is what reading a part gave.
type Found struct {
	Read int64 `json:"read"` // bytes
	// Sums are the subtree digests of a disk's part, one behind the other.
	Sums []byte `json:"sums,omitempty"`
	// Others has the first of them as other releases of mkfs.erofs make it.
	Others map[string]digest.Digest `json:"others,omitempty"`
	Image  *Image                   `json:"image,omitempty"`
}

// Image is what a worker recounted of an image.
type Image struct {
	Digest digest.Digest `json:"digest,omitzero"` // of the manifest or index
	// Refused says why the image has no digest, "" if it has one.
	Refused string `json:"refused,omitempty"`
}

// maxWorker bounds the name of a worker, bytes.
const maxWorker = 200

// ClipWorker makes a name of a worker that a result can hold.
func ClipWorker(s string) string { return clip(s, maxWorker) }

// maxRefused bounds the reason of a refused image, bytes.
const maxRefused = 600

// Encode writes a result in its one form, of at most MaxResult bytes.
func (r *Result) Encode() ([]byte, error) {
	data, err := json.Marshal(r)
	if err != nil {
		return nil, err
	}
	if len(data) >= MaxResult {
		return nil, fmt.Errorf("the result of part %d has %d bytes, at most %d come back", r.Part, len(data)+1, MaxResult)
	}
	return append(data, '\n'), nil
}

// Clip shortens a reason to what a result holds.
func Clip(s string) string { return clip(s, maxRefused) }

func clip(s string, most int) string {
	s = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || r == unicode.ReplacementChar {
			return ' '
		}
		return r
	}, s)
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "")
	}
	return s
}

// FileName is what the file of a result is called.
func FileName(part, copy int) string { return fmt.Sprintf("part-%06d-%d.json", part, copy) }

var fileName = regexp.MustCompile(`^part-([0-9]{6})-([0-9])\.json$`)

// ParseFileName reads such a name.
func ParseFileName(name string) (part, copy int, ok bool) {
	m := fileName.FindStringSubmatch(name)
	if m == nil {
		return 0, 0, false
	}
	part, _ = strconv.Atoi(m[1])
	copy, _ = strconv.Atoi(m[2])
	return part, copy, true
}

// ResultError is a result that is refused.
type ResultError struct {
	Part int
	Copy int
	What string
	// Missing: there is no such result, and the part is what is spoken of.
	Missing bool
}

func (e *ResultError) Error() string {
	if e.Missing {
		return fmt.Sprintf("part %d: %s", e.Part, e.What)
	}
	return fmt.Sprintf("part %d, result %d: %s", e.Part, e.Copy, e.What)
}

// ParseResult reads the result of a part, which a file name or a task claims,
// and holds it against the plan.
func (p *Plan) ParseResult(plan digest.Digest, part, copy int, data []byte) (*Result, error) {
	fail := func(format string, args ...any) (*Result, error) {
		return nil, &ResultError{Part: part, Copy: copy, What: fmt.Sprintf(format, args...)}
	}
	if part < 0 || part >= len(p.Parts) || copy < 0 || copy >= p.Redundancy {
		return fail("the plan has parts 0 to %d, each for %d", len(p.Parts)-1, p.Redundancy)
	}
	if len(data) > MaxResult {
		return fail("has more than %d bytes", MaxResult)
	}
	r := new(Result)
	again := func() []byte {
		out, err := r.Encode()
		if err != nil {
			return nil
		}
		return out
	}
	if err := decode(data, r, again); err != nil {
		return fail("%v", err)
	}
	want, source := &p.Parts[part], &p.Sources[p.Parts[part].Source]
	switch {
	case r.Format != ResultFormat:
		return fail("its form is %.80q, want %q", r.Format, ResultFormat)
	case r.Version != p.Version:
		return fail("it was read by version %.80q, the plan is of version %q", r.Version, p.Version)
	case r.Plan != plan:
		return fail("it is of another plan: %s, this one is %s", r.Plan, plan)
	case r.Part != part || r.Copy != copy:
		return fail("it says that it is part %d, result %d", r.Part, r.Copy)
	case r.Source != source.Name:
		return fail("it is of source %.80q, the plan says %q", r.Source, source.Name)
	case r.Offset != want.Offset || r.Length != want.Length || r.Level != want.Level:
		return fail("it covers bytes %d to %d at level %d, the plan says %d to %d at level %d", r.Offset, r.Offset+r.Length, r.Level, want.Offset, want.Offset+want.Length, want.Level)
	case r.Files != want.Files:
		return fail("the files that it read are not those of the plan: one changed after the plan was made, or it is another directory")
	case r.Worker == "" || len(r.Worker) > maxWorker || strings.ContainsFunc(r.Worker, unicode.IsControl):
		return fail("it names no worker")
	}
	if what := r.fits(want, source); what != "" {
		return fail("%s", what)
	}
	return r, nil
}

// fits says what of the found values is not as a part of the kind has them.
func (r *Result) fits(want *Part, s *Source) string {
	if s.Kind == Images {
		switch i := r.Image; {
		case i == nil || len(r.Sums) > 0 || len(r.Others) > 0:
			return "it is not the result of an image"
		case i.Digest.IsZero() == (i.Refused == "") || len(i.Refused) > maxRefused:
			return "it has neither a digest nor a reason, or both"
		case !i.Digest.IsZero() && i.Digest.Algorithm() != digest.SHA256 && i.Digest.Algorithm() != digest.SHA512:
			return "the digest is of another kind than images have"
		}
		return ""
	}
	unit, err := subtreeBlocks(s, want.Level)
	switch {
	case err != nil:
		return err.Error()
	case r.Image != nil:
		return "it is the result of an image"
	case int64(len(r.Sums)) != sumsOf(want.Length, unit)*int64(digest.SHA256.Size()):
		return fmt.Sprintf("it has %d bytes of digests, want %d", len(r.Sums), sumsOf(want.Length, unit)*int64(digest.SHA256.Size()))
	case r.Read != want.Length:
		return fmt.Sprintf("it read %d of %d bytes", r.Read, want.Length)
	case (want.Offset == 0) != (len(r.Others) > 0):
		return "the digests of other releases of mkfs.erofs belong to the first part alone"
	}
	for name, d := range r.Others {
		if erofs.Profile(name) == s.Disk.Mkfs || !slices.Contains(erofs.Profiles(), erofs.Profile(name)) || d.Algorithm() != digest.SHA256 {
			return fmt.Sprintf("%.40q is no other release of mkfs.erofs with a digest", name)
		}
	}
	return ""
}
