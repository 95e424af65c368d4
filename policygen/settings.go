package policygen

import (
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/retally/retally/internal/jsondoc"
)

// Settings are genpolicy settings with their drop-ins applied.
type Settings struct {
	name string // of the file, for errors
	s    settings
}

// settings is the schema of genpolicy-settings.json: what policies are made
// of. Members that are not here are ignored, as the reference does.
type settings struct {
	PauseContainer    specSettings    `k:"pause_container,req"`
	OtherContainer    specSettings    `k:"other_container,req"`
	Volumes           volumeSettings  `k:"volumes,req"`
	Devices           deviceSettings  `k:"devices,req"`
	MountDestinations []string        `k:"mount_destinations,req"`
	Sandbox           sandboxSettings `k:"sandbox,req"`
	Common            commonSettings  `k:"common,req"`
	KataConfig        kataConfig      `k:"kata_config,req"`
	ClusterConfig     clusterConfig   `k:"cluster_config,req"`
	RequestDefaults   requestDefaults `k:"request_defaults,req"`
}

type specSettings struct {
	Version     string            `k:"Version,def"`
	Process     processSettings   `k:"Process,def"`
	Root        rootSettings      `k:"Root,req"`
	Mounts      []mountSettings   `k:"Mounts,req"`
	Hooks       *value            `k:"Hooks"`
	Annotations map[string]string `k:"Annotations,def"`
	Linux       linuxSettings     `k:"Linux,def"`
}

type processSettings struct {
	Terminal bool `k:"Terminal,def"`
	User     *struct {
		UID            uint32   `k:"UID,req"`
		GID            uint32   `k:"GID,req"`
		AdditionalGids []uint32 `k:"AdditionalGids,req"`
		Username       string   `k:"Username,req"`
	} `k:"User,def"`
	Args         []string `k:"Args,def"`
	Env          []string `k:"Env,def"`
	Cwd          string   `k:"Cwd,def"`
	Capabilities *struct {
		Ambient     []string `k:"Ambient,req"`
		Bounding    []string `k:"Bounding,req"`
		Effective   []string `k:"Effective,req"`
		Inheritable []string `k:"Inheritable,req"`
		Permitted   []string `k:"Permitted,req"`
	} `k:"Capabilities,def"`
	NoNewPrivileges bool `k:"NoNewPrivileges,def"`
}

type rootSettings struct {
	Path     string `k:"Path,req"`
	Readonly bool   `k:"Readonly,def"`
}

type mountSettings struct {
	Destination string   `k:"destination,req"`
	Source      string   `k:"source,def"`
	Type        string   `k:"type_,req"`
	Options     []string `k:"options,req"`
}

type linuxSettings struct {
	Namespaces []struct {
		Type string `k:"Type,req"`
		Path string `k:"Path,req"`
	} `k:"Namespaces,def"`
	MaskedPaths   []string          `k:"MaskedPaths,def"`
	ReadonlyPaths []string          `k:"ReadonlyPaths,def"`
	Devices       []DeviceNode      `k:"Devices,def"`
	Sysctl        map[string]string `k:"Sysctl,def"`
}

type volumeSettings struct {
	EmptyDir          emptyDirSettings    `k:"emptyDir,req"`
	EmptyDirEncrypted emptyDirSettings    `k:"emptyDir_encrypted,req"`
	EmptyDirPlain     *emptyDirSettings   `k:"emptyDir_plain,req4"`
	EmptyDirMemory    emptyDirSettings    `k:"emptyDir_memory,req"`
	ConfigMap         configMapSettings   `k:"configMap,req"`
	ImageVolume       imageVolumeSettings `k:"image_volume,req4"`
}

type emptyDirSettings struct {
	MountType     string   `k:"mount_type,req"`
	MountSource   string   `k:"mount_source,req"`
	MountPoint    string   `k:"mount_point,req"`
	Driver        string   `k:"driver,req"`
	DriverOptions []string `k:"driver_options,req"`
	FSType        string   `k:"fstype,req"`
	Options       []string `k:"options,req"`
	Source        string   `k:"source,req"`
	Shared        bool     `k:"shared,req"`
}

type configMapSettings struct {
	MountType   string   `k:"mount_type,req"`
	MountSource string   `k:"mount_source,req"`
	MountPoint  string   `k:"mount_point,req"`
	Driver      string   `k:"driver,req"`
	FSType      string   `k:"fstype,req"`
	Options     []string `k:"options,req"`
}

type imageVolumeSettings struct {
	MountType   string   `k:"mount_type,req"`
	MountSource string   `k:"mount_source,req"`
	Driver      string   `k:"driver,req"`
	Source      string   `k:"source,req"`
	FSType      string   `k:"fstype,req"`
	Options     []string `k:"options,req"`
}

