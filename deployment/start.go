package deployment

import (
	"fmt"
	"slices"
	"strings"

	"gopkg.in/yaml.v3"

	"github.com/retally/retally/deployment/internal/shell"
	"github.com/retally/retally/internal/yamldoc"
)

// Opaque says that what a container starts is not understood whole, so that
// its disks and checks are not proved: nobody can say that nothing else runs.
type Opaque struct {
	Object       Identity
	Workload     string // Object.ID
	Container    string
	Init         bool
	Line, Column int
	Reason       string
}

// start is what a container starts, with the variables of the container put
// in where Kubernetes puts them.
type start struct {
	argv    []Arg // command, then args; Value is what the container gets
	command int   // how many of them are the command
	mounter bool
	shell   bool
	script  shell.Start
	result  shell.Result
	opaque  *opaqueAt
}

type opaqueAt struct {
	arg    *Arg // the script or word, if one is meant
	off    int  // in it
	line   int
	reason string
}

func (s *start) refuse(arg *Arg, off, line int, format string, a ...any) {
	if s.opaque == nil {
		s.opaque = &opaqueAt{arg, off, line, fmt.Sprintf(format, a...)}
	}
}

// weight is roughly what reading a container's start costs.
func (c Container) weight() int {
	n := len(c.vars)
	for _, list := range [][]Arg{c.Command, c.Args} {
		for _, a := range list {
			n += 1 + 8*len(a.Text)
		}
	}
	for _, h := range c.hooks {
		for _, w := range h.command {
			n += 1 + 8*len(w)
		}
	}
	return n
}

// startOf reads what a container starts, nil if there is nothing in it that
// mounts disks, checks files or is a script.
func (d *Deployment) startOf(w Workload, c Container) *start {
	s := &start{command: len(c.Command), mounter: c.isDiskMounter()}
	vars := c.variables()
	s.argv = append(append([]Arg(nil), c.Command...), c.Args...)
	hashes, unknown := false, ""
	for i := range s.argv {
		a := &s.argv[i]
		var u string
		a.value, u = vars.expand(a.Text)
		d.spend(len(a.value) / 8)
		if unknown == "" {
			unknown = u
		}
		s.mounter = s.mounter || shell.Mentions(a.value)
		hashes = hashes || shell.IsHash(a.value)
	}
	for _, h := range c.hooks {
		s.mounter = s.mounter || slices.ContainsFunc(h.command, shell.Mentions)
	}
	s.mounter = s.mounter || s.command > 0 && shell.IsMounter(s.argv[0].value)
	words := make([]string, len(s.argv))
	wrapped := false
	for i := range s.argv {
		words[i] = s.argv[i].value
		wrapped = wrapped || i < s.command && shell.IsShell(words[i])
	}
	mounts := make([]string, len(c.Mounts))
	for i, m := range c.Mounts {
		mounts[i] = m.Path
	}
	inline := ""
	if s.command > 0 {
		inline = shell.Inline(words, mounts)
	}
	hook := c.hookReason(vars, mounts)
	if !s.mounter && !hashes && !wrapped && inline == "" && hook == nil {
		return nil
	}
	if unknown != "" {
		s.refuse(nil, 0, c.Line, "$(%s) in its arguments has a value that is not in the file", clip(unknown))
	}
	d.surroundings(w, c, s, hashes)
	if inline != "" {
		s.refuse(&s.argv[0], 0, s.argv[0].Line, "%s", inline)
	}
	if hook != nil {
		s.refuse(nil, 0, hook.line, "%s", hook.reason)
	}
	if s.mounter || hashes || wrapped || inline != "" {
		s.follow(c, words, mounts, hashes)
	}
	return s
}

// hookReason says which program that Kubernetes starts beside the container's
// own is not understood.
func (c Container) hookReason(vars variables, mounts []string) *opaqueAt {
	for _, h := range c.hooks {
		words := make([]string, len(h.command))
		for i, w := range h.command {
			words[i], _ = vars.expand(w)
		}
		reason := shell.Inline(words, mounts)
		if sh, ok, why := shell.Find(words); ok && why != "" {
			reason = why
		} else if ok {
			if r := shell.Follow(sh, shell.Container{Plain: true, Mounts: mounts}); r.Opaque != nil {
				reason = r.Opaque.Reason
			}
		} else if reason == "" && len(words) > 0 && shell.IsShell(words[0]) {
			reason = "a shell of an unusual name"
		}
		if reason != "" {
			return &opaqueAt{line: h.line, reason: h.name + ": " + reason}
		}
	}
	return nil
}

