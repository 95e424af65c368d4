package imagehash

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/jsondoc"
	"github.com/retally/retally/internal/netguard"
)

// ErrTag is wrapped by the error about a reference that is not pinned by a
// digest while Remote.Tags does not allow that.
var ErrTag = errors.New("the reference is not pinned by a digest")

// Remote says how registries are reached. Proxies come from the environment
// (HTTPS_PROXY, NO_PROXY), credentials from where docker and podman keep them,
// credential helpers included; neither appears in reports or errors.
type Remote struct {
	// Tags lets a reference without a digest through. The tag is resolved
	// once and noted as "tag-resolved".
	Tags bool
	// Mirrors maps a registry's host to the address that is asked instead;
	// "*" stands for every host. Credentials are those of the address.
	Mirrors map[string]string
	// RootCAs are PEM certificates to trust besides the system's.
	RootCAs []byte
	// Timeout bounds connecting, waiting for headers, and any pause in a
	// body. Default 30 s.
	Timeout time.Duration
	// Retries is how often a request is repeated after a network error or an
	// answer of 429 or 5xx. Default 3; negative for none.
	Retries int
	// Store keeps verified blobs on disk, if not nil.
	Store *Store
}

// registry is a repository as a source of blobs.
type registry struct {
	name   string // the reference, with its digest
	repo   name.Repository
	root   descriptor
	body   []byte // of the root manifest
	notes  []Problem
	client *http.Client
	remote Remote
	base   string // scheme://host/v2/repository
	what   string // for errors
}

func openRegistry(ctx context.Context, source, ref string, opts Options) (*Source, error) {
	r, err := connect(ctx, ref, opts.Remote)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", source, err)
	}
	if err := r.resolve(ctx, ref, opts.Limits.orDefault()); err != nil {
		r.client.CloseIdleConnections()
		return nil, fmt.Errorf("open %s: %w", source, err)
	}
	return &Source{name: source, kind: Registry, reg: r, close: func() error {
		r.client.CloseIdleConnections()
		return nil
	}}, nil
}

// connect finds the host to ask, and logs in there if it wants that.
func connect(ctx context.Context, ref string, remote Remote) (*registry, error) {
	remote.Timeout = cmp.Or(remote.Timeout, 30*time.Second)
	remote.Retries = cmp.Or(remote.Retries, 3)
	parsed, err := name.ParseReference(ref)
	if err != nil {
		return nil, err
	}
	if _, pinned := parsed.(name.Digest); !pinned && !remote.Tags {
		return nil, fmt.Errorf("%w: want %s@sha256:<hex>; a tag can be moved at any time", ErrTag, parsed.Context().Name())
	}
	repo := parsed.Context()
	host := repo.RegistryStr()
	mirror := remote.Mirrors[host]
	if mirror == "" && host == name.DefaultRegistry {
		mirror = remote.Mirrors["docker.io"]
	}
	if mirror = cmp.Or(mirror, remote.Mirrors["*"]); mirror != "" {
		mirror = strings.TrimSuffix(strings.TrimPrefix(strings.TrimPrefix(mirror, "http://"), "https://"), "/")
		if repo, err = name.NewRepository(mirror + "/" + repo.RepositoryStr()); err != nil {
			return nil, fmt.Errorf("mirror %q: %w", mirror, err)
		}
	}
	base, err := newTransport(repo.RegistryStr(), remote)
	if err != nil {
		return nil, err
	}
	auth, err := keychain{}.ResolveContext(ctx, repo)
	if err != nil {
		return nil, fmt.Errorf("credentials for %s: %w", repo.RegistryStr(), err)
	}
	rt, err := login(ctx, repo, auth, base, remote)
	if err != nil {
		return nil, fmt.Errorf("registry %s: %w", repo.RegistryStr(), cleanError(err))
	}
	r := &registry{
		name: ref, repo: repo, remote: remote, what: "registry " + repo.RegistryStr(),
		client: &http.Client{Transport: rt, CheckRedirect: checkRedirect},
	}
	scheme := "https"
	if isLoopback(repo.RegistryStr()) && base.plain() {
		scheme = "http"
	}
	// The transport inside puts the scheme that answered.
	r.base = scheme + "://" + repo.RegistryStr() + "/v2/" + repo.RepositoryStr()
	return r, nil
}

