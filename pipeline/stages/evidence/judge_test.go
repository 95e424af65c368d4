package evidence_test

import (
	"bytes"
	"context"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/retally/retally/evidence"
	"github.com/retally/retally/evidence/capture"
	"github.com/retally/retally/evidence/fake"
	"github.com/retally/retally/evidence/tdxquote"
	"github.com/retally/retally/evidence/verdict"
	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/testenv"
)

func ownRegistry(t testing.TB, rows ...string) *evidence.Registry {
	t.Helper()
	r, err := evidence.ParseRegistry("rows.csv", []byte(header+strings.Join(rows, "\n")+"\n"))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// certificate makes a TLS certificate with a key of its own.
func certificate(t testing.TB, name string) (*x509.Certificate, tls.Certificate) {
	t.Helper()
	key, err := fake.Key(elliptic.P256(), "tls "+name)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := fake.Issue(fake.Certificate{Name: name, From: from, Until: until, Serial: 1}, key, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	return cert, tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: key}
}

func serve(t testing.TB, cert tls.Certificate, h http.Handler) string {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	s.TLS = &tls.Config{Certificates: []tls.Certificate{cert}}
	s.StartTLS()
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

// take captures a machine into a folder and reads it back.
func take(t testing.TB, address string) *evidence.Bundle {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	c, err := capture.Fetch(ctx, address, capture.Options{Now: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "capture")
	if err := c.Write(dir); err != nil {
		t.Fatal(err)
	}
	b, err := evidence.OpenCapture("capture", dir)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestManInTheMiddle: the machine's own session binds; through somebody with
// another key, who passes every byte on, it does not.
func TestManInTheMiddle(t *testing.T) {
	p := ownPlatform(t)
	g, err := fake.NewGPU("gpu", from, until)
	if err != nil {
		t.Fatal(err)
	}
	cert, pair := certificate(t, "machine")
	_, other := certificate(t, "middle")
	nonce := sha256.Sum256([]byte("gpu nonce"))
	gpu, err := fake.Evidence(nonce, nil, g)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name    string
		form    evidence.TLSForm
		first   []byte
		withGPU bool
	}{
		{"public key", evidence.FormSPKI, cert.RawSubjectPublicKeyInfo, false},
		{"whole certificate", evidence.FormCertificate, cert.Raw, false},
		{"with GPU", evidence.FormSPKI, cert.RawSubjectPublicKeyInfo, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			body := ownBody(t)
			h := sha256.Sum256(tt.first)
			copy(body.ReportData[:], h[:])
			if tt.withGPU {
				copy(body.ReportData[32:], nonce[:])
			}
			page := "<!DOCTYPE html><html><head><style>pre{}</style></head><body><h1>CPU Attestation Quote</h1><pre class=\"q\" id=quoteTextarea>" + hex.EncodeToString(ownQuote(t, p, body)) + "\n</pre><script>var x = \"<pre>00</pre>\";</script></body></html>"
			pages := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				switch {
				case r.URL.Path == "/cpu.html":
					fmt.Fprint(w, page)
				case r.URL.Path == "/gpu" && tt.withGPU:
					if _, err := w.Write(gpu); err != nil {
						t.Error(err)
					}
				default:
					http.NotFound(w, r)
				}
			})
			request := func(b *evidence.Bundle) evidence.Request {
				return evidence.Request{
					Profile: evidence.SecretVM, Evidence: b, IntelRoots: roots(p), NVIDIARoots: []digest.Digest{g.Pin()},
					Registry: ownRegistry(t, ownRow(body)), Compose: &compose, RTMR3: rtmr3(t),
				}
			}
			direct := verify(t, request(take(t, serve(t, pair, pages))))
			if short(direct) != "ppp" || direct.Verdict() != verdict.Pass || direct.Claims.TLS.Form != tt.form {
				t.Fatalf("direct: %s %+v\n%s\n%s\n%s", short(direct), direct.Claims.TLS, reasons(direct.Authentic), reasons(direct.Expected), reasons(direct.Bound))
			}
			if !strings.Contains(direct.Claims.TLS.Source, "of the TLS session") {
				t.Errorf("source %q", direct.Claims.TLS.Source)
			}
			middle := take(t, serve(t, other, pages))
			through := verify(t, request(middle))
			if short(through) != "ppf" || through.Verdict() != verdict.Fail || !strings.Contains(reasons(through.Bound), "somebody else's key") {
				t.Errorf("through a man in the middle: %s\n%s", short(through), reasons(through.Bound))
			}
			// The machine's certificate, fetched elsewhere, does not mend that the
			// quote came through somebody else's session; nor does the same quote
			// in a file of its own, wherever it stands.
			r := request(middle)
			r.TLSCert = cert
			elsewhere := verify(t, r)
			if elsewhere.Bound.Verdict != verdict.Fail || !strings.Contains(reasons(elsewhere.Bound), "from another connection than the quote's") || elsewhere.Claims.TLS.Form != "" {
				t.Errorf("certificate of another connection: %s %+v", short(elsewhere), elsewhere.Claims.TLS)
			}
			file := read(t, "quote.html", []byte(page))
			own := take(t, serve(t, pair, pages))
			for name, list := range map[string][]*evidence.Bundle{
				"file last": {middle, file}, "file first": {file, middle}, "a good capture first": {own, middle}, "a good capture last": {middle, own}, "all": {file, own, middle},
			} {
				b, err := evidence.Merge(list...)
				if err != nil {
					t.Fatal(err)
				}
				if got := verify(t, request(b)); short(got) != "ppf" || got.Verdict() != verdict.Fail || got.Claims.TLS.Form != "" {
					t.Errorf("%s: %s %+v", name, short(got), got.Claims.TLS)
				}
			}
			b, err := evidence.Merge(file, own)
			if err != nil {
				t.Fatal(err)
			}
			if got := verify(t, request(b)); short(got) != "ppp" || got.Claims.CapturedAt == "" {
				t.Errorf("a good capture and the same quote in a file: %s", short(got))
			}
		})
	}
}

