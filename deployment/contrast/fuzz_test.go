package contrast_test

import (
	"testing"

	"github.com/retally/retally/deployment/contrast"
	"github.com/retally/retally/profiles"
)

// A release that is read can be used: nothing of it is out of bounds later.
func FuzzRelease(f *testing.F) {
	for _, name := range profiles.ContrastReleases() {
		_, data, _ := profiles.Contrast(name)
		f.Add(data)
	}
	d := parse(f, deploymentOf("web", "contrast-cc", "", ""))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := contrast.ParseRelease("f", data)
		if err != nil {
			return
		}
		if n := len(r.VCPUCounts()); n < 1 || n > 220 {
			t.Fatalf("%d counts", n)
		}
		got, err := contrast.Change(d, r, contrast.Options{DefaultPlatform: "metal-qemu-snp", Blocks: blocks})
		if err != nil || len(got.Workloads) != 1 {
			t.Fatalf("got %v, %v", got, err)
		}
	})
}
