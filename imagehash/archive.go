package imagehash

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"

	"github.com/retally/retally/imagehash/internal/gunzip"
	"github.com/retally/retally/imagehash/internal/rawtar"
	"github.com/retally/retally/imagehash/internal/zstdframe"
	"github.com/retally/retally/internal/digest"
)

// maxHeld bounds the documents kept in memory while a compressed archive
// streams by.
const maxHeld = 24 << 20

// readArchive indexes a tar of a layout or a docker archive. Of a plain tar
// only headers are read; a compressed one is decompressed once, and what its
// members contain is recounted on the way, since coming back would mean to
// decompress all of it again.
func readArchive(ctx context.Context, r io.ReaderAt, size int64, opts Options) (*files, error) {
	limits := opts.Limits.orDefault()
	head := make([]byte, 512)
	n, err := r.ReadAt(head, 0)
	if err != nil && err != io.EOF {
		return nil, err
	}
	a := &archive{f: newFiles(), limits: limits, size: size, gift: limits.Gift, progress: opts.Progress}
	whole := func() io.Reader { return io.NewSectionReader(r, 0, size) }
	packed := detect(head[:n])
	switch packed {
	case packPlain:
		a.f.open = func(_ context.Context, e *entry) (io.ReadCloser, error) {
			return io.NopCloser(io.NewSectionReader(r, e.offset, e.size)), nil
		}
		err = a.index(ctx, &seekingTar{io.NewSectionReader(r, 0, size), size}, nil)
	case packXZ:
		return nil, errors.New("the archive is compressed with xz, which is not read; decompress it first (xz -dk)")
	default:
		a.f.open = func(ctx context.Context, e *entry) (io.ReadCloser, error) {
			return a.reopen(ctx, whole(), packed, e)
		}
		opts.Progress.expect(size)
		var u *unpacker
		if u, err = a.unpacked(ctx, whole(), packed); err != nil {
			break
		}
		defer u.close()
		err = a.index(ctx, &streamedTar{bufio.NewReaderSize(u, chunkSize)}, a.keep)
	}
	var found *archiveError
	if errors.As(err, &found) {
		if len(a.f.order) == 0 && (found.Code == "archive-corrupt" || found.Code == "archive-truncated" && size < 512) {
			return nil, fmt.Errorf("%w: %s", ErrNotImage, found.Detail)
		}
		a.f.problems = append(a.f.problems, found.Problem)
		err = nil
	}
	return a.f, err
}

// archiveError ends the reading of an archive with a problem.
type archiveError struct{ Problem }

func (e *archiveError) Error() string { return e.Code + " " + e.Place + ": " + e.Detail }

type archive struct {
	f        *files
	limits   Limits
	size     int64
	held     int64
	gift     int64 // what is left of Limits.Gift
	progress *Progress
}

// tarStream is the input of a walk over members.
type tarStream interface {
	io.Reader
	skip(n int64) error // an error if fewer bytes are left
}

type seekingTar struct {
	*io.SectionReader
	size int64
}

func (s *seekingTar) skip(n int64) error {
	at, _ := s.Seek(0, io.SeekCurrent)
	if n > s.size-at {
		return io.ErrUnexpectedEOF
	}
	_, err := s.Seek(n, io.SeekCurrent)
	return err
}

type streamedTar struct{ *bufio.Reader }

func (s *streamedTar) skip(n int64) error {
	for n > 0 {
		m, err := s.Discard(int(min(n, 1<<30)))
		n -= int64(m)
		if err == io.EOF {
			return io.ErrUnexpectedEOF
		} else if err != nil {
			return err
		}
	}
	return nil
}

