package evidence_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/retally/retally/evidence"
	"github.com/retally/retally/evidence/malformed"
)

func TestRegistryErrors(t *testing.T) {
	row := ownRow(ownBody(t))
	for name, tt := range map[string]struct{ data, want string }{
		"empty":           {"", "read r.csv: found nothing, want comma separated values with a header line"},
		"column missing":  {strings.Replace(header, "rootfs_data", "rootfs", 1) + row, "read r.csv: line 1: columns: found"},
		"column twice":    {strings.Replace(header, "host_id", "mrtd", 1) + row, `found "mrtd" twice`},
		"short row":       {header + "a,b,c\n", "read r.csv: line 2: found 3 values, want 9, as many"},
		"short register":  {header + row + "\n" + strings.Replace(row, "v1.0.0,", "v1.0.0,0", 1), "read r.csv: line 3: mrtd: found"},
		"no hex":          {header + strings.Replace(row, rootfs.Hex(), strings.Repeat("x", 64), 1), "line 2: rootfs_data: found"},
		"quote not ended": {header + `"` + row, "read r.csv: line"},
	} {
		_, err := evidence.ParseRegistry("r.csv", []byte(tt.data))
		var typed *malformed.Error
		if !errors.As(err, &typed) || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want %q", name, err, tt.want)
		}
	}
	for name, data := range map[string]string{
		"blanks": header + strings.ReplaceAll(row, ",", " , "), "byte order mark and CR LF": "\ufeff" + strings.ReplaceAll(header+row+"\n", "\n", "\r\n"),
		"lines of blanks": header + row + "\n \t\n\n  ", "prefixed": header + strings.Replace(row, rootfs.Hex(), "0x"+strings.ToUpper(rootfs.Hex()), 1),
	} {
		r, err := evidence.ParseRegistry("r.csv", []byte(data))
		if err != nil || len(r.Rows) != 1 || r.Rows[0].Name() != "small prod v1.0.0" || r.Rows[0].Line != 2 || r.Rows[0].Rootfs != rootfs {
			t.Errorf("%s: %+v, %v", name, r, err)
		}
	}
}

// TestRegistryJSON: the same rows as a list of objects give the same sets.
func TestRegistryJSON(t *testing.T) {
	row := ownRow(ownBody(t))
	columns, values := strings.Split(strings.TrimSpace(header), ","), strings.Split(strings.TrimSpace(row), ",")
	object := map[string]string{}
	for i, c := range columns {
		object[c] = values[i]
	}
	text, err := json.MarshalIndent([]map[string]string{object, object}, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	got, err := evidence.ParseRegistry("r", text)
	if err != nil {
		t.Fatal(err)
	}
	want, err := evidence.ParseRegistry("r", []byte(header+row+"\n"+row))
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Rows) != 2 || got.Rows[0].Line != 2 || got.Rows[1].Line != 3+len(columns)+1 {
		t.Errorf("lines of the rows: %+v", got.Rows)
	}
	for i := range got.Rows {
		got.Rows[i].Line, want.Rows[i].Line = 0, 0
		if got.Rows[i] != want.Rows[i] {
			t.Errorf("row %d: got %+v, want %+v", i, got.Rows[i], want.Rows[i])
		}
	}
	for name, data := range map[string]string{
		"not closed":   "[",
		"no object":    "[\n1]",
		"field absent": "[\n{\"template_name\":\"small\"}]",
		"no text":      strings.Replace(string(text), `"mrtd": "`, `"mrtd": 1, "x": "`, 1),
		"no hex":       strings.Replace(string(text), `"mrtd": "`, `"mrtd": "x`, 1),
	} {
		var typed *malformed.Error
		if _, err := evidence.ParseRegistry("r", []byte(data)); !errors.As(err, &typed) {
			t.Errorf("%s: got %v, want a typed error", name, err)
		}
	}
}
