package privatemode

import (
	"strings"
	"time"

	"github.com/retally/retally/internal/jsondoc"
)

// FormatHashes prints entries as the script does through jq: two spaces, one
// entry a line, a final line feed. Of entries with the same name the last one
// counts, in the place of the first, as jq's `+` does it.
func FormatHashes(hashes []ImageHash) []byte {
	doc := jsondoc.NewObject()
	for _, h := range hashes {
		doc.Set(h.Name, jsondoc.NewString(h.Digest.String()))
	}
	return jsondoc.JQ.Format(doc)
}

// FormatLog prints entries as the proxy writes them, with the path relative to
// the workspace: the older format for entries with a policy hash.
func FormatLog(entries []LogEntry) []byte {
	var b strings.Builder
	for _, e := range entries {
		b.WriteString(e.Time.Format(time.RFC3339))
		if !e.CoordinatorPolicy.IsZero() {
			b.WriteString(" " + e.CoordinatorPolicy.Hex())
		}
		b.WriteString(" " + e.Path + "\n")
	}
	return []byte(b.String())
}
