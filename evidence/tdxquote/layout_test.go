package tdxquote_test

import (
	"bytes"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/retally/retally/evidence/fake"
	"github.com/retally/retally/evidence/tdxquote"
	"github.com/retally/retally/internal/jsondoc"
)

// collateralOf makes collateral as members of text, to be written in other ways.
func collateralOf(t testing.TB, p *fake.Platform, l fake.Levels) map[string]string {
	t.Helper()
	file, err := p.Collateral(l)
	if err != nil {
		t.Fatal(err)
	}
	var doc map[string]string
	if err := json.Unmarshal(file, &doc); err != nil {
		t.Fatal(err)
	}
	return doc
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func ints(b []byte) []int {
	out := make([]int, len(b))
	for i, x := range b {
		out[i] = int(x)
	}
	return out
}

func encode(t testing.TB, v any) []byte {
	t.Helper()
	out, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// object is the document as an object, in the order of its members.
func object(t testing.TB, text string) json.RawMessage {
	t.Helper()
	v, err := jsondoc.Parse([]byte(text), jsondoc.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	return json.RawMessage(jsondoc.Style{Indent: "  "}.Format(v))
}

// replies are the answers of Intel's service for the collateral, as curl -i writes
// them, and the root's list.
func replies(t testing.TB, doc map[string]string) map[string][]byte {
	t.Helper()
	chain := func(header, member string) string { return header + ": " + url.PathEscape(doc[member]) + "\r\n" }
	reply := func(header, member, name string) []byte {
		return []byte("HTTP/2 200 \r\ncontent-type: application/json\r\n" + chain(header, member+"_issuer_chain") + "\r\n" + `{"` + name + `":` + doc[member] + `,"signature":"` + doc[member+"_signature"] + `"}`)
	}
	return map[string][]byte{
		"tcb":  reply("tcb-info-issuer-chain", "tcb_info", "tcbInfo"),
		"qe":   reply("SGX-Enclave-Identity-Issuer-Chain", "qe_identity", "enclaveIdentity"),
		"pck":  append([]byte("HTTP/1.1 200 OK\r\n"+chain("SGX-PCK-CRL-Issuer-Chain", "pck_crl_issuer_chain")+"\r\n"), unhex(t, doc["pck_crl"])...),
		"root": unhex(t, doc["root_ca_crl"]),
	}
}

func files(named map[string][]byte, names ...string) []tdxquote.CollateralFile {
	var out []tdxquote.CollateralFile
	for _, n := range names {
		out = append(out, tdxquote.CollateralFile{Name: n, Data: named[n]})
	}
	return out
}

// TestLayouts: collateral says the same in every form in which it is handed out,
// and a revoked PCK is revoked in each.
func TestLayouts(t *testing.T) {
	p := platform(t)
	raw := quote(t, p, body(), fake.Options{})
	q, err := tdxquote.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	one := func(data []byte) []tdxquote.CollateralFile { return []tdxquote.CollateralFile{{Name: "c", Data: data}} }
	root := fake.PEM(p.Root)
	forms := map[string]func(doc map[string]string) []tdxquote.CollateralFile{
		"one object": func(doc map[string]string) []tdxquote.CollateralFile { return one(encode(t, doc)) },
		"lists in base64": func(doc map[string]string) []tdxquote.CollateralFile {
			doc["pck_crl"] = base64.StdEncoding.EncodeToString(unhex(t, doc["pck_crl"]))
			doc["root_ca_crl"] = base64.RawURLEncoding.EncodeToString(unhex(t, doc["root_ca_crl"]))
			return one(encode(t, doc))
		},
		"lists in PEM": func(doc map[string]string) []tdxquote.CollateralFile {
			for _, m := range []string{"pck_crl", "root_ca_crl"} {
				doc[m] = string(pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: unhex(t, doc[m])}))
			}
			return one(encode(t, doc))
		},
		"lists of bytes": func(doc map[string]string) []tdxquote.CollateralFile {
			out := map[string]any{}
			for k, v := range doc {
				if out[k] = v; strings.HasSuffix(k, "_crl") || strings.HasSuffix(k, "_signature") {
					out[k] = ints(unhex(t, v))
				}
			}
			return one(encode(t, map[string]any{"participant": map[string]any{"collateral": out, "other": 1}}))
		},
		"documents as objects": func(doc map[string]string) []tdxquote.CollateralFile {
			out := map[string]any{}
			for k, v := range doc {
				out[k] = v
			}
			out["tcb_info"], out["qe_identity"] = object(t, doc["tcb_info"]), object(t, doc["qe_identity"])
			return one(encode(t, out))
		},
		"whole replies as members": func(doc map[string]string) []tdxquote.CollateralFile {
			out := map[string]any{
				"tcbInfoJson": `{"tcbInfo":` + doc["tcb_info"] + `,"signature":"` + doc["tcb_info_signature"] + `"}`,
				"qe-identity": object(t, `{"enclaveIdentity":`+doc["qe_identity"]+`,"signature":"`+doc["qe_identity_signature"]+`"}`),
				"rootCaCrl":   doc["root_ca_crl"], "pck_crl_der_b64": base64.StdEncoding.EncodeToString(unhex(t, doc["pck_crl"])),
			}
			for _, m := range []string{"tcb_info_issuer_chain", "qe_identity_issuer_chain", "pck_crl_issuer_chain"} {
				out[m+"_pem"] = doc[m]
			}
			return one(encode(t, out))
		},
		"chains as lists": func(doc map[string]string) []tdxquote.CollateralFile {
			out := map[string]any{}
			for k, v := range doc {
				out[k] = v
			}
			out["tcb_info_issuer_chain"] = []string{string(fake.PEM(p.TCBSigner)), string(root)}
			out["qe_identity_issuer_chain"] = []string{base64.StdEncoding.EncodeToString(p.TCBSigner.Raw), base64.StdEncoding.EncodeToString(p.Root.Raw)}
			out["pck_crl_issuer_chain"] = url.PathEscape(doc["pck_crl_issuer_chain"])
			return one(encode(t, out))
		},
		"YAML": func(doc map[string]string) []tdxquote.CollateralFile {
			var b strings.Builder
			b.WriteString("---\n")
			for k, v := range doc {
				if strings.HasSuffix(k, "_chain") {
					fmt.Fprintf(&b, "%s: |-\n  %s\n", k, strings.ReplaceAll(strings.TrimSpace(v), "\n", "\n  "))
				} else {
					fmt.Fprintf(&b, "%s: %s\n", k, encode(t, v))
				}
			}
			return one([]byte(b.String()))
		},
		"replies": func(doc map[string]string) []tdxquote.CollateralFile {
			// The test root is not called as Intel's, so it must be known which list is its.
			r := replies(t, doc)
			r["root.pem"] = root
			return files(r, "root", "pck", "root.pem", "qe", "tcb")
		},
		"bodies and headers": func(doc map[string]string) []tdxquote.CollateralFile {
			r := replies(t, doc)
			named := map[string][]byte{"root": r["root"], "root.pem": root}
			for _, n := range []string{"tcb", "qe", "pck"} {
				head, body, _ := bytes.Cut(r[n], []byte("\r\n\r\n"))
				_, head, _ = bytes.Cut(head, []byte("\r\n")) // without the status line
				named[n+".headers"], named[n] = head, body
			}
			return files(named, "root.pem", "tcb.headers", "tcb", "qe.headers", "qe", "pck.headers", "pck", "root")
		},
		"bodies and certificates": func(doc map[string]string) []tdxquote.CollateralFile {
			r := replies(t, doc)
			named := map[string][]byte{"root": []byte(doc["root_ca_crl"]), "certs": fake.PEM(p.CA, p.Root, p.TCBSigner), "der": p.CA.Raw}
			for _, n := range []string{"tcb", "qe", "pck"} {
				_, named[n], _ = bytes.Cut(r[n], []byte("\r\n\r\n"))
			}
			return files(named, "root", "tcb", "qe", "pck", "certs", "der")
		},
		"without the CA, which the quote has": func(doc map[string]string) []tdxquote.CollateralFile {
			r := replies(t, doc)
			named := map[string][]byte{"root": r["root"], "certs": fake.PEM(p.TCBSigner, p.Root)}
			for _, n := range []string{"tcb", "qe", "pck"} {
				_, named[n], _ = bytes.Cut(r[n], []byte("\r\n\r\n"))
			}
			return files(named, "tcb", "qe", "certs", "pck", "root")
		},
		"a part twice": func(doc map[string]string) []tdxquote.CollateralFile {
			r := replies(t, doc)
			r["all"] = encode(t, doc)
			r["root.pem"] = root
			return files(r, "all", "tcb", "root", "root.pem")
		},
	}
	for name, form := range forms {
		for _, revoked := range []bool{false, true} {
			c, err := tdxquote.ReadCollateral(form(collateralOf(t, p, fake.Levels{Revoked: revoked}))...)
			if err != nil {
				t.Errorf("%s: %v", name, err)
				continue
			}
			v, err := tdxquote.Verify(q, tdxquote.Options{At: now, Roots: []*x509.Certificate{p.Root}, Collateral: c})
			if err != nil {
				t.Fatal(err)
			}
			got := failed(v.Checks)
			if !revoked && (len(got) > 0 || v.TCB == nil || v.TCB.Status != tdxquote.UpToDate) || revoked && !slices.Contains(got, "revocation") {
				t.Errorf("%s, revoked %v: failed %v", name, revoked, got)
			}
		}
	}
}

// TestLayoutErrors: what is missing, there twice or of an unknown form is an error
// about the form, and never a verdict; a broken part is no matter of the form.
func TestLayoutErrors(t *testing.T) {
	p := platform(t)
	doc := collateralOf(t, p, fake.Levels{})
	other := collateralOf(t, p, fake.Levels{Status: tdxquote.OutOfDate})
	all := replies(t, doc)
	all["tcb of another day"] = replies(t, other)["tcb"]
	all["all"], all["nothing"], all["text"], all["list"], all["key"] = encode(t, doc), nil, []byte("no collateral"), []byte("[1]"), []byte("-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n")
	all["two answers"] = append([]byte("HTTP/1.1 200 Connection established\r\n\r\n"), all["tcb"]...)
	two := map[string]any{"a": doc, "b": other}
	all["two objects"] = encode(t, two)
	with := func(member string, v any) []byte {
		out := map[string]any{}
		for k, x := range doc {
			out[k] = x
		}
		if out[member] = v; v == nil {
			delete(out, member)
		}
		return encode(t, out)
	}
	all["no signature"], all["a number"], all["two names"] = with("tcb_info_signature", nil), with("pck_crl", 1), with("pckCrl", doc["pck_crl"])
	all["a list of PEM"] = with("pck_crl", []string{"-----BEGIN X509 CRL-----"})
	for _, tt := range []struct {
		names []string
		want  string
	}{
		{[]string{"tcb"}, "found only tcb_info; missing are qe_identity, qe_identity_issuer_chain, root_ca_crl, pck_crl"},
		{[]string{"tcb", "qe", "pck"}, "missing are root_ca_crl"},
		{[]string{"tcb", "qe", "root"}, "missing are root_ca_crl"}, // nothing says that it is the root's
		{[]string{"tcb", "tcb of another day"}, "tcb of another day: found another tcb_info than in tcb"},
		{[]string{"all", "tcb of another day"}, "another tcb_info than in all"},
		{[]string{"nothing"}, "found nothing"},
		{[]string{"text"}, "want hexadecimal bytes, base64 or PEM"},
		{[]string{"list"}, "want hexadecimal bytes, base64 or PEM"},
		{[]string{"key"}, "read key"},
		{[]string{"two answers"}, "one answer behind another"},
		{[]string{"two objects"}, "2 objects with collateral"},
		{[]string{"no signature"}, "/tcb_info_signature: found nothing"},
		{[]string{"a number"}, "/pck_crl: found a value of type number, want a string"},
		{[]string{"a list of PEM"}, "/pck_crl: found a value of type array, want a string"},
		{[]string{"two names"}, "want each part once"},
		{nil, "found only certificates"},
	} {
		_, err := tdxquote.ReadCollateral(files(all, tt.names...)...)
		var layout *tdxquote.LayoutError
		if !errors.As(err, &layout) || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%v: got %v, want a LayoutError with %q", tt.names, err, tt.want)
		}
	}
	many := make([]tdxquote.CollateralFile, tdxquote.MaxCollateralFiles+1)
	for i := range many {
		many[i] = tdxquote.CollateralFile{Name: fmt.Sprint(i), Data: all["tcb"]}
	}
	if _, err := tdxquote.ReadCollateral(many...); err == nil || !strings.Contains(err.Error(), "17 files") {
		t.Errorf("many files: %v", err)
	}
	for member, text := range map[string]string{"pck_crl": "zz", "tcb_info_signature": "00", "tcb_info": "", "qe_identity_issuer_chain": "-----BEGIN CERTIFICATE-----"} {
		_, err := tdxquote.ParseCollateral("c", with(member, text))
		if layout := (*tdxquote.LayoutError)(nil); err == nil || errors.As(err, &layout) {
			t.Errorf("a broken %s: got %v", member, err)
		}
	}
}

