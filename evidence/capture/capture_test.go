package capture_test

import (
	"context"
	"crypto/elliptic"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/retally/retally/evidence/capture"
	"github.com/retally/retally/evidence/certs"
	"github.com/retally/retally/evidence/fake"
)

var clock = time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)

// machine serves pages over TLS with a key of its own.
func machine(t *testing.T, name string, handler http.Handler) (*httptest.Server, *x509.Certificate) {
	t.Helper()
	key, err := fake.Key(elliptic.P256(), "tls "+name)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := fake.Issue(fake.Certificate{Name: name, From: clock.AddDate(-1, 0, 0), Until: clock.AddDate(20, 0, 0), Serial: 1}, key, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewUnstartedServer(handler)
	s.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{cert.Raw}, PrivateKey: key}}}
	s.Config.ErrorLog = nil
	s.StartTLS()
	t.Cleanup(s.Close)
	return s, cert
}

func pages(content map[string]string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		text, ok := content[r.URL.Path]
		if !ok {
			http.Error(w, `{"error":"GPU attestation not available"}`, http.StatusNotFound)
			return
		}
		fmt.Fprint(w, text)
	})
}

func fetch(t *testing.T, s *httptest.Server) (*capture.Capture, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	return capture.Fetch(ctx, s.Listener.Addr().String(), capture.Options{Now: func() time.Time { return clock }})
}

func TestFetch(t *testing.T) {
	for _, tt := range []struct {
		name    string
		content map[string]string
		want    map[capture.Kind]string
	}{
		{"all", map[string]string{"/cpu.html": "<pre>quote</pre>", "/gpu": "{}", "/docker-compose.html": "services:"}, map[capture.Kind]string{capture.CPU: "<pre>quote</pre>", capture.GPU: "{}", capture.Compose: "services:"}},
		{"no GPU", map[string]string{"/cpu.html": "quote"}, map[capture.Kind]string{capture.CPU: "quote"}},
		{"plain text", map[string]string{"/cpu": "quote", "/gpu.html": "gpu"}, map[capture.Kind]string{capture.CPU: "quote", capture.GPU: "gpu"}},
		{"empty page", map[string]string{"/cpu.html": "", "/gpu": "x"}, map[capture.Kind]string{capture.CPU: "", capture.GPU: "x"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s, cert := machine(t, tt.name, pages(tt.content))
			c, err := fetch(t, s)
			if err != nil {
				t.Fatal(err)
			}
			got := map[capture.Kind]string{}
			for _, k := range []capture.Kind{capture.CPU, capture.GPU, capture.Compose} {
				if p := c.Page(k); p != nil {
					got[k] = string(p.Body)
					if p.Connection != 1 {
						t.Errorf("%s came over connection %d, want the first", k, p.Connection)
					}
				}
			}
			if d := cmp.Diff(tt.want, got); d != "" {
				t.Errorf("pages (-want +got):\n%s", d)
			}
			if len(c.Connections) != 1 || !cmp.Equal(c.Chain(1), [][]byte{cert.Raw}) {
				t.Errorf("%d connections; the chain is not the server's", len(c.Connections))
			}
			dir := filepath.Join(t.TempDir(), "capture")
			if err := c.Write(dir); err != nil {
				t.Fatal(err)
			}
			again, err := capture.Read(os.DirFS(dir))
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(c, again); d != "" {
				t.Errorf("written and read (-want +got):\n%s", d)
			}
			if err := c.Write(dir); err == nil {
				t.Error("a folder with files was written into")
			}
		})
	}
}

// TestOtherConnection: a server that closes after each page shows its chain
// again, and each page says over which connection it came.
func TestOtherConnection(t *testing.T) {
	inner := pages(map[string]string{"/cpu.html": "quote", "/gpu": "gpu"})
	s, _ := machine(t, "closing", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Connection", "close")
		inner.ServeHTTP(w, r)
	}))
	c, err := fetch(t, s)
	if err != nil {
		t.Fatal(err)
	}
	if cpu, gpu := c.Page(capture.CPU), c.Page(capture.GPU); cpu.Connection != 1 || gpu.Connection != 2 || c.Chain(2) == nil {
		t.Errorf("pages came over connections %d and %d of %d", cpu.Connection, gpu.Connection, len(c.Connections))
	}
}

// TestBrokenOptionalPage: a page that may be missing does not cost the quote.
func TestBrokenOptionalPage(t *testing.T) {
	s, _ := machine(t, "hangup", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/cpu.html" {
			panic(http.ErrAbortHandler)
		}
		fmt.Fprint(w, "quote")
	}))
	c, err := fetch(t, s)
	if err != nil {
		t.Fatal(err)
	}
	if c.Page(capture.GPU) != nil || c.Pages[1].Kind != capture.GPU || !strings.Contains(c.Pages[1].Problem, "GET /gpu: ") {
		t.Errorf("pages %+v", c.Pages)
	}
}

