package cluster

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/tulle-mesh/tulle/internal/identity"
	"github.com/tulle-mesh/tulle/internal/sidecar"
	"github.com/tulle-mesh/tulle/test/bench/process"
	"github.com/tulle-mesh/tulle/test/bench/xdsload"
	"github.com/tulle-mesh/tulle/webhooks"
)

// Manager is the operator, a process of its own.
type Manager struct {
	Pid int

	cluster *Cluster
	command *exec.Cmd
	log     string
}

// StartManager starts the operator's program with the rights of its service account, on one CPU alone, and returns once it is ready and
// has enrolled the mesh's namespaces.
func (c *Cluster) StartManager(ctx context.Context, program string, cpu int, flags ...string) (*Manager, error) {
	kubeconfig, err := c.operatorKubeconfig(ctx)
	if err != nil {
		return nil, err
	}
	m := &Manager{cluster: c, log: filepath.Join(c.dir, fmt.Sprintf("manager-%d.log", time.Now().UnixMilli()))}
	log, err := os.Create(m.log)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	// taskset becomes the program: Go asks at its start for how many CPUs to plan.
	m.command = exec.Command("taskset", append([]string{
		"-c", fmt.Sprint(cpu), program, "--xds-address", c.Host + ":15010", "--webhook-address", c.Host + ":443", "--metrics-address", c.Host + ":8080",
		"--health-address", c.Host + ":8081", "--peers-address", c.Host + ":15011", "--drain-delay", "0s", "--pprof-address", c.Host + ":6060",
	}, flags...)...)
	tuning, err := deployed()
	if err != nil {
		return nil, err
	}
	m.command.Env = append(append(os.Environ(), tuning...), "KUBECONFIG="+kubeconfig, "POD_NAMESPACE="+System, "POD_NAME=tulle-manager", "TULLE_IMAGE="+operatorImage)
	m.command.Stdout, m.command.Stderr = log, log
	m.command.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := m.command.Start(); err != nil {
		return nil, err
	}
	m.Pid = m.command.Process.Pid
	if err := errors.Join(eventually(ctx, "the operator is ready", 3*time.Minute, m.ready), c.enrolled(ctx)); err != nil {
		return nil, errors.Join(err, m.Stop(), m.tail())
	}
	return m, nil
}

// deployment is what the operator is installed as.
const deployment = "config/manager/deployment.yaml"

// deployed returns what the operator's Deployment tells Go's runtime, unless the environment says otherwise: what is measured is what is installed.
func deployed() ([]string, error) {
	raw, err := os.ReadFile(deployment)
	if err != nil {
		return nil, fmt.Errorf("%w: run it in the repository", err)
	}
	var d appsv1.Deployment
	if err := yaml.Unmarshal(raw, &d); err != nil {
		return nil, fmt.Errorf("%s: %w", deployment, err)
	}
	var out []string
	for _, v := range d.Spec.Template.Spec.Containers[0].Env {
		if _, told := os.LookupEnv(v.Name); strings.HasPrefix(v.Name, "GO") && !told {
			out = append(out, v.Name+"="+v.Value)
		}
	}
	return out, nil
}

// Profiles returns the address below which the operator's profiles are.
func (c *Cluster) Profiles() string { return "http://" + c.Host + ":6060/debug/pprof/" }

// tail returns, as an error, the end of the log.
func (m *Manager) tail() error {
	raw, err := os.ReadFile(m.log)
	if err != nil {
		return err
	}
	return fmt.Errorf("its log ends with:\n%s", raw[max(0, len(raw)-4000):])
}

func (m *Manager) ready() error {
	response, err := http.Get("http://" + m.cluster.Host + ":8081/readyz")
	if err != nil {
		return err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", response.Status, body)
	}
	return err
}

// Stop has the operator end, and waits for it.
func (m *Manager) Stop() error {
	if err := m.command.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	return m.command.Wait()
}

// Quiet waits until the operator has done nothing to speak of for a second.
func (m *Manager) Quiet(ctx context.Context) error {
	last, err := process.CPU(m.Pid)
	if err != nil {
		return err
	}
	var at time.Duration
	return eventually(ctx, "the operator is quiet", 10*time.Minute, func() error {
		time.Sleep(time.Second)
		if at, err = process.CPU(m.Pid); err != nil {
			return err
		}
		used := at - last
		last = at
		if used > 30*time.Millisecond {
			return fmt.Errorf("it used %v of CPU within a second", used)
		}
		return nil
	})
}

