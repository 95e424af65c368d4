package archtest_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/retally/retally/internal/testenv"
)

// floors lists what each package above the measuring rooms may import of this
// module, beside internal: one line a package, the lowest first, so that every
// arrow leads to a line above. A room stands for what is below it. What is
// listed must be imported: a list only gets shorter.
var floors = []struct {
	pkg  string
	uses []string
}{
	{"pipeline", []string{"trace"}},
	{"pipeline/config", []string{"pipeline", "profiles", "policygen/rules"}}, // policygen/rules: retally's own rules are an input with a name
	// shard is the contract with other machines. It knows of trees and of nobody
	// who reads or judges.
	{"shard", []string{"verity"}},
	{"pipeline/run", []string{"pipeline", "pipeline/config", "shard"}},
	// recognize knows by itself what the stages' rooms read; as their kinds move
	// into the table, its rooms go.
	{"pipeline/recognize", []string{"pipeline", "pipeline/config", "pipeline/run", "evidence", "pcrmeasure", "privatemode", "profiles", "tdxmeasure", "verity"}}, // verity: the commit of a checkout
	// published is what several stages read out of a deployment or a manifest.
	{"pipeline/stages/published", []string{"pipeline", "pipeline/config", "pipeline/run", "shard", "deployment", "manifest", "nix/nar", "privatemode", "snpmeasure"}},
	{"pipeline/stages/deployment", stage("deployment")},
	{"pipeline/stages/nix", stage("imagehash", "nix")}, // imagehash: why two builds of an image differ
	{"pipeline/stages/images", stage("deployment", "imagehash", "privatemode", "shard")},
	{"pipeline/stages/disks", stage("deployment", "privatemode", "shard", "verity")},
	{"pipeline/stages/tdx", stage("evidence", "manifest", "profiles", "tdxmeasure", "trace")},
	{"pipeline/stages/snp", stage("manifest", "profiles", "snpmeasure")},
	{"pipeline/stages/tpm", stage("pcrmeasure", "tdxmeasure", "trace", "verity")}, // tdxmeasure: sizes of memory
	{"pipeline/stages/policies", stage("deployment", "imagehash", "manifest", "policygen")},
	// Asking a policy needs a rule engine, which no stage does.
	{"pipeline/stages/policies/decide", []string{"pipeline", "pipeline/run", "policygen"}},
	{"pipeline/stages/manifest", stage("deployment", "manifest", "privatemode", "profiles")},
	// Sideways, to say why a register differs.
	{"pipeline/stages/evidence", []string{"pipeline", "pipeline/config", "pipeline/run", "pipeline/stages/tdx", "pipeline/stages/tpm", "evidence", "manifest", "pcrmeasure", "snpmeasure", "tdxmeasure", "trace"}},
	// evidence: how checks become a judgement.
	{"pipeline/stages/endorsements", []string{"pipeline", "pipeline/config", "pipeline/run", "endorsement", "evidence"}},
	{"pipeline/stages/fleet", []string{"pipeline", "pipeline/config", "pipeline/run", "evidence", "manifest", "profiles", "snpmeasure", "tdxmeasure"}},
	// Joining parts: it reads one again by whatever stage the table has for it.
	{"pipeline/stages/shards", []string{"pipeline", "pipeline/run", "pipeline/stages/published", "pipeline/stages/disks", "shard", "verity"}},
	{"pipeline/stages", []string{
		"pipeline", "pipeline/config", "pipeline/run", "pipeline/recognize", "pipeline/stages/published", "deployment", "manifest", "privatemode",
		"pipeline/stages/deployment", "pipeline/stages/nix", "pipeline/stages/images", "pipeline/stages/disks", "pipeline/stages/tdx", "pipeline/stages/snp", "pipeline/stages/tpm", "pipeline/stages/policies", "pipeline/stages/manifest", "pipeline/stages/evidence", "pipeline/stages/endorsements", "pipeline/stages/fleet",
	}},
	// A gate judges a report by a written policy; it recounts nothing.
	{"pipeline/gate", []string{"pipeline"}},
	{"report", []string{"pipeline", "trace"}},
	{"cmd/retally", []string{
		"fixtures", "pipeline", "pipeline/config", "pipeline/run", "pipeline/recognize", "pipeline/stages", "pipeline/gate", "report", "shard",
		// Single verbs that still fill their rooms by themselves, and compare by
		// themselves.
		"pipeline/stages/disks", "pipeline/stages/endorsements", "pipeline/stages/evidence", "pipeline/stages/fleet", "pipeline/stages/images", "pipeline/stages/manifest", "pipeline/stages/nix", "pipeline/stages/policies", "pipeline/stages/snp", "pipeline/stages/tdx", "pipeline/stages/tpm", "pipeline/stages/shards",
		"contrastcli", "endorsement", "evidence", "igvm", "imagehash", "manifest", "nix", "pcrmeasure", "policygen", "privatemode", "profiles", "snpmeasure", "tdxmeasure", "trace", "verity", "releases",
	}},
}

