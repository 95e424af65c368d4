package source

import "testing"

// Whatever an attributes file says, it is read within bounds, and a content
// that is converted twice by line ends alone is that of once.
func FuzzAttributes(f *testing.F) {
	f.Add([]byte("*.txt text eol=crlf\n[attr]m m eol=crlf ident\n\"a\\142\" m\n"), "a/b.txt", []byte("$Id: x $\n"))
	f.Add([]byte("**/a[!b]* eol=crlf\n!x y\n* -text\n"), "a/ac", []byte("a\r\n\nb"))
	f.Fuzz(func(t *testing.T, file []byte, path string, content []byte) {
		if len(file) > 1<<12 || len(path) > 1<<8 {
			t.Skip()
		}
		a := newAttributes()
		a.add(".", file)
		a.add("a", file)
		c := conversionOf(a.of(path))
		once := c.apply(content, "0123456789012345678901234567890123456789")
		if c.none() && string(once) != string(content) {
			t.Fatalf("%q becomes %q without a conversion", content, once)
		}
		if c.ident || c.crlf == "" {
			return
		}
		if twice := c.apply(once, ""); string(twice) != string(once) {
			t.Fatalf("%q becomes %q, and that %q", content, once, twice)
		}
		if len(once) < len(content) || len(once) > 2*len(content) {
			t.Fatalf("%d bytes become %d", len(content), len(once))
		}
	})
}
