// Package config is retally.yaml as data: what to recount, from which inputs,
// against what. It decodes strictly and knows the inputs that are built in; what
// a section means, and its defaults, are its stage's.
package config

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"unicode"

	"gopkg.in/yaml.v3"

	"github.com/retally/retally/internal/yamldoc"
	"github.com/retally/retally/pipeline"
)

// FileName is the name that `run` and `plan` look for.
const FileName = "retally.yaml"

// Config is retally.yaml: what to recount, from which inputs, against what.
// docs/config.md describes every field; `retally plan` prints it with all
// defaults written out.
type Config struct {
	Version int `yaml:"version" json:"version"`
	// Deployment is the Kubernetes YAML that pins images and disks.
	Deployment string `yaml:"deployment" json:"deployment,omitempty"`
	// RuntimeClasses are further runtime classes that are confidential, beside
	// those that start with contrast-cc.
	RuntimeClasses []string `yaml:"runtime_classes" json:"runtime_classes,omitempty"`
	// Exempt names workloads that may run outside a confidential runtime class.
	Exempt []Exemption `yaml:"exempt" json:"exempt,omitempty"`
	// Models is Privatemode's models.yaml, the published root hashes.
	Models string `yaml:"models" json:"models,omitempty"`
	// StorageClasses are the files of storage classes in which Privatemode
	// published root hashes before it had a models.yaml (v1.21 to v1.37).
	StorageClasses []string `yaml:"storage_classes,omitempty" json:"storage_classes,omitempty"`
	// Images says where the bytes of images are, by the name that the
	// deployment's reference ends in.
	Images map[string]Image `yaml:"images" json:"images,omitempty"`
	// Nix says how images are built here.
	Nix *Nix `yaml:"nix,omitempty" json:"nix,omitempty"`
	// Hashes is a hashes-<host>.json of a rebuild.
	Hashes string `yaml:"hashes" json:"hashes,omitempty"`
	// Proxy is what `docker inspect` prints of the proxy's image; its digest is
	// held against the rebuilt one.
	Proxy string `yaml:"proxy,omitempty" json:"proxy,omitempty"`
	// Disks says where the models are whose disks are measured, by their key in
	// the models file.
	Disks map[string]Disk `yaml:"disks" json:"disks,omitempty"`
	// Compose is the compose file of a machine that runs one, such as a
	// SecretVM; platforms and evidence use it where they name none.
	Compose string `yaml:"compose" json:"compose,omitempty"`
	// Policies says how the runtime policies of the deployment are computed.
	Policies *Policies `yaml:"policies" json:"policies,omitempty"`
	// Platforms are the machines that registers are computed for, by the
	// vendor's platform name.
	Platforms map[string]Platform `yaml:"platforms" json:"platforms,omitempty"`
	// Registry is a published file of registers by release (SecretVM's tdx.csv).
	Registry string `yaml:"registry" json:"registry,omitempty"`
	// Evidence is what machines showed of themselves, by any name.
	Evidence map[string]Evidence `yaml:"evidence" json:"evidence,omitempty"`
	// Endorsements are who vouches for what, by any name.
	Endorsements map[string]Endorsement `yaml:"endorsements,omitempty" json:"endorsements,omitempty"`
	// Fleet is a provider's list of machines or releases, every row of which is
	// recomputed as far as its inputs are at hand.
	Fleet *Fleet `yaml:"fleet,omitempty" json:"fleet,omitempty"`
	// Manifest says how the deployment's manifest comes about.
	Manifest *Manifest `yaml:"manifest" json:"manifest,omitempty"`
	// Shards is what retally shard merge wrote: disks and images whose parts were
	// read on other machines are taken from it.
	Shards string `yaml:"shards,omitempty" json:"shards,omitempty"`
	// Against is the published file to compare with.
	Against string `yaml:"against" json:"against,omitempty"`
	// AllowUnchecked names keys that may stay unchecked or rest on copied
	// values without changing the exit code.
	AllowUnchecked []string `yaml:"allow_unchecked" json:"allow_unchecked,omitempty"`
}

// Exemption lets a workload run outside a confidential runtime class, for a
// reason that the report shows.
type Exemption struct {
	Workload string `yaml:"workload" json:"workload"` // Kind/namespace/name
	Reason   string `yaml:"reason" json:"reason"`
}