// TestExpected tries what references can say about a quote.
func TestExpected(t *testing.T) {
	p := ownPlatform(t)
	body := ownBody(t)
	other := body
	other.MRTD = sum("other")
	third := body
	third.RTMR[0], third.RTMR[1] = sum("x"), sum("y")
	all := map[evidence.Register]digest.Digest{evidence.MRTD: body.MRTD, evidence.RTMR0: body.RTMR[0], evidence.RTMR1: body.RTMR[1], evidence.RTMR2: body.RTMR[2], evidence.RTMR3: body.RTMR[3]}
	wrong := map[evidence.Register]digest.Digest{evidence.MRTD: sum("x")}
	part := map[evidence.Register]digest.Digest{evidence.RTMR3: body.RTMR[3]}
	files := digest.SHA256.Sum([]byte("docker files"))
	for _, tt := range []struct {
		name string
		edit func(*evidence.Request)
		want verdict.Verdict
		text string
	}{
		{"nothing", func(*evidence.Request) {}, "unchecked", "mrtd: " + body.MRTD.Hex() + " in the quote; nothing to compare with"},
		{"row and compose", func(r *evidence.Request) {
			r.Registry, r.Compose = ownRegistry(t, ownRow(other), ownRow(body)), &compose
		}, "pass", "small prod v1.0.0 (line 3) fits"},
		{"row, no compose", func(r *evidence.Request) { r.Registry = ownRegistry(t, ownRow(body)) }, "unchecked", "rtmr3: " + body.RTMR[3].Hex() + " in the quote; no compose file given"},
		{"no row fits", func(r *evidence.Request) { r.Registry = ownRegistry(t, ownRow(third), ownRow(other)) }, "fail", "the nearest is small prod v1.0.0 (line 3): mrtd is " + body.MRTD.Hex() + ", there " + other.MRTD.Hex() + ", but is that of small prod v1.0.0 (line 2)"},
		{"row, compose, docker files that are not there", func(r *evidence.Request) {
			r.Registry, r.Compose, r.DockerFiles = ownRegistry(t, ownRow(body)), &compose, files
		}, "fail", "compose: rtmr3 is"},
		{"empty registry", func(r *evidence.Request) { r.Registry = ownRegistry(t) }, "fail", "rows.csv: the registry has no rows"},
		{"no rule for RTMR3", func(r *evidence.Request) {
			r.Registry, r.Compose, r.RTMR3 = ownRegistry(t, ownRow(body)), &compose, nil
		}, "unchecked", "RTMR3 cannot be computed here"},
		{"rule refuses", func(r *evidence.Request) {
			r.Registry, r.Compose, r.AppID = ownRegistry(t, ownRow(body)), &compose, []byte{1}
		}, "unchecked", "app id of 1 bytes"},
		{"compose and rootfs alone", func(r *evidence.Request) { r.Compose, r.Rootfs = &compose, rootfs }, "unchecked", "compose and rootfs: the files given fits as a whole: rtmr3"},
		{"recomputed", func(r *evidence.Request) {
			r.Sets = []evidence.ReferenceSet{{Group: "artifacts", Name: "shape 1", Registers: wrong}, {Group: "artifacts", Name: "shape 2", Registers: all}}
		}, "pass", "artifacts: shape 2 fits as a whole"},
		{"two groups, one fails", func(r *evidence.Request) {
			r.Sets = []evidence.ReferenceSet{{Group: "artifacts", Name: "a", Registers: all}, {Group: "manifest", Name: "m", Registers: wrong}}
		}, "fail", "manifest: no set of values fits"},
		{"two groups, one each", func(r *evidence.Request) {
			r.Registry, r.Sets = ownRegistry(t, ownRow(body)), []evidence.ReferenceSet{{Group: "manifest", Name: "m", Registers: part}}
		}, "pass", "manifest: m fits as a whole: rtmr3"},
	} {
		r := evidence.Request{Profile: evidence.SecretVM, Evidence: read(t, "q", ownQuote(t, p, body)), IntelRoots: roots(p), RTMR3: rtmr3(t)}
		tt.edit(&r)
		got := verify(t, r)
		if got.Expected.Verdict != tt.want || !strings.Contains(reasons(got.Expected), tt.text) {
			t.Errorf("%s: %s, want %s with %q:\n%s", tt.name, got.Expected.Verdict, tt.want, tt.text, reasons(got.Expected))
		}
	}
}

