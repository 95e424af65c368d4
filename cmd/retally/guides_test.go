package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// guideFolder adds to the demo's folder what the guides of docs/guides.md start
// from: a checkout whose scripts leave what the vendor's leave, a proxy's
// workspace, a machine that answers, a proof file. It returns what the commands
// take from the environment.
func guideFolder(t *testing.T, work string) (env []string) {
	t.Helper()
	read := func(name string) []byte {
		t.Helper()
		data, err := os.ReadFile(filepath.Join(work, filepath.FromSlash(name)))
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	write := func(name string, data []byte) {
		t.Helper()
		path := filepath.Join(work, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		mode := os.FileMode(0o644)
		if filepath.Ext(name) == ".sh" {
			mode = 0o755
		}
		if err := os.WriteFile(path, data, mode); err != nil {
			t.Fatal(err)
		}
	}
	const proxy = "sha256:0000000000000000000000000000000000000000000000000000000000000001"
	hashes := bytes.Replace(read("hashes-demo.json"), []byte("{"), []byte(`{"privatemode-proxy": "`+proxy+`",`), 1)
	manifest := read("manifest.published.json")
	const checkout = "privatemode-public/"
	write(checkout+"version.nix", []byte("{ version = \"v1.40.0\"; }\n"))
	write(checkout+"contrast-version", []byte("v1.20.0\n"))
	write(checkout+"deployment.yaml", read("deployment.yaml"))
	write(checkout+"models.yaml", read("models.yaml"))
	// The scripts stand for the vendor's, which need Nix and a network: they leave
	// the same files.
	write(checkout+"built/hashes.json", hashes)
	write(checkout+"built/manifest.json", manifest)
	write(checkout+"scripts/calculate-image-digests.sh", []byte("#!/bin/sh\ncp built/hashes.json hashes-example.json\n"))
	write(checkout+"scripts/generate-manifest.sh", []byte("#!/bin/sh\ncp built/manifest.json manifest.json\n"))
	write(checkout+"scripts/adjust-manifest.sh", []byte("#!/bin/sh\n"))
	write(checkout+"verity/verity.sh", []byte("#!/bin/sh\n"))
	write("workspace/manifests/log.txt", []byte("2025-11-08T16:43:07+02:00 /home/u/workspace/manifests/1.json\n"))
	write("workspace/manifests/1.json", manifest)
	write("inspect.json", fmt.Appendf(nil, `[{"Id": "sha256:%064x", "RepoTags": ["registry.example/privatemode/privatemode-proxy:latest"], "RepoDigests": ["registry.example/privatemode/privatemode-proxy@%s"], "Architecture": "amd64", "Os": "linux", "RootFS": {"Type": "layers", "Layers": []}}]`, 2, proxy))

	machine := filepath.Join(work, "machine")
	if err := os.MkdirAll(machine, 0o755); err != nil {
		t.Fatal(err)
	}
	m, err := makeMachine(machine)
	if err != nil {
		t.Fatal(err)
	}
	blindllama := filepath.Join(work, "blindllama")
	if err := os.MkdirAll(blindllama, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := makeTPM(blindllama); err != nil {
		t.Fatal(err)
	}
	return []string{"HOST=" + serveTLS(t, m.cert, m.pages()), "APPROOT=" + appRoot.Hex()}
}
