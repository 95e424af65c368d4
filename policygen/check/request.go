package check

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
)

// Request is a request in the form that rules see.
type Request struct {
	Kind  string
	Input []byte
}

// maxRequest bounds the text of a request.
const maxRequest = 16 << 20

var kindPattern = regexp.MustCompile(`\b[A-Z][A-Za-z]+Request\b`)

// ParseRequest reads a request: its JSON, an object {kind, input} around it,
// or text that has it somewhere in it, escaped once or more often, as events
// of a pod and logs show it. kind may be empty if the text names it, or if its
// members tell. Members that the agent always gives are filled in.
func ParseRequest(text []byte, kind string) (*Request, error) {
	if len(text) > maxRequest {
		return nil, fmt.Errorf("read request: %d bytes, the limit is %d", len(text), maxRequest)
	}
	named := kind
	if named == "" {
		named = string(kindPattern.Find(text))
	}
	object, err := findObject(text, named, kind != "")
	if err != nil {
		return nil, err
	}
	var envelope struct {
		Kind    string          `json:"kind"`
		Input   json.RawMessage `json:"input"`
		Request json.RawMessage `json:"request"`
	}
	if json.Unmarshal(object, &envelope) == nil && envelope.Kind != "" {
		for _, inner := range [][]byte{envelope.Input, envelope.Request} {
			if inner != nil {
				object = inner
			}
		}
		if kind == "" {
			kind = envelope.Kind
		}
	}
	if kind == "" {
		kind = named
	}
	var members map[string]json.RawMessage
	if err := json.Unmarshal(object, &members); err != nil {
		return nil, fmt.Errorf("read request: %w", err)
	}
	if kind == "" {
		kind = guessKind(members)
	}
	if kind == "" {
		return nil, errors.New("read request: no kind (CreateContainerRequest, ...) in the text; name it")
	}
	return &Request{Kind: kind, Input: withDefaults(kind, object)}, nil
}

// CutError is a text that ends inside the request, or holds parts of it only.
type CutError struct {
	Kind  string // "" where the text does not name it
	Bytes int    // of the request that are there, 0 where its beginning was not found
}

func (e *CutError) Error() string {
	kind := e.Kind
	if kind == "" {
		kind = "request"
	}
	if e.Bytes == 0 {
		return fmt.Sprintf("the %s is cut off: the text has no whole one, only other objects", kind)
	}
	return fmt.Sprintf("the %s is cut off: the text ends inside it, after %d bytes of it", kind, e.Bytes)
}

// findObject gives the JSON object in the text that looks like a request of that
// kind, else the largest, taking away one level of escapes after another. Rules
// print other objects before the request (kata's print what they compare it
// with), so where the request itself is cut off none of those is it.
func findObject(text []byte, kind string, given bool) ([]byte, error) {
	const levels = 5
	whole := bytes.TrimSpace(text)
	if string(whole) == "{}" || given && len(whole) > 0 && whole[0] == '{' && json.Valid(whole) && tellingMember(kind) == "" {
		return whole, nil
	}
	var fallback []byte // of the first level that has any
	cut := 0
	for range levels {
		found, best, inside := scanObjects(text, kind)
		if found != nil {
			return found, nil
		}
		if fallback == nil {
			fallback = best
		}
		if cut == 0 {
			cut = inside
		}
		next := unescape(text)
		if bytes.Equal(next, text) {
			break
		}
		text = next
	}
	switch {
	case given && len(whole) > 0 && whole[0] == '{' && json.Valid(whole):
		return whole, nil
	case cut > 0:
		return nil, &CutError{kind, cut}
	case fallback == nil:
		return nil, errors.New("read request: no JSON object in the text, escaped or not")
	case tellingMember(kind) != "":
		return nil, &CutError{Kind: kind}
	}
	return fallback, nil
}

