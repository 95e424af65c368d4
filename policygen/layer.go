package policygen

import (
	"bufio"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"strings"
	"unicode/utf8"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"github.com/retally/retally/internal/digest"
)

// scanOptions say how much of a layer is read.
type scanOptions struct {
	all    bool // zstd and uncompressed layers too
	full   bool // inflate to the end and check the diff id
	diffID string
	limits Limits
}

// scanLayer reads a layer once, as a stream. Inflating stops as soon as both
// files are decided; the blob itself is always read and hashed to its end.
func scanLayer(ctx context.Context, l Layer, opt scanOptions) (files LayerFiles, diffID string, err error) {
	rc, err := l.Open(ctx)
	if err != nil {
		return files, "", fmt.Errorf("open layer %s: %w", l.Digest, err)
	}
	defer rc.Close() //nolint:errcheck // read only
	if l.Digest.Algorithm() != digest.SHA256 {
		return files, "", fmt.Errorf("layer %s: only sha256 layers are read", l.Digest)
	}
	blob := &hashingReader{ctx: ctx, r: rc, h: sha256.New()}
	diffID = "unchecked"
	files, scanned := scanBlob(l, blob, opt, &diffID)
	// The digest decides first: what a wrong blob holds is no finding.
	if _, err := io.Copy(io.Discard, blob); err != nil {
		return files, "", fmt.Errorf("read layer %s: %w", l.Digest, err)
	}
	if got := digest.FromHash(digest.SHA256, blob.h); got != l.Digest {
		return files, "", fmt.Errorf("layer %s: its bytes have digest %s", l.Digest, got)
	}
	if scanned != nil {
		return files, "", fmt.Errorf("layer %s: %w", l.Digest, scanned)
	}
	return files, diffID, nil
}

func scanBlob(l Layer, blob io.Reader, opt scanOptions, diffID *string) (LayerFiles, error) {
	var tar io.Reader
	switch compressionOf(l.MediaType, opt.all) {
	case compressionGzip:
		zr, err := gzip.NewReader(bufio.NewReaderSize(blob, 128<<10))
		if err != nil {
			return LayerFiles{}, fmt.Errorf("gzip: %w", err)
		}
		zr.Multistream(false) // kata reads the first member only
		tar = zr
	case compressionZstd:
		zr, err := zstd.NewReader(blob, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(256<<20), zstd.WithDecoderMaxWindow(64<<20))
		if err != nil {
			return LayerFiles{}, fmt.Errorf("zstd: %w", err)
		}
		defer zr.Close()
		tar = zr
	case compressionNone:
		tar = blob
	default:
		return LayerFiles{}, nil
	}
	limited := &limitedReader{r: tar, left: opt.limits.LayerBytes}
	if !opt.full {
		return scanTar(limited, opt.limits)
	}
	h := &hashingReader{ctx: context.Background(), r: limited, h: sha256.New()}
	files, err := scanTar(h, opt.limits)
	if err != nil {
		return files, err
	}
	if _, err := io.Copy(io.Discard, h); err != nil {
		return files, err
	}
	*diffID = "checked"
	if got := digest.FromHash(digest.SHA256, h.h); got.String() != opt.diffID {
		*diffID = "differs"
	}
	return files, nil
}

type hashingReader struct {
	ctx context.Context //nolint:containedctx // lives for one scan
	r   io.Reader
	h   hash.Hash
}

func (h *hashingReader) Read(p []byte) (int, error) {
	if err := h.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := h.r.Read(p)
	h.h.Write(p[:n])
	return n, err
}

type limitedReader struct {
	r    io.Reader
	left int64
}

func (l *limitedReader) Read(p []byte) (int, error) {
	if l.left <= 0 {
		return 0, errors.New("larger than the limit when decompressed")
	}
	if int64(len(p)) > l.left {
		p = p[:l.left]
	}
	n, err := l.r.Read(p)
	l.left -= int64(n)
	return n, err
}

const tarBlock = 512

// scanTar looks for /etc/passwd, /etc/group and their whiteouts until one of
// each kind was seen. Names are taken from the header alone: extension records
// (GNU long names, PAX paths) are not consulted, and the type of an entry does
// not matter, because kata's generator reads archives so.
func scanTar(r io.Reader, limits Limits) (LayerFiles, error) {
	var files LayerFiles
	var sawPasswd, sawGroup bool
	var header [tarBlock]byte
	var paxSize int64 = -1
	buf := make([]byte, 64<<10)
	for offset := int64(0); !sawPasswd || !sawGroup; {
		switch _, err := io.ReadFull(r, header[:]); {
		case errors.Is(err, io.EOF):
			return files, nil // archives without end blocks are accepted
		case err != nil:
			return files, fmt.Errorf("tar header at byte %d: %w", offset, err)
		}
		if header == [tarBlock]byte{} {
			return files, nil
		}
		size, err := tarSize(&header)
		if err != nil {
			return files, fmt.Errorf("tar header at byte %d: %w", offset, err)
		}
		body := &entryReader{r: r, left: size}
		if paxSize >= 0 && header[156] != 'x' && header[156] != 'L' && header[156] != 'K' {
			body.left, paxSize = paxSize, -1
			size = body.left
		}
		switch name, isFile := etcName(tarName(&header)), header[156] != 'x' && header[156] != 'L' && header[156] != 'K'; {
		case header[156] == 'x':
			text, err := readEntry(body, limits.FileBytes)
			if err != nil {
				return files, err
			}
			paxSize = paxEntrySize(text)
		case !isFile:
		case name == "passwd":
			sawPasswd = true
			err = appendEntry(&files.Passwd, body, "passwd", limits)
		case name == "group":
			sawGroup = true
			err = appendEntry(&files.Group, body, "group", limits)
		case name == ".wh.passwd":
			sawPasswd, files.Passwd = true, whiteout
		case name == ".wh.group":
			sawGroup, files.Group = true, whiteout
		}
		if err != nil {
			return files, err
		}
		padding := (tarBlock - size%tarBlock) % tarBlock
		if sawPasswd && sawGroup {
			break
		}
		body.left += padding
		if err := body.skip(buf); err != nil {
			return files, fmt.Errorf("tar entry at byte %d: %w", offset, err)
		}
		offset += tarBlock + size + padding
	}
	return files, nil
}

