package outfile

import (
	"bytes"
	"encoding/json"
)

// KindOf are the kinds of what is written beside reports, by what they are
// called here. Each is known by its beginning.
func KindOf(what string) Kind {
	switch what {
	case "manifest":
		return Kind{"a Contrast manifest", firstKey("Policies", "ReferenceValues", "WorkloadOwnerKeyDigests", "SeedshareOwnerPubKeys")}
	case "run":
		return Kind{"a retally run.json", firstKey("tool")}
	case "hashes":
		return Kind{"a list of image hashes", firstValueIsDigest}
	case "root hash":
		return Kind{"a root hash", func(head []byte) bool { return len(head) < 200 && isHex(bytes.TrimSpace(head)) }}
	case "disk":
		return Kind{"a model disk", isEROFS}
	case "checkpoint":
		// Whether one is its own, the room finds out.
		return Kind{"a checkpoint", func([]byte) bool { return true }}
	case "shard plan":
		return Kind{"a shard plan", holds(`"retally/shard-plan-file/1"`)}
	case "shard result":
		return Kind{"the result of a part", holds(`"retally/shard-result/1"`)}
	case "merged parts":
		return Kind{"merged parts", holds(`"retally/shard-merged/1"`)}
	case "job script":
		return Kind{"a job script", holds(" shard ")}
	case "kustomization":
		return Kind{"a kustomize base", holds("kind: Kustomization", "jobs.yaml")}
	case "kubernetes jobs":
		return Kind{"Kubernetes Jobs", holds("kind: Job", "completionMode: Indexed")}
	case "initdata":
		return Kind{"an initdata document", holds("algorithm = ", "[data]")}
	case "changed deployment":
		// As the changed one is written: without a comment in front.
		return Kind{"a deployment as it was changed here", func(head []byte) bool {
			return bytes.HasPrefix(head, []byte("apiVersion: ")) && holds("\nkind: ", "\nmetadata:")(head)
		}}
	case "policy":
		return Kind{"a policy", holds("package agent_policy")}
	case "policy data":
		return Kind{"policy data", holds(`"containers"`)}
	case "annotated YAML":
		return Kind{"annotated YAML", holds("cc_init_data")}
	}
	return Kind{Name: what}
}

func holds(marks ...string) func([]byte) bool {
	return func(head []byte) bool {
		for _, m := range marks {
			if !bytes.Contains(head, []byte(m)) {
				return false
			}
		}
		return true
	}
}

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
