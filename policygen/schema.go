package policygen

// The fields of Kubernetes objects that kata's genpolicy 4.1 knows, in its
// order (see decoder for the tags). Whatever is not here is a problem: a field
// that the policy does not cover may give a container more than it says.

type objectMeta struct {
	Name         *string           `k:"name"`
	GenerateName *string           `k:"generateName"`
	Labels       map[string]string `k:"labels"`
	Annotations  map[string]string `k:"annotations"`
	Namespace    *string           `k:"namespace"`
	UID          *string           `k:"uid"`
}

type header struct {
	APIVersion string `k:"apiVersion,req"`
	Kind       string `k:"kind,req"`
}

type podObject struct {
	APIVersion string     `k:"apiVersion,req"`
	Kind       string     `k:"kind,req"`
	Metadata   objectMeta `k:"metadata,req"`
	Spec       podSpec    `k:"spec,req"`
}

// workload is every kind whose pod template is in its spec.
type workload[S any] struct {
	APIVersion string     `k:"apiVersion,req"`
	Kind       string     `k:"kind,req"`
	Metadata   objectMeta `k:"metadata,req"`
	Spec       S          `k:"spec,req"`
}

type podTemplate struct {
	Metadata *objectMeta `k:"metadata"`
	Spec     podSpec     `k:"spec,req"`
}

type deploymentSpec struct {
	MinReadySeconds         *int32         `k:"minReadySeconds"`
	Paused                  *bool          `k:"paused"`
	ProgressDeadlineSeconds *int32         `k:"progressDeadlineSeconds"`
	Replicas                *int32         `k:"replicas"`
	RevisionHistoryLimit    *int32         `k:"revisionHistoryLimit"`
	Selector                *labelSelector `k:"selector"`
	Strategy                *rollout       `k:"strategy"`
	Template                podTemplate    `k:"template,req"`
}

type rollout struct {
	Type          *string `k:"type"`
	RollingUpdate *struct {
		MaxSurge       *int32 `k:"maxSurge"`
		MaxUnavailable *int32 `k:"maxUnavailable"`
	} `k:"rollingUpdate"`
}

type daemonSetSpec struct {
	Selector             *labelSelector `k:"selector"`
	Template             podTemplate    `k:"template,req"`
	MinReadySeconds      *int32         `k:"minReadySeconds"`
	UpdateStrategy       *rollout       `k:"updateStrategy"`
	RevisionHistoryLimit *int32         `k:"revisionHistoryLimit"`
}

type statefulSetSpec struct {
	ServiceName          string        `k:"serviceName,req"`
	Replicas             *int32        `k:"replicas"`
	Selector             labelSelector `k:"selector,req"`
	Template             podTemplate   `k:"template,req"`
	VolumeClaimTemplates []volumeClaim `k:"volumeClaimTemplates"`
	UpdateStrategy       *struct {
		Type          *string `k:"type"`
		RollingUpdate *struct {
			MaxUnavailable *string `k:"maxUnavailable"`
			Partition      *int32  `k:"partition"`
		} `k:"rollingUpdate"`
	} `k:"updateStrategy"`
	RevisionHistoryLimit                 *int32  `k:"revisionHistoryLimit"`
	MinReadySeconds                      *int32  `k:"minReadySeconds"`
	PodManagementPolicy                  *string `k:"podManagementPolicy"`
	PersistentVolumeClaimRetentionPolicy *struct {
		WhenDeleted *string `k:"whenDeleted"`
		WhenScaled  *string `k:"whenScaled"`
	} `k:"persistentVolumeClaimRetentionPolicy"`
}

type volumeClaim struct {
	APIVersion *string    `k:"apiVersion"`
	Kind       *string    `k:"kind"`
	Metadata   objectMeta `k:"metadata,req"`
	Spec       claimSpec  `k:"spec,req"`
}

