package pipeline

import "bytes"

// CountLines sets the first line of the published file that is another, and how
// many are.
func (r *BytesResult) CountLines(got, want []byte) { r.FirstLine, r.Lines = lineDiff(got, want) }

// lineDiff counts how many lines of two files differ and the first line of b
// that does: the larger of the numbers of lines that only one file has, after
// the longest common subsequence is taken away.
func lineDiff(a, b []byte) (first, lines int) {
	x, y := splitLines(a), splitLines(b)
	prefix := 0
	for prefix < len(x) && prefix < len(y) && bytes.Equal(x[prefix], y[prefix]) {
		prefix++
	}
	x, y = x[prefix:], y[prefix:]
	for len(x) > 0 && len(y) > 0 && bytes.Equal(x[len(x)-1], y[len(y)-1]) {
		x, y = x[:len(x)-1], y[:len(y)-1]
	}
	if len(x) == 0 && len(y) == 0 {
		return 0, 0
	}
	common := 0
	// Beyond this the table would be large and the exact number of no use.
	const most = 4000
	if len(x) <= most && len(y) <= most {
		common = commonLines(x, y)
	}
	return prefix + 1, max(len(x)-common, len(y)-common)
}

func splitLines(data []byte) [][]byte {
	lines := bytes.SplitAfter(data, []byte("\n"))
	if n := len(lines); n > 0 && len(lines[n-1]) == 0 {
		lines = lines[:n-1]
	}
	return lines
}

// commonLines is the length of the longest common subsequence.
func commonLines(x, y [][]byte) int {
	row := make([]int, len(y)+1)
	for _, a := range x {
		diagonal := 0
		for j, b := range y {
			above := row[j+1]
			if bytes.Equal(a, b) {
				row[j+1] = diagonal + 1
			} else {
				row[j+1] = max(row[j+1], row[j])
			}
			diagonal = above
		}
	}
	return row[len(y)]
}
