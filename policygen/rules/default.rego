# Rules for confidential pods: what the agent in the guest may be asked to do.
#
# They compare every request with policy_data, which the generator appends.
# They follow the documented meaning of that data and were written for this
# program; a rules file of another project can be used in their place.
package agent_policy

import rego.v1

# What ties a container to its image:
#   annotation  the digest in the image-name annotation is the pinned one
#   guest_pull  the guest pulls the image itself, by the pinned digest
#   off         nothing; the host chooses the bytes of the root file system
image_binding := "annotation"

# Requests that neither start code nor read or change what a container holds.

default GetMetricsRequest := true

default GetOOMEventRequest := true

default GuestDetailsRequest := true

default OnlineCPUMemRequest := true

default DestroySandboxRequest := true

default RemoveStaleVirtiofsShareMountsRequest := true

default SignalProcessRequest := true

default StartContainerRequest := true

default StatsContainerRequest := true

default TtyWinResizeRequest := true

default WaitProcessRequest := true

# Requests that no policy describes.

default AddSwapRequest := false

default ListInterfacesRequest := false

default ListRoutesRequest := false

default MemHotplugByProbeRequest := false

default PauseContainerRequest := false

default ReseedRandomDevRequest := false

default ResizeVolumeRequest := false

default ResumeContainerRequest := false

default SetGuestDateTimeRequest := false

default SetPolicyRequest := false

default StartTracingRequest := false

default StopTracingRequest := false

default UpdateContainerRequest := false

default VolumeStatsRequest := false

# Requests that the settings switch on or off as a whole.

default CloseStdinRequest := false

CloseStdinRequest if policy_data.request_defaults.CloseStdinRequest

default ReadStreamRequest := false

ReadStreamRequest if policy_data.request_defaults.ReadStreamRequest

default WriteStreamRequest := false

WriteStreamRequest if policy_data.request_defaults.WriteStreamRequest

default UpdateEphemeralMountsRequest := false

UpdateEphemeralMountsRequest if policy_data.request_defaults.UpdateEphemeralMountsRequest

default GetDiagnosticDataRequest := false

GetDiagnosticDataRequest if object.get(policy_data.request_defaults, "GetDiagnosticDataRequest", false)

# ---------------------------------------------------------------------------
# Templates. The data holds $(names) that stand for what is known only when a
# pod runs. A text is compared literally but for them; a regular expression
# takes them as parts.

annotation(key) := object.get(annotations, key, "")

# A request about a running container has no annotations: its identity was
# noted when it was created.
annotations := input.OCI.Annotations if {
	input.OCI
} else := known_containers[input.container_id].identity

sandbox_name := annotation("io.kubernetes.cri.sandbox-name")

sandbox_namespace := annotation("io.kubernetes.cri.sandbox-namespace")

sandbox_id := annotation("io.kubernetes.cri.sandbox-id")

bundle_key := "io.katacontainers.pkg.oci.bundle_path"

identity_keys := [
	"io.kubernetes.cri.sandbox-name", "io.kubernetes.cri.sandbox-namespace",
	"io.kubernetes.cri.sandbox-id", bundle_key,
]

# The bundle is named by the last part of its path; mounts and the root file
# system are named after it.
bundle_id := id if {
	path := annotation(bundle_key)
	parts := split(path, "/")
	id := parts[count(parts) - 1]
	regex.match("^[a-zA-Z0-9][a-zA-Z0-9_-]*$", id)
}

quote_regex(text) := out if {
	a := replace(replace(replace(replace(text, "\\", "\\\\"), ".", "\\."), "+", "\\+"), "*", "\\*")
	b := replace(replace(replace(replace(a, "?", "\\?"), "(", "\\("), ")", "\\)"), "|", "\\|")
	c := replace(replace(replace(replace(b, "[", "\\["), "]", "\\]"), "{", "\\{"), "}", "\\}")
	out := replace(replace(c, "^", "\\^"), "$", "\\$")
}

