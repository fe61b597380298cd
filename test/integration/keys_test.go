package integration

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/tls"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"testing"

	certmanagerv1 "github.com/cert-manager/cert-manager/pkg/apis/certmanager/v1"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tulle-mesh/tulle/api/v1alpha1"
)

// testKeys: a workload's private key, which reaches its proxy on the stream, is nowhere else: in no object that the API server stores
// and in no line that the operator logs. (What Envoy shows of it is test/envoy's.)
func testKeys(t *testing.T, w *world, o *running) {
	w.namespace("keys")
	w.create(mesh("keys", "keys", v1alpha1.MeshSpec{}))
	p := pod("keys", "holder")
	w.create(p)
	w.run(p)
	envoy := w.connect(t, p)
	w.eventually("the proxy's certificate", func() error {
		_, err := envoy.certificate()
		return err
	})
	forms, err := envoy.keyForms()
	if err != nil {
		t.Fatal(err)
	}
	for _, list := range []client.ObjectList{
		&corev1.SecretList{}, &corev1.ConfigMapList{}, &corev1.PodList{}, &eventsv1.EventList{},
		&v1alpha1.MeshList{}, &certmanagerv1.CertificateList{}, &certmanagerv1.CertificateRequestList{},
	} {
		w.list(list)
		texts, err := textsOf(list)
		if err != nil {
			t.Fatal(err)
		}
		for _, text := range texts {
			if found := find(text, forms); found != "" {
				t.Errorf("a %T holds a workload's key, as %s", list, found)
			}
		}
	}
	if found := find([]byte(o.log.String()), forms); found != "" {
		t.Errorf("the operator has logged a workload's key, as %s", found)
	}
	// What is searched for would be found.
	leak := &corev1.ConfigMap{Data: map[string]string{"leak": string(forms["PEM"])}}
	leak.Namespace, leak.Name = "keys", "leak"
	if err := w.client.Create(context.Background(), leak); err != nil {
		t.Fatal(err)
	}
	var maps corev1.ConfigMapList
	w.list(&maps)
	texts, err := textsOf(&maps)
	if err != nil {
		t.Fatal(err)
	}
	if find(bytes.Join(texts, nil), forms) == "" {
		t.Error("a key that was put into a ConfigMap was not found")
	}
	w.delete(leak)
}

// keyForms are the ways in which the proxy's private key could be written down.
func (p *proxy) keyForms() (map[string][]byte, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	certificate := p.secret.GetTlsCertificate()
	text := certificate.GetPrivateKey().GetInlineBytes()
	pair, err := tls.X509KeyPair(certificate.GetCertificateChain().GetInlineBytes(), text)
	if err != nil {
		return nil, err
	}
	key, ok := pair.PrivateKey.(*ecdsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("the key is a %T", pair.PrivateKey)
	}
	scalar, err := key.Bytes()
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(text)
	return map[string][]byte{
		"PEM":              bytes.Split(text, []byte("\n"))[1],
		"DER":              block.Bytes,
		"the base64 of it": []byte(base64.StdEncoding.EncodeToString(block.Bytes)),
		"hexadecimal":      []byte(hex.EncodeToString(scalar)),
		"its number":       scalar,
		"base64":           []byte(base64.RawStdEncoding.EncodeToString(scalar)),
	}, nil
}

// find returns in which form a text holds a key; empty when in none.
func find(text []byte, forms map[string][]byte) string {
	for name, form := range forms {
		if bytes.Contains(text, form) {
			return name
		}
	}
	return ""
}

// textsOf returns a list as the API server sends it, and what its Secrets hold.
func textsOf(list client.ObjectList) ([][]byte, error) {
	all, err := json.Marshal(list)
	texts := [][]byte{all}
	if secrets, ok := list.(*corev1.SecretList); ok {
		for i := range secrets.Items {
			for _, value := range secrets.Items[i].Data {
				texts = append(texts, value)
			}
		}
	}
	return texts, err
}
