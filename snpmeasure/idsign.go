package snpmeasure

import (
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha512"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"slices"

	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/place"
)

// SignID authenticates a block with the owner's keys; without an author key
// the ID key speaks for itself. Signatures are randomized.
func SignID(block []byte, id, author *ecdsa.PrivateKey) (*IDAuth, error) {
	a := &IDAuth{}
	var err error
	if a.IDKey, err = publicKeyOf(&id.PublicKey); err != nil {
		return nil, err
	}
	if a.Signature, err = sign(id, block); err != nil {
		return nil, err
	}
	if author == nil {
		return a, nil
	}
	a.AuthorAlgorithm = algECDSA
	if a.AuthorKey, err = publicKeyOf(&author.PublicKey); err != nil {
		return nil, err
	}
	a.AuthorSignature, err = sign(author, a.IDKey.Bytes())
	return a, err
}

func sign(key *ecdsa.PrivateKey, message []byte) (s Signature, err error) {
	sum := sha512.Sum384(message)
	r, ss, err := ecdsa.Sign(rand.Reader, key, sum[:])
	if err != nil {
		return s, err
	}
	r.FillBytes(s.R[:])
	ss.FillBytes(s.S[:])
	return s, nil
}

// maxKeyFile bounds a key file; an EC key has some 300 bytes.
const maxKeyFile = 64 << 10

// ParsePrivateKey reads a key of P-384 in PEM: SEC 1 ("EC PRIVATE KEY", with
// or without its parameters before it) or PKCS 8 ("PRIVATE KEY").
func ParsePrivateKey(name string, data []byte) (*ecdsa.PrivateKey, error) {
	bad := func(found string, err error) error {
		return &place.Fault{Input: "private key", Where: place.InFile(name), Found: found, Want: "an unencrypted ECDSA key of P-384 in PEM", Hint: "openssl ecparam -name secp384r1 -genkey makes one", Err: err}
	}
	if len(data) > maxKeyFile {
		return nil, bad(fmt.Sprintf("%d bytes", len(data)), nil)
	}
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		var key any
		var err error
		switch block.Type {
		case "EC PARAMETERS":
			continue
		case "EC PRIVATE KEY":
			key, err = x509.ParseECPrivateKey(block.Bytes)
		case "PRIVATE KEY":
			key, err = x509.ParsePKCS8PrivateKey(block.Bytes)
		default:
			return nil, bad("a PEM block "+block.Type, nil)
		}
		if err != nil {
			return nil, bad("", err)
		}
		k, ok := key.(*ecdsa.PrivateKey)
		if !ok || k.Curve != elliptic.P384() {
			return nil, bad("a key of another kind", nil)
		}
		return k, nil
	}
	return nil, bad("no PEM block with a key", nil)
}

// ContrastForm is one of the two forms in which Contrast writes ID blocks.
type ContrastForm string

// The forms. Contrast publishes no keys: the signature is the pair (2, 1), and
// the key is the one that makes it valid, so that whoever knows the launch
// digest and the policy can make both structures.
const (
	// ContrastCurrent has the family id 1 and the image id 2 (internal/idblock
	// at 9edad599 and 3dba937d).
	ContrastCurrent ContrastForm = "current"
	// ContrastEarly has ids of zeros and says 1 as the author key's algorithm
	// (19cd56d5).
	ContrastEarly ContrastForm = "early"
)

// ContrastID makes the ID block and its authentication for a launch digest and
// a guest policy (Contrast and Privatemode specification, 2.4).
func ContrastID(form ContrastForm, launch digest.Digest, policy uint64) (*IDBlock, *IDAuth, error) {
	b := &IDBlock{LaunchDigest: launch, Version: 1, GuestSVN: 2, Policy: policy}
	a := &IDAuth{}
	switch form {
	case ContrastCurrent:
		b.FamilyID[0], b.ImageID[0] = 1, 2
	case ContrastEarly:
		a.AuthorAlgorithm = algECDSA
	default:
		return nil, nil, setting("form of the ID block", fmt.Sprintf("%.40q", form), "current or early", "")
	}
	raw, err := b.Bytes()
	if err != nil {
		return nil, nil, err
	}
	a.Signature.R[scalar-1], a.Signature.S[scalar-1] = 2, 1
	if a.IDKey, err = recoverKey(raw); err != nil {
		return nil, nil, err
	}
	return b, a, a.Verify(raw)
}

