package main

import (
	"bytes"
	"cmp"
	"encoding"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/retally/retally/evidence"
	"github.com/retally/retally/evidence/verdict"
	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/testenv"
	"github.com/retally/retally/pipeline"
	"github.com/retally/retally/pipeline/config"
	"github.com/retally/retally/report"
	"github.com/retally/retally/verity"
	"github.com/retally/retally/verity/disk"
)

// The schemas in docs/schema are made from the Go types that are printed: a
// member that a type has and a schema does not is a failing test. -update writes
// them.

type object = map[string]any

const digestPattern = `^(sha1:[0-9a-f]{40}|sha224:[0-9a-f]{56}|sha256:[0-9a-f]{64}|sha384:[0-9a-f]{96}|sha512:[0-9a-f]{128})$`

func words[T ~string](list ...T) object {
	var out []any
	for _, w := range list {
		out = append(out, string(w))
	}
	return object{"enum": out}
}

// ownForms are types that write their JSON themselves.
func ownForms() map[reflect.Type]any {
	text := object{"type": "string"}
	count := object{"type": "integer", "minimum": 0}
	hex := object{"type": "string", "pattern": "^([0-9a-f]{2})*$"}
	return map[reflect.Type]any{
		reflect.TypeFor[digest.Digest]():    object{"type": "string", "pattern": strings.Replace(digestPattern, "^(", "^(|", 1)},
		reflect.TypeFor[pipeline.Value]():   object{"oneOf": []any{object{"type": "null"}, text, count, object{"type": "boolean"}, object{"type": "array", "items": text}}},
		reflect.TypeFor[config.Counts]():    object{"oneOf": []any{count, object{"type": "array", "items": count}}},
		reflect.TypeFor[config.Files]():     object{"oneOf": []any{text, object{"type": "array", "items": text}}},
		reflect.TypeFor[disk.Hex]():         hex,
		reflect.TypeFor[time.Time]():        object{"type": "string", "format": "date-time"},
		reflect.TypeFor[json.RawMessage]():  object{},
		reflect.TypeFor[pipeline.Outcome](): words(pipeline.OutcomeMatch, pipeline.OutcomeDiffers, pipeline.OutcomeUnchecked),
		reflect.TypeFor[pipeline.Verdict](): words(pipeline.Match, pipeline.Differs, pipeline.Missing, pipeline.Extra, pipeline.Unchecked),
		reflect.TypeFor[verdict.Verdict]():  words(verdict.Pass, verdict.Fail, verdict.Unchecked),
		reflect.TypeFor[evidence.Event]():   object{"type": "object", "properties": object{"rtmr": object{"type": "integer"}, "name": text, "payload": hex}, "required": []any{"rtmr", "name", "payload"}, "additionalProperties": false},
	}
}

// namedForms are what a member is by its name, where its type is a text.
var namedForms = []struct{ name, pattern string }{
	{`^(mrtd|rtmr[0-3]|mr_aggregated|mr_image|mr_system)$`, `^([0-9a-f]{64}|[0-9a-f]{96})$`},
	{`(^|_)sha256$`, `^([0-9a-f]{64})?$`},
	{`^(launch_digest|id_key_digest|author_key_digest)$`, `^([0-9a-f]{64}|[0-9a-f]{96})?$`},
	{`(^|_)root_hash$`, `^([0-9a-f]{2})+$`},
}

// A schemaMaker turns Go types into schemas.
type schemaMaker struct {
	own  map[reflect.Type]any
	defs object
	of   map[string]reflect.Type // of the definitions
}

