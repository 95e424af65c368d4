package snpreport

import (
	"bytes"
	"crypto/x509"
	"fmt"
	"time"

	"github.com/retally/retally/evidence/verdict"
)

// checkRevocation: AMD's list for the product, if there is one, is signed,
// current and complete, and names no certificate of the chain. A list of the
// caller's must hold; the one that came with the evidence can only speak against
// it or stand in for the caller's.
func checkRevocation(l *verdict.List, path [3]*x509.Certificate, own *x509.RevocationList, o Options) {
	const name = "revocation"
	var others []string
	passed, failed := "", false
	for _, list := range o.CRLs {
		issuer := listIssuer(list, path)
		if issuer < 0 {
			others = append(others, list.Issuer.CommonName)
			continue
		}
		reason, _ := judgeList(list, issuer, path, o.At)
		if reason != "" {
			l.Fail(name, reason)
			failed = true
		} else if issuer == len(path)-1 {
			passed = "of " + stamp(list.ThisUpdate)
		}
	}
	if own != nil {
		issuer := listIssuer(own, path)
		reason, revoked := "is of "+own.Issuer.String(), false
		if issuer >= 0 {
			reason, revoked = judgeList(own, issuer, path, o.At)
		}
		switch {
		case revoked:
			l.Fail(name, reason)
			failed = true
		case reason != "":
			l.Note("revocation-beside", "the list that came with the report does not count: "+reason)
		case issuer == len(path)-1 && passed == "":
			passed = "that came with the report, of " + stamp(own.ThisUpdate)
		}
	}
	switch {
	case failed:
	case passed != "":
		l.Pass(name, "no certificate of the chain is on the root's list "+passed)
	case len(others) > 0:
		l.Open(name, fmt.Sprintf("the lists given are of %q, none is of %s", others, commonName(path[2])))
	default:
		l.Note(name, "no revocation list of "+commonName(path[2])+" was given, so revocation is not known")
	}
}

// listIssuer is the place in the chain of the certificate that issued a list, -1
// if none did.
func listIssuer(list *x509.RevocationList, path [3]*x509.Certificate) int {
	for i := len(path) - 1; i > 0; i-- {
		if bytes.Equal(list.RawIssuer, path[i].RawSubject) || list.Issuer.String() == path[i].Subject.String() {
			return i
		}
	}
	return -1
}

// judgeList says what keeps a list from counting, "" if nothing does, and
// whether it is that a certificate of the chain is revoked.
func judgeList(list *x509.RevocationList, issuer int, path [3]*x509.Certificate, at time.Time) (reason string, revoked bool) {
	who := "the revocation list of " + commonName(path[issuer])
	if list.SignatureAlgorithm != x509.SHA384WithRSAPSS {
		return who + " is signed with " + list.SignatureAlgorithm.String() + ", want SHA384-RSAPSS", false
	}
	if err := list.CheckSignatureFrom(path[issuer]); err != nil {
		return who + ": its signature does not verify: " + err.Error(), false
	}
	// The serial numbers of all leaves are 0, so an entry of the root's list that
	// hits a leaf's number is not told from one that means it: it counts.
	for _, e := range list.RevokedCertificateEntries {
		for i := range issuer + 1 {
			if e.SerialNumber.Cmp(path[i].SerialNumber) == 0 {
				return fmt.Sprintf("%s revokes %s (serial number %s) since %s", who, commonName(path[i]), e.SerialNumber, stamp(e.RevocationTime)), true
			}
		}
		for _, x := range e.Extensions {
			if x.Critical {
				return fmt.Sprintf("%s has the unknown critical extension %s in an entry", who, x.Id), false
			}
		}
	}
	for _, x := range list.Extensions {
		if x.Critical { // a partial list, for one (RFC 5280 section 5.2)
			return fmt.Sprintf("%s has the unknown critical extension %s, so it may not be the whole list", who, x.Id), false
		}
	}
	switch {
	case list.NextUpdate.IsZero():
		return who + " does not say until when it holds", false
	case at.Before(list.ThisUpdate):
		return who + " is issued on " + stamp(list.ThisUpdate) + ", after the time asked for, " + stamp(at), false
	case at.After(list.NextUpdate):
		return who + " was to be renewed by " + stamp(list.NextUpdate) + ", before the time asked for, " + stamp(at), false
	}
	return "", false
}
