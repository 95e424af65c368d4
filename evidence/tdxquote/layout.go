package tdxquote

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/retally/retally/evidence/certs"
	"github.com/retally/retally/evidence/malformed"
	"github.com/retally/retally/internal/jsondoc"
	"github.com/retally/retally/internal/yamldoc"
)

// A CollateralFile is one file of collateral.
type CollateralFile struct {
	Name string
	Data []byte
}

// MaxCollateralFiles bounds how many files collateral may be made of.
const MaxCollateralFiles = 16

// A LayoutError says that collateral is not in a form that is read here, or not
// whole. It says nothing about the quote.
type LayoutError struct{ Err error }

func (e *LayoutError) Error() string { return e.Err.Error() }

// Unwrap gives what is wrong and where.
func (e *LayoutError) Unwrap() error { return e.Err }

// CollateralLayout says in words which forms are read, and how to get one.
const CollateralLayout = "one JSON object with tcb_info and qe_identity (the documents), tcb_info_signature and qe_identity_signature (hex), tcb_info_issuer_chain, qe_identity_issuer_chain and pck_crl_issuer_chain (PEM), root_ca_crl and pck_crl (hex, base64 or PEM); or the replies of Intel's service as files of their own, in a list or a folder: " +
	"curl -i 'https://api.trustedservices.intel.com/tdx/certification/v4/tcb?fmspc=FMSPC' and .../tdx/certification/v4/qe/identity and .../sgx/certification/v4/pckcrl?ca=platform&encoding=der keep the chains of the headers, https://certificates.trustedservices.intel.com/IntelSGXRootCA.der is the root's list"

// ParseCollateral reads collateral in one file. name is the file in errors.
func ParseCollateral(name string, data []byte) (*Collateral, error) {
	return ReadCollateral(CollateralFile{name, data})
}

// ReadCollateral reads collateral from the files that it is made of: an object
// with everything in it, or replies of Intel's service, revocation lists and
// certificates, each recognized by its content. Two that differ for one part are
// an error. A *LayoutError says that the form is not known or that a part is
// missing; another error that a signed document says what none can say.
func ReadCollateral(files ...CollateralFile) (*Collateral, error) {
	p := &parts{}
	for _, f := range files {
		p.name = f.Name
		if len(f.Data) > MaxCollateral {
			p.fail("", fmt.Sprintf("%d bytes", len(f.Data)), fmt.Sprintf("at most %d", MaxCollateral))
		}
		if p.err == nil {
			p.file(f.Data)
		}
	}
	if len(files) > MaxCollateralFiles {
		p.fail("", fmt.Sprintf("%d files", len(files)), fmt.Sprintf("at most %d", MaxCollateralFiles))
	}
	if p.err == nil {
		p.complete(files)
	}
	if p.err != nil {
		if p.content {
			return nil, p.err
		}
		return nil, &LayoutError{p.err}
	}
	c := &p.Collateral
	var err error
	if c.tcbInfo, err = parseTCBInfo(p.from["tcb_info"], c.TCBInfo.Document); err != nil {
		return nil, err
	}
	if c.qeIdentity, err = parseQEIdentity(p.from["qe_identity"], c.QEIdentity.Document); err != nil {
		return nil, err
	}
	return c, nil
}

// parts collects collateral; after an error nothing is read.
type parts struct {
	Collateral
	name string            // of the file at hand
	from map[string]string // which file each part is from
	// pool and lists came as files of their own: what each is for, is known when
	// all are there.
	pool  []*x509.Certificate
	lists []fileList
	err   error
	// content says that err is about what a part of a known form holds.
	content bool
}

// fileList is a revocation list and the file that it is from.
type fileList struct {
	name string
	list *x509.RevocationList
}

func (p *parts) fail(place, found, want string) {
	if p.err == nil {
		p.err = &malformed.Error{Input: p.name, Place: place, Found: found, Want: want}
	}
}

