package deployment

import (
	"strings"

	"gopkg.in/yaml.v3"
)

// shellCall is a shell with a script in its arguments.
type shellCall struct {
	script  Arg
	errexit bool
	params  []Arg // $1, $2, …
}

// argv is what the container runs, as far as the YAML says: command and args.
func (c Container) argv() []Arg {
	return append(append([]Arg(nil), c.Command...), c.Args...)
}

// findShell reads `sh -c SCRIPT NAME ARG…` in an argument vector (Std 1003.1,
// sh): options up to the first word without a dash, which is the script if one
// of them was -c; the next word is $0.
func findShell(argv []Arg) (shellCall, bool) {
	var sh shellCall
	for len(argv) > 0 {
		switch base := baseName(argv[0].Text); base {
		case "busybox", "env", "tini", "dumb-init":
			argv = argv[1:]
			for len(argv) > 0 && (strings.HasPrefix(argv[0].Text, "-") || base == "env" && strings.Contains(argv[0].Text, "=")) {
				argv = argv[1:]
			}
			continue
		case "sh", "bash", "dash", "ash", "ksh", "zsh":
		default:
			return sh, false
		}
		break
	}
	isScript := false
	for i := 1; i < len(argv); i++ {
		t := argv[i].Text
		switch {
		case t == "-" || t == "--":
			continue
		case strings.HasPrefix(t, "--"):
			continue
		case strings.HasPrefix(t, "-") || strings.HasPrefix(t, "+"):
			on := t[0] == '-'
			isScript = isScript || on && strings.Contains(t, "c")
			if strings.Contains(t[1:], "e") {
				sh.errexit = on
			}
			if strings.Contains(t[1:], "o") && i+1 < len(argv) {
				i++
				if argv[i].Text == "errexit" {
					sh.errexit = on
				}
			}
			continue
		}
		if !isScript {
			return sh, false
		}
		sh.script = argv[i]
		if i+2 <= len(argv)-1 {
			sh.params = argv[i+2:]
		}
		return sh, true
	}
	return sh, false
}

// locate finds where text stands that a value brought: in the argument it came
// from, in the script, in the environment, or at worst in any argument.
func (d *Deployment) locate(c Container, script *yaml.Node, v shValue, text string) (line, column int) {
	if v.arg != nil && v.arg.node != nil {
		return d.src.find(v.arg.node, strings.Index(v.arg.Text, text), text)
	}
	if script != nil && v.off >= 0 && v.off <= len(script.Value) && text != "" {
		if i := strings.Index(script.Value[v.off:], text); i >= 0 {
			return d.src.find(script, v.off+i, text)
		}
	}
	if v.line > 0 {
		return v.line, 0
	}
	for _, a := range c.argv() {
		if i := strings.Index(a.Text, text); text != "" && i >= 0 && a.node != nil {
			return d.src.find(a.node, i, text)
		}
	}
	if script != nil && v.off >= 0 && v.off < len(script.Value) {
		word, _, _ := strings.Cut(script.Value[v.off:], " ")
		word, _, _ = strings.Cut(word, "\n")
		return d.src.find(script, v.off, word)
	}
	return c.Line, 0
}
