package yamldoc

import (
	"gopkg.in/yaml.v3"

	"github.com/retally/retally/internal/jsondoc"
)

// JSON reads a stream of one document whose root is a mapping or a list, and gives
// it as JSON. Aliases, anchors and merge keys are refused: what stands in the file
// is all there is. Numbers that JSON writes otherwise, and values with tags of their
// own, are text.
func JSON(file string, data []byte, limits Limits) (*jsondoc.Value, error) {
	docs, err := Parse(file, data, limits)
	if err != nil {
		return nil, err
	}
	if len(docs) != 1 || docs[0] == nil || docs[0].Kind == yaml.ScalarNode {
		return nil, &Error{File: file, Msg: "want one document with a mapping or a list"}
	}
	return jsonOf(file, docs[0])
}

func jsonOf(file string, n *yaml.Node) (*jsondoc.Value, error) {
	switch {
	case n.Kind == yaml.AliasNode || n.Anchor != "":
		return nil, Errorf(file, n, "", "anchors and aliases are not read here")
	case n.Kind == yaml.MappingNode:
		out := jsondoc.NewObject()
		for i := 0; i+1 < len(n.Content); i += 2 {
			key := n.Content[i]
			if key.Kind != yaml.ScalarNode || key.Value == "<<" {
				return nil, Errorf(file, key, "", "a key must be a plain value")
			}
			v, err := jsonOf(file, n.Content[i+1])
			if err != nil {
				return nil, err
			}
			out.Members = append(out.Members, jsondoc.Member{Key: key.Value, Value: v})
		}
		return out, nil
	case n.Kind == yaml.SequenceNode:
		out := jsondoc.NewArray()
		for _, e := range n.Content {
			v, err := jsonOf(file, e)
			if err != nil {
				return nil, err
			}
			out.Elems = append(out.Elems, v)
		}
		return out, nil
	case IsNull(n):
		return &jsondoc.Value{Kind: jsondoc.Null}, nil
	case n.ShortTag() == "!!bool":
		return jsondoc.NewBool(n.Value == "true" || n.Value == "True" || n.Value == "TRUE"), nil
	case n.ShortTag() == "!!int":
		if v, err := jsondoc.Parse([]byte(n.Value), jsondoc.Limits{}); err == nil && v.Kind == jsondoc.Number {
			return v, nil
		}
	}
	return jsondoc.NewString(n.Value), nil
}