// broken is fail for a part that stands where it must, in the form that it must
// have, and holds something else.
func (p *parts) broken(place, found, want string) {
	if p.err == nil {
		p.fail(place, found, want)
		p.content = place != ""
	}
}

// first reports whether a part is there for the first time. The same once more is
// no part, another one an error.
func (p *parts) first(part string, same bool) bool {
	if p.err != nil {
		return false
	}
	if p.from == nil {
		p.from = map[string]string{}
	}
	before, again := p.from[part]
	if again && !same {
		p.fail("", "another "+part+" than in "+before, "one")
	}
	if !again {
		p.from[part] = p.name
	}
	return !again && p.err == nil
}

// file reads one file by its content.
func (p *parts) file(data []byte) {
	text := bytes.TrimSpace(bytes.TrimPrefix(data, []byte("\ufeff")))
	switch {
	case len(text) == 0:
		p.fail("", "nothing", "collateral")
	case bytes.HasPrefix(data, []byte("HTTP/")):
		head, body, _ := bytes.Cut(data, []byte("\r\n\r\n"))
		if len(body) == 0 {
			head, body, _ = bytes.Cut(data, []byte("\n\n"))
		}
		p.headers(head)
		if len(bytes.TrimSpace(body)) > 0 {
			if bytes.HasPrefix(body, []byte("HTTP/")) { // a proxy's answer stands in front
				p.fail("", "one answer behind another", "one answer with its headers")
				return
			}
			p.file(body)
		}
	case text[0] == '{':
		p.document(text)
	case bytes.HasPrefix(text, []byte("-----BEGIN%20")) || bytes.HasPrefix(text, []byte("-----BEGIN+")):
		p.escaped(string(text), "")
	case bytes.HasPrefix(text, []byte("-----BEGIN CERTIFICATE")):
		p.pool = append(p.pool, p.certificates("", string(text))...)
	case data[0] == 0x30 && len(data) > 1 && data[1] >= 0x80: // an ASN.1 sequence of more than 127 bytes
		p.der(data)
	case bytes.Contains(bytes.ToLower(text[:min(len(text), MaxCollateral)]), []byte("-issuer-chain:")):
		p.headers(text)
	case bytes.HasPrefix(text, []byte("---\n")) || bytes.HasPrefix(text, []byte("---\r\n")) || bytes.Contains(text, []byte("tcb_info:")):
		doc, err := yamldoc.JSON(p.name, text, yamldoc.Limits{Bytes: MaxCollateral, Depth: 24, Nodes: 100000, Docs: 1})
		if err != nil {
			p.err = fmt.Errorf("read %w", err)
			return
		}
		p.document(jsondoc.Style{}.Compact(doc))
	default:
		if der := p.encoded("", string(text)); der != nil {
			p.der(der)
		}
	}
}

// issuerPart is the part that a header with a chain is for, "" for other headers.
func issuerPart(header string) string {
	h := strings.ToLower(strings.TrimSpace(header))
	switch {
	case !strings.HasSuffix(h, "-issuer-chain"):
		return ""
	case strings.Contains(h, "tcb-info"):
		return "tcb_info_issuer_chain"
	case strings.Contains(h, "identity"):
		return "qe_identity_issuer_chain"
	case strings.Contains(h, "pck-crl"):
		return "pck_crl_issuer_chain"
	}
	return "" // of the PCK certificate, which the quote has itself
}

func (p *parts) headers(text []byte) {
	for line := range strings.Lines(string(text)) {
		key, value, ok := strings.Cut(line, ":")
		if part := issuerPart(key); ok && part != "" {
			p.escaped(strings.TrimSpace(value), part)
		}
	}
}

// escaped reads PEM as it stands in a header, percent-encoded.
func (p *parts) escaped(text, part string) {
	plain, err := url.PathUnescape(text)
	if err != nil {
		p.fail(part, err.Error(), "a percent-encoded chain")
		return
	}
	chain := p.certificates(part, plain)
	if part == "" {
		p.pool = append(p.pool, chain...)
		return
	}
	p.chain(part, chain)
}

