package run

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/retally/retally/internal/show"
	"github.com/retally/retally/pipeline/config"
)

// ParseConfig reads retally.yaml, lets every stage of the table check its
// section, and fills in the defaults. Every error has file, line and column.
func ParseConfig(table []Stage, file string, data []byte) (*config.Config, error) {
	c, at, err := config.Decode(file, data)
	if err != nil {
		return nil, err
	}
	for i := range table {
		if table[i].Check == nil {
			continue
		}
		if err := table[i].Check(c, at); err != nil {
			return nil, err
		}
	}
	if c.Empty() {
		return nil, at("nothing to recount: none of deployment, models, images, disks, hashes, platforms, evidence, endorsements, manifest is given", "retally init writes a commented example")
	}
	Fill(table, c)
	return c, nil
}

// Fill writes out the defaults: each stage those of its section, in the order
// of the table.
func Fill(table []Stage, c *config.Config) {
	c.Version = 1
	for i := range table {
		if table[i].Fill != nil {
			table[i].Fill(c)
		}
	}
	c.AllowUnchecked = slices.Clone(c.AllowUnchecked)
}

// Plan says what a configuration would measure, from which input, and what is
// missing. It reads nothing.
func Plan(table []Stage, c *config.Config) []PlanLine {
	Fill(table, c)
	lines := []PlanLine{}
	for i := range table {
		if table[i].Plan != nil {
			lines = append(lines, table[i].Plan(c)...)
		}
	}
	return lines
}

// PlanText shows a plan to people.
func PlanText(w io.Writer, lines []PlanLine) {
	for _, l := range lines {
		if l.Missing != "" {
			show.Line(w, "  missing  %s: no %s (add %s)", l.Key, l.Missing, l.How)
		} else {
			show.Line(w, "  recount  %s from %s", l.Key, l.From)
		}
	}
}

// CheckTable reports a stage that stands before one that it needs, or twice.
func CheckTable(table []Stage) error {
	seen := map[string]bool{}
	for i := range table {
		s := &table[i]
		if s.Name == "" || s.Version < 1 || s.Run == nil || seen[s.Name] {
			return fmt.Errorf("stage %d (%q) has no name, no version, nothing to run, or is there twice", i, s.Name)
		}
		for _, a := range s.After {
			if !seen[a] {
				return fmt.Errorf("stage %s comes after %s, which does not stand before it", s.Name, a)
			}
		}
		seen[s.Name] = true
	}
	return nil
}

// CheckConfig lets every stage check its section of a configuration that came by
// flags: a fault names the field.
func CheckConfig(table []Stage, c *config.Config) error {
	at := func(msg, hint string, path ...string) error {
		if hint != "" {
			msg += " (" + hint + ")"
		}
		return fmt.Errorf("%s: %s", strings.Join(path, "."), msg)
	}
	for i := range table {
		if table[i].Check != nil {
			if err := table[i].Check(c, at); err != nil {
				return err
			}
		}
	}
	return nil
}
