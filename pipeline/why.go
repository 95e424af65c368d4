package pipeline

// explainSwaps proves the plainest cause of a wrong digest: two values stand
// in each other's place. Undoing it gives exactly the published values. Partners
// are looked up by both digests, so that the work is that of one pass. Of equal
// exchanges a finding names the first few.
func explainSwaps(findings []Finding) {
	type pair struct{ kind, got, want string }
	const most = 8
	at := map[pair][]int{}
	swappable := func(f *Finding) bool { return f.Verdict == Differs && f.Got.Kind() == DigestKind }
	for i := range findings {
		if f := &findings[i]; swappable(f) {
			k := pair{f.Key.Kind(), f.Got.String(), f.Want.String()}
			if len(at[k]) <= most {
				at[k] = append(at[k], i)
			}
		}
	}
	for i := range findings {
		a := &findings[i]
		if !swappable(a) || len(a.Why) > 0 && a.Why[0].Standing == Proved {
			continue
		}
		for _, j := range at[pair{a.Key.Kind(), a.Want.String(), a.Got.String()}] {
			if i == j {
				continue
			}
			a.Why = append(a.Why, Cause{
				Path: []string{string(a.Key), "exchanged with " + string(findings[j].Key)}, Expected: a.Want.String(), Actual: a.Got.String(),
				Note: "the two published values stand in each other's place", Hint: "exchanged-values", Standing: Proved, Where: a.Where,
			})
		}
	}
}