type deviceSettings struct {
	VFIO struct {
		DevicePath   string `k:"device_path,req"`
		AnnoKeyRegex string `k:"anno_key_regex,req"`
		NVIDIA       struct {
			GPUAnnoValueRegex string   `k:"gpu_anno_value_regex,req"`
			GPUDeviceType     string   `k:"gpu_gk_device_type,req"`
			PGPUResourceKeys  []string `k:"pgpu_resource_keys,req"`
		} `k:"nvidia,req"`
	} `k:"vfio,req"`
}

type kataConfig struct {
	OCIVersion                    string `k:"oci_version,req"`
	EnableConfigMapSecretStorages bool   `k:"enable_configmap_secret_storages,req"`
}

type sandboxSettings struct {
	Storages []Storage `json:"storages" k:"storages,req"`
}

type commonSettings struct {
	CPath                string   `json:"cpath" k:"cpath,req"`
	RootPath             string   `json:"root_path" k:"root_path,req"`
	SFPrefix             string   `json:"sfprefix" k:"sfprefix,req"`
	SPath                string   `json:"spath" k:"spath,req"`
	IPv4                 string   `json:"ipv4_a" k:"ipv4_a,req"`
	IPPort               string   `json:"ip_p" k:"ip_p,req"`
	ServiceNameDownward  string   `json:"svc_name_downward_env" k:"svc_name_downward_env,req"`
	DNSLabel             string   `json:"dns_label" k:"dns_label,req"`
	DefaultCapabilities  []string `json:"default_caps" k:"default_caps,req"`
	PrivilegedCapability []string `json:"privileged_caps" k:"privileged_caps,req"`
}

type clusterConfig struct {
	PauseContainerImage      string   `json:"pause_container_image" k:"pause_container_image,req"`
	GuestPull                bool     `json:"guest_pull" k:"guest_pull,req"`
	EmptyDirType             string   `json:"emptydir_type" k:"emptydir_type,req4"`
	CgroupMountExtrasAllowed []string `json:"cgroup_mount_extras_allowed" k:"cgroup_mount_extras_allowed,def"`
	// EncryptedEmptyDir is the older form of EmptyDirType.
	EncryptedEmptyDir *bool `json:"-" k:"encrypted_emptydir"`
}

type requestDefaults struct {
	CreateContainer        createContainerDefaults `json:"CreateContainerRequest" k:"CreateContainerRequest,req"`
	CopyFile               []string                `json:"CopyFileRequest" k:"CopyFileRequest,req"`
	ExecProcess            execDefaults            `json:"ExecProcessRequest" k:"ExecProcessRequest,req"`
	UpdateRoutes           routeDefaults           `json:"UpdateRoutesRequest" k:"UpdateRoutesRequest,req"`
	UpdateInterface        interfaceDefaults       `json:"UpdateInterfaceRequest" k:"UpdateInterfaceRequest,req"`
	AddARPNeighbors        arpDefaults             `json:"AddARPNeighborsRequest" k:"AddARPNeighborsRequest,req"`
	CloseStdin             bool                    `json:"CloseStdinRequest" k:"CloseStdinRequest,req"`
	ReadStream             bool                    `json:"ReadStreamRequest" k:"ReadStreamRequest,req"`
	UpdateEphemeralMounts  bool                    `json:"UpdateEphemeralMountsRequest" k:"UpdateEphemeralMountsRequest,req"`
	WriteStream            bool                    `json:"WriteStreamRequest" k:"WriteStreamRequest,req"`
	GetDiagnosticDataValue bool                    `json:"GetDiagnosticDataRequest" k:"GetDiagnosticDataRequest,req4"`
}

type createContainerDefaults struct {
	AllowEnvRegex []string `json:"allow_env_regex" k:"allow_env_regex,req"`
}

type execDefaults struct {
	Commands        *[]string  `json:"commands,omitempty" k:"commands"`
	AllowedCommands [][]string `json:"allowed_commands" k:"allowed_commands,req"`
	Regex           []string   `json:"regex" k:"regex,req"`
}

type routeDefaults struct {
	ForbiddenDeviceNames []string `json:"forbidden_device_names" k:"forbidden_device_names,req"`
	ForbiddenSourceRegex []string `json:"forbidden_source_regex" k:"forbidden_source_regex,req"`
}

type interfaceDefaults struct {
	AllowRawFlags    uint32   `json:"allow_raw_flags" k:"allow_raw_flags,req"`
	ForbiddenNames   []string `json:"forbidden_names" k:"forbidden_names,req"`
	ForbiddenHWAddrs []string `json:"forbidden_hw_addrs" k:"forbidden_hw_addrs,req"`
}

type arpDefaults struct {
	ForbiddenDeviceNames []string `json:"forbidden_device_names" k:"forbidden_device_names,req"`
	ForbiddenCIDRsRegex  []string `json:"forbidden_cidrs_regex" k:"forbidden_cidrs_regex,req"`
	AllowedStates        []uint32 `json:"allowed_states" k:"allowed_states,req4"`
}

