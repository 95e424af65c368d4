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
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/retally/retally/evidence/capture"
	"github.com/retally/retally/evidence/certs"
	"github.com/retally/retally/evidence/fake"
	"github.com/retally/retally/internal/digest"
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
			again, err := capture.Open(dir)
			if err != nil {
				t.Fatal(err)
			}
			if id, n := again.Identity(); id.IsZero() || n == 0 || len(again.Files) != 1+len(tt.want)+1 || !capture.IsCapture(dir) {
				t.Errorf("read %v, identity %s of %d bytes", again.Files, id, n)
			}
			again.Files = nil
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
	outside := filepath.Join(t.TempDir(), "cpu.html")
	if err := os.WriteFile(outside, []byte("quote"), 0o644); err != nil {
		t.Fatal(err)
	}
	type folder string
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	write := func(name, text string) func(folder) {
		return func(f folder) { must(os.WriteFile(filepath.Join(string(f), name), []byte(text), 0o644)) }
	}
	remove := func(name string) func(folder) {
		return func(f folder) { must(os.Remove(filepath.Join(string(f), name))) }
	}
	both := func(edits ...func(folder)) func(folder) {
		return func(f folder) {
			for _, e := range edits {
				e(f)
			}
		}
	}
	link := func(to, name string) func(folder) {
		return both(remove(name), func(f folder) { must(os.Symlink(to, filepath.Join(string(f), name))) })
	}
	index := func(pairs ...string) func(folder) {
		return func(f folder) {
			path := filepath.Join(string(f), capture.Index)
			data, err := os.ReadFile(path)
			must(err)
			text := string(data)
			for i := 0; i < len(pairs); i += 2 {
				edited := strings.Replace(text, pairs[i], pairs[i+1], 1)
				if edited == text {
					t.Fatalf("%s is not in the index:\n%s", pairs[i], text)
				}
				text = edited
			}
			must(os.WriteFile(path, []byte(text), 0o644))
		}
	}
	chain, err := os.ReadFile(filepath.Join(dir, "tls-chain-1.pem"))
	must(err)
	const connection = `"connections": [`
	second := func(number string) func(folder) {
		return both(write("tls-chain-2.pem", string(chain)), index(connection, connection+`{"number": `+number+`, "tls_version": "TLS 1.3", "server_name": "127.0.0.1", "certificates": "tls-chain-2.pem"},`))
	}
	sum := digest.SHA256.Sum([]byte("quote")).String()
	cpu := `"kind": "cpu",`
	page := func(members string) func(folder) { return index(`"pages": [`, `"pages": [{`+members+`},`) }
	for name, tt := range map[string]struct {
		edit func(folder)
		want string
	}{
		"good":                      {func(folder) {}, ""},
		"a file that is not listed": {write("notes.txt", "mine"), ""},
		"page changed":              {write("cpu.html", "other"), "read capture.json: /pages/0: found cpu.html is sha256:"},
		"page gone":                 {remove("cpu.html"), "cpu.html"},
		"no index":                  {remove(capture.Index), "capture.json"},
		"index no JSON":             {write(capture.Index, "{"), "read capture.json: found"},
		"index no object":           {write(capture.Index, "[]"), "read capture.json: found a value of type array"},
		"other format":              {index("retally-capture/1", "retally-capture/2"), `/format: found "retally-capture/2"`},
		"file outside":              {index(`"cpu.html",`, `"../cpu.html",`), "want \"cpu.html\", a file in the capture's folder"},
		"absolute file":             {index(`"cpu.html",`, `"`+filepath.ToSlash(outside)+`",`), "a file in the capture's folder"},
		"index for a page":          {index(`"cpu.html",`, `"capture.json",`), "a file in the capture's folder"},
		"chain outside":             {index(`"tls-chain-1.pem"`, `"../tls-chain-1.pem"`), "a file in the capture's folder"},
		"folder for a file":         {both(remove("cpu.html"), func(f folder) { must(os.Mkdir(filepath.Join(string(f), "cpu.html"), 0o755)) }), "is no regular file"},
		"page is a link out":        {link(outside, "cpu.html"), "cpu.html is a link"},
		"page is a link within":     {both(write("other.html", "quote"), link("other.html", "cpu.html")), "cpu.html is a link"},
		"chain is a link out":       {link(outside, "tls-chain-1.pem"), "tls-chain-1.pem is a link"},
		"index is a link":           {both(write("other.json", "{}"), link("other.json", capture.Index)), "capture.json is a link"},
		"chain":                     {write("tls-chain-1.pem", "x"), "read tls-chain-1.pem: offset 0"},
		"chain empty":               {write("tls-chain-1.pem", ""), "no certificate"},
		"chain too long":            {write("tls-chain-1.pem", strings.Repeat("x", certs.MaxChainBytes+1)), "more than 65536 bytes"},
		"unknown member":            {index(cpu, cpu+`"key": 1,`), "/pages/0/key: found an unknown member"},
		"member in capitals":        {index(cpu, cpu+`"Connection": 2,`), "/pages/0/Connection: found an unknown member"},
		"member twice":              {index(cpu, cpu+cpu), "appears twice"},
		"no pages":                  {index(`"pages"`, `"sites"`), "/sites: found an unknown member"},
		"unknown kind":              {index(`"kind": "cpu"`, `"kind": "tpm"`), `/pages/0/kind: found "tpm"`},
		"status without a page":     {index(`"status": 200`, `"status": 404`), "/pages/0: found status 404"},
		"page without a digest":     {index(sum, ""), "/pages/0: found"},
		"status of nothing":         {index(`"status": 200`, `"status": 7`), "/pages/0/status: found 7"},
		"problem and page":          {index(`"status": 200`, `"problem": "x", "status": 200`), "a page with a problem and an answer"},
		"connection 0":              {index(`"connection": 1`, `"connection": 0`), "/pages/0/connection: found 0, want one of the 1 connections"},
		"connection 2 of 1":         {index(`"connection": 1`, `"connection": 2`), "/pages/0/connection: found 2"},
		"connection -1":             {index(`"connection": 1`, `"connection": -1`), "/pages/0/connection: found -1"},
		"connections reordered":     {second("2"), "/connections/0/number: found 2, want 1"},
		"a number twice":            {second("1"), "/connections/0/certificates: found"},
		"another server's name":     {index(`"server_name": "127.0.0.1"`, `"server_name": "other.example"`), `/server_name: found "other.example", want "127.0.0.1"`},
		"another target":            {index(`"target": "127.0.0.1`, `"target": "127.0.0.2`), "/server_name: found"},
		"no target":                 {index(`"target": "127.0.0.1`, `"target": "https://127.0.0.1`), "/target: found"},
		"unknown TLS":               {index("TLS 1.3", "TLS 1.0"), "/tls_version: found"},
		"no time":                   {index(`"captured_at": "2026-06-01T12:00:00Z"`, `"captured_at": "0001-01-01T00:00:00Z"`), "/captured_at: found no time"},
		"two quotes":                {both(write("cpu.txt", "quote"), page(`"kind": "cpu", "path": "/cpu", "status": 200, "file": "cpu.txt", "digest": "`+sum+`", "connection": 1`)), "a second page of kind"},
		"a path twice":              {page(`"kind": "gpu", "path": "/cpu.html", "status": 404, "connection": 1`), "want a path, each once"},
		"relative path":             {page(`"kind": "gpu", "path": "gpu", "status": 404, "connection": 1`), "want a path, each once"},
	} {
		copied := filepath.Join(t.TempDir(), "copy")
		must(os.CopyFS(copied, os.DirFS(dir)))
		tt.edit(folder(copied))
		_, err := capture.Open(copied)
		if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("%s: got %v, want %q", name, err, tt.want)
		}
	}
}

// FuzzIndex: no panic; an index that is read names files of its folder only, one
// page of a kind, and a connection for each.
func FuzzIndex(f *testing.F) {
	f.Add([]byte(`{"format": "retally-capture/1", "target": "vm:29343", "captured_at": "2026-06-01T12:00:00Z",
 "pages": [{"kind": "cpu", "path": "/cpu.html", "status": 200, "file": "cpu.html", "digest": "sha256:` + strings.Repeat("0", 64) + `", "connection": 1},
  {"kind": "gpu", "path": "/gpu", "status": 404, "connection": 1}, {"kind": "gpu", "path": "/gpu.html", "status": 0, "connection": 0, "problem": "x"}],
 "connections": [{"number": 1, "tls_version": "TLS 1.3", "server_name": "vm", "certificates": "tls-chain-1.pem"}]}`))
	f.Add([]byte(`{"pages": null}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		files, connections, err := capture.CheckIndex(text)
		if err != nil {
			return
		}
		if connections > capture.MaxConnections {
			t.Fatalf("%d connections", connections)
		}
		for kind, name := range files {
			if name != filepath.Base(name) || strings.ContainsAny(name, "/\\\x00") {
				t.Fatalf("%s is in %q", kind, name)
			}
		}
	})
}
