package policygen_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/retally/retally/policygen"
)

const manyProblems = `apiVersion: v1
kind: Pod
metadata:
  name: p
  managedFields: []
  creationTimestamp: "2026-01-01T00:00:00Z"
spec:
  hostPID: true
  containers:
    - name: c1
      image: app
      workingDir: /x
      command: /bin/sh
    - image: app
status:
  phase: Running
---
apiVersion: example.test/v1
kind: Widget
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: d}
spec:
  replicas: "three"
  template:
    spec:
      containers: []
      volumes:
        - {name: v, nfs: {server: s, path: /}}
`

func TestAllProblemsAtOnce(t *testing.T) {
	list := refused(t, input(t, manyProblems, nil))
	type place struct {
		Line, Column int
		Path, Kind   string
		Harmless     bool
	}
	var got []place
	for _, p := range list {
		got = append(got, place{p.Line, p.Column, p.Path, p.Kind.String(), p.Harmless})
	}
	want := []place{
		{5, 3, "metadata.managedFields", "unknown-field", true},
		{6, 3, "metadata.creationTimestamp", "unknown-field", true},
		{8, 3, "spec.hostPID", "unknown-field", false},
		{12, 7, "spec.containers[0].workingDir", "unknown-field", false},
		{13, 16, "spec.containers[0].command", "type", false},
		{14, 7, "spec.containers[1]", "missing-field", false},
		{15, 1, "status", "unknown-field", true},
		{19, 7, "kind", "unsupported", false},
		{25, 13, "spec.replicas", "type", false},
		{30, 21, "spec.template.spec.volumes[0].nfs", "unknown-field", false},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("problems (-want +got):\n%s", diff)
	}
	for _, p := range list {
		if p.File != "in.yaml" || p.Kind == policygen.UnknownField && p.Hint == "" {
			t.Errorf("problem without file or hint: %+v", p)
		}
	}
}

// TestProblemsOfAllStages wants an unknown field, an unknown image and a
// missing ConfigMap of three documents in one report.
func TestProblemsOfAllStages(t *testing.T) {
	const yaml = onePod + "  hostPID: true\n---\n" +
		"apiVersion: v1\nkind: Pod\nmetadata: {name: q}\nspec:\n  containers: [{name: c, image: nowhere}]\n---\n" +
		"apiVersion: v1\nkind: Pod\nmetadata: {name: r}\nspec:\n  containers: [{name: c, image: app, env: [{name: X, valueFrom: {configMapKeyRef: {name: cm, key: k}}}]}]\n"
	var got []string
	for _, p := range refused(t, input(t, yaml, fakeImages{"app": fakeImage(t, `{}`)})) {
		got = append(got, p.Kind.String()+" "+strconv.Itoa(p.Line))
	}
	if diff := cmp.Diff([]string{"unknown-field 6", "image 12", "reference 18"}, got); diff != "" {
		t.Errorf("problems (-want +got):\n%s", diff)
	}
}

func TestUnknownFieldModes(t *testing.T) {
	const yaml = "apiVersion: v1\nkind: Pod\nmetadata: {name: p, generation: 3}\nspec:\n  containers: [{name: c, image: app}]\n"
	const worse = "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec:\n  hostPID: true\n  containers: [{name: c, image: app}]\n"
	images := fakeImages{"app": fakeImage(t, `{}`)}
	tests := []struct {
		name     string
		yaml     string
		unknown  policygen.Unknown
		problems int
		notes    int
	}{
		{"harmless refused", yaml, policygen.RefuseUnknown, 1, 0},
		{"harmless accepted", yaml, policygen.AcceptHarmless, 0, 1},
		{"security relevant refused", worse, policygen.AcceptHarmless, 1, 0},
		{"all ignored", worse, policygen.IgnoreUnknown, 0, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			in := input(t, tt.yaml, images)
			in.Unknown = tt.unknown
			if tt.problems > 0 {
				if got := refused(t, in); len(got) != tt.problems {
					t.Errorf("%d problems, want %d: %v", len(got), tt.problems, got)
				}
				return
			}
			if out := generate(t, in); len(out.Notes) != tt.notes {
				t.Errorf("%d notes, want %d: %v", len(out.Notes), tt.notes, out.Notes)
			}
		})
	}
}

