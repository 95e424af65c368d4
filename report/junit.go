package report

import (
	"bytes"
	"encoding/xml"
	"fmt"
	"io"
	"strings"

	"github.com/retally/retally/internal/show"
	"github.com/retally/retally/pipeline"
)

// The form of Ant's JUnit task, as most CI systems read it. A report has no
// time, so the required ones are fixed.
type (
	junitSuites struct {
		XMLName xml.Name     `xml:"testsuites"`
		Suites  []junitSuite `xml:"testsuite"`
	}
	junitSuite struct {
		Package    string          `xml:"package,attr"`
		ID         int             `xml:"id,attr"`
		Name       string          `xml:"name,attr"`
		Timestamp  string          `xml:"timestamp,attr"`
		Hostname   string          `xml:"hostname,attr"`
		Tests      int             `xml:"tests,attr"`
		Failures   int             `xml:"failures,attr"`
		Errors     int             `xml:"errors,attr"`
		Time       string          `xml:"time,attr"`
		Properties junitProperties `xml:"properties"`
		Cases      []junitCase     `xml:"testcase"`
		Out        string          `xml:"system-out"`
		Err        string          `xml:"system-err"`
	}
	junitProperties struct {
		List []junitProperty `xml:"property"`
	}
	junitProperty struct {
		Name  string `xml:"name,attr"`
		Value string `xml:"value,attr"`
	}
	junitCase struct {
		Name      string    `xml:"name,attr"`
		ClassName string    `xml:"classname,attr"`
		Time      string    `xml:"time,attr"`
		Error     *junitBad `xml:"error,omitempty"`
		Failure   *junitBad `xml:"failure,omitempty"`
	}
	junitBad struct {
		Message string `xml:"message,attr"`
		Type    string `xml:"type,attr"`
		Text    string `xml:",chardata"`
	}
)

// JUnit writes a test case for each value that was compared and one for each
// problem. What differs or is denied is a failure; what is unchecked is an
// error, because a skipped test would be green.
func JUnit(w io.Writer, r *pipeline.Report) error {
	var doc junitSuites
	index := map[string]int{}
	add := func(suite string, c junitCase) {
		i, ok := index[suite]
		if !ok {
			i = len(doc.Suites)
			index[suite] = i
			doc.Suites = append(doc.Suites, junitSuite{Package: "retally", ID: i, Name: suite, Timestamp: "1970-01-01T00:00:00", Hostname: "localhost", Time: "0"})
		}
		s := &doc.Suites[i]
		c.ClassName, c.Time = "retally."+suite, "0"
		s.Tests++
		if c.Failure != nil {
			s.Failures++
		}
		if c.Error != nil {
			s.Errors++
		}
		s.Cases = append(s.Cases, c)
	}
	told := map[string]bool{}
	for _, m := range remarks(r) {
		name, suite := string(m.key), m.key.Kind()
		if m.key == "" {
			name, suite = m.rule, "inputs"
			if strings.HasPrefix(m.rule, "gate-") {
				suite = "gate"
			}
			if p := at(m.where); p != "" {
				name += " " + p
			}
		}
		text := m.text
		if p := at(m.where); p != "" {
			text = p + ": " + text
		}
		c := junitCase{Name: clean(name)}
		bad := &junitBad{Message: clean(m.text), Type: clean(m.rule), Text: clean(text + "\n" + m.help)}
		switch m.level {
		case pipeline.LevelError:
			c.Failure = bad
		case pipeline.LevelWarning:
			// A warning does not decide the outcome by itself.
			if m.key != "" || r.Outcome == pipeline.OutcomeUnchecked && (m.rule == "missing-input" || m.rule == "test-root" || m.rule == string(r.Outcome)) {
				c.Error = bad
			}
		}
		if m.key != "" {
			told[string(m.key)] = true
		}
		add(suite, c)
	}
	for i := range r.Findings {
		if f := &r.Findings[i]; !told[string(f.Key)] && !f.Bad() && !f.Open() {
			told[string(f.Key)] = true
			add(f.Key.Kind(), junitCase{Name: clean(string(f.Key))})
		}
	}
	if len(doc.Suites) == 0 {
		add("report", junitCase{Name: string(r.Outcome)})
	}
	for i := range doc.Suites {
		doc.Suites[i].Properties.List = []junitProperty{{"outcome", string(r.Outcome)}, {"summary", clean(r.Summary)}, {"retally", r.Tool.Version}}
	}
	var b bytes.Buffer
	b.WriteString(xml.Header)
	enc := xml.NewEncoder(&b)
	enc.Indent("", "  ")
	if err := enc.Encode(doc); err != nil {
		return fmt.Errorf("junit: %w", err)
	}
	b.WriteByte('\n')
	_, err := w.Write(b.Bytes())
	return err
}

// clean makes a text that XML can hold and a reader can trust.
func clean(s string) string { return strings.ToValidUTF8(show.Text(s), "\uFFFD") }
