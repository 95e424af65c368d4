package imagehash_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/validate"
	"github.com/klauspost/compress/zstd"

	"github.com/retally/retally/imagehash"
	"github.com/retally/retally/internal/testenv"
)

// TestMain lets the test binary be the measured process: what it does then is
// what RETALLY_BENCH_CHILD says, on the layout that is the argument.
func TestMain(m *testing.M) {
	switch os.Getenv("RETALLY_BENCH_CHILD") {
	case "":
		os.Exit(m.Run())
	case "imagehash":
		r, err := imagehash.VerifyRef(context.Background(), os.Args[1], imagehash.Options{})
		if err == nil && !r.OK() {
			err = fmt.Errorf("%+v", r.AllProblems())
		}
		childDone(err)
	case "vectors":
		for file := range strings.SplitSeq(os.Args[1], "\n") {
			if _, err := imagehash.VerifyRef(context.Background(), file, imagehash.Options{}); err != nil {
				childDone(err)
			}
		}
		childDone(nil)
	case "ggcr":
		index, err := layout.ImageIndexFromPath(os.Args[1])
		if err == nil {
			err = validate.Index(index)
		}
		childDone(err)
	}
}

func childDone(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	// The kernel's figure for a child counts its parent before exec too;
	// that of the address space does not.
	status, _ := os.ReadFile("/proc/self/status")
	for line := range strings.SplitSeq(string(status), "\n") {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			fmt.Println(strings.TrimSuffix(strings.TrimSpace(rest), " kB"))
		}
	}
	os.Exit(0)
}

// content is an endless stream of what images are made of: the files of the Go
// tree, over and over, with a share of noise in between that stands for what
// does not compress.
type content struct {
	files []string
	next  int
	noise int // percent
	r     *rand.ChaCha8
	turn  *rand.Rand
}

// goRoot is the folder of the Go tree.
func goRoot(t testing.TB) string {
	t.Helper()
	out, err := exec.Command(testenv.Oracle(t, "go"), "env", "GOROOT").Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}

