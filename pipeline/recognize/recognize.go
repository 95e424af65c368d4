// Package recognize says what files are by their content, and makes a
// configuration of them: for check, which runs it, and for init, which writes it.
package recognize

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"gopkg.in/yaml.v3"

	"github.com/retally/retally/evidence"
	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/jsondoc"
	"github.com/retally/retally/internal/yamldoc"
	"github.com/retally/retally/pipeline"
	"github.com/retally/retally/pipeline/config"
	"github.com/retally/retally/pipeline/run"
	"github.com/retally/retally/privatemode"
)

// Kind is what a file was recognized as.
type Kind string

// The kinds of file that check knows.
const (
	KindDeployment Kind = "deployment"
	KindModels     Kind = "models file"
	KindStorage    Kind = "storage class"
	KindHashes     Kind = "image hashes"
	KindManifest   Kind = "manifest"
	KindPlan       Kind = "adjustment plan"
	KindConfig     Kind = "retally.yaml"
	KindInspect    Kind = "docker inspect output"
	KindReport     Kind = "retally report"
	KindImage      Kind = "image layout"
	KindArchive    Kind = "image archive"
	KindModelDir   Kind = "model directory"
	KindSettings   Kind = "policy settings"
	KindRelease    Kind = "release of Contrast"
	KindUnknown    Kind = ""
)

// Content says what a file is by its content, not its name.
func Content(file string, data []byte) Kind { return recognize(file, data, evidence.Read) }

func recognize(file string, data []byte, read bundleReader) Kind {
	if kind := recognizeEvidence(file, data, read); kind != KindUnknown {
		return kind
	}
	trimmed := strings.TrimLeft(string(data[:min(len(data), 512)]), " \t\r\n\ufeff")
	if strings.HasPrefix(trimmed, "{") || strings.HasPrefix(trimmed, "[") {
		if v, err := jsondoc.Parse(data, jsondoc.Limits{}); err == nil {
			if kind := recognizeJSON(v); kind != KindUnknown || len(data) > evidenceAtMost {
				return kind
			}
			return recognizeBundle(file, data, read) // under whatever name
		}
		if isEndorsements(data) {
			return KindEndorsement
		}
		// A broken manifest should be reported as such, not passed over.
		if strings.Contains(string(data), `"Policies"`) && strings.Contains(string(data), `"ReferenceValues"`) {
			return KindManifest
		}
	}
	docs, err := yamldoc.Parse(file, data, yamldoc.Limits{})
	if err != nil {
		if strings.Contains(string(data), "\nkind:") && strings.Contains(string(data), "apiVersion:") {
			return KindDeployment
		}
		return KindUnknown
	}
	if kind := recognizeYAML(docs); kind != KindUnknown || !holdsQuote(data) {
		return kind
	}
	return recognizeBundle(file, data, read)
}

func recognizeJSON(v *jsondoc.Value) Kind {
	if kind := recognizeEvidenceJSON(v); kind != KindUnknown {
		return kind
	}
	switch v.Kind {
	case jsondoc.Array:
		if len(v.Elems) > 0 && (v.Elems[0].Get("RepoDigests") != nil || v.Elems[0].Get("RootFS") != nil) {
			return KindInspect
		}
	case jsondoc.Object:
		if isEndorsement(v) {
			return KindEndorsement
		}
		if s := v.Get("schema"); s != nil && pipeline.IsReport(fmt.Appendf(nil, `{"schema":%q`, s.Text)) {
			return KindReport
		}
		if v.Get("Policies") != nil && v.Get("ReferenceValues") != nil {
			return KindManifest
		}
		if v.Get("pause_container") != nil && v.Get("other_container") != nil && v.Get("kata_config") != nil {
			return KindSettings
		}
		digests := 0
		for _, m := range v.Members {
			if m.Value.Kind != jsondoc.String {
				return KindUnknown
			}
			if _, err := digest.Parse(m.Value.Text); err == nil {
				digests++
			}
		}
		if digests > 0 {
			return KindHashes
		}
	}
	return KindUnknown
}

func recognizeYAML(docs []*yaml.Node) Kind {
	for _, d := range docs {
		kind, _ := yamldoc.Text(yamldoc.Get(d, "kind"))
		name, _ := yamldoc.Text(yamldoc.Path(d, "metadata", "name"))
		switch {
		case yamldoc.Get(d, "apiVersion") == nil && yamldoc.Get(d, "steps") != nil:
			return KindPlan
		case yamldoc.Get(d, "release") != nil && yamldoc.Get(d, "policy_hash") != nil && yamldoc.Get(d, "replacements") != nil:
			return KindRelease
		case yamldoc.Get(d, "apiVersion") == nil && yamldoc.Get(d, "version") != nil && slices.ContainsFunc([]string{"deployment", "manifest", "models", "storage_classes", "platforms", "evidence", "endorsements", "fleet"}, func(k string) bool { return yamldoc.Get(d, k) != nil }):
			return KindConfig
		case isCompose(d):
			return KindCompose
		case kind == "ConfigMap" && name == "model-disks":
			return KindModels
		case privatemode.IsStorageClass(d):
			return KindStorage
		case slices.Contains([]string{"CronJob", "DaemonSet", "Deployment", "Job", "Pod", "ReplicaSet", "ReplicationController", "StatefulSet", "List"}, kind):
			return KindDeployment
		}
	}
	return KindUnknown
}

