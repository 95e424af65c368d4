package config

import (
	"encoding/json"

	"gopkg.in/yaml.v3"
)

// Files are one file or several: a.json, or [a.json, b.pem].
type Files []string

// UnmarshalYAML implements yaml.Unmarshaler.
func (l *Files) UnmarshalYAML(n *yaml.Node) error {
	return eachScalar(n, "a file, or a list of files", func(text string) error {
		*l = append(*l, text)
		return nil
	})
}

// MarshalYAML implements yaml.Marshaler.
func (l Files) MarshalYAML() (any, error) {
	if len(l) == 1 {
		return l[0], nil
	}
	return []string(l), nil
}

// MarshalJSON writes one file as a string.
func (l Files) MarshalJSON() ([]byte, error) {
	if len(l) == 1 {
		return json.Marshal(l[0])
	}
	return json.Marshal([]string(l))
}
