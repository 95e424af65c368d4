package shards

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/show"
	"github.com/retally/retally/pipeline/run"
	"github.com/retally/retally/pipeline/stages/disks"
	"github.com/retally/retally/pipeline/stages/published"
	"github.com/retally/retally/shard"
	"github.com/retally/retally/verity/disk"
)

// Options of a merge.
type Options struct {
	Table    []run.Stage
	Root     string  // that the plan's names start from
	Audit    float64 // percent of the parts to read again here
	Random   io.Reader
	Progress *run.Progress
}

// Joined is what the results of a plan come to, as a verb shows it.
type Joined struct {
	Plan       digest.Digest `json:"plan"`
	Parts      int           `json:"parts"`
	Results    int           `json:"results"`
	Redundancy int           `json:"redundancy"`
	Disks      []Disk        `json:"disks"`
	Images     []Image       `json:"images"`
	Audit      *Audit        `json:"audit,omitempty"`
	Disputes   []Dispute     `json:"disputes,omitempty"`
	File       string        `json:"file,omitempty"` // that was written

	Merged *shard.Merged `json:"-"`
}

// Disk is a disk that was put together.
type Disk struct {
	Name string `json:"name"`
	disk.Result
	Who
	// Unchecked says which published value parts do not give.
	Unchecked []string `json:"unchecked"`
}

// Image is an image that a worker read.
type Image struct {
	Name    string        `json:"name"`
	Digest  digest.Digest `json:"digest,omitzero"`
	Refused string        `json:"refused,omitempty"`
	Who
}

// Who vouches for a value.
type Who struct {
	Text    string `json:"read_by"`
	Trusted bool   `json:"workers_trusted"`
}

// Audit says what was read again, and what that is worth.
type Audit struct {
	Parts []int `json:"parts"`
	// Escapes is the chance that one, two, four or eight lying parts are not
	// among them.
	Escapes []Chance `json:"escapes"`
}

// Chance is that of lying parts to escape.
type Chance struct {
	Lying  int     `json:"lying"`
	Chance float64 `json:"chance"`
}

// Dispute is a part about which workers disagree, or an audit with a worker.
type Dispute struct {
	Part    int     `json:"part"`
	Title   string  `json:"title"`
	Workers []Claim `json:"workers"`
	// Recount says how the part could not be read again here, "" if it was.
	Recount string `json:"not_recounted,omitempty"`
}

// Claim is one worker's result about a part in dispute.
type Claim struct {
	Worker string `json:"worker"`
	Copy   int    `json:"copy"`
	// Disagrees: reading the part again here gave another value.
	Disagrees bool `json:"disagrees"`
}

// Join merges results. Where workers disagree, or an audit finds another value,
// the part is read again here and whoever disagrees is named; nothing is merged
// then.
func Join(ctx context.Context, p *shard.Plan, results []*shard.Result, o Options) (*Joined, error) {
	j := &Joined{Plan: p.Digest(), Parts: len(p.Parts), Results: len(results), Redundancy: p.Redundancy, Disks: []Disk{}, Images: []Image{}}
	_, err := p.Merge(results, nil)
	var disputed *shard.DisputeError
	if errors.As(err, &disputed) {
		for _, d := range disputed.Disputes {
			j.Disputes = append(j.Disputes, recount(ctx, p, d, o))
			if err := ctx.Err(); err != nil {
				return nil, err
			}
		}
		return j, nil
	}
	if err != nil {
		return nil, err
	}
	if o.Audit > 0 {
		if err := j.audit(ctx, p, results, o); err != nil || len(j.Disputes) > 0 {
			return j, err
		}
	}
	var audited []int
	if j.Audit != nil {
		audited = j.Audit.Parts
	}
	if j.Merged, err = shard.NewMerged(p, results, audited); err != nil {
		return nil, err
	}
	j.fill()
	return j, nil
}

// fill describes what was merged.
func (j *Joined) fill() {
	for i, w := range j.Merged.Wholes() {
		who := Who{published.PartsText(&w), w.Trusted()}
		if w.Image != nil {
			j.Images = append(j.Images, Image{w.Name, w.Image.Digest, w.Image.Refused, who})
			continue
		}
		j.Disks = append(j.Disks, Disk{w.Name, disks.Merged(&j.Merged.Plan.Sources[i], &w), who, []string{"file_hash_sha256"}})
	}
}

