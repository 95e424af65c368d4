package endorsement

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/retally/retally/internal/digest"
)

// Question is one of the four things that are judged of an endorsement.
type Question string

// The questions.
const (
	Signed Question = "signed" // who says it
	Logged Question = "logged" // where everybody could see it
	Valid  Question = "valid"  // from when until when
	Covers Question = "covers" // over what
)

// Questions lists them in their order.
func Questions() []Question { return []Question{Signed, Logged, Valid, Covers} }

// State is how a check came out.
type State string

// The states. Open: it could not be made, and nobody may take it for held.
// Told: only something to know.
const (
	Held   State = "held"
	Failed State = "failed"
	Open   State = "open"
	Told   State = "told"
)

// Check is one thing that was looked at.
type Check struct {
	Question Question
	Name     string
	State    State
	Reason   string
}

// Request is what is asked of the documents of a file.
type Request struct {
	Documents []*Document
	Trust     Trust
	// Whom the signature must be of: exactly as the certificate names it. Empty
	// names nobody, and leaves a keyless signature open.
	Identity, Issuer string
	Source           string // repository that the certificate names
	Builder          string // builder that SLSA provenance names
	PredicateType    string
	Subjects         []Wanted
	At               time.Time
	// Field says how the user gives a field, for hints.
	Field func(name, value string) string
}

// Wanted is something that must be covered.
type Wanted struct {
	Name   string
	Digest digest.Digest
}

// Result is what one document says and how it was judged. What it says counts
// only where the checks of its signature held.
type Result struct {
	*Document
	By       string    // who signed, in words
	LoggedAt time.Time // zero: no log vouches for a time
	Index    int64     // in the log; -1: none that held
	Until    time.Time // the end that is stated; zero: none
	Checks   []Check
}

// Verify judges every document; the checks of what is covered are of the whole
// file and stand in covers.
func Verify(q *Request) (results []*Result, covers []Check) {
	if q.Field == nil {
		q.Field = func(name, value string) string { return name + " " + value }
	}
	for _, d := range q.Documents {
		v := &verifier{Request: q, Result: &Result{Document: d, Index: -1}}
		v.logged()
		v.signer()
		v.valid()
		v.predicate()
		results = append(results, v.Result)
	}
	return results, q.covered(results)
}

type verifier struct {
	*Request
	*Result
	issued *x509.Certificate // who issued the signer's certificate
}

func (v *verifier) add(q Question, name string, s State, format string, args ...any) {
	v.Checks = append(v.Checks, Check{q, name, s, fmt.Sprintf(format, args...)})
}

// candidates are the keys with which the signature may have been made, in the
// form in which a log names them.
func (v *verifier) candidates() (keys [][]byte) {
	if v.certificate != nil {
		return [][]byte{v.certificate.Raw}
	}
	for _, k := range v.Trust.Keys {
		keys = append(keys, k.spki)
	}
	return keys
}

// logged judges every entry. The time that a promise vouches for is used for
// the certificate.
func (v *verifier) logged() {
	switch {
	case len(v.entries) == 0:
		v.add(Logged, "entry", Open, "no entry of a log came with it: nobody else can have seen it (%s)", v.Field("log_entry", "FILE"))
		return
	case len(v.Trust.Logs) == 0:
		v.add(Logged, "entry", Open, "%d entries of a log, and no log is trusted (%s)", len(v.entries), v.Field("trusted_root", "FILE"))
	}
	for i := range v.entries {
		v.entry(&v.entries[i])
	}
}