// Image names one source of an image's bytes.
type Image struct {
	OCI      string `yaml:"oci,omitempty" json:"oci,omitempty"`           // folder of an OCI layout
	Archive  string `yaml:"archive,omitempty" json:"archive,omitempty"`   // OCI or docker archive
	Registry string `yaml:"registry,omitempty" json:"registry,omitempty"` // reference with a digest
	// Image chooses one of several images of a layout or archive, by its digest,
	// its name there or a tag. Without it there must be only one.
	Image string `yaml:"image,omitempty" json:"image,omitempty"`
	// Nix is FLAKE#ATTRIBUTE, which is built here; Entry is the image in a folder of
	// several, "" where the output is the image.
	Nix   string `yaml:"nix,omitempty" json:"nix,omitempty"`
	Entry string `yaml:"entry,omitempty" json:"entry,omitempty"`
	// Line of Nix in the file, 0 where it came by flags.
	Line int `yaml:"-" json:"-"`
	// Found: nobody named the image. Its source was found beside what it may
	// be a part of, so that its file's name binds it to nothing.
	Found bool `yaml:"-" json:"found,omitempty"`
}

// Nix is how derivations are built: in a store of its own, in the sandbox.
type Nix struct {
	Store        string            `yaml:"store,omitempty" json:"store,omitempty"`                 // folder of the store, which is made
	Substituters []string          `yaml:"substituters,omitempty" json:"substituters,omitempty"`   // caches that inputs may come from; none: everything is built
	TrustedKeys  []string          `yaml:"trusted_keys,omitempty" json:"trusted_keys,omitempty"`   // that substitutes must be signed with
	SandboxPaths []string          `yaml:"sandbox_paths,omitempty" json:"sandbox_paths,omitempty"` // /INSIDE=/OUTSIDE
	Overrides    map[string]string `yaml:"overrides,omitempty" json:"overrides,omitempty"`         // other flakes in place of inputs
	Timeout      uint              `yaml:"timeout,omitempty" json:"timeout,omitempty"`             // seconds of one builder; 0: none
	Settings     map[string]string `yaml:"settings,omitempty" json:"settings,omitempty"`           // how much is done at once
}

// Disk names a model directory and the recipe of its disk.
type Disk struct {
	Dir string `yaml:"dir" json:"dir"`
	// MKFS is the release of mkfs.erofs whose bytes count: "1.9" (the default,
	// which gives way to a release that the models file names) or "1.9.1+".
	MKFS string `yaml:"mkfs,omitempty" json:"mkfs,omitempty"`
	// Exclude lists what the recipe leaves out; where it is not given, what the
	// models file says of this model. An empty list leaves nothing out.
	Exclude *[]string `yaml:"exclude,omitempty" json:"exclude,omitempty"`
	// Normalize takes the modes of a checkout under umask 022 in place of those
	// that the files have.
	Normalize bool `yaml:"normalize,omitempty" json:"normalize,omitempty"`
	// Listing is a hub's listing of the model's files, whose digests (Git LFS,
	// git, Xet) the directory is to have.
	Listing string `yaml:"listing,omitempty" json:"listing,omitempty"`
	// ModelSig is a signature of the model's files (OpenSSF Model Signing).
	ModelSig string `yaml:"model_sig,omitempty" json:"model_sig,omitempty"`
	// Signers are PEM files of the public keys and root certificates whose
	// signature counts.
	Signers []string `yaml:"signers,omitempty" json:"signers,omitempty"`
	// RootOnly leaves out the hash of the whole disk file.
	RootOnly bool `yaml:"root_only,omitempty" json:"root_only,omitempty"`
	// Found: nobody named it; its folder's name is no model's.
	Found bool `yaml:"-" json:"found,omitempty"`
}

// Source returns the one source that is set.
func (c Image) Source() (string, error) {
	var set []string
	for _, s := range []string{c.OCI, c.Archive, c.Registry, c.built()} {
		if s != "" {
			set = append(set, s)
		}
	}
	if len(set) != 1 {
		return "", fmt.Errorf("want exactly one of oci, archive, registry, nix, found %d", len(set))
	}
	return set[0], nil
}

// built is what reports call an image that is built here.
func (c Image) built() string {
	if c.Nix != "" && c.Entry != "" {
		return c.Nix + "/" + c.Entry
	}
	return c.Nix
}

