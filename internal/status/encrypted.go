package status

import (
	"fmt"
	"slices"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tulle-mesh/tulle/api/v1alpha1"
	"github.com/tulle-mesh/tulle/internal/model"
	"github.com/tulle-mesh/tulle/internal/resource"
	"github.com/tulle-mesh/tulle/internal/xds"
)

// Reasons of the condition Encrypted.
const (
	ReasonEncrypted           = "Encrypted"
	ReasonStrictIsSafe        = "StrictIsSafe"
	ReasonDisabled            = "Disabled"
	ReasonCertificateExpired  = "CertificateExpired"
	ReasonCertificateRejected = "CertificateRejected"
	ReasonCertificateWithheld = "CertificateWithheld"
	ReasonIssuanceStalled     = "IssuanceStalled"
	ReasonNoProxy             = "NoProxy"
	ReasonPlaintextAccepted   = "PlaintextAccepted"
	ReasonPlaintextPeers      = "PlaintextPeers"
	ReasonObserving           = "Observing"
)

// certificatePatience is how long a proxy that has just connected may be without a certificate before somebody must be withholding it.
const certificatePatience = 20 * time.Second

// modes are the mTLS modes that ports of a namespace have.
type modes struct{ strict, permissive, disabled bool }

func modesOf(n *model.Namespace) modes {
	var m modes
	add := func(mode v1alpha1.MTLSMode) {
		m.strict = m.strict || mode == v1alpha1.MTLSStrict
		m.permissive = m.permissive || mode == v1alpha1.MTLSPermissive
		m.disabled = m.disabled || mode == v1alpha1.MTLSDisabled
	}
	add(n.Mode)
	for _, p := range n.Ports {
		add(p.Mode)
	}
	return m
}

// encrypted says whether nothing but mTLS gets in, by what the proxies acknowledged and reported, and whether Ready depends on it: not
// on what Permissive and Disabled let in.
func (in Input) encrypted(p pods) (encrypted outcome, counts bool) {
	if in.Report.Root {
		return truth(ReasonNotEnrolled, "the root Mesh enrols no pods"), true
	}
	m := modesOf(in.Namespace)
	if !m.strict && !m.permissive {
		return falsehood(ReasonDisabled, "mtls.mode is Disabled: all connections are plaintext", ""), false
	}
	var pending, quiet outcome
	for _, check := range []func(pods) outcome{in.certified, in.issuing, in.covered, in.closed, in.acknowledged} {
		switch o := check(p); {
		case o.Status == metav1.ConditionFalse:
			return o, m.strict
		case pending.Status == "":
			pending = o
		}
	}
	if m.permissive {
		quiet = in.quiet(m)
	}
	switch {
	case quiet.Status == metav1.ConditionFalse:
		return quiet, false
	case pending.Status != "":
		return pending, m.strict
	case quiet.Status != "":
		return quiet, false
	}
	return in.sealed(m), !m.disabled
}

// sealed is the outcome when nothing speaks against it.
func (in Input) sealed(m modes) outcome {
	switch {
	case m.disabled:
		return falsehood(ReasonDisabled, "plaintext is all that is spoken on ports whose mtls mode is Disabled: "+samples(disabledPorts(in.Namespace), ", "), "")
	case len(in.Proxies) == 0:
		return truth(ReasonEncrypted, "there are no proxies yet")
	case m.permissive:
		return truth(ReasonStrictIsSafe, fmt.Sprintf("no connection without mTLS since %s: mtls.mode Strict is safe", stamp(in.Plaintext.quietSince())))
	}
	return truth(ReasonEncrypted, take(len(in.Proxies))+" nothing but mTLS, with valid certificates")
}

// The following return no outcome when nothing speaks against the condition.

