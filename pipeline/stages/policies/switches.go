package policies

import (
	"bytes"
	"strconv"
	"strings"

	"github.com/retally/retally/internal/jsondoc"
)

// setting is a boolean of the settings, turned.
type setting struct {
	path string // request_defaults.ReadStreamRequest
	at   int    // offset in the settings file
	to   bool
}

// mostSettings bounds the booleans that are turned.
const mostSettings = 64

// switches lists the booleans of the settings file, each with the value that it
// does not have.
func switches(data []byte) (out []setting) {
	doc, err := jsondoc.Parse(data, jsondoc.Limits{Values: 100_000})
	if err != nil {
		return nil
	}
	var walk func(path []string, v *jsondoc.Value)
	walk = func(path []string, v *jsondoc.Value) {
		switch v.Kind {
		case jsondoc.Bool:
			if len(out) < mostSettings {
				out = append(out, setting{strings.Join(path, "."), v.Offset, !v.Bool})
			}
		case jsondoc.Object:
			for _, m := range v.Members {
				walk(append(path[:len(path):len(path)], m.Key), m.Value)
			}
		case jsondoc.Array:
			for i, e := range v.Elems {
				walk(append(path[:len(path):len(path)], strconv.Itoa(i)), e)
			}
		}
	}
	walk(nil, doc)
	return out
}

// turned is a settings file with one boolean turned; false if it does not stand
// there.
func (s setting) turned(data []byte) ([]byte, bool) {
	was, is := strconv.FormatBool(!s.to), strconv.FormatBool(s.to)
	if s.at < 0 || s.at > len(data) || !bytes.HasPrefix(data[s.at:], []byte(was)) {
		return nil, false
	}
	out := append([]byte{}, data[:s.at]...)
	return append(append(out, is...), data[s.at+len(was):]...), true
}

func (s setting) words() string {
	return "with " + s.path + " " + strconv.FormatBool(s.to) + " in the settings"
}
