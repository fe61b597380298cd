// Package integration runs the operator against a real kube-apiserver, etcd and cert-manager. There is no kubelet: tests create
// pods and say what a kubelet would. Everything listens on loopback addresses.
package integration

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	certmanagerv1 "github.com/cert-manager/cert-manager/pkg/apis/certmanager/v1"
	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
	crlog "sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/yaml"

	"github.com/tulle-mesh/tulle/api/v1alpha1"
	"github.com/tulle-mesh/tulle/internal/identity"
	"github.com/tulle-mesh/tulle/internal/operator"
)

const (
	system = "tulle-system"
	// deadline is how long a condition may take on a slow machine; most take milliseconds.
	deadline = 60 * time.Second
)

// world is an API server with what an installation of Tulle needs, and an address of its own on the loopback network.
type world struct {
	t         *testing.T
	admin     *rest.Config
	client    client.WithWatch
	clientset kubernetes.Interface
	kubecfg   string
	host      string
}

var hosts atomic.Uint32

// newHost returns a loopback address that nothing else here uses.
func newHost() string { return fmt.Sprintf("127.77.%d.%d", os.Getpid()%250+1, hosts.Add(1)) }

// newWorld starts an API server with Tulle's CustomResourceDefinition and rights, and without cert-manager.
func newWorld(t *testing.T) *world {
	t.Helper()
	if os.Getenv("KUBEBUILDER_ASSETS") == "" || os.Getenv("TULLE_CERTMANAGER") == "" {
		t.Fatal("KUBEBUILDER_ASSETS and TULLE_CERTMANAGER say where kube-apiserver and cert-manager are: run make test-integration")
	}
	crlog.SetLogger(logr.Discard())
	env := &envtest.Environment{CRDDirectoryPaths: []string{"../../config/crd/bases"}, ErrorIfCRDPathMissing: true}
	config, err := env.Start()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := env.Stop(); err != nil {
			t.Error(err)
		}
	})
	config.QPS = -1
	s := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{
		scheme.AddToScheme, v1alpha1.AddToScheme, certmanagerv1.AddToScheme, apiextensionsv1.AddToScheme,
	} {
		if err := add(s); err != nil {
			t.Fatal(err)
		}
	}
	w := &world{t: t, admin: config, kubecfg: filepath.Join(t.TempDir(), "kubeconfig"), host: newHost()}
	if w.client, err = client.NewWithWatch(config, client.Options{Scheme: s}); err != nil {
		t.Fatal(err)
	}
	if w.clientset, err = kubernetes.NewForConfig(config); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(w.kubecfg, env.KubeConfig, 0o600); err != nil {
		t.Fatal(err)
	}
	w.install()
	return w
}

// in is the world as a subtest sees it, which fails in its place.
func (w *world) in(t *testing.T) *world {
	sub := *w
	sub.t = t
	return &sub
}

// install makes what dist/install.yaml makes, but for the Deployment: this process is the operator.
func (w *world) install() {
	w.create(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: system}})
	for _, file := range []string{"service_account.yaml", "cluster_role.yaml", "role.yaml"} {
		w.createFile(filepath.Join("../../config/rbac", file))
	}
	// The API server has no route to Service addresses here. It reaches a Service of this type by the name it stands for.
	for _, name := range []string{identity.WebhookService, identity.ConversionService} {
		w.create(&corev1.Service{
			ObjectMeta: metav1.ObjectMeta{Namespace: system, Name: name},
			Spec: corev1.ServiceSpec{
				Type: corev1.ServiceTypeExternalName, ExternalName: w.host, Ports: []corev1.ServicePort{{Port: 443}},
			},
		})
	}
}

// createFile creates the objects of a file, in the operator's namespace, with the kinds that it may hold.
func (w *world) createFile(path string) {
	w.t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		w.t.Fatal(err)
	}
	for _, document := range bytes.Split(raw, []byte("\n---\n")) {
		var kind metav1.TypeMeta
		if err := yaml.Unmarshal(document, &kind); err != nil {
			w.t.Fatal(err)
		}
		object, err := w.client.Scheme().New(kind.GroupVersionKind())
		if err != nil {
			w.t.Fatalf("%s: %v", path, err)
		}
		if err := yaml.UnmarshalStrict(document, object); err != nil {
			w.t.Fatalf("%s: %v", path, err)
		}
		o := object.(client.Object)
		if !strings.HasPrefix(kind.Kind, "Cluster") {
			o.SetNamespace(system)
		}
		switch binding := object.(type) {
		case *rbacv1.ClusterRoleBinding:
			binding.Subjects[0].Namespace = system
		case *rbacv1.RoleBinding:
			binding.Subjects[0].Namespace = system
		}
		w.create(o)
	}
}

// installCertManager installs cert-manager's CustomResourceDefinitions and runs its controller, until the test ends or stop is called.
func (w *world) installCertManager() (stop func()) {
	w.t.Helper()
	dir := os.Getenv("TULLE_CERTMANAGER")
	if _, err := envtest.InstallCRDs(w.admin, envtest.CRDInstallOptions{Paths: []string{filepath.Join(dir, "crds")}, ErrorIfPathMissing: true}); err != nil {
		w.t.Fatal(err)
	}
	var log bytes.Buffer
	command := exec.Command(filepath.Join(dir, "certmanager"), "controller", "-kubeconfig", w.kubecfg)
	command.Stdout, command.Stderr = &log, &log
	command.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := command.Start(); err != nil {
		w.t.Fatal(err)
	}
	stop = sync.OnceFunc(func() {
		if err := command.Process.Signal(syscall.SIGTERM); err != nil {
			w.t.Error(err)
		}
		_ = command.Wait() // it ends by the signal
		if w.t.Failed() {
			w.t.Logf("cert-manager:\n%s", tail(log.String()))
		}
	})
	w.t.Cleanup(stop)
	return stop
}