func (p *parts) certificates(place, text string) []*x509.Certificate {
	if p.err != nil {
		return nil
	}
	chain, err := certs.ReadPEM(strings.TrimSuffix(p.name+" /"+place, " /"), []byte(text))
	if err != nil {
		p.err, p.content = err, place != ""
	}
	return chain
}

// chain files a chain under its part.
func (p *parts) chain(part string, chain []*x509.Certificate) {
	to := map[string]*[]*x509.Certificate{
		"tcb_info_issuer_chain": &p.TCBInfo.Issuer, "qe_identity_issuer_chain": &p.QEIdentity.Issuer,
		"pck_crl_issuer_chain": &p.PCKCRLIssuer, "pck_certificate_chain": &p.PCKChain,
	}[part]
	if p.first(part, slices.EqualFunc(*to, chain, (*x509.Certificate).Equal)) {
		*to = chain
	}
}

// der reads a revocation list or a certificate.
func (p *parts) der(der []byte) {
	if list, err := x509.ParseRevocationList(der); err == nil {
		p.lists = append(p.lists, fileList{p.name, list})
		return
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		p.fail("", fmt.Sprintf("%d bytes that are neither a revocation list nor a certificate", len(der)), "collateral")
		return
	}
	p.pool = append(p.pool, c)
}

func (p *parts) list(part string, list *x509.RevocationList) {
	to := map[string]**x509.RevocationList{"root_ca_crl": &p.RootCRL, "pck_crl": &p.PCKCRL}[part]
	if p.first(part, *to != nil && bytes.Equal((*to).Raw, list.Raw)) {
		*to = list
	}
}

// encoded undoes hexadecimal, base64 or PEM around DER.
func (p *parts) encoded(place, text string) []byte {
	if block, rest := pem.Decode([]byte(text)); block != nil && (block.Type == "X509 CRL" || block.Type == "CERTIFICATE") && len(bytes.TrimSpace(rest)) == 0 {
		return block.Bytes
	}
	joined := strings.Join(strings.Fields(text), "")
	// Hexadecimal DER begins with "30", which is 0xdf 0x4d in base64.
	for _, enc := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
		if raw, err := enc.Strict().DecodeString(strings.TrimRight(joined, "=")); err == nil && len(raw) > 0 && raw[0] == 0x30 {
			return raw
		}
	}
	raw, err := hex.DecodeString(joined)
	if err != nil {
		p.broken(place, err.Error(), "hexadecimal bytes, base64 or PEM")
		return nil
	}
	return raw
}

// members are the parts of an object by the names that libraries give them,
// without case, separators and the ending that names the encoding.
func members(key string) string {
	k := strings.ToLower(strings.NewReplacer("_", "", "-", "").Replace(key))
	for {
		cut := k
		for _, end := range []string{"json", "pem", "der", "b64", "base64", "hex"} {
			cut = strings.TrimSuffix(cut, end)
		}
		if cut == k {
			break
		}
		k = cut
	}
	switch k {
	case "tcbinfo", "tdxtcbinfo":
		return "tcb_info"
	case "tcbinfosignature", "tcbinfosig":
		return "tcb_info_signature"
	case "tcbinfoissuerchain", "tcbinfochain", "tcbinfosigningchain", "tcbsigningchain":
		return "tcb_info_issuer_chain"
	case "qeidentity", "tdqeidentity", "enclaveidentity", "qeid":
		return "qe_identity"
	case "qeidentitysignature", "enclaveidentitysignature":
		return "qe_identity_signature"
	case "qeidentityissuerchain", "qeidentitychain", "enclaveidentityissuerchain":
		return "qe_identity_issuer_chain"
	case "rootcacrl", "rootcrl":
		return "root_ca_crl"
	case "pckcrl", "pckcacrl":
		return "pck_crl"
	case "pckcrlissuerchain", "pckcrlchain":
		return "pck_crl_issuer_chain"
	case "pckcertificatechain", "pckcertchain":
		return "pck_certificate_chain"
	}
	return ""
}

