package shard

import (
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"slices"
)

// Draw chooses percent of n parts at random, at least one where percent is not 0.
// Whoever draws does it after all results have arrived.
func Draw(random io.Reader, n int, percent float64) ([]int, error) {
	if !(percent >= 0 && percent <= 100) {
		return nil, fmt.Errorf("a share of %v %% is none, want 0 to 100", percent)
	}
	k := min(int(math.Ceil(float64(n)*percent/100)), n)
	all := make([]int, n)
	for i := range all {
		all[i] = i
	}
	// Fisher and Yates's shuffle, of which only the first k places count.
	for i := range k {
		j, err := uniform(random, n-i)
		if err != nil {
			return nil, err
		}
		all[i], all[i+j] = all[i+j], all[i]
	}
	slices.Sort(all[:k])
	return all[:k], nil
}

// uniform draws a number below n without bias.
func uniform(random io.Reader, n int) (int, error) {
	var b [8]byte
	limit := math.MaxUint64 - math.MaxUint64%uint64(n)
	for {
		if _, err := io.ReadFull(random, b[:]); err != nil {
			return 0, err
		}
		if v := binary.LittleEndian.Uint64(b[:]); v < limit {
			return int(v % uint64(n)), nil
		}
	}
}

// Escape is the chance that an audit of audited out of n parts meets none of
// lying parts.
func Escape(n, audited, lying int) float64 {
	chance := 1.0
	for i := range lying {
		if n-audited-i <= 0 {
			return 0
		}
		chance *= float64(n-audited-i) / float64(n-i)
	}
	return chance
}
