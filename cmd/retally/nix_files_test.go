package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// nixFlake makes with nothing but a shell: image is the same each time, odd is
// not, fails does what it says.
const nixFlake = `{
  outputs = { self }: {
    packages = builtins.listToAttrs (map (system: {
      name = system;
      value = builtins.mapAttrs (name: script: derivation { inherit name system; builder = "/bin/sh"; args = [ "-c" script ]; }) {
        image = "echo hello > $out";
        odd = "read x < /proc/sys/kernel/random/uuid; echo id $x > $out";
        fails = "echo before; exit 3";
      };
    }) [ "x86_64-linux" "aarch64-linux" ]);
  };
}
`

// nixFiles writes the flake, and a next one.
func nixFiles(t *testing.T) {
	t.Helper()
	for _, dir := range []string{"flake", "next", "built", "release"} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	putFile(t, "flake/flake.nix", []byte(nixFlake))
	putFile(t, "next/flake.nix", []byte(strings.Replace(nixFlake, "echo hello", "echo hullo", 1)))
	t.Cleanup(func() {
		// A store's folders are read-only; what stays, TempDir reports.
		_ = filepath.WalkDir(".", func(p string, d os.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				_ = os.Chmod(p, 0o755)
			}
			return nil
		})
	})
}
