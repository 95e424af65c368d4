package stages_test

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
	"testing"

	"github.com/retally/retally/pipeline"
	"github.com/retally/retally/pipeline/stages"
)

// manifestOf has n workloads, whose hashes begin at from.
func manifestOf(n, from int) []byte {
	var b strings.Builder
	b.WriteString(`{"Policies":{`)
	for i := range n {
		fmt.Fprintf(&b, `"%064x":{"SANs":["w%d"],"WorkloadSecretID":"apps/v1/Deployment/n/w%d"},`, i+from, i, i)
	}
	zeros := strings.Repeat("00", 48)
	fmt.Fprintf(&b, `"%s":{"SANs":["c"],"WorkloadSecretID":"apps/v1/StatefulSet/n/c","Role":"coordinator"}},"ReferenceValues":{"tdx":[{"Platform":"M","MrTd":"%s","MrSeam":"%s","Rtmrs":["%s","%s","%s","%s"],"Xfam":"e702060000000000"}]}}`,
		strings.Repeat("f", 64), zeros, zeros, zeros, zeros, zeros, zeros)
	return []byte(b.String())
}

// reportOf has n digests, the first that of the number from.
func reportOf(n, from int) []byte {
	var b strings.Builder
	fmt.Fprintf(&b, `{"schema":%q,"measurements":[`, pipeline.Schema)
	for i := range n {
		sum := sha256.Sum256(fmt.Append(nil, i+from))
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, `{"key":"image/x%d/manifest","value":"sha256:%s","basis":"copied"}`, i, hex.EncodeToString(sum[:]))
	}
	b.WriteString("]}")
	return []byte(b.String())
}

// BenchmarkCompare reports the time of one entry, which must not grow with their
// number: equal manifests, manifests of which every hash differs, and reports of
// which every digest stands one place further.
func BenchmarkCompare(b *testing.B) {
	for _, tt := range []struct {
		name string
		make func(n, from int) []byte
		from int
	}{{"equal manifests", manifestOf, 0}, {"other hashes", manifestOf, 1 << 20}, {"reports", reportOf, 1}} {
		for _, n := range []int{500, 2000, 8000} {
			b.Run(fmt.Sprintf("%s/%d", tt.name, n), func(b *testing.B) {
				x, y := stages.File{Name: "a.json", Data: tt.make(n, 0)}, stages.File{Name: "b.json", Data: tt.make(n, tt.from)}
				for b.Loop() {
					if _, err := stages.CompareFiles(x, y, pipeline.Tool{Name: "retally"}); err != nil {
						b.Fatal(err)
					}
				}
				b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*n), "ns/entry")
			})
		}
	}
}
