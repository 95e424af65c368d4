package deployment

import (
	"errors"
	"fmt"
	"strings"
)

// A small reader of POSIX shell scripts (IEEE Std 1003.1, Shell Command
// Language, section 2.10) with the bash forms that start scripts use. It keeps
// byte offsets, because findings point at lines of the YAML. What it does not
// know is an error, and the caller then says "unknown" instead of guessing.

type (
	shList  []shAndOr
	shAndOr struct {
		pipes      []shPipe
		ops        []string // "&&" or "||" before pipes[i+1]
		background bool
	}
	shPipe struct {
		negated bool
		cmds    []*shCmd
	}
	shCmd struct {
		kind    shKind
		off     int
		assigns []shAssign
		words   []shWord // of a simple command; the list of a for; the word of a case
		redirs  []*shRedir
		name    string   // variable of a for, name of a function
		conds   []shList // if and elif; condition of a loop
		bodies  []shList // as many as conds, and one more for else; of a group, one; of a case, all
		until   bool     // loop: until
		hasElse bool
	}
	shAssign struct {
		name  string
		value shWord
	}
	shRedir struct {
		op   string
		word shWord
		body shWord // text of a here-document, taken literally
	}
	shWord struct {
		parts []shPart
		off   int
		raw   string
	}
	shPart struct {
		kind   partKind
		text   string // literal text; name of a parameter
		list   shList // of a command substitution
		off    int
		quoted bool
	}
	shKind   uint8
	partKind uint8
)

const (
	cmdSimple shKind = iota
	cmdIf
	cmdLoop
	cmdFor
	cmdCase
	cmdGroup
	cmdSubshell
	cmdFunc
)

const (
	partLit partKind = iota
	partParam
	partSubst
	partOther // arithmetic, and parameters with operators
)

const (
	maxScript   = 256 << 10
	maxShDepth  = 40
	maxShTokens = 100_000
)

var errScript = errors.New("script not understood")

type shParser struct {
	src     string
	pos     int
	depth   int
	tokens  int
	pending []*shRedir // here-documents whose text starts on the next line
}

// parseScript reads a whole script.
func parseScript(src string) (shList, error) {
	if len(src) > maxScript {
		return nil, fmt.Errorf("%w: %d bytes, at most %d are read", errScript, len(src), maxScript)
	}
	p := &shParser{src: src}
	l, err := p.list()
	if err != nil {
		return nil, err
	}
	if p.pos < len(src) {
		return nil, p.fail("unexpected %q", p.src[p.pos:p.pos+1])
	}
	if len(p.pending) > 0 {
		return nil, p.fail("here-document without text")
	}
	return l, nil
}

func (p *shParser) fail(format string, args ...any) error {
	return fmt.Errorf("%w: byte %d: %s", errScript, p.pos, fmt.Sprintf(format, args...))
}

func (p *shParser) enter() error {
	p.depth++
	p.tokens++
	if p.depth > maxShDepth || p.tokens > maxShTokens {
		return p.fail("nested too deep or too long")
	}
	return nil
}

// blanks skips spaces, escaped line feeds and comments.
func (p *shParser) blanks() {
	for p.pos < len(p.src) {
		switch c := p.src[p.pos]; {
		case c == ' ' || c == '\t' || c == '\r':
			p.pos++
		case c == '\\' && p.has("\\\n"):
			p.pos += 2
		case c == '#' && (p.pos == 0 || strings.IndexByte(" \t\r\n;&|()", p.src[p.pos-1]) >= 0):
			for p.pos < len(p.src) && p.src[p.pos] != '\n' {
				p.pos++
			}
		default:
			return
		}
	}
}

// lines skips blanks and line feeds, and reads here-documents that start.
func (p *shParser) lines() error {
	for {
		p.blanks()
		if p.pos >= len(p.src) || p.src[p.pos] != '\n' {
			return nil
		}
		p.pos++
		if err := p.hereDocs(); err != nil {
			return err
		}
	}
}