// stage is what every stage imports, and its rooms.
func stage(rooms ...string) []string {
	return append([]string{"pipeline", "pipeline/config", "pipeline/run", "pipeline/stages/published"}, rooms...)
}

// exact are the packages that stand for themselves in a list: those below are
// listed on their own.
func exact(pkg string) bool {
	return pkg == "pipeline" || pkg == "pipeline/stages"
}

func TestFloors(t *testing.T) {
	pkgs := load(t)
	above := map[string]bool{}
	for _, f := range floors {
		above[f.pkg] = true
	}
	for path := range pkgs {
		if rel, own := ours(path); own && (in(rel, "pipeline") || in(rel, "report") || in(rel, "cmd")) && !above[rel] {
			t.Errorf("%s has no line in floors", rel)
		}
	}
	below := map[string]bool{}
	for _, f := range floors {
		used := map[string]bool{}
		for _, imp := range pkgs[module+"/"+f.pkg].Imports {
			rel, own := ours(imp)
			if !own || in(rel, "internal") {
				continue
			}
			i := slices.IndexFunc(f.uses, func(u string) bool { return rel == u || !exact(u) && in(rel, u) })
			if i < 0 {
				t.Errorf("%s imports %s, which its line in floors does not list", f.pkg, rel)
				continue
			}
			used[f.uses[i]] = true
			if above[rel] && !below[rel] {
				t.Errorf("%s imports %s, which stands above it", f.pkg, rel)
			}
		}
		for _, u := range f.uses {
			if !used[u] && !(u == "pipeline/stages/published" && f.pkg != "pipeline/stages") {
				t.Errorf("%s may import %s and does not: shorten its line", f.pkg, u)
			}
		}
		below[f.pkg] = true
	}
	for path, p := range pkgs {
		rel, own := ours(path)
		if !own || !in(rel, "internal") || rel == "internal/testrun" {
			continue
		}
		for _, imp := range p.Imports {
			if to, own := ours(imp); own && above[to] {
				t.Errorf("%s imports %s, which stands above it", rel, to)
			}
		}
	}
}

// TestSizes keeps the floors from growing into one again.
func TestSizes(t *testing.T) {
	root := testenv.ModuleRoot(t)
	for _, f := range floors {
		if f.pkg == "cmd/retally" {
			continue // the verbs move out step by step
		}
		lines, names := size(t, filepath.Join(root, f.pkg))
		most := 4500
		if f.pkg == "pipeline" {
			most = 2000
			if len(names) > 90 {
				t.Errorf("pipeline exports %d names, at most 90: %s", len(names), strings.Join(names, " "))
			}
		}
		if lines > most {
			t.Errorf("%s has %d lines, at most %d", f.pkg, lines, most)
		}
	}
}