func (m *schemaMaker) value(t reflect.Type, v reflect.Value) (any, error) {
	if form, ok := m.own[t]; ok {
		return form, nil
	}
	if t == reflect.TypeFor[verity.Result]() {
		return m.example(v)
	}
	if t.Implements(reflect.TypeFor[json.Marshaler]()) || reflect.PointerTo(t).Implements(reflect.TypeFor[json.Marshaler]()) {
		if t.Kind() != reflect.Pointer {
			return nil, fmt.Errorf("%s writes its JSON itself: say in ownForms what it is", t)
		}
	}
	if t.Kind() != reflect.Pointer && (t.Implements(reflect.TypeFor[encoding.TextMarshaler]()) || reflect.PointerTo(t).Implements(reflect.TypeFor[encoding.TextMarshaler]())) {
		return object{"type": "string"}, nil
	}
	switch t.Kind() {
	case reflect.Bool:
		return object{"type": "boolean"}, nil
	case reflect.String:
		return object{"type": "string"}, nil
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return object{"type": "integer"}, nil
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return object{"type": "integer", "minimum": 0}, nil
	case reflect.Float32, reflect.Float64:
		return object{"type": "number"}, nil
	case reflect.Pointer:
		one, err := m.value(t.Elem(), elem(v))
		return object{"anyOf": []any{object{"type": "null"}, one}}, err
	case reflect.Slice, reflect.Array:
		if t.Kind() == reflect.Slice && t.Elem().Kind() == reflect.Uint8 {
			return object{"type": "string", "contentEncoding": "base64"}, nil
		}
		item, err := m.value(t.Elem(), reflect.Value{})
		return object{"type": "array", "items": item}, err
	case reflect.Map:
		if t.Elem().Kind() == reflect.Interface && v.IsValid() && t.Key().Kind() == reflect.String {
			return m.document(v)
		}
		item, err := m.value(t.Elem(), reflect.Value{})
		return object{"type": "object", "additionalProperties": item}, err
	case reflect.Interface:
		if elem(v).IsValid() {
			return m.value(elem(v).Type(), elem(v))
		}
		return object{}, nil
	case reflect.Struct:
		if t.Name() == "" {
			return m.structure(t, v)
		}
		name := t.String()
		if m.of[name] == nil {
			m.of[name] = t
			def, err := m.structure(t, reflect.Value{})
			if err != nil {
				return nil, err
			}
			m.defs[name] = def
		} else if m.of[name] != t {
			return nil, fmt.Errorf("two types are called %s", name)
		}
		return object{"$ref": "#/$defs/" + name}, nil
	}
	return nil, fmt.Errorf("%s cannot be JSON", t)
}

func elem(v reflect.Value) reflect.Value {
	if !v.IsValid() || v.Kind() != reflect.Pointer && v.Kind() != reflect.Interface {
		return reflect.Value{}
	}
	return v.Elem()
}

// example is the form of a value that writes its JSON itself, all of whose
// members are always there but root_hash.
func (m *schemaMaker) example(v reflect.Value) (any, error) {
	data, err := json.Marshal(v.Interface())
	if err != nil {
		return nil, err
	}
	var members object
	if err := json.Unmarshal(data, &members); err != nil {
		return nil, err
	}
	members["root_hash"] = ""
	props, required := object{}, []any{}
	for _, name := range slices.Sorted(maps.Keys(members)) {
		form := any(object{"type": "string"})
		if _, ok := members[name].(float64); ok {
			form = object{"type": "integer", "minimum": 0}
		}
		props[name] = named(name, form)
		if name != "root_hash" {
			required = append(required, name)
		}
	}
	return object{"type": "object", "properties": props, "required": required, "additionalProperties": false}, nil
}

// document is the form of a map with members of any kind, taken from its value.
func (m *schemaMaker) document(v reflect.Value) (any, error) {
	props, required := object{}, []any{}
	for _, k := range v.MapKeys() {
		form, err := m.value(v.MapIndex(k).Elem().Type(), v.MapIndex(k).Elem())
		if err != nil {
			return nil, err
		}
		props[k.String()] = named(k.String(), form)
	}
	for _, name := range slices.Sorted(maps.Keys(props)) {
		required = append(required, name)
	}
	return object{"type": "object", "properties": props, "required": required, "additionalProperties": false}, nil
}

type jsonMember struct {
	field    reflect.StructField
	value    reflect.Value
	optional bool
}

func (m *schemaMaker) structure(t reflect.Type, v reflect.Value) (any, error) {
	props, required := object{}, []any{}
	members := map[string]jsonMember{}
	level := []jsonMember{{field: reflect.StructField{Type: t}, value: v}}
	// As encoding/json does it: what is nearer hides what is deeper.
	for len(level) > 0 {
		var next []jsonMember
		found := map[string]jsonMember{}
		for _, at := range level {
			for i := range at.field.Type.NumField() {
				f := at.field.Type.Field(i)
				tag, _, _ := strings.Cut(f.Tag.Get("json"), ",")
				_, options, _ := strings.Cut(f.Tag.Get("json"), ",")
				inner := f.Type
				if inner.Kind() == reflect.Pointer {
					inner = inner.Elem()
				}
				value := reflect.Value{}
				if at.value.IsValid() {
					value = at.value.Field(i)
				}
				switch {
				case tag == "-":
				case f.Anonymous && tag == "" && inner.Kind() == reflect.Struct && m.own[inner] == nil && inner != reflect.TypeFor[verity.Result]():
					if f.Type.Kind() == reflect.Pointer {
						value = elem(value)
					}
					next = append(next, jsonMember{field: reflect.StructField{Type: inner}, value: value})
				case !f.IsExported():
				default:
					name := cmp.Or(tag, f.Name)
					if _, twice := found[name]; twice {
						return nil, fmt.Errorf("%s has two members %q at one depth", t, name)
					}
					found[name] = jsonMember{f, value, strings.Contains(options, "omit")}
				}
			}
		}
		for name, x := range found {
			if _, hidden := members[name]; !hidden {
				members[name] = x
			}
		}
		level = next
	}
	for _, name := range slices.Sorted(maps.Keys(members)) {
		x := members[name]
		ft := x.field.Type
		if x.optional && ft.Kind() == reflect.Pointer {
			ft, x.value = ft.Elem(), elem(x.value) // null is left out
		}
		form, err := m.value(ft, x.value)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		props[name] = named(name, form)
		if !x.optional {
			required = append(required, name)
		}
	}
	return object{"type": "object", "properties": props, "required": required, "additionalProperties": false}, nil
}

