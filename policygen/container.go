package policygen

import (
	"maps"
	"slices"
	"strconv"
	"strings"
)

// builder computes the policy data of one container.
type builder struct {
	w          *workloadItem
	profile    Profile
	set        *settings
	spec       *specSettings
	c          *container
	img        *image
	pause      bool
	privileged bool
	path       string // of the container below the pod spec, "" for pause
	out        ContainerData
}

// fail reports a problem at a field of the container.
func (b *builder) fail(field string, k ProblemKind, format string, args ...any) {
	path := b.path
	if field != "" && path != "" {
		path += "."
	}
	b.w.fail(path+field, k, format, args...)
}

func pauseContainer(image string) container {
	yes, no := true, false
	return container{Image: image, SecurityContext: &securityContext{ReadOnlyRootFilesystem: &yes, AllowPrivilegeEscalation: &no}}
}

func isPrivileged(c *container) bool {
	return c.SecurityContext != nil && c.SecurityContext.Privileged != nil && *c.SecurityContext.Privileged
}

// build computes everything of one container.
func (b *builder) build() ContainerData {
	b.privileged = isPrivileged(b.c)
	o := &b.out.OCI
	b.out.Storages, b.out.Devices, b.out.ExecCommands = []Storage{}, []AgentDevice{}, [][]string{}
	o.Version = b.set.KataConfig.OCIVersion
	o.Root.Path = b.spec.Root.Path
	sc := b.c.SecurityContext
	o.Root.Readonly = sc != nil && sc.ReadOnlyRootFilesystem != nil && *sc.ReadOnlyRootFilesystem
	o.Annotations = b.annotations()
	b.process(&o.Process)
	b.mounts()
	o.Linux = b.linux()
	b.out.SandboxPIDNS = !b.pause && b.w.pod.ShareProcessNamespace != nil && *b.w.pod.ShareProcessNamespace
	b.execCommands()
	b.devices()
	b.guestPull(o.Process.User)
	return b.out
}

// initdataAnnotation carries the policy; it is never part of it.
const initdataAnnotation = "io.katacontainers.config.hypervisor.cc_init_data"

const criPrefix = "io.kubernetes.cri."

// annotations: those of the pod first, then what is absent.
func (b *builder) annotations() map[string]string {
	a := maps.Clone(b.w.podMeta().Annotations)
	if a == nil {
		a = map[string]string{}
	}
	delete(a, initdataAnnotation)
	absent := func(key, val string) {
		if _, ok := a[key]; !ok {
			a[key] = val
		}
	}
	for key, val := range b.spec.Annotations {
		absent(key, val)
	}
	if b.w.nameRegex != "" {
		absent(criPrefix+"sandbox-name", "^"+b.w.nameRegex+"$")
	}
	if !b.pause {
		image := b.c.Image
		if !strings.Contains(image, ":") {
			image += ":latest"
		}
		absent(criPrefix+"image-name", image)
	}
	// Always overwritten, and empty where the YAML has none.
	a[criPrefix+"sandbox-namespace"] = ""
	if b.w.namespace != nil {
		a[criPrefix+"sandbox-namespace"] = *b.w.namespace
	}
	if b.c.Name != "" {
		absent(criPrefix+"container-name", b.c.Name)
	}
	if b.pause {
		test := ""
		if b.w.hostNetwork() {
			test = "test"
		}
		absent("nerdctl/network-namespace", "^/var/run/netns/cni"+test+"-[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$")
	}
	return a
}

func (b *builder) process(p *Process) {
	p.Cwd = "/"
	if b.img.WorkingDir != "" {
		p.Cwd = b.img.WorkingDir
	}
	p.Terminal = b.img.TTY
	if b.c.TTY != nil {
		p.Terminal = *b.c.TTY
	}
	p.User = b.user()
	if sc := b.w.pod.SecurityContext; sc != nil && sc.AllowPrivilegeEscalation != nil {
		p.NoNewPrivileges = !*sc.AllowPrivilegeEscalation
	}
	if sc := b.c.SecurityContext; sc != nil && sc.AllowPrivilegeEscalation != nil {
		p.NoNewPrivileges = !*sc.AllowPrivilegeEscalation
	}
	p.Env = b.env()
	p.Args = b.args()
	b.substituteArgs(p.Args, p.Env)
	// What the settings add is neither replaced nor used to replace.
	p.Args = withMissing(p.Args, b.spec.Process.Args)
	p.Env = withMissing(p.Env, b.spec.Process.Env)
	p.Capabilities = b.capabilities()
}

