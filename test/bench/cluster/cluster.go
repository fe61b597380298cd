// Package cluster runs what a control plane needs to be measured: a real kube-apiserver, etcd and cert-manager, a mesh of any size in them,
// and the operator's own program as a process. There is no kubelet; pods are said to run. Everything listens on a loopback address.
package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	certmanagerv1 "github.com/cert-manager/cert-manager/pkg/apis/certmanager/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
	"sigs.k8s.io/yaml"

	"github.com/tulle-mesh/tulle/api/v1alpha1"
	"github.com/tulle-mesh/tulle/internal/identity"
)

// System is the operator's namespace.
const System = "tulle-system"

const operatorImage = "tulle.dev/operator:bench"

// Cluster is an API server with what an installation of Tulle needs.
type Cluster struct {
	// Host is the loopback address that the operator listens at.
	Host    string
	Client  client.WithWatch
	Objects kubernetes.Interface

	env         *envtest.Environment
	admin       *rest.Config
	dir         string
	kubeconfig  string
	certManager *exec.Cmd
	services    int
	sidecar     string   // the version that injection would give pods
	addresses   []string // cluster IPs by service
}

// Start starts it, in a directory for its files. KUBEBUILDER_ASSETS and TULLE_CERTMANAGER say where the programs are. Paths are relative
// to the root of the repository, where a benchmark runs. Stop ends it, also after an error.
func Start(dir string) (*Cluster, error) {
	if os.Getenv("KUBEBUILDER_ASSETS") == "" || os.Getenv("TULLE_CERTMANAGER") == "" {
		return nil, errors.New("KUBEBUILDER_ASSETS and TULLE_CERTMANAGER say where kube-apiserver and cert-manager are: run make bench")
	}
	c := &Cluster{Host: fmt.Sprintf("127.78.%d.1", os.Getpid()%250+1), dir: dir}
	c.env = &envtest.Environment{CRDDirectoryPaths: []string{"config/crd/bases"}, ErrorIfCRDPathMissing: true}
	api := c.env.ControlPlane.GetAPIServer().Configure()
	api.Set("service-cluster-ip-range", "10.96.0.0/12").Set("max-requests-inflight", "2000").Set("max-mutating-requests-inflight", "1000")
	c.env.ControlPlane.Etcd = &envtest.Etcd{}
	c.env.ControlPlane.Etcd.Configure().Set("quota-backend-bytes", "8589934592").Set("unsafe-no-fsync", "true")
	return c, c.start()
}

func (c *Cluster) start() error {
	var err error
	if c.sidecar, err = currentSidecar(); err != nil {
		return err
	}
	if c.admin, err = c.env.Start(); err != nil {
		return err
	}
	c.admin.QPS = -1
	s := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{scheme.AddToScheme, v1alpha1.AddToScheme, certmanagerv1.AddToScheme} {
		if err := add(s); err != nil {
			return err
		}
	}
	if c.Client, err = client.NewWithWatch(c.admin, client.Options{Scheme: s}); err != nil {
		return err
	}
	binary := rest.CopyConfig(c.admin)
	binary.ContentType = runtime.ContentTypeProtobuf
	if c.Objects, err = kubernetes.NewForConfig(binary); err != nil {
		return err
	}
	c.kubeconfig = filepath.Join(c.dir, "admin.kubeconfig")
	if err := os.WriteFile(c.kubeconfig, c.env.KubeConfig, 0o600); err != nil {
		return err
	}
	return errors.Join(c.install(), c.startCertManager())
}

// Stop ends the API server, etcd and cert-manager.
func (c *Cluster) Stop() error {
	var errs []error
	if c.certManager != nil {
		errs = append(errs, c.certManager.Process.Signal(syscall.SIGTERM))
		_ = c.certManager.Wait() // it ends by the signal
	}
	return errors.Join(append(errs, c.env.Stop())...)
}

// install makes what dist/install.yaml makes, but for the Deployment.
func (c *Cluster) install() error {
	ctx := context.Background()
	if err := c.Client.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: System}}); err != nil {
		return err
	}
	for _, file := range []string{"service_account.yaml", "cluster_role.yaml", "role.yaml"} {
		if err := c.createFile(ctx, filepath.Join("config/rbac", file)); err != nil {
			return err
		}
	}
	// The API server has no route to Service addresses here. It reaches a Service of this type by the name it stands for.
	return c.Client.Create(ctx, &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: System, Name: identity.WebhookService},
		Spec:       corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName, ExternalName: c.Host, Ports: []corev1.ServicePort{{Port: 443}}},
	})
}

func (c *Cluster) createFile(ctx context.Context, path string) error {
	raw, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	for document := range bytes.SplitSeq(raw, []byte("\n---\n")) {
		var kind metav1.TypeMeta
		if err := yaml.Unmarshal(document, &kind); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		object, err := c.Client.Scheme().New(kind.GroupVersionKind())
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		if err := yaml.UnmarshalStrict(document, object); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		o := object.(client.Object)
		if !strings.HasPrefix(kind.Kind, "Cluster") {
			o.SetNamespace(System)
		}
		switch binding := object.(type) {
		case *rbacv1.ClusterRoleBinding:
			binding.Subjects[0].Namespace = System
		case *rbacv1.RoleBinding:
			binding.Subjects[0].Namespace = System
		}
		if err := c.Client.Create(ctx, o); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
	}
	return nil
}

func (c *Cluster) startCertManager() error {
	dir := os.Getenv("TULLE_CERTMANAGER")
	if _, err := envtest.InstallCRDs(c.admin, envtest.CRDInstallOptions{Paths: []string{filepath.Join(dir, "crds")}, ErrorIfPathMissing: true}); err != nil {
		return err
	}
	log, err := os.Create(filepath.Join(c.dir, "cert-manager.log"))
	if err != nil {
		return err
	}
	defer log.Close()
	command := exec.Command(filepath.Join(dir, "certmanager"), "controller", "-kubeconfig", c.kubeconfig)
	command.Stdout, command.Stderr = log, log
	command.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := command.Start(); err != nil {
		return err
	}
	c.certManager = command
	return nil
}

// eventually tries until there is no error, at most for a duration.
func eventually(ctx context.Context, what string, within time.Duration, try func() error) error {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		err := try()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: not within %v: %w", what, within, err)
		case <-tick.C:
		}
	}
}