# Parts of regular expressions that the settings define, then the identity of
# the pod, which is text.
expand_regex(pattern) := out if {
	common := policy_data.common
	a := replace(replace(replace(pattern, "$(sfprefix)", common.sfprefix), "$(cpath)", common.cpath), "$(spath)", common.spath)
	b := replace(replace(a, "$(root_path)", common.root_path), "$(dns_label)", common.dns_label)
	c := replace(replace(b, "$(svc_name_downward_env)", common.svc_name_downward_env), "$(ipv4_a)", common.ipv4_a)
	out := replace(c, "$(ip_p)", common.ip_p)
}

expand_identity(pattern) := out if {
	a := replace(expand_regex(pattern), "$(bundle-id)", quote_regex(bundle_id))
	b := replace(replace(a, "$(sandbox-id)", quote_regex(sandbox_id)), "$(sandbox-name)", quote_regex(sandbox_name))
	out := replace(b, "$(sandbox-namespace)", quote_regex(sandbox_namespace))
}

matches_regex(pattern, value) if regex.match(expand_identity(pattern), value)

# matches compares a text that may hold $(names).
matches(template, value) if template == value

matches(template, value) if {
	contains(template, "$(")
	regex.match(concat("", ["^", runtime_pattern(quote_regex(template)), "$"]), value)
}

runtime_pattern(quoted) := out if {
	common := policy_data.common
	label := concat("", ["(?:", common.dns_label, ")"])
	address := "[0-9a-fA-F.:]+"
	a := replace(replace(quoted, "\\$\\(host-name\\)", label), "\\$\\(node-name\\)", label)
	b := replace(replace(a, "\\$\\(host-ip\\)", address), "\\$\\(pod-ip\\)", address)
	c := replace(replace(b, "\\$\\(pod-uid\\)", "[0-9a-f-]{36}"), "\\$\\(resource-field\\)", "[0-9]+")
	d := replace(replace(c, "\\$\\(sandbox-name\\)", quote_regex(sandbox_name)), "\\$\\(sandbox-namespace\\)", quote_regex(sandbox_namespace))
	e := replace(replace(d, "\\$\\(sandbox-id\\)", quote_regex(sandbox_id)), "\\$\\(todo-annotation\\)", ".*")
	out := replace(e, "\\$\\(bundle-id\\)", quote_regex(bundle_id))
}

# matches_path compares a path: a regular expression if it starts with ^.
matches_path(pattern, value) if pattern == value

matches_path(pattern, value) if {
	startswith(expand_regex(pattern), "^")
	regex.match(expand_identity(pattern), value)
}

matches_path(pattern, value) if {
	not startswith(expand_regex(pattern), "^")
	contains(pattern, "$(")
	regex.match(concat("", ["^", expand_identity(pattern), "$"]), value)
}

same_set(a, b) if {x | some x in a} == {x | some x in b}

# ---------------------------------------------------------------------------
# Checks. A check is {id, failed}: failed lists what was expected and found.
# A request passes if every list is empty. The same lists explain a denial, so
# that an explanation cannot differ from the decision.

passes(list) if count([1 | some c in list; count(c.failed) > 0]) == 0

check(id, failed) := {"id": id, "failed": failed}

# One value against another.
same(id, expected, actual) := check(id, [{"expected": e, "actual": a} |
	e := expected
	a := actual
	e != a
])

# ---------------------------------------------------------------------------
# CreateContainerRequest: what no policy has, and then one container of the
# policy whose checks all pass.

default CreateContainerRequest := {"allowed": false, "ops": []}

CreateContainerRequest := {"allowed": true, "ops": array.concat(create_ops(fitting[0]), network_ops)} if {
	passes(plain_checks)
	count(fitting) > 0
}

# Of two containers that both fit the first is remembered.
fitting := [i | some i, c in policy_data.containers; passes(container_checks(c))]

create_ops(index) := [{"op": "add", "path": concat("", ["/pstate/containers/", pointer(input.container_id)]), "value": note(index)}] if {
	known_containers != null
} else := [{"op": "add", "path": "/pstate/containers", "value": {input.container_id: note(index)}}]

note(index) := {"index": index, "identity": {key: annotation(key) | some key in identity_keys}}

known_containers := object.get(data.pstate, "containers", null)

known_network := object.get(data.pstate, "network_namespace", null)

pointer(key) := replace(replace(key, "~", "~0"), "/", "~1")

