package main

import (
	"bytes"
	"encoding/json"

	"github.com/retally/retally/internal/outfile"
	"github.com/retally/retally/report"
)

// The kinds of what the verbs write beside reports: an output may replace an
// earlier one of its kind. Each looks at the beginning of a file only.
var (
	kindManifest = outfile.Kind{Name: "a Contrast manifest", Is: firstKey("Policies", "ReferenceValues", "WorkloadOwnerKeyDigests", "SeedshareOwnerPubKeys")}
	kindReport   = outfile.Kind{Name: "a retally report", Is: report.IsJSON}
	kindRun      = outfile.Kind{Name: "a retally run.json", Is: firstKey("tool")}
	kindHashes   = outfile.Kind{Name: "a list of image hashes", Is: firstValueIsDigest}
	kindRootHash = outfile.Kind{Name: "a root hash", Is: func(head []byte) bool { return len(head) < 200 && isHex(bytes.TrimSpace(head)) }}
	kindDisk     = outfile.Kind{Name: "a model disk", Is: isEROFS}
	// Whether a checkpoint is its own, the room finds out.
	kindCheckpoint = outfile.Kind{Name: "a checkpoint", Is: func([]byte) bool { return true }}
	kindInitdata   = outfile.Kind{Name: "an initdata document", Is: func(head []byte) bool {
		return bytes.Contains(head, []byte("algorithm = ")) && bytes.Contains(head, []byte("[data]"))
	}}
	kindPolicy     = outfile.Kind{Name: "a policy", Is: func(head []byte) bool { return bytes.Contains(head, []byte("package agent_policy")) }}
	kindPolicyData = outfile.Kind{Name: "policy data", Is: func(head []byte) bool {
		return bytes.HasPrefix(bytes.TrimSpace(head), []byte("{")) && bytes.Contains(head, []byte(`"containers"`))
	}}
	kindAnnotated = outfile.Kind{Name: "annotated YAML", Is: func(head []byte) bool { return bytes.Contains(head, []byte("cc_init_data")) }}
)

// firstKey recognizes a JSON object by the first of its members.
func firstKey(known ...string) func([]byte) bool {
	return func(head []byte) bool {
		dec := json.NewDecoder(bytes.NewReader(head))
		if open, err := dec.Token(); err != nil || open != json.Delim('{') {
			return false
		}
		key, err := dec.Token()
		if err != nil {
			return false
		}
		for _, k := range known {
			if key == k {
				return true
			}
		}
		return false
	}
}

func firstValueIsDigest(head []byte) bool {
	dec := json.NewDecoder(bytes.NewReader(head))
	var tokens [3]json.Token
	for i := range tokens {
		var err error
		if tokens[i], err = dec.Token(); err != nil {
			return false
		}
	}
	value, ok := tokens[2].(string)
	return tokens[0] == json.Delim('{') && ok && isHex(bytes.TrimPrefix([]byte(value), []byte("sha256:")))
}

func isHex(text []byte) bool {
	return len(text) >= 40 && len(bytes.Trim(text, "0123456789abcdefABCDEF")) == 0
}

// isEROFS looks for the magic of the superblock, little endian at byte 1024
// (Linux, fs/erofs/erofs_fs.h, struct erofs_super_block).
func isEROFS(head []byte) bool {
	return len(head) >= 1028 && bytes.Equal(head[1024:1028], []byte{0xe2, 0xe1, 0xf5, 0xe0})
}
