// Package rawtar walks a tar stream without extracting it and without hiding
// anything: raw header blocks, extension headers, padding and trailer are all
// shown to the caller, who may be judging a hostile archive or looking for the
// one byte in which two archives differ. archive/tar, made for extraction,
// keeps those to itself.
//
// Formats: POSIX.1-1988 ustar, POSIX.1-2001 pax, GNU (long names, base-256
// numbers, old sparse headers) and Version 7, read as Go's archive/tar reads
// them, because the container engines do.
package rawtar

import (
	"bytes"
	"fmt"
)

// BlockSize is the unit of a tar stream in bytes.
const BlockSize = 512

// maxExtension bounds one extension header (pax records or a long name), in
// bytes, as archive/tar does.
const maxExtension = 1 << 20

// Kind says what is wrong with a stream.
type Kind uint8

// The kinds of errors.
const (
	NotTar    Kind = iota + 1 // a header block is none
	Truncated                 // the stream ends inside a member
	Ambiguous                 // readers would disagree about the members
	TooLarge                  // a limit was passed
)

// Error says where a stream is wrong.
type Error struct {
	Kind   Kind
	Offset int64 // of the block in question
	Msg    string
}

func (e *Error) Error() string { return fmt.Sprintf("tar offset %d: %s", e.Offset, e.Msg) }

// Extension is one extension header that precedes a member: pax records ('x'
// or 'g') or a GNU long name ('L', 'K').
type Extension struct {
	Raw  [BlockSize]byte
	Data []byte // without padding
}

// Header is one member as its headers describe it. It is valid until the
// callback returns; Raw and the slices must not be kept.
type Header struct {
	Offset   int64 // of the first header block, extensions included
	Data     int64 // offset of the content
	Size     int64 // bytes of content that follow in the stream
	Claimed  int64 // the size field, also where a type has no content
	Type     byte  // type flag; 0 is given as '0'
	Name     string
	Linkname string
	Raw      *[BlockSize]byte
	Sparse   []byte // raw old GNU sparse extension blocks
	Ext      []Extension
	Records  []Record // pax records in force for this member alone
	Global   bool     // the member is a pax global header, given for itself
	// Prefixed: a GNU header with a name prefix where its times belong, as Go
	// wrote it before 1.8. Go readers take it for a part of the name, others
	// see Short alone.
	Prefixed bool
	Short    string
}

// Record is one pax record.
type Record struct{ Key, Value string }

// Record returns the value of the last record of that key.
func (h *Header) Record(key string) (string, bool) {
	for i := len(h.Records) - 1; i >= 0; i-- {
		if h.Records[i].Key == key {
			return h.Records[i].Value, true
		}
	}
	return "", false
}

// Visitor receives the parts of a stream in order. Nil functions are skipped.
type Visitor struct {
	Member  func(*Header) error
	Content func([]byte) error // pieces of the current member's content
	Padding func([]byte) error // pieces of the bytes that fill its last block
	Trailer func([]byte) error // everything from the first zero block on
}

type state uint8

const (
	inHeader state = iota
	inExtension
	inSparse
	inContent
	inPadding
	inTrailer
)

// Scanner is a writer that takes a tar stream in pieces of any size.
type Scanner struct {
	v     Visitor
	st    state
	pos   int64 // of the next byte
	block [BlockSize]byte
	fill  int

	left    int64 // bytes of content or padding still to come
	pad     int64
	h       Header
	start   int64 // offset of the member's first header; -1 between members
	extSize int64
	extKind byte
	ext     []Extension
	sparse  []byte
	raw     [BlockSize]byte

	zeroBlocks int
	afterEOF   bool // something other than zeros after the end marker
	members    int
	err        error
}

// NewScanner returns a scanner at the start of a stream.
func NewScanner(v Visitor) *Scanner { return &Scanner{v: v, start: -1} }

// Members returns the number of members seen, global headers not counted.
func (s *Scanner) Members() int { return s.members }

// EndMarker reports whether the two zero blocks that end an archive were seen.
func (s *Scanner) EndMarker() bool { return s.zeroBlocks >= 2 }

// DataAfterEnd reports whether bytes other than zero follow the end marker.
func (s *Scanner) DataAfterEnd() bool { return s.afterEOF }

// Write takes the next piece of the stream. After an error every further call
// returns it.
func (s *Scanner) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 && s.err == nil {
		var took int
		took, s.err = s.step(p)
		s.pos += int64(took)
		p = p[took:]
	}
	if s.err != nil {
		return n - len(p), s.err
	}
	return n, nil
}

// Skip tells the scanner that up to limit bytes of content or padding are left
// out, which a caller who can seek need not read. It returns how many; 0 means
// that the next bytes are to be written. The visitor does not see them.
func (s *Scanner) Skip(limit int64) int64 {
	if s.err != nil || s.st != inContent && s.st != inPadding {
		return 0
	}
	n := min(limit, s.left)
	s.pos += n
	s.left -= n
	s.afterPiece()
	return n
}

