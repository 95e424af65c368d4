// Package netguard opens connections on behalf of others: of registries that
// send a client elsewhere, of servers that name where to log in. What the user
// named is reached wherever it is; what a server names is reached only on the
// public internet, or if it is the host that the user named.
//
// A name is resolved once, every address that comes out is judged, and one of
// those very addresses is dialled. So it does not matter how an address is
// spelled, and a name cannot mean one thing when it is judged and another when
// it is dialled.
package netguard

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"time"
)

// Refusal is the error about a host inside the own network that nobody named.
type Refusal struct {
	Why  string // who sends there: "redirected to"
	Host string // as it was spelled
	Addr string // what it is; "" where the name alone says it
}

func (e *Refusal) Error() string {
	s := e.Host
	if e.Why != "" {
		s = e.Why + " " + e.Host
	}
	if e.Addr != "" && e.Addr != e.Host {
		s += ", which is " + e.Addr
	}
	return s + ", an address inside the own network that was not named by the user"
}

// Guard dials. Its methods may be called concurrently.
type Guard struct {
	// Resolve finds the addresses of a name; nil stands for the system's
	// resolver.
	Resolve func(ctx context.Context, host string) ([]netip.Addr, error)
	// Timeout bounds one attempt to connect. Default 30 s.
	Timeout time.Duration

	mu      sync.RWMutex
	named   map[string]bool
	proxies map[string]bool // HOST:PORT
	own     map[netip.Addr]bool
}

// New makes a guard. named are the hosts that the user named, as HOST or
// HOST:PORT; a port does not matter.
func New(named ...string) *Guard {
	g := &Guard{named: map[string]bool{}, proxies: map[string]bool{}, own: map[netip.Addr]bool{}}
	if list, err := net.InterfaceAddrs(); err == nil {
		for _, a := range list {
			if p, err := netip.ParsePrefix(a.String()); err == nil {
				g.own[p.Addr().Unmap().WithZone("")] = true
			}
		}
	}
	for _, n := range named {
		g.Name(n)
	}
	return g
}

// Name adds a host that the user named.
func (g *Guard) Name(hostport string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.named[canonical(hostport)] = true
}

func (g *Guard) isNamed(host string) bool {
	g.mu.RLock()
	defer g.mu.RUnlock()
	return g.named[canonical(host)]
}

// canonical is the one spelling of a host: no port, no brackets, lower case, no
// final dots, addresses as they are printed.
func canonical(hostport string) string {
	host := hostport
	if h, _, err := net.SplitHostPort(hostport); err == nil {
		host = h
	}
	host = strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
	host = strings.ToLower(strings.TrimRight(host, "."))
	if a, err := netip.ParseAddr(host); err == nil {
		return a.Unmap().String()
	}
	return host
}

// SameHost reports whether two hosts with or without ports are one.
func SameHost(a, b string) bool { return canonical(a) == canonical(b) }

type publicOnly struct{}

// PublicOnly returns a context whose connections reach the public internet
// only, also where the user named the host. why says who sends there.
func PublicOnly(ctx context.Context, why string) context.Context {
	return context.WithValue(ctx, publicOnly{}, why)
}

// DialContext is for http.Transport. The context may be one of PublicOnly.
func (g *Guard) DialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	g.mu.RLock()
	proxy := g.proxies[canonical(host)+":"+port]
	g.mu.RUnlock()
	list, err := g.addresses(ctx, host, proxy)
	if err != nil {
		return nil, err
	}
	d := net.Dialer{Timeout: cmp.Or(g.Timeout, 30*time.Second)}
	var errs []error
	for _, a := range list {
		conn, err := d.DialContext(ctx, network, net.JoinHostPort(a.String(), port))
		if err == nil {
			return conn, nil
		}
		errs = append(errs, err)
		if ctx.Err() != nil {
			break
		}
	}
	return nil, errors.Join(errs...)
}

// Check says whether a host may be reached, without connecting.
func (g *Guard) Check(ctx context.Context, host string) error {
	_, err := g.addresses(ctx, host, false)
	return err
}

// addresses resolves a host once and judges all that comes out: one address
// inside is enough to refuse, since whoever controls the name chose it.
func (g *Guard) addresses(ctx context.Context, host string, proxy bool) ([]netip.Addr, error) {
	why, only := ctx.Value(publicOnly{}).(string)
	inside := proxy || g.isNamed(host) && !only
	if name := canonical(host); !inside && (name == "localhost" || strings.HasSuffix(name, ".localhost")) {
		return nil, &Refusal{Why: why, Host: host}
	}
	var list []netip.Addr
	if a, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")); err == nil {
		list = []netip.Addr{a}
	} else if list, err = g.lookup(ctx, host); err != nil {
		return nil, err
	}
	if len(list) == 0 {
		return nil, &net.DNSError{Err: "no address", Name: host, IsNotFound: true}
	}
	for _, a := range list {
		if !inside && (!Public(a) || g.own[a.Unmap()]) {
			return nil, &Refusal{Why: why, Host: host, Addr: a.String()}
		}
	}
	return list, nil
}

