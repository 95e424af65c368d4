package main

import (
	"context"
	"crypto/sha256"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/retally/retally/contrastcli"
	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/manifest"
	"github.com/retally/retally/pipeline"
	"github.com/retally/retally/pipeline/config"
	"github.com/retally/retally/pipeline/run"
	"github.com/retally/retally/pipeline/stages"
)

// hold compares an embedded value, which is taken as it was found, with a given
// one. why says that the program does not have it: it is unchecked then.
func (l *contrastLook) hold(key pipeline.Key, got, want digest.Digest, by, why string) {
	c := comparedValue{Key: string(key), Given: want.String(), Reason: why}
	if why == "" {
		c.Embedded = got.String()
		l.out.Take(key, pipeline.OfDigest(got), l.file)
		l.taken[key] = true
	} else {
		l.out.Notes[key] = why
	}
	l.out.Refer(key, pipeline.OfDigest(want), pipeline.Where{File: by}, "given")
	l.res.Compared = append(l.res.Compared, c)
}

// digests compares the program itself. Its digest is computed here.
func (l *contrastLook) digests(g *contrastGiven) error {
	whole := func(name string, want digest.Digest, by string) pipeline.Key {
		key := pipeline.NewKey("contrast-cli", name)
		l.out.Measure(key, pipeline.OfDigest(l.p.Digest), l.file, "")
		l.out.Refer(key, pipeline.OfDigest(want), pipeline.Where{File: by}, "digest of the program")
		l.res.Compared = append(l.res.Compared, comparedValue{Key: string(key), Embedded: l.p.Digest.String(), Given: want.String()})
		l.recounted = true
		return key
	}
	if g.checksum != "" {
		text, err := l.a.readInput("read", g.checksum, smallFile)
		if err != nil {
			return err
		}
		want, err := contrastcli.Checksum(g.checksum, string(text), filepath.Base(l.file))
		if err != nil {
			return &userError{op: "read checksum", path: g.checksum, err: err}
		}
		whole("digest", want, g.checksum)
	}
	if g.rebuild == "" {
		return nil
	}
	own, err := l.a.contrastProgram(g.rebuild)
	if err != nil {
		return err
	}
	if key := whole("rebuild", own.Digest, g.rebuild); own.Digest != l.p.Digest {
		l.out.Causes[key] = l.rebuilt(key, own, g.rebuild)
	}
	return nil
}

// rebuilt says which embedded files of a rebuild are others. They are part of
// the difference; whether all of it, nobody can say without building again.
func (l *contrastLook) rebuilt(key pipeline.Key, own *contrastcli.Program, by string) []pipeline.Cause {
	var causes []pipeline.Cause
	for _, name := range contrastcli.Kinds() {
		here, has := l.p.File(name)
		there, had := own.File(name)
		if has != had || has && here.SHA256 != there.SHA256 {
			c := pipeline.Cause{Path: []string{string(key), name}, Standing: pipeline.Suspected, Where: pipeline.Where{File: by}, Note: "the embedded " + name + " of the rebuild is another"}
			if has {
				c.Actual = here.SHA256.String()
			}
			if had {
				c.Expected = there.SHA256.String()
			}
			causes = append(causes, c)
		}
	}
	if own.Version != l.p.Version {
		causes = append(causes, pipeline.Cause{Path: []string{string(key), "version"}, Expected: own.Version, Actual: l.p.Version, Standing: pipeline.Suspected, Where: pipeline.Where{File: by}, Note: "the two say that they are of different releases"})
	}
	if len(causes) == 0 {
		causes = append(causes, pipeline.Cause{Path: []string{string(key), "code"}, Standing: pipeline.Suspected, Where: pipeline.Where{File: by}, Note: "the embedded files that were found are the same, so code, build flags or build information differ"})
	}
	return causes
}

// embedded compares settings and rules.
func (l *contrastLook) embedded(g *contrastGiven) error {
	for _, f := range []struct{ name, path string }{{contrastcli.Settings, g.settings}, {contrastcli.Rules, g.rules}} {
		if f.path == "" {
			continue
		}
		b, err := l.a.readInput("read", f.path, smallFile)
		if err != nil {
			return err
		}
		sum := sha256.Sum256(b)
		want, err := digest.FromBytes(digest.SHA256, sum[:])
		if err != nil {
			return err
		}
		own, ok := l.p.File(f.name)
		why := ""
		if !ok {
			why = "the program has no such file embedded that was found"
		}
		l.hold(pipeline.NewKey("contrast-cli", f.name), own.SHA256, want, f.path, why)
	}
	return nil
}

func (l *contrastLook) values() ([]contrastcli.Value, error) {
	ref, _ := l.p.File(contrastcli.ReferenceValues)
	list, err := contrastcli.Values(ref)
	if err != nil {
		return nil, &userError{op: "read Contrast program", path: l.file, err: err}
	}
	return list, nil
}