func (b *builder) capabilities() Capabilities {
	common := &b.set.Common
	caps := slices.Clone(common.DefaultCapabilities)
	if b.privileged {
		caps = slices.Clone(common.PrivilegedCapability)
	}
	if sc := b.c.SecurityContext; sc != nil && sc.Capabilities != nil {
		for _, drop := range sc.Capabilities.Drop {
			if drop == "ALL" {
				caps = caps[:0]
			}
			caps = slices.DeleteFunc(caps, func(c string) bool { return c == "CAP_"+drop })
		}
		for _, add := range sc.Capabilities.Add {
			if !slices.Contains(caps, "CAP_"+add) {
				caps = append(caps, "CAP_"+add)
			}
		}
	}
	// The rules compare the short form; order matters.
	switch {
	case slices.Equal(caps, common.DefaultCapabilities):
		caps = []string{"$(default_caps)"}
	case slices.Equal(caps, common.PrivilegedCapability):
		caps = []string{"$(privileged_caps)"}
	}
	return Capabilities{Ambient: []string{}, Inheritable: []string{}, Bounding: caps, Effective: caps, Permitted: caps}
}

func (b *builder) linux() Linux {
	l := Linux{Namespaces: []Namespace{{Type: "ipc"}}, MaskedPaths: []string{}, ReadonlyPaths: []string{}, Devices: []DeviceNode{}}
	if !(b.pause && b.w.hostNetwork()) {
		l.Namespaces = append(l.Namespaces, Namespace{Type: "uts"})
	}
	l.Namespaces = append(l.Namespaces, Namespace{Type: "mount"})
	if !b.privileged {
		l.MaskedPaths = []string{
			"/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
			"/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware",
		}
		l.ReadonlyPaths = []string{"/proc/asound", "/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
	}
	if len(b.spec.Linux.MaskedPaths) > 0 {
		l.MaskedPaths = b.spec.Linux.MaskedPaths
	}
	if len(b.spec.Linux.ReadonlyPaths) > 0 {
		l.ReadonlyPaths = b.spec.Linux.ReadonlyPaths
	}
	for _, d := range b.c.VolumeDevices {
		l.Devices = append(l.Devices, DeviceNode{Path: d.DevicePath})
	}
	l.Devices = append(l.Devices, b.spec.Linux.Devices...)
	l.Sysctl = maps.Clone(b.spec.Linux.Sysctl)
	if sc := b.w.pod.SecurityContext; sc != nil && len(sc.Sysctls) > 0 {
		if l.Sysctl == nil {
			l.Sysctl = map[string]string{}
		}
		for _, s := range sc.Sysctls {
			l.Sysctl[s.Name] = s.Value
		}
	}
	return l
}

func (b *builder) execCommands() {
	add := func(e *execAction) {
		if e != nil {
			b.out.ExecCommands = append(b.out.ExecCommands, e.Command)
		}
	}
	for _, p := range []*probe{b.c.LivenessProbe, b.c.ReadinessProbe, b.c.StartupProbe} {
		if p != nil {
			add(p.Exec)
		}
	}
	if l := b.c.Lifecycle; l != nil {
		for _, h := range []*lifecycleHandler{l.PostStart, l.PreStop} {
			if h != nil {
				add(h.Exec)
			}
		}
	}
}

func (b *builder) devices() {
	vfio := &b.set.Devices.VFIO
	b.out.RuntimeAnnoPatterns = map[string]string{}
	for i, d := range b.c.VolumeDevices {
		if strings.HasPrefix(d.DevicePath, vfio.DevicePath) {
			b.fail("volumeDevices["+strconv.Itoa(i)+"].devicePath", Unsupported, "%q collides with the path of passed-through devices, %s", d.DevicePath, vfio.DevicePath)
			b.w.hint("choose another path; for a GPU use resources.limits")
		}
		b.out.Devices = append(b.out.Devices, AgentDevice{ContainerPath: d.DevicePath, Options: []string{}})
	}
	if b.pause {
		return
	}
	b.out.RuntimeAnnoPatterns[`^io\.kubernetes\.container\.terminationMessagePath$`] = "^/.*$"
	b.out.RuntimeAnnoPatterns[`^io\.kubernetes\.container\.terminationMessagePolicy$`] = "^(File|FallbackToLogsOnError)$"
	n := b.gpus()
	if n == 0 {
		return
	}
	b.out.RuntimeAnnoPatterns[vfio.AnnoKeyRegex] = vfio.NVIDIA.GPUAnnoValueRegex
	for range n {
		b.out.Devices = append(b.out.Devices, AgentDevice{Type: vfio.NVIDIA.GPUDeviceType, ContainerPath: vfio.DevicePath, Options: []string{}})
	}
}

// maxGPUs bounds a number that the input states and the policy lists.
const maxGPUs = 1024

// gpus is the number of GPUs in the resource limits. A value that is no number
// makes the count zero as a whole, without a word, as in kata.
func (b *builder) gpus() int {
	if b.c.Resources == nil {
		return 0
	}
	n := uint64(0)
	for _, key := range b.set.Devices.VFIO.NVIDIA.PGPUResourceKeys {
		text, ok := b.c.Resources.Limits[key]
		if !ok {
			continue
		}
		digits := strings.TrimPrefix(text, "+")
		count, err := strconv.ParseUint(digits, 10, 64)
		if err != nil || !allDigits(digits) {
			return 0
		}
		n = min(n+min(count, maxGPUs+1), maxGPUs+1)
	}
	if n > maxGPUs {
		b.fail("resources.limits", Limit, "more than %d GPUs", maxGPUs)
		return 0
	}
	return int(n)
}
