package manifest

import (
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"

	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/jsondoc"
)

// OwnerKey is the public half of a key file that Contrast writes beside the
// manifest (workload-owner.pem, seedshare-owner.pem), as manifests hold it.
type OwnerKey struct {
	Field  string        // manifest field such a key belongs to, in its newest name
	Hex    string        // PKIX DER of an EC key, PKCS #1 DER of an RSA key
	Digest digest.Digest // SHA-256 of that DER, what manifests before 1.20 hold of EC keys
}

// maxKeyFile bounds a PEM file; one of RSA-4096 has 3.3 KB.
const maxKeyFile = 64 << 10

// ParseOwnerKey reads the first PEM block of a key file: EC PRIVATE KEY (SEC 1),
// RSA PRIVATE KEY (PKCS #1), PRIVATE KEY (PKCS #8), PUBLIC KEY (PKIX) or RSA
// PUBLIC KEY (PKCS #1). Private parts are not kept.
func ParseOwnerKey(file string, data []byte) (OwnerKey, error) {
	fail := func(msg string) (OwnerKey, error) { return OwnerKey{}, &Error{File: file, Msg: msg} }
	if len(data) > maxKeyFile {
		return fail(fmt.Sprintf("key file has %d bytes, the limit is %d", len(data), maxKeyFile))
	}
	block, _ := pem.Decode(data)
	if block == nil {
		return fail("no PEM block found")
	}
	key, err := publicKey(block)
	if err != nil {
		return fail(fmt.Sprintf("PEM block %q: %v", clip(block.Type), err))
	}
	var k OwnerKey
	var der []byte
	switch key := key.(type) {
	case *ecdsa.PublicKey:
		k.Field = "WorkloadOwnerPubKeys"
		if der, err = x509.MarshalPKIXPublicKey(key); err != nil {
			return fail(err.Error())
		}
	case *rsa.PublicKey:
		k.Field = "SeedshareOwnerPubKeys"
		der = x509.MarshalPKCS1PublicKey(key)
	default:
		return fail(fmt.Sprintf("want an ECDSA or RSA key, found %T", key))
	}
	k.Hex, k.Digest = hex.EncodeToString(der), digest.SHA256.Sum(der)
	return k, nil
}

func publicKey(block *pem.Block) (any, error) {
	switch block.Type {
	case "EC PRIVATE KEY":
		key, err := x509.ParseECPrivateKey(block.Bytes)
		if err != nil {
			return nil, err
		}
		return &key.PublicKey, nil
	case "RSA PRIVATE KEY":
		key, err := x509.ParsePKCS1PrivateKey(block.Bytes)
		if err != nil {
			return nil, err
		}
		return &key.PublicKey, nil
	case "PRIVATE KEY":
		key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
		if err != nil {
			return nil, err
		}
		switch key := key.(type) {
		case *ecdsa.PrivateKey:
			return &key.PublicKey, nil
		case *rsa.PrivateKey:
			return &key.PublicKey, nil
		}
		return nil, fmt.Errorf("key of type %T", key)
	case "PUBLIC KEY":
		return x509.ParsePKIXPublicKey(block.Bytes)
	case "RSA PUBLIC KEY":
		return x509.ParsePKCS1PublicKey(block.Bytes)
	}
	return nil, errors.New("want a private or public key")
}

// FindOwnerKey returns the JSON pointer of the key, or of its digest, in the
// manifest; false if the manifest does not hold it.
func (m *Manifest) FindOwnerKey(k OwnerKey) (pointer string, ok bool) {
	for _, f := range []struct{ name, want string }{
		{"WorkloadOwnerPubKeys", k.Hex}, {"SeedshareOwnerPubKeys", k.Hex}, {"WorkloadOwnerKeyDigests", k.Digest.Hex()},
	} {
		v := m.tree.Get(f.name)
		if v == nil || v.Kind != jsondoc.Array {
			continue
		}
		for i, e := range v.Elems {
			if strings.EqualFold(text(e), f.want) {
				return indexPointer("/"+f.name, i), true
			}
		}
	}
	return "", false
}