// certified names the proxies that have no valid certificate, or whose next one is withheld or refused.
func (in Input) certified(pods) outcome {
	reasons := []string{ReasonCertificateExpired, ReasonCertificateRejected, ReasonCertificateWithheld}
	worst := len(reasons)
	var names, waiting []string
	for i := range in.Proxies {
		p := &in.Proxies[i]
		reason, why := in.certificate(p)
		switch {
		case reason == ReasonPending:
			waiting = append(waiting, p.Proxy.Pod)
		case reason != "":
			worst = min(worst, slices.Index(reasons, reason))
			names = append(names, p.Proxy.Pod+" ("+why+")")
		}
	}
	if len(names) > 0 {
		return falsehood(reasons[worst], samples(names, ", "), fmt.Sprintf("%d of %s not get the certificates they need", len(names), do(len(in.Proxies))))
	}
	if len(waiting) > 0 {
		return unknown(ReasonPending, samples(waiting, ", "), fmt.Sprintf("%d of %s not acknowledged a certificate yet", len(waiting), proxiesHave(len(in.Proxies))))
	}
	return outcome{}
}

// certificate says what is wrong with a proxy's certificate; nothing when reason is empty.
func (in Input) certificate(p *xds.ProxyState) (reason, why string) {
	e := p.Encryption
	if !e.CertificateExpires.IsZero() && !e.CertificateExpires.After(in.Now) {
		why = "expired at " + stamp(e.CertificateExpires)
		if p.CertificateError != "" {
			why += ": " + p.CertificateError
		}
		return ReasonCertificateExpired, why
	}
	for _, r := range p.Rejections {
		if r.Ref.Type == resource.Secret {
			return ReasonCertificateRejected, "rejects " + r.Ref.String() + ": " + r.Message
		}
	}
	if p.CertificateError != "" {
		return ReasonCertificateWithheld, p.CertificateError
	}
	switch waited := in.Now.Sub(p.ConnectedAt); {
	case !e.CertificateExpires.IsZero():
		return "", ""
	case waited > certificatePatience:
		return ReasonCertificateWithheld, fmt.Sprintf("none since it connected at %s", stamp(p.ConnectedAt))
	default:
		return ReasonPending, ""
	}
}

// issuing says so when certificates can't be issued or renewed. Nothing falls back to plaintext for that, but it can't be kept up.
func (in Input) issuing(pods) outcome {
	switch in.Issued.Status {
	case metav1.ConditionTrue:
		return outcome{}
	case metav1.ConditionFalse:
		return falsehood(ReasonIssuanceStalled, "what is encrypted stays so, but not for ever: "+in.Issued.Message, "")
	default:
		return unknown(ReasonPending, in.Issued.Message, "")
	}
}

// covered names the pods that should have a proxy and have none: they take plaintext.
func (in Input) covered(pods pods) outcome {
	var names []string
	for _, w := range pods.stale {
		if !w.Meshed {
			names = append(names, w.Key.Name)
		}
	}
	if len(names) == 0 {
		return outcome{}
	}
	return falsehood(ReasonNoProxy, samples(names, ", "), fmt.Sprintf("%d of %s no proxy and take plaintext", len(names), haveNo(pods.expected)))
}

// closed names the proxies that take plaintext on Strict ports, by the listener that they work with.
func (in Input) closed(pods) outcome {
	var open, behind []string
	for i := range in.Proxies {
		p := &in.Proxies[i]
		ports := strictPorts(in.Namespace, p.Encryption.PlaintextPorts)
		switch {
		case len(ports) == 0:
		case p.SyncedRevision < in.Report.Since:
			behind = append(behind, p.Proxy.Pod)
		default:
			open = append(open, fmt.Sprintf("%s (%s)", p.Proxy.Pod, samples(ports, ", ")))
		}
	}
	if len(open) > 0 {
		return falsehood(ReasonPlaintextAccepted, samples(open, ", "), fmt.Sprintf("%d of %s plaintext on Strict ports", len(open), takes(len(in.Proxies))))
	}
	if len(behind) > 0 {
		return unknown(ReasonPending, samples(behind, ", "), fmt.Sprintf("%d of %s plaintext until they hold generation %d", len(behind), takes(len(in.Proxies)), in.Report.Generation))
	}
	return outcome{}
}

