package deployment_test

import (
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
	f.Fuzz(func(t *testing.T, y string) {
		d, err := deployment.Parse("f", []byte(y))
		if err != nil {
			return
		}
		lines := strings.Count(y, "\n") + 1
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