type claimSpec struct {
	Resources struct {
		Requests map[string]string `k:"requests"`
	} `k:"resources,req"`
	AccessModes      []string `k:"accessModes"`
	StorageClassName *string  `k:"storageClassName"`
	VolumeMode       *string  `k:"volumeMode"`
}

type replicaSetSpec struct {
	Selector        labelSelector `k:"selector,req"`
	Template        podTemplate   `k:"template,req"`
	Replicas        *int32        `k:"replicas"`
	MinReadySeconds *int32        `k:"minReadySeconds"`
}

type replicationControllerSpec struct {
	Replicas        *int32            `k:"replicas"`
	Selector        map[string]string `k:"selector"`
	Template        podTemplate       `k:"template,req"`
	MinReadySeconds *int32            `k:"minReadySeconds"`
}

type jobSpec struct {
	ActiveDeadlineSeconds   *int64      `k:"activeDeadlineSeconds"`
	BackoffLimit            *int32      `k:"backoffLimit"`
	BackoffLimitPerIndex    *int32      `k:"backoffLimitPerIndex"`
	CompletionMode          *string     `k:"completionMode"`
	Completions             *int32      `k:"completions"`
	ManagedBy               *string     `k:"managedBy"`
	ManualSelector          *bool       `k:"manualSelector"`
	MaxFailedIndexes        *int32      `k:"maxFailedIndexes"`
	Parallelism             *int32      `k:"parallelism"`
	PodFailurePolicy        *string     `k:"podFailurePolicy"`
	PodReplacementPolicy    *string     `k:"podReplacementPolicy"`
	SuccessPolicy           *string     `k:"successPolicy"`
	Suspend                 *bool       `k:"suspend"`
	Template                podTemplate `k:"template,req"`
	TTLSecondsAfterFinished *int32      `k:"ttlSecondsAfterFinished"`
}

type cronJobSpec struct {
	JobTemplate struct {
		Metadata *objectMeta `k:"metadata"`
		Spec     jobSpec     `k:"spec,req"`
	} `k:"jobTemplate,req"`
	ConcurrencyPolicy          *string `k:"concurrencyPolicy"`
	FailedJobsHistoryLimit     *int32  `k:"failedJobsHistoryLimit"`
	Schedule                   *string `k:"schedule"`
	StartingDeadlineSeconds    *int32  `k:"startingDeadlineSeconds"`
	SuccessfulJobsHistoryLimit *int32  `k:"successfulJobsHistoryLimit"`
	Suspend                    *bool   `k:"suspend"`
	TimeZone                   *string `k:"timeZone"`
}

type configMapObject struct {
	APIVersion string            `k:"apiVersion,req"`
	Kind       string            `k:"kind,req"`
	Metadata   objectMeta        `k:"metadata,req"`
	Data       map[string]string `k:"data"`
	BinaryData map[string]string `k:"binaryData"`
	Immutable  *bool             `k:"immutable"`
}

type secretObject struct {
	APIVersion string            `k:"apiVersion,req"`
	Kind       string            `k:"kind,req"`
	Metadata   objectMeta        `k:"metadata,req"`
	Data       map[string]string `k:"data"`
	Immutable  *bool             `k:"immutable"`
	Type       *string           `k:"type"`
}

type listObject struct {
	APIVersion string   `k:"apiVersion,req"`
	Kind       string   `k:"kind,req"`
	Items      []*value `k:"items,req"`
}

type labelSelector struct {
	MatchLabels      map[string]string `k:"matchLabels"`
	MatchExpressions []struct {
		Key      string   `k:"key,req"`
		Operator string   `k:"operator,req"`
		Values   []string `k:"values"`
	} `k:"matchExpressions"`
}

