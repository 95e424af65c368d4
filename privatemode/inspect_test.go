package privatemode_test

import (
	"bytes"
	"fmt"
	"os/exec"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/retally/retally/privatemode"
)

func runJQ(t *testing.T, jq string, in []byte) string {
	t.Helper()
	cmd := exec.Command(jq, ".")
	cmd.Stdin = bytes.NewReader(in)
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

const (
	oci  = "application/vnd.oci.image."
	repo = "ghcr.io/edgelesssys/privatemode/privatemode-proxy"
)

// The shapes are those of the tools' documentation: Docker Engine API v1.50,
// ImageInspect, and podman-inspect(1).
func TestParseInspect(t *testing.T) {
	root := `"RootFS":{"Type":"layers","Layers":["sha256:` + hexC + `"]},"Architecture":"amd64","Os":"linux"`
	for _, tt := range []struct {
		name, in string
		want     []string // "tool", then every digest with its kind
	}{
		{
			"docker's own store", `[{"Id":"sha256:` + hexA + `","RepoTags":["p:v1"],"RepoDigests":["` + repo + `@sha256:` + hexB + `"],` + root + `}]`,
			[]string{"docker", "config a Id", "index or manifest b RepoDigests[0]"},
		},
		{
			"containerd store, index", `[{"Id":"sha256:` + hexA + `","RepoDigests":["` + repo + `@sha256:` + hexA + `"],` + root + `,"Descriptor":{"mediaType":"` + oci + `index.v1+json","digest":"sha256:` + hexA + `","size":743}}]`,
			[]string{"docker", "index a Descriptor.digest"},
		},
		{
			"containerd store, manifest", `[{"Id":"sha256:` + hexA + `","RepoDigests":["` + repo + `@sha256:` + hexA + `"],` + root + `,"Descriptor":{"mediaType":"` + oci + `manifest.v1+json","digest":"sha256:` + hexA + `","size":743}}]`,
			[]string{"docker", "manifest a Descriptor.digest"},
		},
		{
			"containerd store without descriptor", `[{"Id":"sha256:` + hexA + `","RepoDigests":["` + repo + `@sha256:` + hexA + `"],` + root + `}]`,
			[]string{"docker", "index or manifest a Id"},
		},
		{
			"with platforms", `[{"Id":"sha256:` + hexA + `",` + root + `,"Descriptor":{"mediaType":"` + oci + `index.v1+json","digest":"sha256:` + hexA + `","size":1},"Manifests":[{"Kind":"image","Descriptor":{"mediaType":"` + oci + `manifest.v1+json","digest":"sha256:` + hexB + `","size":2},"ImageData":{"Platform":{"os":"linux","architecture":"arm64","variant":"v8"}}},{"Kind":"attestation","Descriptor":{"mediaType":"` + oci + `manifest.v1+json","digest":"sha256:` + hexC + `","size":2}}]}]`,
			[]string{"docker", "index a Descriptor.digest", "manifest b Manifests.Descriptor.digest"},
		},
		{
			"podman", `[{"Id":"` + hexA + `","Digest":"sha256:` + hexB + `","RepoDigests":["` + repo + `@sha256:` + hexB + `","` + repo + `@sha256:` + hexC + `"],"ManifestType":"` + oci + `manifest.v1+json",` + root + `}]`,
			[]string{"podman", "manifest b Digest", "config a Id", "index or manifest c RepoDigests[1]"},
		},
		{"one object", `{"Id":"sha256:` + hexA + `",` + root + `}`, []string{"docker", "config a Id"}},
		{"the guide's text", "[" + repo + "@sha256:" + hexA + " other@sha256:" + hexB + "]\n", []string{"", "index or manifest a RepoDigests[0]", "index or manifest b RepoDigests[1]"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			images, err := privatemode.ParseInspect("f", []byte(tt.in))
			if err != nil || len(images) != 1 {
				t.Fatalf("got %d images, %v", len(images), err)
			}
			got := []string{images[0].Tool}
			for _, d := range images[0].Digests() {
				got = append(got, fmt.Sprintf("%s %s %s", d.Kind, d.Digest.Hex()[:1], d.Field))
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("digests (-want +got):\n%s", diff)
			}
			if images[0].Tool != "" && (len(images[0].DiffIDs) != 1 || images[0].Architecture != "amd64" || images[0].OS != "linux") {
				t.Errorf("got %+v", images[0])
			}
			if tt.name == "with platforms" && images[0].Manifests[0].Platform != "linux/arm64/v8" {
				t.Errorf("got platform %s", images[0].Manifests[0].Platform)
			}
		})
	}
}

func TestParseInspectRefuses(t *testing.T) {
	for in, want := range map[string][]string{
		"[]":                      {"1"},
		"":                        {"1"},
		"1":                       {"1"},
		"[\n1,\n{}]":              {"2", "3 Id"},
		`[{"Id":"sha256:abc"}]`:   {"1 Id"},
		`[{"Id":"x","State":{}}]`: {"1"},
		`[{"Id":"` + hexA + `","RepoDigests":["nothing"]}]`:                                      {"1 RepoDigests[0]"},
		`[{"Id":"` + hexA + `","RepoDigests":"x"}]`:                                              {"1 RepoDigests"},
		`[{"Id":"` + hexA + `","RepoTags":[1]}]`:                                                 {"1 RepoTags"},
		`[{"Id":"` + hexA + `","Descriptor":{"digest":"sha256:` + strings.ToUpper(hexA) + `"}}]`: {"1 Descriptor.digest"},
		`[{"Id":"` + hexA + `","Descriptor":{"digest":"sha256:` + hexA + `","size":-1}}]`:        {"1 Descriptor.size"},
		"[a@sha256:abc]": {"0 RepoDigests[0]"},
	} {
		_, err := privatemode.ParseInspect("f", []byte(in))
		got := places(t, err)
		for i := range got {
			if strings.HasPrefix(in, "[a@") {
				got[i] = "0 RepoDigests[0]"
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s%v", in, diff, err)
		}
	}
}