func (v *verifier) entry(e *entry) {
	keys := v.candidates()
	switch err := e.binds(v.Document, keys); {
	case errors.Is(err, errKind):
		v.add(Logged, "entry", Open, "the log's entry %s", err)
		return
	case err != nil && v.certificate == nil && len(keys) == 0:
		v.add(Logged, "entry", Open, "no key is given that the entry could be held against")
		return
	case err != nil:
		v.add(Logged, "entry", Failed, "%s", err)
		return
	}
	if e.leafID != nil && !bytes.Equal(e.leafID, leafHash(e.body)) {
		v.add(Logged, "entry", Failed, "the entry's UUID is not the hash of its body")
	}
	if e.proof != nil && e.set == nil && e.proof.index != e.index {
		v.add(Logged, "entry", Failed, "the entry is number %d in the log and %d in its proof", e.index, e.proof.index)
	}
	var of []Log
	for _, l := range v.Trust.Logs {
		if bytes.Equal(l.id, e.logID) {
			of = append(of, l)
		}
	}
	if len(of) == 0 {
		if len(v.Trust.Logs) > 0 {
			v.add(Logged, "log", Open, "the entry is of the log %s, which is not trusted", hex.EncodeToString(e.logID[:min(len(e.logID), sha256.Size)]))
		}
		return
	}
	v.promised(e, of)
	v.included(e, of)
}

// promised judges the log's promise.
func (v *verifier) promised(e *entry, of []Log) {
	if e.set == nil {
		v.add(Logged, "promise", Told, "the log gave no promise, so that it vouches for no time")
		return
	}
	i := slices.IndexFunc(of, e.promise)
	if i < 0 {
		v.add(Logged, "promise", Failed, "the promise of %s (entry %d, %s) does not verify", of[0].Name, e.index, e.when().Format(time.RFC3339))
		return
	}
	if l := of[i]; !within(e.when(), l.start, l.end) {
		v.add(Logged, "promise", Failed, "%s was not trusted on %s", l.Name, day(e.when()))
		return
	}
	v.add(Logged, "promise", Held, "%s promised on %s to hold it as entry %d", of[i].Name, e.when().Format(time.RFC3339), e.index)
	v.LoggedAt, v.Index = e.when(), e.index
	if e.when().After(v.At) {
		v.add(Valid, "logged-by-then", Failed, "it was logged on %s, after the time of the judgement, %s", e.when().Format(time.RFC3339), v.At.UTC().Format(time.RFC3339))
	}
}

// included judges the proof of inclusion.
func (v *verifier) included(e *entry, of []Log) {
	if e.proof == nil {
		if e.set == nil {
			v.add(Logged, "inclusion", Open, "neither a promise of the log nor a proof of inclusion came with the entry")
			return
		}
		v.add(Logged, "inclusion", Told, "no proof of inclusion came with it: the log only promised")
		return
	}
	var err error
	for _, l := range of {
		var unsigned bool
		unsigned, err = e.included(l)
		switch {
		case err == nil && unsigned:
			v.add(Logged, "inclusion", Open, "the proof of inclusion leads to a root that nobody signed")
			return
		case err == nil:
			v.add(Logged, "inclusion", Held, "entry %d of %d in the tree that %s signed", e.proof.index, e.proof.size, l.Name)
			if v.Index < 0 {
				v.Index = e.index
			}
			return
		}
	}
	v.add(Logged, "inclusion", Failed, "%s", err)
}

// signer judges the signature and whose it is.
func (v *verifier) signer() {
	switch {
	case len(v.signatures) == 0:
		v.add(Signed, "signature", Open, "it has no signature: anybody can have written it (%s)", v.Field("signature", "FILE"))
	case v.certificate != nil:
		v.byCertificate()
	default:
		v.byKey()
	}
}

func (v *verifier) byKey() {
	if len(v.Trust.Keys) == 0 {
		v.add(Signed, "signature", Open, "no key is given to verify it with (%s)", v.Field("key", "FILE"))
		return
	}
	var unknown, held int
	for _, s := range v.signatures {
		for _, k := range v.Trust.Keys {
			ok, known := v.verifies(k.public, s)
			if !known {
				unknown++
			}
			if ok {
				held++
				v.By = fmt.Sprintf("the key %s (SHA-256 of its SPKI %s)", k.File, k.ID)
				break
			}
		}
	}
	switch {
	case held > 0:
		v.add(Signed, "signature", Held, "signed with %s", v.By)
		if rest := len(v.signatures) - held; rest > 0 {
			v.add(Signed, "others", Told, "%d further signatures are of keys that are not given", rest)
		}
	case unknown > 0:
		v.add(Signed, "signature", Open, "this kind of key cannot be verified by the file's digest alone")
	default:
		v.add(Signed, "signature", Failed, "the signature is not of any of the keys that are given, or what it signs was changed")
	}
}