// document reads a JSON object: a reply of Intel's service, or several parts
// under their names, maybe inside of another object.
func (p *parts) document(text []byte) {
	doc, err := jsondoc.Parse(text, jsondoc.Limits{Bytes: MaxCollateral, Depth: 24, Values: 200000})
	if err != nil {
		p.err = fmt.Errorf("read %s: %w", p.name, err)
		return
	}
	if p.reply(doc, "") {
		return
	}
	found := layouts(doc, 4)
	switch {
	case len(found) == 0:
		p.fail("", "a JSON document without collateral", "collateral")
		return
	case len(found) > 1:
		p.fail("", fmt.Sprintf("%d objects with collateral", len(found)), "one")
		return
	}
	obj := found[0]
	seen := map[string]string{}
	for _, m := range obj.Members {
		part := members(m.Key)
		if part == "" || m.Value.IsNull() {
			continue
		}
		if before, twice := seen[part]; twice {
			p.fail("/"+m.Key, "what /"+before+" is too", "each part once")
		}
		seen[part] = m.Key
		p.member(part, "/"+m.Key, m.Value)
	}
	if p.err != nil {
		return
	}
	for _, part := range []string{"tcb_info", "qe_identity"} {
		if _, has := seen[part]; !has {
			continue
		}
		if _, signed := p.from[part+"_signature"]; !signed {
			p.fail("/"+part+"_signature", "nothing", "a string")
		}
	}
}

// layouts are the objects that hold collateral: the document itself, or the
// nearest ones in it.
func layouts(v *jsondoc.Value, depth int) []*jsondoc.Value {
	if v == nil || depth < 0 {
		return nil
	}
	n := 0
	for _, m := range v.Members {
		if members(m.Key) != "" {
			n++
		}
	}
	if n >= 2 || n == 1 && depth == 4 {
		return []*jsondoc.Value{v}
	}
	var out []*jsondoc.Value
	for _, m := range v.Members {
		out = append(out, layouts(m.Value, depth-1)...)
	}
	return out
}

// reply reads {"tcbInfo": {...}, "signature": "..."} and {"enclaveIdentity": ...}
// as Intel's service answers. The signature is over the compact form, in the order
// of the members.
func (p *parts) reply(doc *jsondoc.Value, place string) bool {
	for key, part := range map[string]string{"tcbInfo": "tcb_info", "enclaveIdentity": "qe_identity"} {
		body, sig := doc.Get(key), doc.Get("signature")
		if body == nil || sig == nil || body.Kind != jsondoc.Object {
			continue
		}
		p.signed(part, string(jsondoc.Style{}.Compact(body)))
		p.signature(part, place+"/signature", sig)
		return true
	}
	return false
}

func (p *parts) of(part string) *Signed {
	if part == "tcb_info" {
		return &p.TCBInfo
	}
	return &p.QEIdentity
}

func (p *parts) signed(part, document string) {
	if s := p.of(part); p.first(part, s.Document == document) {
		s.Document = document
	}
}

func (p *parts) signature(part, place string, v *jsondoc.Value) {
	raw, ok := listOfBytes(v)
	if !ok {
		if v.Kind != jsondoc.String {
			p.fail(place, "a value of type "+v.Kind.String(), "a string")
			return
		}
		var err error
		if raw, err = hex.DecodeString(v.Text); err != nil {
			if raw, err = base64.StdEncoding.Strict().DecodeString(v.Text); err != nil {
				p.broken(place, err.Error(), "hexadecimal bytes")
				return
			}
		}
	}
	if len(raw) != signatureSize {
		p.broken(place, fmt.Sprintf("%d bytes", len(raw)), "64 bytes")
		return
	}
	if s := p.of(part); p.first(part+"_signature", bytes.Equal(s.Signature, raw)) {
		s.Signature = raw
	}
}

