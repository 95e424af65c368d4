// Package pipeline is the vocabulary of retally and the one place that judges.
// Measuring rooms compute plain results; a Stage gives them keys, a basis and
// their inputs; Compare holds them against what was published; a Report says
// what came out, with every difference explained as far as it can be.
//
// The words: a Measurement is what we computed, a Reference is what somebody
// published, a Finding is what their comparison says, a Cause is why.
package pipeline

import (
	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/trace"
)

// InputRef names one thing a value was computed from: a file or another
// measurement. Exactly one of File and Key is set.
type InputRef struct {
	File string `json:"file,omitempty"`
	Key  Key    `json:"key,omitempty"`
}

// FromFile and FromKey make input references.
func FromFile(name string) InputRef { return InputRef{File: name} }

// FromKey refers to another measurement.
func FromKey(k Key) InputRef { return InputRef{Key: k} }

// Input is a file that was read, with the identity its one read gave.
type Input struct {
	File   string        `json:"file"`
	Digest digest.Digest `json:"digest"`
	Size   int64         `json:"size"`
}

// Measurement is a computed value.
type Measurement struct {
	Key    Key          `json:"key"`
	Value  Value        `json:"value"`
	Basis  Basis        `json:"basis"`
	Inputs []InputRef   `json:"inputs,omitempty"`
	Trace  *trace.Trace `json:"trace,omitempty"`
	// Note says in words where the value stands or what it means, for people.
	Note string `json:"note,omitempty"`
}

// Relation says what a measurement must be for a reference to hold.
type Relation string

// The relations. Volatile holds for every value: it is new in each run or
// deployment, so a difference is expected and only reported.
const (
	Equal    Relation = "equal"
	Volatile Relation = "volatile"
)

// Stricter says which direction of a difference is safer, so that a changed
// minimum or allow-list can be called tightened or loosened.
type Stricter string

// The directions.
const (
	NoDirection  Stricter = ""
	StricterUp   Stricter = "higher" // a minimum: a higher one refuses more
	StricterLess Stricter = "fewer"  // an allow-list: fewer entries refuse more
	// StricterListed is an allow-list that is not applied at all when empty.
	StricterListed Stricter = "listed"
	StricterOff    Stricter = "off" // a permission: false refuses more
	StricterOn     Stricter = "on"  // a demand: true refuses more
	// StricterAbsent is a value that widens what is trusted by being there.
	StricterAbsent Stricter = "absent"
)

// Where is a place in a published file.
type Where struct {
	File    string `json:"file,omitempty"`
	Pointer string `json:"pointer,omitempty"`
	Line    int    `json:"line,omitempty"`
}

// Reference is one published value. All references of one Set must hold
// together: they describe one machine, one image, one row of a registry. Sets
// of one Group that speak of the same keys are alternatives; every group must
// have one that holds.
type Reference struct {
	Set   string `json:"set,omitempty"`
	Group string `json:"group,omitempty"`
	// Version is the set's release. Of sets that fare alike the newest is chosen.
	Version  string   `json:"version,omitempty"`
	Key      Key      `json:"key"`
	Relation Relation `json:"relation"`
	Want     Value    `json:"want"`
	Stricter Stricter `json:"stricter,omitempty"`
	Where    Where    `json:"where"`
	Words    string   `json:"words,omitempty"` // what the value is, for people
	Note     string   `json:"note,omitempty"`  // shown with the finding unless it matches
	// Class is what a difference means where no order of values says it.
	Class Class `json:"class,omitempty"`
	// Incomparable says why another value of ours proves nothing: the published
	// one was made in a way that is not reproduced here. It leaves the value
	// unchecked where the two differ, and never makes them equal.
	Incomparable string `json:"incomparable,omitempty"`
}

// Verdict is the outcome of comparing one key.
type Verdict string

// The verdicts. Missing: we have it, the published side does not. Extra: the
// published side has it and our side, which is complete for its kind, does
// not. Unchecked: published and not recomputed.
const (
	Match     Verdict = "match"
	Differs   Verdict = "differs"
	Missing   Verdict = "missing"
	Extra     Verdict = "extra"
	Unchecked Verdict = "unchecked"
)

// Class says what a difference means for somebody who relies on the published
// side.
type Class string

// The classes.
const (
	ClassEqual       Class = "equal"
	ClassVolatile    Class = "volatile"
	ClassTightened   Class = "tightened"
	ClassLoosened    Class = "loosened"
	ClassUnexplained Class = "unexplained"
)

// Proof says how sure a cause is.
type Proof string

// A cause is proved only if undoing it on one side gives exactly the other
// side's value.
const (
	Proved    Proof = "proved"
	Suspected Proof = "suspected"
)

// Cause is a leaf of the tree of reasons: the path leads from the value down
// to the smallest thing that differs.
type Cause struct {
	Path     []string `json:"path"`
	Expected string   `json:"expected,omitempty"`
	Actual   string   `json:"actual,omitempty"`
	Note     string   `json:"note,omitempty"`
	Hint     string   `json:"hint,omitempty"` // an anchor of docs/why-it-differs.md
	Standing Proof    `json:"standing"`
	Where    Where    `json:"where,omitzero"`
}

// Finding is the comparison of one key. Got is ours, Want is the published
// side.
type Finding struct {
	Key      Key      `json:"key"`
	Set      string   `json:"set,omitempty"`
	Verdict  Verdict  `json:"verdict"`
	Class    Class    `json:"class"`
	Relation Relation `json:"relation"`
	Got      Value    `json:"got"`
	Want     Value    `json:"want"`
	Standing Standing `json:"standing,omitzero"`
	Where    Where    `json:"where,omitzero"`
	Why      []Cause  `json:"why,omitempty"`
	Words    string   `json:"words,omitempty"` // what the value is, for people
	Note     string   `json:"note,omitempty"`
	// Allowed is set where --allow-unchecked or allow_unchecked named the key.
	Allowed bool `json:"allowed,omitempty"`
	// Accepted is set where the policy of a gate acknowledges the difference.
	Accepted bool `json:"accepted,omitempty"`
}

// Problem is something odd in an input that is not a comparison: an unpinned
// image, an adjustment that touched nothing. Level is "error" (counts as a
// difference), "warning" or "note".
type Problem struct {
	Level string `json:"level"`
	Code  string `json:"code"`
	Where Where  `json:"where,omitzero"`
	Msg   string `json:"message"`
	Hint  string `json:"hint,omitempty"`
}

// The levels of a Problem.
const (
	LevelError   = "error"
	LevelWarning = "warning"
	LevelNote    = "note"
)

// Lack is an input that would be needed to compute something.
type Lack struct {
	What string `json:"what"` // the missing input
	For  string `json:"for"`  // what it would give, a key or a glob
	How  string `json:"how"`  // what to do
}
