package snpmeasure

import (
	"context"
	"crypto/sha512"
	"hash"

	"github.com/retally/retally/internal/digest"
)

// Ladder gives the launch digests alone of a machine with 1, 2, ... most CPUs:
// what a search goes through. What Measure refuses for most CPUs, it refuses.
func (m *Measurer) Ladder(ctx context.Context, c Config, most int) ([]digest.Digest, error) {
	c.VCPUs = most
	if err := c.check(&m.Artifacts); err != nil {
		return nil, err
	}
	s, err := m.stage(ctx, &c)
	if err != nil {
		return nil, err
	}
	n, err := s.cpusOf(&c, &Result{})
	if err != nil {
		return nil, err
	}
	l := &launch{ld: s.ld}
	if s.sha != nil {
		var clone hash.Cloner
		if clone, err = s.sha.Clone(); err != nil {
			return nil, err
		}
		l.sha = clone
	}
	s.registers(&c, l)
	return l.ladder(ctx, n)
}

// ExtendLadder is Ladder from the launch digest for one CPU, as Extend.
func ExtendLadder(ctx context.Context, one digest.Digest, apEIP uint32, c Config, most int) ([]digest.Digest, error) {
	// Extend checks the settings, and says what is wrong with them.
	if _, err := Extend(ctx, one, apEIP, c, []int{most}); err != nil {
		return nil, err
	}
	l := &launch{done: 1}
	copy(l.ld[:], one.Bytes())
	l.bsp, l.ap = new(vmsa), c.registers(apEIP)
	l.apSum = sha512.Sum384(l.ap[:])
	return l.ladder(ctx, most)
}

// ladder gives the state after each CPU up to n.
func (l *launch) ladder(ctx context.Context, n int) ([]digest.Digest, error) {
	out := make([]digest.Digest, 0, n)
	for i := 1; i <= n; i++ {
		if err := l.upTo(ctx, i); err != nil {
			return nil, err
		}
		d, err := l.digest()
		if err != nil {
			return nil, err
		}
		out = append(out, d)
	}
	return out, nil
}
