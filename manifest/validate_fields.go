package manifest

import (
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"

	"github.com/retally/retally/internal/jsondoc"
)

// object checks every member of an object against the field table.
func (v *validator) object(o *jsondoc.Value, path, pointer string) {
	if o.Kind == jsondoc.Null {
		return
	}
	if o.Kind != jsondoc.Object {
		v.add(o, pointer, "wrong-type", SeverityError, "want an object, found "+describe(o), "")
		return
	}
	for _, member := range o.Members {
		at := pointer + "/" + jsondoc.EscapePointer(member.Key)
		if spec(path+"/"+member.Key) == nil || notInFile(path, member.Key) {
			v.unknown(member, at, path)
			continue
		}
		v.field(member.Value, path+"/"+member.Key, at)
	}
}

// notInFile names rows of the field table that no member stands for.
func notInFile(path, key string) bool {
	return path == "policy" && (key == "hash" || key == "CommonName")
}

// field checks one value's type, length and range.
func (v *validator) field(val *jsondoc.Value, path, pointer string) {
	f := spec(path)
	if val.Kind == jsondoc.Null {
		return // Go leaves the zero value; where that is not enough, the caller says so
	}
	wrong := func(want string) {
		v.add(val, pointer, "wrong-type", SeverityError, "want "+want+", found "+describe(val), "")
	}
	switch f.kind {
	case kObject:
		v.object(val, path, pointer)
	case kText:
		if val.Kind != jsondoc.String {
			wrong("text")
		}
	case kBool:
		if val.Kind != jsondoc.Bool {
			wrong("true or false")
		}
	case kUint:
		n, ok := val.Uint64()
		switch {
		case val.Kind != jsondoc.Number:
			wrong("a number")
		case !ok || n > f.max:
			v.add(val, pointer, "range", SeverityError, fmt.Sprintf("want a whole number from 0 to %d, found %s", f.max, clip(val.Text)), "")
		}
	case kHex:
		if val.Kind != jsondoc.String {
			wrong("hex digits")
			return
		}
		if path == "tdx/MrSeam" && val.Text == "" {
			return // reported as not filled in
		}
		v.hex(val, f.size, pointer)
	case kHexList, kTexts, kRegs:
		if val.Kind != jsondoc.Array {
			wrong("an array")
			return
		}
		v.list(val, f, pointer)
	}
}

func (v *validator) list(val *jsondoc.Value, f *fieldSpec, pointer string) {
	seen := map[string]int{}
	for i, e := range val.Elems {
		at := indexPointer(pointer, i)
		if f.kind == kRegs && v.alternatives(e) {
			v.add(e, at, "newer-form", SeverityUnjudged, fmt.Sprintf("%d values of one register: newer than this retally knows, and not judged", len(e.Elems)), "Contrast since September 2026 keeps several")
			continue
		}
		if e.Kind != jsondoc.String {
			v.add(e, at, "wrong-type", SeverityError, "want text, found "+describe(e), "")
			continue
		}
		id := e.Text
		if f.kind == kTexts {
			if e.Text == "" {
				v.add(e, at, "empty", SeverityError, "empty name", "")
			}
		} else {
			v.hex(e, f.size, at)
			id = strings.ToLower(id)
		}
		if first, dup := seen[id]; dup && f.kind != kRegs {
			v.add(e, at, "duplicate", SeverityWarning, "the same as element "+strconv.Itoa(first), "")
		} else {
			seen[id] = i
		}
	}
}

// alternatives reports whether a value may be several values of a register, as
// a newer version than is known keeps them.
func (v *validator) alternatives(e *jsondoc.Value) bool {
	return v.shape.Known() && v.shape.Newest == Newer && areRegisters(e)
}

// areRegisters reports whether a value is a list of hex texts of a register's
// size.
func areRegisters(e *jsondoc.Value) bool {
	if e == nil || e.Kind != jsondoc.Array || len(e.Elems) == 0 {
		return false
	}
	for _, x := range e.Elems {
		if raw, err := hex.DecodeString(text(x)); err != nil || len(raw) != 48 {
			return false
		}
	}
	return true
}

// hex checks a string of hex digits; size 0 leaves the length to others.
func (v *validator) hex(val *jsondoc.Value, size int, pointer string) {
	raw, err := hex.DecodeString(val.Text)
	switch {
	case err != nil:
		v.add(val, pointer, "hex", SeverityError, "not hex: "+quote(val.Text), hexHint(size))
	case size > 0 && len(raw) != size:
		v.add(val, pointer, "length", SeverityError, fmt.Sprintf("has %d bytes, want %d", len(raw), size), hexHint(size))
	}
}

func hexHint(size int) string {
	if size == 0 {
		return ""
	}
	return fmt.Sprintf("want %d hex digits", 2*size)
}

// ownerKeys parses the keys as Contrast does: PKIX EC keys, PKCS #1 RSA keys.
func (v *validator) ownerKeys(list *jsondoc.Value, name, pointer string) {
	if list.Kind != jsondoc.Array || name == "WorkloadOwnerKeyDigests" {
		return
	}
	for i, e := range list.Elems {
		der, err := hex.DecodeString(text(e))
		if err != nil || e.Kind != jsondoc.String {
			continue // reported as not hex
		}
		at := indexPointer(pointer, i)
		if name == "WorkloadOwnerPubKeys" {
			key, err := x509.ParsePKIXPublicKey(der)
			if _, ok := key.(*ecdsa.PublicKey); err != nil || !ok {
				hint := "want hex of the PKIX DER of an ECDSA public key"
				if len(der) == 32 {
					hint += "; this looks like a digest of one, as Contrast before 1.20 has it in WorkloadOwnerKeyDigests"
				}
				v.add(e, at, "owner-key", SeverityError, "not an ECDSA public key", hint)
			}
			continue
		}
		key, err := x509.ParsePKCS1PublicKey(der)
		if err != nil {
			hint := "want hex of the PKCS #1 DER of an RSA public key"
			if _, err := x509.ParsePKIXPublicKey(der); err == nil {
				hint += "; this one is PKIX, which Contrast does not read here"
			}
			v.add(e, at, "owner-key", SeverityError, "not an RSA public key", hint)
		} else if key.N.BitLen() < 2048 {
			v.add(e, at, "weak-key", SeverityWarning, fmt.Sprintf("RSA key of %d bits", key.N.BitLen()), "Contrast makes keys of 4096 bits")
		}
	}
}
