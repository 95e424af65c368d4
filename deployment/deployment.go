// Package deployment reads Kubernetes deployment YAML for what it pins: the
// images of every container, the dm-verity root hashes handed to disk-mounter,
// and the file hashes that start scripts check. It computes and locates; it
// compares with nothing.
//
// Everything foreign stays a value with a place: an odd thing in the file is a
// [Problem] with line and column, not an error. Only a file that is not YAML
// at all is an error.
//
// Which objects are workloads, whose metadata counts, and how a workload's
// names and platform follow from it are the rules of `contrast generate`.
package deployment

import (
	"slices"

	"gopkg.in/yaml.v3"

	"github.com/retally/retally/deployment/internal/shell"
	"github.com/retally/retally/internal/digest"
	"github.com/retally/retally/internal/yamldoc"
)

// Deployment is one YAML stream. It does not change after Parse.
type Deployment struct {
	File      string
	Objects   []Object   // in file order, List items in place of their List
	Workloads []Workload // the objects that run containers, in file order

	src        source
	configMaps []ConfigMap
	images     []ImagePin
	disks      []DiskPin
	checks     []FileCheck
	opaque     []Opaque
	unknown    []Unknown
	exempted   []Exempted
	opts       Options
	problems   problems
	document   int // the document that is being read, from 1
	budget     int // what is left for following scripts, in rough steps
}

// Options are the user's own words on a deployment.
type Options struct {
	// Exempt names workloads (Object.ID) that may run outside a confidential
	// runtime class, with the reason. A reason is required.
	Exempt map[string]string
	// RuntimeClasses are further runtime classes that the user knows to be
	// confidential, beside those that start with contrast-cc.
	RuntimeClasses []string
}

// Identity says which object of which file something comes from. It is
// comparable: joins go by it, never by order.
type Identity struct {
	File                              string
	Document, Line, Column            int // the document from 1
	APIVersion, Kind, Namespace, Name string
}

// Unknown is an object of a kind that is not known: whether it runs anything,
// or changes what others run, nobody can say.
type Unknown struct {
	Object Identity
	Reason string
}

// Exempted is a workload outside a confidential runtime class that the user
// exempted.
type Exempted struct {
	Object       Identity
	Workload     string // Object.ID
	RuntimeClass string
	Reason       string
}

// maxWork bounds the following of scripts in one file. One script may stand in
// many containers through YAML aliases, so a bound per script is not enough.
const maxWork = 20_000_000

// spend takes from the budget; the first time that there is none left, it
// says so in the problems.
func (d *Deployment) spend(n int) bool {
	before := d.budget
	d.budget -= n
	if d.budget < 0 && before >= 0 {
		d.report(Problem{Code: TooMany, Msg: "the start scripts of this file are too much work to follow all of them"})
	}
	return d.budget >= 0
}

// Object is one Kubernetes object.
type Object struct {
	APIVersion, Kind, Namespace, Name string
	Line                              int
	Document                          int  // of the stream, from 1
	InList                            bool // an item of a List
	Node                              *yaml.Node

	file string
}

// Identity gives the object's identity. A missing namespace stays "".
func (o Object) Identity() Identity {
	i := Identity{File: o.file, Document: o.Document, Line: o.Line, APIVersion: o.APIVersion, Kind: o.Kind, Namespace: o.Namespace, Name: o.Name}
	if o.Node != nil {
		i.Column = o.Node.Column
	}
	return i
}

// ID names the object for people and for joins: Kind/namespace/name, with
// "default" for a missing namespace.
func (o Object) ID() string {
	return o.Kind + "/" + orDefault(o.Namespace, "default") + "/" + o.Name
}