// follow finds out which program the words start.
func (s *start) follow(c Container, words, mounts []string, hashes bool) {
	if s.command == 0 {
		// The image's own entrypoint gets the arguments.
		switch {
		case c.isDiskMounter():
		case s.mounter:
			s.refuse(nil, 0, c.Line, "its arguments name a program that mounts disks, and whether the image's entrypoint starts it is not known")
		case hashes:
			s.refuse(nil, 0, c.Line, "whether the image's entrypoint runs its arguments as a script is not known")
		}
		return
	}
	sh, ok, reason := shell.Find(words)
	switch first := &s.argv[0]; {
	case ok && reason != "":
		s.refuse(first, 0, first.Line, "%s", reason)
	case ok:
		s.shell, s.script = true, sh
		s.result = shell.Follow(sh, shell.Container{Mounter: s.mounter, Plain: !s.mounter && !hashes, Init: c.Init && c.restart != "Always", Mounts: mounts})
		if len(s.result.Mounts) > 0 && !s.mounter {
			s.mounter = true
			s.refuse(&s.argv[sh.ScriptAt], s.result.Mounts[0].Off, first.Line, "disk-mounter is spelled in pieces")
		}
		if o := s.result.Opaque; o != nil {
			s.refuse(&s.argv[sh.ScriptAt], o.Off, s.argv[sh.ScriptAt].Line, "%s", o.Reason)
		}
	case isDiskMounterName(baseName(words[0])):
		if slices.ContainsFunc(c.Mounts, func(m Mount) bool { return strings.Contains(words[0], "/") && strings.HasPrefix(words[0], m.Path) }) ||
			strings.Contains(words[0], "..") || strings.Contains(words[0], "/") && words[0][0] != '/' {
			s.refuse(first, 0, first.Line, "%q is on a volume, so it may be another program than the image's disk-mounter", clip(words[0]))
		}
	case s.mounter:
		s.refuse(first, 0, first.Line, "it starts %q, which is not disk-mounter and may start anything", clip(words[0]))
	case hashes:
		s.refuse(first, 0, first.Line, "its arguments hash files, and what %q does with them is not known", clip(words[0]))
	default:
		s.refuse(first, 0, first.Line, "%q starts a shell in a way that is not followed", clip(words[0]))
	}
}

// surroundings looks at what stands around a start and can change its
// meaning: variables, volumes over programs, and what else runs in the
// container.
func (d *Deployment) surroundings(w Workload, c Container, s *start, hashes bool) {
	for _, v := range c.vars {
		value := ""
		if v.value != nil {
			value = *v.value
		}
		if why := shell.DangerousVariable(v.name, value, v.value != nil && !strings.Contains(value, "$")); why != "" {
			s.refuse(nil, 0, v.line, "variable %s %s", clip(v.name), why)
		}
	}
	if c.envFrom {
		s.refuse(nil, 0, c.Line, "envFrom may set any variable")
	}
	for _, m := range c.Mounts {
		switch {
		case shell.CoversSystem(m.Path):
			s.refuse(nil, 0, m.Line, "a volume at %q may hold other programs than the image", clip(m.Path))
		case s.mounter && !shell.HoldsData(m.Path):
			s.refuse(nil, 0, m.Line, "a volume at %q may hold another program than the image's disk-mounter", clip(m.Path))
		}
	}
	for _, m := range c.Devices {
		if !strings.HasPrefix(m.Path, "/dev/") || strings.Contains(m.Path, "..") {
			s.refuse(nil, 0, m.Line, "a device at %q may take a program's place", clip(m.Path))
		}
	}
	if dir := c.workingDir; dir != "" {
		if slices.ContainsFunc(c.Mounts, func(m Mount) bool { return strings.HasPrefix(dir+"/", strings.TrimSuffix(m.Path, "/")+"/") }) || strings.Contains(dir, "..") {
			s.refuse(nil, 0, c.Line, "it works in the volume at %q", clip(dir))
		}
	}
	if !s.mounter && !hashes {
		return
	}
	for _, h := range c.hooks {
		s.refuse(nil, 0, h.line, "%s runs a program of its own in the container", h.name)
	}
}

