package endorsement

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/bits"
	"strconv"
	"strings"
	"time"

	"github.com/retally/retally/internal/jsondoc"
)

// entry is a log's entry of a signature, as it was sent.
type entry struct {
	path   string
	logID  []byte
	index  int64 // in the whole log
	time   int64 // seconds; only the log's promise vouches for it
	body   []byte
	kind   string // as stated beside the body; "" where it is not
	set    []byte // the log's promise (signed entry timestamp)
	proof  *inclusion
	leafID []byte // the leaf's hash as stated; nil: not stated
}

// inclusion is a proof that a tree holds an entry (RFC 9162, 2.1.3).
type inclusion struct {
	index, size int64
	root        []byte
	hashes      [][]byte
	checkpoint  string
}

func (r *reader) bundleEntry(n node) entry {
	r.known(n, "logIndex", "logId", "kindVersion", "integratedTime", "inclusionPromise", "inclusionProof", "canonicalizedBody")
	e := entry{path: n.path, body: r.base64(n, "canonicalizedBody"), logID: r.base64(n.get("logId"), "keyId")}
	if n.has("logIndex") { // proto3 leaves 0 out
		e.index = r.number(n, "logIndex")
	}
	if n.has("integratedTime") {
		e.time = r.number(n, "integratedTime")
	}
	kv := n.get("kindVersion")
	if !kv.v.IsNull() {
		e.kind = r.text(kv, "kind") + " " + r.text(kv, "version")
	}
	if p := n.get("inclusionPromise"); !p.v.IsNull() {
		e.set = r.base64(p, "signedEntryTimestamp")
	}
	p := n.get("inclusionProof")
	if p.v.IsNull() {
		return e
	}
	r.known(p, "logIndex", "rootHash", "treeSize", "hashes", "checkpoint")
	e.proof = &inclusion{root: r.base64(p, "rootHash"), size: r.number(p, "treeSize")}
	if p.has("logIndex") {
		e.proof.index = r.number(p, "logIndex")
	}
	for _, h := range r.list(p, "hashes", maxHashes) {
		b, err := decodeBase64(r.itself(h))
		if err != nil {
			r.fail(h, err.Error(), "base64")
		}
		e.proof.hashes = append(e.proof.hashes, b)
	}
	if c := p.get("checkpoint"); !c.v.IsNull() {
		e.proof.checkpoint = r.text(c, "envelope")
	}
	return e
}

// itself is a value that is a text.
func (r *reader) itself(n node) string {
	if n.v == nil || n.v.Kind != jsondoc.String {
		r.fail(n, "no text", "a text")
		return ""
	}
	return n.v.Text
}

func (r *reader) hex(n node) []byte {
	b, err := hex.DecodeString(r.itself(n))
	if err != nil {
		r.fail(n, err.Error(), "hex")
	}
	return b
}

// apiEntries reads an answer of Rekor's API: entries by their UUID, which ends
// in the leaf's hash and may begin with the tree's number.
func (r *reader) apiEntries(n node) []entry {
	var out []entry
	for _, m := range n.v.Members {
		v := n.get(m.Key)
		if len(out) >= maxEntries {
			r.fail(v, "more entries", fmt.Sprintf("at most %d", maxEntries))
			return nil
		}
		r.known(v, "attestation", "body", "integratedTime", "logID", "logIndex", "verification")
		id, err := hex.DecodeString(m.Key)
		if err != nil || len(id) != 32 && len(id) != 40 {
			r.fail(v, "the name "+m.Key, "the UUID of an entry")
			return nil
		}
		e := entry{path: v.path, body: r.base64(v, "body"), index: r.number(v, "logIndex"), time: r.number(v, "integratedTime"), logID: r.hex(v.get("logID")), leafID: id[len(id)-32:]}
		w := v.get("verification")
		if !w.v.IsNull() {
			r.known(w, "inclusionProof", "signedEntryTimestamp")
		}
		if w.has("signedEntryTimestamp") {
			e.set = r.base64(w, "signedEntryTimestamp")
		}
		if p := w.get("inclusionProof"); !p.v.IsNull() {
			r.known(p, "checkpoint", "hashes", "logIndex", "rootHash", "treeSize")
			e.proof = &inclusion{index: r.number(p, "logIndex"), size: r.number(p, "treeSize"), root: r.hex(p.get("rootHash")), checkpoint: r.optional(p, "checkpoint")}
			for _, h := range r.list(p, "hashes", maxHashes) {
				e.proof.hashes = append(e.proof.hashes, r.hex(h))
			}
		}
		out = append(out, e)
	}
	if r.err == nil && len(out) == 0 {
		r.fail(n, "no entry", "one by its UUID")
	}
	return out
}

// promise verifies the log's promise, which also vouches for the time. It is
// over the entry's canonical JSON (sigstore/rekor, signed entry timestamp).
func (e *entry) promise(l Log) bool {
	m, err := json.Marshal(struct {
		Body  string `json:"body"`
		Time  int64  `json:"integratedTime"`
		ID    string `json:"logID"`
		Index int64  `json:"logIndex"`
	}{base64.StdEncoding.EncodeToString(e.body), e.time, hex.EncodeToString(e.logID), e.index})
	return err == nil && verify(l.key, m, e.set)
}