// Workload is an object that makes pods. Labels and Annotations are those of
// the pod template, which are the ones Contrast looks at.
type Workload struct {
	Object
	RuntimeClass string
	// Confidential says that the runtime class starts with contrast-cc, which
	// is what `contrast generate` has in scope.
	Confidential bool
	// Platform is the part of the runtime class after "contrast-cc-", without
	// a handler's trailing hash; "" means the platform given to
	// `contrast generate --reference-values`.
	Platform    string
	HandlerHash string // eight hex digits of a full handler name, else ""
	Coordinator bool
	Annotations map[string]string
	Labels      map[string]string
	Containers  []Container // init containers, then containers, then ephemeral ones
	SecretID    string      // WorkloadSecretID as `contrast generate` derives it
	SANs        []string    // as `contrast generate` writes them, before later edits
	Volumes     []Volume
	Template    []string // path to the pod template; none means the object itself
}

// Container is one container of a pod template.
type Container struct {
	Name          string
	Init          bool
	Ephemeral     bool
	Image         ImageRef
	Command, Args []Arg // nil where the field is absent
	Env           []EnvVar
	Mounts        []Mount
	Devices       []Device
	Line          int

	restart    string // restartPolicy; "Always" makes an init container a sidecar
	workingDir string
	envFrom    bool
	vars       []envVar
	hooks      []hook
	node       *yaml.Node
}

// envVar is any entry of env; value is nil where it comes from elsewhere.
type envVar struct {
	name  string
	value *string
	line  int
}

// Arg is one word of a container's command or args.
type Arg struct {
	Text string
	Line int // where the word starts; of a block scalar, its first content line

	value string // with the container's variables put in for $(NAME)
	node  *yaml.Node
}

// EnvVar is an environment variable with a literal value.
type EnvVar struct {
	Name, Value string
	Line        int
}

// Mount is a volumeMount.
type Mount struct {
	Volume, Path, SubPath string
	ReadOnly              bool
	Line                  int
}

// Device is a volumeDevice.
type Device struct {
	Volume, Path string
	Line         int
}

// Volume is a pod volume, or a volumeClaimTemplate of a StatefulSet.
type Volume struct {
	Name         string
	Source       string // the source's key: configMap, secret, emptyDir, ephemeral, …, volumeClaimTemplate
	ConfigMap    string // name of the ConfigMap
	Secret       string
	Claim        string            // name of the PersistentVolumeClaim
	StorageClass string            // of an ephemeral or template claim
	Items        map[string]string // path in the volume -> key of the ConfigMap, nil if all keys are there by name
	Line         int
}

// ConfigMap is a ConfigMap of the file with its text data.
type ConfigMap struct {
	Object
	Data   map[string]string
	Binary map[string]string // base64 as written
}

// ImagePin is one image reference in its place.
type ImagePin struct {
	Object    Identity
	Workload  string // Object.ID
	Container string // "" where the image stands outside of containers
	Init      bool
	Field     string // of an image outside of containers: where it stands
	Ref       ImageRef
	// Pinned says that the reference holds a valid digest. A tag beside it
	// counts for nothing: runtimes pull by digest.
	Pinned bool
}

// DiskPin is one use of disk-mounter: a dm-verity disk and its root hash.
//
// A container is a disk-mounter if the last element of its image's repository
// is "disk-mounter", or if its own name is "disk-mounter" or starts with
// "disk-mounter-"; the second half finds mirrored and renamed images.
type DiskPin struct {
	Object              Identity
	Workload, Container string
	Init                bool
	Form                string // one of the Form constants
	// Model and Index are given by position since v1.38. Before, they are read
	// from the device path /dev/modelweights-<model>-<index> and are "" where
	// it is plain /dev/modelweights (up to v1.18).
	Model, Index          string
	DevicePath, MountPath string
	Volume                string // the volume of the device path
	Claim, StorageClass   string // what the volume is claimed from
	RootHash              digest.Digest
	RootHashText          string
	Line, Column          int // of the root hash
	// CommandOverride says that the container sets command, so that the args
	// reach disk-mounter only if that command passes them on.
	CommandOverride bool
	// InCommand says that the root hash stands in the command, not in args.
	InCommand bool
	// Used says that the root hash was seen to reach disk-mounter, and that
	// the container's start is understood whole.
	Used bool
}

