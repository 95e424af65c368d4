package manifest

import (
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"

	"gopkg.in/yaml.v3"

	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/yamldoc"
)

// Values are values of a manifest that somebody says, each with its source.
// Nobody here recomputes them: whatever is made of them is copied.
type Values struct {
	File     string
	SNP      []GivenSNP
	TDX      []GivenTDX
	Policies []GivenPolicy
	// The keys are hex digits, as Generation has them; nil where none are given.
	WorkloadOwnerKeys, SeedshareOwnerKeys []string
}

// GivenSNP is a launch digest.
type GivenSNP struct {
	Platform, Product string
	CPUs              int // 0 where the release has one for all
	Launch            digest.Digest
	APEIP             *uint32
	Source            string
	Line              int
}

// GivenTDX are the registers of a TDX platform.
type GivenTDX struct {
	Platform string
	MrTd     digest.Digest
	Rtmrs    [4]digest.Digest // 48 zero bytes where rtmr3 is not given
	Source   string
	Line     int
}

// GivenPolicy is a policy hash.
type GivenPolicy struct {
	Kind, Namespace, Name string
	Hash                  digest.Digest
	Source                string
	Line                  int
}

// MaxValuesFile bounds a file of values.
const MaxValuesFile = 4 << 20

// ParseValues reads a file of values strictly: version, source, and the lists
// snp, tdx, policies, workload_owner_keys and seedshare_owner_keys. Every entry
// has the source of its own or that of the file; two entries for one value are
// an error. Errors are *yamldoc.Error with line and column.
func ParseValues(file string, data []byte) (*Values, error) {
	docs, err := yamldoc.Parse(file, data, yamldoc.Limits{Bytes: MaxValuesFile, Nodes: 200_000, Depth: 8, Docs: 1})
	if err != nil {
		return nil, err
	}
	if len(docs) == 0 || docs[0] == nil {
		return nil, &yamldoc.Error{File: file, Msg: "the file of values is empty", Hint: "it starts with version: 1"}
	}
	var raw struct {
		Version int    `yaml:"version"`
		Source  string `yaml:"source"`
		SNP     []struct {
			Platform string `yaml:"platform"`
			Product  string `yaml:"product"`
			CPUs     int    `yaml:"cpus"`
			Launch   string `yaml:"launch"`
			APEIP    string `yaml:"apeip"`
			Source   string `yaml:"source"`
		} `yaml:"snp"`
		TDX []struct {
			Platform string `yaml:"platform"`
			MrTd     string `yaml:"mrtd"`
			RTMR0    string `yaml:"rtmr0"`
			RTMR1    string `yaml:"rtmr1"`
			RTMR2    string `yaml:"rtmr2"`
			RTMR3    string `yaml:"rtmr3"`
			Source   string `yaml:"source"`
		} `yaml:"tdx"`
		Policies []struct {
			Kind      string `yaml:"kind"`
			Namespace string `yaml:"namespace"`
			Name      string `yaml:"name"`
			Hash      string `yaml:"hash"`
			Source    string `yaml:"source"`
		} `yaml:"policies"`
		WorkloadOwnerKeys  []string `yaml:"workload_owner_keys"`
		SeedshareOwnerKeys []string `yaml:"seedshare_owner_keys"`
	}
	if err := yamldoc.DecodeStrict(file, docs[0], &raw); err != nil {
		return nil, err
	}
	r := valuesReader{file: file, root: docs[0], source: raw.Source, seen: map[string]int{}}
	if raw.Version != 1 {
		return nil, r.fail("version", 0, "version %d of values is not known, want 1", raw.Version)
	}
	v := &Values{File: file}
	for i, e := range raw.SNP {
		g := GivenSNP{Platform: e.Platform, Product: e.Product, CPUs: e.CPUs, Launch: r.sum("snp", i, "launch", digest.SHA384, e.Launch), Source: r.sourceOf("snp", i, e.Source), Line: r.line("snp", i)}
		if e.Product != "Milan" && e.Product != "Genoa" || e.CPUs < 0 || e.CPUs > 1<<16 {
			r.note(r.fail("snp", i, "want a product Milan or Genoa and a number of cpus"))
		}
		if e.APEIP != "" {
			n, err := strconv.ParseUint(e.APEIP, 16, 32)
			if err != nil || len(e.APEIP) != 8 {
				r.note(r.fail("snp", i, "apeip %.40q, want 8 hex digits", e.APEIP))
			}
			eip := uint32(n)
			g.APEIP = &eip
		}
		r.once("snp", i, fmt.Sprintf("%s %s %d", strings.ToLower(e.Platform), e.Product, e.CPUs))
		v.SNP = append(v.SNP, g)
	}
	for i, e := range raw.TDX {
		g := GivenTDX{Platform: e.Platform, MrTd: r.sum("tdx", i, "mrtd", digest.SHA384, e.MrTd), Source: r.sourceOf("tdx", i, e.Source), Line: r.line("tdx", i)}
		for n, text := range []string{e.RTMR0, e.RTMR1, e.RTMR2, e.RTMR3} {
			if n == 3 && text == "" {
				text = strings.Repeat("0", 96)
			}
			g.Rtmrs[n] = r.sum("tdx", i, "rtmr"+strconv.Itoa(n), digest.SHA384, text)
		}
		if e.Platform == "" {
			r.note(r.fail("tdx", i, "has no platform"))
		}
		r.once("tdx", i, strings.ToLower(e.Platform))
		v.TDX = append(v.TDX, g)
	}
	for i, e := range raw.Policies {
		if e.Kind == "" || e.Name == "" {
			r.note(r.fail("policies", i, "want a kind and a name"))
		}
		r.once("policies", i, e.Kind+" "+e.Namespace+" "+e.Name)
		v.Policies = append(v.Policies, GivenPolicy{Kind: e.Kind, Namespace: e.Namespace, Name: e.Name, Hash: r.sum("policies", i, "hash", digest.SHA256, e.Hash), Source: r.sourceOf("policies", i, e.Source), Line: r.line("policies", i)})
	}
	for name, list := range map[string][]string{"workload_owner_keys": raw.WorkloadOwnerKeys, "seedshare_owner_keys": raw.SeedshareOwnerKeys} {
		for i, k := range list {
			if b, err := hex.DecodeString(k); err != nil || len(b) == 0 {
				r.note(r.fail(name, i, "%.40q is no key in hex", k))
			}
		}
	}
	v.WorkloadOwnerKeys, v.SeedshareOwnerKeys = raw.WorkloadOwnerKeys, raw.SeedshareOwnerKeys
	return v, r.err
}

