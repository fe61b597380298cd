package identity

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// Materials keeps what a replica serves and signs with current: the signer, the certificates of the two servers and the
// trust bundle. It is fed the Secrets that cert-manager writes and the ConfigMap of trusted roots. It is safe for concurrent use.
type Materials struct {
	Signer       *Signer
	Webhook      *Serving
	ControlPlane *Serving

	now      func() time.Time
	log      *slog.Logger
	onTrust  func(bundle []byte)
	onChange func()

	mu           sync.Mutex
	domain       string
	intermediate map[string][]byte // the Secret's data
	authorityErr error
	servingErr   map[string]error // by Secret: why the newest can't be used
	trusted      []byte           // PEM of the trust ConfigMap
	bundle       []byte
}

// NewMaterials returns materials that hold nothing yet. onTrust is given each new trust bundle, onChange is called
// after each change; neither may call back.
func NewMaterials(now func() time.Time, log *slog.Logger, onTrust func(bundle []byte), onChange func()) *Materials {
	return &Materials{
		Signer: NewSigner(now), Webhook: NewServing(WebhookCertificate), ControlPlane: NewServing(ControlPlaneCertificate),
		now: now, log: log, onTrust: onTrust, onChange: onChange,
	}
}

// SetTerms sets the trust domain and the lifetime of the next workload certificates.
func (m *Materials) SetTerms(domain string, lifetime time.Duration) error {
	if err := m.Signer.SetTerms(domain, lifetime); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.domain != domain {
		m.domain = domain
		m.useIntermediate()
	}
	return nil
}

// SetSecret takes a Secret of cert-manager's in. One that can't be used is logged and told by
// Authority or Unusable; what was there before stays in use.
func (m *Materials) SetSecret(secret *corev1.Secret) {
	data := secret.Data
	crt, key, ca := data[corev1.TLSCertKey], data[corev1.TLSPrivateKeyKey], data[CAKey]
	if len(crt) == 0 {
		return // cert-manager is still waiting for the issuer
	}
	var err error
	switch secret.Name {
	case WebhookCertificate:
		err = m.setServing(m.Webhook, crt, key, ca)
	case ControlPlaneCertificate:
		err = m.setServing(m.ControlPlane, crt, key, ca)
	case Intermediate:
		err = m.setIntermediate(data)
	}
	if err != nil {
		m.log.Error("cannot use a certificate", "secret", secret.Namespace+"/"+secret.Name, "error", err)
	}
	m.onChange()
}

func (m *Materials) setServing(s *Serving, crt, key, ca []byte) error {
	err := s.Set(crt, key, ca)
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.servingErr == nil {
		m.servingErr = map[string]error{}
	}
	m.servingErr[s.name] = err
	return err
}

// Unusable returns why the newest certificate of one of the servers can't be used; what was there before serves on.
func (m *Materials) Unusable() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return errors.Join(m.servingErr[ControlPlaneCertificate], m.servingErr[WebhookCertificate])
}

func (m *Materials) setIntermediate(data map[string][]byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.intermediate = data
	m.useIntermediate()
	return m.authorityErr
}

// useIntermediate makes the intermediate's Secret the signer's authority. Proxies are told of a new root first.
func (m *Materials) useIntermediate() {
	if m.intermediate == nil || m.domain == "" {
		return
	}
	authority, err := ParseAuthority(m.intermediate[corev1.TLSCertKey], m.intermediate[corev1.TLSPrivateKeyKey], m.intermediate[CAKey], m.domain, m.now())
	m.authorityErr = err
	if err != nil {
		return
	}
	m.updateBundle(authority)
	m.Signer.SetAuthority(authority)
}

// SetTrusted takes in the roots that the operator remembers in its trust ConfigMap.
func (m *Materials) SetTrusted(document []byte) {
	m.setTrusted(document)
	m.onChange()
}

func (m *Materials) setTrusted(document []byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.trusted = document
	m.updateBundle(m.Signer.Authority())
}

// Refresh drops roots that have expired since.
func (m *Materials) Refresh() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.updateBundle(m.Signer.Authority())
}

func (m *Materials) updateBundle(a *Authority) {
	documents := [][]byte{m.trusted}
	if a != nil {
		documents = append(documents, a.Roots())
	}
	bundle, err := Bundle(m.now(), documents...)
	if err != nil {
		m.log.Error("left a certificate out of the trust bundle", "error", err)
	}
	if len(bundle) > 0 && !bytes.Equal(bundle, m.bundle) {
		m.bundle = bundle
		m.onTrust(bundle)
	}
}

// Trust returns the PEM of all trusted roots; nil before there are any.
func (m *Materials) Trust() []byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.bundle
}

// ControlPlaneCA returns the PEM by which a proxy verifies the control plane: who signed its certificate, and all trusted roots, so
// that a proxy whose copy is a minute old still verifies a certificate from a new root that was announced before.
func (m *Materials) ControlPlaneCA() ([]byte, error) {
	ca := m.ControlPlane.CA()
	if ca == nil {
		return nil, fmt.Errorf("secret %s: %w", ControlPlaneCertificate, errNoServing)
	}
	return Bundle(m.now(), ca, m.Trust())
}

// Authority returns what this replica signs with (nil when there is nothing yet), and why the newest intermediate can't be used.
func (m *Materials) Authority() (*Authority, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.Signer.Authority(), m.authorityErr
}

// Ready returns why this replica can't serve yet; nil when it can.
func (m *Materials) Ready() error {
	var errs []error
	for _, s := range []*Serving{m.Webhook, m.ControlPlane} {
		if !s.Ready() {
			errs = append(errs, fmt.Errorf("secret %s: %w", s.name, errNoServing))
		}
	}
	return errors.Join(errs...)
}
