package deployment

import (
	"fmt"
	"path"
	"strings"

	"github.com/retally/retally/deployment/internal/shell"
	"github.com/retally/retally/internal/digest"
)

// scriptChecks lists the checks of one start, and the constants in it that
// look like hashes and are in none.
func (d *Deployment) scriptChecks(w Workload, c Container, s *start) {
	accounted := map[string]bool{}
	for _, m := range s.result.Mounts {
		for _, a := range m.Args {
			_, value, _ := strings.Cut(a.Text, "=")
			accounted[a.Text], accounted[value] = true, true
		}
	}
	for _, e := range s.result.Checks {
		accounted[e.Want.Text] = true
		if s.opaque != nil {
			e.Verdict, e.Reason = shell.Unknown, "the start is not understood: "+s.opaque.reason
		}
		d.addCheck(w, c, s, e)
	}
	for i := range s.argv {
		a := &s.argv[i]
		if !shell.IsHash(a.value) {
			continue
		}
		why := "nothing seen compares it with a file's hash"
		if s.opaque != nil {
			why = s.opaque.reason
		}
		for _, hex := range constants(a.value) {
			if accounted[hex.text] {
				continue
			}
			accounted[hex.text] = true
			line, col := a.Line, 0
			if a.node != nil && a.value == a.Text {
				line, col = d.src.find(a.node, hex.off, hex.text)
			}
			d.report(Problem{
				Code: CheckNotUnderstood, Workload: w.ID(), Container: c.Name, Line: line, Column: col,
				Msg: fmt.Sprintf("the script hashes files and has the constant %s, but how it uses it is not understood: %s", hex.text, why),
			})
		}
	}
}

func (d *Deployment) addCheck(w Workload, c Container, s *start, e shell.Check) {
	f := FileCheck{
		Object: w.Identity(), Workload: w.ID(), Container: c.Name, Init: c.Init, File: e.File, ExpectedText: e.Want.Text,
		CopiedFrom: e.From, Enforcement: Enforcement(e.Verdict), Reason: e.Reason,
	}
	f.Line, f.Column = d.locate(c, s, e.Want, e.Want.Text)
	report := func(code Code, format string, args ...any) {
		d.report(Problem{Code: code, Workload: f.Workload, Container: f.Container, Line: f.Line, Column: f.Column, Msg: fmt.Sprintf(format, args...)})
	}
	d.origin(w, c, &f)
	v, err := digest.ParseHex(e.Algorithm, e.Want.Text)
	if err == nil && e.Exact && v.Hex() != e.Want.Text {
		err = fmt.Errorf("%q has upper-case digits, which the program never prints: no file can match", clip(e.Want.Text))
	}
	if err != nil {
		d.checks = append(d.checks, f)
		report(CheckMalformed, "expected %s of %q: %v", e.Algorithm, clip(e.File), err)
		return
	}
	f.Expected = v
	d.checks = append(d.checks, f)
	switch f.Enforcement {
	case NotEnforced:
		report(CheckNotEnforced, "the hash of %q is checked, but not enforced: %s", clip(e.File), e.Reason)
	case Inverted:
		report(CheckInverted, "the check of %q is the wrong way around: %s", clip(e.File), e.Reason)
	}
}

// origin finds the volume that a checked file comes from.
func (d *Deployment) origin(w Workload, c Container, f *FileCheck) {
	file := f.File
	if f.CopiedFrom != "" {
		file = f.CopiedFrom
	}
	if file == "" {
		return
	}
	file = path.Clean(file)
	var best *Mount
	for i, m := range c.Mounts {
		dir := path.Clean(m.Path)
		if (file == dir || strings.HasPrefix(file, strings.TrimSuffix(dir, "/")+"/")) && m.Path != "" && (best == nil || len(dir) > len(path.Clean(best.Path))) {
			best = &c.Mounts[i]
		}
	}
	if best == nil {
		return
	}
	f.Volume = best.Volume
	rel := strings.TrimPrefix(strings.TrimPrefix(file, path.Clean(best.Path)), "/")
	rel = path.Join(best.SubPath, rel)
	for _, v := range w.Volumes {
		if v.Name != best.Volume {
			continue
		}
		f.Source, f.ConfigMap = v.Source, v.ConfigMap
		if v.ConfigMap == "" {
			continue
		}
		if v.Items != nil {
			f.Key = v.Items[rel]
		} else if !strings.Contains(rel, "/") {
			f.Key = rel
		}
	}
}

type constant struct {
	text string
	off  int
}

// constants lists the hex digits in a script that could be a hash of one of
// the sizes that sha256sum and its kin print, image digests left out.
func constants(script string) (out []constant) {
	for i := 0; i < len(script); {
		start := i
		for i < len(script) && isHex(script[i:i+1]) {
			i++
		}
		switch {
		case i == start:
			i++
		case i < len(script) && (isAlnum(script[i]) || script[i] == '_'), start > 0 && (isAlnum(script[start-1]) || script[start-1] == '_' || script[start-1] == ':'):
		default:
			switch i - start {
			case 56, 64, 96, 128:
				out = append(out, constant{script[start:i], start})
			}
		}
	}
	return out
}
