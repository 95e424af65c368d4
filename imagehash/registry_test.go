package imagehash_test

import (
	"bytes"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/google/go-containerregistry/pkg/registry"

	"github.com/retally/retally/imagehash"
	digestpkg "github.com/retally/retally/internal/digest"
)

// pushed starts go-containerregistry's registry behind wrap and puts an image
// into it. It returns host:port/app and the image's digest.
func pushed(t *testing.T, i timage, wrap func(http.Handler) http.Handler) (repo, digest string) {
	t.Helper()
	inner := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	direct := httptest.NewServer(inner)
	t.Cleanup(direct.Close)
	digest = push(t, direct.URL, i)
	server := httptest.NewServer(wrap(inner))
	t.Cleanup(server.Close)
	return strings.TrimPrefix(server.URL, "http://") + "/app", digest
}

func push(t *testing.T, url string, i timage) string {
	t.Helper()
	blobs := tblobs{}
	root := i.build(t, blobs)
	for d, p := range blobs {
		send(t, http.MethodPost, url+"/v2/app/blobs/uploads/?digest="+d, "application/octet-stream", p)
		switch {
		case bytes.Contains(p, []byte(ociIndex)):
			defer send(t, http.MethodPut, url+"/v2/app/manifests/"+d, ociIndex, p)
		case bytes.Contains(p, []byte(`"schemaVersion"`)):
			mediaType := ociManifest
			if i.docker {
				mediaType = dockerManifest
			}
			send(t, http.MethodPut, url+"/v2/app/manifests/"+d, mediaType, p)
		}
	}
	send(t, http.MethodPut, url+"/v2/app/manifests/v1", root.MediaType, blobs[root.Digest])
	return root.Digest
}

func send(t *testing.T, method, url, mediaType string, p []byte) {
	t.Helper()
	req, err := http.NewRequest(method, url, bytes.NewReader(p))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", mediaType)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode >= 300 {
		text, _ := io.ReadAll(resp.Body)
		t.Fatalf("%s %s: %s %s", method, url, resp.Status, text)
	}
}

func honest(h http.Handler) http.Handler { return h }

// noCredentials keeps the machine's own credentials out of tests.
func noCredentials(t *testing.T) {
	t.Helper()
	t.Setenv("HOME", t.TempDir())
	t.Setenv("DOCKER_CONFIG", "")
	t.Setenv("XDG_RUNTIME_DIR", "")
	t.Setenv("XDG_CONFIG_HOME", "")
	t.Setenv("REGISTRY_AUTH_FILE", "")
	t.Setenv("HTTP_PROXY", "")
	t.Setenv("HTTPS_PROXY", "")
}

func TestRegistry(t *testing.T) {
	noCredentials(t)
	for seed := range uint64(4) {
		i := randomImage(seed)
		i.platform = seed%2 == 0
		i.docker = seed == 3
		if i.docker {
			for k := range i.layers {
				i.layers[k].comp = "gzip"
			}
		}
		repo, digest := pushed(t, i, honest)
		var progress imagehash.Progress
		r, err := imagehash.VerifyRef(t.Context(), repo+"@"+digest, imagehash.Options{Progress: &progress})
		if err != nil {
			t.Fatal(err)
		}
		if !r.OK() || len(r.Images) != 1 || r.Images[0].Digest.String() != digest {
			t.Errorf("got %+v, want the image %s without problems", r, digest)
		}
		if progress.Done() == 0 || progress.Done() != progress.Total() {
			t.Errorf("progress %d of %d", progress.Done(), progress.Total())
		}
		// The layout of the same image gives the same platforms.
		dir, _ := layoutOf(t, i)
		l, err := imagehash.VerifyRef(t.Context(), dir, imagehash.Options{})
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(l.Images[0].Platforms, r.Images[0].Platforms, cmpopts.EquateComparable(digestpkg.Digest{})); diff != "" {
			t.Errorf("layout and registry differ (-layout +registry):\n%s", diff)
		}
		// Tags are refused, unless they are asked for, and then shown.
		if _, err := imagehash.VerifyRef(t.Context(), repo+":v1", imagehash.Options{}); !errors.Is(err, imagehash.ErrTag) {
			t.Errorf("got error %v for a tag, want ErrTag", err)
		}
		r, err = imagehash.VerifyRef(t.Context(), repo+":v1", imagehash.Options{Remote: imagehash.Remote{Tags: true}})
		if err != nil {
			t.Fatal(err)
		}
		if !r.OK() || r.Images[0].Digest.String() != digest || !slices.Contains(codes(r.AllNotes()), "tag-resolved") || !strings.HasSuffix(r.Images[0].Name, "@"+digest) {
			t.Errorf("got %+v, want the tag resolved to %s", r, digest)
		}
	}
}

