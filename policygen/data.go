package policygen

// The types of policy data: what the rules of a policy compare requests with.
// Field order is the order of the text, see appendJSON.

// Data is the policy data of one workload as kata 4.1 lays it out.
type Data struct {
	Containers      []ContainerData `json:"containers"`
	Common          commonSettings  `json:"common"`
	Sandbox         sandboxSettings `json:"sandbox"`
	RequestDefaults requestDefaults `json:"request_defaults"`
	Devices         devicesData     `json:"devices"`
	ClusterConfig   clusterConfig   `json:"cluster_config"`
}

// data3 is the layout before kata 4: another order and no cluster_config.
type data3 struct {
	Containers      []ContainerData  `json:"containers"`
	RequestDefaults requestDefaults3 `json:"request_defaults"`
	Common          commonSettings   `json:"common"`
	Sandbox         sandboxSettings  `json:"sandbox"`
	Devices         devicesData      `json:"devices"`
}

// ContainerData is one container of the policy; the first is the pause
// container.
type ContainerData struct {
	OCI                 OCISpec           `json:"OCI"`
	Storages            []Storage         `json:"storages"`
	Devices             []AgentDevice     `json:"devices"`
	SandboxPIDNS        bool              `json:"sandbox_pidns"`
	ExecCommands        [][]string        `json:"exec_commands"`
	RuntimeAnnoPatterns map[string]string `json:"runtime_anno_patterns"`
}

// OCISpec is the part of the OCI runtime specification that policies hold.
type OCISpec struct {
	Version     string            `json:"Version"`
	Process     Process           `json:"Process"`
	Root        Root              `json:"Root"`
	Mounts      []Mount           `json:"Mounts,omitempty"`
	Annotations map[string]string `json:"Annotations,omitempty"`
	Linux       Linux             `json:"Linux"`
}

// Process is what a container runs and as whom.
type Process struct {
	Terminal        bool         `json:"Terminal"`
	User            User         `json:"User"`
	Args            []string     `json:"Args,omitempty"`
	Env             []string     `json:"Env,omitempty"`
	Cwd             string       `json:"Cwd,omitempty"`
	Capabilities    Capabilities `json:"Capabilities"`
	NoNewPrivileges bool         `json:"NoNewPrivileges"`
}

// User holds numeric ids; AdditionalGids is sorted and has no duplicates.
type User struct {
	UID            uint32   `json:"UID"`
	GID            uint32   `json:"GID"`
	AdditionalGids []uint32 `json:"AdditionalGids"`
	Username       string   `json:"Username"`
}

// Capabilities are the five Linux capability sets.
type Capabilities struct {
	Ambient     []string `json:"Ambient"`
	Bounding    []string `json:"Bounding"`
	Effective   []string `json:"Effective"`
	Inheritable []string `json:"Inheritable"`
	Permitted   []string `json:"Permitted"`
}

// Root is the root file system.
type Root struct {
	Path     string `json:"Path"`
	Readonly bool   `json:"Readonly"`
}

// Mount is one mount inside the container. Source is a regular expression.
type Mount struct {
	Destination string   `json:"destination"`
	Source      string   `json:"source"`
	Type        string   `json:"type_"`
	Options     []string `json:"options"`
}

// Linux is the Linux part of the OCI specification.
type Linux struct {
	Namespaces    []Namespace       `json:"Namespaces"`
	MaskedPaths   []string          `json:"MaskedPaths"`
	ReadonlyPaths []string          `json:"ReadonlyPaths"`
	Devices       []DeviceNode      `json:"Devices"`
	Sysctl        map[string]string `json:"Sysctl,omitempty"`
}

// Namespace is a namespace that the container gets.
type Namespace struct {
	Type string `json:"Type"`
	Path string `json:"Path"`
}

// DeviceNode is a device file that the runtime makes.
type DeviceNode struct {
	Type string `json:"Type" k:"Type,req"`
	Path string `json:"Path" k:"Path,req"`
}

// Storage is what the agent mounts in the guest before a container starts.
type Storage struct {
	Driver        string   `json:"driver" k:"driver,def"`
	DriverOptions []string `json:"driver_options" k:"driver_options,def"`
	Source        string   `json:"source" k:"source,def"`
	FSType        string   `json:"fstype" k:"fstype,def"`
	Options       []string `json:"options" k:"options,def"`
	MountPoint    string   `json:"mount_point" k:"mount_point,def"`
	FSGroup       *FSGroup `json:"fs_group" k:"fs_group"`
	Shared        bool     `json:"shared" k:"shared,def"`
}

// FSGroup is the group that owns a storage.
type FSGroup struct {
	GroupID           uint32 `json:"group_id" k:"group_id,req"`
	GroupChangePolicy uint32 `json:"group_change_policy" k:"group_change_policy,req"`
}

// AgentDevice is a device that the agent hands to the container.
type AgentDevice struct {
	ID            string   `json:"id"`
	Type          string   `json:"type_"`
	VMPath        string   `json:"vm_path"`
	ContainerPath string   `json:"container_path"`
	Options       []string `json:"options"`
}

type devicesData struct {
	VFIO struct {
		DevicePath string   `json:"device_path"`
		NVIDIA     struct{} `json:"nvidia"`
	} `json:"vfio"`
}