// running is an operator that runs in this process.
type running struct {
	stop func()
	done chan error
	log  *buffer
}

// start runs the operator with the rights of its service account, until the test ends or stop is called.
func (w *world) start(edit func(*operator.Options)) *running {
	w.t.Helper()
	o := operator.Options{
		Namespace: system, PodName: "tulle-manager", Image: "tulle.dev/operator:test", EnvoyImage: "envoy:test", PeersAddress: w.host + ":15011",
		XDSAddress: w.host + ":15010", WebhookAddress: w.host + ":443", MetricsAddress: "0", HealthAddress: w.host + ":8081",
		Config: w.operatorConfig(), Registry: prometheus.NewRegistry(),
	}
	r := &running{done: make(chan error, 1), log: &buffer{}}
	o.Log = slog.New(slog.NewTextHandler(r.log, nil))
	if edit != nil {
		edit(&o)
	}
	ctx, cancel := context.WithCancel(context.Background())
	go func() { r.done <- operator.Run(ctx, o) }()
	r.stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-r.done:
			if err != nil {
				w.t.Errorf("the operator ended with: %v", err)
			}
		case <-time.After(deadline):
			w.t.Error("the operator does not end")
		}
		if w.t.Failed() {
			w.t.Logf("operator:\n%s", tail(r.log.String()))
		}
	})
	w.t.Cleanup(r.stop)
	return r
}

// operatorConfig has the operator's rights and no others.
func (w *world) operatorConfig() *rest.Config {
	w.t.Helper()
	config := rest.AnonymousClientConfig(w.admin)
	config.BearerToken = w.token(system, "tulle-manager", &authenticationv1.TokenRequestSpec{})
	return config
}

// token asks the API server for a token of a service account.
func (w *world) token(namespace, account string, spec *authenticationv1.TokenRequestSpec) string {
	w.t.Helper()
	request, err := w.clientset.CoreV1().ServiceAccounts(namespace).CreateToken(
		context.Background(), account, &authenticationv1.TokenRequest{Spec: *spec}, metav1.CreateOptions{})
	if err != nil {
		w.t.Fatal(err)
	}
	return request.Status.Token
}

func (w *world) create(objects ...client.Object) {
	w.t.Helper()
	for _, o := range objects {
		if err := w.client.Create(context.Background(), o); err != nil {
			w.t.Fatalf("create %T %s: %v", o, o.GetName(), err)
		}
	}
}

func (w *world) delete(objects ...client.Object) {
	w.t.Helper()
	for _, o := range objects {
		if err := w.client.Delete(context.Background(), o, client.GracePeriodSeconds(0)); err != nil {
			w.t.Fatalf("delete %T %s: %v", o, o.GetName(), err)
		}
	}
}

func (w *world) get(o client.Object) error {
	return w.client.Get(context.Background(), client.ObjectKeyFromObject(o), o)
}

// update changes an object as it is.
func (w *world) update(o client.Object, edit func()) {
	w.t.Helper()
	w.eventually("update "+o.GetName(), func() error {
		if err := w.get(o); err != nil {
			return err
		}
		edit()
		return w.client.Update(context.Background(), o)
	})
}

// eventually waits until check returns no error.
func (w *world) eventually(what string, check func() error) {
	w.t.Helper()
	eventually(w.t, what, check)
}

func eventually(t *testing.T, what string, check func() error) {
	t.Helper()
	eventuallyWithin(t, deadline, what, check)
}

func eventuallyWithin(t *testing.T, deadline time.Duration, what string, check func() error) {
	t.Helper()
	end := time.Now().Add(deadline)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%s: not within %v: %v", what, deadline, err)
		}
		<-tick.C
	}
}

// gone is nil once an object is not there.
func (w *world) gone(o client.Object) error {
	err := w.get(o)
	if apierrors.IsNotFound(err) {
		return nil
	}
	return errors.Join(errors.New("it is still there"), err)
}

// event waits for an event about an object.
func (w *world) event(namespace, kind, name, reason, note string) {
	w.t.Helper()
	w.eventually(fmt.Sprintf("event %s of %s %s", reason, kind, name), func() error {
		var list eventsv1.EventList
		if err := w.client.List(context.Background(), &list, client.InNamespace(namespace)); err != nil {
			return err
		}
		var seen []string
		for _, e := range list.Items {
			if e.Regarding.Kind != kind || e.Regarding.Name != name {
				continue
			}
			if e.Reason == reason && strings.Contains(e.Note, note) {
				return nil
			}
			seen = append(seen, e.Reason+": "+e.Note)
		}
		return fmt.Errorf("seen: %q", seen)
	})
}

// buffer is a log that several goroutines write.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// tail is the end of a log.
func tail(s string) string {
	const most = 12000
	if len(s) > most {
		return "…" + s[len(s)-most:]
	}
	return s
}

// reachable is nil when something listens at an address.
func reachable(address string) error {
	c, err := net.DialTimeout("tcp", address, time.Second)
	if err != nil {
		return err
	}
	return c.Close()
}
