package privatemode_test

import (
	"strings"
	"testing"

	"github.com/retally/retally/privatemode"
)

// storageClass is in the likeness of storage-class-*.yaml of v1.21 to v1.37.
func storageClass(annotations string) string {
	return "apiVersion: storage.k8s.io/v1\nkind: StorageClass\nmetadata:\n  annotations:\n" + annotations + "  name: acme-tiny\nprovisioner: driver.example\n"
}

var (
	scRoot   = strings.Repeat("1a", 32)
	scCommit = strings.Repeat("2b", 20)
	scGood   = "    privatemode.edgeless.systems/commit_hash: " + scCommit + "\n" +
		"    privatemode.edgeless.systems/disk_size_gb: \"67\"\n" +
		"    privatemode.edgeless.systems/excluded_files: original,metal\n" +
		"    privatemode.edgeless.systems/model_source: https://models.example/acme/tiny\n" +
		"    privatemode.edgeless.systems/root_hash: " + scRoot + "\n"
)

func lastApplied(root string) string {
	return "    kubectl.kubernetes.io/last-applied-configuration: |\n      {\"metadata\":{\"annotations\":{\"privatemode.edgeless.systems/root_hash\":\"" + root + "\"}}}\n"
}

func TestStorageClasses(t *testing.T) {
	m, err := privatemode.ParseStorageClasses("s.yaml", []byte(storageClass(lastApplied(scRoot)+scGood)+"---\n"+strings.Replace(storageClass(strings.Replace(scGood, "original,metal", "''", 1)), "acme-tiny", "other", 1)))
	if err != nil || len(m.Entries) != 2 {
		t.Fatalf("got %+v, %v", m, err)
	}
	e := m.Entries[0]
	if e.Key != "acme-tiny" || e.Commit != scCommit || e.RootHash.Hex() != scRoot || strings.Join(e.Excluded, " ") != "original metal" || e.File != "s.yaml" || e.RootLine != 11 || e.ErofsVersion != "" || e.HashOffset != 0 {
		t.Errorf("got %+v", e)
	}
	for name, c := range map[string]struct{ text, want string }{
		"no root":            {storageClass(strings.Replace(scGood, "/root_hash", "/roothash", 1)), "root_hash: missing"},
		"short root":         {storageClass(strings.Replace(scGood, scRoot, scRoot[2:], 1)), "root_hash"},
		"root in upper case": {storageClass(strings.Replace(scGood, scRoot, strings.ToUpper(scRoot), 1)), "upper-case"},
		"root a list":        {storageClass(strings.Replace(scGood, scRoot, "["+scRoot+"]", 1)), "want a text"},
		"a branch":           {storageClass(strings.Replace(scGood, scCommit, "main", 1)), "full git commit"},
		"no source":          {storageClass(strings.Replace(scGood, "https://models.example/", "", 1)), "model_source"},
		"another copy":       {storageClass(lastApplied(strings.Repeat("ff", 32)) + scGood), "last-applied-configuration"},
		"a broken copy":      {storageClass(strings.Replace(lastApplied(scRoot), "}}}", "", 1) + scGood), "not JSON"},
		"another kind":       {"kind: ConfigMap\n", "want a StorageClass"},
		"root twice":         {storageClass(scGood + "    privatemode.edgeless.systems/root_hash: " + strings.Repeat("ff", 32) + "\n"), "twice"},
		"nothing":            {"", "no storage class"},
	} {
		if m, err := privatemode.ParseStorageClasses("s.yaml", []byte(c.text)); err == nil || !strings.Contains(err.Error(), c.want) || m != nil && len(m.Entries) > 0 {
			t.Errorf("%s: got %+v, %v, want %q", name, m, err, c.want)
		}
	}
}

func FuzzStorageClasses(f *testing.F) {
	f.Add([]byte(storageClass(lastApplied(scRoot) + scGood)))
	f.Add([]byte("kind: StorageClass\nmetadata: {annotations: {kubectl.kubernetes.io/last-applied-configuration: '[]'}}\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := privatemode.ParseStorageClasses("s.yaml", data)
		if err == nil && len(m.Entries) == 0 {
			t.Fatal("no entry and no error")
		}
		if m != nil {
			for _, e := range m.Entries {
				if e.RootHash.IsZero() || e.Commit == "" || e.Key == "" {
					t.Fatalf("got %+v", e)
				}
			}
		}
	})
}
