package recognize_test

import (
	"bytes"
	"testing"

	"github.com/retally/retally/fixtures"
	"github.com/retally/retally/pipeline/recognize"
)

// Whatever a file holds, recognizing it never fails otherwise than by saying
// that it is unknown.
func FuzzRecognize(f *testing.F) {
	files, err := fixtures.Demo()
	if err != nil {
		f.Fatal(err)
	}
	for _, file := range files {
		f.Add(file.Data)
	}
	for _, data := range machineFiles(f) {
		f.Add(data)
	}
	f.Add(bytes.Join([][]byte{sha1Record(0, 8, []byte("v")), sha1Record(0, 4, make([]byte, 4))}, nil))
	f.Add([]byte(`{"measurements":{"0":"00"}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) < 1<<16 {
			recognize.Content("f", data)
			recognize.Content("ak_binary_bios_measurements", data)
		}
	})
}
