package stages_test

import (
	"bytes"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	kube "sigs.k8s.io/yaml"

	"github.com/retally/retally/fixtures"
	"github.com/retally/retally/internal/testenv"
	"github.com/retally/retally/pipeline"
	"github.com/retally/retally/pipeline/config"
	"github.com/retally/retally/pipeline/run"
	"github.com/retally/retally/pipeline/stages"
)

// outcome is what a run of the whole pipeline says.
type outcome struct {
	code      int // as the program's exit code
	recounted int
	summary   string
}

// folder is a copy of the demo that runs change and put back.
type folder struct {
	dir   string
	files map[string][]byte // as they are on disk
}

func newFolder(t *testing.T) *folder {
	t.Helper()
	return &folder{dir: t.TempDir(), files: map[string][]byte{}}
}

// become makes the folder hold these files and no others.
func (f *folder) become(files map[string][]byte) error {
	for name := range f.files {
		if _, ok := files[name]; !ok {
			if err := os.Remove(filepath.Join(f.dir, filepath.FromSlash(name))); err != nil {
				return err
			}
			delete(f.files, name)
		}
	}
	for name, data := range files {
		if old, ok := f.files[name]; ok && bytes.Equal(old, data) {
			continue
		}
		at := filepath.Join(f.dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(at, data, 0o644); err != nil {
			return err
		}
		f.files[name] = data
	}
	return nil
}

// run judges the files as `retally run --test-root-ok --no-cache` does.
func (f *folder) run(t *testing.T, files map[string][]byte) outcome {
	t.Helper()
	if err := f.become(files); err != nil {
		t.Fatal(err)
	}
	cfg, err := run.ParseConfig(stages.Table(), config.FileName, files[config.FileName])
	if err != nil {
		return outcome{code: 2, summary: err.Error()}
	}
	res, err := run.Run(t.Context(), stages.Table(), cfg, run.Options{Root: f.dir, Subject: "a test", TestRootOK: true})
	if err != nil {
		return outcome{code: 2, summary: err.Error()}
	}
	rep := res.Report
	code, ok := map[pipeline.Outcome]int{pipeline.OutcomeMatch: 0, pipeline.OutcomeDiffers: 1, pipeline.OutcomeUnchecked: 3}[rep.Outcome]
	if !ok {
		t.Fatalf("outcome %q", rep.Outcome)
	}
	return outcome{code, recounted(rep), rep.Summary}
}

// recounted is the number of values that count as recounted, without verdicts on
// evidence that are bad: what cannot be judged may well turn out to be wrong when
// more of it is, and to know that is no gain.
func recounted(rep *pipeline.Report) int {
	n := rep.Coverage.Recounted
	for i := range rep.Findings {
		f := &rep.Findings[i]
		if f.Key.MatchAny([]string{"evidence/*/authentic", "evidence/*/expected", "evidence/*/bound"}) && f.Verdict == pipeline.Differs && f.Standing.Effective.Known() {
			n--
		}
	}
	return n
}

func demo(t *testing.T) map[string][]byte {
	t.Helper()
	files, err := fixtures.Demo()
	if err != nil {
		t.Fatal(err)
	}
	return byName(files)
}

func byName(files []fixtures.File) map[string][]byte {
	out := map[string][]byte{}
	for _, f := range files {
		out[f.Name] = f.Data
	}
	return out
}

// cases is how often a property is tried.
func cases() int {
	if testenv.IsLong() {
		return 20_000
	}
	return 200
}

// workers runs a property on all processors, each with a folder of its own; seed
// numbers a case, so that one that failed can be tried again.
func workers(t *testing.T, n int, try func(f *folder, rng *rand.Rand, seed int)) {
	t.Helper()
	const width = 2
	var wg sync.WaitGroup
	for w := range width {
		f := newFolder(t)
		wg.Go(func() {
			for seed := w; seed < n; seed += width {
				try(f, rand.New(rand.NewPCG(uint64(seed), 14)), seed)
			}
		})
	}
	wg.Wait()
}

func pick[T any](rng *rand.Rand, list []T) T { return list[rng.IntN(len(list))] }

// given are the members of the configuration that name an artefact. To take one
// away is to have less, not to ask for less: entries of evidence as a whole are
// questions, and are not here.
var given = []string{
	"deployment", "models", "disks", "images", "images.coordinator", "images.inference-proxy", "images.secret-service", "images.pause", "images.tinychat-server", "images.unstructured-api",
	"hashes", "policies", "policies.published", "platforms.metal-qemu-tdx-gpu", "platforms.metal-qemu-snp", "platforms.metal-qemu-tdx-gpu.kernel", "platforms.metal-qemu-snp.initrd", "platforms.harbor-vm.firmware", "platforms.harbor-vm.rootfs", "platforms.harbor-vm.compose", "platforms.harbor-vm.memory",
	"registry", "evidence.harbor-vm.collateral", "evidence.harbor-vm.tls_cert", "evidence.harbor-vm.mrseam", "evidence.harbor-vm.intel_root", "evidence.guest-on-amd.roots", "evidence.guest-on-amd.tls_cert",
	"manifest", "manifest.adjust", "against",
}

// withoutGiven takes a member out of the configuration.
func withoutGiven(text []byte, member string) ([]byte, bool) {
	var doc map[string]any
	if err := kube.Unmarshal(text, &doc); err != nil {
		return nil, false
	}
	at := doc
	parts := strings.Split(member, ".")
	for _, p := range parts[:len(parts)-1] {
		next, ok := at[p].(map[string]any)
		if !ok {
			return nil, false
		}
		at = next
	}
	last := parts[len(parts)-1]
	if _, ok := at[last]; !ok {
		return nil, false
	}
	delete(at, last)
	out, err := kube.Marshal(doc)
	return out, err == nil
}

// spoil removes or garbles one artefact.
func spoil(rng *rand.Rand, files map[string][]byte) (map[string][]byte, string) {
	out := maps.Clone(files)
	names := slices.Sorted(maps.Keys(files))
	names = slices.DeleteFunc(names, func(n string) bool { return n == config.FileName })
	name := pick(rng, names)
	// Each kind of artefact as often as the others, not each blob of a layout.
	if dir := pick(rng, []string{"", "vm/", "guest/", "images/", "models/", "policies/"}); dir != "" {
		in := slices.DeleteFunc(slices.Clone(names), func(n string) bool { return !strings.HasPrefix(n, dir) })
		if len(in) > 0 { // the spoiling before may have removed them all
			name = pick(rng, in)
		}
	} else if top := slices.DeleteFunc(slices.Clone(names), func(n string) bool { return strings.Contains(n, "/") }); rng.IntN(2) == 0 {
		name = pick(rng, top)
	}
	data := bytes.Clone(files[name])
	switch kind := rng.IntN(9); kind {
	case 0:
		delete(out, name)
		return out, "remove " + name
	case 1: // the whole layout, or the whole model
		dir := path.Dir(name) + "/"
		if !strings.Contains(name, "/") {
			dir = name
		} else if parts := strings.Split(name, "/"); len(parts) > 2 {
			dir = strings.Join(parts[:2], "/") + "/"
		}
		for n := range files {
			if strings.HasPrefix(n, dir) {
				delete(out, n)
			}
		}
		return out, "remove all of " + dir
	case 2:
		out[name] = nil
		return out, "empty " + name
	case 3:
		if len(data) > 0 {
			data = data[:rng.IntN(len(data))]
		}
		out[name] = data
		return out, fmt.Sprintf("cut %s at %d", name, len(data))
	case 4, 5:
		if len(data) == 0 {
			return out, ""
		}
		at, bit := rng.IntN(len(data)), rng.IntN(8)
		data[at] ^= 1 << bit
		out[name] = data
		return out, fmt.Sprintf("flip bit %d of byte %d of %s", bit, at, name)
	case 6:
		for i := range data {
			data[i] = byte(rng.Uint32())
		}
		out[name] = data
		return out, "random bytes in " + name
	case 7:
		other := pick(rng, names)
		out[name] = files[other]
		return out, other + " in the place of " + name
	default:
		member := pick(rng, given)
		text, ok := withoutGiven(files[config.FileName], member)
		if !ok {
			return out, ""
		}
		out[config.FileName] = text
		return out, "not given: " + member
	}
}

// TestLessIsNeverMore: an artefact that is removed or garbled never raises the
// number of values that count as recounted, and never turns a bad verdict into a
// match.
func TestLessIsNeverMore(t *testing.T) {
	testenv.OwnSpeed(t)
	good := demo(t)
	type start struct {
		name  string
		files map[string][]byte
		was   outcome
	}
	starts := []start{{name: "the demo", files: good}}
	all, err := fixtures.Demo()
	if err != nil {
		t.Fatal(err)
	}
	for _, tamper := range fixtures.Tampers() {
		files, err := tamper.Apply(all)
		if err != nil {
			t.Fatal(err)
		}
		starts = append(starts, start{name: "tampered: " + tamper.Name, files: byName(files)})
	}
	for _, member := range given {
		text, ok := withoutGiven(good[config.FileName], member)
		if !ok {
			t.Fatalf("the demo's configuration has no %s", member)
		}
		files := maps.Clone(good)
		files[config.FileName] = text
		starts = append(starts, start{name: "not given: " + member, files: files})
	}
	f := newFolder(t)
	codes := map[int]int{}
	for i := range starts {
		starts[i].was = f.run(t, starts[i].files)
		codes[starts[i].was.code]++
	}
	if starts[0].was.code != 0 || codes[1] < 15 || codes[3] < 10 {
		t.Fatalf("starts by exit code: %v: the property would be about little", codes)
	}
	var mu sync.Mutex
	tried := map[int]int{}
	workers(t, cases(), func(f *folder, rng *rand.Rand, seed int) {
		s := pick(rng, starts)
		files, what := s.files, ""
		for range 1 + rng.IntN(2) {
			more, did := spoil(rng, files)
			if did != "" {
				files, what = more, strings.TrimPrefix(what+"; "+did, "; ")
			}
		}
		if what == "" || same(files, good) { // a flip can undo a tampering
			return
		}
		now := f.run(t, files)
		mu.Lock()
		defer mu.Unlock()
		tried[now.code]++
		if now.recounted > s.was.recounted {
			t.Errorf("seed %d: %s (%d recounted), then %s: %d recounted", seed, s.name, s.was.recounted, what, now.recounted)
		}
		if s.was.code != 0 && now.code == 0 {
			t.Errorf("seed %d: %s (exit %d: %s), then %s: exit 0", seed, s.name, s.was.code, s.was.summary, what)
		}
	})
	t.Logf("exit codes: %v", tried)
}

func same(a, b map[string][]byte) bool {
	return maps.EqualFunc(a, b, bytes.Equal)
}
