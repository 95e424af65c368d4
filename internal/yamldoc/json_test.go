package yamldoc_test

import (
	"strings"
	"testing"

	"github.com/retally/retally/internal/jsondoc"
	"github.com/retally/retally/internal/yamldoc"
)

func TestJSON(t *testing.T) {
	for _, tt := range []struct{ yaml, want string }{
		{"---\na: 1\nb: [2, x, true, null]\nc: |-\n  one\n  two\nd: '3'\n", `{"a":1,"b":[2,"x",true,null],"c":"one\ntwo","d":"3"}`},
		{"- 0x10\n- 1.5\n- 007\n", `["0x10","1.5","007"]`},
		{"a: &x 1\n", "anchors"},
		{"a: [1]\nb: *x\n", ""},
		{"a: &x [1]\nb: *x\n", "anchors"},
		{"<<: {a: 1}\n", "a key must be"},
		{"a: 1\n---\nb: 2\n", "one document"},
		{"text\n", "one document"},
		{"", "one document"},
		{"a: 1\na: 2\n", "twice"},
	} {
		v, err := yamldoc.JSON("f", []byte(tt.yaml), yamldoc.Limits{})
		switch {
		case strings.HasPrefix(tt.want, "{") || strings.HasPrefix(tt.want, "["):
			if err != nil || string(jsondoc.Style{}.Compact(v)) != tt.want {
				t.Errorf("%q: %v %v", tt.yaml, v, err)
			}
		case err == nil || !strings.Contains(err.Error(), tt.want):
			t.Errorf("%q: %v, want %q", tt.yaml, err, tt.want)
		}
	}
}
