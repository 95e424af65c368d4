package manifest

import (
	"errors"
	"fmt"

	"github.com/retally/retally/internal/digest"
)

// Transition is one step of a Coordinator's history: the manifest that was set,
// and the transition before it (Contrast and Privatemode specification, 4.2).
type Transition struct {
	Manifest digest.Digest // SHA-256 of the manifest's bytes
	Previous digest.Digest // hash of the transition before, 32 zero bytes for the first
}

// TransitionSize is the length of an encoded transition.
const TransitionSize = 64

// Bytes encodes the transition.
func (t Transition) Bytes() []byte { return append(t.Manifest.Bytes(), t.Previous.Bytes()...) }

// Hash is the SHA-256 of the encoding, by which the next transition names it.
func (t Transition) Hash() digest.Digest { return digest.SHA256.Sum(t.Bytes()) }

// ParseTransition decodes 64 bytes.
func ParseTransition(data []byte) (Transition, error) {
	if len(data) != TransitionSize {
		return Transition{}, fmt.Errorf("read transition: %d bytes, want %d", len(data), TransitionSize)
	}
	m, err := digest.FromBytes(digest.SHA256, data[:32])
	if err != nil {
		return Transition{}, err
	}
	p, err := digest.FromBytes(digest.SHA256, data[32:])
	return Transition{m, p}, err
}

// noTransition is what stands before the first one: 32 zero bytes.
func noTransition() digest.Digest {
	d, err := digest.FromBytes(digest.SHA256, make([]byte, 32))
	if err != nil {
		panic(err) // the length is right
	}
	return d
}

// History makes the transitions by which manifests follow one another, oldest
// first. The manifests are hashed as bytes: nothing of their text is read.
func History(manifests ...[]byte) []Transition {
	out := make([]Transition, len(manifests))
	previous := noTransition()
	for i, m := range manifests {
		out[i] = Transition{Manifest: digest.SHA256.Sum(m), Previous: previous}
		previous = out[i].Hash()
	}
	return out
}

// ErrHistory is the reason where a history is none.
var ErrHistory = errors.New("not one history")

// CheckHistory checks that a list of transitions, oldest first, is a whole
// history: it begins at the beginning, each names the one before it, and none
// is there twice. It wraps ErrHistory and names the place from 1.
func CheckHistory(list []Transition) error {
	if len(list) == 0 {
		return fmt.Errorf("%w: it has no transition", ErrHistory)
	}
	want := noTransition()
	seen := map[digest.Digest]int{}
	for i, t := range list {
		hash := t.Hash()
		switch first, again := seen[t.Previous]; {
		case t.Previous == want:
		case i == 0:
			return fmt.Errorf("%w: transition 1 follows %s, so that the beginning is missing", ErrHistory, t.Previous)
		case t.Previous == noTransition():
			return fmt.Errorf("%w: transition %d begins anew", ErrHistory, i+1)
		case again:
			return fmt.Errorf("%w: transition %d follows transition %d, as transition %d does: a fork", ErrHistory, i+1, first, first+1)
		default:
			return fmt.Errorf("%w: transition %d follows %s, want %s: one is missing, or they are out of order", ErrHistory, i+1, t.Previous, want)
		}
		seen[hash] = i + 1
		want = hash
	}
	return nil
}

// CheckManifests checks that manifests, oldest first, are those of a history that
// ends in the given transition hash.
func CheckManifests(latest digest.Digest, manifests ...[]byte) error {
	list := History(manifests...)
	if len(list) == 0 {
		return fmt.Errorf("%w: no manifest is given", ErrHistory)
	}
	if got := list[len(list)-1].Hash(); got != latest {
		return fmt.Errorf("%w: these manifests lead to transition %s, want %s", ErrHistory, got, latest)
	}
	return nil
}