// login asks the registry how it wants to be spoken to, and does that.
func login(ctx context.Context, repo name.Repository, auth authn.Authenticator, base *guard, remote Remote) (rt http.RoundTripper, err error) {
	ctx, cancel := context.WithTimeout(ctx, time.Duration(2+max(remote.Retries, 0))*remote.Timeout)
	defer cancel()
	for try := 0; ; try++ {
		rt, err = transport.NewWithContext(ctx, repo.Registry, auth, base, []string{repo.Scope(transport.PullScope)})
		if err == nil {
			return rt, nil
		}
		status := base.status.Load()
		if status != 0 {
			// On loopback TLS and plain HTTP are tried side by side, and
			// the error is that of TLS even if only the other answered.
			err = fmt.Errorf("answered %d %s", status, http.StatusText(int(status)))
		} else if silence := base.silence.Load(); silence != nil && noTLS(err) {
			err = &url.Error{Op: "Get", URL: "http://" + repo.RegistryStr() + "/v2/", Err: *silence}
		} else if base.plain() && noTLS(err) {
			err = errors.New("speaks plain HTTP, and redirects without end")
		}
		var answer *transport.Error
		again := status >= 500 || errors.As(err, &answer) && answer.Temporary()
		if !again || try >= remote.Retries {
			return nil, err
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(200 * time.Millisecond << try):
		}
	}
}

// noTLS reports whether an answer was no TLS: plain HTTP, or what some servers
// say to a request that they cannot read.
func noTLS(err error) bool {
	var record tls.RecordHeaderError
	return errors.As(err, &record) || strings.Contains(err.Error(), http.ErrSchemeMismatch.Error())
}

// resolve gets the manifest that the reference names. Its digest is that of
// the bytes, never a header's.
func (r *registry) resolve(ctx context.Context, ref string, limits Limits) error {
	parsed, err := name.ParseReference(ref)
	if err != nil {
		return err
	}
	resp, err := r.get(ctx, "/manifests/"+parsed.Identifier(), true, 0)
	if errors.Is(err, errBlobMissing) {
		return fmt.Errorf("%s: no manifest %s", r.what, parsed.Identifier())
	}
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	r.body, err = readUpTo(resp.Body, limits.Manifest)
	if err != nil {
		return fmt.Errorf("%s: read manifest: %w", r.what, cleanError(err))
	}
	if int64(len(r.body)) > limits.Manifest {
		return fmt.Errorf("%s: the manifest is longer than %d bytes", r.what, limits.Manifest)
	}
	mediaType, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	if doc, err := jsondoc.Parse(r.body, jsondoc.Limits{Values: 100_000}); err == nil {
		if t := doc.Get("mediaType"); t != nil && t.Kind == jsondoc.String {
			mediaType = t.Text
		}
	}
	actual := digest.SHA256.Sum(r.body)
	want := actual
	if pinned, ok := parsed.(name.Digest); ok {
		d, code := parseDigest(pinned.DigestStr())
		if code != "" {
			return fmt.Errorf("digest %s: %s", pinned.DigestStr(), code)
		}
		want = d
	} else {
		r.name = parsed.Context().Name() + "@" + actual.String()
		r.notes = append(r.notes, Problem{Code: "tag-resolved", Place: ref, Found: actual.String(), Detail: "a tag can be moved; pin the digest"})
		if claimed, code := parseDigest(resp.Header.Get("Docker-Content-Digest")); code == "" && claimed.Algorithm() == digest.SHA256 {
			want = claimed // a header that lies is found like any wrong digest
		}
	}
	r.root = descriptor{place: ref, mediaType: mediaType, digest: want, size: int64(len(r.body))}
	return nil
}