// TestSender: what came with the evidence can contradict the quote, and never
// vouches for it, whatever it is and however much of it there is.
func TestSender(t *testing.T) {
	p := ownPlatform(t)
	body := ownBody(t)
	other := body
	other.MRTD = sum("other")
	all := map[evidence.Register]digest.Digest{evidence.MRTD: body.MRTD, evidence.RTMR0: body.RTMR[0], evidence.RTMR1: body.RTMR[1], evidence.RTMR2: body.RTMR[2], evidence.RTMR3: body.RTMR[3]}
	senders := func(rows ...string) *evidence.Registry {
		r := ownRegistry(t, rows...)
		r.Source = evidence.Sender
		return r
	}
	for _, tt := range []struct {
		name    string
		edit    func(*evidence.Request)
		want    verdict.Verdict
		release string
		text    string
	}{
		{"row and compose", func(r *evidence.Request) {
			r.Registry, r.Compose, r.ComposeSource = senders(ownRow(body)), &compose, evidence.Sender
		}, "unchecked", "", "gives the quote's mrtd, rtmr0, rtmr1, rtmr2, rtmr3, but it came with the evidence"},
		{"row of the sender, compose of the user", func(r *evidence.Request) { r.Registry, r.Compose = senders(ownRow(body)), &compose }, "unchecked", "", "is its sender's word"},
		{"row of the user, compose of the sender", func(r *evidence.Request) {
			r.Registry, r.Compose, r.ComposeSource = ownRegistry(t, ownRow(body)), &compose, evidence.Sender
		}, "unchecked", "small prod v1.0.0", "with the compose file compose.yaml gives the quote's rtmr3, but it came with the evidence"},
		{"another row", func(r *evidence.Request) { r.Registry = senders(ownRow(other)) }, "fail", "", "no set of values fits as a whole"},
		{"a set", func(r *evidence.Request) {
			r.Sets = []evidence.ReferenceSet{{Group: "artifacts", Name: "a", Registers: all, Source: evidence.Sender}}
		}, "unchecked", "", "a gives the quote's mrtd"},
		{"a set beside one of the user's", func(r *evidence.Request) {
			r.Sets = []evidence.ReferenceSet{{Group: "artifacts", Name: "a", Registers: all, Source: evidence.Sender}, {Group: "given", Name: "g", Registers: all, Source: evidence.User}}
		}, "unchecked", "", "given: g fits as a whole"},
		{"a set of the user's that the sender's has the name of", func(r *evidence.Request) {
			wrong := map[evidence.Register]digest.Digest{evidence.MRTD: sum("x"), evidence.RTMR0: body.RTMR[0]}
			r.Sets = []evidence.ReferenceSet{{Group: "artifacts", Name: "a", Registers: all, Source: evidence.Sender}, {Group: "artifacts", Name: "g", Registers: wrong}}
		}, "fail", "", "the nearest is g: mrtd is"},
		{"the program's own", func(r *evidence.Request) {
			r.Sets = []evidence.ReferenceSet{{Group: "built in", Name: "b", Registers: all, Source: evidence.Embedded}}
		}, "pass", "", "b fits as a whole"},
	} {
		r := evidence.Request{Profile: evidence.SecretVM, Evidence: read(t, "q", ownQuote(t, p, body)), IntelRoots: roots(p), RTMR3: rtmr3(t)}
		tt.edit(&r)
		got := verify(t, r)
		if got.Expected.Verdict != tt.want || got.Claims.Release != tt.release || !strings.Contains(reasons(got.Expected), tt.text) {
			t.Errorf("%s: %s, release %q, want %s with %q:\n%s", tt.name, got.Expected.Verdict, got.Claims.Release, tt.want, tt.text, reasons(got.Expected))
		}
		for _, s := range r.References() {
			if len(s.Registers) < 2 || strings.Contains(tt.name, "compose of the sender") && r.Source(s, evidence.RTMR3) != evidence.Sender {
				t.Errorf("%s: reference %+v", tt.name, s)
			}
		}
	}
}

