package tdx

import (
	"errors"
	"strings"

	"github.com/retally/retally/internal/ovmf"
	"github.com/retally/retally/pipeline"
	"github.com/retally/retally/pipeline/run"
	"github.com/retally/retally/tdxmeasure"
)

// A Trouble says why the one machine that flags describe was not measured,
// without what belongs to a configuration. Text is whole where several registers
// have their reasons, a line each that begins with the operation; else there is
// a Path, an Err, or both.
type Trouble struct {
	Path, Text, Hint string
	Err              error
}

// Explain takes an error of the stage apart: the registers that it kept from
// being computed, and why.
func Explain(op string, err error) *Trouble {
	var list []*RegisterError
	var collect func(error)
	collect = func(err error) {
		switch e := err.(type) {
		case *RegisterError:
			list = append(list, e)
		case interface{ Unwrap() []error }:
			for _, sub := range e.Unwrap() {
				collect(sub)
			}
		case interface{ Unwrap() error }:
			collect(e.Unwrap())
		}
	}
	collect(err)
	if len(list) == 0 {
		return machineTrouble(err)
	}
	t := machineTrouble(list[0].Err)
	var lines []string
	for _, e := range list {
		one := machineTrouble(e.Err)
		line := op + " " + strings.Join(e.Registers, ", ") + ": " + one.Path
		if one.Path != "" {
			line += ": "
		}
		lines = append(lines, line+one.Err.Error())
	}
	t.Text, t.Err = strings.Join(lines, "\n"), nil
	var file *tdxmeasure.FileError
	if errors.As(err, &file) {
		t.Path = file.Name
	}
	return t
}

// machineTrouble takes off an error what belongs to a configuration.
func machineTrouble(err error) *Trouble {
	for {
		if all, ok := err.(interface{ Unwrap() []error }); ok && len(all.Unwrap()) == 1 {
			err = all.Unwrap()[0]
			continue
		}
		_, stage := err.(*run.StageError)
		if !stage && !strings.HasPrefix(err.Error(), "platform "+ByFlags+": ") {
			break
		}
		inner := errors.Unwrap(err)
		if inner == nil {
			return &Trouble{Err: errors.New("failed")}
		}
		err = inner
	}
	var in *pipeline.InputError
	if errors.As(err, &in) {
		return &Trouble{Path: in.File, Err: in.Err, Hint: in.Hint}
	}
	t := &Trouble{Err: err, Hint: HintOf(err)}
	var fault *run.Fault
	if errors.As(err, &fault) {
		t.Hint = fault.Hint
		if err == error(fault) {
			t.Err = fault.Err
		}
	}
	return t
}

// HintOf is the hint that an error of the rooms carries, "" where it has none.
func HintOf(err error) string {
	var t *tdxmeasure.Error
	var o *ovmf.Error
	switch {
	case errors.As(err, &t):
		return t.Hint
	case errors.As(err, &o):
		return o.Hint
	}
	return ""
}
