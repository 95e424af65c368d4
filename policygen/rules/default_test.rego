# Unit tests of default.rego: every predicate with something that passes and
# something that does not. Run by the tests of package check.
package agent_policy

import rego.v1

policy_data := {
	"containers": [
		{
			"OCI": {
				"Annotations": {"io.kubernetes.cri.container-type": "sandbox"},
				"Process": {"User": {}, "NoNewPrivileges": true, "Capabilities": {}},
				"Linux": {"Namespaces": []},
			},
			"storages": [], "devices": [], "sandbox_pidns": false, "exec_commands": [], "runtime_anno_patterns": {},
		},
		{
			"OCI": {
				"Annotations": {
					"io.kubernetes.cri.container-type": "container",
					"io.kubernetes.cri.container-name": "app",
					"io.kubernetes.cri.image-name": "registry.test/app@sha256:1111111111111111111111111111111111111111111111111111111111111111",
					"io.kubernetes.cri.sandbox-name": "^web-[0-9]+$",
					"io.kubernetes.cri.sandbox-namespace": "",
					"team": "red",
				},
				"Process": {"Args": ["run", "$(pod-ip)"], "Env": ["A=1", "HOST=$(host-name)", "NAME=$(sandbox-name)"], "Cwd": "/", "User": {"UID": 1, "GID": 2, "AdditionalGids": [2, 3]}, "NoNewPrivileges": false, "Capabilities": {}},
				"Linux": {"Namespaces": [{"Type": "ipc", "Path": ""}], "Devices": [{"Type": "", "Path": "/dev/state"}]},
				"Mounts": [
					{"destination": "/data", "source": "", "type_": "bind", "options": ["rbind", "rprivate", "rw"]},
					{"destination": "/conf", "source": "$(sfprefix)conf$", "type_": "bind", "options": ["rbind", "rprivate", "ro"]},
					{"destination": "/shared", "source": "/x", "type_": "bind", "options": ["rbind", "rshared", "rw"]},
					{"destination": "/sys/fs/cgroup", "source": "cgroup", "type_": "cgroup", "options": ["ro"]},
				],
			},
			"storages": [{"driver": "", "driver_options": ["key"], "source": "", "fstype": "ext4", "options": [], "mount_point": "$(spath)/$(b64_device_id)", "fs_group": null, "shared": true}],
			"devices": [
				{"type_": "gpu", "container_path": "/dev/vfio/devices/vfio"},
				{"type_": "gpu", "container_path": "/dev/vfio/devices/vfio"},
				{"type_": "", "container_path": "/dev/state"},
			],
			"sandbox_pidns": false, "exec_commands": [["probe", "it"]],
			"runtime_anno_patterns": {"^cdi\\.k8s\\.io/vfio[0-9]+$": "^nvidia\\.com/gpu=[0-9]+$"},
		},
	],
	"common": {
		"cpath": "/run/shared", "spath": "/run/storage", "root_path": "/run/$(bundle-id)/rootfs",
		"sfprefix": "^$(cpath)/$(bundle-id)-[a-z0-9]{16}-", "dns_label": "[a-z0-9.-]+", "ipv4_a": "[0-9.]+", "ip_p": "[0-9]+",
		"svc_name_downward_env": "[A-Z_]+", "default_caps": ["CAP_A", "CAP_B"], "privileged_caps": ["CAP_A", "CAP_B", "CAP_C"],
	},
	"request_defaults": {
		"CreateContainerRequest": {"allow_env_regex": ["^$(svc_name_downward_env)_PORT=$(ip_p)$"]},
		"CopyFileRequest": ["$(sfprefix)"],
		"ExecProcessRequest": {"allowed_commands": [["ls"]], "regex": ["^cat /tmp/[a-z]+$"]},
		"UpdateRoutesRequest": {"forbidden_device_names": ["lo"], "forbidden_source_regex": ["^127\\."]},
		"UpdateInterfaceRequest": {"allow_raw_flags": 192, "forbidden_names": ["lo"], "forbidden_hw_addrs": ["00:00:00:00:00:AA"]},
		"AddARPNeighborsRequest": {"forbidden_device_names": ["lo"], "forbidden_cidrs_regex": ["^127\\."], "allowed_states": [2]},
		"ReadStreamRequest": true, "WriteStreamRequest": false, "CloseStdinRequest": false, "UpdateEphemeralMountsRequest": false,
	},
	"sandbox": {"storages": []},
	"devices": {"vfio": {"device_path": "/dev/vfio/devices/vfio"}},
	"cluster_config": {"cgroup_mount_extras_allowed": ["nsdelegate"]},
}

