package deployment

import (
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"

	"gopkg.in/yaml.v3"

	"github.com/retally/retally/internal/digest"
)

// maxChecks bounds the checks that are followed in one script: each costs a
// run of its own.
const maxChecks = 200

func (d *Deployment) collectFileChecks() {
	sums := regexp.MustCompile(`sha(1|224|256|384|512)?sum\b`)
	for _, w := range d.Workloads {
		for _, c := range w.Containers {
			argv := c.argv()
			size := len(argv) + len(c.Env)
			for _, a := range argv {
				size += len(a.Text) / 8
			}
			if !d.spend(size) {
				return
			}
			if !slices.ContainsFunc(argv, func(a Arg) bool { return sums.MatchString(a.Text) }) {
				continue
			}
			if sh, ok := findShell(argv); ok {
				d.scriptChecks(w, c, sh, "")
				continue
			}
			for _, a := range argv {
				if sums.MatchString(a.Text) {
					d.scriptChecks(w, c, shellCall{script: a}, "whether the image's entrypoint runs this as a script is not known")
				}
			}
		}
	}
}

// scriptChecks follows one script: once with every check matching, and once
// for each check with that one not matching.
func (d *Deployment) scriptChecks(w Workload, c Container, sh shellCall, doubt string) {
	script := sh.script.node
	if !d.spend(4 * len(sh.script.Text)) {
		return
	}
	list, err := parseScript(sh.script.Text)
	if err != nil {
		if hex := constants(sh.script.Text); len(hex) > 0 {
			d.notUnderstood(w, c, script, hex[0], err.Error())
		}
		return
	}
	good := newShellRun(sh, c.Env, -1)
	_, goodEnd := good.list(list)
	d.spend(good.steps)
	accounted := map[string]bool{}
	for _, m := range good.mounts {
		for _, a := range m.args {
			_, value, _ := strings.Cut(a.text, "=")
			accounted[a.text], accounted[value] = true, true
		}
	}
	known := map[int]bool{}
	for _, e := range good.events {
		known[e.off] = true
	}
	var extra []checkEvent // met only after another check failed
	for i, e := range good.events {
		accounted[e.wantText] = true
		verdict, reason := Unknown, doubt
		if i >= maxChecks || !d.spend(len(c.Env)+good.steps) {
			reason = "too many checks to follow each"
		} else if doubt == "" {
			bad := newShellRun(sh, c.Env, i)
			_, badEnd := bad.list(list)
			for _, f := range bad.events {
				if !known[f.off] {
					known[f.off], accounted[f.wantText] = true, true
					extra = append(extra, f)
				}
			}
			verdict, reason = judge(c, e, good, goodEnd, bad, badEnd)
		}
		d.addCheck(w, c, script, e, verdict, reason)
	}
	for _, e := range extra {
		d.addCheck(w, c, script, e, Unknown, "reached only where another check fails")
	}
	for _, hex := range constants(sh.script.Text) {
		if !accounted[hex.text] {
			accounted[hex.text] = true
			d.notUnderstood(w, c, script, hex, "nothing seen compares it with a file's hash")
		}
	}
}

// judge compares the run in which a check fails with the one in which it does
// not.
func judge(c Container, e checkEvent, good *shellRun, goodEnd end, bad *shellRun, badEnd end) (Enforcement, string) {
	decides := false
	for _, f := range bad.events {
		decides = decides || !slices.ContainsFunc(good.events, func(g checkEvent) bool { return g.off == f.off })
	}
	switch {
	case good.cut || bad.cut:
		return Unknown, "the script is too long to follow"
	case e.odd != "":
		return Unknown, e.odd
	case e.want.kind != valueText:
		return Unknown, "the expected value is not in the file"
	case badEnd == endFail && goodEnd != endFail:
		return Enforced, "a mismatch ends the script with a failure"
	case goodEnd == endFail && badEnd != endFail:
		return Inverted, "a match ends the script with a failure, a mismatch does not"
	case decides:
		return Unknown, "after a mismatch another check decides"
	case goodEnd == badEnd && slices.Equal(good.trace, bad.trace):
		return NotEnforced, "a mismatch changes nothing but what is printed"
	case badEnd == endOther && goodEnd != endOther && c.Init && c.restart != "Always":
		return NotEnforced, "a mismatch ends the init container without a failure, so the pod goes on"
	case badEnd == endOther && goodEnd != endOther:
		return Unknown, "a mismatch ends the script, but not with a failure"
	}
	return Unknown, "a mismatch changes what runs, but is not seen to stop it"
}

func (d *Deployment) addCheck(w Workload, c Container, script *yaml.Node, e checkEvent, verdict Enforcement, reason string) {
	f := FileCheck{
		Workload: w.ID(), Container: c.Name, Init: c.Init, File: e.file, ExpectedText: e.wantText,
		CopiedFrom: e.from, Enforcement: verdict, Reason: reason,
	}
	f.Line, f.Column = d.locate(c, script, e.want, e.wantText)
	report := func(code Code, format string, args ...any) {
		d.report(Problem{Code: code, Workload: f.Workload, Container: f.Container, Line: f.Line, Column: f.Column, Msg: fmt.Sprintf(format, args...)})
	}
	d.origin(w, c, &f)
	if e.want.kind != valueText {
		f.ExpectedText = ""
		d.checks = append(d.checks, f)
		report(CheckNotInline, "the expected %s of %q is not in this file", e.alg, clip(e.file))
		return
	}
	v, err := digest.ParseHex(e.alg, e.wantText)
	if err == nil && e.exact && v.Hex() != e.wantText {
		err = fmt.Errorf("%q has upper-case digits, which the program never prints: no file can match", clip(e.wantText))
	}
	if err != nil {
		d.checks = append(d.checks, f)
		report(CheckMalformed, "expected %s of %q: %v", e.alg, clip(e.file), err)
		return
	}
	f.Expected = v
	d.checks = append(d.checks, f)
	switch verdict {
	case NotEnforced:
		report(CheckNotEnforced, "the hash of %q is checked, but not enforced: %s", clip(e.file), reason)
	case Inverted:
		report(CheckInverted, "the check of %q is the wrong way around: %s", clip(e.file), reason)
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

func (d *Deployment) notUnderstood(w Workload, c Container, script *yaml.Node, hex constant, why string) {
	line, col := d.locate(c, script, shValue{off: hex.off}, hex.text)
	d.report(Problem{
		Code: CheckNotUnderstood, Workload: w.ID(), Container: c.Name, Line: line, Column: col,
		Msg: fmt.Sprintf("the script hashes files and has the constant %s, but how it uses it is not understood: %s", hex.text, why),
	})
}