// TestOnly: what was not asked for does not count; nothing is left out of the
// result; a root that is no vendor's makes no pass by itself.
func TestOnly(t *testing.T) {
	p := ownPlatform(t)
	stranger, _ := certificate(t, "stranger")
	for _, tt := range []struct {
		name  string
		cert  *x509.Certificate
		ok    bool // a test root may pass
		only  []string
		short string
		want  verdict.Verdict
	}{
		{"all three", nil, true, nil, "puu", "unchecked"},
		{"authentic", nil, true, []string{"authentic"}, "puu", "pass"},
		{"authentic, a test root", nil, false, []string{"authentic"}, "puu", "unchecked"},
		{"a failure that was not asked for", stranger, true, []string{"authentic"}, "puf", "pass"},
		{"the same, asked for", stranger, true, []string{"bound", "authentic"}, "puf", "fail"},
		{"a failure under a test root", stranger, false, nil, "puf", "fail"},
	} {
		r := evidence.Request{Profile: evidence.SecretVM, Evidence: read(t, "q", ownQuote(t, p, ownBody(t))), IntelRoots: roots(p), TLSCert: tt.cert}
		got := verifyOnly(t, r, tt.ok, tt.only...)
		if short(got) != tt.short || got.Verdict() != tt.want || len(got.TestRoots()) != 1 || !strings.HasPrefix(got.report.Summary, "TEST ROOT: ") {
			t.Errorf("%s: %s, the whole %s, test roots %v: %s", tt.name, short(got), got.Verdict(), got.TestRoots(), got.report.Summary)
		}
		if got.Registers[evidence.MRTD] != sum("mrtd") {
			t.Errorf("%s: registers %v", tt.name, got.Registers)
		}
	}
	// Registers of a forged quote are what anybody wrote, whatever is asked of them.
	b := ownBody(t)
	forged := ownQuote(t, p, b)
	forged[600] ^= 1
	r := evidence.Request{
		Profile: evidence.SecretVM, Evidence: read(t, "q", forged), IntelRoots: roots(p),
		Registry: ownRegistry(t, ownRow(b)), Compose: &compose, RTMR3: rtmr3(t),
	}
	if got := verifyOnly(t, r, true, "expected"); short(got)[:2] != "fp" || got.Verdict() != verdict.Unchecked || got.report.Coverage.Recounted != 0 {
		t.Errorf("expected of a forged quote: %s, the whole %s", short(got), got.Verdict())
	}
	// The vendor's root given by hand is the vendor's root.
	root, err := tdxquote.IntelRoot()
	if err != nil {
		t.Fatal(err)
	}
	got := verify(t, evidence.Request{Evidence: read(t, "q", ownQuote(t, p, ownBody(t))), IntelRoots: []*x509.Certificate{root}})
	if len(got.TestRoots()) != 0 || len(got.Roots) != 1 || !got.Roots[0].BuiltIn {
		t.Errorf("Intel's root given by hand: %+v", got.Roots)
	}
}