type podSpec struct {
	Containers       []container       `k:"containers,req"`
	NodeSelector     map[string]string `k:"nodeSelector"`
	RestartPolicy    *string           `k:"restartPolicy"`
	RuntimeClassName *string           `k:"runtimeClassName"`
	InitContainers   []container       `k:"initContainers"`
	ImagePullSecrets []struct {
		Name string `k:"name,req"`
	} `k:"imagePullSecrets"`
	Affinity                      *affinity           `k:"affinity"`
	Volumes                       []volume            `k:"volumes"`
	NodeName                      *string             `k:"nodeName"`
	ServiceAccountName            *string             `k:"serviceAccountName"`
	ServiceAccount                *string             `k:"serviceAccount"`
	TerminationGracePeriodSeconds *int64              `k:"terminationGracePeriodSeconds"`
	Tolerations                   []toleration        `k:"tolerations"`
	Hostname                      *string             `k:"hostname"`
	HostNetwork                   *bool               `k:"hostNetwork"`
	ShareProcessNamespace         *bool               `k:"shareProcessNamespace"`
	DNSConfig                     *dnsConfig          `k:"dnsConfig"`
	DNSPolicy                     *string             `k:"dnsPolicy"`
	TopologySpreadConstraints     []spreadConstraint  `k:"topologySpreadConstraints"`
	SecurityContext               *podSecurityContext `k:"securityContext"`
	PriorityClassName             *string             `k:"priorityClassName"`
	PreemptionPolicy              *string             `k:"preemptionPolicy"`
	Priority                      *int32              `k:"priority"`
	SchedulerName                 *string             `k:"schedulerName"`
	Resources                     *resources          `k:"resources"`
}

type toleration struct {
	Key               *string `k:"key"`
	Operator          *string `k:"operator"`
	Value             *string `k:"value"`
	Effect            *string `k:"effect"`
	TolerationSeconds *int64  `k:"tolerationSeconds"`
}

type dnsConfig struct {
	Nameservers []string `k:"nameservers"`
	Options     []struct {
		Name  string  `k:"name,req"`
		Value *string `k:"value"`
	} `k:"options"`
	Searches []string `k:"searches"`
}

type spreadConstraint struct {
	MaxSkew            int32          `k:"maxSkew,req"`
	TopologyKey        string         `k:"topologyKey,req"`
	WhenUnsatisfiable  string         `k:"whenUnsatisfiable,req"`
	LabelSelector      *labelSelector `k:"labelSelector"`
	MatchLabelKeys     []string       `k:"matchLabelKeys"`
	MinDomains         *int32         `k:"minDomains"`
	NodeAffinityPolicy *string        `k:"nodeAffinityPolicy"`
	NodeTaintsPolicy   *string        `k:"nodeTaintsPolicy"`
}

type podSecurityContext struct {
	RunAsUser                *int64          `k:"runAsUser"`
	Sysctls                  []nameValuePair `k:"sysctls"`
	RunAsGroup               *int64          `k:"runAsGroup"`
	FSGroup                  *int64          `k:"fsGroup"`
	SupplementalGroups       []uint32        `k:"supplementalGroups"`
	AllowPrivilegeEscalation *bool           `k:"allowPrivilegeEscalation"`
}

type nameValuePair struct {
	Name  string `k:"name,req"`
	Value string `k:"value,req"`
}

type container struct {
	Name            string           `k:"name,req"`
	Image           string           `k:"image,req"`
	ImagePullPolicy *string          `k:"imagePullPolicy"`
	SecurityContext *securityContext `k:"securityContext"`
	VolumeMounts    []volumeMount    `k:"volumeMounts"`
	VolumeDevices   []struct {
		DevicePath string `k:"devicePath,req"`
		Name       string `k:"name,req"`
	} `k:"volumeDevices"`
	Env       []envVar    `k:"env"`
	EnvFrom   []envSource `k:"envFrom"`
	Resources *resources  `k:"resources"`
	Ports     []struct {
		ContainerPort int32   `k:"containerPort,req"`
		HostIP        *string `k:"hostIP"`
		HostPort      *int32  `k:"hostPort"`
		Name          *string `k:"name"`
		Protocol      *string `k:"protocol"`
	} `k:"ports"`
	Command   *[]string `k:"command"`
	Args      *[]string `k:"args"`
	Lifecycle *struct {
		PostStart *lifecycleHandler `k:"postStart"`
		PreStop   *lifecycleHandler `k:"preStop"`
	} `k:"lifecycle"`
	LivenessProbe            *probe  `k:"livenessProbe"`
	ReadinessProbe           *probe  `k:"readinessProbe"`
	StartupProbe             *probe  `k:"startupProbe"`
	RestartPolicy            *string `k:"restartPolicy"`
	ServiceAccountName       *string `k:"serviceAccountName"`
	Stdin                    *bool   `k:"stdin"`
	TTY                      *bool   `k:"tty"`
	TerminationMessagePath   *string `k:"terminationMessagePath"`
	TerminationMessagePolicy *string `k:"terminationMessagePolicy"`
}

