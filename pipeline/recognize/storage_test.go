package recognize

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// Storage classes with a root hash are found in a folder and written into a
// configuration; other storage classes are nothing.
func TestStorageClassesAreFound(t *testing.T) {
	dir := t.TempDir()
	class := "apiVersion: storage.k8s.io/v1\nkind: StorageClass\nmetadata:\n  name: m\n  annotations: {"
	for file, text := range map[string]string{
		"storage-class-b.yaml": class + "privatemode.edgeless.systems/root_hash: " + strings.Repeat("1a", 32) + "}\n",
		"storage-class-a.yml":  class + "privatemode.edgeless.systems/root_hash: " + strings.Repeat("1b", 32) + "}\n",
		"other.yaml":           class + "storageclass.kubernetes.io/is-default-class: 'true'}\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	s, err := Look(context.Background(), nil, []string{dir}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if diff := cmp.Diff([]string{"storage-class-a.yml", "storage-class-b.yaml"}, s.Config.StorageClasses); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if !strings.Contains(s.Title, "2 storage classes") {
		t.Errorf("title %q", s.Title)
	}
	data, err := Init(s, "")
	if err != nil || !strings.Contains(string(data), "storage_classes:\n  - storage-class-a.yml\n  - storage-class-b.yaml\n") {
		t.Errorf("got %v\n%s", err, data)
	}
}