// Manifest says how manifest.json is made.
type Manifest struct {
	Format string `yaml:"format" json:"format"` // "contrast", the default
	// Base is the manifest as `contrast generate` wrote it; what nothing here
	// recomputes is taken over from it and labelled as copied.
	Base string `yaml:"base" json:"base,omitempty"`
	// Release generates the manifest here, in place of a base: a release of
	// Contrast as profile:contrast@v1.20.0, or a file in the same form.
	Release string `yaml:"release,omitempty" json:"release,omitempty"`
	// DefaultPlatform is what `contrast generate` is given as its reference
	// values: the platform of workloads that name none.
	DefaultPlatform string `yaml:"default_platform,omitempty" json:"default_platform,omitempty"`
	// Values is a file of values that nobody here recomputes, each with its
	// source; what is made of them is copied.
	Values string `yaml:"values,omitempty" json:"values,omitempty"`
	// Skip are changes of the deployment that generate was told to leave out:
	// initializer, service-mesh, image-store. ImageStore asks for one.
	Skip       []string `yaml:"skip,omitempty" json:"skip,omitempty"`
	ImageStore bool     `yaml:"image_store,omitempty" json:"image_store,omitempty"`
	// Adjust is the plan of the edits after generate.
	Adjust string `yaml:"adjust" json:"adjust,omitempty"`
	// Variables set or override the plan's variables.
	Variables map[string]string `yaml:"variables" json:"variables,omitempty"`
}

// At makes a fault at a place of the configuration, which a path of fields
// names, with what mends it.
type At func(msg, hint string, path ...string) error

// Decode reads retally.yaml strictly. Every error has file, line and column. What a
// section means, its stage checks: at makes the faults that it finds.
func Decode(file string, data []byte) (c *Config, at At, err error) {
	docs, err := yamldoc.Parse(file, data, yamldoc.Limits{Bytes: 1 << 20, Docs: 1})
	if err != nil {
		return nil, nil, err
	}
	if len(docs) == 0 || docs[0] == nil {
		return nil, nil, &yamldoc.Error{File: file, Line: 1, Column: 1, Msg: "the file is empty", Hint: "retally init writes one"}
	}
	c = new(Config)
	if err := yamldoc.DecodeStrict(file, docs[0], c); err != nil {
		return nil, nil, err
	}
	if err := noControls(file, docs[0], ""); err != nil {
		return nil, nil, err
	}
	for name, i := range c.Images {
		if n := yamldoc.Path(docs[0], "images", name, "nix"); n != nil {
			i.Line = n.Line
			c.Images[name] = i
		}
	}
	at = func(msg, hint string, path ...string) error {
		n := yamldoc.Path(docs[0], path...)
		if n == nil {
			n = docs[0]
		}
		e := yamldoc.Errorf(file, n, strings.Join(path, "."), "%s", msg)
		e.Hint = hint
		return e
	}
	if c.Version != 1 {
		return nil, nil, at(fmt.Sprintf("configuration version %d is not known", c.Version), "write version: 1", "version")
	}
	for i, g := range c.AllowUnchecked {
		if err := pipeline.ValidGlob(g); err != nil {
			n := yamldoc.Elems(yamldoc.Get(docs[0], "allow_unchecked"))[i]
			return nil, nil, yamldoc.Errorf(file, n, fmt.Sprintf("allow_unchecked[%d]", i), "%s", err)
		}
	}
	return c, at, nil
}

// Empty reports whether there is nothing to recount.
func (c *Config) Empty() bool {
	return c.Deployment == "" && c.Manifest == nil && c.Hashes == "" && !c.PublishedDisks() && len(c.Images) == 0 && len(c.Disks) == 0 && len(c.Platforms) == 0 && len(c.Evidence) == 0 && len(c.Endorsements) == 0 && c.Fleet == nil
}

// PublishedDisks reports whether published root hashes of disks are named.
func (c *Config) PublishedDisks() bool { return c.Models != "" || len(c.StorageClasses) > 0 }