type resources struct {
	Requests map[string]string `k:"requests"`
	Limits   map[string]string `k:"limits"`
}

type lifecycleHandler struct {
	Exec *execAction `k:"exec"`
}

type execAction struct {
	Command []string `k:"command,req"`
}

type securityContext struct {
	ReadOnlyRootFilesystem   *bool `k:"readOnlyRootFilesystem"`
	AllowPrivilegeEscalation *bool `k:"allowPrivilegeEscalation"`
	Privileged               *bool `k:"privileged"`
	Capabilities             *struct {
		Add  []string `k:"add"`
		Drop []string `k:"drop"`
	} `k:"capabilities"`
	RunAsUser      *int64 `k:"runAsUser"`
	RunAsGroup     *int64 `k:"runAsGroup"`
	SeccompProfile *struct {
		Type             string  `k:"type,req"`
		LocalhostProfile *string `k:"localhostProfile"`
	} `k:"seccompProfile"`
}

type probe struct {
	Exec                          *execAction `k:"exec"`
	InitialDelaySeconds           *int32      `k:"initialDelaySeconds"`
	TimeoutSeconds                *int32      `k:"timeoutSeconds"`
	PeriodSeconds                 *int32      `k:"periodSeconds"`
	TerminationGracePeriodSeconds *int32      `k:"terminationGracePeriodSeconds"`
	FailureThreshold              *int32      `k:"failureThreshold"`
	SuccessThreshold              *int32      `k:"successThreshold"`
	HTTPGet                       *struct {
		Port        string          `k:"port,req"`
		Host        *string         `k:"host"`
		Path        *string         `k:"path"`
		Scheme      *string         `k:"scheme"`
		HTTPHeaders []nameValuePair `k:"httpHeaders"`
	} `k:"httpGet"`
	TCPSocket *struct {
		Port string  `k:"port,req"`
		Host *string `k:"host"`
	} `k:"tcpSocket"`
	GRPC *struct {
		Port    uint16  `k:"port,req"`
		Service *string `k:"service"`
	} `k:"grpc"`
}

type keyRef struct {
	Key      string  `k:"key,req"`
	Name     *string `k:"name"`
	Optional *bool   `k:"optional"`
}

type fieldRef struct {
	FieldPath  string  `k:"fieldPath,req"`
	APIVersion *string `k:"apiVersion"`
}

type envVar struct {
	Name      string  `k:"name,req"`
	Value     *string `k:"value"`
	ValueFrom *struct {
		ConfigMapKeyRef  *keyRef   `k:"configMapKeyRef"`
		FieldRef         *fieldRef `k:"fieldRef"`
		SecretKeyRef     *keyRef   `k:"secretKeyRef"`
		ResourceFieldRef *struct {
			Resource string `k:"resource,req"`
		} `k:"resourceFieldRef"`
	} `k:"valueFrom"`
}

type objectRef struct {
	Name     string `k:"name,req"`
	Optional *bool  `k:"optional"`
}

type envSource struct {
	ConfigMapRef *objectRef `k:"configMapRef"`
	SecretRef    *objectRef `k:"secretRef"`
	Prefix       *string    `k:"prefix"`
}

