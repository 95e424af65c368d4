package shard_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/shard"
	"github.com/retally/retally/verity/disk"
	"github.com/retally/retally/verity/erofs"
)

// leaves makes the digests of n blocks that nobody reads.
func leaves(n int) []byte {
	out := make([]byte, 0, n*32)
	var b [8]byte
	for i := range n {
		binary.LittleEndian.PutUint64(b[:], uint64(i))
		sum := sha256.Sum256(b[:])
		out = append(out, sum[:]...)
	}
	return out
}

var anyDigest = digest.SHA256.Sum([]byte("any"))

// diskPlan is a plan of one disk with parts at the given borders.
func diskPlan(t testing.TB, size int64, level int, bounds []int64, redundancy int) (*shard.Plan, digest.Digest) {
	t.Helper()
	p := &shard.Plan{
		Format: shard.PlanFormat, Version: "1", Redundancy: redundancy,
		Sources: []shard.Source{{Name: "m", Kind: shard.Disks, Recipe: []byte(`{"dir":"m"}`), Layout: anyDigest, Disk: &shard.Disk{Mkfs: erofs.Profile19, Size: size}}},
	}
	for i := range len(bounds) - 1 {
		p.Parts = append(p.Parts, shard.Part{Index: i, Offset: bounds[i], Length: bounds[i+1] - bounds[i], Level: level, Files: digest.SHA256.Sum([]byte{byte(i)})})
	}
	if err := p.Check(); err != nil {
		t.Fatal(err)
	}
	return p, p.Digest()
}

// result is what an honest worker says of a part, its digests taken from those
// of the whole level.
func result(p *shard.Plan, id digest.Digest, part, copy int, level []byte) *shard.Result {
	w := &p.Parts[part]
	unit, _ := disk.Params(p.Sources[0].Disk.Size).SubtreeBlocks(w.Level)
	from := w.Offset / 4096 / int64(unit)
	to := (w.Offset+w.Length-1)/4096/int64(unit) + 1
	r := &shard.Result{
		Format: shard.ResultFormat, Version: p.Version, Plan: id, Part: part, Copy: copy, Worker: fmt.Sprintf("node%d-%d", part, copy),
		Source: p.Sources[w.Source].Name, Offset: w.Offset, Length: w.Length, Level: w.Level, Files: w.Files,
		Found: shard.Found{Read: w.Length, Sums: level[from*32 : to*32]},
	}
	if part == 0 {
		r.Others = map[string]digest.Digest{"1.9.1": anyDigest}
	}
	return r
}