// TestGarbled: no damage to what a verdict rests on turns a bad one into a pass.
func TestGarbled(t *testing.T) {
	p := ownPlatform(t)
	cert, _ := certificate(t, "machine")
	stranger, _ := certificate(t, "stranger")
	body := ownBody(t)
	spki := sha256.Sum256(cert.RawSubjectPublicKeyInfo)
	copy(body.ReportData[:], spki[:])
	quote := ownQuote(t, p, body)
	outdated, err := p.Collateral(fake.Levels{Status: tdxquote.OutOfDate})
	if err != nil {
		t.Fatal(err)
	}
	row := header + ownRow(body) + "\n"
	wrong := body
	wrong.RTMR[2] = sum("other")
	r := rand.New(rand.NewPCG(3, 4))
	garble := func(b []byte) []byte {
		b = bytes.Clone(b)
		for range 1 + r.IntN(3) {
			switch at := r.IntN(len(b)); r.IntN(4) {
			case 0:
				b = b[:at+1]
			case 1:
				b = slices.Delete(b, at, min(len(b), at+r.IntN(40)))
			default:
				b[at] ^= 1 << r.IntN(8)
			}
			if len(b) == 0 {
				return []byte{0}
			}
		}
		return b
	}
	n := 60
	if testenv.IsLong() {
		n = 5000
	}
	read, garbled := 0, 0
	for i := range n {
		for what, edit := range map[string]func(*evidence.Request) error{
			"collateral that says OutOfDate": func(q *evidence.Request) error { return q.TakeCollateral("c", garble(outdated)) },
			"collateral, the quote": func(q *evidence.Request) (err error) {
				if q.Evidence, err = evidence.Read("q", garble(quote)); err != nil {
					return err
				}
				return q.TakeCollateral("c", outdated)
			},
			"another release's row": func(q *evidence.Request) (err error) {
				q.Registry, err = evidence.ParseRegistry("r", garble([]byte(header+ownRow(wrong)+"\n")))
				return err
			},
			"somebody else's certificate": func(q *evidence.Request) (err error) {
				q.TLSCert, err = evidence.ReadCertificate("c", garble(stranger.Raw))
				return err
			},
		} {
			registry, err := evidence.ParseRegistry("r", []byte(row))
			if err != nil {
				t.Fatal(err)
			}
			q := evidence.Request{
				Profile: evidence.SecretVM, Evidence: readBundle(t, quote), At: now, IntelRoots: roots(p),
				Registry: registry, Compose: &compose, RTMR3: rtmr3(t), TLSCert: cert,
			}
			if i == 0 {
				if got := verify(t, q); got.Verdict() != verdict.Pass {
					t.Fatalf("as it is: %s", short(got))
				}
			}
			garbled++
			if edit(&q) != nil {
				continue // refused: exit code 2
			}
			read++
			if got := verify(t, q); got.Verdict() == verdict.Pass {
				t.Errorf("%s, garbled: %s", what, short(got))
			}
		}
	}
	t.Logf("%d garbled, %d of them read", garbled, read)
	if read < n {
		t.Error("hardly any garbled input was read: the test shows nothing")
	}
}

func readBundle(t testing.TB, raw []byte) *evidence.Bundle { return read(t, "q", raw) }

// TestContradictions: a capture whose parts do not go together is not bound.
func TestContradictions(t *testing.T) {
	p := ownPlatform(t)
	cert, _ := certificate(t, "machine")
	other, _ := certificate(t, "other")
	body := ownBody(t)
	spki := sha256.Sum256(cert.RawSubjectPublicKeyInfo)
	copy(body.ReportData[:], spki[:])
	page := []byte("<pre>" + hex.EncodeToString(ownQuote(t, p, body)) + "</pre>")
	for _, tt := range []struct {
		name   string
		at     time.Time
		second *x509.Certificate
		want   verdict.Verdict
		text   string
	}{
		{"good", now, cert, "pass", ""},
		{"pages under two keys", now, other, "fail", "pages of connections that ended at different keys: /docker-compose.html over connection 2"},
		{"before the certificate was made", from.Add(-time.Hour), cert, "fail", "when the certificate of its connection was not made yet"},
		{"clocks that differ a little", from.Add(-time.Minute), cert, "pass", ""},
		{"after the time judged", now.Add(time.Hour), cert, "pass", "capture: c was taken at"},
	} {
		b, err := evidence.FromCapture("c", &capture.Capture{
			Target: "vm:29343", At: tt.at,
			Pages: []capture.Page{
				{Kind: capture.CPU, Path: "/cpu.html", Status: 200, Body: page, Connection: 1},
				{Kind: capture.Compose, Path: "/docker-compose.html", Status: 200, Body: []byte("x"), Connection: 2},
			},
			Connections: []capture.Connection{{Number: 1, Chain: [][]byte{cert.Raw}}, {Number: 2, Chain: [][]byte{tt.second.Raw}}},
		})
		if err != nil {
			t.Fatal(err)
		}
		got := verify(t, evidence.Request{Evidence: b, IntelRoots: roots(p)})
		if got.Bound.Verdict != tt.want || !strings.Contains(reasons(got.Bound), tt.text) {
			t.Errorf("%s: %s, want %s with %q:\n%s", tt.name, got.Bound.Verdict, tt.want, tt.text, reasons(got.Bound))
		}
	}
	if _, err := evidence.FromCapture("c", &capture.Capture{Pages: []capture.Page{{Kind: capture.CPU, Path: "/cpu.html", Body: page, Connection: 3}}}); err == nil {
		t.Error("a page of a connection that is not listed: no error")
	}
}