func TestHostileYAML(t *testing.T) {
	bomb := "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n"
	for i := range 12 {
		n := strconv.Itoa(i)
		bomb += "a" + strconv.Itoa(i+1) + ": &a" + strconv.Itoa(i+1) + " [" + strings.TrimSuffix(strings.Repeat("*a"+n+",", 10), ",") + "]\n"
	}
	tests := []struct {
		name, yaml string
		kind       policygen.ProblemKind
	}{
		{"cyclic alias", "a: &a [*a]\n", policygen.Limit},
		{"alias bomb", bomb, policygen.Limit},
		{"deep nesting", strings.Repeat("[", 5000) + strings.Repeat("]", 5000), policygen.Limit},
		{"too many documents", strings.Repeat("---\na: 1\n", 10_001), policygen.Limit},
		{"too large", strings.Repeat("# comment comment comment\n", 1<<20), policygen.Limit},
		{"not UTF-8", "a: \xff\n", policygen.Syntax},
		{"undefined alias", "a: *b\n", policygen.Syntax},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			list := refused(t, input(t, tt.yaml, nil))
			if list[0].Kind != tt.kind && !(tt.name == "deep nesting" && list[0].Kind == policygen.Syntax) {
				t.Errorf("kind %s, want %s: %v", list[0].Kind, tt.kind, list)
			}
		})
	}
}

const onePod = "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec:\n  containers: [{name: c, image: app}]\n"

func TestHostileImages(t *testing.T) {
	tests := []struct {
		name  string
		image *policygen.ResolvedImage
		want  string
	}{
		{"unknown image", nil, "manifest unknown"},
		{"blob of another digest", fakeImage(t, `{}`, fakeLayer{files: map[string]string{"etc/passwd": ""}, lie: true}), "its bytes have digest"},
		{"no gzip", fakeImage(t, `{}`, fakeLayer{raw: []byte("no gzip at all")}), "gzip"},
		{"gzip of no tar", fakeImage(t, `{}`, fakeLayer{raw: compressed(t, gzipLayer, bytes.Repeat([]byte("x"), 2048))}), "not a tar archive"},
		{"truncated tar", fakeImage(t, `{}`, fakeLayer{raw: compressed(t, gzipLayer, tarOf(t, map[string]string{"etc/passwd": strings.Repeat("x", 5000)})[:2000])}), "unexpected EOF"},
		{"passwd not UTF-8", fakeImage(t, `{}`, fakeLayer{files: map[string]string{"etc/passwd": "\xff"}}), "not UTF-8"},
		{"passwd too large", fakeImage(t, `{}`, fakeLayer{files: map[string]string{"etc/passwd": strings.Repeat("x", 9<<20)}}), "the limit is"},
		{"config no JSON", &policygen.ResolvedImage{Config: []byte("{")}, "image config"},
		{"config without rootfs", &policygen.ResolvedImage{Config: []byte(`{"architecture":"amd64","config":{}}`)}, `field "rootfs" is missing`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			list := refused(t, input(t, onePod, fakeImages{"app": tt.image}))
			if len(list) != 1 || list[0].Kind != policygen.Image || !strings.Contains(list[0].Message, tt.want) {
				t.Errorf("problems %v, want one about %q", list, tt.want)
			}
			if list[0].Line != 5 || list[0].Path != "spec.containers[0].image" {
				t.Errorf("place %d %s, want the image field in line 5", list[0].Line, list[0].Path)
			}
		})
	}
}

// hanging is a source of images that never answers.
type hanging struct{}

func (hanging) Resolve(ctx context.Context, _ policygen.ImageReference) (*policygen.ResolvedImage, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

// slowBlob opens but never delivers.
func slowBlob(t testing.TB) *policygen.ResolvedImage {
	img := fakeImage(t, `{}`, fakeLayer{files: map[string]string{"a": "b"}})
	img.Layers[0].Open = func(ctx context.Context) (io.ReadCloser, error) {
		r, w := io.Pipe()
		context.AfterFunc(ctx, func() { w.CloseWithError(ctx.Err()) })
		return r, nil
	}
	return img
}

func TestCanceled(t *testing.T) {
	for name, images := range map[string]policygen.Images{
		"registry hangs": hanging{},
		"blob hangs":     fakeImages{"app": slowBlob(t), pauseImage: fakeImage(t, `{}`)},
	} {
		t.Run(name, func(t *testing.T) {
			in := input(t, onePod, nil)
			in.Images = images
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
			defer cancel()
			out, err := policygen.Generate(ctx, in)
			if !errors.Is(err, context.DeadlineExceeded) || out != nil {
				t.Errorf("Generate gives %v, %v, want a deadline error and nothing else", out, err)
			}
		})
	}
}