app := policy_data.containers[1]

oci := {"OCI": {
	"Annotations": {
		"io.katacontainers.pkg.oci.bundle_path": "/run/containerd/abc",
		"io.kubernetes.cri.sandbox-name": "web-1",
		"io.kubernetes.cri.sandbox-namespace": "prod",
		"io.kubernetes.cri.image-name": "mirror.test/app@sha256:1111111111111111111111111111111111111111111111111111111111111111",
	},
	"Root": {"Path": "/run/abc/rootfs"},
	"Linux": {"Namespaces": [{"Type": "ipc", "Path": ""}]},
}}

test_bundle_id if bundle_id == "abc" with input as oci

test_bundle_id_without_parts if {
	not bundle_id with input as {"OCI": {"Annotations": {"io.katacontainers.pkg.oci.bundle_path": "/run/.."}}}
}

test_quote_regex if quote_regex("a.b*(c)$") == "a\\.b\\*\\(c\\)\\$"

test_template_literal if {
	matches("a+b", "a+b") with input as oci
	not matches("a+b", "aab") with input as oci
}

test_template_names if {
	matches("x=$(host-name)", "x=node.1") with input as oci
	not matches("x=$(host-name)", "x=node 1") with input as oci
	matches("$(sandbox-name)", "web-1") with input as oci
	not matches("$(sandbox-name)", "web-2") with input as oci
	not matches("a.$(pod-ip)", "ab10.0.0.1") with input as oci
}

test_environment if {
	env_ok(app, "A=1") with input as oci
	env_ok(app, "NAME=web-1") with input as oci
	env_ok(app, "SVC_PORT=80") with input as oci
	not env_ok(app, "A=2") with input as oci
	not env_ok(app, "SVC_PORT=80x") with input as oci
}

test_arguments if {
	same_args(["run", "$(pod-ip)"], ["run", "10.0.0.1"]) with input as oci
	not same_args(["run", "$(pod-ip)"], ["run"]) with input as oci
	not same_args(["run"], ["run", "x"]) with input as oci
}

test_annotations if {
	annotation_ok(app, "team", "red") with input as oci
	not annotation_ok(app, "team", "blue") with input as oci
	annotation_ok(app, "io.kubernetes.cri.sandbox-name", "web-7") with input as oci
	not annotation_ok(app, "io.kubernetes.cri.sandbox-name", "web-x") with input as oci
	annotation_ok(app, "io.kubernetes.cri.sandbox-memory", "5") with input as oci
	annotation_ok(app, "cdi.k8s.io/vfio1", "nvidia.com/gpu=0") with input as oci
	not annotation_ok(app, "cdi.k8s.io/other", "nvidia.com/gpu=0") with input as oci
	not annotation_ok(app, "io.katacontainers.config.hypervisor.path", "/x") with input as oci
}

test_image_by_annotation if {
	image_ok(app) with input as object.union(oci, {"storages": []})
	not image_ok(app) with input as {"storages": [], "OCI": {"Annotations": {"io.kubernetes.cri.image-name": "registry.test/app:latest"}}}
}

test_capabilities if {
	capabilities_ok(["$(default_caps)"], ["CAP_B", "CAP_A"])
	not capabilities_ok(["$(default_caps)"], ["CAP_A", "CAP_B", "CAP_C"])
	capabilities_ok([], [])
	not capabilities_ok([], ["CAP_A"])
}

test_namespaces if {
	namespaces_ok(app) with input as oci
	namespaces_ok(app) with input as {"OCI": {"Linux": {"Namespaces": [{"Type": "ipc", "Path": ""}, {"Type": "network", "Path": "/x"}]}}}
	not namespaces_ok(app) with input as {"OCI": {"Linux": {"Namespaces": [{"Type": "ipc", "Path": ""}, {"Type": "pid", "Path": ""}]}}}
	not namespaces_ok(app) with input as {"OCI": {"Linux": {"Namespaces": [{"Type": "ipc", "Path": "/proc/1/ns/ipc"}]}}}
}