// named adds what a member's name says of its text.
func named(name string, form any) any {
	o, _ := form.(object)
	switch {
	case o["type"] == "string" && o["pattern"] == nil:
		for _, n := range namedForms {
			if regexp.MustCompile(n.name).MatchString(name) {
				return object{"type": "string", "pattern": n.pattern}
			}
		}
	case o["anyOf"] != nil:
		if list := o["anyOf"].([]any); len(list) == 2 {
			return object{"anyOf": []any{list[0], named(name, list[1])}}
		}
	}
	return form
}

// result puts the conclusion into the form of a document.
func (m *schemaMaker) result(verb string, doc any) (any, error) {
	v := reflect.ValueOf(doc)
	for v.Kind() == reflect.Pointer && !v.IsNil() {
		v = v.Elem()
	}
	t := v.Type()
	list := t.Kind() == reflect.Slice
	if list {
		t, v = t.Elem(), reflect.Value{}
	}
	var form any
	var err error
	switch {
	case t == reflect.TypeFor[pipeline.Report]():
		return object{"$ref": "report.json"}, nil
	case t.Kind() == reflect.Struct && t != reflect.TypeFor[verity.Result]():
		form, err = m.structure(t, v)
	default:
		form, err = m.value(t, v)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", verb, err)
	}
	o := form.(object)
	maps.Copy(o["properties"].(object), object{
		"schema":  object{"const": schemaName(verb)},
		"outcome": words("match", "differs", "unchecked", wordInvalid, wordDenied),
		"reasons": object{"type": "array", "items": object{"type": "string"}},
	})
	required := slices.DeleteFunc(o["required"].([]any), func(x any) bool { return slices.Contains([]any{"schema", "outcome", "reasons"}, x) })
	o["required"] = append([]any{"schema", "outcome", "reasons"}, required...)
	if list {
		form = object{"type": "array", "items": form}
	}
	return form, nil
}