// when is the time that the promise vouches for.
func (e *entry) when() time.Time { return time.Unix(e.time, 0).UTC() }

func leafHash(body []byte) []byte {
	sum := sha256.Sum256(append([]byte{0}, body...))
	return sum[:]
}

func nodeHash(left, right []byte) []byte {
	h := sha256.New()
	h.Write([]byte{1})
	h.Write(left)
	h.Write(right)
	return h.Sum(nil)
}

// rootOf folds an inclusion proof (RFC 9162, 2.1.3.2).
func (p *inclusion) rootOf(leaf []byte) ([]byte, error) {
	if p.index < 0 || p.index >= p.size {
		return nil, fmt.Errorf("the entry %d is not in a tree of %d", p.index, p.size)
	}
	inner := bits.Len64(uint64(p.index) ^ uint64(p.size-1))
	border := bits.OnesCount64(uint64(p.index) >> inner)
	if len(p.hashes) != inner+border {
		return nil, fmt.Errorf("the proof has %d hashes, want %d", len(p.hashes), inner+border)
	}
	sum := leaf
	for i, h := range p.hashes {
		if len(h) != sha256.Size {
			return nil, fmt.Errorf("a hash of the proof has %d bytes", len(h))
		}
		if i < inner && uint64(p.index)>>i&1 == 0 {
			sum = nodeHash(sum, h)
		} else {
			sum = nodeHash(h, sum)
		}
	}
	return sum, nil
}

// included verifies a proof up to a checkpoint that the log signed. unsigned is
// set where there is no checkpoint.
func (e *entry) included(l Log) (unsigned bool, err error) {
	p := e.proof
	root, err := p.rootOf(leafHash(e.body))
	if err != nil {
		return false, err
	}
	if !bytes.Equal(root, p.root) {
		return false, errors.New("the proof leads to another root than the one beside it")
	}
	if p.checkpoint == "" {
		return true, nil
	}
	size, signedRoot, text, err := readCheckpoint(p.checkpoint)
	if err != nil {
		return false, err
	}
	if size != p.size || !bytes.Equal(signedRoot, root) {
		return false, errors.New("the checkpoint is of another tree than the proof")
	}
	for _, s := range text.signatures {
		if s.name == text.name() && bytes.HasPrefix(l.id, s.hint) && verify(l.key, []byte(text.body), s.raw) {
			return false, nil
		}
	}
	return false, fmt.Errorf("the checkpoint is not signed by %s", l.Name)
}

// note is a text with signatures (C2SP signed-note).
type note struct {
	body       string
	signatures []noteSignature
}

type noteSignature struct {
	name string
	hint []byte // of the key: the first bytes of the log's id
	raw  []byte
}

// name is the log's own: Rekor adds its tree's number to it in the first line.
func (n note) name() string {
	first, _, _ := strings.Cut(n.body, "\n")
	name, _, _ := strings.Cut(first, " ")
	return name
}

// readCheckpoint reads a log's checkpoint (C2SP tlog-checkpoint).
func readCheckpoint(text string) (size int64, root []byte, n note, err error) {
	bad := errors.New("the checkpoint cannot be read")
	if len(text) > 64<<10 {
		return 0, nil, n, bad
	}
	body, tail, ok := strings.Cut(text, "\n\n")
	lines := strings.Split(body, "\n")
	if !ok || len(lines) < 3 {
		return 0, nil, n, bad
	}
	n.body = body + "\n"
	if size, err = strconv.ParseInt(lines[1], 10, 64); err != nil || size < 1 {
		return 0, nil, n, bad
	}
	if root, err = base64.StdEncoding.Strict().DecodeString(lines[2]); err != nil || len(root) != sha256.Size {
		return 0, nil, n, bad
	}
	for s := range strings.Lines(tail) {
		s, ended := strings.CutSuffix(s, "\n")
		fields := strings.Split(s, " ")
		if !ended || len(fields) != 3 || fields[0] != "—" || len(n.signatures) >= maxEntries {
			return 0, nil, n, bad
		}
		raw, err := base64.StdEncoding.DecodeString(fields[2])
		if err != nil || len(raw) < 5 {
			return 0, nil, n, bad
		}
		n.signatures = append(n.signatures, noteSignature{fields[1], raw[:4], raw[4:]})
	}
	return size, root, n, nil
}

// errKind is that the entry is of a kind that is not understood.
var errKind = errors.New("is of a kind that is not understood")

