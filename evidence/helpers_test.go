package evidence_test

import (
	"crypto/sha512"
	"crypto/x509"
	"fmt"
	"testing"
	"time"

	"github.com/retally/retally/evidence"
	"github.com/retally/retally/evidence/fake"
	"github.com/retally/retally/evidence/tdxquote"
	"github.com/retally/retally/internal/digest"
)

var (
	from  = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	until = time.Date(2033, 1, 1, 0, 0, 0, 0, time.UTC)
	now   = time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC)
)

// extend folds events into an RTMR; short ones are padded with zeros.
func extend(t testing.TB, events ...[]byte) digest.Digest {
	t.Helper()
	var r [48]byte
	for _, e := range events {
		var in [96]byte
		copy(in[:], r[:])
		copy(in[48:], e)
		r = sha512.Sum384(in[:])
	}
	d, err := digest.FromBytes(digest.SHA384, r[:])
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func ownPlatform(t testing.TB) *fake.Platform {
	t.Helper()
	p, err := fake.NewPlatform("evidence", from, until)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func roots(p *fake.Platform) []*x509.Certificate { return []*x509.Certificate{p.Root} }

func sum(s string) digest.Digest { return digest.SHA384.Sum([]byte(s)) }

var (
	compose = evidence.File{Name: "compose.yaml", Data: []byte("services:\n  web: {image: nginx}\n")}
	rootfs  = digest.SHA256.Sum([]byte("rootfs"))
)

func ownBody(t testing.TB) tdxquote.Body {
	b := tdxquote.Body{MRTD: sum("mrtd"), RTMR: [4]digest.Digest{sum("0"), sum("1"), sum("2")}}
	b.RTMR[3] = extend(t, digest.SHA256.Sum(compose.Data).Bytes(), rootfs.Bytes())
	return b
}

func ownQuote(t testing.TB, p *fake.Platform, b tdxquote.Body) []byte {
	t.Helper()
	raw, err := p.Quote(b, fake.Options{Trailing: 8})
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func ownRow(b tdxquote.Body) string {
	return fmt.Sprintf("small,prod,v1.0.0,%s,%s,%s,%s, %s,00", b.MRTD.Hex(), b.RTMR[0].Hex(), b.RTMR[1].Hex(), b.RTMR[2].Hex(), rootfs.Hex())
}

const header = "template_name,vm_type,artifacts_ver,mrtd,rtmr0,rtmr1,rtmr2,rootfs_data,host_id\n"
