package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"
)

// report lays findings out for a person at a terminal.
type report struct{ text strings.Builder }

// String returns the report.
func (r *report) String() string { return r.text.String() }

func (r *report) section(title string) { fmt.Fprintf(&r.text, "\n%s\n", title) }

// table writes rows of tab-separated cells, aligned and indented.
func (r *report) table(rows ...string) {
	table := tabwriter.NewWriter(&r.text, 0, 0, 3, ' ', 0)
	for _, row := range rows {
		fmt.Fprintln(table, "  "+row)
	}
	// A strings.Builder takes everything.
	_ = table.Flush()
}

func (d *demo) report() *report {
	r := &report{}
	f := d.findings
	r.section("The Mesh   kubectl -n bookinfo get mesh")
	for line := range strings.Lines(f.mesh) {
		r.text.WriteString("  " + line)
	}
	r.traffic(f)
	r.counts(f)
	r.golden(f.golden)
	r.mtls(f)
	r.memory(f)
	r.next(d.target.shell())
	return r
}

// verdict is an error that names what does not hold of what the demo claims.
func (f findings) verdict() error {
	var wrong []error
	if f.load.Sent == 0 || f.load.Succeeded != f.load.Sent {
		wrong = append(wrong, fmt.Errorf("%d of %d requests succeeded", f.load.Succeeded, f.load.Sent))
	}
	for _, b := range backends(f.counted) {
		if saw := f.seen(b); saw != f.counted[b] {
			wrong = append(wrong, fmt.Errorf("%s %s counted %d requests, the client saw %d", b.service, b.version, f.counted[b], saw))
		}
	}
	if others := f.load.Versions[tester]["reviews"]; others["v2"] == 0 || others["v1"]+others["v3"] > 0 {
		wrong = append(wrong, fmt.Errorf("testers saw other versions of reviews than v2: %v", others))
	}
	if len(f.peers) == 0 {
		wrong = append(wrong, errors.New("no proxy logged a client"))
	}
	for _, p := range f.peers {
		if p.anonymous() {
			wrong = append(wrong, fmt.Errorf("%s served %d requests of clients without a certificate", p.service, p.count))
		}
	}
	wrong = append(wrong, f.disagreements()...)
	if f.answered {
		wrong = append(wrong, errors.New("a client without a proxy was answered"))
	}
	if len(wrong) == 0 {
		return nil
	}
	return fmt.Errorf("what was measured is not what Tulle promises:\n%w", errors.Join(wrong...))
}

// seen is how often the client saw an answer of a service. The data store's one client is ratings, which asks it once a
// request.
func (f findings) seen(b backend) int64 {
	if b.service == "datastore" {
		return f.load.saw("ratings", "v1")
	}
	return f.load.saw(b.service, b.version)
}

// anonymous says whether the client showed no certificate.
func (p peer) anonymous() bool { return p.identity == "" || p.identity == "-" }

func (r *report) traffic(f findings) {
	r.section("Traffic   reviews by version, as measured")
	rows := []string{"from\trequests\tv1\tv2\tv3\tthe Mesh says"}
	for _, line := range []struct{ name, user, says string }{
		{"testers (end-user: jason)", tester, "all to v2"},
		{"everybody else", "", "v1 90 %, v2 10 %"},
	} {
		seen := f.load.Versions[line.user]["reviews"]
		sum := seen["v1"] + seen["v2"] + seen["v3"]
		rows = append(rows, fmt.Sprintf("%s\t%d\t%s\t%s\t%s\t%s", line.name, sum,
			share(seen["v1"], sum), share(seen["v2"], sum), share(seen["v3"], sum), line.says))
	}
	r.table(rows...)
	r.text.WriteByte('\n')
	latency := f.load.LatencyMS
	rows = []string{
		fmt.Sprintf("succeeded\t%d of %d  (%s)", f.load.Succeeded, f.load.Sent, share(f.load.Succeeded, f.load.Sent)),
		fmt.Sprintf("latency\tp50 %.1f ms   p90 %.1f ms   p99 %.1f ms", latency["p50"], latency["p90"], latency["p99"]),
	}
	if f.load.Succeeded != f.load.Sent {
		rows = append(rows, fmt.Sprintf("answers\t%v, the last failure: %s", f.load.Statuses, f.load.LastError))
	}
	r.table(rows...)
}

func share(part, whole int64) string {
	if whole == 0 {
		return "-"
	}
	percent := 100 * float64(part) / float64(whole)
	if part < whole {
		// 100 % means all.
		percent = min(percent, 99.9)
	}
	return fmt.Sprintf("%.1f %%", percent)
}

func (r *report) counts(f findings) {
	r.section("Counted on both sides")
	rows := []string{"service\tversion\tthe client saw\tthe service counted"}
	for _, b := range backends(f.counted) {
		saw := f.seen(b)
		verdict := "equal"
		if saw != f.counted[b] {
			verdict = "DIFFERENT"
		}
		rows = append(rows, fmt.Sprintf("%s\t%s\t%d\t%d\t%s", b.service, b.version, saw, f.counted[b], verdict))
	}
	r.table(rows...)
}

func (r *report) mtls(f findings) {
	r.section("mTLS   as the receiving Envoys logged it")
	rows := []string{"service\tthe client's certificate says\tTLS\tserial\tlogged"}
	for _, p := range f.peers {
		identity := p.identity
		if p.anonymous() {
			identity = "NOTHING"
		}
		rows = append(rows, fmt.Sprintf("%s\t%s\t%s\t%s\t%d", p.service, identity, p.tls, short(p.serial), p.count))
	}
	r.table(rows...)
	fmt.Fprintf(&r.text, "\n  A client without a proxy was %s\n", f.outsider)
}

func short(serial string) string {
	if len(serial) > 12 {
		return serial[:12] + "…"
	}
	return serial
}

func (r *report) memory(f findings) {
	r.section("Proxies   memory as Envoy reports it")
	const mega = 1e6
	memory := slices.SortedFunc(slices.Values(f.memory), func(a, b proxyMemory) int { return strings.Compare(a.pod, b.pod) })
	rows := []string{"pod\tallocated\theld from the system"}
	for _, m := range memory {
		rows = append(rows, fmt.Sprintf("%s\t%.1f MB\t%.1f MB", m.pod, m.allocated/mega, m.held/mega))
	}
	r.table(rows...)
}

// next says how to go on; shell is what a person's shell needs first, if anything.
func (r *report) next(shell string) {
	r.section("Next")
	var rows []string
	if shell != "" {
		rows = append(rows, "your shell\t"+shell)
	}
	r.table(append(rows,
		"the page\tkubectl -n bookinfo port-forward svc/productpage 9080",
		"\thttp://localhost:9080; sign in as jason and reload",
		"another split\tkubectl -n bookinfo edit mesh bookinfo",
		"measure it\tkubectl -n bookinfo exec deploy/loadgen -- bookinfo load -rate 100 -for 10s",
		"a proxy's log\tkubectl -n bookinfo logs deploy/reviews-v2 -c tulle-proxy --tail 3",
		"the Mesh's fields\tkubectl explain mesh.spec --recursive",
		"the end\tmake demo-down",
	)...)
}