func (r *registry) stat(d digest.Digest) (*entry, *Problem) {
	return &entry{name: blobName(d), size: -1}, nil
}

// open streams a blob from the store or the registry.
func (r *registry) open(ctx context.Context, e *entry, d descriptor) (io.ReadCloser, error) {
	if d.digest == r.root.digest && d.place == r.root.place {
		return io.NopCloser(bytes.NewReader(r.body)), nil
	}
	if f := r.remote.Store.open(d.digest); f != nil {
		return f, nil
	}
	manifest := isIndexType(d.mediaType) || isManifestType(d.mediaType)
	path := "/blobs/" + d.digest.String()
	if manifest {
		path = "/manifests/" + d.digest.String()
	}
	b := &blobReader{ctx: ctx, r: r, path: path, manifest: manifest, size: d.size}
	if err := b.request(); err != nil {
		return nil, err
	}
	return r.remote.Store.keep(b, d.digest)
}

// blobReader reads a blob and goes on behind a broken connection where it had
// stopped.
type blobReader struct {
	ctx      context.Context
	r        *registry
	path     string
	manifest bool
	size     int64
	n        int64
	body     io.ReadCloser
	failures int
}

func (b *blobReader) request() error {
	resp, err := b.r.get(b.ctx, b.path, b.manifest, b.n)
	if err != nil {
		return err
	}
	b.body = resp.Body
	return nil
}

func (b *blobReader) Read(p []byte) (int, error) {
	for {
		n, err := b.body.Read(p)
		b.n += int64(n)
		if err == nil || err == io.EOF || n > 0 {
			if err != io.EOF {
				err = nil
			}
			return n, err
		}
		b.body.Close()
		b.failures++
		if b.failures > max(b.r.remote.Retries, 0) || b.ctx.Err() != nil {
			return 0, fmt.Errorf("%s: %s broke off after %d of %d bytes: %w", b.r.what, b.path, b.n, b.size, cleanError(err))
		}
		if err := b.request(); err != nil {
			return 0, err
		}
	}
}

func (b *blobReader) Close() error { return b.body.Close() }

// get sends a request until it is answered with 200, or 206 where from is
// positive. The body of a complete answer is skipped up to from.
func (r *registry) get(ctx context.Context, path string, manifest bool, from int64) (*http.Response, error) {
	var last error
	wait := 200 * time.Millisecond
	for try := 0; try <= max(r.remote.Retries, 0); try++ {
		if try > 0 {
			select {
			case <-ctx.Done():
				return nil, ctx.Err()
			case <-time.After(wait):
			}
			wait *= 2
		}
		resp, err := r.once(ctx, path, manifest, from)
		if err != nil {
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			last = fmt.Errorf("%s: %s: %w", r.what, path, cleanError(err))
			if permanent(err) {
				return nil, last
			}
			continue
		}
		switch code := resp.StatusCode; {
		case code == http.StatusOK:
			if _, err := io.CopyN(io.Discard, resp.Body, from); err != nil {
				resp.Body.Close()
				last = fmt.Errorf("%s: %s: %w", r.what, path, cleanError(err))
				continue
			}
			return resp, nil
		case code == http.StatusPartialContent && from > 0 && strings.HasPrefix(resp.Header.Get("Content-Range"), fmt.Sprintf("bytes %d-", from)):
			return resp, nil
		case code == http.StatusNotFound:
			resp.Body.Close()
			return nil, errBlobMissing
		case code == http.StatusTooManyRequests, code >= 500:
			resp.Body.Close()
			last = fmt.Errorf("%s: %s: answered %s", r.what, path, http.StatusText(code))
		case code == http.StatusUnauthorized, code == http.StatusForbidden:
			resp.Body.Close()
			return nil, fmt.Errorf("%s: %s: access denied (%d); log in with docker login or podman login", r.what, path, code)
		default:
			resp.Body.Close()
			return nil, fmt.Errorf("%s: %s: answered %d %s", r.what, path, code, http.StatusText(code))
		}
	}
	return nil, last
}

