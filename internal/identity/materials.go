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
//
// What descends from a new root is held back until the ConfigMap says that the root is known everywhere (see controllers.Bundle), while
// what was there before stays in use.
type Materials struct {
	Signer       *Signer
	Webhook      *Serving
	ControlPlane *Serving

	now       func() time.Time
	log       *slog.Logger
	onTrust   func(bundle []byte)
	onReissue func(over time.Duration)
	onChange  func()

	mu           sync.Mutex
	domain       string
	intermediate *secretData
	next         *Authority // what it holds, when it must not sign yet
	authorityErr error
	// webhookErr and controlPlaneErr say why the newest of these can't be used.
	webhookErr, controlPlaneErr error

	trusted   []byte  // PEM of the trust ConfigMap
	known     rootSet // roots that are known everywhere; nil without a ConfigMap
	bundle    []byte
	bundleErr string // what was left out
}

// secretData is what a Secret of cert-manager's holds.
type secretData struct{ crt, key, ca []byte }

// maxReissue is over how long at most all workload certificates are made anew.
const maxReissue = 10 * time.Minute

// NewMaterials returns materials that hold nothing yet. onTrust is given each new trust bundle, onReissue is told when proxies should not
// wait for the renewal of what they have, and over how long theirs should be made anew; onChange is called after each change. None
// may call back.
func NewMaterials(
	now func() time.Time, log *slog.Logger, onTrust func(bundle []byte), onReissue func(over time.Duration), onChange func(),
) *Materials {
	return &Materials{
		Signer: NewSigner(now), Webhook: NewServing(WebhookCertificate), ControlPlane: NewServing(ControlPlaneCertificate),
		now: now, log: log, onTrust: onTrust, onReissue: onReissue, onChange: onChange,
	}
}

// SetTerms sets the trust domain and the lifetime of the next workload certificates. A shorter one than before, and
// another domain, hold for those that proxies have, too.
func (m *Materials) SetTerms(domain string, lifetime time.Duration) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	before, renamed := m.Signer.lifetime(), m.domain != "" && m.domain != domain
	if err := m.Signer.SetTerms(domain, lifetime); err != nil {
		return err
	}
	if m.domain != domain {
		m.domain = domain
		m.readIntermediate()
		m.advance()
	}
	if lifetime < before || renamed {
		m.reissue()
	}
	return nil
}

func (m *Materials) reissue() { m.onReissue(min(m.Signer.lifetime()/10, maxReissue)) }

// SetSecret takes a Secret of cert-manager's in. One that can't be used is logged and told by
// Authority or Unusable; what was there before stays in use.
func (m *Materials) SetSecret(secret *corev1.Secret) {
	data := secret.Data
	crt, key, ca := data[corev1.TLSCertKey], data[corev1.TLSPrivateKeyKey], data[CAKey]
	if len(crt) == 0 {
		return // cert-manager is still waiting for the issuer
	}
	if err := m.takeSecret(secret.Name, crt, key, ca); err != nil {
		m.log.Error("cannot use a certificate", "secret", secret.Namespace+"/"+secret.Name, "error", err)
	}
	m.onChange()
}

func (m *Materials) takeSecret(name string, crt, key, ca []byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	var err error
	switch name {
	case WebhookCertificate:
		err = m.Webhook.offer(crt, key, ca)
		m.webhookErr = err
	case ControlPlaneCertificate:
		err = m.ControlPlane.offer(crt, key, ca)
		m.controlPlaneErr = err
	case Intermediate:
		m.intermediate = &secretData{crt, key, ca}
		m.readIntermediate()
		err = m.authorityErr
	}
	m.advance()
	return err
}

// Unusable returns why the newest certificate of one of the servers can't be used; what was there before serves on.
func (m *Materials) Unusable() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return errors.Join(m.controlPlaneErr, m.webhookErr)
}

// readIntermediate makes the intermediate's Secret the next authority.
func (m *Materials) readIntermediate() {
	if m.intermediate == nil || m.domain == "" {
		return
	}
	authority, err := ParseAuthority(m.intermediate.crt, m.intermediate.key, m.intermediate.ca, m.domain, m.now())
	m.authorityErr = err
	if err == nil {
		m.next = authority
	}
}

// SetTrusted takes in the operator's trust ConfigMap: the roots that the mesh trusts, and those of them that are known everywhere; nil, as
// older versions of Tulle leave it, is all of them.
func (m *Materials) SetTrusted(trusted, known []byte) {
	set := newRootSet(trusted)
	if known != nil {
		set = newRootSet(known)
	}
	m.setTrusted(trusted, set)
	m.onChange()
}

// ForgetTrusted drops the roots of the trust ConfigMap, which is gone. What is in use is made known again by the next one.
func (m *Materials) ForgetTrusted() {
	m.setTrusted(nil, nil)
	m.onChange()
}

