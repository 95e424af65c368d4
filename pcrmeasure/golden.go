package pcrmeasure

import (
	"github.com/retally/retally/internal/goldenpcr"
	"github.com/retally/retally/internal/place"
)

// Golden are golden measurements: values of the bank SHA-256 by PCR.
type Golden = goldenpcr.Golden

// ParseGolden reads golden measurements in BlindLlama's form (goldenpcr.Parse). A
// file without any is an error: it would agree with every machine.
func ParseGolden(name string, data []byte) (Golden, error) {
	g, err := goldenpcr.Parse(name, data)
	if err == nil && len(g) == 0 {
		err = &place.Fault{Input: "golden measurements", Where: place.Where{File: name, Pointer: "/measurements"}, Found: "none", Want: "a value for each PCR"}
	}
	if err != nil {
		return nil, err
	}
	return g, nil
}
