package privatemode_test

import (
	"fmt"

	"github.com/retally/retally/privatemode"
)

func ExampleParseLog() {
	l, err := privatemode.ParseLog("log.txt", []byte("2025-04-08T16:43:07Z C:\\pm\\manifests\\1.json\r\n"))
	if err != nil {
		fmt.Println(err)
		return
	}
	e, _ := l.Latest()
	fmt.Println(e.Path)
	// Output: manifests/1.json
}
