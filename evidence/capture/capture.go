// Package capture fetches the attestation pages of a SecretVM machine together
// with the certificate chain of the very TLS session that each page came over,
// into a folder that is verified offline. It trusts nobody: the certificate is
// not checked against any trust store, because what makes it good is the quote
// that names it.
//
// Source: SecretVM documentation, "Full Verification", step "Retrieve the
// Attestation Quote"; the pages are those of its attestation service on port
// 29343.
package capture

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/retally/retally/evidence/certs"
)

// DefaultPort is where a SecretVM's attestation service listens.
const DefaultPort = 29343

// ContrastPort is where a Coordinator listens for attested TLS.
const ContrastPort = 1313

// Limits of a capture.
const (
	MaxPage        = 8 << 20 // bytes of one page
	MaxPages       = 64
	MaxConnections = 64
)

// Kind says what a page is fetched for.
type Kind string

// The kinds of pages.
const (
	CPU     Kind = "cpu"     // the quote
	GPU     Kind = "gpu"     // GPU evidence
	Compose Kind = "compose" // the compose file that the machine shows

	// Of Contrast's Coordinator.
	Capabilities Kind = "capabilities"
	Attest       Kind = "attest"
)

// Want is a page to fetch: the first of its paths that is offered. A page that
// is not required may be missing.
type Want struct {
	Kind     Kind
	Paths    []string
	Required bool
	Post     []byte // a JSON document to send; nil: GET
}

// Contrast lists what a Coordinator is asked for with a nonce. Any pod shows its
// report in the certificate of the session, and need not offer more.
func Contrast(nonce []byte) []Want {
	body := fmt.Appendf(nil, `{"nonce":%q}`, base64.StdEncoding.EncodeToString(nonce))
	return []Want{
		{Kind: Capabilities, Paths: []string{"/capabilities"}},
		{Kind: Attest, Paths: []string{"/v1/attest", "/attest"}, Post: body},
	}
}

// SecretVM lists the pages of a SecretVM.
func SecretVM() []Want {
	return []Want{
		{Kind: CPU, Paths: []string{"/cpu.html", "/cpu"}, Required: true},
		{Kind: GPU, Paths: []string{"/gpu", "/gpu.html"}},
		{Kind: Compose, Paths: []string{"/docker-compose.html", "/docker-compose"}},
	}
}

// Options change how pages are fetched.
type Options struct {
	// Dial opens the transport below TLS; nil dials TCP.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// Now is the clock; nil is the system's.
	Now func() time.Time
	// Pages are what is fetched; nil: SecretVM().
	Pages []Want
	// Port is taken where the target names none; 0: DefaultPort.
	Port int
	// Protocols are offered by ALPN in front of HTTP/1.1, and Nonce is written down
	// with the capture.
	Protocols []string
	Nonce     []byte
	// Handshake says that the session's certificate is wanted although no page is
	// offered over it.
	Handshake bool
}

// Page is one page as it came.
type Page struct {
	Kind        Kind
	Path        string
	Status      int
	ContentType string
	Body        []byte // nil if the page is not offered
	Connection  int    // over which connection it came, from 1
	Problem     string // why an optional page could not be fetched at all
}

// Connection is one TLS session.
type Connection struct {
	Number     int
	Version    string   // "TLS 1.3"
	ServerName string   // as asked for
	Chain      [][]byte // DER, leaf first, as the server sent it
}

// Capture is what was fetched.
type Capture struct {
	Target      string // host:port
	At          time.Time
	Nonce       []byte // that a Coordinator or pod was asked with, nil for other machines
	Pages       []Page
	Connections []Connection
	Files       []File // what Open read, in that order; nil of one that was fetched
}

// Page returns the page of a kind, nil if it is not offered.
func (c *Capture) Page(k Kind) *Page {
	for i := range c.Pages {
		if c.Pages[i].Kind == k && c.Pages[i].Body != nil {
			return &c.Pages[i]
		}
	}
	return nil
}

// Chain returns the certificates of a connection, leaf first.
func (c *Capture) Chain(connection int) [][]byte {
	for _, x := range c.Connections {
		if x.Number == connection {
			return x.Chain
		}
	}
	return nil
}

// ParseTarget reads HOST, HOST:PORT or https://HOST[:PORT] and returns host and
// port to dial.
func ParseTarget(s string) (host, port string, err error) { return parseTarget(s, DefaultPort) }

func parseTarget(s string, otherwise int) (host, port string, err error) {
	bad := func(why string) (string, string, error) {
		return "", "", fmt.Errorf("capture %q: %s, want HOST[:PORT]", s, why)
	}
	text := s
	if !strings.Contains(text, "://") {
		if ip := net.ParseIP(text); ip != nil && strings.Contains(text, ":") {
			text = "[" + text + "]"
		}
		text = "https://" + text
	}
	u, err := url.Parse(text)
	switch {
	case err != nil:
		return bad(err.Error())
	case u.Scheme != "https":
		return bad("the scheme is " + u.Scheme)
	case u.User != nil || u.RawQuery != "" || u.Fragment != "" || strings.Trim(u.Path, "/") != "":
		return bad("it has more than host and port")
	case u.Hostname() == "":
		return bad("it has no host")
	}
	port = u.Port()
	if port == "" {
		port = strconv.Itoa(otherwise)
	}
	if n, err := strconv.Atoi(port); err != nil || n < 1 || n > 65535 {
		return bad("port " + port)
	}
	return u.Hostname(), port, nil
}

