package tdx

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/retally/retally/evidence"
	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/pipeline"
	"github.com/retally/retally/pipeline/config"
	"github.com/retally/retally/pipeline/run"
	"github.com/retally/retally/tdxmeasure"
	"github.com/retally/retally/tdxmeasure/explain"
)

// Search is a register of a report with everything that a search for its
// deviation needs: the machine out of the configuration and the value that it
// should be. It holds files open until Close.
type Search struct {
	Key      pipeline.Key
	Platform string
	Register explain.Register
	Want     digest.Digest // what the other side says
	Input    explain.Input

	machine *Machine
}

// Close closes the machine's files.
func (s *Search) Close() error { return s.machine.Close() }

// OpenSearch prepares the search for a key of a report: tdx/PLATFORM/REGISTER,
// whose wanted value is the one its finding was compared with, or
// evidence/NAME/REGISTER, which is itself what the machine says. root is the
// folder that the configuration's names start from; the configuration has its
// defaults filled in.
func OpenSearch(ctx context.Context, cfg *config.Config, root string, r *pipeline.Report, key pipeline.Key) (*Search, error) {
	fail := func(hint, format string, args ...any) error {
		return &pipeline.InputError{Op: "search", File: string(key), Err: fmt.Errorf(format, args...), Hint: hint}
	}
	parts := key.Parts()
	if len(parts) == 4 && parts[0] == "tdx" && parts[2] == AssumedPart {
		parts = slices.Delete(parts, 2, 3)
	}
	if len(parts) != 3 || parts[0] != "tdx" && parts[0] != "evidence" || !slices.Contains(Registers[:], parts[2]) {
		return nil, fail("", "is no register, want tdx/PLATFORM/REGISTER or evidence/NAME/REGISTER, and of the registers %s", strings.Join(Registers[:], ", "))
	}
	s := &Search{Key: key, Register: explain.Register(slices.Index(Registers[:], parts[2]))}
	name := parts[1]
	if parts[0] == "evidence" {
		e, ok := cfg.Evidence[name]
		if !ok {
			return nil, fail(config.NearestHint(name, slices.Sorted(maps.Keys(cfg.Evidence))), "the configuration has no evidence %q", name)
		}
		if name = e.Platform; name == "" {
			return nil, fail("add platform: NAME to it", "the configuration does not say of which platform the evidence is")
		}
	}
	for p := range cfg.Platforms {
		if strings.EqualFold(p, name) {
			s.Platform = p
		}
	}
	if s.Platform == "" {
		return nil, fail(config.NearestHint(name, slices.Sorted(maps.Keys(cfg.Platforms))), "the configuration has no platform %q", name)
	}
	var ok bool
	if s.Want, ok = wanted(r, key); !ok {
		return nil, fail("run retally run first, or name its report", "the report has no other value of it to search for")
	}
	if err := s.start(ctx, run.NewIn(cfg, run.NewReader(root, nil))); err != nil {
		return nil, err
	}
	return s, nil
}

// SearchMachine prepares the search for a register of one of in's platforms
// that is to be want, with other root file systems to try.
func SearchMachine(ctx context.Context, in *run.In, platform string, register explain.Register, want digest.Digest, rootfs []tdxmeasure.Input) (*Search, error) {
	s := &Search{Key: pipeline.NewKey("tdx", platform, Registers[register]), Platform: platform, Register: register, Want: want}
	if err := s.start(ctx, in); err != nil {
		return nil, err
	}
	s.Input.Rootfs = append(s.Input.Rootfs, rootfs...)
	// The machine itself must be measurable: else every variant fails, and "no
	// known variant" would be a lie.
	if _, err := tdxmeasure.New(s.Input.Artifacts).Register(ctx, &s.Input.Config, int(register)); err != nil {
		return nil, errors.Join(s.machine.explained(err), s.Close())
	}
	return s, nil
}

func (s *Search) start(ctx context.Context, in *run.In) (err error) {
	if s.machine, err = Open(ctx, in, s.Platform); err != nil {
		return err
	}
	if err := s.open(ctx, in); err != nil {
		return errors.Join(err, s.machine.Close())
	}
	return nil
}

func (s *Search) open(ctx context.Context, in *run.In) error {
	if s.machine.document != nil || s.machine.indirect != nil {
		return &run.Fault{
			Err:  errors.New("deviations are known of a direct boot from an image's files only"),
			Hint: tdxmeasure.NameFields("give {firmware}, {kernel} and {initrd}", s.machine.say),
		}
	}
	if l := s.machine.lacks[s.Register]; l != nil && len(s.machine.assumed[s.Register]) == 0 {
		return &pipeline.InputError{Op: "search", File: string(s.Key), Err: errors.New("no " + l.What + " is given"), Hint: l.How}
	}
	if s.Register == explain.RTMR1 {
		if err := s.machine.openKernel(ctx, in); err != nil {
			return err
		}
	}
	if file := in.Config.Registry; file != "" && s.Register == explain.RTMR3 {
		registry, err := run.Parsed(ctx, in, file, evidence.MaxRegistry, evidence.ParseRegistry)
		if err != nil {
			return err
		}
		s.machine.TakeRows(registry)
	}
	s.Input = s.machine.searchInput()
	return nil
}

// wanted is the value that a search looks for: of several findings the first
// that differs.
func wanted(r *pipeline.Report, key pipeline.Key) (digest.Digest, bool) {
	if key.Kind() == "evidence" {
		for _, m := range r.Measurements {
			if m.Key == key {
				return m.Value.Digest(), true
			}
		}
		return digest.Digest{}, false
	}
	var want digest.Digest
	found := false
	for _, f := range r.Findings {
		if f.Key == key && f.Want.Kind() == pipeline.DigestKind && (!found || f.Verdict == pipeline.Differs) {
			want, found = f.Want.Digest(), true
			if f.Verdict == pipeline.Differs {
				break
			}
		}
	}
	return want, found
}
