package privatemode

import (
	"errors"
	"fmt"
	"strings"

	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/jsondoc"
)

// ImageHash is one entry of hashes-<host>.json: the name of an OCI layout and
// the digest of its image manifest or, for several platforms, image index.
type ImageHash struct {
	Name   string
	Digest digest.Digest
	Line   int
}

// ParseHashes reads hashes-<host>.json as scripts/calculate-image-digests.sh
// writes it: one object, name -> "sha256:<64 lower-case hex digits>". Order is
// kept; white space does not matter. The error is Problems.
func ParseHashes(file string, data []byte) ([]ImageHash, error) {
	var faults Problems
	doc, err := jsondoc.Parse(data, jsondoc.Limits{Bytes: 1 << 20, Values: 20_000})
	if err != nil {
		faults.add(jsonProblem(file, err))
		return nil, faults
	}
	lines := newLineIndex(data)
	at := func(off int, path, format string, args ...any) {
		line, col := lines.at(off)
		faults.add(Problem{File: file, Line: line, Column: col, Path: path, Msg: fmt.Sprintf(format, args...)})
	}
	if doc.Kind != jsondoc.Object {
		at(doc.Offset, "", "is %s, want an object of image names and digests", doc.Kind)
		return nil, faults
	}
	out := []ImageHash{}
	for _, m := range doc.Members {
		switch {
		case m.Key == "":
			at(m.Offset, "", "image without name")
			continue
		case m.Value.Kind != jsondoc.String:
			// "null" is what the script writes for a layout without index.
			at(m.Value.Offset, clip(m.Key), "digest is %s, want a string sha256:<64 hex digits>", m.Value.Kind)
			continue
		}
		d, err := sha256Digest(m.Value.Text)
		if err != nil {
			at(m.Value.Offset, clip(m.Key), "%v", err)
			continue
		}
		line, _ := lines.at(m.Offset)
		out = append(out, ImageHash{m.Key, d, line})
	}
	return out, faults.err()
}

func sha256Digest(s string) (digest.Digest, error) {
	d, err := digest.Parse(s)
	if err != nil {
		return digest.Digest{}, err
	}
	if d.Algorithm() != digest.SHA256 || d.String() != s {
		return digest.Digest{}, fmt.Errorf("digest %q: want sha256:<64 lower-case hex digits>", clip(s))
	}
	return d, nil
}

func jsonProblem(file string, err error) Problem {
	var e *jsondoc.Error
	if errors.As(err, &e) {
		return Problem{File: file, Line: e.Line, Column: e.Column, Path: e.Pointer, Msg: e.Msg}
	}
	return Problem{File: file, Msg: strings.TrimSpace(err.Error())}
}