// TestComposeVariants: forms of the same text are a reason, never a pass.
func TestComposeVariants(t *testing.T) {
	p := ownPlatform(t)
	q := ownQuote(t, p, ownBody(t))
	for _, tt := range []struct{ data, text string }{
		{"services:\r\n  web: {image: nginx}\r\n", "with LF instead of CR LF"},
		{"services:\n  web: {image: nginx}", "with one line break more at its end"},
		{"services:\n  web: {image: nginx}\n\n\n", "with exactly one line break at its end"},
		{"\ufeffservices:\n  web: {image: nginx}\n", "without the byte order mark"},
		{"services:\n  web: {image: httpd}\n", "was started with another compose file, unless what goes in beside it is missing"},
	} {
		got := verify(t, evidence.Request{
			Evidence: read(t, "q", q), IntelRoots: roots(p), Registry: ownRegistry(t, ownRow(ownBody(t))), RTMR3: rtmr3(t),
			Compose: &evidence.File{Name: "c.yaml", Data: []byte(tt.data)},
		})
		if got.Expected.Verdict != verdict.Fail || !strings.Contains(got.Expected.Reasons[0], tt.text) {
			t.Errorf("%q: %s, want a failure with %q:\n%s", tt.data, got.Expected.Verdict, tt.text, reasons(got.Expected))
		}
	}
}

// TestBound tries report data against certificates and nonces.
func TestBound(t *testing.T) {
	p := ownPlatform(t)
	cert, _ := certificate(t, "machine")
	stranger, _ := certificate(t, "stranger")
	spki := sha256.Sum256(cert.RawSubjectPublicKeyInfo)
	ratls := sha512.Sum512(append([]byte("ratls-cert:"), cert.RawSubjectPublicKeyInfo...))
	nonce := bytes.Repeat([]byte{7}, 32)
	for _, tt := range []struct {
		name    string
		profile evidence.Profile
		data    []byte
		edit    func(*evidence.Request)
		want    verdict.Verdict
		text    string
	}{
		{"nothing given", evidence.SecretVM, spki[:], func(*evidence.Request) {}, "unchecked", "tls: no TLS certificate given"},
		{"certificate", evidence.SecretVM, spki[:], func(r *evidence.Request) { r.TLSCert = cert }, "pass", "SubjectPublicKeyInfo"},
		{"stranger", evidence.SecretVM, spki[:], func(r *evidence.Request) { r.TLSCert = stranger }, "fail", "somebody else's key"},
		{"nonce in the second half", evidence.SecretVM, append(bytes.Clone(spki[:]), nonce...), func(r *evidence.Request) { r.TLSCert, r.Nonce = cert, nonce }, "unchecked", "no GPU evidence was given"},
		{"another nonce", evidence.SecretVM, append(bytes.Clone(spki[:]), nonce...), func(r *evidence.Request) { r.TLSCert, r.Nonce = cert, spki[:] }, "fail", "the nonce asked for is"},
		{"RA-TLS is not SecretVM's", evidence.SecretVM, ratls[:], func(r *evidence.Request) { r.TLSCert = cert }, "fail", "somebody else's key"},
		{"RA-TLS", evidence.Dstack, ratls[:], func(r *evidence.Request) { r.TLSCert = cert }, "pass", "RA-TLS"},
		{"RA-TLS of a stranger", evidence.Dstack, ratls[:], func(r *evidence.Request) { r.TLSCert = stranger }, "fail", "somebody else's key"},
		{"plain nonce", evidence.TDX, nonce, func(r *evidence.Request) { r.Nonce = nonce }, "pass", "nonce: report data is"},
		{"nonce and more", evidence.TDX, append(bytes.Clone(nonce), 1), func(r *evidence.Request) { r.Nonce = nonce }, "fail", "nonce: report data is"},
		{"long nonce", evidence.TDX, nonce, func(r *evidence.Request) { r.Nonce = make([]byte, 65) }, "fail", "nonce: report data is"},
		{"plain, nothing", evidence.TDX, nonce, func(*evidence.Request) {}, "unchecked", "neither a nonce (nonce: HEX) nor"},
		{"claimed report data", evidence.TDX, nonce, func(r *evidence.Request) { r.Evidence.ReportData = spki[:] }, "fail", "the report data beside the quote is"},
	} {
		body := ownBody(t)
		copy(body.ReportData[:], tt.data)
		r := evidence.Request{Profile: tt.profile, Evidence: read(t, "q", ownQuote(t, p, body)), IntelRoots: roots(p)}
		tt.edit(&r)
		got := verify(t, r)
		if got.Bound.Verdict != tt.want || !strings.Contains(reasons(got.Bound), tt.text) {
			t.Errorf("%s: %s, want %s with %q:\n%s", tt.name, got.Bound.Verdict, tt.want, tt.text, reasons(got.Bound))
		}
	}
}