network_ops := [{"op": "add", "path": "/pstate/network_namespace", "value": network_paths[0]}] if {
	count(network_paths) == 1
	known_network == null
} else := []

network_paths := [n.Path | some n in input.OCI.Linux.Namespaces; n.Type == "network"]

plain_checks := [
	same("user by name", null, input.string_user),
	same("shared mounts", 0, count(input.shared_mounts)),
	same("hooks", null, input.OCI.Hooks),
	same("seccomp profile", null, input.OCI.Linux.Seccomp),
	same("other platforms", [null, null, null], [input.OCI.Solaris, input.OCI.Windows, input.OCI.Linux.IntelRdt]),
	same("id mappings", 0, count(input.OCI.Linux.UIDMappings) + count(input.OCI.Linux.GIDMappings)),
	same("security labels", ["", ""], [input.OCI.Linux.MountLabel, input.OCI.Process.SelinuxLabel]),
	check("apparmor profile", [{"expected": apparmor_profiles, "actual": p} |
		p := input.OCI.Process.ApparmorProfile
		not p in apparmor_profiles
	]),
	same("stdio ports", [0, 0, 0], [input.stdin_port, input.stdout_port, input.stderr_port]),
	check("bundle path", [{"expected": "a path that ends in the bundle's name", "actual": annotation(bundle_key)} | not bundle_id]),
	check("network namespace", [{"expected": known_network, "actual": network_paths} | not network_ok]),
]

apparmor_profiles := ["", "cri-containerd.apparmor.d"]

network_ok if count(network_paths) == 0

network_ok if {
	count(network_paths) == 1
	known_network in [null, network_paths[0]]
}

policy_annotation(c, key) := object.get(object.get(c.OCI, "Annotations", {}), key, null)

name_key := "io.kubernetes.cri.container-name"

type_key := "io.kubernetes.cri.container-type"

image_key := "io.kubernetes.cri.image-name"

is_sandbox(c) if policy_annotation(c, type_key) == "sandbox"

container_checks(c) := array.concat(
	array.concat(identity_checks(c), process_checks(c)),
	array.concat(linux_checks(c), mount_checks(c)),
)

identity_checks(c) := [
	same("container type", policy_annotation(c, type_key), annotation(type_key)),
	check("container name", [{"expected": want, "actual": annotation(name_key)} |
		want := policy_annotation(c, name_key)
		want != null
		want != annotation(name_key)
	]),
	check("annotations", [{"key": key, "expected": policy_annotation(c, key), "actual": value} |
		some key, value in input.OCI.Annotations
		not annotation_ok(c, key, value)
	]),
	check("required annotations", [{"key": key, "expected": want, "actual": null} |
		some key in ["io.kubernetes.cri.sandbox-name", "io.kubernetes.cri.sandbox-id", "io.katacontainers.pkg.oci.container_type", bundle_key]
		want := policy_annotation(c, key)
		want != null
		annotation(key) == ""
	]),
	check("image", [{"expected": policy_image(c), "actual": request_image} |
		not is_sandbox(c)
		not image_ok(c)
	]),
	same("oci version", c.OCI.Version, input.OCI.Version),
	same("sandbox pid namespace", c.sandbox_pidns, input.sandbox_pidns),
]

# Keys whose values in the data are regular expressions.
regex_keys := [
	"io.kubernetes.cri.sandbox-name", "io.kubernetes.cri.sandbox-id",
	"io.kubernetes.cri.sandbox-log-directory", "nerdctl/network-namespace",
]

annotation_ok(c, key, value) if {
	key in regex_keys
	matches_regex(policy_annotation(c, key), value)
}

# A deployment without a namespace goes wherever it is applied.
annotation_ok(c, "io.kubernetes.cri.sandbox-namespace", value) if {
	policy_annotation(c, "io.kubernetes.cri.sandbox-namespace") in ["", value]
	regex.match("^[a-z0-9]([a-z0-9-]*[a-z0-9])?$", value)
}

# The image has a check of its own.
annotation_ok(_, "io.kubernetes.cri.image-name", _)

annotation_ok(c, key, value) if {
	not key in regex_keys
	want := policy_annotation(c, key)
	want != null
	matches(want, value)
}

