package manifest

import (
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/jsondoc"
	"github.com/retally/retally/manifest"
	"github.com/retally/retally/pipeline"
)

// machineOf is an entry's name without its number of CPUs and without the number
// of a second entry of one name, which only its place among others gives it.
func machineOf(entry string) string {
	entry, _, _ = strings.Cut(entry, "#") // escaped in names
	machine, _, _ := strings.Cut(entry, "/cpus=")
	return machine
}

// alignMachines joins the reference values of one machine across versions and
// orders: an entry for a number of CPUs and one that holds for any number (APEIP),
// and entries of which one came or went. Entries that the other side does not
// have keep, or get, a name that nothing there has.
func alignMachines(a, b *manifestSide) {
	groupsA, groupsB := entriesByMachine(a), entriesByMachine(b)
	names, taken := map[string]string{}, map[string]bool{}
	for e := range a.entries {
		taken[e] = true
	}
	var nameless []string
	for _, machine := range slices.Sorted(maps.Keys(groupsB)) {
		left, right := groupsA[machine], groupsB[machine]
		if len(left) == 0 || len(left) == 1 && len(right) == 1 && left[0] == right[0] {
			continue
		}
		pairs := pair(a, b, left, right)
		for _, e := range right {
			switch to, paired := pairs[e]; {
			case paired:
				names[e] = to
			case a.has(e):
				nameless = append(nameless, e)
			default:
				taken[e] = true
			}
		}
	}
	for _, e := range nameless {
		names[e] = freshName(e, taken)
	}
	b.rename(names)
}

func freshName(entry string, taken map[string]bool) string {
	for n := 2; ; n++ {
		if name := fmt.Sprintf("%s#%d", entry, n); !taken[name] {
			taken[name] = true
			return name
		}
	}
}

// entriesByMachine lists the reference values of a side by their machine.
func entriesByMachine(s *manifestSide) map[string][]string {
	out := map[string][]string{}
	for _, e := range entryNames(s) {
		if strings.HasPrefix(e, "snp/") || strings.HasPrefix(e, "tdx/") {
			out[machineOf(e)] = append(out[machineOf(e)], e)
		}
	}
	return out
}

// pair finds for entries of the right side those of the left that they are to be
// held against: first what measures the same for as many CPUs, then what measures
// the same, then what is for as many, then the entry of one CPU and the one that
// holds for any number, and at last the only two that are left.
func pair(a, b *manifestSide, left, right []string) map[string]string {
	out := map[string]string{}
	used := map[string]bool{}
	match := func(key func(s *manifestSide, entry string, isLeft bool) string) {
		free := map[string][]string{}
		for _, l := range left {
			if k := key(a, l, true); k != "" && !used[l] {
				free[k] = append(free[k], l)
			}
		}
		for _, r := range right {
			k := key(b, r, false)
			if _, paired := out[r]; paired || k == "" || len(free[k]) == 0 {
				continue
			}
			out[r], used[free[k][0]] = free[k][0], true
			free[k] = free[k][1:]
		}
	}
	match(func(s *manifestSide, e string, _ bool) string {
		if m := measurementOf(s, e); m != "" {
			return m + " " + cpusOf(s, e)
		}
		return ""
	})
	match(func(s *manifestSide, e string, _ bool) string { return measurementOf(s, e) })
	match(func(s *manifestSide, e string, _ bool) string { return "for " + cpusOf(s, e) })
	match(func(s *manifestSide, e string, _ bool) string {
		// The digest for any number begins from that for one.
		if c := cpusOf(s, e); c == "1" || c == "any" {
			return "one"
		}
		return ""
	})
	var restL, restR []string
	for _, l := range left {
		if !used[l] {
			restL = append(restL, l)
		}
	}
	for _, r := range right {
		if _, paired := out[r]; !paired {
			restR = append(restR, r)
		}
	}
	if len(restL) == 1 && len(restR) == 1 {
		out[restR[0]] = restL[0]
	}
	return out
}

func measurementOf(s *manifestSide, entry string) string {
	for _, name := range []string{"TrustedMeasurement", "MrTd"} {
		if f, ok := s.fields[entry+"/"+name]; ok {
			return f.Normalized()
		}
	}
	return ""
}