// binds verifies that an entry is about this signature of this document and
// this key: a log's word about another one is worth nothing here.
func (e *entry) binds(d *Document, keys [][]byte) error {
	v, err := parseOne("the log's entry", e.body)
	if err != nil {
		return err
	}
	r, n := &reader{file: "the log's entry"}, node{v: v}
	kind := r.text(n, "kind") + " " + r.text(n, "apiVersion")
	if r.err != nil {
		return r.err
	}
	if e.kind != "" && e.kind != kind {
		return fmt.Errorf("the entry is %q and is called %q", kind, e.kind)
	}
	var got logged
	s := n.get("spec")
	switch kind {
	case "dsse 0.0.1":
		got.hash(r, s.get("payloadHash"), d.payload)
		for _, g := range r.list(s, "signatures", maxEntries) {
			got.add(r.base64(g, "signature"), r.pem(g, "verifier"))
		}
	case "dsse 0.0.2":
		s = s.get("dsseV002")
		got.sum(r, s.get("payloadHash"), d.payload)
		for _, g := range r.list(s, "signatures", maxEntries) {
			got.add(r.base64(g, "content"), r.verifier(g.get("verifier")))
		}
	case "intoto 0.0.2":
		c := s.get("content")
		got.hash(r, c.get("payloadHash"), d.payload)
		for _, g := range r.list(c.get("envelope"), "signatures", maxEntries) {
			sig, err := decodeBase64(string(r.base64(g, "sig"))) // base64 of base64
			if err != nil {
				r.fail(g, err.Error(), "base64 of base64")
			}
			got.add(sig, r.pem(g, "publicKey"))
		}
	case "hashedrekord 0.0.1", "rekord 0.0.1":
		got.hash(r, s.get("data").get("hash"), d.signedOr(nil))
		got.message(d, r, s.get("data").get("hash"))
		g := s.get("signature")
		got.add(r.base64(g, "content"), r.pem(g.get("publicKey"), "content"))
	case "hashedrekord 0.0.2":
		s = s.get("hashedRekordV002")
		got.sum(r, s.get("data"), d.signedOr(nil))
		got.messageSum(d, r, s.get("data"))
		g := s.get("signature")
		got.add(r.base64(g, "content"), r.verifier(g.get("verifier")))
	default:
		return fmt.Errorf("%q %w", kind, errKind)
	}
	if r.err != nil {
		return r.err
	}
	return got.judge(d, keys)
}

// logged is what an entry says.
type logged struct {
	same bool // it is about what the document signs
	by   []loggedSignature
}

type loggedSignature struct{ raw, key []byte }

func (l *logged) add(raw, key []byte) { l.by = append(l.by, loggedSignature{raw, key}) }

func (l *logged) judge(d *Document, keys [][]byte) error {
	if !l.same {
		return errors.New("the entry is about other content")
	}
	if len(l.by) != len(d.signatures) {
		return fmt.Errorf("the entry has %d signatures, the document %d", len(l.by), len(d.signatures))
	}
	for _, s := range d.signatures {
		found := false
		for _, g := range l.by {
			for _, k := range keys {
				found = found || bytes.Equal(g.raw, s.raw) && bytes.Equal(g.key, k)
			}
		}
		if !found {
			return errors.New("the entry is about another signature or another key")
		}
	}
	return nil
}

// hash holds {algorithm, value in hex} against bytes.
func (l *logged) hash(r *reader, n node, content []byte) {
	d := r.namedDigest(n, r.text(n, "algorithm"), r.hex(n.get("value")))
	l.same = r.err == nil && content != nil && d.Algorithm().Sum(content) == d
}

// sum holds {algorithm, digest in base64} against bytes.
func (l *logged) sum(r *reader, n node, content []byte) {
	d := r.namedDigest(n, r.text(n, "algorithm"), r.base64(n, "digest"))
	l.same = r.err == nil && content != nil && d.Algorithm().Sum(content) == d
}

// message holds the entry's digest against the one that is signed.
func (l *logged) message(d *Document, r *reader, n node) {
	if d.Statement == nil {
		l.same = r.namedDigest(n, r.text(n, "algorithm"), r.hex(n.get("value"))) == d.Message && r.err == nil
	}
}

func (l *logged) messageSum(d *Document, r *reader, n node) {
	if d.Statement == nil {
		l.same = r.namedDigest(n, r.text(n, "algorithm"), r.base64(n, "digest")) == d.Message && r.err == nil
	}
}

// signedOr is what is under the signature, or the other where only its digest
// is known.
func (d *Document) signedOr(other []byte) []byte {
	if d.Statement == nil {
		return other
	}
	return d.signed()
}

// pem reads base64 of a certificate or public key in PEM, and gives its DER.
func (r *reader) pem(n node, key string) []byte {
	text := r.base64(n, key)
	block, rest := pem.Decode(text)
	if r.err == nil && (block == nil || len(bytes.TrimSpace(rest)) > 0) {
		r.fail(n.get(key), "no PEM, or more than one block", "one certificate or public key")
	}
	if r.err != nil {
		return nil
	}
	return block.Bytes
}

// verifier reads the key of an entry of Rekor v2.
func (r *reader) verifier(n node) []byte {
	if n.has("x509Certificate") {
		return r.base64(n.get("x509Certificate"), "rawBytes")
	}
	return r.base64(n.get("publicKey"), "rawBytes")
}