// Subject is what was found at the paths given to check.
type Subject struct {
	ratls bool // the certificate of the connection is an RA-TLS certificate

	Root      string // folder that all names start from
	Config    *config.Config
	Title     string
	Found     []Found
	Checkout  *privatemode.CheckoutInfo
	Workspace *privatemode.Workspace
	Inspect   string // a docker inspect file
	Made      string // a manifest that was made here, beside the one a proxy fetched
	Settings  string // genpolicy-settings.json
	Problems  []pipeline.Problem
	Lacks     []pipeline.Lack // what the files do not suffice for
	Reader    *run.Reader     // holds what was read while recognizing
	// ConfigInput is a retally.yaml that was found and decides everything.
	ConfigInput *pipeline.Input

	table        []run.Stage // whose sections a configuration has
	workspaceDir string
	checkoutDir  string
}

// Found is a recognized file.
type Found struct {
	Name string `json:"name"`
	Kind Kind   `json:"kind"`
	// Named is set where the user named the file, not a folder that holds it.
	Named bool `json:"-"`
}

// foldersAtMost bounds what a scan of a folder looks at.
const foldersAtMost = 2000

// Look finds out what the given paths are and which configuration follows from
// them. Folders are looked at one level deep. A retally.yaml among them is
// checked by the stages of the table.
func Look(ctx context.Context, table []run.Stage, paths []string, count *run.Counter) (*Subject, error) {
	root, names, err := commonRoot(paths)
	if err != nil {
		return nil, err
	}
	s := &Subject{table: table, Root: root, Config: &config.Config{Version: 1}, Reader: run.NewReader(root, count)}
	for _, name := range names {
		if err := s.look(ctx, name); err != nil {
			return nil, err
		}
	}
	return s, s.configure(ctx)
}

// commonRoot splits paths into a folder and names below it: a single folder is
// its own root.
func commonRoot(paths []string) (root string, names []string, err error) {
	if len(paths) == 1 {
		if info, err := os.Stat(paths[0]); err == nil && info.IsDir() {
			return paths[0], []string{"."}, nil
		}
		return filepath.Dir(paths[0]), []string{filepath.Base(paths[0])}, nil
	}
	for _, p := range paths {
		names = append(names, filepath.ToSlash(p))
	}
	return ".", names, nil
}

func (s *Subject) look(ctx context.Context, name string) error {
	dir := s.Reader.Path(name)
	info, err := os.Stat(dir)
	if err != nil {
		return pipeline.NewInputError("read", name, err)
	}
	if !info.IsDir() {
		return s.lookFile(ctx, name, true)
	}
	if isModel(dir) {
		s.Found = append(s.Found, Found{name, KindModelDir, true})
		return nil
	}
	if isLayout(dir) {
		s.Found = append(s.Found, Found{name, KindImage, true})
		return nil
	}
	if isCapture(dir) {
		s.Found = append(s.Found, Found{name, KindCapture, true})
		return nil
	}
	if isWorkspace(dir) {
		w, err := privatemode.OpenWorkspace(dir)
		if err != nil {
			return err
		}
		s.Workspace, s.workspaceDir = w, name
		return nil
	}
	if c, err := privatemode.Checkout(os.DirFS(dir)); err == nil && c != nil {
		s.Checkout, s.checkoutDir = c, name
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return pipeline.NewInputError("list", name, err)
	}
	if len(entries) > foldersAtMost {
		return &pipeline.InputError{Op: "check", File: name, Err: fmt.Errorf("the folder has %d entries, at most %d are looked at", len(entries), foldersAtMost), Hint: "name the files"}
	}
	for _, e := range entries {
		if e.IsDir() || e.Type()&os.ModeSymlink != 0 {
			// Nix and the vendors' scripts leave layouts side by side in one folder.
			switch below := filepath.Join(dir, e.Name()); {
			case isLayout(below):
				s.Found = append(s.Found, Found{path.Join(filepath.ToSlash(name), e.Name()), KindImage, false})
			case e.IsDir() && isCapture(below):
				s.Found = append(s.Found, Found{path.Join(filepath.ToSlash(name), e.Name()), KindCapture, false})
			}
			continue
		}
		ext := strings.ToLower(filepath.Ext(e.Name()))
		if !e.Type().IsRegular() {
			continue
		}
		if !slices.Contains([]string{".yaml", ".yml", ".json"}, ext) {
			head, tail, ok := peek(filepath.Join(dir, e.Name()))
			if !ok || !mayBeEvidence(e.Name(), head, tail) {
				continue
			}
		}
		if err := s.lookFile(ctx, filepath.ToSlash(filepath.Join(name, e.Name())), false); err != nil {
			return err
		}
	}
	return nil
}

