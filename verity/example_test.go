package verity_test

import (
	"bytes"
	"context"
	"fmt"

	"github.com/retally/retally/verity"
)

// One block of zeros with the salt of the model disks: the root hash is the
// digest of the block itself.
func ExampleRootOf() {
	p := verity.Defaults()
	p.Salt = []byte{0}
	data := make([]byte, 4096)
	res, err := verity.RootOf(context.Background(), bytes.NewReader(data), int64(len(data)), p, verity.Options{}, nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(res.Root.Hex())
	// Output: b587fa297299ce9c602e58292b51379402bf7b1074f6b18679c2fb871c917ca8
}