func (r *registry) once(ctx context.Context, path string, manifest bool, from int64) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, r.base+path, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("User-Agent", "retally")
	// Transparent decompression would hide the bytes that are to be hashed.
	req.Header.Set("Accept-Encoding", "identity")
	if manifest {
		req.Header.Set("Accept", strings.Join([]string{typeIndex, typeManifest, typeDockerList, typeDockerManifest}, ", "))
	}
	if from > 0 {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-", from))
	}
	return r.client.Do(req)
}

// refusal is an error that no repetition mends.
type refusal struct{ msg string }

func (e *refusal) Error() string { return e.msg }

func permanent(err error) bool {
	var r *refusal
	var inside *netguard.Refusal
	var dns *net.DNSError
	return errors.As(err, &r) || errors.As(err, &inside) || errors.As(err, &dns) && dns.IsNotFound
}

// cleanError drops the queries of URLs, which may hold signatures and tokens.
func cleanError(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		if parsed, perr := url.Parse(u.URL); perr == nil {
			parsed.RawQuery, parsed.User, parsed.Fragment = "", nil, ""
			return &url.Error{Op: u.Op, URL: parsed.String(), Err: u.Err}
		}
		return u.Err
	}
	return err
}

// checkRedirect lets blobs come from another host (registries hand out
// addresses of their storage), but only a secure one on the public internet.
func checkRedirect(req *http.Request, via []*http.Request) error {
	if len(via) > 5 {
		return &refusal{"more than 5 redirects"}
	}
	if err := netguard.Redirect(req, via); err != nil {
		return &refusal{err.Error()}
	}
	first := via[0].URL
	if strings.Contains(first.Path, "/manifests/") && !netguard.SameHost(req.URL.Hostname(), first.Hostname()) {
		return &refusal{fmt.Sprintf("a manifest is redirected to another host, %s", req.URL.Host)}
	}
	return nil
}

func isLoopback(hostport string) bool {
	host := hostport
	if h, _, err := net.SplitHostPort(hostport); err == nil {
		host = h
	}
	if host == "localhost" || strings.HasSuffix(host, ".localhost") {
		return true
	}
	ip := net.ParseIP(strings.Trim(host, "[]"))
	return ip != nil && ip.IsLoopback()
}

// keychain asks docker's files and then podman's, also where both exist.
type keychain struct{}

func (keychain) Resolve(r authn.Resource) (authn.Authenticator, error) {
	return keychain{}.ResolveContext(context.Background(), r)
}

func (keychain) ResolveContext(ctx context.Context, r authn.Resource) (authn.Authenticator, error) {
	a, err := authn.Resolve(ctx, authn.DefaultKeychain, r)
	if err != nil || a != authn.Anonymous {
		return a, err
	}
	return podmanAuth(r)
}

// podmanAuth reads auth.json (containers-auth.json(5)): "auths" by host,
// namespace or repository, the longest match counting.
func podmanAuth(r authn.Resource) (authn.Authenticator, error) {
	path := os.Getenv("REGISTRY_AUTH_FILE")
	if dir := os.Getenv("XDG_RUNTIME_DIR"); path == "" && dir != "" {
		path = dir + "/containers/auth.json"
	}
	if path == "" {
		return authn.Anonymous, nil
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return authn.Anonymous, nil
	}
	doc, err := jsondoc.Parse(data, jsondoc.Limits{Bytes: 1 << 20, Depth: 16, Values: 10_000})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	auths := doc.Get("auths")
	for key := r.String(); key != ""; {
		if a := auths.Get(key).Get("auth"); a != nil && a.Kind == jsondoc.String && a.Text != "" {
			return authn.FromConfig(authn.AuthConfig{Auth: a.Text}), nil
		}
		i := strings.LastIndexByte(key, '/')
		if i < 0 {
			break
		}
		key = key[:i]
	}
	return authn.Anonymous, nil
}
