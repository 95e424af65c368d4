package pipeline

// explainSwaps proves the plainest cause of a wrong digest: two values stand
// in each other's place. Undoing it gives exactly the published values.
func explainSwaps(findings []Finding) {
	for i := range findings {
		a := &findings[i]
		if a.Verdict != Differs || a.Got.Kind() != DigestKind || len(a.Why) > 0 && a.Why[0].Standing == Proved {
			continue
		}
		for j := range findings {
			b := &findings[j]
			if i == j || b.Verdict != Differs || a.Key.Kind() != b.Key.Kind() || !a.Got.Equal(b.Want) || !b.Got.Equal(a.Want) {
				continue
			}
			a.Why = append(a.Why, Cause{
				Path: []string{string(a.Key), "exchanged with " + string(b.Key)}, Expected: a.Want.String(), Actual: a.Got.String(),
				Note: "the two published values stand in each other's place", Hint: "exchanged-values", Standing: Proved, Where: a.Where,
			})
		}
	}
}