// scanObjects looks at one level of escapes: the request, the largest object, and
// how much there is of an object that the text ends in.
func scanObjects(text []byte, kind string) (request, best []byte, inside int) {
	const starts = 4096
	work := 16*len(text) + 1<<20 // what failed attempts may read
	rest := text
	for range starts {
		at := bytes.IndexByte(rest, '{')
		if at < 0 || work < 0 {
			break
		}
		rest = rest[at:]
		var object json.RawMessage
		err := json.NewDecoder(bytes.NewReader(rest)).Decode(&object)
		if err == nil {
			if len(object) > len(best) && len(object) > 2 {
				best = object
			}
			if isRequest(object, kind) {
				return object, best, inside
			}
			rest = rest[len(object):]
			continue
		}
		if errors.Is(err, io.ErrUnexpectedEOF) {
			// What follows is part of it. Prose ends in a brace, not in a member.
			if memberStart.Match(rest) {
				return nil, best, len(rest)
			}
			work -= len(rest)
		}
		var bad *json.SyntaxError
		if errors.As(err, &bad) {
			work -= int(bad.Offset)
		}
		rest = rest[1:]
	}
	return nil, best, inside
}

var memberStart = regexp.MustCompile(`^\{\s*"`)

// isRequest tells a request of that kind, or the object around one, by its members.
func isRequest(object []byte, kind string) bool {
	var members map[string]json.RawMessage
	if json.Unmarshal(object, &members) != nil {
		return false
	}
	_, input := members["input"]
	_, request := members["request"]
	if _, named := members["kind"]; named && (input || request) {
		return true
	}
	if member := tellingMember(kind); member != "" {
		_, has := members[member]
		return has
	}
	// A kind that no member tells is found by its name alone.
	return kind == "" && guessKind(members) != ""
}

// unescape takes away one level of backslashes.
func unescape(text []byte) []byte {
	out := make([]byte, 0, len(text))
	for i := 0; i < len(text); i++ {
		if text[i] != '\\' || i+1 == len(text) {
			out = append(out, text[i])
			continue
		}
		i++
		switch c := text[i]; c {
		case 'n':
			out = append(out, '\n')
		case 't':
			out = append(out, '\t')
		case 'r':
			out = append(out, '\r')
		case 'u':
			if i+4 < len(text) {
				if r, err := strconv.ParseUint(string(text[i+1:i+5]), 16, 16); err == nil {
					out, i = append(out, string(rune(r))...), i+4
					continue
				}
			}
			out = append(out, '\\', c)
		default:
			out = append(out, c)
		}
	}
	return out
}

// telling are members that only requests of a kind have.
func telling() []struct{ member, kind string } {
	return []struct{ member, kind string }{
		{"OCI", "CreateContainerRequest"},
		{"process", "ExecProcessRequest"},
		{"guest_hook_path", "CreateSandboxRequest"},
		{"path", "CopyFileRequest"},
		{"routes", "UpdateRoutesRequest"},
		{"interface", "UpdateInterfaceRequest"},
		{"neighbors", "AddARPNeighborsRequest"},
	}
}

// tellingMember is the member that tells a kind, "" where none does.
func tellingMember(kind string) string {
	for _, k := range telling() {
		if k.kind == kind {
			return k.member
		}
	}
	return ""
}

// guessKind tells a request by a member that only its kind has.
func guessKind(members map[string]json.RawMessage) string {
	for _, k := range telling() {
		if _, ok := members[k.member]; ok {
			return k.kind
		}
	}
	return ""
}

// The members that the agent writes for an empty request of a kind (kata
// agent protocol, agent.proto and oci.proto: absent messages are null).
const (
	emptyUser    = `{"UID":0,"GID":0,"AdditionalGids":[],"Username":""}`
	emptyProcess = `{"Terminal":false,"ConsoleSize":null,"User":` + emptyUser + `,"Args":[],"Env":[],"Cwd":"","Capabilities":null,` +
		`"Rlimits":[],"NoNewPrivileges":false,"ApparmorProfile":"","OOMScoreAdj":0,"SelinuxLabel":""}`
	emptyLinux = `{"UIDMappings":[],"GIDMappings":[],"Sysctl":{},"Resources":null,"CgroupsPath":"","Namespaces":[],"Devices":[],` +
		`"Seccomp":null,"RootfsPropagation":"","MaskedPaths":[],"ReadonlyPaths":[],"MountLabel":"","IntelRdt":null}`
	emptyOCI = `{"Version":"","Process":` + emptyProcess + `,"Root":{"Path":"","Readonly":false},"Hostname":"","Mounts":[],"Hooks":null,` +
		`"Annotations":{},"Linux":` + emptyLinux + `,"Solaris":null,"Windows":null}`
)