func (p *shParser) hereDocs() error {
	for _, r := range p.pending {
		end, ok := r.word.literal()
		if !ok {
			return p.fail("here-document with an expanded end mark")
		}
		start := p.pos
		var body strings.Builder
		for {
			if p.pos >= len(p.src) {
				return p.fail("here-document without its end %q", clip(end))
			}
			line, _, more := strings.Cut(p.src[p.pos:], "\n")
			p.pos += len(line)
			if more {
				p.pos++
			}
			if r.op == "<<-" {
				line = strings.TrimLeft(line, "\t")
			}
			if line == end {
				break
			}
			body.WriteString(line + "\n")
		}
		r.body = shWord{off: start, parts: []shPart{{kind: partLit, text: body.String(), off: start, quoted: true}}}
	}
	p.pending = nil
	return nil
}

func (p *shParser) has(s string) bool { return strings.HasPrefix(p.src[p.pos:], s) }

// reserved returns the bare word at the position.
func (p *shParser) reserved() string {
	end := p.pos
	for end < len(p.src) && strings.IndexByte(" \t\r\n;&|()<>", p.src[end]) < 0 {
		end++
	}
	return p.src[p.pos:end]
}

// list reads until the end, a closing parenthesis, ";;" or a word that closes
// something.
func (p *shParser) list() (shList, error) {
	if err := p.enter(); err != nil {
		return nil, err
	}
	defer func() { p.depth-- }()
	var l shList
	for {
		if err := p.lines(); err != nil {
			return nil, err
		}
		if p.pos >= len(p.src) || p.src[p.pos] == ')' || p.has(";;") {
			return l, nil
		}
		switch p.reserved() {
		case "then", "elif", "else", "fi", "do", "done", "esac", "}":
			return l, nil
		}
		ao, err := p.andOr()
		if err != nil {
			return nil, err
		}
		p.blanks()
		switch {
		case p.has(";;"):
		case p.has(";"):
			p.pos++
		case p.has("&"):
			p.pos++
			ao.background = true
		case p.pos < len(p.src) && p.src[p.pos] != '\n' && p.src[p.pos] != ')':
			return nil, p.fail("unexpected %q", p.src[p.pos:p.pos+1])
		}
		l = append(l, ao)
	}
}

func (p *shParser) andOr() (shAndOr, error) {
	var ao shAndOr
	for {
		pipe, err := p.pipe()
		if err != nil {
			return ao, err
		}
		ao.pipes = append(ao.pipes, pipe)
		p.blanks()
		if !p.has("&&") && !p.has("||") {
			return ao, nil
		}
		ao.ops = append(ao.ops, p.src[p.pos:p.pos+2])
		p.pos += 2
		if err := p.lines(); err != nil {
			return ao, err
		}
	}
}

func (p *shParser) pipe() (shPipe, error) {
	var pipe shPipe
	for p.blanks(); p.reserved() == "!"; p.blanks() {
		pipe.negated = !pipe.negated
		p.pos++
	}
	for {
		c, err := p.command()
		if err != nil {
			return pipe, err
		}
		pipe.cmds = append(pipe.cmds, c)
		p.blanks()
		if !p.has("|") || p.has("||") {
			return pipe, nil
		}
		p.pos++
		if p.has("&") {
			p.pos++
		}
		if err := p.lines(); err != nil {
			return pipe, err
		}
	}
}

func (p *shParser) command() (*shCmd, error) {
	if err := p.enter(); err != nil {
		return nil, err
	}
	defer func() { p.depth-- }()
	p.blanks()
	c := &shCmd{off: p.pos}
	var err error
	switch word := p.reserved(); {
	case p.has("(("):
		return nil, p.fail("arithmetic command")
	case p.has("("):
		p.pos++
		c.kind = cmdSubshell
		if err = p.body(c); err == nil {
			err = p.expect(")")
		}
	case word == "{":
		p.pos++
		c.kind = cmdGroup
		if err = p.body(c); err == nil {
			err = p.expect("}")
		}
	case word == "if":
		err = p.ifCommand(c)
	case word == "while" || word == "until":
		c.kind, c.until = cmdLoop, word == "until"
		p.pos += len(word)
		var cond shList
		if cond, err = p.list(); err == nil {
			c.conds = []shList{cond}
			err = p.doGroup(c)
		}
	case word == "for":
		err = p.forCommand(c)
	case word == "case":
		err = p.caseCommand(c)
	case word == "function" || word == "select" || word == "coproc":
		return nil, p.fail("%s", word)
	default:
		return c, p.simple(c)
	}
	if err != nil {
		return nil, err
	}
	for p.blanks(); ; p.blanks() {
		ok, err := p.redirection(c)
		if err != nil || !ok {
			return c, err
		}
	}
}

