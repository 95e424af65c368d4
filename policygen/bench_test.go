package policygen_test

import (
	"archive/tar"
	"bufio"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"

	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/testenv"
	"github.com/retally/retally/policygen"
)

// overHTTP serves the blobs of a registry from loopback, so that a benchmark
// pays for sockets as the reference does.
func overHTTP(tb testing.TB, reg *registry) {
	server := httptest.NewServer(http.FileServerFS(reg.dir))
	tb.Cleanup(server.Close)
	reg.url = server.URL
}

// BenchmarkPrivatemode generates the policies of Privatemode's deployment
// with the synthetic images: reference 0.74-0.91 s, 34 MB.
func BenchmarkPrivatemode(b *testing.B) {
	own := testenv.Vectors(b, "own/policy")
	published := testenv.Vectors(b, "published/kata")
	rules, err := os.ReadFile(filepath.Join(own, "rules/mini.rego"))
	if err != nil {
		b.Fatal(err)
	}
	rules = append(rules, strings.Repeat("# a rules file of kata's size\n", 57_000/30)...)
	f := family{
		cases: os.DirFS(filepath.Join(published, "cases")), base: os.DirFS(published),
		images: os.DirFS(filepath.Join(own, "images")), miniRules: rules,
	}
	for b.Loop() {
		in, _, err := f.input(b, "privatemode-noguestpull")
		if err != nil {
			b.Fatal(err)
		}
		overHTTP(b, in.Images.(*registry))
		if _, err := policygen.Generate(b.Context(), in); err != nil {
			b.Fatal(err)
		}
	}
}

type memoryCache struct {
	mu    sync.Mutex
	files map[digest.Digest]policygen.LayerFiles
}

func (c *memoryCache) Get(d digest.Digest) (policygen.LayerFiles, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f, ok := c.files[d]
	return f, ok
}

func (c *memoryCache) Put(d digest.Digest, f policygen.LayerFiles) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.files[d] = f
}

// bigImages are n images of one layer of 50 to 200 MB each over a shared base
// layer of 30 MB that has the user databases, served from a folder.
type bigImages struct {
	url    string
	images []*policygen.ResolvedImage
	bytes  int64
}

func (b *bigImages) Resolve(_ context.Context, ref policygen.ImageReference) (*policygen.ResolvedImage, error) {
	var n int
	if _, err := fmt.Sscanf(ref.Repository, "app%d", &n); err != nil {
		return fakeImage(nil, `{"User":"65535:65535","Entrypoint":["/pause"]}`), nil
	}
	return b.images[n], nil
}

func (b *bigImages) blob(tb testing.TB, dir, name string, seed uint64, size int64, users bool) policygen.Layer {
	file := filepath.Join(dir, name)
	f, err := os.Create(file)
	if err != nil {
		tb.Fatal(err)
	}
	defer f.Close() //nolint:errcheck // checked by reading it again
	h := sha256.New()
	buffered := bufio.NewWriterSize(io.MultiWriter(f, h), 1<<20)
	zw, _ := gzip.NewWriterLevel(buffered, gzip.BestSpeed)
	tw := tar.NewWriter(zw)
	if users {
		for _, u := range []string{"etc/group", "etc/passwd"} {
			text := "root:x:0:0:::\n"
			if u == "etc/group" {
				text = "root:x:0:\n"
			}
			_ = tw.WriteHeader(&tar.Header{Name: u, Size: int64(len(text)), Mode: 0o644})
			_, _ = io.WriteString(tw, text)
		}
	}
	// Half of it compresses, as programs and libraries do.
	rnd := rand.New(rand.NewPCG(seed, 1))
	block := make([]byte, 1<<20)
	for i := 0; size > 0; i++ {
		n := min(size, 8<<20)
		_ = tw.WriteHeader(&tar.Header{Name: fmt.Sprintf("usr/lib/%d", i), Size: n, Mode: 0o644})
		for left := n; left > 0; left -= int64(len(block)) {
			for j := 0; j < len(block); j += 8 {
				v := rnd.Uint64()
				if j&1024 == 0 {
					v &= 0x0f0f0f0f0f0f0f0f
				}
				for k := range 8 {
					block[j+k] = byte(v >> (8 * k))
				}
			}
			if _, err := tw.Write(block[:min(left, int64(len(block)))]); err != nil {
				tb.Fatal(err)
			}
		}
		size -= n
	}
	_ = tw.Close()
	_ = zw.Close()
	_ = buffered.Flush()
	info, err := f.Stat()
	if err != nil {
		tb.Fatal(err)
	}
	b.bytes += info.Size()
	return policygen.Layer{
		Digest: digest.FromHash(digest.SHA256, h), MediaType: gzipLayer, Size: info.Size(),
		Open: func(ctx context.Context) (io.ReadCloser, error) {
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, b.url+"/"+name, nil)
			if err != nil {
				return nil, err
			}
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				return nil, err
			}
			return resp.Body, nil
		},
	}
}