func TestRegistryConfigOnly(t *testing.T) {
	noCredentials(t)
	var blobs atomic.Int32
	repo, digest := pushed(t, randomImage(9), func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if strings.Contains(r.URL.Path, "/blobs/") {
				blobs.Add(1)
			}
			h.ServeHTTP(w, r)
		})
	})
	r, err := imagehash.VerifyRef(t.Context(), repo+"@"+digest, imagehash.Options{SkipLayers: true})
	if err != nil {
		t.Fatal(err)
	}
	p := r.Images[0].Platforms[0]
	if !r.OK() || sha(p.RawConfig) != p.Config.String() || blobs.Load() != 1 || !slices.Contains(codes(r.AllNotes()), "layers-not-read") {
		t.Errorf("got %+v after %d blobs, want the config alone", r, blobs.Load())
	}
}

func TestRegistryStore(t *testing.T) {
	noCredentials(t)
	var requests atomic.Int32
	repo, digest := pushed(t, randomImage(1), func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if strings.Contains(r.URL.Path, "/blobs/") {
				requests.Add(1)
			}
			h.ServeHTTP(w, r)
		})
	})
	dir := t.TempDir()
	store, err := imagehash.OpenStore(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	verify := func() int32 {
		before := requests.Load()
		r, err := imagehash.VerifyRef(t.Context(), repo+"@"+digest, imagehash.Options{Remote: imagehash.Remote{Store: store}})
		if err != nil {
			t.Fatal(err)
		}
		if !r.OK() {
			t.Errorf("got problems %+v", r.AllProblems())
		}
		return requests.Load() - before
	}
	if n := verify(); n == 0 {
		t.Errorf("first run asked for no blob")
	}
	if n := verify(); n != 0 {
		t.Errorf("second run asked for %d blobs, want 0", n)
	}
	names, err := filepath.Glob(filepath.Join(dir, "sha256-*"))
	if err != nil || len(names) == 0 {
		t.Fatalf("store holds %v, %v", names, err)
	}
	// A changed file is found, dropped and pulled again.
	data, err := os.ReadFile(names[0])
	if err != nil {
		t.Fatal(err)
	}
	data[len(data)/2] ^= 1
	if err := os.WriteFile(names[0], data, 0o600); err != nil {
		t.Fatal(err)
	}
	if n := verify(); n != 1 {
		t.Errorf("after a change asked for %d blobs, want 1", n)
	}
	if again, _ := os.ReadFile(names[0]); bytes.Equal(again, data) {
		t.Error("the changed file is still there")
	}
}

// onBlob answers requests for blobs of at least 100 bytes with f.
func onBlob(f http.HandlerFunc) func(http.Handler) http.Handler {
	return func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if strings.Contains(r.URL.Path, "/blobs/") {
				f(w, r)
				return
			}
			h.ServeHTTP(w, r)
		})
	}
}

func onManifest(f http.HandlerFunc) func(http.Handler) http.Handler {
	return func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if strings.Contains(r.URL.Path, "/manifests/") {
				f(w, r)
				return
			}
			h.ServeHTTP(w, r)
		})
	}
}

func hang(_ http.ResponseWriter, r *http.Request) {
	select {
	case <-r.Context().Done():
	case <-time.After(20 * time.Second):
	}
}

func endless(w http.ResponseWriter, r *http.Request) {
	zeros := make([]byte, 64<<10)
	for r.Context().Err() == nil {
		if _, err := w.Write(zeros); err != nil {
			return
		}
	}
}