// index walks the members. content, if not nil, is called with each regular
// file's bytes and may leave some unread.
func (a *archive) index(ctx context.Context, in tarStream, content func(context.Context, *entry, io.Reader) error) error {
	var current *entry
	var visitErr error
	scan := rawtar.NewScanner(rawtar.Visitor{Member: func(h *rawtar.Header) error {
		current, visitErr = a.member(h)
		return visitErr
	}})
	block := make([]byte, rawtar.BlockSize)
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := io.ReadFull(in, block)
		if _, werr := scan.Write(block[:n]); werr != nil {
			if visitErr != nil {
				return visitErr
			}
			return a.broken(werr)
		}
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			if err := scan.Close(); err != nil {
				return a.broken(err)
			}
			break
		}
		if err != nil {
			return a.broken(err)
		}
		if current != nil && content != nil && current.typ == regularEntry {
			cr := &countedReader{r: io.LimitReader(in, current.size)}
			if err := content(ctx, current, cr); err != nil {
				return a.broken(err)
			}
			scan.Skip(cr.n)
		}
		left := int64(0)
		for {
			n := scan.Skip(1 << 62)
			if n == 0 {
				break
			}
			left += n
		}
		if left > 0 {
			if err := in.skip(left); err != nil {
				if err == io.ErrUnexpectedEOF {
					return &archiveError{Problem{Code: "archive-truncated", Place: current.name, Found: "the archive ends inside", Expected: fmt.Sprintf("%d bytes", current.size), Detail: "an entry claims more bytes than are left"}}
				}
				return a.broken(err)
			}
		}
		current = nil
	}
	if !scan.EndMarker() {
		a.f.notes = append(a.f.notes, Problem{Code: "archive-no-eof-marker"})
	}
	if scan.DataAfterEnd() {
		a.f.notes = append(a.f.notes, Problem{Code: "archive-data-after-end"})
	}
	return nil
}

type countedReader struct {
	r io.Reader
	n int64
}

func (c *countedReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}

// broken names what is wrong with the archive's own form; errors of reading
// stay errors.
func (a *archive) broken(err error) error {
	p := Problem{Detail: err.Error()}
	var t *rawtar.Error
	var g *gunzip.Error
	var z *zstdframe.Error
	var l *limitError
	var done *archiveError
	switch {
	case errors.As(err, &done):
		return err
	case errors.As(err, &t):
		p.Place, p.Detail = fmt.Sprintf("@%d", t.Offset), t.Msg
		p.Code = [...]string{
			rawtar.NotTar: "archive-corrupt", rawtar.Truncated: "archive-truncated",
			rawtar.Ambiguous: "archive-ambiguous", rawtar.TooLarge: "limit-tar",
		}[t.Kind]
	case errors.As(err, &g):
		p.Code = [...]string{gunzip.Corrupt: "archive-corrupt", gunzip.Truncated: "archive-truncated", gunzip.Trailing: "archive-trailing-data"}[g.Kind]
	case errors.As(err, &z):
		p.Code = [...]string{
			zstdframe.Corrupt: "archive-corrupt", zstdframe.Truncated: "archive-truncated", zstdframe.Trailing: "archive-trailing-data",
			zstdframe.Window: "limit-window", zstdframe.Dictionary: "archive-corrupt",
		}[z.Kind]
	case errors.As(err, &l):
		p.Code, p.Expected, p.Found = "limit-expansion", fmt.Sprintf("at most %d bytes uncompressed", l.limit), "more"
	default:
		return err
	}
	return &archiveError{p}
}

// member records one member, or refuses the archive.
func (a *archive) member(h *rawtar.Header) (*entry, error) {
	if h.Global {
		return nil, nil
	}
	name, safe := entryName(h.Name)
	if h.Prefixed {
		return nil, &archiveError{Problem{Code: "archive-ambiguous", Place: fmt.Sprintf("@%d:%s", h.Offset, clip(h.Short)), Found: clip(h.Name), Expected: clip(h.Short), Detail: "Go readers take the times of this header for a part of the name, others do not"}}
	}
	if !safe {
		return nil, &archiveError{Problem{Code: "entry-unsafe-path", Place: fmt.Sprintf("@%d:%s", h.Offset, clip(h.Name)), Found: clip(h.Name), Expected: "a relative path without .."}}
	}
	if len(a.f.order) >= a.limits.Entries {
		return nil, &archiveError{Problem{Code: "limit-entries", Place: clip(name), Expected: fmt.Sprintf("at most %d entries", a.limits.Entries)}}
	}
	e := &entry{name: name, size: h.Size, offset: h.Data}
	switch h.Type {
	case '0', '7':
		if _, sparse := h.Record("GNU.sparse.major"); sparse {
			e.typ = otherEntry
		}
	case '1':
		target, safe := entryName(h.Linkname)
		if !safe {
			return nil, &archiveError{Problem{Code: "entry-unsafe-path", Place: clip(name), Found: "hard link to " + clip(h.Linkname), Expected: "an earlier entry"}}
		}
		if t := a.f.names[target]; t == nil || t.typ != regularEntry && t.typ != hardlinkEntry {
			return nil, &archiveError{Problem{Code: "entry-unsafe-type", Place: clip(name), Found: "hard link to " + clip(h.Linkname), Expected: "an earlier regular file"}}
		}
		e.typ, e.link = hardlinkEntry, target
	case '2':
		e.typ, e.link = symlinkEntry, h.Linkname
	case '5':
		e.typ = folderEntry
	default:
		e.typ = otherEntry
	}
	if name == "" {
		if e.typ == folderEntry {
			return nil, nil // "./"
		}
		return nil, &archiveError{Problem{Code: "entry-unsafe-path", Place: fmt.Sprintf("@%d", h.Offset), Found: "an empty name", Expected: "a relative path"}}
	}
	if old := a.f.names[name]; old != nil {
		if old.typ == folderEntry && e.typ == folderEntry {
			return nil, nil
		}
		return nil, &archiveError{Problem{Code: "entry-duplicate", Place: clip(name), Found: "two entries of this name", Expected: "one"}}
	}
	a.f.names[name] = e
	a.f.order = append(a.f.order, name)
	return e, nil
}

