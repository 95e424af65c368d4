package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// What people keep of docker inspect and its neighbors, with what it proves: an
// equal digest of the image asked for, and nothing else, is a match.
func TestProxyImageForms(t *testing.T) {
	const proxy = "ghcr.io/edgelesssys/privatemode/privatemode-proxy"
	good, evil, short := "sha256:"+strings.Repeat("a", 64), "sha256:"+strings.Repeat("e", 64), "aaaaaaaaaaaa"
	table := func(rows ...string) string {
		return "REPOSITORY" + strings.Repeat(" ", 50) + "TAG       DIGEST" + strings.Repeat(" ", 68) + "IMAGE ID       CREATED        SIZE\n" + strings.Join(rows, "\n") + "\n"
	}
	row := func(repo, tag, digest string) string {
		return repo + "     " + tag + "      " + digest + "   " + short + "   2 days ago     30MB"
	}
	for _, tt := range []struct {
		name, in string
		want     int
		says     string
	}{
		{"{{index .RepoDigests 0}}", proxy + "@" + good + "\n", 0, "MATCH"},
		{"the same, with CR LF", proxy + "@" + good + "\r\n", 0, "MATCH"},
		{"the same, quoted as in a shell", "'" + proxy + "@" + good + "'\n", 0, "MATCH"},
		{"the same, of another release", proxy + "@" + evil + "\n", exitDiffers, "none of the pulled"},
		{"{{.RepoDigests}}", "[" + proxy + "@" + evil + " " + proxy + "@" + good + "]\n", 0, "MATCH"},
		{"{{.RepoDigests}}, with a line break", "[" + proxy + "@" + good + "]\n\n", 0, "MATCH"},
		{"{{.RepoDigests}} of two images", "[" + proxy + "@" + good + "]\n[ghcr.io/x/y@" + evil + "]\n", 0, "MATCH"},
		{"{{.RepoDigests}} of an image built here", "[]\n", exitTrouble, "no image|built"},
		{"{{json .RepoDigests}}", `["` + proxy + "@" + evil + `","` + proxy + "@" + good + `"]` + "\n", 0, "MATCH"},
		{"{{json .RepoDigests}} of two images", `["` + proxy + "@" + good + `"]` + "\n" + `["ghcr.io/x/y@` + evil + `"]` + "\n", 0, "MATCH"},
		{"{{json .RepoDigests}} of an image built here", "null\n", exitTrouble, "built or loaded here"},
		{"{{join .RepoDigests \",\"}}", proxy + "@" + evil + "," + proxy + "@" + good + "\n", 0, "MATCH"},
		{"one digest a line, of one repository", proxy + "@" + evil + "\n" + proxy + "@" + good + "\n", exitUnchecked, "whether they are of one image"},
		{"one digest a line, all equal", proxy + "@" + good + "\n" + proxy + "@" + good + "\n", 0, "MATCH"},
		{"one digest a line, of two repositories", "ghcr.io/x/y@" + good + "\n" + proxy + "@" + evil + "\n", exitDiffers, "none of the pulled"},
		{"{{.Id}} of the containerd store", good + "\n", 0, "MATCH"},
		{"{{.Id}} that says nothing", evil + "\n", exitUnchecked, "an Id alone"},
		{"{{.Id}} of podman", strings.TrimPrefix(evil, "sha256:") + "\n", exitUnchecked, "an Id alone"},
		{"{{json .Id}}", `"` + good + `"` + "\n", 0, "MATCH"},
		{"{{json .}}", `{"Id":"` + evil + `","RepoDigests":["` + proxy + "@" + good + `"],"RootFS":{}}` + "\n", 0, "MATCH"},
		{"{{json .}} of two images", `{"Id":"` + evil + `","RepoDigests":["ghcr.io/x/y@` + good + `"],"RootFS":{}}` + "\n" + `{"Id":"` + evil + `","RepoDigests":["` + proxy + "@" + evil + `"],"RootFS":{}}` + "\n", exitDiffers, "none of the pulled"},
		{"docker images --digests", table(row("ghcr.io/x/y", "v1", evil), row(proxy, "v1.40.0", good)), 0, "MATCH"},
		{"docker images --digests, another release", table(row("ghcr.io/x/y", "v1", good), row(proxy, "v1.39.0", evil)), exitDiffers, "none of the pulled"},
		{"docker images --digests, two releases", table(row(proxy, "v1.40.0", good), row(proxy, "v1.39.0", evil)), exitDiffers, "none of the pulled"},
		{"docker images --digests, not pulled", table(row(proxy, "dev", "<none>")), exitUnchecked, "built or loaded here"},
		{"docker images without digests", "REPOSITORY   TAG   IMAGE ID   CREATED   SIZE\n" + proxy + "   v1   " + short + "   1 day ago   30MB\n", exitTrouble, "no column DIGEST"},
		{"docker pull", "v1.40.0: Pulling from edgelesssys/privatemode/privatemode-proxy\n0c08e560022e: Pull complete\nDigest: " + good + "\nStatus: Downloaded newer image for " + proxy + ":v1.40.0\n" + proxy + ":v1.40.0\n", 0, "MATCH"},
		{"docker pull of another release", "Digest: " + evil + "\nStatus: Image is up to date for " + proxy + ":v1.39.0\n" + proxy + ":v1.39.0\n", exitDiffers, "none of the pulled"},
		{"a container", `[{"Id":"` + strings.Repeat("b", 64) + `","State":{"Status":"running"},"Image":"` + good + `","Config":{"Image":"` + proxy + `:latest"}}]`, exitTrouble, "docker image inspect " + proxy + ":latest"},
		{"a container of podman", `[{"Id":"` + strings.Repeat("b", 64) + `","State":{"Status":"running"},"Image":"` + strings.Repeat("c", 64) + `","ImageName":"` + proxy + `:latest","Rootfs":""}]`, exitTrouble, "docker image inspect " + proxy + ":latest"},
		{"a network", `[{"Name":"bridge","Id":"` + strings.Repeat("b", 64) + `","Scope":"local","Driver":"bridge"}]`, exitTrouble, "want"},
		{"an upper-case digest", proxy + "@" + strings.ToUpper(good[7:]) + "\n", exitTrouble, "digest"},
		{"other text", "Error: No such image: x\n", exitTrouble, "docker image inspect"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			in, hashes := filepath.Join(dir, "in"), filepath.Join(dir, "h.json")
			for name, text := range map[string]string{in: tt.in, hashes: `{"privatemode-proxy":"` + good + `"}`} {
				if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			code, out, errs := inProcess(t, nil, "proxy-image", "--inspect", in, "--hashes", hashes)
			said := strings.Contains(out+errs, tt.says)
			for _, s := range strings.Split(tt.says, "|") {
				said = said || strings.Contains(out+errs, s)
			}
			if code != tt.want || !said {
				t.Errorf("exit %d, want %d with %q\n%s%s", code, tt.want, tt.says, out, errs)
			}
		})
	}
}