// TestPoolSigner: of several certificates that came by themselves the one that
// signed counts, whatever the order, and none that another root issued.
func TestPoolSigner(t *testing.T) {
	p := platform(t)
	stranger, err := fake.NewPlatform("stranger", from, until)
	if err != nil {
		t.Fatal(err)
	}
	raw := quote(t, p, body(), fake.Options{})
	q, err := tdxquote.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	r := replies(t, collateralOf(t, p, fake.Levels{}))
	for _, n := range []string{"tcb", "qe", "pck"} {
		_, r[n], _ = bytes.Cut(r[n], []byte("\r\n\r\n"))
	}
	judge := func(pool []byte) []string {
		r["pool"] = pool
		c, err := tdxquote.ReadCollateral(files(r, "tcb", "qe", "pck", "root", "pool")...)
		if err != nil {
			t.Fatal(err)
		}
		v, err := tdxquote.Verify(q, tdxquote.Options{At: now, Roots: []*x509.Certificate{p.Root}, Collateral: c})
		if err != nil {
			t.Fatal(err)
		}
		return failed(v.Checks)
	}
	for _, pool := range [][]*x509.Certificate{{stranger.TCBSigner, p.TCBSigner, p.Root, stranger.CA, p.CA, stranger.Root}, {p.CA, p.TCBSigner, stranger.TCBSigner, stranger.Root, stranger.CA, p.Root}} {
		if got := judge(fake.PEM(pool...)); len(got) > 0 {
			t.Errorf("failed %v", got)
		}
	}
	if got := judge(fake.PEM(stranger.TCBSigner, p.Root, p.CA)); !slices.Contains(got, "tcb-info") || !slices.Contains(got, "qe-identity-collateral") {
		t.Errorf("a stranger's signer: failed %v", got)
	}
	// A PCK signs nothing, though its holder can.
	if got := judge(fake.PEM(p.PCK, p.TCBSigner, p.CA, p.Root)); len(got) > 0 {
		t.Errorf("with the PCK beside: failed %v", got)
	}
}

