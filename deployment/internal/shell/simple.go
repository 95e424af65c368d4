package shell

import (
	"path"
	"slices"
	"strings"

	"mvdan.cc/sh/v3/syntax"
)

// simple follows one command with its words.
func (f *follower) simple(s *syntax.Stmt, call *syntax.CallExpr) *Opaque {
	if len(call.Args) == 0 {
		for _, a := range call.Assigns {
			if err := f.assign(s, a); err != nil {
				return err
			}
		}
		return f.noRedirections(s)
	}
	word, ok := literal(call.Args[0])
	if !ok {
		return opaque(s, "a command's name is not literal")
	}
	name := commandName(word)
	if _, known := commands()[name]; len(call.Assigns) > 0 && (!f.around.Plain || known || path.Base(word) == Mounter) {
		return opaque(s, "a variable is set for one command")
	}
	args := call.Args[1:]
	switch name {
	case "exit":
		code, err := exitCode(call)
		if err != nil || code < 0 {
			return err
		}
		f.ended = true
		return f.noRedirections(s)
	case "set":
		return f.set(s, args)
	case "export", "readonly":
		return f.export(s, args)
	case "exec":
		return f.exec(s, args)
	case "[", "test":
		if err := f.test(s, name, args); err != nil {
			return err
		}
		return f.redirections(s, false)
	}
	words, err := f.words(args)
	if err != nil {
		return err
	}
	if path.Base(word) == Mounter {
		return f.mount(s, word, words)
	}
	c, known := commands()[name]
	if !known && f.around.Plain {
		for _, a := range call.Assigns {
			if a.Value == nil || a.Append || a.Index != nil {
				return opaque(s, "an assignment of another form than NAME=VALUE")
			}
			if _, err := f.words([]*syntax.Word{a.Value}); err != nil {
				return err
			}
		}
		return f.program(s, word, words)
	}
	if !known {
		return opaque(s, "%q is no command that is understood", clip(word))
	}
	return f.run(s, name, c, words)
}

// run judges a command of the list by its words.
func (f *follower) run(s *syntax.Stmt, name string, c command, words []Word) *Opaque {
	if c.free {
		if err := f.printer(s, name, words); err != nil {
			return err
		}
		return f.redirections(s, true)
	}
	ops, vals, bad := c.read(name, words)
	if bad != "" {
		return opaque(s, "%s", bad)
	}
	if c.copies {
		if err := f.copyFile(s, ops[0], ops[1]); err != nil {
			return err
		}
		return f.noRedirections(s)
	}
	reads := []string{}
	if c.reads != nil {
		if err := f.settled(); err != nil {
			return err
		}
		reads = c.reads(ops, vals)
	}
	for _, r := range s.Redirs {
		if r.Op == syntax.RdrIn && c.stdin {
			file, ok := literal(r.Word)
			if !ok || r.N != nil && r.N.Value != "0" {
				return opaque(s, "a file is read whose name is not literal")
			}
			if c.reads != nil {
				reads = append(reads, file)
			}
		} else if !quiet(r) {
			return opaque(s, "a redirection of %s", name)
		}
	}
	if c.reads != nil && len(reads) == 0 {
		return opaque(s, "%s reads its standard input, which is not known", name)
	}
	for _, r := range reads {
		if why := f.trustedFile(r); why != "" {
			return opaque(s, "%s reads %q, which %s", name, clip(r), why)
		}
		if f.errexit {
			delete(f.unread, path.Clean(r)) // without it the command fails
		}
	}
	return nil
}

// printer looks after the commands that only print: bash's printf can set a
// variable.
func (f *follower) printer(s *syntax.Stmt, name string, words []Word) *Opaque {
	if name != "printf" {
		return nil
	}
	if len(words) == 0 || !words[0].known || strings.HasPrefix(words[0].Text, "-") {
		return opaque(s, "printf with a format that is not literal")
	}
	for _, p := range strings.Split(strings.ReplaceAll(words[0].Text, "%%", ""), "%")[1:] {
		if p == "" || p[0] != 's' && p[0] != 'd' {
			return opaque(s, "printf with a format other than %%s and %%d")
		}
	}
	return nil
}

// mount notes a start of disk-mounter. It must be the image's own: found by
// its name, or by a path outside of every volume.
func (f *follower) mount(s *syntax.Stmt, word string, words []Word) *Opaque {
	if strings.Contains(word, "/") && (path.Clean(word) != word || f.trustedFile(word) != "" || f.checked[word]) {
		return opaque(s, "%q may be another program than the image's disk-mounter", clip(word))
	}
	for _, w := range words {
		if !w.known || w.many {
			return opaque(s, "an argument of disk-mounter is not literal")
		}
	}
	if err := f.present(); err != nil {
		return err
	}
	f.result.Mounts = append(f.result.Mounts, Mount{Off: int(s.Pos().Offset()), Args: words})
	return f.redirections(s, false)
}

// exec follows the start of the program that the container is for.
func (f *follower) exec(s *syntax.Stmt, args []*syntax.Word) *Opaque {
	if len(args) == 0 {
		return opaque(s, "exec without a program")
	}
	word, ok := literal(args[0])
	if !ok {
		return opaque(s, "a command's name is not literal")
	}
	words, err := f.words(args[1:])
	if err != nil {
		return err
	}
	f.ended = true
	if path.Base(word) == Mounter {
		return f.mount(s, word, words)
	}
	if c, known := commands()[commandName(word)]; known {
		return f.run(s, commandName(word), c, words)
	}
	if f.around.Mounter {
		return opaque(s, "another program than disk-mounter is started: %q", clip(word))
	}
	return f.program(s, word, words)
}

