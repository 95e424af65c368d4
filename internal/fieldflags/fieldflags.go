// Package fieldflags binds flags to the fields of a configuration, so that a
// command line fills the same description as a file does.
package fieldflags

import (
	"errors"
	"fmt"
	"reflect"
	"strconv"
	"strings"

	"github.com/spf13/pflag"
)

// Fields are pointers to the fields of a struct by their yaml names. to points
// to the struct.
func Fields(to any) map[string]any {
	out := map[string]any{}
	v := reflect.ValueOf(to).Elem()
	for i := range v.NumField() {
		name, _, _ := strings.Cut(v.Type().Field(i).Tag.Get("yaml"), ",")
		if name != "" && name != "-" {
			out[name] = v.Field(i).Addr().Interface()
		}
	}
	return out
}

// Bind adds a flag that fills a field: a text, a truth, a list, or a pointer to
// one of them or to a number where absence is not the zero value. It panics on
// any other: the fields are those of the program's own structs.
func Bind(fs *pflag.FlagSet, to any, name, usage string) {
	switch to := to.(type) {
	case *string:
		fs.StringVar(to, name, "", usage)
	case *bool:
		fs.BoolVar(to, name, false, usage)
	case *[]int:
		fs.IntSliceVar(to, name, nil, usage)
	case *[]string:
		fs.StringArrayVar(to, name, nil, usage)
	case pflag.Value:
		fs.Var(to, name, usage)
	case **string:
		fs.Var(&optional[string]{to: to, typ: "string", parse: func(s string) (string, error) { return s, nil }}, name, usage)
	case **int:
		fs.Var(&optional[int]{to: to, typ: "int", parse: strconv.Atoi}, name, usage)
	case **bool:
		fs.Var(&optional[bool]{to: to, typ: "bool", parse: strconv.ParseBool}, name, usage)
		fs.Lookup(name).NoOptDefVal = "true"
	default:
		panic(fmt.Sprintf("no flag can fill a %T", to))
	}
}

// Opposite adds a flag that says the opposite of a field.
func Opposite(fs *pflag.FlagSet, to **bool, name, usage string) {
	fs.Var(opposite{to}, name, usage)
	fs.Lookup(name).NoOptDefVal = "true"
}

// Given writes flags that were given back as a user would type them: word makes
// a word for a shell, dashed names a flag with its dashes.
func Given(fs *pflag.FlagSet, names []string, dashed, word func(string) string) string {
	var b strings.Builder
	for _, name := range names {
		fl := fs.Lookup(name)
		if !fl.Changed {
			continue
		}
		values := []string{fl.Value.String()}
		if many, ok := fl.Value.(pflag.SliceValue); ok {
			values = many.GetSlice()
			if fl.Value.Type() == "intSlice" {
				values = []string{strings.Join(values, ",")}
			}
		}
		for _, v := range values {
			switch {
			case fl.Value.Type() != "bool":
				fmt.Fprintf(&b, " %s %s", dashed(name), word(v))
			case v == "true":
				fmt.Fprintf(&b, " --%s", name)
			default:
				fmt.Fprintf(&b, " --%s=%s", name, v)
			}
		}
	}
	return b.String()
}

// optional is a flag that may be absent, which is not its zero value.
type optional[T any] struct {
	to    **T
	typ   string
	parse func(string) (T, error)
}

// Set implements pflag.Value.
func (o *optional[T]) Set(text string) error {
	v, err := o.parse(text)
	var n *strconv.NumError
	if errors.As(err, &n) {
		return n.Err
	}
	*o.to = &v
	return err
}

// String implements pflag.Value.
func (o *optional[T]) String() string {
	if o.to == nil || *o.to == nil {
		return ""
	}
	return fmt.Sprint(**o.to)
}

// Type implements pflag.Value.
func (o *optional[T]) Type() string { return o.typ }

// opposite is a flag that says the opposite of a field.
type opposite struct{ to **bool }

// Set implements pflag.Value.
func (o opposite) Set(text string) error {
	v, err := strconv.ParseBool(text)
	if err == nil {
		*o.to = new(!v)
	}
	return err
}

// String implements pflag.Value.
func (o opposite) String() string {
	if o.to == nil || *o.to == nil {
		return ""
	}
	return strconv.FormatBool(!**o.to)
}

// Type implements pflag.Value.
func (o opposite) Type() string { return "bool" }