// hook is a program that Kubernetes starts in a running container.
type hook struct {
	name    string
	command []string
	line    int
}

func hooksOf(n *yaml.Node) (out []hook) {
	for _, p := range [][]string{{"lifecycle", "postStart"}, {"lifecycle", "preStop"}, {"readinessProbe"}, {"livenessProbe"}, {"startupProbe"}} {
		exec := yamldoc.Path(n, append(p, "exec")...)
		if yamldoc.IsNull(exec) {
			continue
		}
		h := hook{name: strings.Join(p, "."), line: exec.Line}
		for _, e := range yamldoc.Elems(yamldoc.Get(exec, "command")) {
			t, _ := yamldoc.Text(e)
			h.command = append(h.command, t)
		}
		out = append(out, h)
	}
	return out
}

// collectStarts reads every container's start: its disks, its checks, and
// whether it is understood whole.
func (d *Deployment) collectStarts() {
	disks := newDiskUses()
	for _, w := range d.Workloads {
		for _, c := range w.Containers {
			if !d.spend(c.weight()) {
				if c.weight() > 0 {
					s := &start{}
					s.refuse(nil, 0, c.Line, "the start scripts of this file are too much work to follow all of them")
					d.addOpaque(w, c, s)
				}
				continue
			}
			s := d.startOf(w, c)
			if s == nil {
				continue
			}
			d.scriptChecks(w, c, s)
			if s.mounter {
				for _, pin := range d.diskPins(w, c, s) {
					d.disks = append(d.disks, pin)
					disks.add(d, pin)
				}
			}
			if s.opaque != nil {
				d.addOpaque(w, c, s)
			}
		}
	}
}

func (d *Deployment) addOpaque(w Workload, c Container, s *start) {
	o := Opaque{Object: w.Identity(), Workload: w.ID(), Container: c.Name, Init: c.Init, Line: s.opaque.line, Reason: s.opaque.reason}
	if a := s.opaque.arg; a != nil && a.node != nil {
		o.Line, o.Column = d.placeIn(a, s.opaque.off)
	}
	d.opaque = append(d.opaque, o)
	d.report(Problem{Code: StartOpaque, Workload: o.Workload, Container: o.Container, Line: o.Line, Column: o.Column, Msg: "what it starts is not understood: " + o.Reason})
}

// placeIn finds the place of an offset in an argument as written.
func (d *Deployment) placeIn(a *Arg, off int) (line, column int) {
	if a.value != a.Text || off < 0 || off > len(a.Text) {
		return a.Line, 0
	}
	word, _, _ := strings.Cut(a.Text[off:], "\n")
	word, _, _ = strings.Cut(word, " ")
	return d.src.find(a.node, off, word)
}

// locate finds where text stands that a word brought: in the argument that
// became $1, in the script, or at worst in any argument or variable.
func (d *Deployment) locate(c Container, s *start, w shell.Word, text string) (line, column int) {
	in := func(a *Arg, from int) bool {
		if a.node == nil || text == "" || from > len(a.Text) {
			return false
		}
		i := strings.Index(a.Text[from:], text)
		if i < 0 {
			return false
		}
		line, column = d.src.find(a.node, from+i, text)
		return true
	}
	if s.shell {
		if i := s.script.ParamsAt + w.Param; w.Param >= 0 && i < len(s.argv) {
			if in(&s.argv[i], 0) {
				return line, column
			}
			return s.argv[i].Line, 0
		}
		if script := &s.argv[s.script.ScriptAt]; script.value == script.Text && in(script, w.Off) {
			return line, column
		}
	}
	for i := range s.argv {
		if in(&s.argv[i], 0) {
			return line, column
		}
	}
	for _, e := range c.Env {
		if text != "" && strings.Contains(e.Value, text) {
			return e.Line, 0
		}
	}
	return c.Line, 0
}

func baseName(s string) string { return s[strings.LastIndexByte(s, '/')+1:] }
