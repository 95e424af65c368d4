package shell

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"mvdan.cc/sh/v3/syntax"
)

// The bounds of a script: its bytes, and what following it may cost.
const (
	maxScript  = 64 << 10
	maxNesting = 200
	maxSteps   = 200_000
)

// Follow follows a script once.
func Follow(s Start, c Container) Result {
	f := &follower{start: s, around: c, errexit: s.Errexit, checked: map[string]bool{}, unread: map[string]int{}}
	stmts, err := parse(s.Script, s.Bash)
	if err == nil {
		err = f.stmts(stmts, true)
	}
	if err == nil {
		err = f.present()
	}
	if err != nil {
		f.result.Opaque = err
		for i := range f.result.Checks {
			f.result.Checks[i].Verdict, f.result.Checks[i].Reason = Unknown, "the script is not understood: "+err.Reason
		}
	}
	return f.result
}

// parse reads a script by the grammar of its shell. What shells read
// differently below the level of the grammar is refused here.
func parse(script string, bash bool) (stmts []*syntax.Stmt, fault *Opaque) {
	if len(script) > maxScript {
		return nil, &Opaque{0, fmt.Sprintf("the script has %d bytes, at most %d are read", len(script), maxScript)}
	}
	depth := 0
	for i, c := range []byte(script) {
		switch {
		case c < ' ' && c != '\n' && c != '\t' || c == 0x7f:
			return nil, &Opaque{i, fmt.Sprintf("control character %#x, which shells read differently", c)}
		case c == '(' || c == '{' || c == '`':
			if depth++; depth > maxNesting {
				return nil, &Opaque{i, fmt.Sprintf("more than %d opening brackets", maxNesting)}
			}
		}
	}
	defer func() {
		if r := recover(); r != nil {
			stmts, fault = nil, &Opaque{0, "the script cannot be read"}
		}
	}()
	variant := syntax.LangPOSIX
	if bash {
		variant = syntax.LangBash
	}
	file, err := syntax.NewParser(syntax.Variant(variant)).Parse(strings.NewReader(script), "")
	if err != nil {
		var off int
		if e, ok := err.(syntax.ParseError); ok {
			off = int(e.Pos.Offset())
			return nil, &Opaque{off, "the script cannot be read: " + clip(e.Text)}
		}
		return nil, &Opaque{off, "the script cannot be read: " + clip(err.Error())}
	}
	return file.Stmts, nil
}

type follower struct {
	start   Start
	around  Container
	errexit bool
	ended   bool
	steps   int
	copies  []copied
	checked map[string]bool // files whose hash the script has checked
	unread  map[string]int  // checked files that pass where they are missing, and where
	result  Result
}

// copied is a file that the script wrote. Whether the target is a folder is
// not known, so that it may have two names.
type copied struct {
	off     int
	from    string
	names   []string
	trusted bool // of the image, or checked since
	firm    bool // the script ends if there is nothing to copy
}

func opaque(n syntax.Node, format string, args ...any) *Opaque {
	return &Opaque{int(n.Pos().Offset()), fmt.Sprintf(format, args...)}
}

func (f *follower) stmts(list []*syntax.Stmt, top bool) *Opaque {
	for i, s := range list {
		if f.ended {
			return opaque(s, "the script has ended before this line")
		}
		if err := f.stmt(s, top && i == len(list)-1); err != nil {
			return err
		}
	}
	return nil
}

func (f *follower) stmt(s *syntax.Stmt, last bool) *Opaque {
	if f.steps++; f.steps > maxSteps {
		return opaque(s, "the script is too long to follow")
	}
	switch {
	case s.Background || s.Coprocess || s.Disown:
		return opaque(s, "a command runs in the background")
	case s.Negated:
		return opaque(s, "! turns a command's outcome around")
	}
	cond, err := f.condition(s)
	if err != nil {
		return err
	}
	if cond != nil {
		return f.bare(cond, last)
	}
	switch c := s.Cmd.(type) {
	case nil:
		return opaque(s, "a redirection without a command")
	case *syntax.CallExpr:
		return f.simple(s, c)
	case *syntax.DeclClause:
		return f.declare(s, c)
	case *syntax.IfClause:
		return f.ifClause(s, c)
	case *syntax.BinaryCmd:
		return f.binary(s, c)
	}
	return opaque(s, "%s is not followed", construct(s.Cmd))
}

func construct(c syntax.Command) string {
	switch c.(type) {
	case *syntax.FuncDecl:
		return "a function"
	case *syntax.WhileClause, *syntax.ForClause:
		return "a loop"
	case *syntax.CaseClause:
		return "case"
	case *syntax.Subshell:
		return "a subshell"
	case *syntax.Block:
		return "a group of commands"
	case *syntax.TestClause:
		return "[["
	}
	return "this kind of command"
}

// bare is a check that stands for itself: under set -e, and as the last
// statement, its outcome is the script's.
func (f *follower) bare(c *condition, last bool) *Opaque {
	f.copiedFrom(c)
	switch {
	case !f.errexit && !last:
		f.note(c, NotEnforced, "a mismatch changes nothing but what is printed")
	case c.match:
		f.note(c, Enforced, "a mismatch ends the script with a failure")
	default:
		f.note(c, Inverted, "a match ends the script with a failure, a mismatch does not")
	}
	return nil
}

