package imagehash

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/retally/retally/imagehash/internal/gunzip"
	"github.com/retally/retally/imagehash/internal/recompress"
)

// layer compares two layers whose blobs differ: first the tar inside, then the
// way it is compressed. Without manifests the packaging does not matter.
func (x *differ) layer(object []string, a, b diffLayer, packaging bool) error {
	limits := x.opts.Limits.orDefault()
	if a.diffID != b.diffID {
		if err := x.content(object, a, b, limits); err != nil {
			return err
		}
	}
	if !packaging {
		return nil
	}
	if a.packing != b.packing {
		// Undoing it means to compress in A's way.
		x.add(append(append([]string{}, object...), "compression"), leaf{kind: "compression-format", a: a.packing.String(), b: b.packing.String()})
		return x.settlePacking(object, a, b, limits)
	}
	if a.packing == packPlain {
		return nil
	}
	return x.packing(object, a, b, limits)
}

func (x *differ) content(object []string, a, b diffLayer, limits Limits) error {
	ia, err := a.index(x.ctx, limits)
	if err == nil {
		var ib *tarIndex
		if ib, err = b.index(x.ctx, limits); err == nil {
			d := compareTars(ia, ib)
			if err := firstDifference(x.ctx, a, b, d, ia, ib, limits); err != nil {
				return err
			}
			proved, err := d.prove(x.ctx, a, ia, ib, limits)
			if err != nil {
				return err
			}
			x.add(object, d.leaves...)
			x.settle(object, proved)
			return nil
		}
	}
	if errors.Is(err, errTooMany) {
		x.add(object, leaf{kind: "content", a: a.diffID.String(), b: b.diffID.String(), note: err.Error() + ": not compared one by one"})
		x.settle(object, false)
		return nil
	}
	return err
}

// gzipForm is a gzip file's header and the recipe of its deflate stream.
type gzipForm struct {
	header  gunzip.Header
	members int
}

func (l diffLayer) gzipForm(ctx context.Context) (f gzipForm, err error) {
	r, err := l.open(ctx)
	if err != nil {
		return f, err
	}
	defer r.Close()
	z := gunzip.NewReader(&hashingReader{ctx: ctx, r: r})
	_, err = io.Copy(io.Discard, struct{ io.Reader }{z})
	return gzipForm{z.First(), z.Members()}, err
}

// packing compares two blobs of the same format.
func (x *differ) packing(object []string, a, b diffLayer, limits Limits) error {
	place := append(append([]string{}, object...), "compression")
	ra, err := x.identify(a, limits)
	if err != nil {
		return err
	}
	rb, err := x.identify(b, limits)
	if err != nil {
		return err
	}
	sameBody := ra.Known() && ra == rb
	if a.packing == packGzip {
		fa, err := a.gzipForm(x.ctx)
		if err != nil {
			return err
		}
		fb, err := b.gzipForm(x.ctx)
		if err != nil {
			return err
		}
		if !sameBody && a.diffID == b.diffID && fa.members == 1 && fb.members == 1 {
			if sameBody, err = x.sameTail(a, fa.header.Size, b, fb.header.Size); err != nil {
				return err
			}
		}
		x.add(place, headerLeaves(fa.header, fb.header, sameBody)...)
	}
	switch {
	case sameBody:
		x.settle(place, true)
	case ra.Known() && rb.Known():
		kind := "compression-level"
		if ra.Implementation != rb.Implementation {
			kind = "compression-implementation"
		}
		x.add(place, leaf{kind: kind, a: ra.String(), b: rb.String()})
		// A's recipe makes A's blob of A's tar; B's tar is that one, or
		// becomes it with the causes inside undone.
		x.settle(place, true)
	case a.diffID == b.diffID:
		x.add(place, leaf{kind: "compression", a: ra.String(), b: rb.String(), note: "the same tar, compressed with another level or implementation"})
		// The tars are equal: everything that differs is compression.
		x.settle(place, true)
	case ra.Known() != rb.Known():
		x.add(place, leaf{kind: "compression", a: ra.String(), b: rb.String(), note: "one side's compressor is known and the other's is none of those: they differ"})
		x.settle(place, true)
		x.proved = false
		x.notes = append(x.notes, fmt.Sprintf("%s: the compressed form of a was not made again, its compressor is not known; what is proved is proved up to the diffID", place[len(place)-2]))
	default:
		x.settle(place, true)
		x.proved = false
		x.notes = append(x.notes, fmt.Sprintf("%s: neither compressor is known, so whether level or implementation differ too is open; what is proved is proved up to the diffID", place[len(place)-2]))
	}
	return nil
}