type volumeMount struct {
	MountPath        string  `k:"mountPath,req"`
	Name             string  `k:"name,req"`
	MountPropagation *string `k:"mountPropagation"`
	SubPathExpr      *string `k:"subPathExpr"`
	ReadOnly         *bool   `k:"readOnly"`
	SubPath          *string `k:"subPath"`
}

type keyToPath struct {
	Key  string `k:"key,req"`
	Path string `k:"path,req"`
}

type volume struct {
	Name     string `k:"name,req"`
	EmptyDir *struct {
		Medium    *string `k:"medium"`
		SizeLimit *string `k:"sizeLimit"`
	} `k:"emptyDir"`
	HostPath *struct {
		Path string  `k:"path,req"`
		Type *string `k:"type"`
	} `k:"hostPath"`
	PersistentVolumeClaim *struct {
		ClaimName string `k:"claimName,req"`
	} `k:"persistentVolumeClaim"`
	ConfigMap *struct {
		Name     string      `k:"name,req"`
		Items    []keyToPath `k:"items"`
		Optional *bool       `k:"optional"`
	} `k:"configMap"`
	AzureFile *struct {
		SecretName string `k:"secretName,req"`
		ShareName  string `k:"shareName,req"`
		ReadOnly   *bool  `k:"readOnly"`
	} `k:"azureFile"`
	Projected *struct {
		DefaultMode *int32 `k:"defaultMode"`
	} `k:"projected"`
	Secret *struct {
		SecretName  string      `k:"secretName,req"`
		DefaultMode *int32      `k:"defaultMode"`
		Items       []keyToPath `k:"items"`
		Optional    *bool       `k:"optional"`
	} `k:"secret"`
	DownwardAPI *struct {
		Items []struct {
			Path     string    `k:"path,req"`
			FieldRef *fieldRef `k:"fieldRef"`
		} `k:"items"`
	} `k:"downwardAPI"`
	Ephemeral *struct {
		VolumeClaimTemplate *value `k:"volumeClaimTemplate"`
	} `k:"ephemeral,ext"`
}

type selectorTerm struct {
	Key      string   `k:"key,req"`
	Operator string   `k:"operator,req"`
	Values   []string `k:"values"`
}

type nodeSelectorTerm struct {
	MatchExpressions []selectorTerm `k:"matchExpressions"`
	MatchFields      []selectorTerm `k:"matchFields"`
}

type affinity struct {
	NodeAffinity *struct {
		Required *struct {
			NodeSelectorTerms []nodeSelectorTerm `k:"nodeSelectorTerms,req"`
		} `k:"requiredDuringSchedulingIgnoredDuringExecution"`
		Preferred []struct {
			Weight     int32            `k:"weight,req"`
			Preference nodeSelectorTerm `k:"preference,req"`
		} `k:"preferredDuringSchedulingIgnoredDuringExecution"`
	} `k:"nodeAffinity"`
	PodAffinity     *podAffinity `k:"podAffinity"`
	PodAntiAffinity *podAffinity `k:"podAntiAffinity"`
}

type podAffinity struct {
	Preferred []struct {
		Weight          int32           `k:"weight,req"`
		PodAffinityTerm podAffinityTerm `k:"podAffinityTerm,req"`
	} `k:"preferredDuringSchedulingIgnoredDuringExecution"`
	Required []podAffinityTerm `k:"requiredDuringSchedulingIgnoredDuringExecution"`
}

type podAffinityTerm struct {
	TopologyKey       string         `k:"topologyKey,req"`
	LabelSelector     *labelSelector `k:"labelSelector"`
	MatchLabelKeys    []string       `k:"matchLabelKeys"`
	MismatchLabelKeys []string       `k:"mismatchLabelKeys"`
	NamespaceSelector *labelSelector `k:"namespaceSelector"`
	Namespaces        []string       `k:"namespaces"`
}