// TestDstack: an event log, an app compose document, and an application that
// extends RTMR3 with events of the same name after booting.
func TestDstack(t *testing.T) {
	p := ownPlatform(t)
	hash := digest.SHA256.Sum(compose.Data)
	type event struct {
		IMR     int    `json:"imr"`
		Type    uint32 `json:"event_type"`
		Digest  string `json:"digest"`
		Event   string `json:"event"`
		Payload string `json:"event_payload"`
	}
	build := func(events []event, configID [48]byte) []byte {
		text, err := json.Marshal(events)
		if err != nil {
			t.Fatal(err)
		}
		folded, err := replay(t)(text)
		if err != nil {
			t.Fatal(err)
		}
		body := ownBody(t)
		body.RTMR[3], body.MRCONFIGID = folded.RTMR[3], configID
		doc, err := json.Marshal(map[string]any{"quote": hex.EncodeToString(ownQuote(t, p, body)), "event_log": string(text), "vm_config": map[string]any{}})
		if err != nil {
			t.Fatal(err)
		}
		return doc
	}
	e := func(name, payload string) event { return event{3, 0x08000001, "", name, payload} }
	boot := []event{e("system-preparing", ""), e("app-id", "00"), e("compose-hash", hash.Hex()), e("boot-mr-done", "")}
	one, two := [48]byte{1}, [48]byte{2}
	copy(one[1:], hash.Bytes())
	for _, tt := range []struct {
		name string
		log  []event
		id   [48]byte
		file *evidence.File
		want verdict.Verdict
		text string
	}{
		{"compose", boot, one, &compose, "unchecked", "compose: the app compose document compose.yaml is the one"},
		{"other compose", boot, one, &evidence.File{Name: "x"}, "fail", "compose: the app compose document x has"},
		{"no compose", boot, [48]byte{}, nil, "unchecked", "none was given to compare"},
		{"application says it too", append(boot, e("compose-hash", "00")), one, &compose, "unchecked", "compose.yaml is the one"},
		{"twice at boot", append([]event{e("compose-hash", "00")}, boot...), one, &compose, "fail", "2 boot events compose-hash"},
		{"other configuration", boot, [48]byte{1, 9}, &compose, "fail", "mrconfigid: is 0109"},
		{"version 2", boot, two, &compose, "unchecked", "version 2, which is not recomputed"},
	} {
		r := evidence.Request{Evidence: read(t, "d.json", build(tt.log, tt.id)), IntelRoots: roots(p), Replay: replay(t), Compose: tt.file, RTMR3: rtmr3(t)}
		got := verify(t, r)
		if got.Profile != evidence.Dstack || got.Authentic.Verdict != verdict.Pass || got.Expected.Verdict != tt.want || !strings.Contains(reasons(got.Expected), tt.text) {
			t.Errorf("%s: %s, want %s with %q:\n%s", tt.name, short(got), tt.want, tt.text, reasons(got.Expected))
		}
		if tt.name == "compose" {
			b := ownBody(t)
			r.Sets = []evidence.ReferenceSet{{Group: "image", Name: "i", Registers: map[evidence.Register]digest.Digest{evidence.MRTD: b.MRTD, evidence.RTMR0: b.RTMR[0], evidence.RTMR1: b.RTMR[1], evidence.RTMR2: b.RTMR[2]}}}
			if got := verify(t, r); got.Expected.Verdict != verdict.Pass {
				t.Errorf("with the image's registers: %s\n%s", got.Expected.Verdict, reasons(got.Expected))
			}
		}
	}
}

// TestNotAuthentic: a quote that cannot be read, or that nobody signed, fails
// and says so under the other judgements too.
func TestNotAuthentic(t *testing.T) {
	p := ownPlatform(t)
	good := ownQuote(t, p, ownBody(t))
	forged := bytes.Clone(good)
	forged[600] ^= 1
	for name, tt := range map[string]struct {
		raw  []byte
		want string
		text string
	}{
		"forged":    {forged, "fuu", "quote-signature: "},
		"cut":       {good[:700], "fuu", "quote: read TDX quote: offset 632: signature data length"},
		"no quote":  {[]byte{0xff, 0, 1}, "fuu", "quote: read TDX quote: offset 0: version: found 255"},
		"other TEE": {append([]byte{4, 0, 2, 0, 0x82, 0, 0, 0}, good[8:]...), "fuu", "found 0x82, want 0x81 (TDX)"},
	} {
		got := verify(t, evidence.Request{Profile: evidence.SecretVM, Evidence: read(t, name, tt.raw), IntelRoots: roots(p)})
		if short(got) != tt.want || !strings.Contains(reasons(got.Authentic), tt.text) || !strings.Contains(reasons(got.Bound), "is not authentic") {
			t.Errorf("%s: %s\n%s\n%s", name, short(got), reasons(got.Authentic), reasons(got.Bound))
		}
	}
}