func (v *verifier) byCertificate() {
	c := v.certificate
	id, err := identify(c)
	if err != nil {
		v.add(Signed, "identity", Failed, "%s", err)
		return
	}
	if err := usable(c.PublicKey); err != nil {
		v.add(Signed, "signature", Open, "the certificate has %s", err)
		return
	}
	for _, s := range v.signatures {
		switch ok, known := v.verifies(c.PublicKey, s); {
		case !known:
			v.add(Signed, "signature", Open, "this kind of key cannot be verified by the file's digest alone")
		case !ok:
			v.add(Signed, "signature", Failed, "the signature is not of the certificate's key, or what it signs was changed")
			return
		default:
			v.add(Signed, "signature", Held, "signed with the key of a certificate for %s", id.Name)
		}
	}
	v.By = id.Name
	if id.Issuer != "" {
		v.By += ", by " + id.Issuer
	}
	if a := v.authority(c); a != nil {
		v.named(id, a.Keyless)
	}
}

// authority finds who issued the certificate, at the time that a log vouches
// for. A certificate of minutes without such a time shows nothing.
func (v *verifier) authority(c *x509.Certificate) *Authority {
	if len(v.Trust.Authorities) == 0 {
		v.add(Signed, "certificate", Open, "no authority is trusted that could have issued the certificate (%s)", v.Field("trusted_root", "FILE"))
		return nil
	}
	at, vouched := v.LoggedAt, !v.LoggedAt.IsZero()
	if !vouched {
		at = c.NotBefore
	}
	var err error
	for i := range v.Trust.Authorities {
		a := &v.Trust.Authorities[i]
		var chain []*x509.Certificate
		if chain, err = a.chainTo(c, v.chain, at); err != nil {
			continue
		}
		v.issued = chain[1%len(chain)]
		switch {
		case a.Keyless && !vouched:
			v.add(Signed, "certificate", Open, "the certificate was good from %s to %s, and nobody who is trusted vouches that it was signed then%s", c.NotBefore.UTC().Format(time.RFC3339), c.NotAfter.UTC().Format(time.RFC3339), v.untold())
		case !vouched && v.At.After(c.NotAfter):
			v.add(Signed, "certificate", Held, "issued under %s", a.Name)
			v.add(Valid, "certificate", Failed, "the signer's certificate is expired since %s, and no log vouches that it was signed before", day(c.NotAfter))
		case !vouched && v.At.Before(c.NotBefore):
			v.add(Signed, "certificate", Held, "issued under %s", a.Name)
			v.add(Valid, "certificate", Failed, "the signer's certificate is good from %s only", day(c.NotBefore))
		default:
			v.add(Signed, "certificate", Held, "issued under %s, good on %s", a.Name, day(at))
		}
		v.certificateLog(c, a)
		return a
	}
	v.add(Signed, "certificate", Failed, "no authority that is trusted issued the certificate: %s", err)
	return nil
}

// untold says of timestamps that they are not judged.
func (v *verifier) untold() string {
	if v.timestamps == 0 {
		return ""
	}
	return fmt.Sprintf("; %d timestamps of RFC 3161 came with it, which are not judged here", v.timestamps)
}

// certificateLog judges the promise of a log of certificates.
func (v *verifier) certificateLog(c *x509.Certificate, a *Authority) {
	switch {
	case !a.Keyless:
	case len(v.Trust.CTLogs) == 0:
		v.add(Signed, "certificate-log", Told, "no log of certificates is trusted, so the certificate's own entry was not looked at")
	default:
		if err := promised(c, v.issued, v.Trust.CTLogs); err != nil {
			v.add(Signed, "certificate-log", Failed, "%s", err)
			return
		}
		v.add(Signed, "certificate-log", Held, "a trusted log of certificates promised to hold the certificate")
	}
}