// size counts the lines of a package and its exported names.
func size(t *testing.T, dir string) (lines int, names []string) {
	t.Helper()
	for _, file := range goFiles(t, dir, false) {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		lines += strings.Count(string(data), "\n")
		parsed, err := parser.ParseFile(token.NewFileSet(), file, data, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		add := func(id *ast.Ident) {
			if id.IsExported() {
				names = append(names, id.Name)
			}
		}
		for _, d := range parsed.Decls {
			switch d := d.(type) {
			case *ast.FuncDecl:
				if d.Recv == nil {
					add(d.Name)
				}
			case *ast.GenDecl:
				for _, s := range d.Specs {
					switch s := s.(type) {
					case *ast.TypeSpec:
						add(s.Name)
					case *ast.ValueSpec:
						for _, id := range s.Names {
							add(id)
						}
					}
				}
			}
		}
	}
	return lines, names
}

// goFiles are the sources in a folder, without tests.
func goFiles(t *testing.T, dir string, below bool) []string {
	t.Helper()
	var files []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && path != dir && (!below || d.Name() == "testdata"):
			return fs.SkipDir
		case strings.HasSuffix(path, ".go") && !strings.HasSuffix(path, "_test.go"):
			files = append(files, path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// flagWord is a flag as a sentence names it.
var flagWord = regexp.MustCompile(`(^|[ (|])--[a-z]`)

// flagsInRooms counts the texts that name a flag, by file. A room does not know
// through which door its input came; the floor that does turns the name of an
// input into a flag or a key. The first list goes as the doors get one
// description, the second is about other programs' flags.
var flagsInRooms = map[string]int{
	"manifest/apply.go":      1,
	"pcrmeasure/devices.go":  1,
	"pcrmeasure/firmware.go": 2,
	"pcrmeasure/images.go":   6,
	"pcrmeasure/machine.go":  2,
	"pcrmeasure/os.go":       1,
	"pcrmeasure/predict.go":  2,
	"pcrmeasure/shim.go":     1,
	"pcrmeasure/uki.go":      2,
	"policygen/env.go":       2,
	"policygen/fields.go":    1,
	"verity/disk/measure.go": 1,
	"verity/disk/tree.go":    3,
	"verity/format.go":       1,

	"deployment/deployment.go":              2, // disk-mounter's argument
	"deployment/disk.go":                    1, // the same
	"deployment/internal/shell/check.go":    6,
	"deployment/internal/shell/commands.go": 15,
	"imagehash/diff.go":                     4,  // tar and docker buildx
	"nix/build.go":                          15, // the command lines by which nix is driven
	"nix/lock.go":                           9,  // the same
	"nix/result.go":                         11, // the same
	"nix/why/why.go":                        3,  // of linkers, cpio and Python
	"nix/json.go":                           8,  // which output of nix was not understood
}

func TestRoomsKnowNoFlags(t *testing.T) {
	root := testenv.ModuleRoot(t)
	found := map[string]int{}
	// So do the rooms' floors above that one description was brought to.
	for _, room := range append(slices.Clone(measuring), "pipeline/config", "pipeline/stages/tdx") {
		if _, err := os.Stat(filepath.Join(root, room)); err != nil {
			continue // not built yet
		}
		for _, file := range goFiles(t, filepath.Join(root, room), true) {
			parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.SkipObjectResolution)
			if err != nil {
				t.Fatal(err)
			}
			rel, err := filepath.Rel(root, file)
			if err != nil {
				t.Fatal(err)
			}
			ast.Inspect(parsed, func(n ast.Node) bool {
				lit, ok := n.(*ast.BasicLit)
				if !ok || lit.Kind != token.STRING {
					return true
				}
				if text, err := strconv.Unquote(lit.Value); err == nil && flagWord.MatchString(text) {
					found[filepath.ToSlash(rel)]++
				}
				return true
			})
		}
	}
	for _, file := range slices.Sorted(maps.Keys(found)) {
		if found[file] > flagsInRooms[file] {
			t.Errorf("%s: %d texts name a flag, %d are known", file, found[file], flagsInRooms[file])
		}
	}
	for _, file := range slices.Sorted(maps.Keys(flagsInRooms)) {
		if found[file] < flagsInRooms[file] {
			t.Errorf("%s: %d texts name a flag, the list has %d: shorten it", file, found[file], flagsInRooms[file])
		}
	}
}

// parsers are the functions that read whole documents. A stage calls none: it
// hands them to run.Parsed, which calls each once for a document.
var parsers = []string{
	"deployment.Parse", "evidence.ParseRegistry", "evidence.Read", "contrast.ParseRelease", "manifest.Parse", "manifest.ParsePlan", "manifest.ParseValues", "privatemode.ParseHashes", "privatemode.ParseModels", "privatemode.ParseStorageClasses",
	"pcrmeasure.ParseGolden", "snpmeasure.ParseReleases", "tdxmeasure.ParseMetadata",
}

// parsersCalled are calls all the same, by file: what is parsed there is no file
// of the run but bytes that the run made, or stands beside the run.
var parsersCalled = map[string]int{
	"pipeline/recognize/evidence.go":         2, // tries whether it is image metadata; says what is wrong with what could not be read
	"pipeline/recognize/init_secretvm.go":    2, // before there is a run
	"pipeline/stages/filecompare.go":         3, // two files, without a run
	"pipeline/stages/evidence/contrast.go":   1, // the manifests inside a Coordinator's answer, which are no files
	"pipeline/stages/manifest/manifest.go":   1, // the manifest as recounted
	"pipeline/stages/manifest/policies.go":   1, // the base with the computed policies in it
	"pipeline/stages/manifest/recomputed.go": 1, // the base with the computed registers in it
	"pipeline/stages/policies/causes.go":     1, // the vendor's annotated files, each once
	"pipeline/stages/manifest/generate.go":   1, // the manifest as generated
}

func TestDocumentsAreParsedOnce(t *testing.T) {
	root := testenv.ModuleRoot(t)
	found := map[string]int{}
	for _, file := range goFiles(t, filepath.Join(root, "pipeline"), true) {
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		rel, err := filepath.Rel(root, file)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(parsed, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			sel, ok := call.Fun.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			if x, ok := sel.X.(*ast.Ident); ok && slices.Contains(parsers, x.Name+"."+sel.Sel.Name) {
				found[filepath.ToSlash(rel)]++
			}
			return true
		})
	}
	if !maps.Equal(found, parsersCalled) {
		t.Errorf("direct calls of parsers, by file: got %v, want %v; call them through run.Parsed", found, parsersCalled)
	}
}
