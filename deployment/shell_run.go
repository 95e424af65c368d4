package deployment

import (
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/retally/retally/internal/digest"
)

// shellRun follows a script without running anything. It knows what literal
// words, assigned variables and hashed files are; every other command has an
// unknown status, so both ways are followed where the status decides. Each
// comparison of a file's hash with a constant is an event; the run assumes
// that all of them match, or that one of them does not. What a check is good
// for shows in the difference between the two runs.
type shellRun struct {
	vars    map[string]shValue
	params  []shValue // $1, $2, …
	funcs   map[string]*shCmd
	errexit bool
	guarded int // > 0: inside a condition, where set -e does not apply
	depth   int
	steps   int

	mismatch int // number of the event that does not match, -1 for none
	events   []checkEvent
	copies   []fileCopy
	trace    []int // offsets of the commands that do something
	mounts   []invocation
	changed  bool // the positional parameters were changed in an unknown way
	cut      bool // the bound on steps was met
}

type (
	// shValue is what a word expands to, as far as known.
	shValue struct {
		kind valueKind
		text string // valueText: the text; valueHash and valueHashLine: the file
		alg  digest.Algorithm
		arg  *Arg // the argument it comes from unchanged, if any
		off  int  // in the script, -1 for none
		line int  // of an environment variable's entry
		odd  bool // the hash went through a filter that is not known
	}
	valueKind uint8

	checkEvent struct {
		off      int // of the command
		file     string
		alg      digest.Algorithm
		want     shValue // valueText if the constant is known
		wantText string
		from     string // file copied from
		odd      string // why its meaning is not certain
		exact    bool   // text comparison, so case counts
	}
	fileCopy   struct{ from, to string }
	invocation struct {
		off  int
		args []shValue
	}

	// status is what is known of a command's exit status.
	status uint8
	// end is how following a list ended.
	end uint8
)

const (
	valueUnknown valueKind = iota
	valueText
	valueHash     // hex digits of a file's hash
	valueHashLine // "HEX  FILE"
)

const (
	statusUnknown status = iota
	statusOK
	statusFail
)

const (
	endNone   end = iota
	endFail       // the script stops with a failure
	endOther      // it stops with success or an unknown status
	endExec       // another program takes its place
	endReturn     // of a function
	endLoop       // break or continue
)

const maxSteps = 200_000

func newShellRun(sh shellCall, env []EnvVar, mismatch int) *shellRun {
	r := &shellRun{vars: map[string]shValue{}, funcs: map[string]*shCmd{}, errexit: sh.errexit, mismatch: mismatch}
	for _, e := range env {
		r.vars[e.Name] = shValue{kind: valueText, text: e.Value, off: -1, line: e.Line}
	}
	for i := range sh.params {
		r.params = append(r.params, shValue{kind: valueText, text: sh.params[i].Text, arg: &sh.params[i], off: -1})
	}
	return r
}

func (r *shellRun) list(l shList) (status, end) {
	st := statusOK
	for _, ao := range l {
		if r.steps > maxSteps {
			r.cut = true
			return statusUnknown, endNone
		}
		var e end
		if st, e = r.andOr(ao); e != endNone {
			return st, e
		}
	}
	return st, endNone
}

// andOr follows a chain of && and ||. Under set -e only the last pipeline's
// failure ends the script (Std 1003.1, set -e).
func (r *shellRun) andOr(ao shAndOr) (status, end) {
	if ao.background {
		errexit := r.errexit
		r.errexit = false
		r.chain(ao)
		r.errexit = errexit
		return statusOK, endNone
	}
	return r.chain(ao)
}

func (r *shellRun) chain(ao shAndOr) (status, end) {
	last := len(ao.pipes) - 1
	st, e := r.pipe(ao.pipes[0], last > 0)
	ran := 0
	for i, op := range ao.ops {
		if e != endNone {
			return st, e
		}
		goOn, skip := statusOK, statusFail
		if op == "||" {
			goOn, skip = statusFail, statusOK
		}
		switch st {
		case skip:
		case goOn:
			st, e = r.pipe(ao.pipes[i+1], i+1 < last)
			ran = i + 1
		default:
			// Either way: what follows may or may not happen. Whoever goes on
			// after an end in it has come by the way around it.
			st2, e2 := r.maybe(func() (status, end) { return r.pipe(ao.pipes[i+1], i+1 < last) })
			ran = -1
			if e2 == endNone && st2 == statusFail && i+1 == last && r.errexit && r.guarded == 0 && !ao.pipes[last].negated {
				e2 = endFail
				r.trace = append(r.trace, -int(endFail))
			}
			if st = statusUnknown; e2 != endNone || st2 == skip {
				st = skip
			}
		}
	}
	if e == endNone && st == statusFail && r.errexit && r.guarded == 0 && ran == last && !ao.pipes[last].negated {
		return st, endFail
	}
	return st, e
}