test_network_stays if {
	network_ok with input as {"OCI": {"Linux": {"Namespaces": [{"Type": "network", "Path": "/a"}]}}} with data.pstate as {}
	network_ok with input as {"OCI": {"Linux": {"Namespaces": [{"Type": "network", "Path": "/a"}]}}} with data.pstate as {"network_namespace": "/a"}
	not network_ok with input as {"OCI": {"Linux": {"Namespaces": [{"Type": "network", "Path": "/b"}]}}} with data.pstate as {"network_namespace": "/a"}
}

test_device_files if {
	device_file_ok(app, {"Type": "b", "Path": "/dev/state"})
	not device_file_ok(app, {"Type": "b", "Path": "/dev/sda"})
}

test_block_devices if {
	block_device_ok(app, {"type_": "blk", "container_path": "/dev/state"})
	not block_device_ok(app, {"type_": "vfio-pci", "container_path": "/dev/state"})
	not block_device_ok(app, {"type_": "blk", "container_path": "/dev/other"})
}

gpu_request(devices, numbers) := {
	"devices": [{"type_": "gpu", "container_path": concat("", ["/dev/vfio/devices/vfio", d])} | some d in devices],
	"OCI": {"Annotations": {key: "nvidia.com/gpu=0" | some n in numbers; key := concat("", ["cdi.k8s.io/vfio", n])}},
}

test_gpus if {
	gpus_ok(policy_gpus(app)) with input as gpu_request(["1", "2"], ["1", "2"])
	gpus_ok(policy_gpus(app)) with input as gpu_request([], ["1", "2"])
	not gpus_ok(policy_gpus(app)) with input as gpu_request(["1", "2"], ["1", "3"])
	not gpus_ok(policy_gpus(app)) with input as gpu_request(["1", "1"], ["1", "2"])
	not gpus_ok(policy_gpus(app)) with input as gpu_request(["1"], ["1"])
	not gpus_ok(policy_gpus(app)) with input as gpu_request([], [])
}

block_storage(source, point) := {
	"driver": "blk", "driver_options": ["key"], "source": source, "fstype": "ext4", "options": [],
	"mount_point": point, "fs_group": null, "shared": true,
}

test_storage_of_a_device if {
	storage_ok(app, block_storage("00/00", "/run/storage/MDAvMDA=")) with input as oci
	not storage_ok(app, block_storage("00/00", "/run/storage/other")) with input as oci
	not storage_ok(app, object.union(block_storage("00/00", "/run/storage/MDAvMDA="), {"driver": "virtio-fs"})) with input as oci
	not storage_ok(app, object.union(block_storage("00/00", "/run/storage/MDAvMDA="), {"driver_options": []})) with input as oci
	not storage_ok(app, object.union(block_storage("00/00", "/run/storage/MDAvMDA="), {"fs_group": {"group_id": 1}})) with input as oci
}

mount(destination, source, options) := {"destination": destination, "source": source, "type_": "bind", "options": options}

test_mounts if {
	request := object.union(oci, {"storages": [block_storage("00/00", "/run/storage/MDAvMDA=")]})
	mount_ok(app, mount("/data", "/run/storage/MDAvMDA=", ["rbind", "rprivate", "rw"])) with input as request
	not mount_ok(app, mount("/data", "/run/storage/other", ["rbind", "rprivate", "rw"])) with input as request
	mount_ok(app, mount("/conf", "/run/shared/abc-0123456789abcdef-conf", ["rbind", "rprivate", "ro"])) with input as request
	not mount_ok(app, mount("/conf", "/run/shared/abc-0123456789abcdef-confx", ["rbind", "rprivate", "ro"])) with input as request
	not mount_ok(app, mount("/conf", "/run/shared/abd-0123456789abcdef-conf", ["rbind", "rprivate", "ro"])) with input as request
	not mount_ok(app, mount("/conf", "/run/shared/abc-0123456789abcdef-conf", ["rbind", "rprivate", "rw"])) with input as request
	not mount_ok(app, mount("/else", "/x", ["rbind"])) with input as request
}

