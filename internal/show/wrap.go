package show

import (
	"strings"

	"github.com/mattn/go-runewidth"
)

// Width is the number of columns that a text takes on a terminal. Letters whose
// width depends on the reader's locale take one: the same text has the same
// lines everywhere.
func Width(s string) int {
	narrow := runewidth.Condition{}
	return narrow.StringWidth(s)
}

// Wrap writes words, one blank between them, into lines of a width: the first
// from column at on, further ones indented. A word that is longer than a line is
// not broken, because digests and paths are copied. more ends every line but the
// last.
func Wrap(b *strings.Builder, width, at, indent int, words []string, more string) {
	column, fresh := at, true
	for i, word := range words {
		n := Width(word)
		room := width
		if i < len(words)-1 {
			room -= len(more)
		}
		switch {
		case fresh:
		case column+1+n > room:
			b.WriteString(more + "\n" + strings.Repeat(" ", indent))
			column = indent
		default:
			b.WriteByte(' ')
			column++
		}
		// Text in front of the first word may leave no room for it.
		if fresh && at > indent && column+n > room && indent+n <= room {
			b.WriteString(strings.TrimPrefix(more, " ") + "\n" + strings.Repeat(" ", indent))
			column = indent
		}
		b.WriteString(word)
		column += n
		fresh = false
	}
}