// Close says whether the stream may end here.
func (s *Scanner) Close() error {
	if s.err != nil {
		return s.err
	}
	switch {
	case s.st == inTrailer, s.st == inHeader && s.fill == 0 && s.start < 0:
		return nil
	case s.st == inContent:
		s.err = &Error{Truncated, s.pos, fmt.Sprintf("the stream ends %d bytes before the end of the content of %q", s.left, clip(s.h.Name))}
	case s.st == inPadding:
		s.err = &Error{Truncated, s.pos, fmt.Sprintf("the stream ends inside the padding after %q", clip(s.h.Name))}
	case s.members == 0 && s.st == inHeader && s.start < 0:
		s.err = &Error{NotTar, 0, fmt.Sprintf("the stream has only %d bytes, less than one header block", s.fill)}
	default:
		s.err = &Error{Truncated, s.pos, "the stream ends inside a header"}
	}
	return s.err
}

func (s *Scanner) step(p []byte) (int, error) {
	switch s.st {
	case inContent, inPadding:
		return s.skip(p)
	case inTrailer:
		return s.trailer(p)
	}
	n := copy(s.block[s.fill:], p)
	s.fill += n
	if s.fill < BlockSize {
		return n, nil
	}
	s.fill = 0
	at := s.pos + int64(n) - BlockSize
	switch s.st {
	case inExtension:
		return n, s.extensionBlock(at)
	case inSparse:
		s.sparse = append(s.sparse, s.block[:]...)
		if len(s.sparse) > maxExtension {
			return n, &Error{TooLarge, at, "sparse map longer than 1 MiB"}
		}
		if s.block[504] == 0 {
			return n, s.emit(at + BlockSize)
		}
		return n, nil
	}
	return n, s.header(at)
}

func (s *Scanner) skip(p []byte) (int, error) {
	n := int(min(int64(len(p)), s.left))
	visit := s.v.Content
	if s.st == inPadding {
		visit = s.v.Padding
	}
	if visit != nil && n > 0 {
		if err := visit(p[:n]); err != nil {
			return n, err
		}
	}
	s.left -= int64(n)
	s.afterPiece()
	return n, nil
}

func (s *Scanner) afterPiece() {
	switch {
	case s.left > 0:
	case s.st == inContent && s.pad > 0:
		s.st, s.left = inPadding, s.pad
	default:
		s.st = inHeader
	}
}

func (s *Scanner) trailer(p []byte) (int, error) {
	if s.zeroBlocks < 2 {
		// The second block of the end marker is collected whole: a lone
		// zero block followed by a header ends the archive for some
		// readers and not for others.
		n := copy(s.block[s.fill:], p)
		s.fill += n
		if s.fill == BlockSize {
			s.fill = 0
			if !zero(s.block[:]) {
				return n, &Error{Ambiguous, s.pos + int64(n) - BlockSize, "a lone zero block is followed by more data, readers disagree whether the archive ends there"}
			}
			s.zeroBlocks++
		}
		return n, s.visitTrailer(p[:n])
	}
	if !s.afterEOF && !zero(p) {
		s.afterEOF = true
	}
	return len(p), s.visitTrailer(p)
}

func (s *Scanner) visitTrailer(p []byte) error {
	if s.v.Trailer == nil {
		return nil
	}
	return s.v.Trailer(p)
}

// header takes a complete header block.
func (s *Scanner) header(at int64) error {
	if zero(s.block[:]) {
		if s.start >= 0 {
			return &Error{NotTar, at, "extension header without a member"}
		}
		s.st, s.zeroBlocks = inTrailer, 1
		return s.visitTrailer(s.block[:])
	}
	if err := checksum(&s.block); err != nil {
		return &Error{NotTar, at, err.Error()}
	}
	size, err := Number(s.block[124:136])
	if err != nil || size < 0 {
		return &Error{NotTar, at, fmt.Sprintf("size field %q is no size", s.block[124:136])}
	}
	if s.start < 0 {
		s.start = at
	}
	switch kind := s.block[156]; kind {
	case 'x', 'g', 'L', 'K':
		if size > maxExtension {
			return &Error{TooLarge, at, fmt.Sprintf("extension header of %d bytes, the limit is %d", size, maxExtension)}
		}
		if len(s.ext) >= 16 {
			return &Error{TooLarge, at, "more than 16 extension headers for one member"}
		}
		s.ext = append(s.ext, Extension{Raw: s.block, Data: make([]byte, 0, min(size, 4096))})
		s.extSize, s.extKind = size, kind
		if size == 0 {
			return s.extensionDone(at)
		}
		s.st = inExtension
		return nil
	}
	s.raw = s.block
	if s.raw[156] == 'S' && s.raw[482] != 0 {
		s.st = inSparse
		return nil
	}
	return s.emit(at + BlockSize)
}

func (s *Scanner) extensionBlock(at int64) error {
	e := &s.ext[len(s.ext)-1]
	n := min(s.extSize-int64(len(e.Data)), BlockSize)
	e.Data = append(e.Data, s.block[:n]...)
	if int64(len(e.Data)) < s.extSize {
		return nil
	}
	return s.extensionDone(at)
}

