package policygen

import (
	"fmt"
	"slices"
	"strings"
)

// The values of cluster_config.emptydir_type.
const (
	sharedFS       = "shared-fs"
	blockPlain     = "block-plain"
	blockEncrypted = "block-encrypted"
)

// fileName is the last part of a path as Rust's Path::file_name sees it:
// trailing slashes and "." parts do not count, ".." and "/" have none.
func fileName(path string) (string, bool) {
	name := ""
	for part := range strings.SplitSeq(path, "/") {
		if part != "" && part != "." {
			name = part
		}
	}
	return name, name != "" && name != ".."
}

// escapeRegex puts a backslash before every character with a meaning in a
// regular expression (Rust's regex::escape).
func escapeRegex(s string) string {
	var b strings.Builder
	for i := range len(s) {
		if strings.IndexByte(`\.+*?()|[]{}^$#&-~`, s[i]) >= 0 {
			b.WriteByte('\\')
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

func access(readOnly bool) string {
	if readOnly {
		return "ro"
	}
	return "rw"
}

// baseMounts are the mounts of every container (OCI runtime-spec defaults of
// containerd).
func (b *builder) baseMounts() []Mount {
	sys := access(!b.privileged && !(b.pause && b.w.anyPrivileged()))
	mounts := []Mount{
		{"/proc", "proc", "proc", []string{"nosuid", "noexec", "nodev"}},
		{"/dev", "tmpfs", "tmpfs", []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
		{"/dev/pts", "devpts", "devpts", []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
		{"/dev/shm", "shm", "tmpfs", []string{"nosuid", "noexec", "nodev", "mode=1777", "size=65536k"}},
		{"/dev/mqueue", "mqueue", "mqueue", []string{"nosuid", "noexec", "nodev"}},
		{"/sys", "sysfs", "sysfs", []string{"nosuid", "noexec", "nodev", sys}},
	}
	if !b.pause {
		mounts = append(mounts, Mount{"/sys/fs/cgroup", "cgroup", "cgroup", []string{"nosuid", "noexec", "nodev", "relatime", sys}})
	}
	return mounts
}

// mounts fills Mounts and Storages, in kata's order.
func (b *builder) mounts() {
	b.out.OCI.Mounts = b.baseMounts()
	for i, m := range b.c.VolumeMounts {
		if m.SubPath != nil {
			b.fail(fmt.Sprintf("volumeMounts[%d].subPath", i), Unsupported, "a subPath mount has no policy")
			b.w.hint("mount the whole volume, or use subPathExpr")
		}
	}
	b.settingsMounts()
	b.claimMounts()
	for v := range b.w.pod.Volumes {
		for i := range b.c.VolumeMounts {
			if b.c.VolumeMounts[i].Name == b.w.pod.Volumes[v].Name {
				b.volumeMount(&b.w.pod.Volumes[v], &b.c.VolumeMounts[i], fmt.Sprintf("volumeMounts[%d]", i), v)
			}
		}
	}
	if b.profile.GuestPullStorages {
		b.out.Storages = append(b.out.Storages, Storage{
			Driver: "image_guest_pull", DriverOptions: []string{}, Source: b.c.Image, FSType: "overlay",
			Options: []string{}, MountPoint: "^$(root_path)$",
		})
	}
	b.imageVolumes()
}

// base is fileName with the failure reported.
func (b *builder) base(path, at string) string {
	name, ok := fileName(path)
	if !ok {
		b.fail(at, Unsupported, "%q has no last part to name the mount by", clip(path))
	}
	return name
}

func (b *builder) find(destination string) *Mount {
	for i := range b.out.OCI.Mounts {
		if b.out.OCI.Mounts[i].Destination == destination {
			return &b.out.OCI.Mounts[i]
		}
	}
	return nil
}

// put replaces the first mount with that destination, or appends.
func (b *builder) put(m Mount) {
	if old := b.find(m.Destination); old != nil {
		*old = m
		return
	}
	b.add(m)
}

func (b *builder) add(m Mount) { b.out.OCI.Mounts = append(b.out.OCI.Mounts, m) }

const terminationLog = "/dev/termination-log"

// settingsMounts adds the mounts of the settings that the container wants.
func (b *builder) settingsMounts() {
	readOnlyRoot := b.out.OCI.Root.Readonly
	for _, s := range b.spec.Mounts {
		wanted := slices.Contains(b.set.MountDestinations, s.Destination) ||
			slices.ContainsFunc(b.c.VolumeMounts, func(m volumeMount) bool { return m.MountPath == s.Destination })
		if !wanted {
			continue
		}
		m := Mount{s.Destination, s.Source, s.Type, slices.Clone(s.Options)}
		if s.Destination == terminationLog && b.c.TerminationMessagePath != nil {
			m.Destination = *b.c.TerminationMessagePath
		}
		// A destination without a last part (/ or /a/..) leaves the source empty
		// (genpolicy, mount_and_storage.rs), unlike a volume's mount path.
		if name, ok := fileName(m.Destination); ok && m.Source == "" && m.Type == "bind" {
			m.Source = "$(sfprefix)" + name + "$"
		}
		// The lookup uses the destination of the settings although the mount may
		// have been renamed above; the one found keeps its own destination.
		if old := b.find(s.Destination); old != nil {
			old.Type, old.Source, old.Options = m.Type, m.Source, m.Options
			continue
		}
		if !b.pause && (s.Destination == "/etc/hostname" || s.Destination == "/etc/resolv.conf") {
			m.Options = append(m.Options, access(readOnlyRoot))
		}
		b.add(m)
	}
}

// claimMounts adds the mounts of a StatefulSet's volumeClaimTemplates. They
// never replace a mount with the same destination.
func (b *builder) claimMounts() {
	for i, m := range b.c.VolumeMounts {
		for _, claim := range b.w.claims {
			if claim.Metadata.Name == nil || *claim.Metadata.Name != m.Name {
				continue
			}
			b.add(Mount{
				m.MountPath, "^/run/kata-containers/shared/containers/$(bundle-id)-[a-z0-9]{16}-" + b.base(m.MountPath, fmt.Sprintf("volumeMounts[%d].mountPath", i)) + "$",
				"bind",
				[]string{"rbind", "rprivate", "rw"},
			})
		}
	}
}

func (b *builder) volumeMount(v *volume, m *volumeMount, at string, index int) {
	readOnly := m.ReadOnly != nil && *m.ReadOnly
	switch {
	case v.EmptyDir != nil:
		b.emptyDir(v, m, at, readOnly)
	case v.PersistentVolumeClaim != nil, v.AzureFile != nil, v.Ephemeral != nil:
		b.shared(m, at, "rprivate", "rw")
	case v.HostPath != nil:
		b.hostPath(v.HostPath.Path, m, at, readOnly)
	case v.ConfigMap != nil, v.Secret != nil:
		b.configMap(m, at)
	case v.Projected != nil:
		b.shared(m, at, "rprivate", "ro")
	case v.DownwardAPI != nil:
		name := m.MountPath[strings.LastIndexByte(m.MountPath, '/')+1:]
		b.put(Mount{m.MountPath, "$(sfprefix)" + name + "$", "bind", []string{"rbind", "rprivate", "ro"}})
	case b.w.typeOf(index) == "":
		b.w.fail(fmt.Sprintf("volumes[%d]", index), Unsupported, "volume %q has no type", v.Name)
		b.w.hint("Kubernetes makes an empty directory of it: write emptyDir: {}")
	default:
		b.w.fail(fmt.Sprintf("volumes[%d]", index), Unsupported, "volume %q has the type %s, which has no policy", v.Name, clip(b.w.typeOf(index)))
		b.w.hint("use emptyDir, hostPath, persistentVolumeClaim, configMap, secret, projected, downwardAPI or azureFile")
	}
}

// typeOf is the key that gives a volume of the pod its type, "" where it has none
// or only one without a value.
func (w *workloadItem) typeOf(index int) string {
	at := w.tree
	for _, key := range append(slices.Clone(w.rule.pod), "volumes") {
		at = at.get(key)
	}
	if at == nil || index >= len(at.elems) {
		return ""
	}
	for _, e := range at.elems[index].entries {
		if e.key.text != "name" && e.val.kind != nullKind {
			return e.key.text
		}
	}
	return ""
}

func (b *builder) shared(m *volumeMount, at, propagation, mode string) {
	b.put(Mount{
		m.MountPath, "$(sfprefix)" + escapeRegex(b.base(m.MountPath, at+".mountPath")) + "$", "bind",
		[]string{"rbind", propagation, mode},
	})
}

func (b *builder) hostPath(path string, m *volumeMount, at string, readOnly bool) {
	propagation := "rprivate"
	if m.MountPropagation != nil && *m.MountPropagation == "Bidirectional" {
		propagation = "rshared"
	}
	if !inGuest(path) {
		b.shared(m, at, propagation, access(readOnly))
		return
	}
	b.put(Mount{m.MountPath, path, "bind", []string{"rbind", propagation, access(readOnly)}})
}

// inGuest reports whether the path is /dev, /sys or below: those are taken
// from the guest, not shared by the host.
func inGuest(path string) bool {
	if !strings.HasPrefix(path, "/") {
		return false
	}
	for part := range strings.SplitSeq(path, "/") {
		if part != "" && part != "." {
			return part == "dev" || part == "sys"
		}
	}
	return false
}

func (b *builder) emptyDirPropagation(m *volumeMount) string {
	if b.profile.MountPropagation && m.MountPropagation != nil {
		switch *m.MountPropagation {
		case "Bidirectional":
			return "rshared"
		case "HostToContainer":
			return "rslave"
		}
	}
	return "rprivate"
}

func (b *builder) emptyDir(v *volume, m *volumeMount, at string, readOnly bool) {
	options := []string{"rbind", b.emptyDirPropagation(m), access(readOnly)}
	memory := v.EmptyDir.Medium != nil && *v.EmptyDir.Medium == "Memory"
	var s *emptyDirSettings
	switch t := b.set.ClusterConfig.EmptyDirType; {
	case memory:
		s = &b.set.Volumes.EmptyDirMemory
	case t == blockEncrypted:
		s = &b.set.Volumes.EmptyDirEncrypted
	case t == blockPlain && b.set.Volumes.EmptyDirPlain != nil:
		s = b.set.Volumes.EmptyDirPlain
	case t == sharedFS:
		// Two mounts with one destination: kata does not know which of the two
		// sources the runtime will use.
		name := escapeRegex(b.base(m.MountPath, at+".mountPath"))
		b.add(Mount{m.MountPath, "^$(cpath)/sandbox-[0-9a-f]{16}-" + escapeRegex(v.Name) + "$", "bind", options})
		b.add(Mount{m.MountPath, "$(sfprefix)" + name + "$", "bind", slices.Clone(options)})
		return
	default:
		b.fail(at, SettingsKind, "settings: cluster_config.emptydir_type %q is not known", clip(t))
		b.w.hint("use %s, %s or %s", blockEncrypted, blockPlain, sharedFS)
		return
	}
	if m.SubPathExpr != nil {
		b.add(Mount{m.MountPath, b.set.Volumes.ConfigMap.MountSource + b.base(m.MountPath, at+".mountPath") + "$", "bind", options})
		return
	}
	b.out.Storages = append(b.out.Storages, b.emptyDirStorage(v, s, memory))
	source := ""
	if s.MountSource != "" {
		source = s.MountSource + v.Name + "$"
	}
	b.add(Mount{m.MountPath, source, s.MountType, options})
}

func (b *builder) emptyDirStorage(v *volume, s *emptyDirSettings, memory bool) Storage {
	st := Storage{
		Driver: s.Driver, DriverOptions: s.DriverOptions, Source: s.Source, FSType: s.FSType,
		Options: slices.Clone(s.Options), MountPoint: s.MountPoint, Shared: s.Shared,
	}
	if strings.HasSuffix(st.MountPoint, "/") {
		st.MountPoint += v.Name + "$"
	}
	var group *int64
	if sc := b.w.pod.SecurityContext; sc != nil {
		group = sc.FSGroup
	}
	if group == nil || *group == 0 {
		return st
	}
	if memory {
		st.Options = append(st.Options, fmt.Sprintf("fsgid=%d", *group))
	} else if gid, ok := b.podID(group, "fsGroup"); ok && gid > 0 {
		st.FSGroup = &FSGroup{GroupID: gid}
	}
	return st
}

func (b *builder) configMap(m *volumeMount, at string) {
	s := &b.set.Volumes.ConfigMap
	name := b.base(m.MountPath, at+".mountPath")
	if b.set.KataConfig.EnableConfigMapSecretStorages {
		b.out.Storages = append(b.out.Storages, Storage{
			Driver: s.Driver, DriverOptions: []string{}, Source: s.MountSource + name + "$", FSType: s.FSType,
			Options: s.Options, MountPoint: s.MountPoint + name + "$",
		})
	}
	b.add(Mount{m.MountPath, s.MountPoint + name + "$", s.MountType, s.Options})
}

// imageVolumes adds the volumes that the image declares and nothing covers.
func (b *builder) imageVolumes() {
	s := &b.set.Volumes.ImageVolume
	for _, path := range b.img.Volumes {
		if b.profile.RefuseDeclaredVolumes {
			if !slices.ContainsFunc(b.c.VolumeMounts, func(m volumeMount) bool { return m.MountPath == path }) {
				b.fail("image", Unsupported, "the image declares VOLUME %q and no volumeMount covers it", clip(path))
				b.w.hint("mount a volume there, for example an emptyDir")
			}
			continue
		}
		dest := path
		for strings.Contains(dest, "//") {
			dest = strings.ReplaceAll(dest, "//", "/")
		}
		if b.find(dest) == nil {
			// The type is the settings' fstype, not its mount_type.
			b.add(Mount{dest, s.MountSource + b.base(dest, "image") + "$", s.FSType, s.Options})
		}
	}
}