// program is the one that the container is for: any that starts no other by
// its arguments.
func (f *follower) program(s *syntax.Stmt, word string, words []Word) *Opaque {
	base := path.Base(word)
	switch {
	case strings.HasPrefix(word, "-"), slices.Contains(starters, base), slices.Contains(builtins, base), slices.Contains(mounters, base), strings.HasPrefix(base, "ld-"), path.Clean(word) != word:
		return opaque(s, "%q may start any program", clip(word))
	}
	argv := []string{word}
	for _, w := range words {
		if Mentions(w.Text) {
			return opaque(s, "%q is given %q", clip(word), clip(w.Text))
		}
		argv = append(argv, w.Text)
	}
	if why := Inline(argv, f.around.Mounts); why != "" {
		return opaque(s, "%s", why)
	}
	if err := f.present(); err != nil {
		return err
	}
	return f.redirections(s, false)
}

// set follows the options that change when a script ends.
func (f *follower) set(s *syntax.Stmt, args []*syntax.Word) *Opaque {
	if len(args) == 0 {
		return opaque(s, "set without options")
	}
	for i := 0; i < len(args); i++ {
		t, ok := literal(args[i])
		if !ok || len(t) < 2 || t[0] != '-' && t[0] != '+' || t == "--" {
			return opaque(s, "set changes the script's arguments")
		}
		on := t[0] == '-'
		for j, c := range t[1:] {
			option := ""
			switch {
			case c == 'e':
				option = "errexit"
			case c == 'u':
				option = "nounset"
			case c == 'x':
				option = "xtrace"
			case c == 'o' && j == len(t)-2 && i+1 < len(args):
				i++
				option, _ = literal(args[i])
			}
			if !slices.Contains(harmlessOptions, option) {
				return opaque(s, "set with another option than errexit, nounset, pipefail and xtrace")
			}
			if option == "errexit" {
				f.errexit = on
			}
		}
	}
	return f.noRedirections(s)
}

// assign allows a variable to get any value, if nothing depends on it.
func (f *follower) assign(s *syntax.Stmt, a *syntax.Assign) *Opaque {
	switch {
	case a.Name == nil || a.Append || a.Index != nil || a.Array != nil:
		return opaque(s, "an assignment of another form than NAME=VALUE")
	}
	if why := DangerousVariable(a.Name.Value, "", false); why != "" {
		return opaque(s, "variable %s %s", clip(a.Name.Value), why)
	}
	if a.Value == nil {
		return nil
	}
	_, err := f.words([]*syntax.Word{a.Value})
	return err
}

// declare is bash's export and readonly, whose words are assignments.
func (f *follower) declare(s *syntax.Stmt, c *syntax.DeclClause) *Opaque {
	if c.Variant.Value != "export" && c.Variant.Value != "readonly" {
		return opaque(s, "%q is not followed", clip(c.Variant.Value))
	}
	for _, a := range c.Args {
		if err := f.assign(s, a); err != nil {
			return err
		}
	}
	return f.noRedirections(s)
}

// export is the same for other shells, where its words are words. One that is
// split could set any variable.
func (f *follower) export(s *syntax.Stmt, args []*syntax.Word) *Opaque {
	for _, w := range args {
		lit, ok := w.Parts[0].(*syntax.Lit)
		if !ok {
			return opaque(s, "export of a name that is not literal")
		}
		name, rest, isAssign := strings.Cut(lit.Value, "=")
		if !isAssign && len(w.Parts) > 1 || strings.ContainsAny(rest, `\~*?[{`) {
			return opaque(s, "export of a name that is not literal")
		}
		if why := DangerousVariable(name, "", false); why != "" {
			return opaque(s, "variable %s %s", clip(name), why)
		}
		for _, p := range w.Parts[1:] {
			switch p.(type) {
			case *syntax.DblQuoted, *syntax.SglQuoted:
			default:
				return opaque(s, "export of a value that is not quoted")
			}
		}
		if _, err := f.words([]*syntax.Word{{Parts: w.Parts[1:]}}); err != nil {
			return err
		}
	}
	return f.noRedirections(s)
}

// quiet are redirections that change where output goes, and nothing else.
func quiet(r *syntax.Redirect) bool {
	if r.N != nil && r.N.Value != "1" && r.N.Value != "2" {
		return false
	}
	t, ok := literal(r.Word)
	switch r.Op {
	case syntax.DplOut:
		return ok && (t == "1" || t == "2")
	case syntax.RdrOut, syntax.AppOut:
		return ok && slices.Contains([]string{"/dev/null", "/dev/stdout", "/dev/stderr"}, t)
	}
	return false
}

// redirections allows output to go nowhere or to a terminal, and what is
// printed into the kernel's settings of memory and network.
func (f *follower) redirections(s *syntax.Stmt, printed bool) *Opaque {
	for _, r := range s.Redirs {
		t, ok := literal(r.Word)
		setting := printed && ok && (r.Op == syntax.RdrOut || r.Op == syntax.AppOut) && (r.N == nil || r.N.Value == "1") && path.Clean(t) == t &&
			(below(t, "/proc/sys/vm") || below(t, "/proc/sys/net"))
		if !setting && !quiet(r) {
			return opaque(s, "a redirection that changes a file")
		}
	}
	return nil
}

func (f *follower) noRedirections(s *syntax.Stmt) *Opaque {
	if len(s.Redirs) > 0 {
		return opaque(s, "a redirection that outlives its command")
	}
	return nil
}