// recount reads a part again and holds the claims against it.
func recount(ctx context.Context, p *shard.Plan, d shard.Dispute, o Options) Dispute {
	out := Dispute{Part: d.Part, Title: p.Title(d.Part)}
	own, err := run.ReadShard(ctx, o.Table, o.Root, p, d.Part, o.Progress)
	if err != nil {
		out.Recount = err.Error()
	}
	for _, r := range d.Results {
		out.Workers = append(out.Workers, Claim{r.Worker, r.Copy, err == nil && !r.Same(&own)})
	}
	return out
}

// audit reads a random share of the parts again. It is drawn here, when all
// results have arrived: no worker can know it before.
func (j *Joined) audit(ctx context.Context, p *shard.Plan, results []*shard.Result, o Options) error {
	parts, err := shard.Draw(o.Random, len(p.Parts), o.Audit)
	if err != nil {
		return err
	}
	j.Audit = &Audit{Parts: parts}
	for n := 1; n <= 8 && n <= len(p.Parts); n *= 2 {
		j.Audit.Escapes = append(j.Audit.Escapes, Chance{n, shard.Escape(len(p.Parts), len(parts), n)})
	}
	for _, part := range parts {
		own, err := run.ReadShard(ctx, o.Table, o.Root, p, part, o.Progress)
		if err != nil {
			return fmt.Errorf("audit: %w", err)
		}
		d := Dispute{Part: part, Title: p.Title(part)}
		lies := false
		for _, r := range results {
			if r.Part == part {
				c := Claim{r.Worker, r.Copy, !r.Same(&own)}
				d.Workers, lies = append(d.Workers, c), lies || c.Disagrees
			}
		}
		if lies {
			j.Disputes = append(j.Disputes, d)
		}
	}
	return nil
}

// Reasons says what the result comes to, for a script.
func (j *Joined) Reasons() []string {
	var out []string
	for _, d := range j.Disputes {
		out = append(out, d.text())
	}
	if len(out) > 0 {
		return out
	}
	for _, d := range j.Disks {
		out = append(out, d.Name+": "+d.Text, d.Name+": "+disks.FileUnchecked)
	}
	for _, i := range j.Images {
		out = append(out, i.Name+": "+i.Text)
	}
	return out
}

func (d *Dispute) text() string {
	s := d.Title + ":"
	for _, c := range d.Workers {
		s += " " + c.Worker
		if c.Disagrees {
			s += " DISAGREES with what was read again here;"
		}
	}
	if d.Recount != "" {
		s += ": which of them is wrong is not known: " + d.Recount
	}
	return s
}

// Text is the form for people.
func (j *Joined) Text(w io.Writer) {
	for i := range j.Disputes {
		show.Line(w, "%s", j.Disputes[i].text())
	}
	if len(j.Disputes) > 0 {
		show.Line(w, "nothing was merged")
		return
	}
	for _, d := range j.Disks {
		show.Line(w, "%s", d.Name)
		(&disks.View{Result: d.Result}).Text(w, false)
		show.Line(w, "file_hash_sha256  unchecked: it runs through the bytes one after the other")
		d.show(w)
	}
	for _, i := range j.Images {
		if i.Refused != "" {
			show.Line(w, "%s", i.Name)
			show.Line(w, "refused           %s", i.Refused)
		} else {
			show.Line(w, "%s", i.Name)
			show.Line(w, "digest            %s", i.Digest)
		}
		i.show(w)
	}
	if a := j.Audit; a != nil {
		show.Line(w, "audited           %s of %d", show.Plural(len(a.Parts), "part", "parts"), j.Parts)
		for _, c := range a.Escapes {
			show.Line(w, "                  %s would escape with a chance of %s", show.Plural(c.Lying, "lying part", "lying parts"), published.Chance(c.Chance))
		}
	}
	if j.File != "" {
		show.Line(w, "written           %s (shards: in retally.yaml)", j.File)
	}
}

func (who Who) show(w io.Writer) { show.Line(w, "read by           %s", who.Text) }