// Against a hostile registry the verdict is an error or a problem within the
// time-out, and the store stays empty.
func TestHostileRegistry(t *testing.T) {
	noCredentials(t)
	bomb := gzipped(t, make([]byte, 96<<20))
	elsewhere := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte("stolen")) }))
	t.Cleanup(elsewhere.Close)
	for _, tt := range []struct {
		name    string
		wrap    func(http.Handler) http.Handler
		code    string // of a problem; or
		message string // in the error
	}{
		{"hangs from the start", func(http.Handler) http.Handler { return http.HandlerFunc(hang) }, "", "registry"},
		{"hangs on the manifest", onManifest(hang), "", "timeout"},
		{"hangs on a blob", onBlob(hang), "", "timeout"},
		{"stalls in a blob", onBlob(func(w http.ResponseWriter, r *http.Request) {
			w.Write([]byte("some"))
			w.(http.Flusher).Flush()
			hang(w, r)
		}), "", "stalled"},
		{"drips", onBlob(func(w http.ResponseWriter, r *http.Request) {
			for r.Context().Err() == nil {
				w.Write([]byte("x"))
				w.(http.Flusher).Flush()
				time.Sleep(20 * time.Millisecond)
			}
		}), "", "stalled"},
		{"500 on everything", func(http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) })
		}, "", "500"},
		{"503 on blobs", onBlob(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(503) }), "", "Service Unavailable"},
		{"404 on blobs", onBlob(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(404) }), "blob-missing", ""},
		{"401 on blobs", onBlob(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(401) }), "", "access denied"},
		{"other bytes", onBlob(func(w http.ResponseWriter, _ *http.Request) { w.Write(bytes.Repeat([]byte("x"), 90)) }), "digest-mismatch", ""},
		{"other manifest", onManifest(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", ociManifest)
			fmt.Fprint(w, `{"schemaVersion":2}`)
		}), "digest-mismatch", ""},
		{"endless blob", onBlob(endless), "size-mismatch", ""},
		{"endless manifest", onManifest(endless), "", "longer than"},
		{"short body", onBlob(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "1000")
			w.Write([]byte("short"))
		}), "", "broke off"},
		{"gzip bomb", onBlob(func(w http.ResponseWriter, _ *http.Request) { w.Write(bomb) }), "size-mismatch", ""},
		{"redirect to another host", onBlob(func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, elsewhere.URL+"/x", http.StatusTemporaryRedirect)
		}), "", "another host without TLS"},
		{"redirect to a name without TLS", onBlob(func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://registry.example/x", http.StatusFound)
		}), "", "another host without TLS"},
		{"redirect to a file", onBlob(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Location", "file:///etc/passwd")
			w.WriteHeader(http.StatusFound)
		}), "", "redirected to file"},
		{"redirect loop", onBlob(func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, r.URL.Path, http.StatusFound)
		}), "", "redirects"},
		{"token server elsewhere", func(http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("WWW-Authenticate", `Bearer realm="http://169.254.169.254/token",service="x"`)
				w.WriteHeader(http.StatusUnauthorized)
			})
		}, "", "registry"},
		{"endless token", func(h http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/token" {
					endless(w, r)
					return
				}
				w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="http://%s/token",service="x"`, r.Host))
				w.WriteHeader(http.StatusUnauthorized)
			})
		}, "", "registry"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			store, err := imagehash.OpenStore(dir)
			if err != nil {
				t.Fatal(err)
			}
			defer store.Close()
			i := randomImage(2)
			i.layers = i.layers[:1]
			repo, digest := pushed(t, i, tt.wrap)
			started := time.Now()
			r, err := imagehash.VerifyRef(t.Context(), repo+"@"+digest, imagehash.Options{Remote: imagehash.Remote{Timeout: 300 * time.Millisecond, Retries: 1, Store: store}})
			if d := time.Since(started); d > 5*time.Second {
				t.Errorf("took %v", d)
			}
			switch {
			case tt.code != "" && err != nil:
				t.Errorf("got error %v, want problem %s", err, tt.code)
			case tt.code != "" && !slices.Contains(codes(r.AllProblems()), tt.code):
				t.Errorf("got problems %+v, want %s", r.AllProblems(), tt.code)
			case tt.code == "" && (err == nil || !strings.Contains(err.Error(), tt.message)):
				t.Errorf("got %+v, error %v; want an error with %q", r, err, tt.message)
			}
			// What was right before the lie may be kept, nothing else.
			names, err := os.ReadDir(dir)
			if err != nil {
				t.Fatal(err)
			}
			for _, n := range names {
				data, err := os.ReadFile(filepath.Join(dir, n.Name()))
				if err != nil {
					t.Fatal(err)
				}
				if "sha256-"+strings.TrimPrefix(sha(data), "sha256:") != n.Name() {
					t.Errorf("%s was kept", n.Name())
				}
			}
		})
	}
}

// A registry that the user named, on loopback, sends the client to services in
// the own network: by redirects of blobs, and by the place where to log in.
func TestRegistryReachesNothingInside(t *testing.T) {
	noCredentials(t)
	var asked atomic.Int32
	inside := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked.Add(1)
		fmt.Fprint(w, `{"token":"x"}`)
	}))
	t.Cleanup(inside.Close)
	inside.Config.ErrorLog = log.New(io.Discard, "", 0)
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: inside.Certificate().Raw})
	port := inside.URL[strings.LastIndex(inside.URL, ":"):]
	for _, host := range []string{
		"localhost", "LOCALHOST", "localhost.", "127.0.0.1", "127.1", "2130706433", "0x7f000001", "0177.0.0.1", "[::1]", "[::ffff:127.0.0.1]",
		"[fe80::1%25lo]", "0.0.0.0", "[::]", "10.0.0.1", "100.64.0.1", "169.254.169.254", "[fd00::1]", "[64:ff9b::10.0.0.1]",
	} {
		target := "https://" + host + port + "/v2/secret"
		for name, wrap := range map[string]func(http.Handler) http.Handler{
			"blob": onBlob(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Location", target)
				w.WriteHeader(http.StatusTemporaryRedirect)
			}),
			"login": func(http.Handler) http.Handler {
				return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
					w.Header().Set("WWW-Authenticate", fmt.Sprintf("Bearer realm=%q,service=\"x\"", target))
					w.WriteHeader(http.StatusUnauthorized)
				})
			},
		} {
			if name == "login" && host == "127.0.0.1" {
				continue // the registry's own host, which the user named
			}
			i := randomImage(2)
			i.layers = i.layers[:1]
			repo, digest := pushed(t, i, wrap)
			remote := imagehash.Remote{Timeout: 2 * time.Second, Retries: -1, RootCAs: ca}
			_, err := imagehash.VerifyRef(t.Context(), repo+"@"+digest, imagehash.Options{Remote: remote})
			// Some spellings are no name to some resolvers, and the library
			// looks at places to log in, too.
			said := func(s string) bool { return err != nil && strings.Contains(err.Error(), s) }
			if !said("own network") && !said("no such host") && !said("lookup ") && !(name == "login" && said("private or link-local")) {
				t.Errorf("%s at %s: got %v", name, host, err)
			}
		}
	}
	if n := asked.Load(); n != 0 {
		t.Errorf("services inside were asked %d times", n)
	}
}

// A connection that breaks is resumed where it broke.
func TestRegistryResumes(t *testing.T) {
	noCredentials(t)
	var mu sync.Mutex
	seen := map[string]int{}
	for _, ranges := range []bool{true, false} {
		repo, digest := pushed(t, randomImage(5), func(h http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if !strings.Contains(r.URL.Path, "/blobs/") {
					h.ServeHTTP(w, r)
					return
				}
				mu.Lock()
				seen[r.URL.Path]++
				first := seen[r.URL.Path] == 1
				mu.Unlock()
				rec := httptest.NewRecorder()
				r.Header.Del("Range")
				h.ServeHTTP(rec, r)
				body := rec.Body.Bytes()
				if first {
					w.Header().Set("Content-Length", fmt.Sprint(len(body)))
					w.Write(body[:len(body)/2])
					return
				}
				if ranges {
					http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(body))
					return
				}
				w.Write(body)
			})
		})
		clear(seen)
		r, err := imagehash.VerifyRef(t.Context(), repo+"@"+digest, imagehash.Options{})
		if err != nil {
			t.Fatal(err)
		}
		if !r.OK() {
			t.Errorf("got problems %+v", r.AllProblems())
		}
	}
}

// Mirrors, TLS with an extra authority, and credentials as docker and podman
// keep them; the password appears nowhere.
func TestRegistryMirrorTLSCredentials(t *testing.T) {
	noCredentials(t)
	inner := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	plain := httptest.NewServer(inner)
	t.Cleanup(plain.Close)
	digest := push(t, plain.URL, randomImage(3))
	const secret = "hunter2hunter2"
	var denied atomic.Int32
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, password, _ := r.BasicAuth(); password != secret {
			denied.Add(1)
			w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		inner.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	host := strings.TrimPrefix(server.URL, "https://")
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	remote := imagehash.Remote{RootCAs: ca, Mirrors: map[string]string{"ghcr.io": host}, Retries: -1, Timeout: 5 * time.Second}
	ref := "ghcr.io/app@" + digest

	if _, err := imagehash.VerifyRef(t.Context(), ref, imagehash.Options{Remote: remote}); err == nil || !strings.Contains(err.Error(), "access denied") {
		t.Errorf("without credentials: got %v, want access denied", err)
	}
	auth := fmt.Sprintf(`{"auths":{%q:{"auth":%q}}}`, host, base64.StdEncoding.EncodeToString([]byte("user:"+secret)))
	for name, setenv := range map[string]func(dir string) (file string){
		"docker": func(dir string) string {
			t.Setenv("DOCKER_CONFIG", dir)
			return filepath.Join(dir, "config.json")
		},
		"podman": func(dir string) string {
			t.Setenv("DOCKER_CONFIG", "")
			t.Setenv("XDG_RUNTIME_DIR", dir)
			return filepath.Join(dir, "containers", "auth.json")
		},
	} {
		p := setenv(t.TempDir())
		if err := os.MkdirAll(filepath.Dir(p), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(auth), 0o600); err != nil {
			t.Fatal(err)
		}
		r, err := imagehash.VerifyRef(t.Context(), ref, imagehash.Options{Remote: remote})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if !r.OK() || strings.Contains(fmt.Sprintf("%+v", r), secret) {
			t.Errorf("%s: got %+v", name, r)
		}
	}
	// An unknown authority is an error, not a fallback.
	remote.RootCAs = nil
	if _, err := imagehash.VerifyRef(t.Context(), ref, imagehash.Options{Remote: remote}); err == nil || strings.Contains(err.Error(), secret) {
		t.Errorf("unknown authority: got %v", err)
	}
}
