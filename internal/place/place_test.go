package place_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/retally/retally/internal/place"
)

func TestString(t *testing.T) {
	for _, c := range []struct {
		where place.Where
		want  string
	}{
		{place.Where{}, ""},
		{place.InFile("a.yaml"), "a.yaml"},
		{place.Where{File: "a.yaml", Line: 3, Column: 7}, "a.yaml:3:7"},
		{place.Where{Line: 3}, "line 3"},
		{place.InFile("fw.fd").At(0), "fw.fd: offset 0"},
		{place.Where{File: "m.json", Pointer: "/a/0", Part: "entry 1"}, "m.json: /a/0, entry 1"},
		{place.Where{Part: "certificate 2"}.At(9), "offset 9, certificate 2"},
	} {
		if got := c.where.String(); got != c.want {
			t.Errorf("%+v: got %q, want %q", c.where, got, c.want)
		}
	}
}

func TestFault(t *testing.T) {
	below := errors.New("short read")
	f := &place.Fault{Input: "SEV metadata", Where: place.InFile("fw.fd").At(16), Field: "length", Found: strings.Repeat("é", 200), Want: "at most 4096", Err: below}
	got := f.Error()
	if !strings.HasPrefix(got, "read SEV metadata fw.fd: offset 16: length: found é") || !strings.HasSuffix(got, "…, want at most 4096: short read") || !errors.Is(f, below) {
		t.Errorf("got %q", got)
	}
}

func TestFaultsSayWhatIsCut(t *testing.T) {
	var fs place.Faults
	if fs.Err() != nil {
		t.Fatal("an empty list is an error")
	}
	for range place.MaxFaults + 3 {
		fs.Add(&place.Fault{Found: "x"})
	}
	kept, more := fs.List()
	if len(kept) != place.MaxFaults || more != 3 || fs.Len() != place.MaxFaults+3 || !strings.Contains(fs.Err().Error(), "and 3 more faults") {
		t.Errorf("kept %d, more %d", len(kept), more)
	}
}
