package fake

import (
	"crypto/elliptic"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/binary"
	"time"

	"github.com/tinylib/msgp/msgp"
)

// DstackEvent is one event of dstack's log.
type DstackEvent struct {
	IMR, Type       uint32
	Digest, Payload []byte
	Name            string
}

// Attestation is dstack's versioned attestation of a TDX machine, or of an SEV-SNP
// one where Report is given.
type Attestation struct {
	Quote, Report []byte
	Certificates  [][]byte
	Events        []DstackEvent
	ReportData    [64]byte
	Config        string
}

// compact appends a length in Parity's SCALE codec.
func compact(b []byte, n int) []byte {
	switch {
	case n < 1<<6:
		return append(b, byte(n<<2))
	case n < 1<<14:
		return binary.LittleEndian.AppendUint16(b, uint16(n<<2|1))
	}
	return binary.LittleEndian.AppendUint32(b, uint32(n<<2|2))
}

func vector[T string | []byte](b []byte, v T) []byte { return append(compact(b, len(v)), v...) }

// V0 writes it in SCALE.
func (a Attestation) V0() []byte {
	b := []byte{0, 0}
	if a.Report != nil {
		b[1] = 3
		b = vector(b, a.Report)
		b = compact(b, len(a.Certificates))
		for _, c := range a.Certificates {
			b = vector(b, c)
		}
		b = vector(b, "{}")
	} else {
		b = vector(b, a.Quote)
		b = compact(b, len(a.Events))
		for _, e := range a.Events {
			b = binary.LittleEndian.AppendUint32(b, e.IMR)
			b = binary.LittleEndian.AppendUint32(b, e.Type)
			b = vector(b, e.Digest)
			b = vector(b, e.Name)
			b = vector(b, e.Payload)
		}
	}
	b = compact(b, 1) // runtime events
	b = vector(vector(b, "name"), []byte("payload"))
	b = append(b, a.ReportData[:]...)
	return vector(b, a.Config)
}

// list writes bytes as a list of numbers, as Rust's serializers do by default.
func list(b, v []byte) []byte {
	b = msgp.AppendArrayHeader(b, uint32(len(v)))
	for _, x := range v {
		b = msgp.AppendUint8(b, x)
	}
	return b
}

// V1 writes it in MessagePack.
func (a Attestation) V1() []byte {
	key := msgp.AppendString
	b := msgp.AppendMapHeader(nil, 3)
	b = msgp.AppendUint64(key(b, "version"), 1)
	b = msgp.AppendMapHeader(key(b, "platform"), 2)
	if a.Report != nil {
		b = msgp.AppendString(key(b, "kind"), "sev-snp")
		b = msgp.AppendMapHeader(key(b, "data"), 3)
		b = list(key(b, "report"), a.Report)
		b = msgp.AppendArrayHeader(key(b, "cert_chain"), uint32(len(a.Certificates)))
		for _, c := range a.Certificates {
			b = list(b, c)
		}
		b = msgp.AppendString(key(b, "mr_config"), "{}")
	} else {
		b = msgp.AppendString(key(b, "kind"), "tdx")
		b = msgp.AppendMapHeader(key(b, "data"), 2)
		b = list(key(b, "quote"), a.Quote)
		b = msgp.AppendArrayHeader(key(b, "event_log"), uint32(len(a.Events)))
		for _, e := range a.Events {
			b = msgp.AppendMapHeader(b, 5)
			b = msgp.AppendUint32(key(b, "imr"), e.IMR)
			b = msgp.AppendUint32(key(b, "event_type"), e.Type)
			b = msgp.AppendBytes(key(b, "digest"), e.Digest)
			b = msgp.AppendString(key(b, "event"), e.Name)
			b = msgp.AppendBytes(key(b, "event_payload"), e.Payload)
		}
	}
	b = msgp.AppendMapHeader(key(b, "stack"), 2)
	b = msgp.AppendString(key(b, "kind"), "dstack")
	b = msgp.AppendMapHeader(key(b, "data"), 3)
	b = list(key(b, "report_data"), a.ReportData[:])
	b = msgp.AppendArrayHeader(key(b, "runtime_events"), 0)
	return msgp.AppendString(key(b, "config"), a.Config)
}

// An Extension of an RA-TLS certificate: the value stands in an OCTET STRING of its
// own, unless it is bare.
type Extension struct {
	ID    asn1.ObjectIdentifier
	Value []byte
	Bare  bool
}

// RATLS makes a certificate with extensions for a key from the seed. The key alone
// does not depend on them, so that a quote in one can name it: see RATLSKey.
func RATLS(seed string, from, until time.Time, extensions ...Extension) (*x509.Certificate, error) {
	key, err := Key(elliptic.P256(), "ratls "+seed)
	if err != nil {
		return nil, err
	}
	c := Certificate{Name: "retally test RA-TLS", From: from, Until: until, Serial: 5}
	for _, e := range extensions {
		value := e.Value
		if !e.Bare {
			if value, err = asn1.Marshal(e.Value); err != nil {
				return nil, err
			}
		}
		c.Extensions = append(c.Extensions, pkix.Extension{Id: e.ID, Value: value})
	}
	return Issue(c, key, nil, nil)
}

// RATLSKey is the SubjectPublicKeyInfo of RATLS's certificates.
func RATLSKey(seed string) ([]byte, error) {
	key, err := Key(elliptic.P256(), "ratls "+seed)
	if err != nil {
		return nil, err
	}
	return x509.MarshalPKIXPublicKey(&key.PublicKey)
}