// Metric returns the sum over a metric's series, as the operator exports it.
func (m *Manager) Metric(name string) (float64, error) {
	response, err := http.Get("http://" + m.cluster.Host + ":8080/metrics")
	if err != nil {
		return 0, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return 0, err
	}
	sum, found := 0.0, false
	for line := range strings.Lines(string(body)) {
		rest, ok := strings.CutPrefix(line, name)
		if !ok || rest[0] != ' ' && rest[0] != '{' {
			continue
		}
		var value float64
		if _, err := fmt.Sscan(rest[strings.LastIndexByte(strings.TrimSpace(rest), ' ')+1:], &value); err != nil {
			return 0, fmt.Errorf("%s: %w", name, err)
		}
		sum, found = sum+value, true
	}
	if !found {
		return 0, fmt.Errorf("the operator exports no %s", name)
	}
	return sum, nil
}

// operatorKubeconfig is for the operator's rights and no others.
func (c *Cluster) operatorKubeconfig(ctx context.Context) (string, error) {
	token, err := c.token(ctx, System, "tulle-manager", authenticationv1.TokenRequestSpec{ExpirationSeconds: new(int64(24 * 3600))})
	if err != nil {
		return "", err
	}
	config := clientcmdapi.NewConfig()
	config.Clusters["bench"] = &clientcmdapi.Cluster{Server: c.admin.Host, CertificateAuthorityData: c.admin.CAData}
	config.AuthInfos["operator"] = &clientcmdapi.AuthInfo{Token: token}
	config.Contexts["bench"] = &clientcmdapi.Context{Cluster: "bench", AuthInfo: "operator"}
	config.CurrentContext = "bench"
	path := filepath.Join(c.dir, "operator.kubeconfig")
	return path, clientcmd.WriteToFile(*config, path)
}

func (c *Cluster) token(ctx context.Context, namespace, account string, spec authenticationv1.TokenRequestSpec) (string, error) {
	request, err := c.Objects.CoreV1().ServiceAccounts(namespace).CreateToken(ctx, account, &authenticationv1.TokenRequest{Spec: spec}, metav1.CreateOptions{})
	if err != nil {
		return "", err
	}
	return request.Status.Token, nil
}

// enrolled waits until every namespace of the mesh has what its proxies mount.
func (c *Cluster) enrolled(ctx context.Context) error {
	return eventually(ctx, "all namespaces are enrolled", 3*time.Minute, func() error {
		var list corev1.ConfigMapList
		if err := c.Client.List(ctx, &list, client.MatchingFields{"metadata.name": sidecar.BootstrapConfigMap}); err != nil {
			return err
		}
		if got, want := len(list.Items), (c.services+perNamespace-1)/perNamespace; got != want {
			return fmt.Errorf("%d of %d", got, want)
		}
		return nil
	})
}

// Target returns where proxies find the control plane, as their pods are told.
func (c *Cluster) Target(ctx context.Context) (xdsload.Target, error) {
	m := corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: namespaceOf(0), Name: sidecar.BootstrapConfigMap}}
	if err := c.Client.Get(ctx, client.ObjectKeyFromObject(&m), &m); err != nil {
		return xdsload.Target{}, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM([]byte(m.Data[identity.CAKey])) {
		return xdsload.Target{}, fmt.Errorf("the ConfigMap %s/%s holds no CA bundle", m.Namespace, m.Name)
	}
	return xdsload.Target{Address: c.Host + ":15010", ServerName: identity.ServerName(identity.ControlPlaneService, System), Roots: roots}, nil
}

// unhook takes the webhooks away that a manager, which has ended, has left: they fail closed.
func (c *Cluster) unhook(ctx context.Context) error {
	name := metav1.ObjectMeta{Name: webhooks.ConfigurationName}
	return errors.Join(
		client.IgnoreNotFound(c.Client.Delete(ctx, &admissionregistrationv1.MutatingWebhookConfiguration{ObjectMeta: name})),
		client.IgnoreNotFound(c.Client.Delete(ctx, &admissionregistrationv1.ValidatingWebhookConfiguration{ObjectMeta: name})),
	)
}