test_cgroup_extras if {
	options_ok(app.OCI.Mounts[3], {"destination": "/sys/fs/cgroup", "type_": "cgroup", "options": ["ro", "nsdelegate"]})
	not options_ok(app.OCI.Mounts[3], {"destination": "/sys/fs/cgroup", "type_": "cgroup", "options": ["ro", "other"]})
	not options_ok(app.OCI.Mounts[3], {"destination": "/sys/fs/cgroup", "type_": "cgroup", "options": ["nsdelegate", "ro"]})
}

test_propagation if {
	"rshared" in propagations(app)
	not "rslave" in propagations(app)
}

test_copy if {
	CopyFileRequest with input as {"file_type": "Regular", "path": "/run/shared/abc-0123456789abcdef-x"}
	not CopyFileRequest with input as {"file_type": "Regular", "path": "/etc/passwd"}
	not CopyFileRequest with input as {"file_type": "Regular", "path": "/run/shared/abc-0123456789abcdef-x/../../y"}
	CopyFileRequest with input as {"file_type": "Symlink", "path": "/run/shared/abc-0123456789abcdef-x/l", "symlink_target": "t"}
	not CopyFileRequest with input as {"file_type": "Symlink", "path": "/run/shared/abc-0123456789abcdef-x", "symlink_target": "t"}
	not CopyFileRequest with input as {"file_type": "Symlink", "path": "/run/shared/abc-0123456789abcdef-x/l", "symlink_target": "/t"}
	not CopyFileRequest with input as {"file_type": "Symlink", "path": "/run/shared/abc-0123456789abcdef-x/l", "symlink_target": null}
}

test_routes if {
	UpdateRoutesRequest with input as {"routes": {"Routes": [{"device": "eth0", "source": ""}]}}
	not UpdateRoutesRequest with input as {"routes": {"Routes": [{"device": "eth0", "source": ""}, {"device": "lo", "source": ""}]}}
	not UpdateRoutesRequest with input as {"routes": {"Routes": [{"device": "eth0", "source": "127.1.1.1"}]}}
	not UpdateRoutesRequest with input as {"routes": null}
}

interface(name, address, flags) := {"interface": {"name": name, "device": "eth0", "hwAddr": address, "raw_flags": flags}}

test_interfaces if {
	UpdateInterfaceRequest with input as interface("eth0", "02:00:00:00:00:01", 64)
	not UpdateInterfaceRequest with input as interface("lo", "02:00:00:00:00:01", 0)
	not UpdateInterfaceRequest with input as interface("eth0", "00:00:00:00:00:aa", 0)
	not UpdateInterfaceRequest with input as interface("eth0", "02:00:00:00:00:01", 1)
}

neighbor(device, address, state, flags) := {"neighbors": {"ARPNeighbors": [{"device": device, "toIPAddress": {"address": address}, "state": state, "flags": flags}]}}

test_neighbors if {
	AddARPNeighborsRequest with input as neighbor("eth0", "10.0.0.1", 2, 128)
	not AddARPNeighborsRequest with input as neighbor("lo", "10.0.0.1", 2, 0)
	not AddARPNeighborsRequest with input as neighbor("eth0", "127.0.0.1", 2, 0)
	not AddARPNeighborsRequest with input as neighbor("eth0", "10.0.0.1", 4, 0)
	not AddARPNeighborsRequest with input as neighbor("eth0", "10.0.0.1", 2, 1)
}

test_commands if {
	state := {"containers": {"id": {"index": 1, "identity": {}}}}
	command_ok with input as {"container_id": "id", "process": {"Args": ["probe", "it"]}} with data.pstate as state
	command_ok with input as {"container_id": "id", "process": {"Args": ["ls"]}} with data.pstate as state
	command_ok with input as {"container_id": "id", "process": {"Args": ["cat", "/tmp/x"]}} with data.pstate as state
	not command_ok with input as {"container_id": "id", "process": {"Args": ["sh"]}} with data.pstate as state
	not command_ok with input as {"container_id": "other", "process": {"Args": ["probe", "it"]}} with data.pstate as state
}

test_switches if {
	ReadStreamRequest
	not WriteStreamRequest
	not SetPolicyRequest
	not GetDiagnosticDataRequest
}

test_removal if {
	RemoveContainerRequest == true with input as {"container_id": "x"} with data.pstate as {}
	RemoveContainerRequest.ops[0].path == "/pstate/containers/a~1b" with input as {"container_id": "a/b"} with data.pstate as {"containers": {"a/b": {"index": 1}}}
}
