package reproducemr_test

import (
	"errors"
	"flag"
	"io"
	"strings"
	"testing"

	"github.com/retally/retally/tdxmeasure/reproducemr"
)

func TestUsage(t *testing.T) {
	for name, c := range map[string]struct {
		args []string
		want string
	}{
		"nothing":     {nil, "-fw FILE"},
		"unknown":     {[]string{"-nope"}, "-nope"},
		"memory":      {[]string{"-fw", "a", "-kernel", "b", "-memory", "2"}, "no unit"},
		"memory size": {[]string{"-fw", "a", "-kernel", "b", "-memory", "99999999999999G"}, "size such as 2G"},
		"cpu":         {[]string{"-fw", "a", "-kernel", "b", "-cpu", "x"}, "invalid value"},
		"extra":       {[]string{"-fw", "a", "-kernel", "b", "c"}, `"c" behind the flags`},
	} {
		_, err := reproducemr.Parse(c.args, io.Discard)
		var usage *reproducemr.UsageError
		if !errors.As(err, &usage) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error = %v, want a usage error with %q", name, err, c.want)
		}
	}
	if _, err := reproducemr.Parse([]string{"-h"}, io.Discard); !errors.Is(err, flag.ErrHelp) {
		t.Errorf("-h: error = %v, want ErrHelp", err)
	}
}
