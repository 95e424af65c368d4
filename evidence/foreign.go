package evidence

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"strings"

	"github.com/retally/retally/evidence/malformed"
	"github.com/retally/retally/internal/jsondoc"
)

// A ForeignError says that a file is evidence, and of which kind, that is not
// judged here, or that it holds more than one machine's. It is no fault of the
// file.
type ForeignError struct {
	Input string
	What  string // "an SGX quote (version 3)"
	Why   string // "SGX quotes are not verified by this version"
}

func (e *ForeignError) Error() string {
	return "read " + e.Input + ": found " + e.What + "; " + e.Why
}

func sgxError(name, place, what string) error {
	return &ForeignError{name, what + at(place), "SGX quotes are not verified by this version"}
}

func at(place string) string {
	if place == "" {
		return ""
	}
	return " at " + place
}

// maxToken bounds a token that is named, in bytes.
const maxToken = 1 << 20

// token names a JSON Web Token (RFC 7519), or several in the list that NVIDIA's
// service answers with: what a verification service says of evidence that it saw,
// and no evidence. It is nil for everything else.
func token(name string, text []byte) error {
	if len(text) > maxToken {
		return nil
	}
	if issuer, ok := tokenIssuer(string(text)); ok {
		return tokenError(name, "", issuer)
	}
	return nil
}

func tokenError(name, place, issuer string) error {
	who := "a verification service"
	if issuer != "" {
		who = fmt.Sprintf("%.200q", issuer)
	}
	return &ForeignError{
		name, "a signed token (JWT)" + at(place) + " of " + who,
		"it is that service's word about evidence which it saw; ask for the evidence itself, such as the quote",
	}
}

// tokens names a token in a document without evidence: as "token", as a member of
// any name, or in the lists that NVIDIA's service answers with.
func tokens(name string, doc *jsondoc.Value) error {
	var look func(v *jsondoc.Value, place string, depth int) error
	look = func(v *jsondoc.Value, place string, depth int) error {
		if v == nil || depth > 8 {
			return nil
		}
		if v.Kind == jsondoc.String && len(v.Text) <= maxToken {
			if issuer, ok := tokenIssuer(v.Text); ok {
				return tokenError(name, place, issuer)
			}
		}
		for _, m := range v.Members {
			if err := look(m.Value, place+"/"+jsondoc.EscapePointer(m.Key), depth+1); err != nil {
				return err
			}
		}
		for i, e := range v.Elems {
			if err := look(e, fmt.Sprintf("%s/%d", place, i), depth+1); err != nil {
				return err
			}
		}
		return nil
	}
	return look(doc, "", 0)
}

// tokenIssuer splits a token and reads who made it.
func tokenIssuer(text string) (issuer string, ok bool) {
	parts := strings.Split(strings.TrimSpace(text), ".")
	if len(parts) != 3 || !strings.HasPrefix(parts[0], "ey") {
		return "", false
	}
	var docs [2]*jsondoc.Value
	for i := range docs {
		raw, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(parts[i], "="))
		if err != nil {
			return "", false
		}
		if docs[i], err = jsondoc.Parse(raw, jsondoc.Limits{Bytes: maxToken, Depth: 32}); err != nil {
			return "", false
		}
	}
	if docs[0].Get("alg") == nil {
		return "", false
	}
	if v := docs[1].Get("iss"); v != nil && v.Kind == jsondoc.String {
		issuer = v.Text
	}
	return issuer, true
}

// isPEM reports whether a text is made of PEM blocks.
func isPEM(text []byte) bool { return bytes.HasPrefix(text, []byte("-----BEGIN ")) }

func malformedFile(name, place, found, want string) error {
	return &malformed.Error{Input: name, Place: place, Found: found, Want: want}
}