// named judges whether the certificate names whom the caller named.
func (v *verifier) named(id Identity, keyless bool) {
	for _, w := range []struct {
		name, want, got string
		required        bool
	}{{"identity", v.Identity, id.Name, keyless}, {"issuer", v.Issuer, id.Issuer, keyless}, {"source", v.Source, id.Source, false}} {
		switch {
		case w.want == "" && w.required:
			v.add(Signed, w.name, Open, "the certificate names %s %q, and nobody said who must have signed (%s)", w.name, w.got, v.Field(w.name, w.got))
		case w.want == "" && w.got != "":
			v.add(Signed, w.name, Told, "the certificate names %s %q", w.name, w.got)
		case w.want == "":
		case w.want == w.got:
			v.add(Signed, w.name, Held, "the %s is %s, as it must be", w.name, w.got)
		default:
			v.add(Signed, w.name, Failed, "the certificate names %s %q, not %q", w.name, w.got, w.want)
		}
	}
}

// valid judges from when until when the statement itself holds.
func (v *verifier) valid() {
	s := v.Statement
	switch {
	case s == nil:
		v.add(Valid, "validity", Held, "a signature over a file states no end")
	case s.PredicateType == PredicateOak:
		v.oak(s)
	case slices.Contains(endless, s.PredicateType):
		v.add(Valid, "validity", Held, "%s has no end", s.PredicateType)
	default:
		v.add(Valid, "validity", Open, "the predicate %s is not understood: it may end on a day", s.PredicateType)
	}
}

func (v *verifier) oak(s *Statement) {
	v.Until = s.NotAfter
	switch {
	case s.NotAfter.IsZero():
		v.add(Valid, "validity", Open, "the endorsement states no validity")
	case s.NotAfter.Before(s.NotBefore):
		v.add(Valid, "validity", Failed, "it ends on %s, before it begins", day(s.NotAfter))
	case v.At.After(s.NotAfter):
		v.add(Valid, "validity", Failed, "expired since %s", day(s.NotAfter))
	case v.At.Before(s.NotBefore):
		v.add(Valid, "validity", Failed, "in force from %s only", day(s.NotBefore))
	case v.At.Before(s.IssuedOn):
		v.add(Valid, "validity", Failed, "issued only on %s", day(s.IssuedOn))
	default:
		v.add(Valid, "validity", Held, "in force from %s to %s", day(s.NotBefore), day(s.NotAfter))
	}
}

// predicate judges of what kind the statement must be, and by which builder.
func (v *verifier) predicate() {
	kind, builder := "", ""
	if v.Statement != nil {
		kind, builder = v.Statement.PredicateType, v.Statement.Builder
	}
	if v.PredicateType != "" {
		if kind == v.PredicateType {
			v.add(Covers, "predicate", Held, "a statement of type %s", kind)
		} else {
			v.add(Covers, "predicate", Failed, "the statement is of type %q, not %q", kind, v.PredicateType)
		}
	}
	switch {
	case v.Builder == "":
	case builder == v.Builder:
		v.add(Signed, "builder", Held, "built by %s, as the signer says", builder)
	default:
		v.add(Signed, "builder", Failed, "the provenance names the builder %q, not %q", builder, v.Builder)
	}
}

// covered judges what the file as a whole is about.
func (q *Request) covered(results []*Result) []Check {
	var checks []Check
	for _, w := range q.Subjects {
		c := Check{Covers, "subject", Failed, fmt.Sprintf("%s (%s) is no subject of it", w.Name, w.Digest)}
		for _, r := range results {
			if name, ok := r.Covers(w.Digest); ok {
				c.State, c.Reason = Held, fmt.Sprintf("%s (%s) is its subject %s", w.Name, w.Digest, name)
				break
			}
		}
		checks = append(checks, c)
	}
	if len(q.Subjects) == 0 {
		said := ""
		if len(results) > 0 {
			said = results[0].Document.Subjects()
		}
		checks = append(checks, Check{Covers, "subject", Open, fmt.Sprintf("it is about %s; nothing was named that it must cover (%s)", said, q.Field("subjects", "sha256:HEX"))})
	}
	return checks
}