// The ways in which a root hash is given.
const (
	FormPositional    = "positional"        // MODEL INDEX VALUE
	FormFlagEquals    = "--root-hash="      // --root-hash=VALUE
	FormFlagSeparate  = "--root-hash VALUE" // two words
	FormMissing       = "missing"           // no root hash
	FormNotUnderstood = "not understood"
)

// FileCheck is a comparison of a file's hash with a constant in a start script.
type FileCheck struct {
	Object              Identity
	Workload, Container string
	Init                bool
	File                string // as the script names it
	Expected            digest.Digest
	ExpectedText        string
	Line, Column        int // of the expected hash in the YAML
	// CopiedFrom is the file that the script copied to File before the check,
	// "" if it checks the file where it is.
	CopiedFrom string
	// Volume, ConfigMap and Key say where the file comes from, as far as the
	// mounts tell; "" where they do not (part of the image, or made by the
	// script).
	Volume, Source, ConfigMap, Key string
	Enforcement                    Enforcement
	Reason                         string // why the enforcement is what it is
}

// Enforcement says what a mismatch of a file check does.
type Enforcement string

// What a check is good for. Nothing but Unknown stands in a script that is not
// understood whole.
const (
	Enforced    = Enforcement(shell.Enforced)    // a mismatch stops the container with a failure
	NotEnforced = Enforcement(shell.NotEnforced) // a mismatch changes nothing but the output
	Inverted    = Enforcement(shell.Inverted)    // a match stops the container
	Undecided   = Enforcement(shell.Unknown)     // cannot be told simply
)

// Parse reads a YAML stream of Kubernetes objects. It fails only if the file
// is not YAML that every reader reads alike (*yamldoc.Error, see
// yamldoc.ParseKubernetes).
func Parse(file string, data []byte) (*Deployment, error) { return ParseWith(file, data, Options{}) }

// ParseWith is Parse with the user's options.
func ParseWith(file string, data []byte, opts Options) (*Deployment, error) {
	docs, err := yamldoc.ParseKubernetes(file, data, yamldoc.Limits{})
	if err != nil {
		return nil, err
	}
	d := &Deployment{File: file, opts: opts, src: newSource(data), budget: maxWork}
	for i, doc := range docs {
		if d.document = i + 1; doc != nil {
			d.addObject(doc, "", "", 0)
		}
	}
	d.checkDuplicates()
	for i := range d.Objects {
		d.addWorkload(&d.Objects[i])
	}
	d.collectImages()
	d.collectStarts()
	d.checkExemptions()
	return d, nil
}

// Images lists every image reference in file order of the workloads.
func (d *Deployment) Images() []ImagePin { return slices.Clone(d.images) }

// Disks lists every use of disk-mounter.
func (d *Deployment) Disks() []DiskPin { return slices.Clone(d.disks) }

// FileChecks lists every file hash that a start script checks.
func (d *Deployment) FileChecks() []FileCheck { return slices.Clone(d.checks) }

// Opaque lists the containers whose start is not understood whole. What they
// mount and check is not proved.
func (d *Deployment) Opaque() []Opaque { return slices.Clone(d.opaque) }

// Unknown lists the objects of kinds that are not known.
func (d *Deployment) Unknown() []Unknown { return slices.Clone(d.unknown) }

// Exempted lists the workloads that run outside of confidential computing
// because the user said so.
func (d *Deployment) Exempted() []Exempted { return slices.Clone(d.exempted) }

// Problems lists what is odd, by line. Of each code a bounded number is kept;
// where there were more, that is an error itself, which stands first, and
// errors stand before warnings. A clean release has none.
func (d *Deployment) Problems() []Problem { return d.problems.list() }

// ConfigMaps lists the ConfigMaps of the file.
func (d *Deployment) ConfigMaps() []ConfigMap { return slices.Clone(d.configMaps) }

func orDefault(s, def string) string {
	if s == "" {
		return def
	}
	return s
}