// schemaOf is the schema of all documents that a verb was seen to print.
func schemaOf(verb string, docs []any) ([]byte, error) {
	m := &schemaMaker{own: ownForms(), defs: object{}, of: map[string]reflect.Type{}}
	var forms []any
	seen := map[string]bool{}
	for _, doc := range docs {
		form, err := m.result(verb, doc)
		if err != nil {
			return nil, err
		}
		key, err := json.Marshal(form)
		if err != nil {
			return nil, err
		}
		if !seen[string(key)] {
			seen[string(key)] = true
			forms = append(forms, form)
		}
	}
	top := object{
		"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": verb + ".json", "title": "retally " + strings.ReplaceAll(verb, "-", " ") + " -o json",
		"description": "The form " + schemaName(verb) + ". Members may be added in a later release; none is removed or changes its meaning. docs/json.md says what the words mean.",
	}
	if len(m.defs) > 0 {
		top["$defs"] = m.defs
	}
	if verb == "error" {
		top["title"] = "retally: a failure"
	}
	if len(forms) == 1 {
		maps.Copy(top, forms[0].(object))
		if top["$ref"] != nil {
			top["properties"] = object{"schema": object{"const": schemaName(verb)}}
			top["required"] = []any{"reasons"}
		}
	} else {
		top["anyOf"] = forms
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	err := enc.Encode(top)
	return b.Bytes(), err
}

// progressSchema is the form of a line of --progress=json.
func progressSchema() []byte {
	count := object{"type": "number", "minimum": 0}
	text := object{"type": "string"}
	line := func(members object) object {
		required := []any{}
		for _, name := range slices.Sorted(maps.Keys(members)) {
			required = append(required, name)
		}
		return object{"type": "object", "properties": members, "required": required, "additionalProperties": false}
	}
	top := object{
		"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": "progress.json", "title": "a line of --progress=json, on stderr",
		"description": "The form retally/progress/1, one object a line. A progress line has no outcome: nothing is concluded while work goes on. total is 0 and secondsLeft -1 where they are not known.",
		"anyOf": []any{
			line(object{"schema": object{"const": schemaName("progress")}, "stage": text, "done": count, "total": count, "bytesPerSecond": count, "secondsLeft": object{"type": "number", "minimum": -1}}),
			line(object{"schema": object{"const": schemaName("progress")}, "stage": text, "phase": text, "tried": count, "triedPerSecond": count}),
			line(object{"schema": object{"const": schemaName("progress")}, "stage": text, "phase": text, "done": count, "total": count}),
		},
	}
	data, err := json.MarshalIndent(top, "", "  ")
	if err != nil {
		panic(err)
	}
	return append(data, '\n')
}

// holdSchemas holds docs/schema against what the verbs were seen to print, and
// writes it with -update.
func holdSchemas(t *testing.T, dir string, printed map[string][]any) {
	t.Helper()
	want := map[string][]byte{"report.json": report.JSONSchema, "progress.json": progressSchema()}
	for verb, docs := range printed {
		data, err := schemaOf(verb, docs)
		if err != nil {
			t.Fatal(err)
		}
		want[verb+".json"] = data
	}
	old, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	for _, f := range old {
		if want[f.Name()] == nil {
			if *update {
				err = os.Remove(filepath.Join(dir, f.Name()))
			}
			if !*update || err != nil {
				t.Errorf("docs/schema/%s belongs to no verb (%v)", f.Name(), err)
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(want)) {
		path := filepath.Join(dir, name)
		if *update {
			if err := errors.Join(os.MkdirAll(dir, 0o755), os.WriteFile(path, want[name], 0o644)); err != nil {
				t.Fatal(err)
			}
			continue
		}
		got, err := os.ReadFile(path)
		if err != nil {
			t.Errorf("%v\ngo test ./cmd/retally -run TestGoldenJSON -update writes it", err)
		} else if diff := gocmp.Diff(string(want[name]), string(got)); diff != "" {
			t.Errorf("docs/schema/%s is not what the verb prints (-verb +file); -run TestGoldenJSON -update writes it:\n%s", name, diff)
		}
	}
}

// A schemaSet validates documents by the schema that they name.
type schemaSet struct {
	dir      string
	mu       sync.Mutex
	compiler *jsonschema.Compiler
	compiled map[string]*jsonschema.Schema
}

func newSchemaSet(dir string) *schemaSet {
	c := jsonschema.NewCompiler()
	c.DefaultDraft(jsonschema.Draft2020)
	c.AssertFormat()
	return &schemaSet{dir: dir, compiler: c, compiled: map[string]*jsonschema.Schema{}}
}

var schemaForm = regexp.MustCompile(`^retally/([a-z-]+)/1$`)

// check holds one document of a verb's stdout against its schema, and its words
// against its exit code.
func (s *schemaSet) check(stdout []byte, code int) error {
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(stdout))
	if err != nil {
		return fmt.Errorf("stdout is not one JSON document: %w", err)
	}
	list, isList := doc.([]any)
	if !isList {
		list = []any{doc}
	}
	bad, open, computed := false, false, len(list) > 0
	name := ""
	for _, x := range list {
		o, ok := x.(map[string]any)
		if !ok {
			return fmt.Errorf("%T, want an object", x)
		}
		schema, _ := o["schema"].(string)
		if name != "" && name != schema {
			return fmt.Errorf("an array with elements of %s and %s", name, schema)
		}
		name = schema
		reasons, _ := o["reasons"].([]any)
		switch o["outcome"] {
		case "differs", "invalid", "denied":
			bad = true
		case "unchecked":
			open = true
		}
		computed = computed && o["outcome"] == "unchecked" && len(reasons) > 0 && reasons[0] == nothingCompared
	}
	if len(list) == 0 {
		return nil
	}
	want := exitMatch
	switch {
	case bad:
		want = exitDiffers
	case open && !computed:
		want = exitUnchecked
	}
	if o := list[0].(map[string]any); o["error"] != nil {
		if n, _ := o["error"].(map[string]any)["code"].(json.Number); n.String() != fmt.Sprint(code) {
			return fmt.Errorf("error.code is %s, the exit code %d", n, code)
		}
	} else if code != want && !(code == exitTrouble && !bad && open && !computed) {
		return fmt.Errorf("exit code %d, and the outcome says %d: %s", code, want, brief(list[0].(map[string]any)["outcome"]))
	}
	match := schemaForm.FindStringSubmatch(name)
	if match == nil {
		return fmt.Errorf("schema %q, want retally/<verb>/1", name)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	compiled := s.compiled[match[1]]
	if compiled == nil {
		if compiled, err = s.compiler.Compile(filepath.Join(s.dir, match[1]+".json")); err != nil {
			return err
		}
		s.compiled[match[1]] = compiled
	}
	return compiled.Validate(doc)
}

// TestSchemaNames: members have one spelling, small letters with underscores,
// but those that a foreign standard or the report's form fixes.
func TestSchemaNames(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(testenv.ModuleRoot(t), "docs", "schema", "*.json"))
	if err != nil || len(files) < 40 {
		t.Fatalf("%d schemas (%v)", len(files), err)
	}
	foreign := map[string]string{
		"mediaType": "OCI", "diffID": "OCI", "diffIDs": "OCI", "artifactType": "OCI",
		// Named so before, and for one release beside the names with underscores.
		"sameContent": "same_content", "equalIgnoring": "equal_ignoring", "canonicalLayout": "canonical_layout", "ownerKeys": "owner_keys", "coordinatorPolicy": "coordinator_policy",
	}
	snake := regexp.MustCompile(`^[a-z0-9]+(_[a-z0-9]+)*$`)
	for _, file := range files {
		base := filepath.Base(file)
		if base == "report.json" || base == "progress.json" || base == "explain.json" {
			continue // the report's form, frozen as it is, and what is cut out of it
		}
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var doc any
		if err := json.Unmarshal(data, &doc); err != nil {
			t.Fatal(err)
		}
		var walk func(path string, v any)
		walk = func(path string, v any) {
			switch v := v.(type) {
			case map[string]any:
				if props, ok := v["properties"].(map[string]any); ok {
					for name := range props {
						if !snake.MatchString(name) && foreign[name] == "" {
							t.Errorf("%s: %s/%s is spelled otherwise than all others", base, path, name)
						}
						if want := foreign[name]; strings.Contains(want, "_") && props[want] == nil {
							t.Errorf("%s: %s/%s without %s", base, path, name, want)
						}
					}
				}
				for k, x := range v {
					walk(path+"/"+k, x)
				}
			case []any:
				for i, x := range v {
					walk(fmt.Sprintf("%s/%d", path, i), x)
				}
			}
		}
		walk("", doc)
	}
}

// TestSchemasRefuse: a schema that takes everything would say nothing.
func TestSchemasRefuse(t *testing.T) {
	set := newSchemaSet(filepath.Join(testenv.ModuleRoot(t), "docs", "schema"))
	good := `{"schema":"retally/version/1","outcome":"unchecked","reasons":["` + nothingCompared + `"],"version":"1","go":"g","platform":"p","revision":""}`
	if err := set.check([]byte(good), 0); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name, old, with string
		code            int
	}{
		{"a member more", `"version"`, `"more":1,"version"`, 0},
		{"a member less", `,"revision":""`, ``, 0},
		{"another kind", `"go":"g"`, `"go":1`, 0},
		{"another schema", `retally/version/1`, `retally/doctor/1`, 0},
		{"no schema", `retally/version/1`, `urn:x`, 0},
		{"an unknown word", `"unchecked"`, `"pass"`, 0},
		{"match for nothing compared", `"unchecked"`, `"match"`, 3},
		{"a lack with exit 0", nothingCompared, `something is missing`, 0},
		{"differs with exit 0", `"unchecked"`, `"differs"`, 0},
		{"reasons that are no list", `["` + nothingCompared + `"]`, `""`, 3},
	} {
		if err := set.check([]byte(strings.Replace(good, tt.old, tt.with, 1)), tt.code); err == nil {
			t.Errorf("%s was taken", tt.name)
		}
	}
}

// schemasInTree are the committed schemas. Tests change the working folder, which
// is the package's own at their start.
var schemasInTree = func() func() *schemaSet {
	dir, err := os.Getwd()
	return sync.OnceValue(func() *schemaSet {
		if err != nil {
			panic(err)
		}
		return newSchemaSet(filepath.Join(dir, "..", "..", "docs", "schema"))
	})
}()