# What the runtime adds.
annotation_ok(c, key, value) if {
	policy_annotation(c, key) == null
	some key_pattern, value_pattern in c.runtime_anno_patterns
	regex.match(key_pattern, key)
	regex.match(value_pattern, value)
}

annotation_ok(c, key, _) if {
	policy_annotation(c, key) == null
	startswith(key, "io.kubernetes.cri.")
}

# The path of the bundle is the runtime's own; the data may fix it.
annotation_ok(c, "io.katacontainers.pkg.oci.bundle_path", value) if {
	policy_annotation(c, bundle_key) == null
	regex.match("^/[a-zA-Z0-9/._-]*$", value)
}

digest_of(reference) := parts[1] if {
	parts := split(reference, "@")
	count(parts) == 2
	regex.match("^sha256:[0-9a-f]{64}$", parts[1])
}

policy_image(c) := policy_annotation(c, image_key)

request_image := annotation(image_key) if image_binding != "guest_pull"

request_image := [s.source | some s in guest_pulls] if image_binding == "guest_pull"

guest_pulls := [s | some s in input.storages; s.driver == "image_guest_pull"]

image_ok(_) if image_binding == "off"

image_ok(c) if {
	image_binding == "annotation"
	digest_of(policy_image(c)) == digest_of(annotation(image_key))
	every s in guest_pulls {
		digest_of(policy_image(c)) == digest_of(s.source)
	}
}

image_ok(c) if {
	image_binding == "guest_pull"
	count(guest_pulls) == 1
	digest_of(policy_image(c)) == digest_of(guest_pulls[0].source)
}

process_checks(c) := [
	same("terminal", c.OCI.Process.Terminal, input.OCI.Process.Terminal),
	same("user id", c.OCI.Process.User.UID, input.OCI.Process.User.UID),
	same("group id", c.OCI.Process.User.GID, input.OCI.Process.User.GID),
	check("additional groups", [{"expected": want, "actual": got} |
		want := c.OCI.Process.User.AdditionalGids
		got := input.OCI.Process.User.AdditionalGids
		not same_set(want, got)
	]),
	same("user name", "", input.OCI.Process.User.Username),
	check("arguments", [{"expected": want, "actual": input.OCI.Process.Args} |
		want := object.get(c.OCI.Process, "Args", [])
		not same_args(want, input.OCI.Process.Args)
	]),
	check("environment", [{"expected": "a variable of the policy", "actual": e} |
		some e in input.OCI.Process.Env
		not env_ok(c, e)
	]),
	same("working directory", object.get(c.OCI.Process, "Cwd", ""), input.OCI.Process.Cwd),
	check("capabilities", [{"key": name, "expected": c.OCI.Process.Capabilities[name], "actual": object.get(input.OCI.Process, ["Capabilities", name], null)} |
		some name in ["Ambient", "Bounding", "Effective", "Inheritable", "Permitted"]
		not capabilities_ok(c.OCI.Process.Capabilities[name], input.OCI.Process.Capabilities[name])
	]),
	same("no new privileges", c.OCI.Process.NoNewPrivileges, input.OCI.Process.NoNewPrivileges),
]

same_args(want, got) if {
	count(want) == count(got)
	every i, a in want {
		matches(a, got[i])
	}
}

env_ok(c, e) if {
	some want in object.get(c.OCI.Process, "Env", [])
	matches(want, e)
}

env_ok(_, e) if {
	some pattern in policy_data.request_defaults.CreateContainerRequest.allow_env_regex
	matches_regex(pattern, e)
}

capabilities_ok(["$(default_caps)"], got) if same_set(policy_data.common.default_caps, got)

capabilities_ok(["$(privileged_caps)"], got) if same_set(policy_data.common.privileged_caps, got)

capabilities_ok(want, got) if same_set(want, got)