func (f *follower) note(c *condition, v Verdict, reason string) {
	for _, e := range c.checks {
		e.Verdict, e.Reason = v, reason
		f.result.Checks = append(f.result.Checks, e)
		if v != Enforced {
			continue
		}
		name := path.Clean(e.File)
		f.checked[name] = true
		for i := range f.copies {
			if slices.Contains(f.copies[i].names, name) {
				f.copies[i].trusted = true
			}
		}
	}
}

// copiedFrom finds the copies that made the checked files. It reports whether
// every file was copied in a way that ends the script if there is none.
func (f *follower) copiedFrom(c *condition) (firm bool) {
	firm = true
	for i := range c.checks {
		found := false
		for _, w := range slices.Backward(f.copies) {
			if slices.Contains(w.names, path.Clean(c.checks[i].File)) {
				c.checks[i].From, found = w.from, w.firm
				break
			}
		}
		firm = firm && found
	}
	return firm
}

func (f *follower) ifClause(s *syntax.Stmt, c *syntax.IfClause) *Opaque {
	if len(s.Redirs) > 0 || len(c.Cond) != 1 {
		return opaque(s, "a branch whose outcome is not known")
	}
	cond, err := f.negatable(c.Cond[0])
	if err != nil {
		return err
	}
	if cond == nil {
		return opaque(c.Cond[0], "a branch whose outcome is not known")
	}
	var other []*syntax.Stmt
	if e := c.Else; e != nil {
		if len(e.Cond) > 0 || e.Else != nil {
			return opaque(e, "elif: after a mismatch another condition decides")
		}
		other = e.Then
	}
	if cond.match {
		return f.branch(cond, c.Then, other)
	}
	return f.branch(cond, other, c.Then)
}

func (f *follower) binary(s *syntax.Stmt, c *syntax.BinaryCmd) *Opaque {
	if len(s.Redirs) > 0 || c.Op != syntax.AndStmt && c.Op != syntax.OrStmt {
		return opaque(s, "a pipeline: what its parts do to each other is not followed")
	}
	cond, err := f.negatable(c.X)
	if err != nil {
		return err
	}
	if cond == nil && f.around.Plain && !c.X.Negated {
		// Whether the second one runs is all the same where nothing is claimed.
		if err := f.stmt(c.X, false); err != nil {
			return err
		}
		err := f.stmt(c.Y, false)
		f.ended = false
		return err
	}
	if cond == nil || c.Y.Background || c.Y.Negated || c.Y.Coprocess || c.Y.Disown {
		return opaque(s, "%s behind a command whose outcome is not known", c.Op)
	}
	body := []*syntax.Stmt{c.Y}
	if b, ok := c.Y.Cmd.(*syntax.Block); ok && len(c.Y.Redirs) == 0 {
		body = b.Stmts
	}
	if cond.match == (c.Op == syntax.AndStmt) {
		return f.branch(cond, body, nil)
	}
	return f.branch(cond, nil, body)
}

// negatable is a condition behind any number of !.
func (f *follower) negatable(s *syntax.Stmt) (*condition, *Opaque) {
	if s.Background || s.Coprocess || s.Disown {
		return nil, opaque(s, "a command runs in the background")
	}
	c, err := f.condition(s)
	if c != nil && s.Negated {
		c.match = !c.match
	}
	return c, err
}

// ending is how a branch ends.
type ending int

const (
	goesOn ending = iota
	fails
	endsWell
)

// branch judges a check by what happens on a match and on a mismatch. The
// branch of a mismatch may only print and end; where it ends with a failure,
// the other one is what the script does.
func (f *follower) branch(c *condition, match, mismatch []*syntax.Stmt) *Opaque {
	firm := f.copiedFrom(c)
	wrong, err := f.prints(mismatch)
	if err != nil {
		return err
	}
	if wrong == fails && c.open && !firm {
		for _, e := range c.checks {
			f.unread[path.Clean(e.File)] = c.off
		}
	}
	if wrong == fails {
		f.note(c, Enforced, "a mismatch ends the script with a failure")
		return f.stmts(match, false)
	}
	right, err := f.prints(match)
	switch {
	case err != nil:
		return err
	case right == fails && wrong == goesOn:
		f.note(c, Inverted, "a match ends the script with a failure, a mismatch does not")
	case right != goesOn:
		return &Opaque{c.off, "the script ends on a match"}
	case wrong == goesOn:
		f.note(c, NotEnforced, "a mismatch changes nothing but what is printed")
	case f.around.Init:
		f.note(c, NotEnforced, "a mismatch ends the init container without a failure, so the pod goes on")
	default:
		f.note(c, Unknown, "")
		return &Opaque{c.off, "a mismatch ends the script, but not with a failure"}
	}
	return nil
}

