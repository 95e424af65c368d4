package pipeline_test

import (
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// TestClaimsTable keeps docs/claims.md readable for whoever flips a status:
// every row has all columns, a unique id in order and a known status, and the
// counts at the top are those of the rows.
func TestClaimsTable(t *testing.T) {
	data, err := os.ReadFile("../docs/claims.md")
	if err != nil {
		t.Fatal(err)
	}
	guides := map[string]string{"Privatemode (both)": "PM", "SecretVM": "SV", "Contrast": "CO", "BlindLlama": "BL"}
	statuses := []string{"checked", "partly", "not yet", "not checkable"}
	id := regexp.MustCompile(`^(PM|SV|CO|BL)-([0-9]+)$`)
	count := map[string][]int{}
	stated := map[string][]string{}
	for i, line := range strings.Split(string(data), "\n") {
		if !strings.HasPrefix(line, "| ") {
			continue
		}
		cells := strings.Split(strings.TrimSuffix(strings.TrimPrefix(line, "| "), " |"), " | ")
		if guide, ok := guides[cells[0]]; ok && len(cells) == 6 {
			stated[guide] = cells[1:]
			continue
		}
		m := id.FindStringSubmatch(cells[0])
		if m == nil {
			continue
		}
		if count[m[1]] == nil {
			count[m[1]] = make([]int, 1+len(statuses))
		}
		n := count[m[1]]
		n[0]++
		if m[2] != strconv.Itoa(n[0]) {
			t.Errorf("line %d: id %s, want %s-%d", i+1, cells[0], m[1], n[0])
		}
		if len(cells) != 7 {
			t.Errorf("line %d: %s has %d columns, want 7", i+1, cells[0], len(cells))
			continue
		}
		known := false
		for k, s := range statuses {
			if strings.HasPrefix(cells[6], s) {
				n[k+1]++
				known = true
			}
		}
		if !known {
			t.Errorf("line %d: %s has the status %q, want one that starts with %s", i+1, cells[0], cells[6], strings.Join(statuses, ", "))
		}
	}
	for name, guide := range guides {
		var got []string
		for _, n := range count[guide] {
			got = append(got, strconv.Itoa(n))
		}
		if len(got) == 0 || strings.Join(got, " ") != strings.Join(stated[guide], " ") {
			t.Errorf("%s: the rows count %q, the table at the top says %q", name, got, stated[guide])
		}
	}
}
