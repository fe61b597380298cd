package inject

import (
	"math"
	"path"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/tulle-mesh/tulle/internal/bootstrap"
	"github.com/tulle-mesh/tulle/internal/sidecar"
)

// Names of the volumes.
const (
	credentialsVolume = "tulle-credentials"
	adminVolume       = "tulle-admin"
)

// The token is renewed by the kubelet at four fifths of its life. The stream to the control plane ends with it, so a
// shorter life means more reconnects.
const tokenSeconds = 3600

// startSeconds is how long a proxy may take to have its configuration before the kubelet starts it anew.
const startSeconds = 600

// parts are what every pod of a namespace gets, whatever the pod.
type parts struct {
	Init, Proxy corev1.Container
	Volumes     []corev1.Volume
	version     string
}

func sidecarOf(s Settings) (parts, error) {
	config, err := bootstrap.JSON(bootstrap.Options{
		NodeID:           "$(POD_NAME).$(POD_NAMESPACE)",
		NodeCluster:      "$(SERVICE_ACCOUNT).$(POD_NAMESPACE)",
		ControlPlaneHost: s.ControlPlaneHost,
		ControlPlanePort: s.ControlPlanePort,
		CredentialsDir:   sidecar.CredentialsDir,
		AdminSocket:      sidecar.AdminSocket,
	})
	if err != nil {
		return parts{}, err
	}
	p := parts{Init: initContainer(s), Proxy: proxyContainer(s, config), Volumes: volumes()}
	p.version, err = hash(p.significant())
	return p, err
}

// significant is what a pod must be restarted for. The operator's own image is not: a newer init container that makes the same
// rules is no reason, and one that makes others says so by sidecar.RedirectVersion.
func (p parts) significant() any {
	p.Init.Image = ""
	return struct {
		parts
		Redirect int
	}{p, sidecar.RedirectVersion}
}

// initContainer redirects the pod's traffic. NET_ADMIN in the pod's own network namespace is all it needs; it has the
// proxy's resources, so that what satisfies a quota for one satisfies it for both.
func initContainer(s Settings) corev1.Container {
	return corev1.Container{
		Name:                     sidecar.InitContainer,
		Image:                    s.InitImage,
		ImagePullPolicy:          corev1.PullIfNotPresent,
		Command:                  []string{"/tulle-init"},
		Resources:                resources(s),
		TerminationMessagePolicy: corev1.TerminationMessageFallbackToLogsOnError,
		SecurityContext: &corev1.SecurityContext{
			// Capabilities reach the program only as root.
			RunAsUser:                ptr(int64(0)),
			RunAsGroup:               ptr(int64(0)),
			RunAsNonRoot:             ptr(false),
			Privileged:               ptr(false),
			AllowPrivilegeEscalation: ptr(false),
			ReadOnlyRootFilesystem:   ptr(true),
			Capabilities:             &corev1.Capabilities{Add: []corev1.Capability{"NET_ADMIN"}, Drop: []corev1.Capability{"ALL"}},
			SeccompProfile:           &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
		},
	}
}

// proxyContainer is Envoy as a native sidecar: it starts before the app's own init containers, and ends after the app.
func proxyContainer(s Settings, config string) corev1.Container {
	always := corev1.ContainerRestartPolicyAlways
	return corev1.Container{
		Name:            sidecar.ProxyContainer,
		Image:           s.ProxyImage,
		ImagePullPolicy: corev1.PullIfNotPresent,
		// Images with a shell wrap Envoy in a script; the program itself is there in all of them.
		Command: []string{"/usr/local/bin/envoy"},
		Args: []string{
			"--config-yaml", config,
			"--concurrency", strconv.Itoa(int(s.Concurrency)),
			"--log-level", s.LogLevel,
			"--drain-time-s", strconv.Itoa(int(math.Ceil(s.DrainDuration.Seconds()))),
			"--disable-hot-restart",
			// Access logs show what happened a second ago; by default they are ten seconds late.
			"--file-flush-interval-msec", "1000",
		},
		Env: []corev1.EnvVar{
			fromField("POD_NAME", "metadata.name"),
			fromField("POD_NAMESPACE", "metadata.namespace"),
			fromField("SERVICE_ACCOUNT", "spec.serviceAccountName"),
		},
		Ports: []corev1.ContainerPort{
			{Name: sidecar.StatsPortName, ContainerPort: sidecar.StatsPort, Protocol: corev1.ProtocolTCP},
			{Name: "tulle-probes", ContainerPort: sidecar.ProbePort, Protocol: corev1.ProtocolTCP},
		},
		Resources:                resources(s),
		RestartPolicy:            &always,
		StartupProbe:             ready(1, startSeconds),
		ReadinessProbe:           ready(5, 3),
		TerminationMessagePolicy: corev1.TerminationMessageFallbackToLogsOnError,
		SecurityContext: &corev1.SecurityContext{
			RunAsUser:                ptr(int64(sidecar.UID)),
			RunAsGroup:               ptr(int64(sidecar.GID)),
			RunAsNonRoot:             ptr(true),
			Privileged:               ptr(false),
			AllowPrivilegeEscalation: ptr(false),
			ReadOnlyRootFilesystem:   ptr(true),
			Capabilities:             &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
			SeccompProfile:           &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
		},
		VolumeMounts: []corev1.VolumeMount{
			{Name: credentialsVolume, MountPath: sidecar.CredentialsDir, ReadOnly: true},
			{Name: adminVolume, MountPath: path.Dir(sidecar.AdminSocket)},
		},
	}
}

// ready probes the route that arrives with the complete configuration.
func ready(period, failures int32) *corev1.Probe {
	return &corev1.Probe{
		ProbeHandler:     corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/ready", Port: intstr.FromInt32(sidecar.StatsPort), Scheme: corev1.URISchemeHTTP}},
		PeriodSeconds:    period,
		TimeoutSeconds:   3,
		FailureThreshold: failures,
	}
}

// volumes are the credentials, in one volume so that Envoy sees the token and the CA change in the same way, and the
// folder of the admin socket, which nobody else mounts.
func volumes() []corev1.Volume {
	return []corev1.Volume{
		{Name: credentialsVolume, VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
			{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{
				Audience: sidecar.TokenAudience, ExpirationSeconds: ptr(int64(tokenSeconds)), Path: bootstrap.TokenFile,
			}},
			{ConfigMap: &corev1.ConfigMapProjection{
				LocalObjectReference: corev1.LocalObjectReference{Name: sidecar.BootstrapConfigMap},
				Items: []corev1.KeyToPath{
					{Key: bootstrap.CAFile, Path: bootstrap.CAFile},
					{Key: bootstrap.TokenSDSFile, Path: bootstrap.TokenSDSFile},
					{Key: bootstrap.CASDSFile, Path: bootstrap.CASDSFile},
				},
			}},
		}}}},
		{Name: adminVolume, VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{Medium: corev1.StorageMediumMemory}}},
	}
}

func resources(s Settings) corev1.ResourceRequirements {
	if s.Resources != nil {
		return *s.Resources.DeepCopy()
	}
	return defaultResources()
}

func fromField(name, field string) corev1.EnvVar {
	return corev1.EnvVar{Name: name, ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{APIVersion: "v1", FieldPath: field}}}
}

func ptr[T any](v T) *T { return &v }