// recoverKey finds the key by which (r, s) = (2, 1) signs the message: with
// the points R that have the x coordinate r, Q = r^-1 (s R - z G). Of the two
// the one with the smaller x, then y, counts.
func recoverKey(message []byte) (PublicKey, error) {
	curve := elliptic.P384().Params()
	sum := sha512.Sum384(message)
	z := new(big.Int).SetBytes(sum[:])
	z.Mod(z, curve.N)
	if z.Sign() == 0 {
		return PublicKey{}, errors.New("recover ID key: the hash is a multiple of the curve's order")
	}
	base, err := ecdh.P384().NewPrivateKey(z.FillBytes(make([]byte, scalar)))
	if err != nil {
		return PublicKey{}, fmt.Errorf("recover ID key: %w", err)
	}
	zG := base.PublicKey().Bytes()
	x1, y1 := big.NewInt(2), new(big.Int)
	if y1 = curveY(curve, x1); y1 == nil {
		return PublicKey{}, errors.New("recover ID key: no point with x = 2")
	}
	x2, y2 := new(big.Int).SetBytes(zG[1:1+scalar]), new(big.Int).SetBytes(zG[1+scalar:])
	y2.Sub(curve.P, y2) // -zG
	half, err := ecdh.P384().NewPrivateKey(new(big.Int).ModInverse(big.NewInt(2), curve.N).FillBytes(make([]byte, scalar)))
	if err != nil {
		return PublicKey{}, fmt.Errorf("recover ID key: %w", err)
	}
	var found []PublicKey
	for _, y := range []*big.Int{y1, new(big.Int).Sub(curve.P, y1)} {
		k, err := halve(curve, half, message, x1, y, x2, y2)
		if err != nil {
			return PublicKey{}, fmt.Errorf("recover ID key: %w", err)
		}
		found = append(found, k)
	}
	slices.SortFunc(found, func(a, b PublicKey) int {
		return slices.Compare(append(a.X[:], a.Y[:]...), append(b.X[:], b.Y[:]...))
	})
	return found[0], nil
}

// curveY is a y of the curve for x, nil if there is none.
func curveY(curve *elliptic.CurveParams, x *big.Int) *big.Int {
	y := new(big.Int).Exp(x, big.NewInt(3), curve.P)
	y.Sub(y, new(big.Int).Mul(big.NewInt(3), x))
	y.Add(y, curve.B).Mod(y, curve.P)
	return y.ModSqrt(y, curve.P)
}

// halve adds two points of different x and halves the sum. The standard
// library multiplies points but gives only the x of a product, so of the two
// y that x has, the one by which the signature verifies is taken.
func halve(curve *elliptic.CurveParams, half *ecdh.PrivateKey, message []byte, x1, y1, x2, y2 *big.Int) (k PublicKey, err error) {
	dx := new(big.Int).Sub(x2, x1)
	if dx.Mod(dx, curve.P).Sign() == 0 {
		return k, errors.New("the two points have one x")
	}
	slope := new(big.Int).Sub(y2, y1)
	slope.Mul(slope, dx.ModInverse(dx, curve.P)).Mod(slope, curve.P)
	x := new(big.Int).Mul(slope, slope)
	x.Sub(x, x1).Sub(x, x2).Mod(x, curve.P)
	y := new(big.Int).Sub(x1, x)
	y.Mul(y, slope).Sub(y, y1).Mod(y, curve.P)
	point := make([]byte, 1+2*scalar)
	point[0] = 4
	x.FillBytes(point[1 : 1+scalar])
	y.FillBytes(point[1+scalar:])
	sumPoint, err := ecdh.P384().NewPublicKey(point)
	if err != nil {
		return k, err
	}
	raw, err := half.ECDH(sumPoint)
	if err != nil {
		return k, err
	}
	copy(k.X[:], raw)
	root := curveY(curve, new(big.Int).SetBytes(raw))
	if root == nil {
		return k, errors.New("no y for the product")
	}
	var sig Signature
	sig.R[scalar-1], sig.S[scalar-1] = 2, 1
	for _, y := range []*big.Int{root, new(big.Int).Sub(curve.P, root)} {
		y.FillBytes(k.Y[:])
		if verifyECDSA("ID block", &k, &sig, message) == nil {
			return k, nil
		}
	}
	return k, errors.New("neither key verifies")
}
