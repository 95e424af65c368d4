// Package rules holds our own policy rules: Rego that compares the requests of
// a host with policy data. They follow the documented meaning of the data.
package rules

import (
	_ "embed"
	"fmt"
	"strings"

	"github.com/retally/retally/policygen"
)

// Binding says what ties a container to its image.
type Binding string

// The bindings.
const (
	Annotation Binding = "annotation" // the digest in the image-name annotation is the pinned one
	GuestPull  Binding = "guest_pull" // the guest pulls the image by its pinned digest
	Off        Binding = "off"        // nothing
)

//go:embed default.rego
var source string

const bindingLine = "image_binding := \"annotation\"\n"

// Default gives our rules with that binding. With a binding other than Off
// every image must be pinned by digest.
func Default(b Binding) (policygen.Rules, error) {
	switch b {
	case Annotation, GuestPull, Off:
	default:
		return policygen.Rules{}, fmt.Errorf("image binding %q is not known: use %s, %s or %s", b, Annotation, GuestPull, Off)
	}
	text := strings.Replace(source, bindingLine, fmt.Sprintf("image_binding := %q\n", b), 1)
	return policygen.Rules{Name: "retally rules (image binding " + string(b) + ")", Text: []byte(text), RequirePinned: b != Off}, nil
}
