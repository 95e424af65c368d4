package recompress_test

import (
	"bytes"
	"fmt"
	"os/exec"
	"testing"

	"github.com/retally/retally/imagehash/internal/recompress"
	"github.com/retally/retally/internal/testenv"
)

// What gzip and pigz make is told apart from zlib's own, at every level.
func TestIdentifyTools(t *testing.T) {
	for tool, name := range map[string]string{"gzip": recompress.GNU, "pigz": recompress.Pigz} {
		t.Run(tool, func(t *testing.T) {
			program := testenv.Oracle(t, tool)
			for level := 1; level <= 9; level++ {
				args := []string{"-n", fmt.Sprintf("-%d", level)}
				if tool == "pigz" {
					args = append(args, "-p2")
				}
				cmd := exec.Command(program, args...)
				cmd.Stdin = bytes.NewReader(plain())
				z, err := cmd.Output()
				if err != nil {
					t.Fatal(err)
				}
				if got := identify(t, recompress.Gzip, z); got.Implementation != name || got.Level != level {
					t.Errorf("%s -%d: got %v", tool, level, got)
				}
			}
		})
	}
}