// sessions opens connections and remembers what each showed.
type sessions struct {
	dial func(context.Context, string, string) (net.Conn, error)
	host string
	alpn []string

	mu   sync.Mutex
	seen []Connection
	byIO map[net.Conn]int
}

func (s *sessions) connect(ctx context.Context, network, address string) (net.Conn, error) {
	raw, err := s.dial(ctx, network, address)
	if err != nil {
		return nil, err
	}
	conn := tls.Client(raw, &tls.Config{
		ServerName: s.host,
		MinVersion: tls.VersionTLS12,
		NextProtos: append(slices.Clone(s.alpn), "http/1.1"),
		// The chain is written down and judged later, by the quote that binds
		// its key. A trust store would refuse the self-signed certificates that
		// these machines have.
		InsecureSkipVerify: true,
	})
	if err := conn.HandshakeContext(ctx); err != nil {
		return nil, errors.Join(err, raw.Close())
	}
	state := conn.ConnectionState()
	if len(state.PeerCertificates) > certs.MaxCertificates {
		return nil, errors.Join(fmt.Errorf("the server sent %d certificates, at most %d are read", len(state.PeerCertificates), certs.MaxCertificates), conn.Close())
	}
	c := Connection{Version: tls.VersionName(state.Version), ServerName: s.host}
	for _, cert := range state.PeerCertificates {
		c.Chain = append(c.Chain, slices.Clone(cert.Raw))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.seen) == MaxConnections {
		return nil, errors.Join(fmt.Errorf("more than %d connections", MaxConnections), conn.Close())
	}
	c.Number = len(s.seen) + 1
	s.seen = append(s.seen, c)
	s.byIO[conn] = c.Number
	return conn, nil
}

// Fetch gets the pages of a machine one after the other over one TLS session.
// Where the server closes it, the next page comes over another, and says so.
func Fetch(ctx context.Context, target string, o Options) (*Capture, error) {
	host, port, err := parseTarget(target, cmp.Or(o.Port, DefaultPort))
	if err != nil {
		return nil, err
	}
	if o.Dial == nil {
		o.Dial = (&net.Dialer{Timeout: 30 * time.Second}).DialContext
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Pages == nil {
		o.Pages = SecretVM()
	}
	s := &sessions{dial: o.Dial, host: host, alpn: o.Protocols, byIO: map[net.Conn]int{}}
	transport := &http.Transport{
		DialTLSContext: s.connect, MaxConnsPerHost: 1, DisableCompression: true, ForceAttemptHTTP2: slices.Contains(o.Protocols, "h2"),
		ResponseHeaderTimeout: 60 * time.Second, MaxResponseHeaderBytes: 64 << 10,
	}
	defer transport.CloseIdleConnections()
	f := fetcher{
		sessions: s, base: "https://" + net.JoinHostPort(host, port),
		client: &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }},
	}
	c := &Capture{Target: net.JoinHostPort(host, port), At: o.Now().UTC().Truncate(time.Second), Nonce: o.Nonce}
	for _, want := range o.Pages {
		pages, err := f.first(ctx, want)
		if err != nil {
			return nil, fmt.Errorf("capture %s: %w", c.Target, err)
		}
		c.Pages = append(c.Pages, pages...)
	}
	c.Connections = s.seen
	if o.Handshake && len(c.Connections) == 0 {
		return nil, fmt.Errorf("capture %s: no TLS session: %s", c.Target, c.Pages[0].Problem)
	}
	return c, nil
}

type fetcher struct {
	sessions *sessions
	client   *http.Client
	base     string
}

// first tries the paths of a page in order and returns all answers, the last
// one being the page if any path offers it.
func (f fetcher) first(ctx context.Context, want Want) ([]Page, error) {
	var pages []Page
	for _, path := range want.Paths {
		p, err := f.get(ctx, path, want.Post)
		if err != nil && want.Required {
			return nil, err
		}
		if err != nil {
			// An optional page must not cost the quote that was fetched before.
			pages = append(pages, Page{Kind: want.Kind, Path: path, Problem: err.Error()})
			continue
		}
		p.Kind = want.Kind
		pages = append(pages, *p)
		if p.Body != nil {
			return pages, nil
		}
	}
	if want.Required {
		last := pages[len(pages)-1]
		return nil, fmt.Errorf("GET %s: status %d, want 200 with the attestation quote", last.Path, last.Status)
	}
	return pages, nil
}

func (f fetcher) get(ctx context.Context, path string, send []byte) (*Page, error) {
	p := &Page{Path: path}
	trace := &httptrace.ClientTrace{GotConn: func(info httptrace.GotConnInfo) {
		f.sessions.mu.Lock()
		defer f.sessions.mu.Unlock()
		p.Connection = f.sessions.byIO[info.Conn]
	}}
	method, from := http.MethodGet, io.Reader(nil)
	if send != nil {
		method, from = http.MethodPost, bytes.NewReader(send)
	}
	req, err := http.NewRequestWithContext(httptrace.WithClientTrace(ctx, trace), method, f.base+path, from)
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", method, path, err)
	}
	if send != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := f.client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", method, path, errors.Unwrap(err))
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, MaxPage+1))
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", method, path, err)
	}
	if len(body) > MaxPage {
		return nil, fmt.Errorf("%s %s: more than %d bytes", method, path, MaxPage)
	}
	p.Status, p.ContentType = resp.StatusCode, resp.Header.Get("Content-Type")
	if resp.StatusCode == http.StatusOK {
		p.Body = append([]byte{}, body...)
	}
	return p, nil
}