func TestFetchErrors(t *testing.T) {
	big := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if _, err := io.CopyN(w, zeros{}, capture.MaxPage+1); err != nil {
			return
		}
	})
	away := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "https://127.0.0.1:1/cpu.html", http.StatusFound)
	})
	for name, tt := range map[string]struct {
		h    http.Handler
		want string
	}{
		"no page":  {pages(nil), "GET /cpu: status 404, want 200"},
		"too long": {big, "more than 8388608 bytes"},
		"redirect": {away, "GET /cpu: status 302"},
	} {
		s, _ := machine(t, name, tt.h)
		if _, err := fetch(t, s); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want %q", name, err, tt.want)
		}
	}
	plain := httptest.NewServer(pages(nil))
	defer plain.Close()
	if _, err := fetch(t, plain); err == nil || !strings.Contains(err.Error(), "GET /cpu.html: ") {
		t.Errorf("no TLS: %v", err)
	}
	refused := func(context.Context, string, string) (net.Conn, error) { return nil, fmt.Errorf("refused") }
	if _, err := capture.Fetch(t.Context(), "127.0.0.1", capture.Options{Dial: refused}); err == nil || !strings.Contains(err.Error(), "capture 127.0.0.1:29343: GET /cpu.html: refused") {
		t.Errorf("no connection: %v", err)
	}
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { return len(b), nil }

func TestParseTarget(t *testing.T) {
	for in, want := range map[string]string{
		"vm.example": "vm.example 29343", "vm.example:21434": "vm.example 21434", "https://vm.example/": "vm.example 29343",
		"127.0.0.1:1": "127.0.0.1 1", "[::1]": "::1 29343", "::1": "::1 29343", "[::1]:5": "::1 5",
		"": "", "http://vm": "", "vm/cpu.html": "", "user@vm": "", "vm:0": "", "vm:70000": "", "vm?x": "", "vm:x": "",
	} {
		host, port, err := capture.ParseTarget(in)
		got := strings.TrimSpace(host + " " + port)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%q: got %q, %v, want %q", in, got, err, want)
		}
	}
}

// TestReadErrors: what was changed after writing is not read.
func TestReadErrors(t *testing.T) {
	s, _ := machine(t, "read", pages(map[string]string{"/cpu.html": "quote"}))
	c, err := fetch(t, s)
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "c")
	if err := c.Write(dir); err != nil {
		t.Fatal(err)
	}
	files := func() fstest.MapFS {
		out := fstest.MapFS{}
		for _, name := range []string{capture.Index, "cpu.html", "tls-chain-1.pem"} {
			data, err := os.ReadFile(filepath.Join(dir, name))
			if err != nil {
				t.Fatal(err)
			}
			out[name] = &fstest.MapFile{Data: data}
		}
		return out
	}
	index := func(old, new string) func(fstest.MapFS) {
		return func(m fstest.MapFS) {
			edited := strings.Replace(string(m[capture.Index].Data), old, new, 1)
			if edited == string(m[capture.Index].Data) {
				t.Fatalf("%s is not in the index", old)
			}
			m[capture.Index].Data = []byte(edited)
		}
	}
	for name, tt := range map[string]struct {
		edit func(fstest.MapFS)
		want string
	}{
		"good":              {func(fstest.MapFS) {}, ""},
		"page changed":      {func(m fstest.MapFS) { m["cpu.html"].Data = []byte("other") }, "read capture.json: /pages/0: found cpu.html is sha256:"},
		"page gone":         {func(m fstest.MapFS) { delete(m, "cpu.html") }, "cpu.html"},
		"no index":          {func(m fstest.MapFS) { delete(m, capture.Index) }, "capture.json"},
		"index no JSON":     {func(m fstest.MapFS) { m[capture.Index].Data = []byte("{") }, "read capture.json: found"},
		"other format":      {index("retally-capture/1", "retally-capture/2"), `/format: found "retally-capture/2"`},
		"file outside":      {index(`"cpu.html",`, `"../cpu.html",`), "want a file in the capture's folder"},
		"folder for a file": {func(m fstest.MapFS) { delete(m, "cpu.html"); m["cpu.html/x"] = &fstest.MapFile{} }, "is no regular file"},
		"chain":             {func(m fstest.MapFS) { m["tls-chain-1.pem"].Data = []byte("x") }, "read tls-chain-1.pem: offset 0"},
		"chain too long":    {func(m fstest.MapFS) { m["tls-chain-1.pem"].Data = make([]byte, certs.MaxChainBytes+1) }, "more than 65536 bytes"},
	} {
		m := files()
		tt.edit(m)
		_, err := capture.Read(m)
		if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("%s: got %v, want %q", name, err, tt.want)
		}
	}
}