// TestSGX: a quote of an enclave is named, whatever is in it.
func TestSGX(t *testing.T) {
	good := ownQuote(t, ownPlatform(t), ownBody(t))
	_, err := evidence.Read("q", append([]byte{4, 0, 2, 0, 0, 0, 0, 0}, good[8:]...))
	if f := (*evidence.ForeignError)(nil); !errors.As(err, &f) || f.What != "an SGX quote (version 4)" {
		t.Errorf("got %v", err)
	}
}

// TestJSON holds the form that scripts read.
func TestJSON(t *testing.T) {
	p := ownPlatform(t)
	file, err := p.Collateral(fake.Levels{Status: tdxquote.OutOfDate})
	if err != nil {
		t.Fatal(err)
	}
	c, err := tdxquote.ParseCollateral("c", file)
	if err != nil {
		t.Fatal(err)
	}
	got := verify(t, evidence.Request{Profile: evidence.SecretVM, Evidence: read(t, "q", ownQuote(t, p, ownBody(t))), IntelRoots: roots(p), Collateral: c, AcceptTCB: []string{tdxquote.OutOfDate}})
	text, err := json.Marshal(got.Result)
	if err != nil {
		t.Fatal(err)
	}
	var doc struct {
		Profile, At string
		Authentic   struct {
			Verdict string
			Reasons []string
		}
		Bound  struct{ Verdict string }
		Claims struct {
			Quote struct {
				MRTD, RTMR3 string
				TCB         struct{ Status string }
			}
		}
		Roots []struct {
			Vendor  string
			BuiltIn bool `json:"built_in"`
		}
	}
	if err := json.Unmarshal(text, &doc); err != nil {
		t.Fatal(err)
	}
	if doc.Profile != "secretvm" || doc.At != "2026-06-01T00:00:00Z" || doc.Authentic.Verdict != "pass" || len(doc.Authentic.Reasons) == 0 || doc.Claims.Quote.MRTD != sum("mrtd").Hex() || doc.Claims.Quote.TCB.Status != "OutOfDate" || len(doc.Roots) != 1 || doc.Roots[0].BuiltIn || doc.Roots[0].Vendor != "intel" {
		t.Errorf("%s", text)
	}
	again, err := json.Marshal(got.Result)
	if err != nil || !bytes.Equal(text, again) {
		t.Error("the same result gives other bytes")
	}
}

// TestNewest: of several rows that fit, the newest release is named, and a
// release is newer than what came before it.
func TestNewest(t *testing.T) {
	p := ownPlatform(t)
	row := ownRow(ownBody(t))
	versions := []string{"v0.0.9", "v0.0.25-beta.2", "v0.0.25-beta.10", "v0.0.25-rc", "v0.0.25", "v0.0.26-alpha", "v0.1", "v1.0.0"}
	for i := range versions {
		var rows []string
		for _, v := range versions[:i+1] {
			rows = append(rows, strings.Replace(row, "v1.0.0", v, 1))
		}
		for _, order := range []string{"up", "down"} {
			if order == "down" {
				slices.Reverse(rows)
			}
			got := verify(t, evidence.Request{Evidence: read(t, "q", ownQuote(t, p, ownBody(t))), IntelRoots: roots(p), Registry: ownRegistry(t, rows...)})
			if want := "small prod " + versions[i]; got.Claims.Release != want {
				t.Errorf("rows %s to %s, %s: named %q, want %q", versions[0], versions[i], order, got.Claims.Release, want)
			}
		}
	}
}

// TestTwins: sets that nothing tells apart stay sets of their own, and many of
// them are no work without bound.
func TestTwins(t *testing.T) {
	p := ownPlatform(t)
	b := ownBody(t)
	half := func(reg evidence.Register, d digest.Digest) evidence.ReferenceSet {
		return evidence.ReferenceSet{Group: "m.json", Name: "TDX entry", Where: "line 1", Registers: map[evidence.Register]digest.Digest{evidence.MRTD: sum("x"), evidence.RTMR0: sum("x"), reg: d}}
	}
	r := evidence.Request{Evidence: read(t, "q", ownQuote(t, p, b)), IntelRoots: roots(p), Sets: []evidence.ReferenceSet{half(evidence.MRTD, b.MRTD), half(evidence.RTMR0, b.RTMR[0])}}
	if got := verify(t, r); got.Expected.Verdict != verdict.Fail || !strings.Contains(reasons(got.Expected), "no set of values fits as a whole") {
		t.Errorf("two halves of one name: %s\n%s", got.Expected.Verdict, reasons(got.Expected))
	}
	for range 20000 {
		r.Sets = append(r.Sets, half(evidence.MRTD, sum("y")))
	}
	start := time.Now()
	verify(t, r)
	if d := time.Since(start); d > 20*time.Second {
		t.Errorf("20,002 sets of one name take %s", d)
	}
}
