package main

import (
	"os"
	"strings"
	"testing"
)

func TestOnce(t *testing.T) {
	for _, tt := range []struct{ msg, path, given, want string }{
		{"read image x: read x: not an image", "x", "x", "read image x: not an image"},
		{"read image x: x: not an image", "x", "x", "read image x: not an image"},
		{"read workspace x: open workspace: open x: absent", "x", "x", "read workspace x: open workspace: absent"},
		{"read inspect x: x:1:2: want a value", "x", "x", "read inspect x:1:2: want a value"},
		{"x:1:2: want a value", "x", "./x", "./x:1:2: want a value"},
		{"read x: absent", "x", "../d/x", "read ../d/x: absent"},
		{"read a x: one\nread b x: x: two", "x", "x", "read a x: one\nread b x: two"},
		{"read ax: no such file", "x", "./x", "read ax: no such file"},
		{"check y: wants what x: says", "x", "x", "check y: wants what x: says"},
		{"nothing", "", "", "nothing"},
	} {
		if got := once(tt.msg, tt.path, tt.given); got != tt.want {
			t.Errorf("once(%q, %q, %q): got %q, want %q", tt.msg, tt.path, tt.given, got, tt.want)
		}
	}
}

// TestErrorTexts: an error names the program once, the file once and as the user
// named it, and says no step twice, whatever is wrong and whatever the verb.
func TestErrorTexts(t *testing.T) {
	t.Chdir(t.TempDir())
	if err := os.MkdirAll("sub/folder", 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"junk": "garbage", "broken.json": `{"a":`, "empty": "", "bad.yaml": "a: [\n"} {
		putFile(t, "sub/"+name, []byte(text))
	}
	zeros := strings.Repeat("0", 96)
	runs := 0
	for _, file := range []string{"absent", "junk", "folder", "empty", "broken.json", "bad.yaml"} {
		for _, form := range []string{"./sub/", "sub/../sub/"} {
			path := form + file
			for _, line := range []string{
				"check F", "run -f F", "plan -f F", "compare F sub/junk", "explain image/x --report F", "image digest F", "image diff F sub/junk", "disk --files F",
				"disk sub/folder --models F --name x", "verity format F", "verity dump F", "verity verify sub/junk F 00", "policy generate -f F --settings sub/junk",
				"policy check --policy F --request sub/junk", "policy diff F sub/junk", "policy show F", "manifest adjust --plan F sub/junk", "manifest check F",
				"tdx measure --profile secretvm --firmware F --only mrtd", "tdx measure --metadata F", "tdx measure --vm-config F", "tdx replay F", "tdx reproduce-mr -fw F -kernel F",
				"snp measure --firmware F --vcpus 1 --vcpu-type EPYC", "snp id-block --launch-digest " + zeros + " --id-key F", "tpm predict --uki F --empty-vars", "tpm predict --firmware F",
				"tpm replay F", "tpm pcrlock F", "evidence verify F", "inspect kernel F", "inspect initrd F", "inspect acpi F", "inspect firmware F", "inspect igvm F",
				"inspect uki F", "inspect disk F", "proxy-log F", "proxy-image --inspect F", "init F",
			} {
				args := strings.Fields(strings.ReplaceAll(line, "F", path))
				code, _, errOut := inProcess(t, map[string]string{"RETALLY_CACHE": "cache"}, args...)
				if code != exitTrouble {
					continue // an empty folder is a list of nothing, an empty file no fault of the verb
				}
				runs++
				first, _, _ := strings.Cut(errOut, "\n")
				rest, ok := strings.CutPrefix(first, "retally: ")
				if !ok || strings.HasPrefix(rest, "retally") {
					t.Errorf("%s: %q", line, first)
				}
				if !strings.Contains(errOut, path) {
					t.Errorf("%s: %s is not named as given: %s", line, path, errOut)
				}
				if strings.Count(first, path) > 1 {
					t.Errorf("%s: the path is there twice: %s", line, first)
				}
				parts := strings.Split(rest, ": ")
				for i := 1; i < len(parts); i++ {
					if parts[i] == parts[i-1] {
						t.Errorf("%s: said twice: %s", line, first)
					}
				}
			}
		}
	}
	if runs < 350 {
		t.Errorf("only %d errors were seen", runs)
	}
}
