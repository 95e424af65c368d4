package fleet

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/jsondoc"
	"github.com/retally/retally/internal/place"
	"github.com/retally/retally/pipeline/run"
	"github.com/retally/retally/snpmeasure"
)

// reader reads a list of any kind, by its content.
type reader struct {
	in      *run.In
	file    string
	pool    *pool
	compose digest.Digest // zero: none
}

// fault is a list that is not what it must be.
func (r *reader) fault(pointer, found, want string) error {
	return &place.Fault{Input: "fleet", Where: place.Where{File: r.file, Pointer: pointer}, Found: found, Want: want}
}

func (r *reader) read(ctx context.Context, data []byte) (*List, error) {
	text := bytes.TrimLeft(data, " \t\r\n\ufeff")
	if len(text) == 0 || text[0] != '{' && text[0] != '[' {
		return r.checked(r.registry(ctx))
	}
	v, err := jsondoc.Parse(data, jsondoc.Limits{Bytes: ListLimit})
	if err != nil {
		return nil, &place.Fault{Input: "fleet", Where: place.InFile(r.file), Err: err}
	}
	switch {
	case snpmeasure.LooksLikeReleases(v):
		return r.checked(r.releases(ctx))
	case v.Kind == jsondoc.Array:
		return r.checked(r.registry(ctx))
	case v.Get("ReferenceValues") != nil:
		return r.checked(r.contrast(ctx))
	case v.Get("rows") != nil:
		return r.checked(r.shapeRows(ctx, v))
	case v.Get("snp_measurement") != nil || v.Get("tdx_measurement") != nil:
		return r.checked(r.signed(v))
	case v.Get("igvm") != nil:
		return r.checked(r.igvm(v))
	case every(v, jsondoc.Object):
		return r.checked(r.namedShapes(v))
	case every(v, jsondoc.String):
		return r.checked(r.machines(v))
	}
	return nil, r.fault("", "a document of another kind", "SecretVM's tdx.csv or sev.json, Tinfoil's machines, shapes or measurements, or a Contrast manifest")
}

// checked refuses a list that says nothing, or too much.
func (r *reader) checked(l *List, err error) (*List, error) {
	switch {
	case err != nil:
		return nil, err
	case len(l.Rows) == 0:
		return nil, r.fault("", "no row", "at least one")
	case len(l.Rows) > maxRows:
		return nil, r.fault("", fmt.Sprintf("%d rows", len(l.Rows)), fmt.Sprintf("at most %d", maxRows))
	}
	return l, nil
}

// every reports whether all members of an object are of a kind.
func every(v *jsondoc.Value, k jsondoc.Kind) bool {
	return v.Kind == jsondoc.Object && len(v.Members) > 0 && !slices.ContainsFunc(v.Members, func(m jsondoc.Member) bool { return m.Value.Kind != k })
}

// sum reads a digest in hex that may be absent or null.
func (r *reader) sum(v *jsondoc.Value, path, key string, a digest.Algorithm) (digest.Digest, error) {
	m := v.Get(key)
	if m.IsNull() {
		return digest.Digest{}, nil
	}
	if m.Kind != jsondoc.String {
		return digest.Digest{}, r.fault(path+"/"+key, "a "+m.Kind.String(), "a digest in hex")
	}
	d, err := digest.ParseHex(a, strings.ToLower(m.Text))
	if err != nil {
		return d, r.fault(path+"/"+key, fmt.Sprintf("%.100q", m.Text), fmt.Sprintf("%d hex digits", 2*a.Size()))
	}
	return d, nil
}

// known refuses members that are not listed: one could change what is measured.
func (r *reader) known(v *jsondoc.Value, path string, keys ...string) error {
	if v == nil || v.Kind != jsondoc.Object {
		return r.fault(path, "no object", "an object with "+strings.Join(keys, ", "))
	}
	for _, m := range v.Members {
		if !slices.Contains(keys, m.Key) {
			return r.fault(path+"/"+jsondoc.EscapePointer(m.Key), "a member that is not known", strings.Join(keys, ", "))
		}
	}
	return nil
}
