package releases

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"
	"time"

	"github.com/transparency-dev/formats/log"
	"golang.org/x/mod/sumdb/note"

	"github.com/retally/retally/internal/digest"
)

// A Release is what is added to a list.
type Release struct {
	Name     string
	At       time.Time
	Report   []byte // as it was written
	Manifest []byte // nil where there is none
	Outcome  string
	Tool     string
}

// NewKey makes the key of a new list: its private form, and the one that others
// check its checkpoints with (C2SP signed-note).
func NewKey(origin string) (private, verifier string, err error) {
	return note.GenerateKey(rand.Reader, origin)
}

// ParseSigner reads a private key and gives its other half, too.
func ParseSigner(text string) (note.Signer, note.Verifier, error) {
	text = strings.TrimSpace(text)
	s, err := note.NewSigner(text)
	if err != nil {
		return nil, nil, errors.New("is no private key of a signed note: want PRIVATE+KEY+NAME+HASH+KEY")
	}
	v, err := verifierOf(text)
	if err != nil {
		return nil, nil, err
	}
	return s, v, nil
}

// verifierOf derives the public half of a key.
func verifierOf(private string) (note.Verifier, error) {
	parts := strings.SplitN(private, "+", 5)
	if len(parts) != 5 {
		return nil, errors.New("is no private key of a signed note")
	}
	key, err := base64.StdEncoding.DecodeString(parts[4])
	if err != nil || len(key) != 1+ed25519.SeedSize {
		return nil, errors.New("is no Ed25519 key")
	}
	pub, ok := ed25519.NewKeyFromSeed(key[1:]).Public().(ed25519.PublicKey)
	if !ok {
		return nil, errors.New("is no Ed25519 key")
	}
	text, err := note.NewEd25519VerifierKey(parts[2], pub)
	if err != nil {
		return nil, err
	}
	return note.NewVerifier(text)
}

// ParseVerifier reads the public half of a list's key.
func ParseVerifier(text string) (note.Verifier, error) {
	v, err := note.NewVerifier(strings.TrimSpace(text))
	if err != nil {
		return nil, errors.New("is no public key of a signed note: want NAME+HASH+KEY, as releases add printed it")
	}
	return v, nil
}

// Add puts a release at the end of a list, which is made where there is none,
// and signs the new state. A list with a fault is not added to.
func Add(dir string, s note.Signer, v note.Verifier, r Release) (*Log, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	const lock = ".lock"
	f, err := root.OpenFile(lock, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("%s is there: another one is adding, or was ended while it was; then remove it", path.Join(dir, lock))
	}
	if err != nil {
		return nil, err
	}
	f.Close()
	defer root.Remove(lock)
	l := &Log{Dir: dir}
	l.Origin = v.Name()
	if _, err := root.Lstat(checkpointName); err == nil {
		if l, err = Open(dir, v); err != nil {
			return nil, err
		}
		if len(l.Faults) > 0 {
			return nil, fmt.Errorf("the list does not hold, so nothing is added: %s", l.Faults[0])
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	} else if _, err := root.Lstat("tile"); err == nil {
		return nil, errors.New("the list has tiles and no checkpoint: it lost one, or was never made; a new list needs a folder without them")
	}
	return l, l.append(root, s, r)
}

func (l *Log) append(root *os.Root, s note.Signer, r Release) error {
	if l.Size >= MaxEntries {
		return fmt.Errorf("the list is full: it has %d entries", l.Size)
	}
	e := Entry{
		Schema: Schema, Index: l.Size, Previous: hex.EncodeToString(make([]byte, hashSize)), Release: r.Name, At: r.At.UTC().Format(time.RFC3339),
		Report: digest.SHA256.Sum(r.Report), Outcome: r.Outcome, Tool: r.Tool,
	}
	if r.Manifest != nil {
		e.Manifest = digest.SHA256.Sum(r.Manifest)
	}
	if n := len(l.Entries); n > 0 {
		e.Previous = hex.EncodeToString(l.leaves[n-1])
		if last := l.Entries[n-1].At; e.At < last {
			return fmt.Errorf("%s is before the last entry, which is of %s", e.At, last)
		}
	}
	for _, have := range l.Entries {
		if have.Report == e.Report {
			return fmt.Errorf("the report is in the list already: entry %d, %s", have.Index, have.Release)
		}
	}
	raw, err := e.Encode()
	if err != nil {
		return err
	}
	l.Entries, l.raw, l.leaves = append(l.Entries, e), append(l.raw, raw), append(l.leaves, leaf(raw))
	l.Size++
	l.tree = newTree(l.leaves)
	if l.Root, err = l.tree.root(l.Size); err != nil {
		return err
	}
	signed, err := note.Sign(&note.Note{Text: string(log.Checkpoint{Origin: l.Origin, Size: l.Size, Hash: l.Root}.Marshal())}, s)
	if err != nil {
		return err
	}
	l.Signed = true
	return l.write(root, r, signed)
}

// write puts the new files down, the checkpoint last: what is not signed yet is
// not part of the list.
func (l *Log) write(root *os.Root, r Release, checkpoint []byte) error {
	n := (l.Size - 1) / width
	w := l.Size - n*width
	files := []struct {
		name string
		data []byte
	}{
		{Kept(Reports, digest.SHA256.Sum(r.Report)), r.Report},
		{bundlePath(n, w), bundle(l.raw[n*width:])},
	}
	if r.Manifest != nil {
		files = append(files, struct {
			name string
			data []byte
		}{Kept(Manifests, digest.SHA256.Sum(r.Manifest)), r.Manifest})
	}
	for _, t := range l.tree.tiles() {
		name, data := tilePath(t.level, t.n, t.w), t.data
		if have, err := readFile(root, name, width*hashSize); err == nil && bytes.Equal(have, data) {
			continue
		}
		files = append(files, struct {
			name string
			data []byte
		}{name, data})
	}
	for _, f := range files {
		if err := put(root, f.name, f.data); err != nil {
			return err
		}
	}
	return put(root, checkpointName, checkpoint)
}

// put writes a file below the list's folder, whole or not at all.
func put(root *os.Root, name string, data []byte) error {
	if dir := path.Dir(name); dir != "." {
		if err := root.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	tmp := name + ".new"
	f, err := root.OpenFile(tmp, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err == nil {
		err = root.Rename(tmp, name)
	}
	if err != nil {
		root.Remove(tmp)
	}
	return err
}
