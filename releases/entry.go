// Package releases keeps a list of recounted releases that only grows: a log in
// the form of C2SP's tlog-tiles with a signed checkpoint, so that witnesses and
// tools of that form read it. Each entry holds the hash of the one before, too,
// so that the list shows by itself where it was changed.
package releases

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/transparency-dev/merkle/rfc6962"

	"github.com/retally/retally/internal/digest"
)

// Schema is the form of an entry.
const Schema = "retally/release/1"

// An Entry is what is remembered of one recounted release.
type Entry struct {
	Schema string `json:"schema"`
	Index  uint64 `json:"index"` // its place in the list, from 0
	// Previous is the leaf hash of the entry before (RFC 6962, 2.1), zeros for
	// the first.
	Previous string        `json:"previous"`
	Release  string        `json:"release"` // what its publisher calls it
	At       string        `json:"at"`      // when it was added, RFC 3339 in UTC
	Manifest digest.Digest `json:"manifest,omitzero"`
	Report   digest.Digest `json:"report"`
	Outcome  string        `json:"outcome"` // of the report: match, differs, unchecked, denied
	Tool     string        `json:"tool"`    // what recounted it
}

// outcomes are the words that reports end in.
var outcomes = []string{"match", "differs", "unchecked", "invalid", "denied"}

// maxEntry bounds an entry; its length is written in 16 bits.
const maxEntry = 1<<16 - 1

// Encode writes the entry in its one form.
func (e Entry) Encode() ([]byte, error) {
	if err := e.check(); err != nil {
		return nil, err
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(e); err != nil {
		return nil, err
	}
	out := bytes.TrimSuffix(b.Bytes(), []byte("\n"))
	if len(out) > maxEntry {
		return nil, fmt.Errorf("entry has %d bytes, at most %d", len(out), maxEntry)
	}
	return out, nil
}

// ParseEntry reads an entry; it must be in its one form.
func ParseEntry(data []byte) (Entry, error) {
	var e Entry
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&e); err != nil {
		return Entry{}, fmt.Errorf("entry: %w", err)
	}
	again, err := e.Encode()
	if err != nil {
		return Entry{}, err
	}
	if !bytes.Equal(again, data) {
		return Entry{}, fmt.Errorf("entry %d is not in its one form", e.Index)
	}
	return e, nil
}

func (e Entry) check() error {
	if e.Schema != Schema {
		return fmt.Errorf("entry has schema %.80q, want %s", e.Schema, Schema)
	}
	if e.Release == "" || len(e.Release) > 256 || !utf8.ValidString(e.Release) || strings.ContainsFunc(e.Release, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return fmt.Errorf("entry %d: release is %.80q, want a printable name of at most 256 bytes", e.Index, e.Release)
	}
	if at, err := time.Parse(time.RFC3339, e.At); err != nil || at.UTC().Format(time.RFC3339) != e.At {
		return fmt.Errorf("entry %d: at is %.80q, want a time as 2026-11-30T00:00:00Z", e.Index, e.At)
	}
	if b, err := hex.DecodeString(e.Previous); err != nil || len(b) != hashSize || e.Previous != hex.EncodeToString(b) {
		return fmt.Errorf("entry %d: previous is %.80q, want 64 lower-case hex digits", e.Index, e.Previous)
	}
	if e.Report.Algorithm() != digest.SHA256 || !e.Manifest.IsZero() && e.Manifest.Algorithm() != digest.SHA256 {
		return fmt.Errorf("entry %d: want SHA-256 digests of the report and, where there is one, the manifest", e.Index)
	}
	known := false
	for _, o := range outcomes {
		known = known || e.Outcome == o
	}
	if !known {
		return fmt.Errorf("entry %d: outcome is %.80q, want one of %s", e.Index, e.Outcome, strings.Join(outcomes, ", "))
	}
	return nil
}

const hashSize = 32

// leaf is the hash of an entry's bytes in the tree.
func leaf(entry []byte) []byte { return rfc6962.DefaultHasher.HashLeaf(entry) }
