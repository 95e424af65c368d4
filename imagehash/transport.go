package imagehash

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/retally/retally/internal/netguard"
)

// guard is the transport below authentication. It refuses plain HTTP to
// anything but loopback, ends answers that stall, and bounds those that are
// neither manifests nor blobs.
type guard struct {
	inner   *http.Transport
	timeout time.Duration
	http    atomic.Bool           // the registry answered over plain HTTP
	status  atomic.Int32          // of the last answer of 400 and above over plain HTTP, 401 apart
	silence atomic.Pointer[error] // why there was no answer over plain HTTP
}

func newTransport(host string, remote Remote) (*guard, error) {
	// The registry was named by the user; where it sends us was not.
	reach := netguard.New(host)
	reach.Timeout = remote.Timeout
	t := &http.Transport{
		Proxy:                  reach.Proxy,
		DialContext:            reach.DialContext,
		TLSHandshakeTimeout:    remote.Timeout,
		ResponseHeaderTimeout:  remote.Timeout,
		MaxResponseHeaderBytes: 256 << 10,
		ForceAttemptHTTP2:      true,
		MaxIdleConnsPerHost:    8,
		IdleConnTimeout:        30 * time.Second,
		DisableCompression:     true,
	}
	if len(remote.RootCAs) > 0 {
		pool, err := x509.SystemCertPool()
		if err != nil {
			pool = x509.NewCertPool()
		}
		if !pool.AppendCertsFromPEM(remote.RootCAs) {
			return nil, errors.New("the extra certificates hold none in PEM form")
		}
		t.TLSClientConfig = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
	}
	return &guard{inner: t, timeout: remote.Timeout}, nil
}

// plain reports whether the registry was reached over plain HTTP.
func (g *guard) plain() bool { return g.http.Load() }

// CloseIdleConnections lets http.Client.CloseIdleConnections through.
func (g *guard) CloseIdleConnections() { g.inner.CloseIdleConnections() }

// RoundTrip implements http.RoundTripper.
func (g *guard) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.URL.Scheme != "https" && !isLoopback(req.URL.Host) {
		err := error(&refusal{fmt.Sprintf("plain HTTP to %s, which is not loopback", req.URL.Host)})
		g.silence.Store(&err)
		return nil, err
	}
	ctx, cancel := context.WithCancelCause(req.Context())
	resp, err := g.inner.RoundTrip(req.WithContext(ctx))
	if err != nil {
		cancel(nil)
		if req.URL.Scheme == "http" {
			g.silence.Store(&err)
		}
		return nil, err
	}
	if req.URL.Scheme == "http" {
		g.http.Store(true)
		g.status.Store(0)
		if resp.StatusCode >= 400 && resp.StatusCode != http.StatusUnauthorized {
			g.status.Store(int32(resp.StatusCode))
		}
	}
	limit := int64(1 << 20)
	if req.Header.Get("Accept-Encoding") == "identity" {
		limit = -1 // a manifest or blob, bounded by whoever reads it
	}
	resp.Body = newGuardedBody(resp.Body, g.timeout, limit, cancel)
	return resp, nil
}

// guardedBody ends the request if too little comes in a period of time.
type guardedBody struct {
	io.ReadCloser
	cancel context.CancelCauseFunc
	timer  *time.Timer
	period time.Duration
	since  atomic.Int64 // bytes in this period
	left   int64        // -1 for no bound
	stall  atomic.Bool
}

// minProgress is the least number of bytes that must come in a period: one
// byte now and then is a stall too.
const minProgress = 4 << 10

func newGuardedBody(body io.ReadCloser, period time.Duration, limit int64, cancel context.CancelCauseFunc) *guardedBody {
	b := &guardedBody{ReadCloser: body, cancel: cancel, period: period, left: limit}
	b.timer = time.AfterFunc(period, b.tick)
	return b
}

func (b *guardedBody) tick() {
	if b.since.Swap(0) < minProgress {
		b.stall.Store(true)
		b.cancel(errStalled)
		return
	}
	b.timer.Reset(b.period)
}

var errStalled = errors.New("the answer stalled")

func (b *guardedBody) Read(p []byte) (int, error) {
	if b.left == 0 {
		return 0, &refusal{"the answer is longer than 1 MiB"}
	}
	if b.left > 0 && int64(len(p)) > b.left {
		p = p[:b.left]
	}
	n, err := b.ReadCloser.Read(p)
	b.since.Add(int64(n))
	if b.left > 0 {
		b.left -= int64(n)
	}
	if err != nil && err != io.EOF && b.stall.Load() {
		err = fmt.Errorf("%w: less than %d bytes in %v", errStalled, minProgress, b.period)
	}
	return n, err
}

func (b *guardedBody) Close() error {
	b.timer.Stop()
	err := b.ReadCloser.Close()
	b.cancel(nil)
	return err
}