// cpusOf says for how many vCPUs an entry holds: a number, "any", or "-" where
// the version does not say it.
func cpusOf(s *manifestSide, entry string) string {
	if f, ok := s.fields[entry+"/CPUs"]; ok && f.Value.Kind == jsondoc.Number {
		return f.Normalized()
	}
	if f, ok := s.fields[entry+"/APEIP"]; ok && f.Value.Kind == jsondoc.String {
		return "any"
	}
	return "-"
}

// vcpus compares for how many vCPUs two joined entries hold, where the two say
// it in other ways: a start address of the further processors in place of a
// number accepts any number.
func (j *joiner) vcpus(entry, path string) {
	a, b := cpusOf(j.a, entry), cpusOf(j.b, entry)
	if a == "-" && b != "any" || b == "-" && a != "any" {
		return // an older shape, which is exact as the other is
	}
	// One value for the two fields that take each other's place.
	fa, numberA := j.a.fields[entry+"/CPUs"]
	fb, numberB := j.b.fields[entry+"/CPUs"]
	if strings.HasSuffix(path, "/APEIP") && (numberA || numberB) {
		return
	}
	words := func(s *manifestSide, n string, number *manifest.Field) string {
		if n != "any" {
			if n == "-" {
				return "as measured"
			}
			return n
		}
		eip := s.fields[entry+"/APEIP"]
		if number.Value == nil {
			*number = eip
		}
		return fmt.Sprintf("any number (start address %s)", eip.Normalized())
	}
	got, want := words(j.a, a, &fa), words(j.b, b, &fb)
	key := j.key(entry+"/CPUs", fa)
	basis, inputs := j.basis(fa)
	j.ms = append(j.ms, pipeline.Measurement{Key: key, Value: pipeline.OfText(got), Basis: basis, Inputs: inputs})
	class := pipeline.ClassTightened
	if b == "any" {
		class = pipeline.ClassLoosened
	}
	j.refs = append(j.refs, pipeline.Reference{
		Key: key, Relation: pipeline.Equal, Want: pipeline.OfText(want), Class: class, Words: "CPUs",
		Where: pipeline.Where{File: j.b.m.File(), Pointer: fb.Pointer, Line: fb.Line},
	})
}

const (
	ownerKeys    = "WorkloadOwnerPubKeys"
	ownerDigests = "WorkloadOwnerKeyDigests"
)

// alignOwnerKeys compares owners by the digests of their keys where one side has
// the keys and the other digests, as Contrast had before 1.20: the SHA-256 of a
// key's DER.
func alignOwnerKeys(a, b *manifestSide) {
	has := func(s *manifestSide, name string) bool { _, ok := s.fields[name]; return ok }
	sameForm := has(a, ownerKeys) == has(b, ownerKeys) && has(a, ownerDigests) == has(b, ownerDigests)
	if sameForm || !has(a, ownerDigests) && !has(b, ownerDigests) || !has(a, ownerKeys) && !has(b, ownerKeys) {
		return
	}
	for _, s := range []*manifestSide{a, b} {
		s.digestOwners()
	}
}

func (s *manifestSide) digestOwners() {
	keys, ok := s.fields[ownerKeys]
	if !ok {
		return
	}
	set, isSet := keys.Set()
	f, known := s.fields[ownerDigests]
	if !isSet {
		return // of a wrong type, which is a difference by itself
	}
	var elems []*jsondoc.Value
	if known {
		more, isSet := f.Set()
		if !isSet {
			return
		}
		for _, d := range more {
			elems = append(elems, jsondoc.NewString(d))
		}
	}
	for _, k := range set {
		// What is no hex is no key either, and stays as it is.
		if der, err := hex.DecodeString(k); err == nil {
			k = digest.SHA256.Sum(der).Hex()
		}
		elems = append(elems, jsondoc.NewString(k))
	}
	to := manifest.AsField(ownerDigests, keys)
	to.Value = jsondoc.NewArray(elems...)
	at := slices.Index(s.order, ownerKeys)
	delete(s.fields, ownerKeys)
	if known {
		s.order = slices.Delete(s.order, at, at+1)
	} else {
		s.order[at] = ownerDigests
	}
	s.fields[ownerDigests] = to
}