func (p *shParser) body(c *shCmd) error {
	l, err := p.list()
	c.bodies = append(c.bodies, l)
	return err
}

func (p *shParser) expect(word string) error {
	p.blanks()
	if word == ")" && p.has(")") {
		p.pos++
		return nil
	}
	if p.reserved() != word {
		return p.fail("want %q", word)
	}
	p.pos += len(word)
	return nil
}

func (p *shParser) atEnd() bool {
	return p.pos >= len(p.src) || strings.IndexByte("\n;&|()", p.src[p.pos]) >= 0
}

func (p *shParser) simple(c *shCmd) error {
	for p.blanks(); ; p.blanks() {
		if ok, err := p.redirection(c); err != nil {
			return err
		} else if ok {
			continue
		}
		if p.has("(") && len(c.words) == 1 && len(c.assigns) == 0 && isName(c.words[0].raw) {
			return p.function(c)
		}
		if p.atEnd() {
			break
		}
		w, err := p.word()
		if err != nil {
			return err
		}
		if name, value, ok := w.assignment(); ok && len(c.words) == 0 {
			c.assigns = append(c.assigns, shAssign{name, value})
			continue
		}
		c.words = append(c.words, w)
		if len(c.words) == 1 && w.raw == "[[" {
			if err := p.conditional(c); err != nil {
				return err
			}
		}
	}
	if len(c.words) == 0 && len(c.assigns) == 0 && len(c.redirs) == 0 {
		return p.fail("want a command")
	}
	return nil
}

// conditional reads the words of [[ … ]], in which && || ( ) < > are words.
func (p *shParser) conditional(c *shCmd) error {
	for {
		p.blanks()
		if p.pos >= len(p.src) {
			return p.fail("[[ without ]]")
		}
		if p.src[p.pos] == '\n' {
			p.pos++
			continue
		}
		if i := strings.IndexByte("&|()<>", p.src[p.pos]); i >= 0 {
			n := 1
			if i < 2 && p.pos+1 < len(p.src) && p.src[p.pos+1] == p.src[p.pos] {
				n = 2
			}
			raw := p.src[p.pos : p.pos+n]
			c.words = append(c.words, shWord{off: p.pos, raw: raw, parts: []shPart{{text: raw, off: p.pos}}})
			p.pos += n
			continue
		}
		w, err := p.word()
		if err != nil {
			return err
		}
		if w.raw == "" {
			return p.fail("[[ without ]]")
		}
		c.words = append(c.words, w)
		if w.raw == "]]" {
			return nil
		}
	}
}

func (p *shParser) function(c *shCmd) error {
	p.pos++
	if err := p.expect(")"); err != nil {
		return err
	}
	if err := p.lines(); err != nil {
		return err
	}
	body, err := p.command()
	if err != nil {
		return err
	}
	c.kind, c.name, c.words = cmdFunc, c.words[0].raw, nil
	c.bodies = []shList{{{pipes: []shPipe{{cmds: []*shCmd{body}}}}}}
	return nil
}

func (p *shParser) redirection(c *shCmd) (bool, error) {
	i := p.pos
	for i < len(p.src) && '0' <= p.src[i] && p.src[i] <= '9' {
		i++
	}
	rest := p.src[i:]
	op := ""
	for _, o := range []string{"&>>", "<<<", "<<-", "&>", "<<", ">>", "<&", ">&", "<>", ">|", "<", ">"} {
		if strings.HasPrefix(rest, o) {
			op = o
			break
		}
	}
	if op == "" || strings.HasPrefix(rest, "<(") || strings.HasPrefix(rest, ">(") {
		if op != "" {
			return false, p.fail("process substitution")
		}
		return false, nil
	}
	p.pos = i + len(op)
	p.blanks()
	if p.atEnd() {
		return false, p.fail("redirection without target")
	}
	w, err := p.word()
	if err != nil {
		return false, err
	}
	r := &shRedir{op: op, word: w}
	c.redirs = append(c.redirs, r)
	if op == "<<" || op == "<<-" {
		p.pending = append(p.pending, r)
	}
	return true, nil
}
