package policies

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"

	"github.com/retally/retally/policygen"
)

// idBlockSize is the size of an ID block; the fields are at offset 0 (launch
// digest, 48 bytes), 48 (family ID, 16), 64 (image ID, 16), 80 (version, 4),
// 84 (guest SVN, 4) and 88 (guest policy, 8), all little endian (AMD SEV-SNP ABI
// specification, 8.17 SNP_LAUNCH_FINISH, table ID_BLOCK).
const idBlockSize = 96

// idBlockWords say what of a machine the annotations of two ID blocks disagree
// on, "" where the difference is no ID block.
func idBlockWords(d policygen.DiffCause) string {
	at := strings.Index(d.Path, "snp_id_block_")
	if at < 0 {
		if strings.Contains(d.Path, "snp_guest_policy_") {
			return "the guest policy that the machine must be started with"
		}
		if strings.Contains(d.Path, "snp_id_auth_") {
			return "the signature of the ID block, which follows from the block"
		}
		return ""
	}
	product := strings.Trim(d.Path[at+len("snp_id_block_"):], `"]'`)
	ours, theirs := idBlockOf(d.B), idBlockOf(d.A)
	if ours == nil || theirs == nil {
		return ""
	}
	var words []string
	say := func(what string, from, to int, show func([]byte) string) {
		if a, b := theirs[from:to], ours[from:to]; string(a) != string(b) {
			words = append(words, fmt.Sprintf("%s %s, published %s", what, show(b), show(a)))
		}
	}
	number := func(b []byte) string {
		if len(b) == 4 {
			return fmt.Sprint(binary.LittleEndian.Uint32(b))
		}
		return fmt.Sprintf("%#x", binary.LittleEndian.Uint64(b))
	}
	say("launch digest", 0, 48, hex.EncodeToString)
	say("family ID", 48, 64, hex.EncodeToString)
	say("image ID", 64, 80, hex.EncodeToString)
	say("version", 80, 84, number)
	say("guest SVN", 84, 88, number)
	say("guest policy", 88, 96, number)
	if len(words) == 0 {
		return ""
	}
	return "the ID block for " + product + " is of another machine: " + strings.Join(words, "; ")
}

func idBlockOf(quoted string) []byte {
	text, err := strconv.Unquote(quoted)
	if err != nil {
		text = quoted
	}
	raw, err := base64.StdEncoding.DecodeString(text)
	if err != nil || len(raw) != idBlockSize {
		return nil
	}
	return raw
}