// settlePacking gives another format of compression its standing: proved if
// the tars are equal, or if A's compressor is known.
func (x *differ) settlePacking(object []string, a, b diffLayer, limits Limits) error {
	place := append(append([]string{}, object...), "compression")
	proved := a.packing == packPlain || a.diffID == b.diffID
	if !proved {
		r, err := x.identify(a, limits)
		if err != nil {
			return err
		}
		proved = r.Known()
	}
	x.settle(place, proved)
	return nil
}

func (x *differ) identify(l diffLayer, limits Limits) (recompress.Recipe, error) {
	format := recompress.Gzip
	if l.packing == packZstd {
		format = recompress.Zstd
	}
	return recompress.Identify(x.ctx, format,
		func() (io.ReadCloser, error) { return l.open(x.ctx) },
		func() (io.ReadCloser, error) { return l.plain(x.ctx, limits) })
}

// sameTail compares what follows the gzip headers.
func (x *differ) sameTail(a diffLayer, skipA int, b diffLayer, skipB int) (bool, error) {
	ra, err := a.open(x.ctx)
	if err != nil {
		return false, err
	}
	defer ra.Close()
	rb, err := b.open(x.ctx)
	if err != nil {
		return false, err
	}
	defer rb.Close()
	if _, err := io.CopyN(io.Discard, ra, int64(skipA)); err != nil {
		return false, err
	}
	if _, err := io.CopyN(io.Discard, rb, int64(skipB)); err != nil {
		return false, err
	}
	pa, pb := make([]byte, 64<<10), make([]byte, 64<<10)
	for {
		if err := x.ctx.Err(); err != nil {
			return false, err
		}
		na, ea := fill(ra, pa)
		nb, eb := fill(rb, pb)
		if na != nb || string(pa[:na]) != string(pb[:nb]) {
			return false, nil
		}
		switch {
		case ea == io.EOF && eb == io.EOF:
			return true, nil
		case ea != nil && ea != io.EOF:
			return false, ea
		case eb != nil && eb != io.EOF:
			return false, eb
		case ea != nil || eb != nil:
			return false, nil
		}
	}
}

// headerLeaves compares gzip headers (RFC 1952, section 2.3). XFL follows from
// the level where the streams differ.
func headerLeaves(a, b gunzip.Header, sameBody bool) []leaf {
	var out []leaf
	add := func(kind, va, vb string) { out = append(out, leaf{kind: kind, a: va, b: vb}) }
	if a.MTime != b.MTime {
		add("gzip-header-mtime", fmt.Sprintf("%#x", a.MTime), fmt.Sprintf("%#x", b.MTime))
	}
	if a.OS != b.OS {
		add("gzip-header-os", fmt.Sprint(a.OS), fmt.Sprint(b.OS))
	}
	if a.Name != b.Name || a.Flags&8 != b.Flags&8 {
		add("gzip-header-name", fmt.Sprintf("%q", clip(a.Name)), fmt.Sprintf("%q", clip(b.Name)))
	}
	if a.XFL != b.XFL && sameBody {
		add("gzip-header-xfl", fmt.Sprint(a.XFL), fmt.Sprint(b.XFL))
	}
	if a.Comment != b.Comment || string(a.Extra) != string(b.Extra) || (a.Flags^b.Flags)&^8 != 0 {
		add("gzip-header", fmt.Sprintf("flags %#x, extra %x, comment %q", a.Flags, a.Extra, clip(a.Comment)), fmt.Sprintf("flags %#x, extra %x, comment %q", b.Flags, b.Extra, clip(b.Comment)))
	}
	return out
}
