package deployment_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/retally/retally/deployment"
)

// FuzzDeployment: nothing panics, every place is inside the file, the same
// bytes give the same result, and a reference that parses prints back to
// itself.
func FuzzDeployment(f *testing.F) {
	f.Add(pod("image: " + mount + "\nargs: [m, '0', " + hexA + "]\ncommand: [sh, -ec, 'x=$(sha256sum /f | cut -c1-64); exec disk-mounter \"$@\"', _]\n"))
	f.Add(pod("image: a:v1\ncommand:\n- bash\n- -ec\n- |\n  for f in a b; do case $f in (a) ;; *) [ $(sha256sum $f) = " + hexA + " ] || { exit 1; }; esac; done\n  sha256sum -c <<-EOF || exit\n  " + hexB + "  x\n  EOF\n"))
	f.Add("kind: List\nitems: [{kind: Pod, spec: {containers: [{name: &a x, image: *a}]}}]\n")
	f.Add("\r\r0")
	f.Fuzz(func(t *testing.T, y string) {
		d, err := deployment.Parse("f", []byte(y))
		if err != nil {
			return
		}
		// YAML has more line breaks than LF.
		lines := 1
		for _, br := range []string{"\n", "\r", "\u0085", "\u2028", "\u2029"} {
			lines += strings.Count(y, br)
		}
		for _, p := range d.Problems() {
			if p.Line < 0 || p.Line > lines+1 || p.Error() == "" {
				t.Errorf("problem %+v outside of %d lines", p, lines)
			}
		}
		for _, p := range d.Images() {
			if p.Pinned == p.Ref.Digest.IsZero() {
				t.Errorf("image %+v: pinned and digest contradict", p)
			}
			if r, err := deployment.ParseImageRef(p.Ref.Text); err == nil {
				full := r.Full()
				if r.Tag != "" {
					full += ":" + r.Tag
				}
				if !r.Digest.IsZero() {
					full += "@" + r.Digest.String()
				}
				again, err := deployment.ParseImageRef(full)
				again.Text = r.Text
				if diff := cmp.Diff(r.Full(), again.Full()); err != nil && len(full) <= 255 || err == nil && diff != "" {
					t.Errorf("%q: %v %s", full, err, diff)
				}
			}
		}
		for _, c := range d.FileChecks() {
			if c.Expected.IsZero() && c.Enforcement == "" {
				t.Errorf("check without verdict: %+v", c)
			}
		}
		again, err := deployment.Parse("f", []byte(y))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(d.Problems(), again.Problems()); diff != "" {
			t.Errorf("two readings differ:\n%s", diff)
		}
	})
}

// FuzzStartScript puts any text where a start script is. A check that is
// reported stands on a line of the script.
func FuzzStartScript(f *testing.F) {
	f.Add("cp /a /b\nif [ $(sha256sum /b | cut -d ' ' -f 1) != '" + hexA + "' ]; then echo bad; exit 1; fi\nexec app \"$@\"")
	f.Add("f() { [ \"$(sha256sum $1)\" = $2 ] && return 1 || exit 2; }; f /x " + hexA + "; while f; do break; done; (set -e; false) | true")
	f.Add("sha256sum -c <<E || { exit 3; }\n" + hexA + "  /f\nE\ncase $1 in a|b) shift;; *) set -- x;; esac; disk-mounter m 0 ${1#x} `echo " + hexB + "`")
	f.Fuzz(func(t *testing.T, script string) {
		quoted, err := json.Marshal(script)
		if err != nil {
			return
		}
		d, err := deployment.Parse("f", []byte(pod("image: "+mount+"\nargs: [m, '0', "+hexB+"]\ncommand: [bash, -c, "+string(quoted)+", _]\n")))
		if err != nil {
			return
		}
		for _, c := range d.FileChecks() {
			if c.Enforcement == "" || c.Reason == "" || c.Line < 9 || c.Line > 11 {
				t.Errorf("check %+v", c)
			}
		}
		for _, p := range d.Disks() {
			if p.Line < 8 || p.Line > 11 || p.Used && p.RootHashText == "" {
				t.Errorf("disk %+v", p)
			}
		}
	})
}
