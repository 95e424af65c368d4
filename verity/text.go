package verity

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"
)

// MarshalJSON gives the form of `retally verity format -o json`.
func (r Result) MarshalJSON() ([]byte, error) {
	uuid := r.Params.UUID.String()
	if r.Params.NoSuperblock {
		uuid = ""
	}
	return json.Marshal(struct {
		RootHash   string `json:"root_hash,omitempty"`
		DataBlocks uint64 `json:"data_blocks"`
		HashBlocks uint64 `json:"hash_blocks"`
		HashType   uint32 `json:"hash_type"`
		Hash       string `json:"hash"`
		DataBS     int    `json:"data_block_size"`
		HashBS     int    `json:"hash_block_size"`
		Salt       string `json:"salt"`
		UUID       string `json:"uuid"`
		HashOffset int64  `json:"hash_offset"`
	}{
		r.rootHex(), r.Layout.DataBlocks, r.Layout.HashBlocks, r.Params.HashType, r.Params.Hash.String(),
		r.Params.DataBlockSize, r.Params.HashBlockSize, hex.EncodeToString(r.Params.Salt), uuid, r.Params.HashOffset,
	})
}

func (r Result) rootHex() string {
	if r.Root.IsZero() {
		return ""
	}
	return r.Root.Hex()
}

// TextOptions complete what a Result does not know for Text.
type TextOptions struct {
	Device   string // path of the hash device as the user gave it
	HashName string // the hash as the user typed it; "" prints its usual name
	UUIDText string // the UUID as the user typed it; "" prints lower case
	FEC      FEC
}

// Text describes a tree in the words and columns of veritysetup 2.8.4, for
// format (with the root hash) and dump (Root is zero).
func (r Result) Text(o TextOptions) string {
	var b strings.Builder
	// Names are padded to one column, some to a narrower one in the original.
	line := func(width int, name, format string, args ...any) {
		fmt.Fprintf(&b, "%-*s\t%s\n", width, name+":", fmt.Sprintf(format, args...))
	}
	hash, uuid := o.HashName, o.UUIDText
	if hash == "" {
		hash = r.Params.Hash.String()
	}
	if uuid == "" {
		uuid = r.Params.UUID.String()
	}
	if r.Params.NoSuperblock {
		uuid = ""
	}
	fmt.Fprintf(&b, "VERITY header information for %s.\n", o.Device)
	line(17, "UUID", "%s", uuid)
	line(17, "Hash type", "%d", r.Params.HashType)
	line(17, "Data blocks", "%d", r.Layout.DataBlocks)
	line(17, "Data block size", "%d [bytes]", r.Params.DataBlockSize)
	line(17, "Hash blocks", "%d", r.Layout.HashBlocks)
	line(17, "Hash block size", "%d [bytes]", r.Params.HashBlockSize)
	line(17, "Hash algorithm", "%s", hash)
	if o.FEC.Path != "" {
		line(16, "FEC RS roots", "%d", o.FEC.Roots)
		line(16, "FEC blocks", "%d", o.FEC.size(r)/int64(r.Params.DataBlockSize))
	}
	line(17, "Salt", "%s", saltText(r.Params.Salt))
	if !r.Root.IsZero() {
		line(16, "Root hash", "%s", r.Root.Hex())
	}
	if r.Params.HashOffset == 0 {
		line(18, "Hash device size", "%d [bytes]", r.Layout.End)
		if o.FEC.Path != "" {
			line(17, "FEC device size", "%d [bytes]", o.FEC.size(r))
		}
	}
	return b.String()
}
