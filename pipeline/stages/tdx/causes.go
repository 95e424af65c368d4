package tdx

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/retally/retally/evidence"
	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/search"
	"github.com/retally/retally/pipeline"
	"github.com/retally/retally/pipeline/config"
	"github.com/retally/retally/pipeline/run"
	"github.com/retally/retally/tdxmeasure"
	"github.com/retally/retally/tdxmeasure/explain"
)

// searchedInRun bounds the search for a register's deviation within a run; it
// takes about a second. `retally explain KEY --search` looks further.
const searchedInRun = 8000

// registerWords names a register for people.
func registerWords(name string) string {
	switch name {
	case "mrtd":
		return "MRTD (firmware)"
	case "rtmr0":
		return "RTMR0 (machine configuration)"
	case "rtmr1":
		return "RTMR1 (kernel)"
	case "rtmr2":
		return "RTMR2 (command line and initrd)"
	case "rtmr3":
		return "RTMR3 (events at run time)"
	case "rootfs":
		return "root file system"
	default:
		return name
	}
}

// searchInput is what a search for a machine's deviation starts from.
func (m *Machine) searchInput() explain.Input {
	return explain.Input{Artifacts: m.artifacts, Config: m.config, Compose: m.compose, Rootfs: m.others}
}

// TakeRows lets a search try the root file systems of a registry's rows.
func (m *Machine) TakeRows(r *evidence.Registry) {
	if r == nil {
		return
	}
	seen := map[digest.Digest]bool{m.rootfs: true}
	for _, row := range r.Rows {
		if !seen[row.Rootfs] {
			seen[row.Rootfs] = true
			m.others = append(m.others, tdxmeasure.Input{Name: "of " + row.Name(), Known: row.Rootfs})
		}
	}
}

// Cause looks for the known deviation that makes a register the wanted one.
// One that is found is proved: with it, the register is exactly that value.
func (m *Machine) Cause(ctx context.Context, in *run.In, i int, key pipeline.Key, got, want digest.Digest, where pipeline.Where) (pipeline.Cause, error) {
	if m.document != nil || m.indirect != nil {
		c := tdxCause(i, search.Answer{})
		c.Path, c.Expected, c.Actual, c.Where = []string{string(key)}, got.String(), want.String(), where
		c.Standing, c.Note = pipeline.Suspected, "deviations are known of a direct boot from an image's files only"
		if zero := tdxmeasure.ZeroRegister(i, want); zero != "" {
			c.Note = "the other value is " + zero
		}
		return c, nil
	}
	if explain.Register(i) == explain.RTMR1 {
		if err := m.openKernel(ctx, in); err != nil {
			return pipeline.Cause{}, err
		}
	}
	input := m.searchInput()
	input.Options = search.Options{MaxDeviations: 2, MaxTried: searchedInRun}
	answer, err := explain.Find(ctx, explain.Register(i), input, want)
	if err != nil {
		return pipeline.Cause{}, err
	}
	c := tdxCause(i, answer)
	c.Path, c.Expected, c.Actual, c.Where = []string{string(key)}, got.String(), want.String(), where
	if answer.Found {
		for _, d := range answer.Deviations {
			c.Path = append(c.Path, d.ID)
		}
		c.Standing, c.Note = pipeline.Proved, "the other value "+answer.Sentence()
		return c, nil
	}
	c.Standing = pipeline.Suspected
	if zero := tdxmeasure.ZeroRegister(i, want); zero != "" {
		c.Note = "the other value is " + zero
		return c, nil
	}
	c.Note = fmt.Sprintf("%s: %s", answer.Sentence(), m.suspect(i))
	if !answer.Exhausted {
		c.Note += "; a search by retally explain " + string(key) + " tries more"
	}
	return c, nil
}

// tdxCause begins a cause with the section of docs/why-it-differs.md that the
// first deviation belongs to, or the register.
func tdxCause(i int, a search.Answer) pipeline.Cause {
	first := ""
	if a.Found && len(a.Deviations) > 0 {
		first = a.Deviations[0].ID
	}
	is := func(prefixes ...string) bool {
		return slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(first, p) })
	}
	switch {
	case is("page-order-", "section-"):
		return pipeline.Cause{Hint: "tdx-page-order"}
	case i == 0:
		return pipeline.Cause{Hint: "tdx-firmware"}
	case i == 1 && is("memory-", "hob-"):
		return pipeline.Cause{Hint: "tdx-memory-size"}
	case i == 1 && is("cfv-", "trailing-", "no-trailing-"):
		return pipeline.Cause{Hint: "tdx-firmware-events"}
	case i == 1:
		return pipeline.Cause{Hint: "tdx-acpi"}
	case i == 2:
		return pipeline.Cause{Hint: "tdx-kernel-header"}
	case i == 3 && is("initrd-", "cmdline-"):
		return pipeline.Cause{Hint: "tdx-command-line"}
	case i == 3:
		return pipeline.Cause{Hint: "tdx-initrd"}
	default:
		return pipeline.Cause{Hint: "tdx-runtime-events"}
	}
}

// suspect names what a register that no known deviation explains is made of.
func (m *Machine) suspect(i int) string {
	switch i {
	case 0:
		return "the machine was started with another firmware than " + config.Or(m.conf.Firmware)
	case 1:
		return "the machine has another shape (vCPUs, memory, devices), another hypervisor or another firmware"
	case 2:
		return "the machine was started with another kernel than " + config.Or(m.conf.Kernel)
	case 3:
		return "the machine has another command line, or another initrd than " + config.Or(m.conf.Initrd)
	default:
		if m.conf.Compose == "" {
			return "the machine measured something at run time"
		}
		return "the machine was started with another compose file than " + m.conf.Compose + ", or another root file system than " + m.conf.Rootfs
	}
}