// valuesReader finds faults; the first counts.
type valuesReader struct {
	file, source string
	root         *yaml.Node
	seen         map[string]int
	err          error
}

func (r *valuesReader) node(list string, i int) *yaml.Node {
	n := yamldoc.Get(r.root, list)
	if e := yamldoc.Elems(n); i < len(e) {
		return e[i]
	}
	if n == nil {
		return r.root
	}
	return n
}

func (r *valuesReader) line(list string, i int) int { return r.node(list, i).Line }

func (r *valuesReader) fail(list string, i int, format string, args ...any) error {
	return yamldoc.Errorf(r.file, r.node(list, i), fmt.Sprintf("%s[%d]", list, i), format, args...)
}

func (r *valuesReader) note(err error) {
	if r.err == nil {
		r.err = err
	}
}

func (r *valuesReader) sum(list string, i int, field string, a digest.Algorithm, text string) digest.Digest {
	d, err := digest.ParseHex(a, strings.ToLower(text))
	if err != nil {
		r.note(r.fail(list, i, "%s: %.100q, want %d hex digits", field, text, 2*a.Size()))
	}
	return d
}

func (r *valuesReader) sourceOf(list string, i int, own string) string {
	if own == "" {
		own = r.source
	}
	if strings.TrimSpace(own) == "" {
		r.note(r.fail(list, i, "has no source: say where the value is from"))
	}
	return own
}

func (r *valuesReader) once(list string, i int, what string) {
	line, dup := r.seen[list+" "+what]
	if dup {
		r.note(r.fail(list, i, "is the same value as on line %d", line))
	}
	r.seen[list+" "+what] = r.line(list, i)
}

// FindSNP finds a launch digest; names of platforms are alike in any case. An
// entry without a platform is for a release that does not name any.
func (v *Values) FindSNP(platform, product string, cpus int) (GivenSNP, bool) {
	if v == nil {
		return GivenSNP{}, false
	}
	for _, g := range v.SNP {
		if strings.EqualFold(g.Platform, platform) && g.Product == product && g.CPUs == cpus {
			return g, true
		}
	}
	return GivenSNP{}, false
}

// FindTDX finds the registers of a platform.
func (v *Values) FindTDX(platform string) (GivenTDX, bool) {
	if v == nil {
		return GivenTDX{}, false
	}
	for _, g := range v.TDX {
		if strings.EqualFold(g.Platform, platform) {
			return g, true
		}
	}
	return GivenTDX{}, false
}

// FindPolicy finds the policy hash of a workload.
func (v *Values) FindPolicy(kind, namespace, name string) (GivenPolicy, bool) {
	if v == nil {
		return GivenPolicy{}, false
	}
	for _, g := range v.Policies {
		if g.Kind == kind && g.Namespace == namespace && g.Name == name {
			return g, true
		}
	}
	return GivenPolicy{}, false
}