linux_checks(c) := [
	check("root path", [{"expected": c.OCI.Root.Path, "actual": got} |
		got := input.OCI.Root.Path
		not matches_path(c.OCI.Root.Path, got)
	]),
	same("read-only root", c.OCI.Root.Readonly, input.OCI.Root.Readonly),
	check("namespaces", [{"expected": c.OCI.Linux.Namespaces, "actual": input.OCI.Linux.Namespaces} |
		not namespaces_ok(c)
	]),
	check("masked paths", [{"expected": p, "actual": input.OCI.Linux.MaskedPaths} |
		some p in c.OCI.Linux.MaskedPaths
		not p in input.OCI.Linux.MaskedPaths
	]),
	check("read-only paths", [{"expected": p, "actual": input.OCI.Linux.ReadonlyPaths} |
		some p in c.OCI.Linux.ReadonlyPaths
		not p in input.OCI.Linux.ReadonlyPaths
		not p in input.OCI.Linux.MaskedPaths
	]),
	check("sysctls", [{"key": key, "expected": object.get(object.get(c.OCI.Linux, "Sysctl", {}), key, null), "actual": value} |
		some key, value in input.OCI.Linux.Sysctl
		object.get(object.get(c.OCI.Linux, "Sysctl", {}), key, null) != value
	]),
	check("device files", [{"expected": c.OCI.Linux.Devices, "actual": d} |
		some d in input.OCI.Linux.Devices
		not device_file_ok(c, d)
	]),
	check("root propagation", [{"expected": propagations(c), "actual": p} |
		p := input.OCI.Linux.RootfsPropagation
		not p in propagations(c)
	]),
	check("devices", [{"expected": c.devices, "actual": d} |
		some d in block_devices
		not block_device_ok(c, d)
	]),
	check("gpus", [{"expected": want, "actual": {"devices": [d.container_path | some d in gpu_devices], "annotations": gpu_annotations}} |
		want := policy_gpus(c)
		not gpus_ok(want)
	]),
]

namespaces_ok(c) if {
	got := [n | some n in input.OCI.Linux.Namespaces; n.Type != "network"]
	count(got) == count(c.OCI.Linux.Namespaces)
	same_set(got, c.OCI.Linux.Namespaces)
}

device_file_ok(c, d) if {
	some want in c.OCI.Linux.Devices
	want.Path == d.Path
	want.Type in ["", d.Type]
}

# A shared mount needs a root that is shared as well.
propagations(c) := array.concat(["", "private", "rprivate"], [p |
	some m in object.get(c.OCI, "Mounts", [])
	some option in m.options
	some p in object.get({"rshared": ["shared", "rshared"], "rslave": ["slave", "rslave"]}, option, [])
])

gpu_path := policy_data.devices.vfio.device_path

gpu_devices := [d | some d in input.devices; startswith(d.container_path, gpu_path)]

block_devices := [d | some d in input.devices; not startswith(d.container_path, gpu_path)]

block_drivers := ["blk", "blk-ccw", "mmioblk", "scsi", "nvdimm"]

block_device_ok(c, d) if {
	d.type in block_drivers
	listed_block_device(c, d)
}

block_device_ok(c, d) if {
	d.type_ in block_drivers
	listed_block_device(c, d)
}

listed_block_device(c, d) if {
	some want in c.devices
	want.container_path == d.container_path
	not startswith(want.container_path, gpu_path)
}

policy_gpus(c) := [d.type_ | some d in c.devices; d.container_path == gpu_path]

gpu_annotations := [key | some key, _ in input.OCI.Annotations; startswith(key, "cdi.k8s.io/")]

# Every GPU has one annotation of its own number. A GPU that was there when
# the virtual machine started is not named as a device.
gpus_ok(want) if {
	count(gpu_annotations) == count(want)
	count(gpu_devices) == 0
}

gpus_ok(want) if {
	count(gpu_annotations) == count(want)
	count(gpu_devices) == count(want)
	same_set(want, {d.type_ | some d in gpu_devices})
	numbers := {trim_prefix(d.container_path, gpu_path) | some d in gpu_devices}
	count(numbers) == count(want)
	every n in numbers {
		regex.match("^[0-9]+$", n)
	}
	numbers == {trim_prefix(key, "cdi.k8s.io/vfio") | some key in gpu_annotations}
}

# ---------------------------------------------------------------------------
# Mounts and storages.