// member reads one part of an object.
func (p *parts) member(part, place string, v *jsondoc.Value) {
	switch part {
	case "tcb_info", "qe_identity":
		p.textOrReply(part, place, v)
	case "tcb_info_signature", "qe_identity_signature":
		p.signature(strings.TrimSuffix(part, "_signature"), place, v)
	case "root_ca_crl", "pck_crl":
		der, ok := listOfBytes(v)
		if !ok {
			der = p.encoded(place, p.text(place, v))
		}
		if p.err != nil {
			return
		}
		list, err := x509.ParseRevocationList(der)
		if err != nil {
			p.broken(place, err.Error(), "a DER revocation list (RFC 5280 section 5)")
			return
		}
		p.list(part, list)
	default:
		p.chain(part, p.chainMember(place, v))
	}
}

func (p *parts) text(place string, v *jsondoc.Value) string {
	switch {
	case v.Kind != jsondoc.String:
		p.fail(place, "a value of type "+v.Kind.String(), "a string")
	case v.Text == "":
		p.broken(place, "an empty string", "content")
	}
	return v.Text
}

// textOrReply reads a signed document as text, as the object itself, or as the
// whole reply of which it is a part.
func (p *parts) textOrReply(part, place string, v *jsondoc.Value) {
	text := ""
	if v.Kind == jsondoc.Object {
		if p.reply(v, place) {
			return
		}
		text = string(jsondoc.Style{}.Compact(v))
	} else if text = p.text(place, v); p.err == nil {
		doc, err := jsondoc.Parse([]byte(text), jsondoc.Limits{Bytes: MaxCollateral, Depth: 16, Values: 100000})
		if err == nil && p.reply(doc, place) {
			return
		}
	}
	p.signed(part, text)
}

// chainMember reads a chain: PEM, a list of PEM or of DER in base64, or DER.
func (p *parts) chainMember(place string, v *jsondoc.Value) []*x509.Certificate {
	if der, ok := listOfBytes(v); ok {
		return p.certificateDER(place, der)
	}
	if v.Kind == jsondoc.Array && len(v.Elems) <= certs.MaxCertificates {
		var out []*x509.Certificate
		for i, e := range v.Elems {
			out = append(out, p.chainMember(fmt.Sprintf("%s/%d", place, i), e)...)
		}
		if len(out) == 0 {
			p.fail(place, "an empty list", "certificates")
		}
		return out
	}
	text := p.text(place, v)
	switch {
	case p.err != nil:
		return nil
	case strings.HasPrefix(text, "-----BEGIN%20"):
		if plain, err := url.PathUnescape(text); err == nil {
			text = plain
		}
	case !strings.Contains(text, "-----BEGIN"):
		return p.certificateDER(place, p.encoded(place, text))
	}
	return p.certificates(strings.TrimPrefix(place, "/"), text)
}

func (p *parts) certificateDER(place string, der []byte) []*x509.Certificate {
	if p.err != nil {
		return nil
	}
	list, err := x509.ParseCertificates(der)
	if err != nil || len(list) == 0 || len(list) > certs.MaxCertificates {
		p.broken(place, fmt.Sprintf("%d bytes that are no certificates", len(der)), "certificates in PEM")
		return nil
	}
	return list
}

// listOfBytes reads a list of byte values, as serializers write a vector of bytes.
func listOfBytes(v *jsondoc.Value) ([]byte, bool) {
	if v.Kind != jsondoc.Array || len(v.Elems) < signatureSize {
		return nil, false
	}
	out := make([]byte, 0, len(v.Elems))
	for _, e := range v.Elems {
		n, ok := e.Uint64()
		if e.Kind != jsondoc.Number || !ok || n > 255 {
			return nil, false
		}
		out = append(out, byte(n))
	}
	return out, true
}

