package capture

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"

	"github.com/retally/retally/evidence/malformed"
	"github.com/retally/retally/internal/jsondoc"
)

func indexError(place, found, want string) error {
	return &malformed.Error{Input: Index, Place: place, Found: found, Want: want}
}

// members are what each object of the index may have, spelled exactly so.
var members = struct{ index, page, connection []string }{
	index:      []string{"format", "target", "captured_at", "nonce", "pages", "connections"},
	page:       []string{"kind", "path", "status", "content_type", "file", "digest", "connection", "problem"},
	connection: []string{"number", "tls_version", "server_name", "certificates"},
}

// parseIndex reads the index and refuses one whose parts contradict each other:
// it says which certificate the quote came under, so nothing in it may be read
// in two ways.
func parseIndex(text []byte) (*index, error) {
	doc, err := jsondoc.Parse(text, jsondoc.Limits{Bytes: maxIndex, Depth: 8, Values: 4096})
	if err != nil {
		return nil, indexError("", err.Error(), "the index of a capture")
	}
	if err := onlyMembers(doc, "", members.index); err != nil {
		return nil, err
	}
	for list, known := range map[string][]string{"pages": members.page, "connections": members.connection} {
		v := doc.Get(list)
		if v == nil || v.Kind != jsondoc.Array {
			return nil, indexError("/"+list, "no list", "a list")
		}
		for i, e := range v.Elems {
			if err := onlyMembers(e, fmt.Sprintf("/%s/%d", list, i), known); err != nil {
				return nil, err
			}
		}
	}
	var x index
	if err := json.Unmarshal(text, &x); err != nil {
		return nil, indexError("", err.Error(), "the index of a capture")
	}
	if x.Format != format {
		return nil, indexError("/format", fmt.Sprintf("%q", x.Format), fmt.Sprintf("%q", format))
	}
	return &x, x.check()
}

func isNonce(s string) bool {
	b, err := hex.DecodeString(s)
	return err == nil && len(b) == 32
}

func onlyMembers(v *jsondoc.Value, place string, known []string) error {
	if v.Kind != jsondoc.Object {
		return indexError(place, "a value of type "+v.Kind.String(), "an object")
	}
	for _, m := range v.Members {
		if !slices.Contains(known, m.Key) {
			return indexError(place+"/"+jsondoc.EscapePointer(m.Key), "an unknown member", strings.Join(known, ", "))
		}
	}
	return nil
}

func (x *index) check() error {
	host, port, err := ParseTarget(x.Target)
	switch {
	case err != nil || net.JoinHostPort(host, port) != x.Target:
		return indexError("/target", fmt.Sprintf("%q", x.Target), "HOST:PORT")
	case x.Nonce != "" && !isNonce(x.Nonce):
		return indexError("/nonce", fmt.Sprintf("%q", x.Nonce), "64 hex digits")
	case x.At.IsZero():
		return indexError("/captured_at", "no time", "when the pages were fetched")
	case len(x.Pages) > MaxPages:
		return indexError("/pages", fmt.Sprintf("%d pages", len(x.Pages)), fmt.Sprintf("at most %d", MaxPages))
	case len(x.Connections) > MaxConnections:
		return indexError("/connections", fmt.Sprintf("%d connections", len(x.Connections)), fmt.Sprintf("at most %d", MaxConnections))
	}
	for i, c := range x.Connections {
		place := fmt.Sprintf("/connections/%d", i)
		switch {
		case c.Number != i+1:
			return indexError(place+"/number", fmt.Sprint(c.Number), fmt.Sprintf("%d, connections are numbered in their order", i+1))
		case c.Version != "TLS 1.2" && c.Version != "TLS 1.3":
			return indexError(place+"/tls_version", fmt.Sprintf("%q", c.Version), "TLS 1.2 or TLS 1.3")
		case c.ServerName != host:
			return indexError(place+"/server_name", fmt.Sprintf("%q", c.ServerName), fmt.Sprintf("%q, the target's", host))
		case c.File != chainFile(c.Number):
			return indexError(place+"/certificates", fmt.Sprintf("%q", c.File), fmt.Sprintf("%q, a file in the capture's folder", chainFile(c.Number)))
		}
	}
	return x.checkPages()
}

// kinds are what a capture's pages can be: those of a SecretVM, or of a Coordinator
// that was asked with a nonce.
func (x *index) kinds() []Kind {
	if x.Nonce != "" {
		return []Kind{Capabilities, Attest}
	}
	return []Kind{CPU, GPU, Compose}
}

func (x *index) checkPages() error {
	files, kinds, paths := map[string]bool{}, map[Kind]bool{}, map[string]bool{}
	last := 0
	for i, p := range x.Pages {
		place := fmt.Sprintf("/pages/%d", i)
		shown := p.File != ""
		switch {
		case !slices.Contains(x.kinds(), p.Kind):
			return indexError(place+"/kind", fmt.Sprintf("%q", p.Kind), fmt.Sprintf("one of %q", x.kinds()))
		case !strings.HasPrefix(p.Path, "/") || paths[p.Path]:
			return indexError(place+"/path", fmt.Sprintf("%q", p.Path), "a path, each once")
		case p.Problem != "" && (shown || p.Status != 0):
			return indexError(place, "a page with a problem and an answer", "one of them")
		case p.Problem == "" && (p.Status < 100 || p.Status > 599):
			return indexError(place+"/status", fmt.Sprint(p.Status), "the status of an answer")
		case shown != (p.Status == http.StatusOK) || shown == p.SHA256.IsZero():
			return indexError(place, fmt.Sprintf("status %d, file %q, digest %q", p.Status, p.File, p.SHA256), "file and digest where the status is 200, and only there")
		case shown && p.File != pageFile(p.Path):
			return indexError(place+"/file", fmt.Sprintf("%q", p.File), fmt.Sprintf("%q, a file in the capture's folder", pageFile(p.Path)))
		case shown && (files[p.File] || kinds[p.Kind]):
			return indexError(place, fmt.Sprintf("a second page of kind %q or in file %q", p.Kind, p.File), "one of each")
		case p.Connection < 0 || p.Connection > len(x.Connections) || p.Connection == 0 && p.Problem == "":
			return indexError(place+"/connection", fmt.Sprint(p.Connection), fmt.Sprintf("one of the %d connections", len(x.Connections)))
		case p.Connection != 0 && p.Connection < last:
			return indexError(place+"/connection", fmt.Sprint(p.Connection), fmt.Sprintf("%d or later: pages are fetched one after the other", last))
		}
		paths[p.Path] = true
		last = max(last, p.Connection)
		if shown {
			files[p.File], kinds[p.Kind] = true, true
		}
	}
	return nil
}