// noControls refuses names with line breaks, tabs and other control characters:
// no file is meant to be called that, and a report could not show it.
func noControls(file string, n *yaml.Node, path string) error {
	for _, p := range yamldoc.Pairs(n) {
		for _, text := range []*yaml.Node{p.Key, p.Value} {
			if text.Kind == yaml.ScalarNode && strings.ContainsFunc(text.Value, unicode.IsControl) {
				return yamldoc.Errorf(file, text, strings.TrimPrefix(path+"."+p.Key.Value, "."), "holds a control character (%q)", text.Value[:min(len(text.Value), 40)])
			}
		}
		if err := noControls(file, p.Value, path+"."+p.Key.Value); err != nil {
			return err
		}
	}
	for _, e := range yamldoc.Elems(n) {
		if e.Kind == yaml.ScalarNode && strings.ContainsFunc(e.Value, unicode.IsControl) {
			return yamldoc.Errorf(file, e, strings.TrimPrefix(path, "."), "holds a control character (%q)", e.Value[:min(len(e.Value), 40)])
		}
		if err := noControls(file, e, path); err != nil {
			return err
		}
	}
	return nil
}

// Identity is the configuration as part of cache keys.
func (c *Config) Identity() string {
	data, err := json.Marshal(c)
	if err != nil {
		return "unencodable: " + err.Error()
	}
	return string(data)
}

// Encode writes the configuration as YAML, with whatever defaults were filled in.
func (c *Config) Encode() ([]byte, error) {
	var b bytes.Buffer
	enc := yaml.NewEncoder(&b)
	enc.SetIndent(2)
	if err := enc.Encode(c); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// MachinesOnly reports whether a configuration is about machines, their evidence
// and endorsements and names nothing of a deployment, whose absence is then no lack.
func (c *Config) MachinesOnly() bool {
	return (len(c.Platforms)+len(c.Evidence)+len(c.Endorsements) > 0 || c.Fleet != nil) && c.Deployment == "" && !c.PublishedDisks() && c.Hashes == "" &&
		len(c.Images)+len(c.Disks) == 0 && c.Policies == nil && c.Manifest == nil && c.Against == ""
}

// Files lists every file and folder that the configuration names, so that none
// of them is written over. Of a folder everything counts; those of policies,
// of which only some files are read, are not among them (Policies.Loose).
func (c *Config) Files() []string {
	out := []string{c.Deployment, c.Models, c.Hashes, c.Proxy, c.Compose, c.Registry, c.Shards, c.Against}
	out = append(out, c.StorageClasses...)
	for _, i := range c.Images {
		out = append(out, i.OCI, i.Archive)
	}
	for _, d := range c.Disks {
		out = append(append(out, d.Dir, d.Listing, d.ModelSig), d.Signers...)
	}
	if c.Nix != nil {
		out = append(out, c.Nix.Store)
	}
	if p := c.Policies; p != nil {
		out = append(append(out, p.Rules, p.Initdata), p.ConfigFiles...)
	}
	for _, p := range c.Platforms {
		out = append(out, p.Metadata, p.ACPI, p.Compose, p.Rootfs, p.DockerFiles)
		for _, name := range []*string{p.Firmware, p.Kernel, p.Initrd} {
			if name != nil {
				out = append(out, *name)
			}
		}
	}
	for _, e := range c.Evidence {
		out = append(out, e.File, e.GPU, e.Registry, e.Compose, e.DockerFiles, e.Rootfs, e.VMConfig, e.TLSCert, e.IntelRoot)
		out = append(out, e.Collateral...)
	}
	if f := c.Fleet; f != nil {
		out = append(append(out, f.File, f.Compose), f.Inputs...)
	}
	for _, e := range c.Endorsements {
		out = append(append(out, e.Files()...), e.Artifacts...)
	}
	if m := c.Manifest; m != nil {
		out = append(out, m.Base, m.Adjust, m.Release, m.Values)
	}
	return slices.DeleteFunc(out, func(name string) bool { return name == "" || strings.HasPrefix(name, ProfilePrefix) })
}

// Loose are the files or folders of policies of which only what lies directly in
// them is read.
func (p *Policies) Loose() []string {
	if p == nil {
		return nil
	}
	return slices.DeleteFunc([]string{p.Settings, p.Published}, func(name string) bool { return name == "" })
}

// Texts are all texts of the configuration, whatever they mean.
func (c *Config) Texts() []string {
	var tree any
	if err := json.Unmarshal([]byte(c.Identity()), &tree); err != nil {
		return nil
	}
	var out []string
	var walk func(any)
	walk = func(v any) {
		switch v := v.(type) {
		case string:
			out = append(out, v)
		case []any:
			for _, e := range v {
				walk(e)
			}
		case map[string]any:
			for _, e := range v {
				walk(e)
			}
		}
	}
	walk(tree)
	slices.Sort(out)
	return slices.Compact(out)
}
