package netguard_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/retally/retally/internal/netguard"
)

func TestPublic(t *testing.T) {
	for text, want := range map[string]bool{
		"8.8.8.8": true, "2606:4700::1111": true, "::ffff:8.8.8.8": true, "64:ff9b::8.8.8.8": true, "2002:808:808::1": true,
		"127.0.0.1": false, "127.255.0.9": false, "10.0.0.1": false, "172.16.0.1": false, "172.32.0.1": true, "192.168.1.1": false,
		"169.254.169.254": false, "100.64.0.1": false, "100.128.0.1": true, "0.0.0.0": false, "0.1.2.3": false, "224.0.0.1": false,
		"255.255.255.255": false, "240.0.0.1": false, "198.18.0.1": false, "192.0.0.8": false, "203.0.113.1": false,
		"::1": false, "::": false, "::ffff:127.0.0.1": false, "::ffff:10.0.0.1": false, "::127.0.0.1": false,
		"fe80::1": false, "fe80::1%eth0": false, "fc00::1": false, "fd12::1": false, "fec0::1": false, "ff02::1": false,
		"64:ff9b::127.0.0.1": false, "64:ff9b::10.0.0.1": false, "64:ff9b:1::1": false, "2002:7f00:1::": false, "2002:a00:1::1": false,
		"2001:0:1::1": false, "2001:db8::1": false, "100::1": false, "2a00::5efe:10.0.0.1": false, "2a00::200:5efe:8.8.8.8": true,
		"2606:4700::1111%eth0": false,
	} {
		if got := netguard.Public(netip.MustParseAddr(text)); got != want {
			t.Errorf("Public(%s) = %v", text, got)
		}
	}
	if netguard.Public(netip.Addr{}) {
		t.Error("no address is public")
	}
}

// names is a resolver.
func names(m map[string]string) func(context.Context, string) ([]netip.Addr, error) {
	return func(_ context.Context, host string) ([]netip.Addr, error) {
		var out []netip.Addr
		for _, s := range strings.Fields(m[strings.ToLower(strings.TrimRight(host, "."))]) {
			out = append(out, netip.MustParseAddr(s))
		}
		if out == nil {
			return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
		}
		return out, nil
	}
}

func TestCheck(t *testing.T) {
	g := netguard.New("registry.lan:5000", "[fd00::5]:443")
	g.Resolve = names(map[string]string{
		"registry.lan": "10.0.0.5", "public.example": "8.8.8.8", "inside.example": "10.0.0.1", "both.example": "8.8.8.8 10.0.0.1",
		"2130706433": "127.0.0.1", "0177.0.0.1": "127.0.0.1", "127.1": "127.0.0.1", "metadata": "169.254.169.254",
	})
	for host, want := range map[string]bool{
		"public.example": true, "PUBLIC.example.": true, "8.8.8.8": true,
		"registry.lan": true, "Registry.LAN.": true, "fd00::5": true,
		"inside.example": false, "both.example": false, "localhost": false, "LOCALHOST": false, "localhost.": false, "a.localhost": false,
		"127.0.0.1": false, "::1": false, "[::1]": false, "::ffff:127.0.0.1": false, "fe80::1%lo": false, "2130706433": false, "0177.0.0.1": false,
		"127.1": false, "metadata": false, "fd00::6": false, "10.0.0.5": false, "nowhere": false,
	} {
		err := g.Check(t.Context(), host)
		var refused *netguard.Refusal
		if (err == nil) != want || err != nil && host != "nowhere" && !errors.As(err, &refused) {
			t.Errorf("%s: got %v", host, err)
		}
	}
	if err := g.Check(netguard.PublicOnly(t.Context(), "redirected to"), "registry.lan"); err == nil || !strings.Contains(err.Error(), "redirected to registry.lan, which is 10.0.0.5") {
		t.Errorf("a named host where only the public internet counts: got %v", err)
	}
}