// strictPorts returns, in words, those of a listener's open ports that should be Strict; 0 stands for all that the pod does not name.
func strictPorts(n *model.Namespace, ports []uint16) []string {
	var out []string
	for _, number := range ports {
		mode, name := n.Mode, "other ports"
		if number != 0 {
			name = fmt.Sprintf("port %d", number)
			for _, p := range n.Ports {
				if p.Number == number {
					mode = p.Mode
				}
			}
		}
		if mode == v1alpha1.MTLSStrict {
			out = append(out, name)
		}
	}
	return out
}

// acknowledged names the proxies of which it is not known what they work with.
func (in Input) acknowledged(pods pods) outcome {
	if n := len(pods.unconnected); n > 0 {
		return unknown(ReasonNotConnected, samples(pods.unconnected, ", "), fmt.Sprintf("%d of %s not connected to the control plane", n, are(pods.proxied)))
	}
	var names []string
	for i := range in.Proxies {
		if p := &in.Proxies[i]; !p.Encryption.Listening {
			names = append(names, p.Proxy.Pod)
		}
	}
	if len(names) == 0 {
		return outcome{}
	}
	return unknown(ReasonPending, samples(names, ", "), fmt.Sprintf("%d of %s not acknowledged an inbound listener yet", len(names), proxiesHave(len(in.Proxies))))
}

// quiet says who connects without mTLS where that is permitted, or how long it has been looked for.
func (in Input) quiet(m modes) outcome {
	o := in.Plaintext
	where := ""
	if m.strict || m.disabled {
		where = " on Permissive ports"
	}
	if n := len(o.Peers); n > 0 {
		least := ""
		if o.More {
			least = "at least "
		}
		summary := fmt.Sprintf("%s%s connected without mTLS%s within %s", least, peers(n), where, in.Quiet)
		return falsehood(ReasonPlaintextPeers, samples(o.names(), ", ")+"; Strict would refuse them", summary)
	}
	since := o.quietSince()
	switch {
	case len(in.Proxies) == 0:
		return outcome{} // there is nobody to connect to
	case since.IsZero():
		return unknown(ReasonObserving, "who connects without mTLS is not known: some proxies were not connected to the control plane", "")
	case in.Now.Sub(since) < in.Quiet:
		return unknown(ReasonObserving, fmt.Sprintf("no connection without mTLS%s since %s; if there is none until %s, Strict is safe",
			where, stamp(since), stamp(since.Add(in.Quiet))), "")
	}
	return outcome{}
}

func disabledPorts(n *model.Namespace) []string {
	var names []string
	if n.Mode == v1alpha1.MTLSDisabled {
		names = append(names, "all but those of mtls.ports")
	}
	for _, p := range n.Ports {
		if p.Mode == v1alpha1.MTLSDisabled {
			names = append(names, fmt.Sprint(p.Number))
		}
	}
	return names
}

func truth(reason, message string) outcome {
	return judged(metav1.ConditionTrue, reason, message, "")
}

// falsehood is an outcome that a summary, if there is one, introduces.
func falsehood(reason, message, summary string) outcome {
	return judged(metav1.ConditionFalse, reason, message, summary)
}

func unknown(reason, message, summary string) outcome {
	return judged(metav1.ConditionUnknown, reason, message, summary)
}

func judged(status metav1.ConditionStatus, reason, message, summary string) outcome {
	if summary != "" {
		message = summary + ": " + message
	}
	return outcome{metav1.Condition{Type: v1alpha1.ConditionEncrypted, Status: status, Reason: reason, Message: message}, summary}
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// The following put a number and a verb together, as those of package status do.

func take(n int) string {
	if n == 1 {
		return "the one proxy takes"
	}
	return fmt.Sprintf("all %d proxies take", n)
}

func takes(n int) string {
	if n == 1 {
		return "1 proxy takes"
	}
	return fmt.Sprintf("%d proxies take", n)
}

func proxiesHave(n int) string {
	if n == 1 {
		return "1 proxy has"
	}
	return fmt.Sprintf("%d proxies have", n)
}

func peers(n int) string {
	if n == 1 {
		return "1 peer has"
	}
	return fmt.Sprintf("%d peers have", n)
}