// maybe follows something that may not happen: an end in it ends nothing, but
// it stays in the trace.
func (r *shellRun) maybe(f func() (status, end)) (status, end) {
	st, e := f()
	if e != endNone {
		r.trace = append(r.trace, -int(e))
	}
	return st, e
}

func (r *shellRun) pipe(p shPipe, guarded bool) (status, end) {
	if guarded || p.negated {
		r.guarded++
		defer func() { r.guarded-- }()
	}
	var st status
	var e end
	if events, ok := r.sumCheck(p); ok {
		st = r.assess(events)
	} else if len(p.cmds) == 1 {
		st, e = r.command(p.cmds[0])
	} else {
		for _, c := range p.cmds {
			st, _ = r.command(c) // each in a process of its own, whose end is its status
		}
	}
	if p.negated {
		switch st {
		case statusOK:
			st = statusFail
		case statusFail:
			st = statusOK
		}
	}
	return st, e
}

func (r *shellRun) command(c *shCmd) (status, end) {
	r.steps++
	if r.steps > maxSteps || r.depth > maxShDepth {
		r.cut = true
		return statusUnknown, endNone
	}
	r.depth++
	defer func() { r.depth-- }()
	switch c.kind {
	case cmdIf:
		return r.ifCommand(c)
	case cmdGroup:
		return r.list(c.bodies[0])
	case cmdSubshell:
		errexit, vars, params := r.errexit, cloneVars(r.vars), r.params
		st, e := r.list(c.bodies[0])
		r.errexit, r.vars, r.params = errexit, vars, params
		switch e {
		case endFail:
			st = statusFail
			if r.errexit && r.guarded == 0 {
				return st, endFail
			}
		case endOther, endExec:
			st = statusUnknown
		}
		return st, endNone
	case cmdFunc:
		r.funcs[c.name] = c
		return statusOK, endNone
	case cmdFor:
		return r.forLoop(c)
	case cmdLoop:
		r.guarded++
		r.list(c.conds[0])
		r.guarded--
		r.maybe(func() (status, end) { return r.list(c.bodies[0]) })
		return statusUnknown, endNone
	case cmdCase:
		for _, b := range c.bodies {
			r.maybe(func() (status, end) { return r.list(b) })
		}
		return statusUnknown, endNone
	}
	return r.simple(c)
}

func (r *shellRun) ifCommand(c *shCmd) (status, end) {
	// ends collects how the ways ended that an unknown condition leaves open.
	var ends []end
	way := func(l shList) (status, end) {
		if ends == nil {
			return r.list(l)
		}
		_, e := r.maybe(func() (status, end) { return r.list(l) })
		return r.agree(append(ends, e))
	}
	for i, cond := range c.conds {
		r.guarded++
		st, e := r.list(cond)
		r.guarded--
		if e != endNone && ends == nil {
			return st, e
		}
		switch st {
		case statusOK:
			return way(c.bodies[i])
		case statusUnknown:
			_, e := r.maybe(func() (status, end) { return r.list(c.bodies[i]) })
			ends = append(ends, e)
		}
	}
	if c.hasElse {
		return way(c.bodies[len(c.bodies)-1])
	}
	if ends != nil {
		return statusUnknown, endNone
	}
	return statusOK, endNone
}

// agree ends the list if every way ended in the same manner.
func (r *shellRun) agree(ends []end) (status, end) {
	for _, e := range ends {
		if e != ends[0] {
			return statusUnknown, endNone
		}
	}
	return statusUnknown, ends[0]
}

func (r *shellRun) forLoop(c *shCmd) (status, end) {
	values, ok := r.expand(c.words)
	const maxRounds = 200
	if !ok || len(values) > maxRounds {
		r.vars[c.name] = shValue{}
		r.maybe(func() (status, end) { return r.list(c.bodies[0]) })
		return statusUnknown, endNone
	}
	for _, v := range values {
		r.vars[c.name] = v
		if st, e := r.list(c.bodies[0]); e == endLoop {
			return statusUnknown, endNone
		} else if e != endNone {
			return st, e
		}
	}
	return statusOK, endNone
}

