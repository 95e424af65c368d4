package policygen

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/retally/retally/internal/jsondoc"
)

// PolicyData is the data part of a policy text.
type PolicyData struct {
	Rules []byte // the text before it
	JSON  []byte // policy_data as written
	tree  *jsondoc.Value
}

const dataMark = "\npolicy_data := "

// SplitPolicy takes a policy apart. Data without rules, as generators write it
// to files, is accepted too.
func SplitPolicy(text []byte) (*PolicyData, error) {
	p := &PolicyData{JSON: text}
	at := bytes.LastIndex(text, []byte(dataMark))
	switch {
	case at >= 0:
		p.Rules, p.JSON = text[:at], text[at+len(dataMark):]
	case !bytes.HasPrefix(bytes.TrimSpace(text), []byte("{")):
		return nil, errors.New("no policy_data in the policy: want rules followed by a line that starts with policy_data :=")
	}
	tree, err := jsondoc.Parse(p.JSON, jsondoc.Limits{})
	if err != nil {
		return nil, fmt.Errorf("policy_data: %w", err)
	}
	if list := member(tree, "containers"); list == nil || list.Kind != jsondoc.Array {
		return nil, errors.New("policy_data: no list of containers in it")
	}
	p.tree = tree
	return p, nil
}