func (s *Scanner) extensionDone(at int64) error {
	s.st = inHeader
	if s.extKind != 'g' {
		return nil
	}
	// A global header is a member of its own.
	e := s.ext[len(s.ext)-1]
	records, err := ParseRecords(e.Data)
	if err != nil {
		return &Error{NotTar, at, err.Error()}
	}
	for _, r := range records {
		switch r.Key {
		case "path", "linkpath", "size":
			// GNU tar applies these to every member that follows,
			// archive/tar does not.
			return &Error{Ambiguous, at, fmt.Sprintf("global pax record %q, readers disagree whether it holds for the members that follow", r.Key)}
		}
	}
	if len(s.ext) > 1 {
		return &Error{Ambiguous, at, "a global pax header stands between a member and its extension header"}
	}
	h := Header{
		Offset: s.start, Data: at + BlockSize, Type: 'g', Global: true,
		Name: cString(e.Raw[:100]), Raw: &e.Raw, Ext: s.ext, Records: records,
	}
	s.ext, s.start = nil, -1
	if s.v.Member == nil {
		return nil
	}
	return s.v.Member(&h)
}

// emit hands out the member whose header block is in s.raw; data is the offset
// of its content.
func (s *Scanner) emit(data int64) error {
	h, err := s.describe(data)
	if err != nil {
		return err
	}
	s.h = h
	s.members++
	s.left = h.Size
	s.pad = -h.Size & (BlockSize - 1)
	s.st = inHeader
	if s.left > 0 {
		s.st = inContent
	}
	s.start, s.ext, s.sparse = -1, nil, nil
	if s.v.Member == nil {
		return nil
	}
	return s.v.Member(&h)
}

func (s *Scanner) describe(data int64) (Header, error) {
	raw := &s.raw
	h := Header{Offset: s.start, Data: data, Type: raw[156], Raw: raw, Ext: s.ext, Sparse: s.sparse}
	at := data - BlockSize - int64(len(s.sparse))
	h.Name, h.Linkname = cString(raw[:100]), cString(raw[157:257])
	posix := bytes.Equal(raw[257:263], []byte("ustar\x00"))
	h.Short = h.Name
	if h.Prefixed = bytes.Equal(raw[257:265], []byte("ustar  \x00")) && oldGoPrefix(raw); posix || h.Prefixed {
		// Only POSIX has the prefix field; GNU keeps times there.
		n := 155
		if bytes.Equal(raw[508:512], []byte("tar\x00")) {
			n = 131 // star
		}
		if prefix := cString(raw[345 : 345+n]); prefix != "" {
			h.Name = prefix + "/" + h.Name
		}
	}
	h.Claimed, _ = Number(raw[124:136])
	longName, longLink := "", ""
	for _, e := range s.ext {
		switch e.Raw[156] {
		case 'L':
			longName = cString(e.Data)
		case 'K':
			longLink = cString(e.Data)
		case 'x':
			records, err := ParseRecords(e.Data)
			if err != nil {
				return h, &Error{NotTar, at, err.Error()}
			}
			h.Records = append(h.Records, records...)
		}
	}
	for _, r := range h.Records {
		if err := h.apply(r); err != nil {
			return h, &Error{NotTar, at, err.Error()}
		}
	}
	// As archive/tar has it: a GNU name wins over a pax record, an empty one
	// says nothing.
	if longName != "" {
		h.Name = longName
	}
	if longLink != "" {
		h.Linkname = longLink
	}
	if h.Type == 0 {
		h.Type = '0'
		if len(h.Name) > 0 && h.Name[len(h.Name)-1] == '/' {
			h.Type = '5' // Version 7 has no type for folders
		}
	}
	h.Size = h.Claimed
	switch h.Type {
	case '1', '2', '3', '4', '5', '6':
		h.Size = 0 // as archive/tar and so every Go container engine has it
	}
	if h.Size > 1<<62 {
		return h, &Error{TooLarge, at, fmt.Sprintf("size %d is beyond every file", h.Size)}
	}
	return h, nil
}

// oldGoPrefix reports whether archive/tar would take the times of a GNU header
// for a name prefix: they are no numbers, and the field is ASCII text.
func oldGoPrefix(raw *[BlockSize]byte) bool {
	bad := false
	for _, field := range [][]byte{raw[345:357], raw[357:369]} {
		if _, err := Number(field); field[0] != 0 && err != nil {
			bad = true
		}
	}
	if !bad {
		return false
	}
	prefix := cString(raw[345:500])
	for i := range len(prefix) {
		if prefix[i] >= 0x80 {
			return false
		}
	}
	return prefix != ""
}

func (h *Header) apply(r Record) error {
	if r.Value == "" {
		return nil // an empty value takes the record back
	}
	switch r.Key {
	case "path":
		h.Name = r.Value
	case "linkpath":
		h.Linkname = r.Value
	case "GNU.sparse.name":
		h.Name = r.Value
	case "size":
		n, err := decimal(r.Value)
		if err != nil {
			return fmt.Errorf("pax record size: %w", err)
		}
		h.Claimed = n
	}
	return nil
}
