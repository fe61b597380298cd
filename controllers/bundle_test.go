package controllers

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"math/big"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tulle-mesh/tulle/internal/model"
	"github.com/tulle-mesh/tulle/internal/resource"
	"github.com/tulle-mesh/tulle/internal/sidecar"
	"github.com/tulle-mesh/tulle/internal/xds"
)

// rootPEM is a root of its own.
func rootPEM(t *testing.T) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// A new root is known when the last of those who verify has heard of it, and each is waited for in turn.
func TestNewRootWaitsForEverybody(t *testing.T) {
	t.Parallel()
	old, both := rootPEM(t), rootPEM(t)
	both = append(both, old...)
	builder := model.NewBuilder(model.Config{OperatorNamespace: "tulle-system"})
	var proxies []xds.ProxyState
	var silent error
	b := &Bundle{
		World: &World{}, Findings: &Findings{},
		Trust: func() string { return "both" }, Proxies: func(*model.Snapshot) ([]xds.ProxyState, error) { return proxies, silent },
	}
	now := time.Now()
	publish := func(trust []byte) {
		builder.SetTrust(trust)
		b.World.Set(builder.Snapshot())
	}
	carry := func(by carrier, ca []byte) {
		b.Findings.setCarried(by, ca)
		now = time.Now()
	}
	proxy := func(name, trust string) xds.ProxyState {
		return xds.ProxyState{Proxy: resource.Proxy{Namespace: "shop", Pod: name}, Trust: trust}
	}
	for _, step := range []struct {
		name string
		do   func()
		want string
	}{
		{"nothing is published", func() {}, "proxies are about to be told of a new root"},
		{"the old bundle is published", func() { publish(old) }, "proxies are about to be told of a new root"},
		{"a replica is silent", func() {
			publish(both)
			silent = errors.New("tulle-manager-b reports nothing")
		}, "nobody knows which proxies have acknowledged a new root: tulle-manager-b reports nothing"},
		{"two proxies are behind", func() {
			silent = nil
			proxies = []xds.ProxyState{proxy("b", "old"), proxy("c", "both"), proxy("a", "old")}
		}, "2 of the proxies have not acknowledged a new root yet: shop/a, shop/b"},
		{"all proxies trust", func() { proxies = []xds.ProxyState{proxy("b", "both")} }, "the API server is being told of a new root"},
		{"webhooks carry the old root", func() { carry(webhooksCarry, old) }, "the API server is being told of a new root"},
		{"webhooks carry both roots", func() {
			carry(webhooksCarry, both)
			now = now.Add(apiServersHear)
		}, "the API server is being told of a new root"},
		{"SMI's definitions do, too", func() { carry(definitionsCarry, both) }, "the API server is being told of a new root"},
		{"for two seconds, and no pod has a sidecar", func() { now = now.Add(apiServersHear) }, ""},
		{"a pod has a sidecar", func() {
			always := corev1.ContainerRestartPolicyAlways
			builder.Set(&corev1.Pod{
				ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "b", UID: "b"},
				Spec:       corev1.PodSpec{InitContainers: []corev1.Container{{Name: sidecar.ProxyContainer, RestartPolicy: &always}}},
				Status:     corev1.PodStatus{Phase: corev1.PodRunning, PodIP: "10.0.0.1", PodIPs: []corev1.PodIP{{IP: "10.0.0.1"}}},
			})
			publish(both)
		}, "kubelets are writing a new root into the pods' volumes"},
		{"its ConfigMap carries both", func() {
			carry(bootstrapCarries, both)
			now = now.Add(kubeletsHear - time.Second)
		}, "kubelets are writing a new root into the pods' volumes"},
		{"for long enough", func() { now = now.Add(time.Second) }, ""},
		{"the ConfigMap is written as it was", func() { b.Findings.setCarried(bootstrapCarries, both) }, ""},
	} {
		step.do()
		if got := b.waiting(both, now); got != step.want {
			t.Errorf("%s: it waits because %q, want %q", step.name, got, step.want)
		}
	}
}