// manifest compares the launch values of a manifest.
func (l *contrastLook) manifest(name string) error {
	data, err := l.a.readInput("read", name, smallFile)
	if err != nil {
		return err
	}
	m, err := manifest.Parse(name, data)
	if err != nil {
		return &userError{op: "read manifest", path: name, err: err}
	}
	list, err := l.values()
	if err != nil {
		return err
	}
	one := func(pointer, published string, v contrastcli.Value) error {
		want, err := digest.ParseHex(digest.SHA384, published)
		if err != nil {
			return &userError{op: "read manifest", path: name, msg: fmt.Sprintf("%s/%s: %v", pointer, v.Field, err)}
		}
		got, why := embeddedDigest(list, v)
		parts := append([]string{"contrast-cli"}, strings.Split(strings.Trim(pointer, "/")+"/"+v.Field, "/")...)
		l.hold(pipeline.NewKey(parts...), got, want, name, why)
		return nil
	}
	for _, e := range m.SNP() {
		if err := one(e.Pointer, e.TrustedMeasurement, contrastcli.Value{Platform: e.Platform, Product: e.ProductName, CPUs: e.CPUs, Field: "TrustedMeasurement"}); err != nil {
			return err
		}
	}
	for _, e := range m.TDX() {
		if err := one(e.Pointer, e.MrTd, contrastcli.Value{Platform: e.Platform, Field: "MrTd"}); err != nil {
			return err
		}
		for i, r := range e.Rtmrs {
			if err := one(e.Pointer, r, contrastcli.Value{Platform: e.Platform, Field: fmt.Sprintf("Rtmrs/%d", i)}); err != nil {
				return err
			}
		}
	}
	return nil
}

// embeddedDigest is the one embedded value, or why there is none.
func embeddedDigest(list []contrastcli.Value, v contrastcli.Value) (digest.Digest, string) {
	hex, why := contrastcli.Select(list, v)
	if why != "" {
		return digest.Digest{}, why
	}
	got, err := digest.ParseHex(digest.SHA384, hex)
	if err != nil {
		return digest.Digest{}, "the embedded value is no SHA-384: " + err.Error()
	}
	return got, ""
}

// machines computes launch values from artifacts and holds them against the
// embedded ones: what the program will put into every manifest.
func (l *contrastLook) machines(ctx context.Context, flags []string) error {
	if len(flags) == 0 {
		return nil
	}
	platforms, err := l.a.platformFiles("contrast cli", flags)
	if err != nil {
		return err
	}
	list, err := l.values()
	if err != nil {
		return err
	}
	cfg := &config.Config{Version: 1, Platforms: platforms}
	if err := run.CheckConfig(stages.Table(), cfg); err != nil {
		return &userError{op: "contrast cli", err: err}
	}
	root, err := filepath.Abs(".")
	if err != nil {
		return err
	}
	progress := new(run.Progress)
	stop := l.a.showProgress(progress)
	res, err := run.Run(ctx, stages.Table(), cfg, run.Options{Root: root, Tool: tool(), Build: run.BuildIdentity(), Progress: progress})
	stop()
	if err != nil {
		return err
	}
	l.out.Problems = append(l.out.Problems, res.Report.Problems...)
	l.out.Lacks = append(l.out.Lacks, res.Report.Lacks...)
	computed := map[string]pipeline.Measurement{}
	for _, m := range res.Report.Measurements {
		computed[string(m.Key)] = m
	}
	l.recounted = true
	for _, name := range slices.Sorted(maps.Keys(platforms)) {
		l.machine(name, list, computed)
	}
	return nil
}

// registerOf is the name that the tdx stage has for a field.
func registerOf(field string) string {
	if n, ok := strings.CutPrefix(field, "Rtmrs/"); ok {
		return "rtmr" + n
	}
	return strings.ToLower(field)
}

// machine holds each embedded value of a platform against the computed one. A
// platform that the program does not have is unchecked by that.
func (l *contrastLook) machine(name string, list []contrastcli.Value, computed map[string]pipeline.Measurement) {
	seen := map[pipeline.Key]bool{}
	for _, v := range list {
		if v.Platform != strings.ToLower(name) {
			continue
		}
		key := pipeline.NewKey("tdx", name, registerOf(v.Field))
		if v.Field == "TrustedMeasurement" {
			cpus := uint64(1)
			if v.CPUs != nil {
				cpus = *v.CPUs
			}
			key = pipeline.NewKey("snp", name, v.Product, fmt.Sprintf("cpus=%d", cpus), "launch")
		}
		if seen[key] {
			continue
		}
		seen[key] = true
		m, ok := computed[string(key)]
		own, why := embeddedDigest(list, v)
		switch {
		case why != "":
		case !ok || m.Value.Kind() != pipeline.DigestKind:
			why = "was not computed: firmware, kernel, initrd or command line is missing, or another product or count was asked for"
		}
		c := comparedValue{Key: string(key), Embedded: own.String(), Reason: why}
		if why == "" {
			c.Given = m.Value.Digest().String()
			l.out.Measurements = append(l.out.Measurements, m)
		} else {
			l.out.Notes[key] = why
		}
		want := pipeline.OfDigest(own)
		if want.IsNone() {
			want = pipeline.OfText(v.Hex)
		}
		l.out.Refer(key, want, pipeline.Where{File: l.file}, "embedded "+v.Field)
		l.res.Compared = append(l.res.Compared, c)
	}
	if len(seen) == 0 {
		l.out.Problem(pipeline.LevelWarning, "embedded-platform", pipeline.Where{File: l.file}, fmt.Sprintf("has no embedded reference values for platform %.80q", name), "the name stands in reference-values.json, between contrast-cc- and the last part")
	}
}
