package policies_test

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"strings"
	"testing"

	"github.com/retally/retally/internal/testrun"
	"github.com/retally/retally/pipeline"
)

// TestCarriedDocuments: a policy document that stands in the deployment is what
// the guest gets; one that is nobody's, or that nobody can read, is a defect. A
// runtime class of a platform that the manifest does not have is one, too.
func TestCarriedDocuments(t *testing.T) {
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	if _, err := z.Write([]byte("version=\"0.1.0\"\nalgorithm=\"sha256\"\n[data]\n\"policy.rego\"=\"default AllowRequestsFailingPolicy := true\"\n")); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	const meta = "  template:\n    metadata:\n"
	annotated := func(text string) func(string) string {
		return func(s string) string {
			return strings.Replace(s, meta, meta+"      annotations:\n        io.katacontainers.config.hypervisor.cc_init_data: \""+text+"\"\n", 1)
		}
	}
	for name, c := range map[string]struct {
		edit func(string) string
		want string
	}{
		"another document": {annotated(base64.StdEncoding.EncodeToString(packed.Bytes())), "neither the computed one nor published"},
		"no document":      {annotated("AAAA"), "cannot be read"},
		"another annotation": {func(s string) string {
			return strings.Replace(s, meta, meta+"      annotations:\n        io.katacontainers.config.agent.policy: "+base64.StdEncoding.EncodeToString([]byte("package agent_policy\ndefault ExecProcessRequest := true\n"))+"\n", 1)
		}, "agent.policy carries a policy with SHA-256"},
		"peer pods' annotation": {func(s string) string {
			return strings.Replace(s, meta, meta+"      annotations:\n        io.katacontainers.config.runtime.cc_init_data: "+base64.StdEncoding.EncodeToString(packed.Bytes())+"\n", 1)
		}, "runtime.cc_init_data carries a policy with SHA-256"},
		"unknown annotation": {func(s string) string {
			return strings.Replace(s, meta, meta+"      annotations:\n        io.katacontainers.config.hypervisor.initdata2: AAAA\n", 1)
		}, "carries a policy that is not read"},
		"invented platform": {func(s string) string {
			return strings.Replace(s, "contrast-cc-metal-qemu-tdx-gpu", "contrast-cc-runc", 1)
		}, "names the platform runc"},
	} {
		dir := testrun.Demo(t, nil)
		before := testrun.Read(t, dir, "deployment.yaml")
		after := c.edit(before)
		if after == before {
			t.Fatalf("%s: the edit fits nothing", name)
		}
		dir = testrun.Demo(t, map[string]string{"deployment.yaml": after})
		r := testrun.Run(t, dir, testrun.Read(t, dir, "retally.yaml"))
		found := false
		for _, p := range r.Problems {
			found = found || p.Level == pipeline.LevelError && strings.Contains(p.Msg, c.want) && p.Where.Line > 0
		}
		if !found || r.Outcome != pipeline.OutcomeDiffers {
			t.Errorf("%s: %s, and no problem says %q: %v", name, r.Outcome, c.want, r.Problems)
		}
	}
}