// TestLargeDeployment is the reference's 200-document run: 41.9 s cold, 11.6 s
// warm, 43 MB. It prints what this machine takes.
func TestLargeDeployment(t *testing.T) {
	testenv.Long(t)
	dir := t.TempDir()
	server := httptest.NewServer(http.FileServer(http.Dir(dir)))
	defer server.Close()
	images := &bigImages{url: server.URL}
	base := images.blob(t, dir, "base", 0, 45<<20, true)
	for i := range 30 {
		top := images.blob(t, dir, fmt.Sprintf("layer%d", i), uint64(i), int64(40+i*4)<<20, false)
		img := fakeImage(t, `{}`, fakeLayer{files: map[string]string{}}, fakeLayer{files: map[string]string{}})
		img.Layers = []policygen.Layer{base, top}
		images.images = append(images.images, img)
	}
	var yaml strings.Builder
	for i := range 200 {
		fmt.Fprintf(&yaml, "---\napiVersion: apps/v1\nkind: Deployment\nmetadata: {name: w%d, namespace: ns}\nspec:\n  template:\n    metadata: {labels: {app: w%d}}\n    spec:\n      containers:\n", i, i)
		for c := range 3 {
			fmt.Fprintf(&yaml, "        - name: c%d\n          image: registry.test/app%d:latest\n          command: [run, --number, \"%d\"]\n          env: [{name: A, value: \"%d\"}, {name: B, value: x}]\n", c, (i*3+c)%30, i, i)
		}
	}
	cache := &memoryCache{files: map[digest.Digest]policygen.LayerFiles{}}
	for _, run := range []string{"cold", "warm"} {
		in := input(t, yaml.String(), nil)
		in.Images, in.Cache = images, cache
		in.Rules.Text = append(in.Rules.Text, strings.Repeat("# a rules file of kata's size\n", 57_000/30)...)
		runtime.GC()
		peak, stop := make(chan uint64), make(chan struct{})
		go watchHeap(peak, stop)
		start, cpu := time.Now(), cpuTime(t)
		out := generate(t, in)
		took, used := time.Since(start), cpuTime(t)-cpu
		close(stop)
		t.Logf("%s: %d policies, %.1f GB of blobs, %v wall, %v CPU with the registry, peak memory of the runtime %d MB",
			run, len(out.Policies), float64(images.bytes)/1e9, took.Round(time.Millisecond), used.Round(time.Millisecond), <-peak>>20)
		if len(out.Policies) != 200 {
			t.Errorf("%d policies, want 200", len(out.Policies))
		}
	}
}

func cpuTime(t *testing.T) time.Duration {
	t.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// watchHeap reports the largest heap seen until it is stopped.
func watchHeap(peak chan<- uint64, stop <-chan struct{}) {
	var m runtime.MemStats
	var most uint64
	for {
		select {
		case <-stop:
			peak <- most
			return
		case <-time.After(10 * time.Millisecond):
			runtime.ReadMemStats(&m)
			most = max(most, m.Sys-m.HeapReleased)
		}
	}
}
