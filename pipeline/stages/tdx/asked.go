package tdx

import (
	"fmt"
	"slices"
	"strings"

	"github.com/retally/retally/internal/yamldoc"
	"github.com/retally/retally/pipeline"
)

// Asked are the registers and aggregates that were asked for, by name.
type Asked map[string]bool

// ParseAsked reads names; without any, everything is asked for.
func ParseAsked(op string, only []string) (Asked, error) {
	asked := Asked{}
	known := append(slices.Clone(Registers[:]), Aggregates...)
	if len(only) == 0 {
		for _, k := range known {
			asked[k] = true
		}
	}
	for _, o := range only {
		name := strings.ToLower(strings.TrimSpace(o))
		if !slices.Contains(known, name) {
			list := "known: " + strings.Join(known, ", ")
			if near := yamldoc.Nearest(name, known); near != "" {
				list = "did you mean {only} " + near + "? " + list
			}
			return nil, &pipeline.InputError{Op: op, Err: fmt.Errorf("{only} %.80q: unknown word", name), Hint: list}
		}
		asked[name] = true
	}
	return asked, nil
}

// Keys are the asked values of the machine that flags describe.
func (asked Asked) Keys() []string {
	var out []string
	for name := range asked {
		out = append(out, string(pipeline.NewKey("tdx", ByFlags, name)))
	}
	slices.Sort(out)
	return out
}

// ParseRegisters reads REGISTER=HEX of a field, each register once, and returns
// them in their order.
func ParseRegisters(op, field string, list []string, to map[string]string) ([]RegisterComparison, error) {
	var out []RegisterComparison
	for _, text := range list {
		name, value, ok := strings.Cut(text, "=")
		name = strings.ToLower(name)
		if _, twice := to[name]; !ok || twice {
			return nil, &pipeline.InputError{Op: op, Err: fmt.Errorf("{%s} %.120q: want REGISTER=HEX, each once", field, text), Hint: "for instance {" + field + "} rtmr0=671800f0..."}
		}
		to[name] = strings.ToLower(strings.TrimPrefix(value, "0x"))
		out = append(out, RegisterComparison{Register: name, Want: to[name]})
	}
	return out, nil
}
