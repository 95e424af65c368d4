package deployment

// The compound commands of Std 1003.1, section 2.9.4.

func (p *shParser) ifCommand(c *shCmd) error {
	c.kind = cmdIf
	for word := "if"; ; {
		p.pos += len(word)
		cond, err := p.list()
		if err != nil {
			return err
		}
		c.conds = append(c.conds, cond)
		if err := p.expect("then"); err != nil {
			return err
		}
		if err := p.body(c); err != nil {
			return err
		}
		switch word = p.reserved(); word {
		case "elif":
		case "else":
			p.pos += len(word)
			c.hasElse = true
			if err := p.body(c); err != nil {
				return err
			}
			return p.expect("fi")
		default:
			return p.expect("fi")
		}
	}
}

func (p *shParser) doGroup(c *shCmd) error {
	if err := p.expect("do"); err != nil {
		return err
	}
	if err := p.body(c); err != nil {
		return err
	}
	return p.expect("done")
}

func (p *shParser) forCommand(c *shCmd) error {
	c.kind = cmdFor
	p.pos += len("for")
	p.blanks()
	c.name = p.reserved()
	if !isName(c.name) {
		return p.fail("want a variable after for")
	}
	p.pos += len(c.name)
	if err := p.lines(); err != nil {
		return err
	}
	if p.reserved() == "in" {
		p.pos += len("in")
		for p.blanks(); !p.atEnd(); p.blanks() {
			w, err := p.word()
			if err != nil {
				return err
			}
			c.words = append(c.words, w)
		}
	} else {
		c.words = []shWord{{parts: []shPart{{kind: partParam, text: "@", quoted: true}}}}
	}
	if p.blanks(); p.has(";") {
		p.pos++
	}
	if err := p.lines(); err != nil {
		return err
	}
	return p.doGroup(c)
}

func (p *shParser) caseCommand(c *shCmd) error {
	c.kind = cmdCase
	p.pos += len("case")
	p.blanks()
	w, err := p.word()
	if err != nil {
		return err
	}
	c.words = []shWord{w}
	if err := p.lines(); err != nil {
		return err
	}
	if err := p.expect("in"); err != nil {
		return err
	}
	for {
		if err := p.lines(); err != nil {
			return err
		}
		if p.reserved() == "esac" {
			p.pos += len("esac")
			return nil
		}
		// A pattern list: everything up to its parenthesis.
		if p.has("(") {
			p.pos++
		}
		for p.blanks(); !p.has(")"); p.blanks() {
			if p.has("|") {
				p.pos++
				continue
			}
			if p.atEnd() {
				return p.fail("case pattern without parenthesis")
			}
			if _, err := p.word(); err != nil {
				return err
			}
		}
		p.pos++
		if err := p.body(c); err != nil {
			return err
		}
		if p.has(";;") {
			p.pos += 2
		}
	}
}