func newContent(t testing.TB, seed byte, noise int) *content {
	t.Helper()
	c := &content{noise: noise, r: rand.NewChaCha8([32]byte{seed}), turn: rand.New(rand.NewPCG(uint64(seed), 3))}
	err := filepath.WalkDir(goRoot(t), func(p string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			c.files = append(c.files, p)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	c.next = int(seed) * len(c.files) / 16
	return c
}

func (c *content) file(t testing.TB) []byte {
	if c.turn.IntN(100) < c.noise {
		b := make([]byte, 64<<10)
		c.r.Read(b)
		return b
	}
	p := c.files[c.next%len(c.files)]
	c.next++
	b, err := os.ReadFile(p)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// makeLayout writes a layout of layers of so many bytes of plain tar each.
func makeLayout(t testing.TB, dir, comp string, layers int, each int64, noise int) {
	t.Helper()
	sums := filepath.Join(dir, "blobs", "sha256")
	if err := os.MkdirAll(sums, 0o755); err != nil {
		t.Fatal(err)
	}
	var m tmanifest
	c := tconfig{Architecture: "amd64", OS: "linux", RootFS: trootfs{Type: "layers"}}
	suffix := map[string]string{"gzip": "+gzip", "zstd": "+zstd", "plain": ""}[comp]
	for k := range layers {
		f, err := os.Create(filepath.Join(sums, "new"))
		if err != nil {
			t.Fatal(err)
		}
		blob, diff := sha256.New(), sha256.New()
		out := io.MultiWriter(f, blob)
		var z io.WriteCloser = struct {
			io.Writer
			io.Closer
		}{out, io.NopCloser(nil)}
		switch comp {
		case "gzip":
			z, err = gzip.NewWriterLevel(out, 6)
		case "zstd":
			z, err = zstd.NewWriter(out)
		}
		if err != nil {
			t.Fatal(err)
		}
		w := tar.NewWriter(io.MultiWriter(z, diff))
		src := newContent(t, byte(k), noise)
		for n, i := int64(0), 0; n < each; i++ {
			p := src.file(t)
			n += int64(len(p)) + 1024
			if err := w.WriteHeader(&tar.Header{Name: fmt.Sprintf("layer%d/file%d", k, i), Mode: 0o644, Size: int64(len(p)), ModTime: time.Unix(0, 0)}); err != nil {
				t.Fatal(err)
			}
			w.Write(p)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		if comp != "plain" {
			if err := z.Close(); err != nil {
				t.Fatal(err)
			}
		}
		info, err := f.Stat()
		if err != nil {
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		name := fmt.Sprintf("%x", blob.Sum(nil))
		if err := os.Rename(f.Name(), filepath.Join(sums, name)); err != nil {
			t.Fatal(err)
		}
		m.Layers = append(m.Layers, tdesc{MediaType: ociLayer + suffix, Digest: "sha256:" + name, Size: int(info.Size())})
		c.RootFS.DiffIDs = append(c.RootFS.DiffIDs, fmt.Sprintf("sha256:%x", diff.Sum(nil)))
	}
	blobs := tblobs{}
	config := blobs.put(ociConfig, timage{}.json(t, c))
	m.SchemaVersion, m.MediaType, m.Config = 2, ociManifest, &config
	root := blobs.put(ociManifest, timage{}.json(t, m))
	writeLayout(t, dir, blobs, timage{}.json(t, tmanifest{SchemaVersion: 2, MediaType: ociIndex, Manifests: []tdesc{root}}))
}

// cost is what one run of a process took.
type cost struct {
	wall, cpu time.Duration
	resident  int64 // KiB at most, 0 if it is not known
	err       string
}

func (c cost) String() string {
	if c.err != "" {
		return "fails: " + c.err
	}
	s := fmt.Sprintf("%6.2f s wall %6.2f s CPU", c.wall.Seconds(), c.cpu.Seconds())
	if c.resident > 0 {
		s += fmt.Sprintf(" %4d MiB", c.resident>>10)
	}
	return s
}

func measure(cmd *exec.Cmd) cost {
	var text, out bytes.Buffer
	cmd.Stderr, cmd.Stdout = &text, &out
	started := time.Now()
	err := cmd.Run()
	c := cost{wall: time.Since(started)}
	if err != nil {
		c.err, _, _ = strings.Cut(text.String(), "\n")
		if len(c.err) > 120 {
			c.err = c.err[len(c.err)-120:]
		}
		return c
	}
	c.cpu = cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	c.resident, _ = strconv.ParseInt(strings.TrimSpace(out.String()), 10, 64)
	return c
}

func child(kind, dir string) *exec.Cmd {
	self, err := os.Executable()
	if err != nil {
		panic(err)
	}
	cmd := exec.Command(self, dir)
	cmd.Env = append(os.Environ(), "RETALLY_BENCH_CHILD="+kind)
	return cmd
}

func envInt(name string, value int) int {
	if n, err := strconv.Atoi(os.Getenv(name)); err == nil {
		return n
	}
	return value
}

// TestPaired is the comparison of docs/performance.md: the same layout, one
// tool after the other, each in its own process, some times.
//
//	RETALLY_PAIRED_MIB=3072     plain content in all, in 12 layers
//	RETALLY_PAIRED_RUNS=2       of each tool, the fastest counts
//	RETALLY_PAIRED_NOISE=0      percent of the files that are noise
func TestPaired(t *testing.T) {
	testenv.Long(t)
	skopeo := testenv.Oracle(t, "skopeo")
	total := envInt("RETALLY_PAIRED_MIB", 3072)
	noise := envInt("RETALLY_PAIRED_NOISE", 0)
	for _, comp := range []string{"gzip", "zstd", "plain"} {
		dir := t.TempDir()
		from := filepath.Join(dir, "from")
		makeLayout(t, from, comp, 12, int64(total)<<20/12, noise)
		size := int64(0)
		filepath.WalkDir(from, func(p string, d fs.DirEntry, err error) error {
			if info, ierr := d.Info(); err == nil && ierr == nil && info.Mode().IsRegular() {
				size += info.Size()
			}
			return err
		})
		t.Logf("%s: %d MiB plain, %d MiB stored, %d%% noise", comp, total, size>>20, noise)
		var ours, theirs, copying cost
		for range envInt("RETALLY_PAIRED_RUNS", 2) {
			better := func(best *cost, c cost) {
				t.Logf("  %s", c)
				if best.wall == 0 || c.err != "" || c.wall < best.wall {
					*best = c
				}
			}
			better(&ours, measure(child("imagehash", from)))
			better(&theirs, measure(child("ggcr", from)))
			to := filepath.Join(dir, "to")
			better(&copying, measure(exec.Command(skopeo, "copy", "--insecure-policy", "oci:"+from, "oci:"+to+":x")))
			os.RemoveAll(to)
		}
		if ours.err != "" {
			t.Errorf("%s: %s", comp, ours.err)
		}
		if ours.resident > 64<<10 {
			t.Errorf("%s: %d MiB resident, want at most 64", comp, ours.resident>>10)
		}
		t.Logf("%-6s imagehash                 %s", comp, ours)
		for _, other := range []struct {
			name string
			cost
		}{{"go-containerregistry", theirs}, {"skopeo copy", copying}} {
			ratio := ""
			if other.err == "" {
				ratio = fmt.Sprintf("  (%.1f times our wall time, %.1f times our CPU time)", other.wall.Seconds()/ours.wall.Seconds(), other.cpu.Seconds()/ours.cpu.Seconds())
			}
			t.Logf("%-6s %-25s %s%s", comp, other.name, other.cost, ratio)
		}
		os.RemoveAll(dir)
	}
}

// BenchmarkVerify reads a layout of four layers of 16 MiB.
func BenchmarkVerify(b *testing.B) {
	for _, comp := range []string{"gzip", "zstd", "plain"} {
		dir := b.TempDir()
		makeLayout(b, dir, comp, 4, 16<<20, 0)
		b.Run(comp, func(b *testing.B) {
			b.SetBytes(64 << 20)
			for b.Loop() {
				r, err := imagehash.VerifyRef(b.Context(), dir, imagehash.Options{})
				if err != nil || !r.OK() {
					b.Fatal(r, err)
				}
			}
		})
	}
}