// isLayout reports whether a folder is an OCI image layout (OCI image-spec,
// image-layout.md) or holds one image as skopeo's dir transport does.
func isLayout(dir string) bool {
	if isSkopeoDir(dir) {
		return true
	}
	for _, name := range []string{"oci-layout", "index.json"} {
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || !info.Mode().IsRegular() {
			return false
		}
	}
	return true
}

// isSkopeoDir reports whether a folder is what skopeo copy ... dir:PATH writes: a
// manifest beside the transport's version. A published manifest of another kind,
// which is called manifest.json too, has no such file beside it.
func isSkopeoDir(dir string) bool {
	data, err := readHead(filepath.Join(dir, "version"), 100)
	if err != nil || !strings.HasPrefix(string(data), "Directory Transport Version: ") {
		return false
	}
	info, err := os.Lstat(filepath.Join(dir, "manifest.json"))
	return err == nil && info.Mode().IsRegular()
}

// readHead reads the first bytes of a regular file.
func readHead(file string, n int) ([]byte, error) {
	f, _, err := run.OpenRegular(file, file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	head := make([]byte, n)
	n, err = io.ReadFull(f, head)
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		err = nil
	}
	return head[:n], err
}

// isModel reports whether a folder is a model as hubs keep it: a configuration
// beside weights.
func isModel(dir string) bool {
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) > foldersAtMost {
		return false
	}
	config, weights := false, false
	for _, e := range entries {
		switch filepath.Ext(e.Name()) {
		case ".safetensors", ".gguf", ".bin", ".pt", ".pth", ".msgpack", ".h5", ".onnx":
			weights = true
		case ".json":
			config = config || e.Name() == "config.json" || e.Name() == "params.json"
		}
	}
	return config && weights
}

// isArchive reports whether a file starts as an image archive does: a tar, or
// one compressed with gzip or zstd. Archives are too large to be read here.
func isArchive(file string) bool {
	f, _, err := run.OpenRegular(file, file)
	if err != nil {
		return false
	}
	defer f.Close()
	var head [262]byte
	n, _ := io.ReadFull(f, head[:])
	b := head[:n]
	return n == len(head) && string(b[257:262]) == "ustar" || bytes.HasPrefix(b, []byte{0x1f, 0x8b}) || bytes.HasPrefix(b, []byte{0x28, 0xb5, 0x2f, 0xfd})
}

// isWorkspace reports whether a folder is a Privatemode proxy's workspace or
// its manifests folder.
func isWorkspace(dir string) bool {
	for _, log := range []string{"log.txt", filepath.Join("manifests", "log.txt")} {
		if info, err := os.Stat(filepath.Join(dir, log)); err == nil && info.Mode().IsRegular() {
			return true
		}
	}
	return false
}

// lookFile recognizes a file. One that was named must be something; one that
// lies in a folder may be anything.
func (s *Subject) lookFile(ctx context.Context, name string, named bool) error {
	if named && isArchive(s.Reader.Path(name)) {
		s.Found = append(s.Found, Found{name, KindArchive, true})
		return nil
	}
	data, _, err := s.Reader.ReadFile(ctx, name, config.YAMLLimit)
	if err != nil {
		if named || ctx.Err() != nil {
			return err
		}
		return nil
	}
	// The run reads the same evidence, and gets what was read here.
	read := func(name string, _ []byte) (*evidence.Bundle, error) {
		return run.Parsed(ctx, s.Reader, name, evidenceAtMost, evidence.Read)
	}
	kind := recognize(name, data, read)
	if kind == KindUnknown && named {
		if f := foreignEvidence(name, data, read); f != nil {
			return &pipeline.InputError{Op: "check", File: name, Err: fmt.Errorf("holds %s; %s", f.What, f.Why)}
		}
	}
	if kind == KindUnknown {
		kind = recognizeNamed(name, data, named)
	}
	if kind == KindUnknown {
		if named {
			if err := nearlyEvidence(name, data); err != nil {
				return err
			}
			return &pipeline.InputError{
				Op: "check", File: name, Err: fmt.Errorf("is nothing that retally knows"),
				Hint: "known: a Privatemode checkout, a deployment YAML, a models file, a storage class with a root hash, an image layout or archive, a manifest, hashes-*.json, docker inspect output, a proxy workspace, a TDX quote, an SEV-SNP report, a TPM quote, BlindLlama's proof file, a Contrast attestation, golden measurements, an attestation key, a saved cpu.html, GPU evidence, a capture, an event log, tdx.csv, a compose file, TDX firmware, retally.yaml",
			}
		}
		return nil
	}
	if kind == KindConfig && !named {
		// Whoever is judged could have laid it there: leave, roots and what to
		// compare with come from the user.
		s.Problems = append(s.Problems, pipeline.Problem{
			Level: pipeline.LevelWarning, Code: "config-not-obeyed", Where: pipeline.Where{File: name},
			Msg:  "looks like a retally.yaml and is not obeyed, because it lies in what is checked",
			Hint: "if it is yours: retally run -f " + s.Reader.Path(name),
		})
		return nil
	}
	s.Found = append(s.Found, Found{name, kind, named})
	return nil
}