mount_checks(c) := [
	check("mounts", [{"expected": policy_mounts(c, m.destination), "actual": m} |
		some m in input.OCI.Mounts
		not mount_ok(c, m)
	]),
	check("mount destinations", [{"expected": "every destination once", "actual": m.destination} |
		some i, m in input.OCI.Mounts
		some j, other in input.OCI.Mounts
		i < j
		m.destination == other.destination
	]),
	check("storages", [{"expected": policy_storages(c), "actual": s} |
		some s in input.storages
		not storage_ok(c, s)
	]),
	check("storage mount points", [{"expected": "every mount point once", "actual": s.mount_point} |
		some i, s in input.storages
		some j, other in input.storages
		i < j
		s.mount_point == other.mount_point
	]),
]

policy_mounts(c, destination) := [m | some m in object.get(c.OCI, "Mounts", []); m.destination == destination]

policy_storages(c) := [s.mount_point | some s in c.storages]

mount_ok(c, m) if {
	some want in policy_mounts(c, m.destination)
	want.type_ == m.type_
	options_ok(want, m)
	mount_source_ok(c, want, m)
}

options_ok(want, m) if want.options == m.options

# The kernel may report further options of the control group hierarchy.
options_ok(want, m) if {
	m.destination == "/sys/fs/cgroup"
	m.type_ == "cgroup"
	count(m.options) >= count(want.options)
	array.slice(m.options, 0, count(want.options)) == want.options
	every option in array.slice(m.options, count(want.options), count(m.options)) {
		option in object.get(policy_data, ["cluster_config", "cgroup_mount_extras_allowed"], [])
	}
}

mount_source_ok(_, want, m) if {
	want.source != ""
	matches_path(want.source, m.source)
}

# A volume on a block device is mounted from the storage of that device.
mount_source_ok(c, want, m) if {
	want.source == ""
	want.type_ == "bind"
	some s in input.storages
	s.mount_point == m.source
	s.driver in block_drivers
	storage_ok(c, s)
}

storage_ok(c, s) if {
	some want in c.storages
	want.driver != "image_guest_pull"
	want.driver == s.driver
	matches_path(want.source, s.source)
	matches_path(want.mount_point, s.mount_point)
	same_storage(want, s)
}

# The host names the device; its name is part of the mount point.
storage_ok(c, s) if {
	some want in c.storages
	want.driver == ""
	s.driver in block_drivers
	some encoded in [base64.encode(s.source), base64url.encode(s.source)]
	literal := replace(want.mount_point, "$(b64_device_id)", encoded)
	pattern := replace(want.mount_point, "$(b64_device_id)", quote_regex(encoded))
	device_mount_point(literal, pattern, s.mount_point)
	same_storage(want, s)
}

# The root file system, pulled in the guest. What is pulled is a matter of the
# image check, unless the policy has such a storage itself.
storage_ok(c, s) if {
	s.driver == "image_guest_pull"
	s.fstype == "overlay"
	count(s.options) == 0
	s.mount_point == input.OCI.Root.Path
	s.fs_group == null
	s.shared == false
	every option in s.driver_options {
		startswith(option, "image_guest_pull=")
	}
	guest_pull_source_ok(c, s)
}

guest_pull_source_ok(c, _) if count([1 | some want in c.storages; want.driver == "image_guest_pull"]) == 0

guest_pull_source_ok(c, s) if {
	some want in c.storages
	want.driver == "image_guest_pull"
	digest_of(want.source) == digest_of(s.source)
}

guest_pull_source_ok(c, s) if {
	some want in c.storages
	want.driver == "image_guest_pull"
	want.source == s.source
}

device_mount_point(literal, _, got) if replace(literal, "$(spath)", policy_data.common.spath) == got

device_mount_point(_, pattern, got) if {
	startswith(pattern, "^")
	regex.match(expand_identity(pattern), got)
}

same_storage(want, s) if {
	want.fstype == s.fstype
	want.options == s.options
	want.driver_options == s.driver_options
	want.fs_group == s.fs_group
	want.shared == s.shared
}

# ---------------------------------------------------------------------------
# RemoveContainerRequest forgets the container.

default RemoveContainerRequest := true

RemoveContainerRequest := {"allowed": true, "ops": [{"op": "remove", "path": concat("", ["/pstate/containers/", pointer(input.container_id)])}]} if {
	known_containers[input.container_id]
}