// requestDefaults3 leaves out what kata 4 added.
type requestDefaults3 struct {
	CreateContainer       createContainerDefaults `json:"CreateContainerRequest"`
	CopyFile              []string                `json:"CopyFileRequest"`
	ExecProcess           execDefaults            `json:"ExecProcessRequest"`
	UpdateRoutes          routeDefaults           `json:"UpdateRoutesRequest"`
	UpdateInterface       interfaceDefaults       `json:"UpdateInterfaceRequest"`
	AddARPNeighbors       arpDefaults3            `json:"AddARPNeighborsRequest"`
	CloseStdin            bool                    `json:"CloseStdinRequest"`
	ReadStream            bool                    `json:"ReadStreamRequest"`
	UpdateEphemeralMounts bool                    `json:"UpdateEphemeralMountsRequest"`
	WriteStream           bool                    `json:"WriteStreamRequest"`
}

type arpDefaults3 struct {
	ForbiddenDeviceNames []string `json:"forbidden_device_names"`
	ForbiddenCIDRsRegex  []string `json:"forbidden_cidrs_regex"`
}

// The names of the settings file and its drop-in folder.
const (
	settingsFile = "genpolicy-settings.json"
	dropInFolder = "genpolicy-settings.d"
)

// NamedFile is a file's content with the name that errors show.
type NamedFile struct {
	Name string
	Data []byte
}

// PauseImage is the reference of the image that every pod's first container
// runs.
func (s *Settings) PauseImage() string { return s.s.ClusterConfig.PauseContainerImage }

// SettingsFiles reads a settings folder: genpolicy-settings.json and, in byte
// order of their names, genpolicy-settings.d/*.json. Folders inside are not
// entered.
func SettingsFiles(dir fs.FS) (base NamedFile, dropIns []NamedFile, err error) {
	base.Name = settingsFile
	if base.Data, err = readBounded(dir, settingsFile); err != nil {
		return base, nil, err
	}
	entries, err := fs.ReadDir(dir, dropInFolder)
	if err != nil {
		return base, nil, nil // no such folder: no drop-ins
	}
	for _, e := range entries {
		name := path.Join(dropInFolder, e.Name())
		if stem, ok := strings.CutSuffix(e.Name(), ".json"); !ok || stem == "" {
			continue
		}
		data, err := readBounded(dir, name)
		if err != nil {
			return base, nil, err
		}
		dropIns = append(dropIns, NamedFile{name, data})
	}
	slices.SortFunc(dropIns, func(a, b NamedFile) int { return strings.Compare(a.Name, b.Name) })
	return base, dropIns, nil
}

func readBounded(dir fs.FS, name string) ([]byte, error) {
	limit := Limits{}.orDefault().JSONBytes
	info, err := fs.Stat(dir, name)
	if err != nil {
		return nil, fmt.Errorf("read settings: %w", err)
	}
	if info.Size() > int64(limit) {
		return nil, fmt.Errorf("read settings: %s has %d bytes, the limit is %d", name, info.Size(), limit)
	}
	return fs.ReadFile(dir, name)
}

// ParseSettings reads settings and applies the drop-ins (RFC 6902 patches) in
// order. The error is of type Problems.
func ParseSettings(base NamedFile, dropIns []NamedFile, profile Profile) (*Settings, error) {
	doc, err := parseJSON(base)
	if err != nil {
		return nil, err
	}
	for _, d := range dropIns {
		patch, err := parseJSON(d)
		if err != nil {
			return nil, err
		}
		if doc, err = applyPatch(doc, patch); err != nil {
			return nil, Problems{{File: d.Name, Kind: SettingsKind, Message: "apply patch: " + err.Error()}}
		}
	}
	lines := newLineIndex(base.Data)
	if len(dropIns) > 0 {
		lines = nil // places of a patched document belong to several files
	}
	d := decoder{collector: &collector{file: base.Name}, json: true, relaxed: profile.Layout != Kata4Layout}
	s := &Settings{name: base.Name}
	d.decode(fromJSON(doc, lines), "", &s.s)
	if c := s.s.RequestDefaults.ExecProcess.Commands; c != nil && len(*c) > 0 {
		d.add(nil, "request_defaults.ExecProcessRequest.commands", SettingsKind, "this member is no longer supported")
		d.hint("use allowed_commands")
	}
	if len(d.problems) > 0 {
		return nil, d.problems
	}
	if e := s.s.ClusterConfig.EncryptedEmptyDir; e != nil && s.s.ClusterConfig.EmptyDirType == "" {
		s.s.ClusterConfig.EmptyDirType = sharedFS
		if *e {
			s.s.ClusterConfig.EmptyDirType = blockEncrypted
		}
	}
	return s, nil
}

func parseJSON(f NamedFile) (*jsondoc.Value, error) {
	doc, err := jsondoc.Parse(f.Data, jsondoc.Limits{})
	if err != nil {
		return nil, Problems{jsonProblem(f.Name, err)}
	}
	return doc, nil
}