// prints follows statements that do nothing but print and end the script.
func (f *follower) prints(list []*syntax.Stmt) (ending, *Opaque) {
	for i, s := range list {
		call, ok := s.Cmd.(*syntax.CallExpr)
		if !ok || s.Negated || s.Background || s.Coprocess || s.Disown || len(call.Assigns) > 0 || len(call.Args) == 0 {
			return 0, opaque(s, "a branch does more than print and exit")
		}
		name, ok := literal(call.Args[0])
		if !ok {
			return 0, opaque(s, "a command's name is not literal")
		}
		if name == "exit" {
			if i < len(list)-1 {
				return 0, opaque(list[i+1], "the script has ended before this line")
			}
			if len(s.Redirs) > 0 {
				return 0, opaque(s, "exit with a redirection")
			}
			code, err := exitCode(call)
			if err != nil {
				return 0, err
			}
			if code == 0 {
				return endsWell, nil
			}
			return fails, nil
		}
		if name == "false" && f.errexit && i == len(list)-1 && len(call.Args) == 1 && len(s.Redirs) == 0 {
			return fails, nil
		}
		if c, known := commands()[name]; !known || !c.free || name == "false" {
			return 0, opaque(s, "a branch runs %q, which does more than print", clip(name))
		}
		words, err := f.words(call.Args[1:])
		if err != nil {
			return 0, err
		}
		if err := f.printer(s, name, words); err != nil {
			return 0, err
		}
		if err := f.redirections(s, false); err != nil {
			return 0, err
		}
	}
	return goesOn, nil
}

func exitCode(call *syntax.CallExpr) (int, *Opaque) {
	if len(call.Args) == 2 {
		if t, ok := literal(call.Args[1]); ok && t != "" && len(t) <= 3 && strings.Trim(t, "0123456789") == "" {
			n := 0
			fmt.Sscan(strings.TrimLeft(t, "0"), &n)
			if n <= 255 {
				return n, nil
			}
		}
	}
	return 0, opaque(call, "exit without a number between 0 and 255")
}

// settled wants every file that the script copied to be checked by now.
func (f *follower) settled() *Opaque {
	if f.around.Plain {
		return nil
	}
	for _, c := range f.copies {
		if !c.trusted {
			return &Opaque{c.off, fmt.Sprintf("%q is copied, but not checked before the script goes on", clip(c.from))}
		}
	}
	return nil
}

// present wants every file that was checked to have been there.
func (f *follower) present() *Opaque {
	if len(f.unread) == 0 {
		return f.settled()
	}
	first := -1
	for _, off := range f.unread {
		if first < 0 || off < first {
			first = off
		}
	}
	return &Opaque{first, "a file that is missing passes this check: put the command substitution into double quotes"}
}

// onVolume reports whether a path lies in a volume, or may: a relative one
// lies in the working folder, which is the image's.
func (f *follower) onVolume(p string) bool {
	p = path.Clean(p)
	return slices.ContainsFunc(f.around.Mounts, func(m string) bool { return below(p, path.Clean(m)) })
}

// trustedFile says why a file that a command reads is neither checked nor the
// image's own.
func (f *follower) trustedFile(p string) string {
	name := path.Clean(p)
	if f.checked[name] {
		return ""
	}
	switch {
	case !path.IsAbs(p):
		return "is no absolute path and was not checked"
	case f.onVolume(p):
		return "is on a volume and was not checked"
	case below(name, "/proc"), below(name, "/dev"), below(name, "/sys"):
		return "is no file of the image"
	}
	for _, c := range f.copies {
		if slices.ContainsFunc(c.names, func(n string) bool { return n == name || below(name, n) }) {
			return "was written by the script and not checked"
		}
	}
	return ""
}

// copyFile notes a copy, if its target is where no program or library lies.
func (f *follower) copyFile(n syntax.Node, from, to string) *Opaque {
	clean := path.Clean(to)
	names := []string{clean, path.Join(clean, path.Base(path.Clean(from)))}
	if strings.HasSuffix(to, "/") || clean == "." {
		names = names[1:]
	}
	image := path.IsAbs(from) && f.trustedFile(from) == "" && !f.checked[path.Clean(from)]
	over := false
	for _, name := range names {
		switch {
		case strings.Contains(to, "..") || strings.Contains(from, ".."):
			return opaque(n, "a copy by way of ..")
		case path.IsAbs(name) && slices.ContainsFunc(systemFolders, func(s string) bool { return below(name, s) }), clean == "/":
			return opaque(n, "a copy to %q, where programs and their settings are", clip(to))
		case f.onVolume(name):
			return opaque(n, "a copy to the volume at %q, which others may change", clip(to))
		case ownName(path.Base(name)):
			return opaque(n, "a copy under the name %q, which may take a program's place", clip(path.Base(name)))
		}
		// What was checked is gone: the new file must be checked too, even if
		// it is the image's own.
		over = over || f.checked[name]
		delete(f.checked, name)
	}
	f.copies = append(f.copies, copied{off: int(n.Pos().Offset()), from: from, names: names, trusted: image && !over, firm: f.errexit})
	return nil
}