func (g *Guard) lookup(ctx context.Context, host string) ([]netip.Addr, error) {
	if g.Resolve != nil {
		return g.Resolve(ctx, host)
	}
	ctx, cancel := context.WithTimeout(ctx, cmp.Or(g.Timeout, 30*time.Second))
	defer cancel()
	return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
}

// Proxy is for http.Transport: the proxy of the environment, which the user
// named. A proxy resolves names itself, so the target is judged here by what the
// name means to this machine; a name that means nothing here is left to the
// proxy.
func (g *Guard) Proxy(req *http.Request) (*url.URL, error) {
	u, err := http.ProxyFromEnvironment(req)
	if err != nil || u == nil {
		return u, err
	}
	var refused *Refusal
	if err := g.Check(req.Context(), req.URL.Hostname()); errors.As(err, &refused) {
		return nil, refused
	}
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
		if port == "" {
			port = "1080" // SOCKS, RFC 1928
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.proxies[canonical(u.Host)+":"+port] = true
	return u, nil
}

// reserved are the networks that are no public internet (IANA IPv4 and IPv6
// Special-Purpose Address Registries, RFC 6890). What netip tells by itself is
// not repeated.
func reserved() []netip.Prefix {
	var out []netip.Prefix
	for _, s := range []string{
		"0.0.0.0/8",       // "this network", RFC 791
		"100.64.0.0/10",   // shared address space (CGNAT), RFC 6598
		"192.0.0.0/24",    // IETF protocol assignments, RFC 6890
		"192.0.2.0/24",    // documentation, RFC 5737
		"192.88.99.0/24",  // deprecated 6to4 relays, RFC 7526
		"198.18.0.0/15",   // benchmarking, RFC 2544
		"198.51.100.0/24", // documentation
		"203.0.113.0/24",  // documentation
		"240.0.0.0/4",     // reserved, RFC 1112; broadcast
		"2001::/23",       // IETF protocol assignments: Teredo, ORCHID and so on
		"2001:db8::/32",   // documentation, RFC 3849
		"3fff::/20",       // documentation, RFC 9637
	} {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

// Public reports whether an address is one of the public internet. Addresses
// that stand for others (IPv4 in IPv6, NAT64, 6to4) are judged by those; an
// address with a zone is of one link and never public.
func Public(a netip.Addr) bool {
	if !a.IsValid() || a.Zone() != "" {
		return false
	}
	a = a.Unmap()
	if a.IsPrivate() || a.IsLoopback() || a.IsUnspecified() || a.IsMulticast() || a.IsLinkLocalUnicast() {
		return false
	}
	if a.Is6() {
		b := a.As16()
		embedded := func(at int) netip.Addr { return netip.AddrFrom4([4]byte(b[at : at+4])) }
		switch {
		case netip.MustParsePrefix("64:ff9b::/96").Contains(a): // NAT64, RFC 6052
			return Public(embedded(12))
		case netip.MustParsePrefix("2002::/16").Contains(a): // 6to4, RFC 3056
			return Public(embedded(2))
		case !netip.MustParsePrefix("2000::/3").Contains(a): // global unicast, RFC 4291
			return false
		case b[10] == 0x5e && b[11] == 0xfe && b[9] == 0 && b[8]&^2 == 0: // ISATAP, RFC 5214
			return Public(embedded(12))
		}
	}
	for _, p := range reserved() {
		if p.Contains(a) {
			return false
		}
	}
	return true
}

// Client is an HTTP client that follows redirects to the public internet and to
// the host of the first request only. Its transport has no other settings.
func (g *Guard) Client() *http.Client {
	return &http.Client{
		Transport: &http.Transport{Proxy: g.Proxy, DialContext: g.DialContext, TLSHandshakeTimeout: cmp.Or(g.Timeout, 30*time.Second), ForceAttemptHTTP2: true},
		CheckRedirect: func(req *http.Request, via []*http.Request) error {
			if len(via) > 5 {
				return errors.New("more than 5 redirects")
			}
			return Redirect(req, via)
		},
	}
}

// Redirect is a part of a CheckRedirect: a request to another place than the
// first one's may reach the public internet only, and never in the clear after
// TLS.
func Redirect(req *http.Request, via []*http.Request) error {
	first := via[0].URL
	if SameHost(req.URL.Hostname(), first.Hostname()) && port(req.URL) == port(first) && (req.URL.Scheme == first.Scheme || req.URL.Scheme == "https") {
		return nil
	}
	if req.URL.Scheme != "https" {
		return fmt.Errorf("redirected to %s://%s, which is another host without TLS", req.URL.Scheme, req.URL.Host)
	}
	*req = *req.WithContext(PublicOnly(req.Context(), "redirected to"))
	return nil
}

func port(u *url.URL) string {
	if p := u.Port(); p != "" {
		return p
	}
	if u.Scheme == "http" {
		return "80"
	}
	return "443"
}