func emptyRequest(kind string) string {
	switch kind {
	case "CreateContainerRequest":
		return `{"container_id":"","exec_id":"","string_user":null,"devices":[],"storages":[],"OCI":` + emptyOCI +
			`,"sandbox_pidns":false,"shared_mounts":[],"stdin_port":0,"stdout_port":0,"stderr_port":0}`
	case "ExecProcessRequest":
		return `{"container_id":"","exec_id":"","string_user":null,"process":` + emptyProcess + `,"stdin_port":0,"stdout_port":0,"stderr_port":0}`
	case "CreateSandboxRequest":
		return `{"hostname":"","dns":[],"storages":[],"sandbox_pidns":false,"sandbox_id":"","guest_hook_path":"","kernel_modules":[]}`
	case "CopyFileRequest":
		return `{"path":"","file_type":"Unknown","symlink_target":null,"file_size":0,"file_mode":0,"dir_mode":0,"uid":0,"gid":0,"offset":0}`
	case "UpdateInterfaceRequest":
		return `{"interface":{"device":"","name":"","IPAddresses":[],"mtu":0,"hwAddr":"","devicePath":"","type_":"","raw_flags":0}}`
	case "RemoveContainerRequest":
		return `{"container_id":"","timeout":0}`
	}
	return `{}`
}

// emptyPart is what the agent writes for an empty message below a member of
// that name, or for an empty element of the list there.
func emptyPart(member string) string {
	switch member {
	case "storages":
		return `{"driver":"","driver_options":[],"source":"","fstype":"","options":[],"mount_point":"","fs_group":null,"shared":false}`
	case "fs_group":
		return `{"group_id":0,"group_change_policy":0}`
	case "devices":
		return `{"id":"","type_":"","vm_path":"","container_path":"","options":[]}`
	case "Mounts":
		return `{"destination":"","source":"","type_":"","options":[]}`
	case "Namespaces":
		return `{"Type":"","Path":""}`
	case "User":
		return emptyUser
	case "string_user":
		return `{"uid":"","gid":"","additionalGids":[]}`
	case "Capabilities":
		return `{"Bounding":[],"Effective":[],"Inheritable":[],"Permitted":[],"Ambient":[]}`
	case "Resources":
		return `{"Devices":[],"Memory":null,"CPU":null,"Pids":null,"BlockIO":null,"HugepageLimits":[],"Network":null}`
	case "Routes":
		return `{"dest":"","gateway":"","device":"","source":"","scope":0,"family":0,"flags":0,"mtu":0}`
	case "ARPNeighbors":
		return `{"toIPAddress":null,"device":"","lladdr":"","state":0,"flags":0}`
	case "IPAddresses", "toIPAddress":
		return `{"family":0,"address":"","mask":""}`
	}
	return ""
}

// fillParts adds what messages in lists, and messages that need not be there,
// lack.
func fillParts(member string, v any) {
	var empty any
	if part := emptyPart(member); part != "" {
		_ = decodeNumbers([]byte(part), &empty) // of our own making
	}
	switch v := v.(type) {
	case []any:
		for _, e := range v {
			if _, isList := e.([]any); !isList {
				fillParts(member, e)
			}
		}
	case map[string]any:
		fill(v, empty)
		for key, below := range v {
			fillParts(key, below)
		}
	}
}

// withDefaults adds the members that are missing.
func withDefaults(kind string, object []byte) []byte {
	var have, empty any
	if decodeNumbers(object, &have) != nil || decodeNumbers([]byte(emptyRequest(kind)), &empty) != nil {
		return object
	}
	have = fill(have, empty)
	if members, ok := have.(map[string]any); ok {
		for key, v := range members {
			fillParts(key, v)
		}
	}
	text, err := json.Marshal(have)
	if err != nil {
		return object
	}
	return text
}

func decodeNumbers(text []byte, into *any) error {
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.UseNumber()
	return dec.Decode(into)
}

func fill(have, empty any) any {
	h, okH := have.(map[string]any)
	e, okE := empty.(map[string]any)
	if !okH || !okE {
		return have
	}
	for key, def := range e {
		if old, ok := h[key]; ok {
			h[key] = fill(old, def)
		} else {
			h[key] = def
		}
	}
	return h
}