// FuzzCollateralFiles: no panic, whatever files are given, and documents that
// nobody signed give no status.
func FuzzCollateralFiles(f *testing.F) {
	p := platform(f)
	doc := collateralOf(f, p, fake.Levels{})
	r := replies(f, doc)
	whole := encode(f, doc)
	for _, a := range r {
		f.Add(a, whole)
		f.Add(a, fake.PEM(p.TCBSigner, p.CA, p.Root))
	}
	raw := quote(f, p, body(), fake.Options{})
	want, err := tdxquote.ParseCollateral("good", whole)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, a, b []byte) {
		c, err := tdxquote.ReadCollateral(tdxquote.CollateralFile{Name: "a", Data: a}, tdxquote.CollateralFile{Name: "b", Data: b})
		if err != nil {
			return
		}
		q, err := tdxquote.Parse(raw)
		if err != nil {
			t.Fatal(err)
		}
		v, err := tdxquote.Verify(q, tdxquote.Options{At: now, Roots: []*x509.Certificate{p.Root}, Collateral: c})
		if err != nil {
			t.Fatal(err)
		}
		if v.TCB != nil && v.TCB.Status == tdxquote.UpToDate && (c.TCBInfo.Document != want.TCBInfo.Document || c.QEIdentity.Document != want.QEIdentity.Document) {
			t.Fatal("documents that nobody signed give a TCB status")
		}
	})
}