# ---------------------------------------------------------------------------
# ExecProcessRequest: a command of the running container, in its setting.

default ExecProcessRequest := false

ExecProcessRequest if passes(exec_checks)

running := policy_data.containers[known_containers[input.container_id].index]

exec_checks := array.concat(exec_basic_checks, exec_container_checks) if running

exec_checks := exec_basic_checks if not running

exec_basic_checks := [
	check("running container", [{"expected": "a container that was created", "actual": input.container_id} | not running]),
	same("user by name", null, input.string_user),
	same("terminal", false, input.process.Terminal),
	check("apparmor profile", [{"expected": apparmor_profiles, "actual": p} |
		p := input.process.ApparmorProfile
		not p in apparmor_profiles
	]),
	same("security label", "", input.process.SelinuxLabel),
	same("stdio ports", [0, 0, 0], [input.stdin_port, input.stdout_port, input.stderr_port]),
]

exec_container_checks := [
	check("command", [{"expected": allowed_commands, "actual": input.process.Args} | not command_ok]),
	check("user", [{"expected": running.OCI.Process.User, "actual": input.process.User} | not exec_user_ok]),
	check("environment", [{"expected": "a variable of the policy", "actual": e} |
		some e in input.process.Env
		not env_ok(running, e)
	]),
	same("working directory", object.get(running.OCI.Process, "Cwd", ""), input.process.Cwd),
	check("capabilities", [{"expected": running.OCI.Process.Capabilities, "actual": input.process.Capabilities} | not exec_capabilities_ok]),
	same("no new privileges", running.OCI.Process.NoNewPrivileges, input.process.NoNewPrivileges),
]

allowed_commands := array.concat(running.exec_commands, policy_data.request_defaults.ExecProcessRequest.allowed_commands)

command_ok if {
	some command in allowed_commands
	same_args(command, input.process.Args)
}

command_ok if {
	some pattern in policy_data.request_defaults.ExecProcessRequest.regex
	regex.match(expand_regex(pattern), concat(" ", input.process.Args))
}

exec_user_ok if input.process.User == null

exec_user_ok if {
	input.process.User.UID == running.OCI.Process.User.UID
	input.process.User.GID == running.OCI.Process.User.GID
	same_set(input.process.User.AdditionalGids, running.OCI.Process.User.AdditionalGids)
	input.process.User.Username == ""
}

exec_capabilities_ok if input.process.Capabilities == null

exec_capabilities_ok if {
	every name in ["Ambient", "Bounding", "Effective", "Inheritable", "Permitted"] {
		capabilities_ok(running.OCI.Process.Capabilities[name], input.process.Capabilities[name])
	}
}

# ---------------------------------------------------------------------------
# CreateSandboxRequest.

default CreateSandboxRequest := false

CreateSandboxRequest if passes(sandbox_checks)

sandbox_checks := [
	same("guest hooks", "", input.guest_hook_path),
	same("kernel modules", 0, count(input.kernel_modules)),
	check("sandbox pid namespace", [{"expected": false, "actual": true} |
		input.sandbox_pidns
		count([1 | some c in policy_data.containers; c.sandbox_pidns]) == 0
	]),
	check("storages", [{"expected": [w.mount_point | some w in policy_data.sandbox.storages], "actual": s} |
		some s in input.storages
		not sandbox_storage_ok(s)
	]),
]

sandbox_storage_ok(s) if {
	some want in policy_data.sandbox.storages
	want.driver == s.driver
	want.source == s.source
	want.mount_point == s.mount_point
	same_storage(want, s)
}

# ---------------------------------------------------------------------------
# CopyFileRequest: the host fills shared folders, never a root file system.

default CopyFileRequest := false

CopyFileRequest if passes(copy_checks)

copy_checks := [
	check("file type", [{"expected": ["Regular", "Directory", "Symlink"], "actual": input.file_type} |
		not input.file_type in ["Regular", "Directory", "Symlink"]
	]),
	check("path", [{"expected": policy_data.request_defaults.CopyFileRequest, "actual": input.path} | not copy_path_ok]),
	check("parent folders", [{"expected": "no .. in the path", "actual": input.path} | ".." in split(input.path, "/")]),
	check("symlink target", [{"expected": "a relative path without ..", "actual": input.symlink_target} |
		input.file_type == "Symlink"
		not symlink_ok
	]),
]

