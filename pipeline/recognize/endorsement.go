package recognize

import (
	"bytes"
	"fmt"
	"strings"

	"github.com/retally/retally/internal/jsondoc"
	"github.com/retally/retally/pipeline"
	"github.com/retally/retally/pipeline/config"
)

// KindEndorsement is a signed statement of somebody's, or a statement whose
// signature lies beside it.
const KindEndorsement Kind = "endorsement"

// isEndorsement knows an endorsement by the members that only it has. What is
// wrong with it, reading it shows.
func isEndorsement(v *jsondoc.Value) bool {
	begins := func(key, prefix string) bool {
		m := v.Get(key)
		return m != nil && m.Kind == jsondoc.String && strings.HasPrefix(m.Text, prefix)
	}
	return begins("mediaType", "application/vnd.dev.sigstore.bundle") || begins("_type", "https://in-toto.io/Statement/") ||
		has(v, "payload", "payloadType", "signatures")
}

// isEndorsements knows a file with an endorsement a line.
func isEndorsements(data []byte) bool {
	first, rest, ok := bytes.Cut(data, []byte("\n"))
	if !ok || len(bytes.TrimSpace(rest)) == 0 {
		return false
	}
	v, err := jsondoc.Parse(first, jsondoc.Limits{})
	return err == nil && v.Kind == jsondoc.Object && isEndorsement(v)
}

// configureEndorsements makes an entry of each. None of the files beside them is
// a root of trust: those who are judged give themselves no leave.
func (s *Subject) configureEndorsements(files []string) error {
	for _, file := range files {
		name, err := EntryName(s.Reader.Path(file))
		if err != nil {
			return err
		}
		if s.Config.Endorsements == nil {
			s.Config.Endorsements = map[string]config.Endorsement{}
		}
		if _, dup := s.Config.Endorsements[name]; dup {
			return &pipeline.InputError{Op: "check", File: file, Err: fmt.Errorf("two endorsements are called %s", name), Hint: "check them one by one"}
		}
		s.Config.Endorsements[name] = config.Endorsement{File: file}
	}
	return nil
}