// keep holds documents and recounts everything else while an archive streams.
func (a *archive) keep(ctx context.Context, e *entry, r io.Reader) error {
	br := bufio.NewReaderSize(r, 512)
	head, err := br.Peek(64)
	if err != nil && err != io.EOF {
		return err
	}
	if e.size <= max(a.limits.Manifest, a.limits.Config) && e.size <= maxHeld-a.held && isDocument(e.name, head) {
		b, err := io.ReadAll(br)
		if err != nil {
			return err
		}
		if int64(len(b)) < e.size {
			return &archiveError{Problem{Code: "archive-truncated", Place: e.name, Found: fmt.Sprint(len(b)), Expected: fmt.Sprintf("%d bytes", e.size)}}
		}
		e.held = b
		a.held += e.size
		return nil
	}
	how := reading{size: e.size, blob: setOf(digest.SHA256), diff: setOf(digest.SHA256), asLayer: true, limits: a.limits}
	if strings.HasPrefix(e.name, "blobs/sha512/") {
		how.blob = setOf(digest.SHA512)
	}
	how.limits.Floor = max(how.limits.Floor, a.gift)
	e.facts, err = read(ctx, br, how)
	if err == nil {
		a.gift -= max(0, e.facts.plain-a.limits.expanded(e.size))
	}
	if err == nil && e.facts.size < e.size {
		err = &archiveError{Problem{Code: "archive-truncated", Place: e.name, Found: fmt.Sprint(e.facts.size), Expected: fmt.Sprintf("%d bytes", e.size)}}
	}
	return err
}

// isDocument guesses what the verifier will want to parse. A wrong guess costs
// memory or time, nothing else.
func isDocument(name string, head []byte) bool {
	switch base := path.Base(name); {
	case base == "oci-layout", base == "repositories", base == "json", base == "VERSION", strings.HasSuffix(base, ".json"):
		return true
	}
	trimmed := bytes.TrimLeft(head, " \t\r\n")
	return len(head) == 0 || len(trimmed) > 0 && (trimmed[0] == '{' || trimmed[0] == '[')
}

// unpacker decompresses an archive within the expansion limit.
type unpacker struct {
	r     io.Reader
	limit int64
	n     int64
	close func()
}

func (u *unpacker) Read(p []byte) (int, error) {
	n, err := u.r.Read(p)
	u.n += int64(n)
	if u.n > u.limit {
		return 0, &limitError{u.n, u.limit}
	}
	return n, err
}

func (a *archive) unpacked(ctx context.Context, src io.Reader, p packing) (*unpacker, error) {
	u := &unpacker{limit: a.limits.shared(1).expanded(a.size), close: func() {}}
	counted := &hashingReader{ctx: ctx, r: src, progress: a.progress}
	if p == packGzip {
		u.r = gunzip.NewReader(counted)
		return u, nil
	}
	z, err := newZstd(counted, a.limits.Window, nil, nil)
	if err != nil {
		return nil, a.broken(err)
	}
	u.r, u.close = z, z.close
	return u, nil
}

// reopen streams a compressed archive again up to one entry.
func (a *archive) reopen(ctx context.Context, src io.Reader, p packing, e *entry) (io.ReadCloser, error) {
	if e.held != nil || e.size == 0 {
		return io.NopCloser(bytes.NewReader(e.held)), nil
	}
	again := *a
	again.progress = nil
	u, err := again.unpacked(ctx, src, p)
	if err != nil {
		return nil, err
	}
	if _, err := io.CopyN(io.Discard, u, e.offset); err != nil {
		u.close()
		return nil, err
	}
	return &closingReader{io.LimitReader(u, e.size), u.close}, nil
}

type closingReader struct {
	io.Reader
	done func()
}

func (c *closingReader) Close() error { c.done(); return nil }