func (r *shellRun) simple(c *shCmd) (status, end) {
	words, _ := r.expand(c.words)
	for len(words) > 0 && words[0].kind == valueText {
		name := path.Base(words[0].text)
		if name != "command" && name != "env" && name != "nohup" && name != "builtin" {
			break
		}
		words = words[1:]
		for len(words) > 0 && words[0].kind == valueText && name == "env" && strings.Contains(words[0].text, "=") {
			words = words[1:]
		}
	}
	for _, a := range c.assigns {
		v := r.value(a.value)
		if len(c.words) == 0 {
			r.vars[a.name] = v
		}
	}
	if len(words) == 0 {
		return statusOK, endNone
	}
	if words[0].kind != valueText {
		r.trace = append(r.trace, c.off)
		return statusUnknown, endNone
	}
	name, args := path.Base(words[0].text), words[1:]
	if name == "exec" && len(args) > 0 {
		if len(args) > 2 && args[0].kind == valueText && args[0].text == "-a" {
			args = args[2:]
		}
		if args[0].kind == valueText {
			r.program(c, path.Base(args[0].text), args[1:])
		}
		r.trace = append(r.trace, c.off)
		return statusOK, endExec
	}
	if f := r.funcs[name]; f != nil {
		saved := r.params
		r.params = args
		st, e := r.list(f.bodies[0])
		r.params = saved
		if e == endReturn {
			e = endNone
		}
		return st, e
	}
	return r.builtin(c, name, args)
}

// builtin handles the commands whose meaning is known.
func (r *shellRun) builtin(c *shCmd, name string, args []shValue) (status, end) {
	switch name {
	case ":", "true", "echo", "printf", "logger":
		return statusOK, endNone
	case "false":
		return statusFail, endNone
	case "[", "test", "[[":
		return r.test(c, name, args), endNone
	case "exit":
		r.trace = append(r.trace, c.off)
		if len(args) > 0 && args[0].kind == valueText {
			if n, err := strconv.Atoi(args[0].text); err == nil && n&0xff != 0 {
				return statusFail, endFail
			}
		}
		return statusUnknown, endOther
	case "return":
		st := statusUnknown
		if len(args) > 0 && args[0].kind == valueText {
			if n, err := strconv.Atoi(args[0].text); err == nil {
				if st = statusOK; n != 0 {
					st = statusFail
				}
			}
		}
		return st, endReturn
	case "break", "continue":
		return statusOK, endLoop
	case "export", "readonly", "local", "declare", "typeset":
		for _, w := range c.words[1:] {
			if n, v, ok := w.assignment(); ok {
				r.vars[n] = r.value(v)
			}
		}
		return statusOK, endNone
	case "unset", "read":
		for _, a := range args {
			delete(r.vars, a.text)
		}
	case "shift":
		n := 1
		if len(args) > 0 {
			n, _ = strconv.Atoi(args[0].text)
		}
		r.params = r.params[min(max(n, 0), len(r.params)):]
		return statusOK, endNone
	case "set":
		r.set(args)
		return statusOK, endNone
	}
	r.program(c, name, args)
	r.trace = append(r.trace, c.off)
	return statusUnknown, endNone
}

func (r *shellRun) set(args []shValue) {
	for i, a := range args {
		switch {
		case a.kind != valueText:
			r.changed = true
			return
		case a.text == "--":
			r.params = slices.Clone(args[i+1:])
			return
		case a.text == "-o" || a.text == "+o":
			if i+1 < len(args) && args[i+1].text == "errexit" {
				r.errexit = a.text == "-o"
			}
		case strings.HasPrefix(a.text, "-") || strings.HasPrefix(a.text, "+"):
			if strings.Contains(a.text, "e") {
				r.errexit = a.text[0] == '-'
			}
		case i > 0 && strings.HasSuffix(args[i-1].text, "o"):
			if a.text == "errexit" {
				r.errexit = args[i-1].text[0] == '-'
			}
		default:
			r.params = slices.Clone(args[i:])
			return
		}
	}
}

// program notes what other programs do that matters here.
func (r *shellRun) program(c *shCmd, name string, args []shValue) {
	switch {
	case isDiskMounterName(name):
		r.mounts = append(r.mounts, invocation{c.off, args})
	case name == "cp" || name == "mv" || name == "ln" || name == "install":
		var files []shValue
		for _, a := range args {
			if a.kind != valueText {
				files = append(files, a)
			} else if !strings.HasPrefix(a.text, "-") || a.text == "-" {
				files = append(files, a)
			}
		}
		if len(files) < 2 || files[len(files)-1].kind != valueText {
			return
		}
		to := files[len(files)-1].text
		for _, f := range files[:len(files)-1] {
			if f.kind == valueText {
				r.copies = append(r.copies, fileCopy{from: f.text, to: to})
			}
		}
	}
}

// copiedFrom finds the latest copy that made file.
func (r *shellRun) copiedFrom(file string) string {
	file = path.Clean(file)
	for _, c := range slices.Backward(r.copies) {
		if to := path.Clean(c.to); to == file || path.Join(to, path.Base(c.from)) == file {
			return c.from
		}
	}
	return ""
}

func cloneVars(m map[string]shValue) map[string]shValue {
	out := make(map[string]shValue, len(m))
	for k, v := range m {
		out[k] = v
	}
	return out
}