// What was judged is what is dialled: the resolver is asked once, and a second
// answer would change nothing.
func TestResolvedOnce(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "inside") }))
	defer server.Close()
	var asked atomic.Int32
	g := netguard.New()
	g.Resolve = func(context.Context, string) ([]netip.Addr, error) {
		if asked.Add(1) == 1 {
			return []netip.Addr{netip.MustParseAddr("192.0.2.1")}, nil // never answers
		}
		return []netip.Addr{netip.MustParseAddr("127.0.0.1")}, nil
	}
	_, port, _ := net.SplitHostPort(server.Listener.Addr().String())
	if conn, err := g.DialContext(t.Context(), "tcp", "rebind.example:"+port); err == nil {
		conn.Close()
		t.Error("a reserved address was dialled")
	}
	if conn, err := g.DialContext(t.Context(), "tcp", "rebind.example:"+port); err == nil {
		conn.Close()
		t.Error("the second answer was believed")
	}
	if n := asked.Load(); n != 2 {
		t.Errorf("the resolver was asked %d times for two connections", n)
	}
	g.Name("rebind.example")
	conn, err := g.DialContext(t.Context(), "tcp", "rebind.example:"+port)
	if err != nil {
		t.Fatalf("a host that the user named: %v", err)
	}
	conn.Close()
}

// A server on loopback that the user named sends the client to other services
// there, in many spellings.
func TestClientRedirects(t *testing.T) {
	var own atomic.Int32
	inside := httptest.NewTLSServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { own.Add(1) }))
	defer inside.Close()
	_, port, _ := net.SplitHostPort(inside.Listener.Addr().String())
	target := ""
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/same" {
			fmt.Fprint(w, "here")
			return
		}
		http.Redirect(w, r, target, http.StatusTemporaryRedirect)
	}))
	defer server.Close()
	g := netguard.New("named.example")
	g.Resolve = names(map[string]string{"named.example": "127.0.0.1", "other.example": "127.0.0.1", "2130706433": "127.0.0.1"})
	client := g.Client()
	client.Transport.(*http.Transport).TLSClientConfig = &tls.Config{InsecureSkipVerify: true}
	_, serverPort, _ := net.SplitHostPort(server.Listener.Addr().String())
	for _, host := range []string{
		"localhost", "LOCALHOST", "localhost.", "x.localhost", "127.0.0.1", "127.0.0.2", "[::1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "other.example",
		"OTHER.example.", "2130706433", "0.0.0.0", "[::]", "named.example", "[64:ff9b::127.0.0.1]", "[fe80::1%25lo]",
	} {
		target = "https://" + host + ":" + port + "/admin"
		resp, err := client.Get("https://named.example:" + serverPort + "/")
		if err == nil {
			resp.Body.Close()
			t.Errorf("redirect to %s: answered %s", target, resp.Status)
		} else if !strings.Contains(err.Error(), "own network") {
			t.Errorf("redirect to %s: %v", target, err)
		}
	}
	if n := own.Load(); n != 0 {
		t.Errorf("the service inside was asked %d times", n)
	}
	target = "http://named.example:" + serverPort + "/same"
	if _, err := client.Get("https://named.example:" + serverPort + "/"); err == nil || !strings.Contains(err.Error(), "without TLS") {
		t.Errorf("from TLS to plain HTTP: got %v", err)
	}
	target = "/same"
	resp, err := client.Get("https://named.example:" + serverPort + "/")
	if err != nil {
		t.Fatalf("a redirect on the same host: %v", err)
	}
	resp.Body.Close()
}

func FuzzPublic(f *testing.F) {
	for _, s := range []string{"\x7f\x00\x00\x01", "\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\xff\xff\x7f\x00\x00\x01", "\x00\x64\xff\x9b\x00\x00\x00\x00\x00\x00\x00\x00\x0a\x00\x00\x01"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		a, ok := netip.AddrFromSlice(b)
		if !ok {
			return
		}
		if netguard.Public(a) && (a.Unmap().IsPrivate() || a.Unmap().IsLoopback() || a.IsLinkLocalUnicast() || !a.IsGlobalUnicast() && !a.Unmap().IsGlobalUnicast()) {
			t.Fatalf("%s is public", a)
		}
	})
}