// setTrusted keeps what is known when that is nil.
func (m *Materials) setTrusted(trusted []byte, known rootSet) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.trusted = trusted
	if known != nil {
		m.known = known
	}
	m.advance()
}

// Refresh drops roots that have expired since, and uses what has been held back long enough.
func (m *Materials) Refresh() {
	if m.refresh() {
		m.onChange()
	}
}

func (m *Materials) refresh() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	before := m.authorityErr
	if before != nil {
		m.readIntermediate() // time alone may have mended it
	}
	return m.advance() || before != nil && m.authorityErr == nil
}

// advance tells the proxies of new roots and uses what may be used now. It reports whether it did.
func (m *Materials) advance() bool {
	m.updateBundle()
	now := m.now()
	webhook, controlPlane := m.Webhook.advance(m.known, now), m.ControlPlane.advance(m.known, now)
	signs := m.next != nil && m.waiting(now) == ""
	if signs {
		before := m.Signer.Authority()
		m.Signer.SetAuthority(m.next)
		m.next = nil
		if before != nil && !bytes.Equal(before.Roots(), m.Signer.Authority().Roots()) {
			m.log.Info("a new root signs: the certificates of all proxies are made anew")
			m.reissue()
		}
	}
	return webhook || controlPlane || signs
}

// waiting says why the next authority must not sign yet. The first one of a replica that knows no other waits for its root too: proxies
// have the certificates that the replica before it signed.
func (m *Materials) waiting(now time.Time) string {
	current := m.Signer.Authority()
	switch {
	case current != nil:
		return m.next.lineage.hold(current.lineage, m.known, now)
	case !m.known.hold(m.next.lineage.roots):
		return "its root is not known everywhere yet"
	default:
		return ""
	}
}

func (m *Materials) updateBundle() {
	documents := append(m.inUse(), m.trusted)
	for _, s := range []*Serving{m.Webhook, m.ControlPlane} {
		documents = append(documents, s.cas()...)
	}
	if m.next != nil {
		documents = append(documents, m.next.Roots())
	}
	bundle, err := Bundle(m.now(), documents...)
	text := ""
	if err != nil {
		text = err.Error()
	}
	if text != m.bundleErr && text != "" {
		m.log.Error("left a certificate out of the trust bundle", "error", err)
	}
	m.bundleErr = text
	if len(bundle) > 0 && !bytes.Equal(bundle, m.bundle) {
		m.bundle = bundle
		m.onTrust(bundle)
	}
}

// inUse returns the roots of what this replica signs and serves with.
func (m *Materials) inUse() [][]byte {
	var documents [][]byte
	for _, s := range []*Serving{m.Webhook, m.ControlPlane} {
		if c := s.current.Load(); c != nil {
			documents = append(documents, c.ca)
		}
	}
	if a := m.Signer.Authority(); a != nil {
		documents = append(documents, a.Roots())
	}
	return documents
}

// InUse returns the PEM of the roots of what this replica signs and serves with.
func (m *Materials) InUse() []byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	bundle, _ := Bundle(m.now(), m.inUse()...)
	return bundle
}

// Trust returns the PEM of all trusted roots; nil before there are any.
func (m *Materials) Trust() []byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.bundle
}

// ControlPlaneCA returns the PEM by which a proxy verifies the control plane: who signed its certificate or the next, and all trusted
// roots, so that a proxy whose copy is a minute old still verifies a certificate from a new root that was announced before.
func (m *Materials) ControlPlaneCA() ([]byte, error) {
	cas := m.ControlPlane.cas()
	if len(cas) == 0 {
		return nil, fmt.Errorf("secret %s: %w", ControlPlaneCertificate, errNoServing)
	}
	return Bundle(m.now(), append(cas, m.Trust())...)
}

// WebhookCA returns the PEM by which the API server verifies the webhooks: who signed their certificate or the next, and all trusted
// roots; nil before there is a certificate.
func (m *Materials) WebhookCA() []byte {
	cas := m.Webhook.cas()
	if len(cas) == 0 {
		return nil
	}
	bundle, err := Bundle(m.now(), append(cas, m.Trust())...)
	if err != nil {
		// What is no CA may still be the certificate itself.
		return bytes.Join(append(cas, bundle), []byte("\n"))
	}
	return bundle
}

// Authority returns what this replica signs with (nil when there is nothing yet), and why the newest intermediate can't be used.
func (m *Materials) Authority() (*Authority, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.Signer.Authority(), m.authorityErr
}

// Waiting says why the newest intermediate does not sign yet; empty when it does, or when there is none that can.
func (m *Materials) Waiting() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.next == nil {
		return ""
	}
	return m.waiting(m.now())
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