copy_pattern(pattern) := replace(expand_regex(pattern), "$(bundle-id)", "[a-zA-Z0-9][a-zA-Z0-9_-]*")

copy_path_ok if {
	input.file_type != "Symlink"
	some pattern in policy_data.request_defaults.CopyFileRequest
	regex.match(copy_pattern(pattern), input.path)
}

# A link in the shared folder itself could stand in for a mount's source.
copy_path_ok if {
	input.file_type == "Symlink"
	some pattern in policy_data.request_defaults.CopyFileRequest
	regex.match(concat("", [copy_pattern(pattern), "[^/]*/.+"]), input.path)
}

symlink_ok if {
	is_string(input.symlink_target)
	not startswith(input.symlink_target, "/")
	not ".." in split(input.symlink_target, "/")
}

# ---------------------------------------------------------------------------
# Network.

default UpdateRoutesRequest := false

UpdateRoutesRequest if passes(route_checks)

route_checks := [
	check("routes", [{"expected": "routes", "actual": null} | not input.routes.Routes]),
	check("device", [{"expected": "none of the forbidden devices", "actual": r.device} |
		some r in input.routes.Routes
		not route_device_ok(r)
	]),
	check("source", [{"expected": "no forbidden source", "actual": r.source} |
		some r in input.routes.Routes
		not route_source_ok(r)
	]),
]

route_device_ok(r) if not r.device in policy_data.request_defaults.UpdateRoutesRequest.forbidden_device_names

route_source_ok(r) if count([1 |
	some pattern in policy_data.request_defaults.UpdateRoutesRequest.forbidden_source_regex
	regex.match(pattern, r.source)
]) == 0

default UpdateInterfaceRequest := false

UpdateInterfaceRequest if passes(interface_checks)

interface_defaults := policy_data.request_defaults.UpdateInterfaceRequest

interface_checks := [
	check("interface", [{"expected": "an interface", "actual": null} | not input.interface.name]),
	check("name", [{"expected": "none of the forbidden names", "actual": name} |
		some name in [input.interface.name, input.interface.device]
		name in interface_defaults.forbidden_names
	]),
	check("hardware address", [{"expected": "none of the forbidden addresses", "actual": input.interface.hwAddr} |
		lower(input.interface.hwAddr) in [lower(a) | some a in interface_defaults.forbidden_hw_addrs]
	]),
	check("flags", [{"expected": interface_defaults.allow_raw_flags, "actual": input.interface.raw_flags} |
		not bits.and(input.interface.raw_flags, interface_defaults.allow_raw_flags) == input.interface.raw_flags
	]),
]

default AddARPNeighborsRequest := false

AddARPNeighborsRequest if passes(neighbor_checks)

neighbor_defaults := policy_data.request_defaults.AddARPNeighborsRequest

# NTF_ROUTER of linux/neighbour.h: the neighbor routes.
router_flag := 128

neighbor_checks := [
	check("neighbors", [{"expected": "neighbors", "actual": null} | not input.neighbors.ARPNeighbors]),
	check("device", [{"expected": "none of the forbidden devices", "actual": n.device} |
		some n in input.neighbors.ARPNeighbors
		not neighbor_device_ok(n)
	]),
	check("address", [{"expected": "no forbidden address", "actual": n.toIPAddress} |
		some n in input.neighbors.ARPNeighbors
		not neighbor_address_ok(n)
	]),
	check("state", [{"expected": object.get(neighbor_defaults, "allowed_states", []), "actual": n.state} |
		some n in input.neighbors.ARPNeighbors
		not n.state in object.get(neighbor_defaults, "allowed_states", [128])
	]),
	check("flags", [{"expected": [0, router_flag], "actual": n.flags} |
		some n in input.neighbors.ARPNeighbors
		not n.flags in [0, router_flag]
	]),
]

neighbor_device_ok(n) if not n.device in neighbor_defaults.forbidden_device_names

neighbor_address_ok(n) if count([1 |
	some pattern in neighbor_defaults.forbidden_cidrs_regex
	regex.match(pattern, n.toIPAddress.address)
]) == 0