// parsed sends a result through the file that a worker writes.
func parsed(t testing.TB, p *shard.Plan, id digest.Digest, r *shard.Result) *shard.Result {
	t.Helper()
	data, err := r.Encode()
	if err != nil {
		t.Fatal(err)
	}
	out, err := p.ParseResult(id, r.Part, r.Copy, data)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// Any split, order and duplication of parts gives the root of the undivided
// tree.
func TestAnySplit(t *testing.T) {
	all := leaves(20_000)
	for seed := range uint64(10_000) {
		random := rand.New(rand.NewPCG(seed, 21))
		blocks := 1 + random.IntN(400)
		switch seed % 4 {
		case 1:
			blocks = 1 + random.IntN(4_000)
		case 2:
			blocks = []int{1, 2, 127, 128, 129, 16383, 16384, 16385}[random.IntN(8)]
		}
		params := disk.Params(int64(blocks) * 4096)
		layout, err := params.Layout(uint64(blocks))
		if err != nil {
			t.Fatal(err)
		}
		f, err := params.NewFold(0, nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := f.Add(all[:blocks*32]); err != nil {
			t.Fatal(err)
		}
		want, err := f.Root()
		if err != nil {
			t.Fatal(err)
		}
		level := random.IntN(len(layout.Levels) + 1)
		s, err := params.NewSubtrees(level, nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Add(all[:blocks*32]); err != nil {
			t.Fatal(err)
		}
		sums, err := s.Sums()
		if err != nil {
			t.Fatal(err)
		}
		unit, _ := params.SubtreeBlocks(level)
		bounds := []int64{0}
		if seed%3 == 0 && level > 0 {
			level, bounds = shard.CutDisk(int64(blocks)*4096, 1+random.IntN(40))
			if s, err = params.NewSubtrees(level, nil); err != nil {
				t.Fatal(err)
			}
			if err := s.Add(all[:blocks*32]); err != nil {
				t.Fatal(err)
			}
			if sums, err = s.Sums(); err != nil {
				t.Fatal(err)
			}
		} else {
			for end := int64(blocks) * 4096; bounds[len(bounds)-1] < end; {
				bounds = append(bounds, min(end, bounds[len(bounds)-1]+int64(1+random.IntN(shard.MaxSums))*int64(unit)*4096))
			}
		}
		p, id := diskPlan(t, int64(blocks)*4096, level, bounds, 1+random.IntN(3))
		var results []*shard.Result
		for task := range p.Tasks() {
			part, copy, err := p.Task(task)
			if err != nil {
				t.Fatal(err)
			}
			r := result(p, id, part, copy, sums)
			if seed%16 == 0 {
				r = parsed(t, p, id, r)
			}
			results = append(results, r)
			if random.IntN(4) == 0 {
				results = append(results, r)
			}
		}
		random.Shuffle(len(results), func(i, j int) { results[i], results[j] = results[j], results[i] })
		w, err := p.Merge(results, nil)
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		if w[0].Root != want {
			t.Fatalf("seed %d: %d blocks in %d parts of level %d: got %s, want %s", seed, blocks, len(p.Parts), level, w[0].Root, want)
		}
	}
}

// Every part of a plan is small enough, as many as asked, even, and comes back
// in at most 4 KiB.
func TestCut(t *testing.T) {
	for _, tt := range []struct {
		size  int64
		parts int
		want  int
	}{
		{4096, 16, 1},
		{100 * 4096, 16, 1},
		{2<<30 + 40960, 16, 16},
		{2<<30 + 40960, 8, 8},
		{2 << 30, 1, 1},
		{600_000_000_000 / 4096 * 4096, 64, 64},
		{600_000_000_000 / 4096 * 4096, 256, 256},
		{600_000_000_000 / 4096 * 4096, 100, 142},
		{600_000_000_000 / 4096 * 4096, 5000, 5000},
		{10 << 30, 1, 1},
		{16<<40 - 4096, 1000, 1000},
		{5 << 30, 1, 2},
	} {
		level, bounds := shard.CutDisk(tt.size, tt.parts)
		p, id := diskPlan(t, tt.size, level, bounds, 1)
		if n := len(p.Parts); n != tt.want {
			t.Errorf("%d bytes into %d: got %d parts of level %d", tt.size, tt.parts, n, level)
		}
		var longest int64
		for _, part := range p.Parts {
			longest = max(longest, part.Length)
		}
		unit, _ := disk.Params(tt.size).SubtreeBlocks(level)
		r := result(p, id, len(p.Parts)-1, 0, make([]byte, 32*(tt.size/4096/int64(unit)+1)))
		r.Worker = strings.Repeat("w", 200)
		r.Sums = make([]byte, 32*shard.MaxSums)
		r.Others = map[string]digest.Digest{"1.9.1": anyDigest}
		data, err := r.Encode()
		if err != nil || len(data) > shard.MaxResult {
			t.Errorf("%d bytes into %d: %d bytes come back, %v", tt.size, tt.parts, len(data), err)
		}
	}
}

// 600 GB over 64 workers: planned and merged within 2 s and 64 MiB.
func TestScale(t *testing.T) {
	const size = 600_000_000_000 / 4096 * 4096
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	start := time.Now()
	level, bounds := shard.CutDisk(size, 256) // four parts for each of 64 workers
	p, id := diskPlan(t, size, level, bounds, 1)
	if _, err := shard.ParsePlan(p.Encode()); err != nil {
		t.Fatal(err)
	}
	unit, _ := disk.Params(size).SubtreeBlocks(level)
	sums := leaves(int(size/4096/int64(unit)) + 1)
	var results []*shard.Result
	for i := range p.Parts {
		results = append(results, parsed(t, p, id, result(p, id, i, 0, sums)))
	}
	m, err := shard.NewMerged(p, results, []int{3})
	if err != nil {
		t.Fatal(err)
	}
	again, err := shard.ParseMerged(m.Encode())
	if err != nil || again.Wholes()[0].Root != m.Wholes()[0].Root {
		t.Fatalf("merged again: %v", err)
	}
	took := time.Since(start)
	runtime.ReadMemStats(&after)
	t.Logf("%d parts of level %d: %v, %d KiB allocated in all", len(p.Parts), level, took, (after.TotalAlloc-before.TotalAlloc)>>10)
	if after.TotalAlloc-before.TotalAlloc > 64<<20 {
		t.Errorf("%d bytes allocated", after.TotalAlloc-before.TotalAlloc)
	}
}

func lab(t testing.TB, redundancy int) (*shard.Plan, digest.Digest, []byte) {
	t.Helper()
	const blocks = 1000
	params := disk.Params(blocks * 4096)
	s, err := params.NewSubtrees(1, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Add(leaves(blocks)); err != nil {
		t.Fatal(err)
	}
	sums, err := s.Sums()
	if err != nil {
		t.Fatal(err)
	}
	p, id := diskPlan(t, blocks*4096, 1, []int64{0, 1 << 20, 2 << 20, 3 << 20, blocks * 4096}, redundancy)
	return p, id, sums
}

// What is not the result that the plan asks for is refused, with its part named.
func TestRefusedResults(t *testing.T) {
	p, id, sums := lab(t, 1)
	good, err := result(p, id, 2, 0, sums).Encode()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.ParseResult(id, 2, 0, good); err != nil {
		t.Fatal(err)
	}
	change := func(f func(*shard.Result)) []byte {
		r := result(p, id, 2, 0, sums)
		f(r)
		data, err := r.Encode()
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	other := digest.SHA256.Sum([]byte("other"))
	for name, tt := range map[string]struct {
		data []byte
		want string
	}{
		"truncated":           {good[:len(good)/2], "cut off"},
		"without its end":     {good[:len(good)-1], "not as it was written"},
		"empty":               {nil, "cut off"},
		"null":                {[]byte("null\n"), "not as it was written"},
		"a member twice":      {bytes.Replace(good, []byte(`"part":2`), []byte(`"part":1,"part":2`), 1), "not as it was written"},
		"another case":        {bytes.Replace(good, []byte(`"part":2`), []byte(`"PART":2`), 1), "not as it was written"},
		"an unknown member":   {bytes.Replace(good, []byte(`"part":2`), []byte(`"part":2,"x":1`), 1), "unknown field"},
		"two documents":       {append(slices.Clone(good), good...), "not as it was written"},
		"another version":     {change(func(r *shard.Result) { r.Version = "2" }), "version"},
		"another plan":        {change(func(r *shard.Result) { r.Plan = other }), "another plan"},
		"another form":        {change(func(r *shard.Result) { r.Format = "x" }), "form"},
		"another part":        {change(func(r *shard.Result) { r.Part = 1 }), "says that it is part 1"},
		"another copy":        {change(func(r *shard.Result) { r.Copy = 1 }), "says that it is part 2"},
		"a path out":          {change(func(r *shard.Result) { r.Source = "../../etc" }), "source"},
		"an overlap":          {change(func(r *shard.Result) { r.Offset -= 524288; r.Length += 524288 }), "covers bytes"},
		"a gap":               {change(func(r *shard.Result) { r.Offset += 524288; r.Length -= 524288 }), "covers bytes"},
		"another level":       {change(func(r *shard.Result) { r.Level = 0 }), "covers bytes"},
		"a file that changed": {change(func(r *shard.Result) { r.Files = other }), "changed after the plan"},
		"fewer digests":       {change(func(r *shard.Result) { r.Sums = r.Sums[:32] }), "bytes of digests"},
		"fewer bytes":         {change(func(r *shard.Result) { r.Read-- }), "read"},
		"a foreign variant":   {change(func(r *shard.Result) { r.Others = map[string]digest.Digest{"1.9.1": other} }), "first part alone"},
		"no worker":           {change(func(r *shard.Result) { r.Worker = "" }), "worker"},
		"an image":            {change(func(r *shard.Result) { r.Image = &shard.Image{Digest: other} }), "image"},
		"too long":            {bytes.Repeat([]byte(" "), 5000), "more than 4096 bytes"},
	} {
		_, err := p.ParseResult(id, 2, 0, tt.data)
		var e *shard.ResultError
		if !errors.As(err, &e) || e.Part != 2 || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want it to name part 2 and %q", name, err, tt.want)
		}
	}
	if _, err := p.ParseResult(id, 4, 0, good); err == nil {
		t.Error("a part that the plan does not have was taken")
	}
}

func TestMergeRefuses(t *testing.T) {
	p, id, sums := lab(t, 2)
	var results []*shard.Result
	for task := range p.Tasks() {
		part, copy, err := p.Task(task)
		if err != nil {
			t.Fatal(err)
		}
		results = append(results, parsed(t, p, id, result(p, id, part, copy, sums)))
	}
	w, err := p.Merge(results, nil)
	if err != nil || w[0].Trusted() || w[0].Alone != 0 || w[0].Workers != 8 {
		t.Fatalf("got %+v, %v", w, err)
	}
	if _, err := p.Merge(results[:7], nil); err == nil || !strings.Contains(err.Error(), "part 3: 1 of its 2 results is missing") {
		t.Errorf("a gap: %v", err)
	}
	// The same worker twice vouches for nothing.
	same := slices.Clone(results)
	for i := range same {
		r := *same[i]
		r.Worker = "one"
		same[i] = &r
	}
	if w, err := p.Merge(same, nil); err != nil || !w[0].Trusted() || w[0].Alone != 4 {
		t.Errorf("one worker twice: %+v, %v", w, err)
	}
	// An audit of one part says nothing of the others' bytes.
	if w, err := p.Merge(same, []int{1}); err != nil || !w[0].Trusted() || w[0].Unvouched != 3 {
		t.Errorf("one part audited: %+v, %v", w, err)
	}
	if w, err := p.Merge(same, []int{0, 1, 2, 3}); err != nil || w[0].Trusted() {
		t.Errorf("audited: %+v, %v", w, err)
	}
	// Every single bit of what was found counts.
	for i, lie := range []func(*shard.Result){
		func(r *shard.Result) { r.Sums[0] ^= 1 }, func(r *shard.Result) { r.Sums[len(r.Sums)-1] ^= 128 },
		func(r *shard.Result) { r.Others = map[string]digest.Digest{"1.9.1": digest.SHA256.Sum(nil)} },
	} {
		r := *results[0]
		r.Sums = slices.Clone(r.Sums)
		lie(&r)
		lied := append([]*shard.Result{&r}, results[1:]...)
		_, err := p.Merge(lied, nil)
		var e *shard.DisputeError
		if !errors.As(err, &e) || e.Disputes[0].Part != 0 || !strings.Contains(err.Error(), "node0-0") || !strings.Contains(err.Error(), "node0-1") {
			t.Errorf("lie %d: %v", i, err)
		}
	}
}

func TestRefusedPlans(t *testing.T) {
	p, _, _ := lab(t, 1)
	good := p.Encode()
	if _, err := shard.ParsePlan(good); err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct{ old, with, want string }{
		"a gap":            {`"offset":1048576,"length":1048576`, `"offset":1572864,"length":524288`, "gap"},
		"an overlap":       {`"offset":1048576,"length":1048576`, `"offset":524288,"length":1572864`, "overlaps"},
		"cut off":          {`"parts":[{`, `"parts":[`, "damaged"},
		"another form":     {shard.PlanFormat, "x", "/format"},
		"no redundancy":    {`"redundancy":1`, `"redundancy":0`, "redundancy"},
		"another index":    {`"index":1`, `"index":2`, "/parts/1/index"},
		"another source":   {`"index":1,"source":0`, `"index":1,"source":1`, "/parts/1/source"},
		"a negative part":  {`"offset":1048576,"length":1048576`, `"offset":1048576,"length":-1048576`, "length"},
		"a level too high": {`"level":1`, `"level":9`, "level"},
		"another kind":     {`"kind":"disks"`, `"kind":"x"`, "kind"},
		"no name":          {`"name":"m"`, `"name":""`, "name"},
		"ends early":       {`"hash_offset":4096000`, `"hash_offset":4100096`, "end before"},
		"a size of none":   {`"hash_offset":4096000`, `"hash_offset":-4096`, "size"},
	} {
		data := bytes.Replace(good, []byte(tt.old), []byte(tt.with), 1)
		if bytes.Equal(data, good) {
			t.Fatalf("%s: %q is not in the plan", name, tt.old)
		}
		if _, err := shard.ParsePlan(data); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want %q", name, err, tt.want)
		}
	}
}

func FuzzParse(f *testing.F) {
	p, id, sums := lab(f, 1)
	line, err := result(p, id, 0, 0, sums).Encode()
	if err != nil {
		f.Fatal(err)
	}
	m := &shard.Merged{Format: shard.MergedFormat, Plan: p, Results: []*shard.Result{result(p, id, 0, 0, sums)}}
	for _, seed := range [][]byte{p.Encode(), line, m.Encode()} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if q, err := shard.ParsePlan(data); err == nil {
			if !bytes.Equal(q.Encode(), data) {
				t.Error("a plan is not what it was read from")
			}
			for i := range q.Parts {
				_ = q.Title(i)
			}
		}
		if r, err := p.ParseResult(id, 0, 0, data); err == nil {
			if again, err := r.Encode(); err != nil || !bytes.Equal(again, data) {
				t.Error("a result is not what it was read from")
			}
		}
		if m, err := shard.ParseMerged(data); err == nil && len(m.Wholes()) != len(m.Plan.Sources) {
			t.Error("a merge without its sources")
		}
	})
}

func TestIndex(t *testing.T) {
	for _, tt := range []struct {
		env  map[string]string
		want int
		err  string
	}{
		{map[string]string{"SLURM_ARRAY_TASK_ID": "7", "SLURM_ARRAY_TASK_COUNT": "2"}, 7, ""},
		{map[string]string{"JOB_COMPLETION_INDEX": "0"}, 0, ""},
		{map[string]string{"CLOUD_RUN_TASK_INDEX": "3", "CLOUD_RUN_TASK_COUNT": "1"}, 3, ""},
		{map[string]string{"CLOUD_RUN_TASK_INDEX": "3", "JOB_COMPLETION_INDEX": "3"}, 3, ""},
		{map[string]string{"CLOUD_RUN_TASK_INDEX": "3", "JOB_COMPLETION_INDEX": "4"}, 0, "JOB_COMPLETION_INDEX is 4, and CLOUD_RUN_TASK_INDEX is 3"},
		{map[string]string{"SLURM_ARRAY_TASK_ID": "07"}, 0, "want a number"},
		{map[string]string{"SLURM_ARRAY_TASK_ID": "-1"}, 0, "want a number"},
		{map[string]string{"SLURM_ARRAY_TASK_ID": "9999999999999999999"}, 0, "want a number"},
		{nil, 0, "is not given"},
	} {
		got, err := shard.Index(func(name string) string { return tt.env[name] })
		if got != tt.want || (err == nil) != (tt.err == "") || err != nil && !strings.Contains(err.Error(), tt.err) {
			t.Errorf("%v: got %d, %v", tt.env, got, err)
		}
	}
}

func TestAudit(t *testing.T) {
	random := rand.NewChaCha8([32]byte{1})
	drawn := make([]int, 10)
	for range 2000 {
		parts, err := shard.Draw(random, 10, 25)
		if err != nil || len(parts) != 3 || !slices.IsSorted(parts) || len(slices.Compact(slices.Clone(parts))) != 3 {
			t.Fatalf("got %v, %v", parts, err)
		}
		for _, p := range parts {
			drawn[p]++
		}
	}
	for part, n := range drawn {
		if n < 480 || n > 720 { // 600 expected, five and a half deviations
			t.Errorf("part %d was drawn %d times of 6000", part, n)
		}
	}
	for _, tt := range []struct {
		n, audited, lying int
		want              float64
	}{{16, 2, 1, 0.875}, {16, 16, 1, 0}, {16, 0, 1, 1}, {10, 5, 2, 5.0 / 10 * 4 / 9}, {4, 3, 2, 0}} {
		if got := shard.Escape(tt.n, tt.audited, tt.lying); math.Abs(got-tt.want) > 1e-12 {
			t.Errorf("%+v: got %v", tt, got)
		}
	}
	for _, bad := range []float64{-1, 101, math.NaN()} {
		if _, err := shard.Draw(random, 10, bad); err == nil {
			t.Errorf("a share of %v was drawn", bad)
		}
	}
}
