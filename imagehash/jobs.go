package imagehash

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/semaphore"

	"github.com/retally/retally/internal/digest"
)

// job is one blob to be read, once, for all who refer to it.
type job struct {
	entry *entry
	desc  descriptor
	how   reading
	facts *facts   // nil if the blob turned out to be missing
	then  []func() // run in order after all jobs
}

// want queues the reading of a file, or returns the job that does it already.
func (v *verifier) want(e *entry, d descriptor, blob algs) *job {
	j := v.jobs[e.name]
	if j == nil {
		size := e.size
		if size < 0 {
			size = d.size
		}
		j = &job{entry: e, desc: d, how: reading{size: size, limits: v.limits, progress: v.opts.Progress, pool: v.pool}}
		v.jobs[e.name] = j
		v.queue = append(v.queue, j)
		if e.facts == nil {
			v.opts.Progress.expect(size)
		}
	}
	j.how.blob |= blob
	return j
}

// Memory is rationed in megabytes: a pipeline's buffers, and a zstd window.
const (
	memoryBudget = 32
	memoryPlain  = 4
	memoryZstd   = 14
)

// runJobs reads the queued blobs, the largest first so that no worker is left
// with a long one at the end.
func (v *verifier) runJobs(ctx context.Context) error {
	slices.SortStableFunc(v.queue, func(a, b *job) int { return cmp.Compare(b.how.size, a.how.size) })
	workers := v.opts.Workers
	if workers <= 0 {
		workers = min(runtime.GOMAXPROCS(0), 8)
	}
	defer v.pool.close()
	memory := semaphore.NewWeighted(memoryBudget)
	window := semaphore.NewWeighted(1) // one large window at a time
	each := v.limits.shared(len(v.queue))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(workers)
	for _, j := range v.queue {
		if j.done() {
			continue
		}
		j.how.limits = each
		group.Go(func() error {
			if err := v.runJob(ctx, j, memory, window); err != nil {
				return fmt.Errorf("%s: %w", j.entry.name, err)
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	for _, j := range v.queue {
		if j.facts != nil {
			v.bytes += j.facts.size
		}
		for _, f := range j.then {
			f()
		}
	}
	return nil
}

// done takes over what was recounted while an archive was opened, if that is
// all that is wanted.
func (j *job) done() bool {
	f := j.entry.facts
	if f == nil {
		return false
	}
	for a := digest.SHA1; a.Valid(); a++ {
		if _, has := f.digests[a]; !has && j.how.blob&(1<<a) != 0 {
			return false
		}
		if _, has := f.diffIDs[a]; !has && f.diffIDs != nil && j.how.diff&(1<<a) != 0 {
			return false
		}
	}
	j.facts = f
	return true
}

func (v *verifier) runJob(ctx context.Context, j *job, memory, window *semaphore.Weighted) error {
	held := int64(memoryPlain)
	if err := memory.Acquire(ctx, held); err != nil {
		return err
	}
	defer func() { memory.Release(held) }()
	r, err := v.blobs.open(ctx, j.entry, j.desc)
	if errors.Is(err, errBlobMissing) {
		return nil
	}
	if err != nil {
		return err
	}
	defer r.Close()
	var in io.Reader = r
	if j.entry.size < 0 {
		in = io.LimitReader(r, j.desc.size+1)
	}
	if j.how.asLayer {
		br := bufio.NewReaderSize(in, 64)
		head, err := br.Peek(8)
		if err != nil && err != io.EOF {
			return err
		}
		if detect(head) == packZstd {
			// What is held is given back first: who asks for more while he
			// holds some waits for others who do the same.
			memory.Release(held)
			held = 0
			if err := memory.Acquire(ctx, memoryZstd); err != nil {
				return err
			}
			held = memoryZstd
		}
		in = br
		large := false
		j.how.large = func() error {
			// Nobody waits for memory who has this, so that all come to an end.
			err := window.Acquire(ctx, 1)
			large = err == nil
			return err
		}
		defer func() {
			if large {
				window.Release(1)
			}
		}()
	}
	j.facts, err = read(ctx, in, j.how)
	return err
}

// leftovers queues the blobs that nobody refers to and notes other files
// (step 11).
func (v *verifier) leftovers() error {
	if v.opts.SkipLayers {
		return nil
	}
	f := v.src.files
	for _, name := range f.order {
		e := f.names[name]
		if e.typ == folderEntry || v.expected(name) {
			continue
		}
		d, ok := blobDigest(name)
		if v.src.kind == SkopeoDir {
			d, ok = v.skopeoName(name)
			if ok {
				continue
			}
			ok = !d.IsZero()
		}
		if !ok {
			v.note(Problem{Code: "file-unexpected", Place: clip(name), Found: e.typ.String()})
			continue
		}
		if v.used[d] {
			continue
		}
		target, p := f.find(name)
		if p != nil || target == nil {
			v.note(Problem{Code: "file-unexpected", Place: clip(name), Found: e.typ.String()})
			continue
		}
		j := v.want(target, descriptor{digest: d, size: target.size}, setOf(d.Algorithm()))
		j.then = append(j.then, func() {
			note := Problem{Code: "blob-unreferenced", Place: name}
			if got := j.facts.digests[d.Algorithm()]; got != d {
				note.Found, note.Expected = got.String(), d.String()
			}
			v.note(note)
		})
	}
	return nil
}

func (v *verifier) expected(name string) bool {
	if v.src.kind == SkopeoDir {
		return false
	}
	switch name {
	case "oci-layout", "index.json":
		return true
	}
	return v.dockerName(name)
}

// blobDigest reads the digest in a blob's path.
func blobDigest(name string) (digest.Digest, bool) {
	rest, ok := strings.CutPrefix(name, "blobs/")
	if !ok {
		return digest.Digest{}, false
	}
	d, code := parseDigest(strings.Replace(rest, "/", ":", 1))
	return d, code == "" && blobName(d) == name
}