// complete takes from the certificates that came by themselves what no chain was
// named for, and says what is missing.
func (p *parts) complete(files []CollateralFile) {
	names := make([]string, 0, len(files))
	for _, f := range files {
		names = append(names, f.Name)
	}
	p.sortLists()
	p.name = strings.Join(names, ", ")
	p.pool = slices.Concat(p.pool, p.TCBInfo.Issuer, p.QEIdentity.Issuer, p.PCKCRLIssuer)
	for part, s := range map[string]*Signed{"tcb_info": &p.TCBInfo, "qe_identity": &p.QEIdentity} {
		if s.Issuer == nil && s.Document != "" {
			s.Issuer = p.signerOf(func(c *x509.Certificate) (role, verified bool) {
				key, ok := c.PublicKey.(*ecdsa.PublicKey)
				sum := sha256.Sum256([]byte(s.Document))
				return !c.IsCA && !hasSGX(c), ok && key.Curve == elliptic.P256() && certs.VerifyRaw(key, sum[:], s.Signature)
			})
			if s.Issuer != nil {
				p.first(part+"_issuer_chain", true)
			}
		}
	}
	if p.PCKCRLIssuer == nil && p.PCKCRL != nil {
		p.PCKCRLIssuer = p.signerOf(func(c *x509.Certificate) (role, verified bool) {
			return c.IsCA && bytes.Equal(c.RawSubject, p.PCKCRL.RawIssuer), p.PCKCRL.CheckSignatureFrom(c) == nil
		})
	}
	var missing []string
	for _, x := range []struct {
		part  string
		there bool
	}{
		{"tcb_info", p.TCBInfo.Document != ""},
		{"tcb_info_issuer_chain", p.TCBInfo.Issuer != nil},
		{"qe_identity", p.QEIdentity.Document != ""},
		{"qe_identity_issuer_chain", p.QEIdentity.Issuer != nil},
		{"root_ca_crl", p.RootCRL != nil},
		{"pck_crl", p.PCKCRL != nil},
	} {
		if !x.there {
			missing = append(missing, x.part)
		}
	}
	if len(missing) == 0 || p.err != nil {
		return
	}
	var there []string
	for _, part := range []string{"tcb_info", "qe_identity", "root_ca_crl", "pck_crl"} {
		if p.from[part] != "" {
			there = append(there, part)
		}
	}
	found := "only " + strings.Join(there, ", ")
	if len(there) == 0 {
		found = "only certificates"
	}
	p.fail("", found+"; missing are "+strings.Join(missing, ", "), "all of them")
}

// sortLists tells the root's list from the CA's.
func (p *parts) sortLists() {
	for _, l := range p.lists {
		part := "pck_crl"
		if l.list.Issuer.CommonName == nameRoot || slices.ContainsFunc(p.pool, func(c *x509.Certificate) bool {
			return bytes.Equal(c.RawSubject, l.list.RawIssuer) && bytes.Equal(c.RawSubject, c.RawIssuer)
		}) {
			part = "root_ca_crl"
		}
		p.name = l.name
		p.list(part, l.list)
	}
}

// signerOf finds among the certificates that came by themselves the one that
// signed something, with the root behind it. Where none did, one that could have
// stands for them, so that the check of the signature fails.
func (p *parts) signerOf(is func(*x509.Certificate) (role, verified bool)) []*x509.Certificate {
	var signer *x509.Certificate
	for _, c := range p.pool {
		role, verified := is(c)
		if role && (signer == nil || verified) {
			signer = c
		}
	}
	if signer == nil {
		return nil
	}
	out := []*x509.Certificate{signer}
	for _, c := range p.pool {
		if bytes.Equal(c.RawSubject, signer.RawIssuer) && !c.Equal(signer) && signer.CheckSignatureFrom(c) == nil {
			return append(out, c)
		}
	}
	return out
}
