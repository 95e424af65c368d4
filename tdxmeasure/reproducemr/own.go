package reproducemr

import (
	"errors"
	"slices"
	"strings"
)

// takesValue are the tool's flags that the next argument belongs to.
var takesValue = []string{
	"fw", "kernel", "initrd", "rootfs", "dockercompose", "dockerfiles", "memory", "cpu", "cmdline", "mrkp", "tcbver", "acpi", "acpi-family",
}

// Own takes flags that are not the tool's out of its arguments: words take a
// value, truths none. -ojson is the word -o with its value. A value of the tool's
// flags may look like one of them.
func Own(args []string, words map[string]*string, truths map[string]*bool) (rest []string, err error) {
	for i := 0; i < len(args); i++ {
		name, value, attached := strings.Cut(args[i], "=")
		to := words[name]
		switch {
		case name == "-ojson" && words["-o"] != nil:
			*words["-o"] = "json"
			continue
		case truths[name] != nil:
			*truths[name] = true
			continue
		case to == nil:
			rest = append(rest, args[i])
			if !attached && i+1 < len(args) && slices.Contains(takesValue, strings.TrimLeft(name, "-")) {
				i++
				rest = append(rest, args[i])
			}
			continue
		}
		if !attached {
			if i++; i == len(args) {
				return nil, errors.New(name + " needs a value")
			}
			value = args[i]
		}
		*to = value
	}
	return rest, nil
}