// entryReader reads an entry's data; a short archive is an error.
type entryReader struct {
	r    io.Reader
	left int64
}

func (e *entryReader) Read(p []byte) (int, error) {
	if e.left <= 0 {
		return 0, io.EOF
	}
	if int64(len(p)) > e.left {
		p = p[:e.left]
	}
	n, err := e.r.Read(p)
	e.left -= int64(n)
	if errors.Is(err, io.EOF) && e.left > 0 {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

func (e *entryReader) skip(buf []byte) error {
	for {
		switch _, err := e.Read(buf); {
		case errors.Is(err, io.EOF) && e.left <= 0:
			return nil
		case err != nil:
			return err
		}
	}
}

func readEntry(body *entryReader, limit int) (string, error) {
	if body.left > int64(limit) {
		return "", fmt.Errorf("file has %d bytes, the limit is %d", body.left, limit)
	}
	data, err := io.ReadAll(body)
	if err != nil {
		return "", err
	}
	return string(data), nil
}

func appendEntry(to *string, body *entryReader, name string, limits Limits) error {
	text, err := readEntry(body, limits.FileBytes-min(len(*to), limits.FileBytes))
	if err != nil {
		return fmt.Errorf("read /etc/%s: %w", name, err)
	}
	if !utf8.ValidString(text) {
		return fmt.Errorf("/etc/%s is not UTF-8", name)
	}
	*to += text
	return nil
}

// tarName is the name field with the USTAR prefix in front.
func tarName(h *[tarBlock]byte) string {
	name := cString(h[0:100])
	if string(h[257:265]) == "ustar\x0000" && h[345] != 0 {
		name = cString(h[345:500]) + "/" + name
	}
	return name
}

func cString(b []byte) string {
	for i, c := range b {
		if c == 0 {
			return string(b[:i])
		}
	}
	return string(b)
}

// etcName is the file's name if the path is directly under etc/; "." parts are
// dropped, absolute paths and paths with ".." are not looked at.
func etcName(path string) string {
	if strings.HasPrefix(path, "/") {
		return ""
	}
	dir, file := "", ""
	for part := range strings.SplitSeq(path, "/") {
		switch {
		case part == "" || part == ".":
		case part == "..":
			return ""
		case dir != "" && file != "":
			return "" // deeper than etc/x
		case dir != "":
			file = part
		default:
			dir = part
		}
	}
	if dir != "etc" {
		return ""
	}
	return file
}

// tarSize checks the header's checksum and reads the size, octal or base 256.
func tarSize(h *[tarBlock]byte) (int64, error) {
	sum := int64(8 * ' ')
	for i, c := range h {
		if i < 148 || i >= 156 {
			sum += int64(c)
		}
	}
	if want, err := tarNumber(h[148:156]); err != nil || want != sum {
		return 0, errors.New("checksum of the header does not fit: not a tar archive")
	}
	size, err := tarNumber(h[124:136])
	if err != nil {
		return 0, fmt.Errorf("size: %w", err)
	}
	return size, nil
}

func tarNumber(b []byte) (int64, error) {
	if b[0]&0x80 != 0 {
		n := int64(b[0] & 0x7f)
		for _, c := range b[1:] {
			if n > 1<<46 {
				return 0, errors.New("number too large")
			}
			n = n<<8 | int64(c)
		}
		return n, nil
	}
	text := strings.Trim(cString(b), " ")
	if text == "" {
		return 0, nil
	}
	n := int64(0)
	for _, c := range []byte(text) {
		if c < '0' || c > '7' {
			return 0, fmt.Errorf("%q is no octal number", text)
		}
		n = n<<3 | int64(c-'0')
	}
	return n, nil
}

// paxEntrySize is the size record of a PAX header, -1 without one.
func paxEntrySize(records string) int64 {
	for records != "" {
		length, rest, ok := strings.Cut(records, " ")
		n := int64(0)
		for _, c := range []byte(length) {
			if c < '0' || c > '9' || n > 1<<30 {
				return -1
			}
			n = n*10 + int64(c-'0')
		}
		if !ok || n <= int64(len(length))+1 || n > int64(len(records)) {
			return -1
		}
		record := strings.TrimSuffix(rest[:n-int64(len(length))-1], "\n")
		if v, ok := strings.CutPrefix(record, "size="); ok {
			var size int64
			if _, err := fmt.Sscanf(v, "%d", &size); err == nil && size >= 0 && size < 1<<53 {
				return size
			}
			return -1
		}
		records = records[n:]
	}
	return -1
}
