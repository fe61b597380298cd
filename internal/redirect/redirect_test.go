package redirect_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"reflect"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	"github.com/tulle-mesh/tulle/internal/redirect"
	"github.com/tulle-mesh/tulle/internal/sidecar"
	"github.com/tulle-mesh/tulle/test/netns"
)

const timeout = 5 * time.Second

// world is a pod behind redirection and a peer without. Whoever is connected to in them says its name, the
// connection's original destination and the client's address.
type world struct {
	pod, peer *netns.NS
	podIP     map[string]netip.Addr // by network: tcp4, tcp6
	peerIP    map[string]netip.Addr
}

var (
	podIPs  = []netip.Addr{netip.MustParseAddr("10.244.0.10"), netip.MustParseAddr("fd00:244::10")}
	peerIPs = []netip.Addr{netip.MustParseAddr("10.244.0.20"), netip.MustParseAddr("fd00:244::20")}
)

func newWorld(t *testing.T) *world {
	t.Helper()
	fabric := must(netns.NewFabric())(t)
	t.Cleanup(func() { fabric.Close() })
	w := &world{
		podIP:  map[string]netip.Addr{"tcp4": podIPs[0], "tcp6": podIPs[1]},
		peerIP: map[string]netip.Addr{"tcp4": peerIPs[0], "tcp6": peerIPs[1]},
	}
	w.pod = must(fabric.AddPod(podIPs...))(t)
	t.Cleanup(func() { w.pod.Close() })
	w.peer = must(fabric.AddPod(peerIPs...))(t)
	t.Cleanup(func() { w.peer.Close() })
	for _, network := range []string{"tcp4", "tcp6"} {
		for name, port := range map[string]int{
			"app": 8080, "excluded": 9999, "outbound": sidecar.OutboundPort, "inbound": sidecar.InboundPort,
			"stats": sidecar.StatsPort, "probes": sidecar.ProbePort,
		} {
			serve(t, w.pod, network, name, port)
		}
		serve(t, w.peer, network, "peer", 8080)
		serve(t, w.peer, network, "peer-excluded", 6379)
	}
	return w
}

func must[T any](v T, err error) func(*testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func serve(t *testing.T, ns *netns.NS, network, name string, port int) {
	t.Helper()
	l := must(ns.Listen(network, fmt.Sprintf(":%d", port)))(t)
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			client, _, _ := net.SplitHostPort(c.RemoteAddr().String())
			fmt.Fprintf(c, "%s %s %s", name, originalDestination(c.(*net.TCPConn)), client)
			c.Close()
		}
	}()
}

// originalDestination is what the client connected to, before redirection.
func originalDestination(c *net.TCPConn) string {
	raw, err := c.SyscallConn()
	if err != nil {
		return err.Error()
	}
	local := c.LocalAddr().(*net.TCPAddr)
	var result string
	err = raw.Control(func(fd uintptr) {
		if local.IP.To4() != nil {
			sa, err := unix.GetsockoptIPv6Mreq(int(fd), unix.SOL_IP, unix.SO_ORIGINAL_DST)
			if err != nil {
				result = local.String() // never redirected
				return
			}
			b := sa.Multiaddr
			result = fmt.Sprintf("%d.%d.%d.%d:%d", b[4], b[5], b[6], b[7], int(b[2])<<8|int(b[3]))
			return
		}
		sa, err := unix.GetsockoptIPv6MTUInfo(int(fd), unix.SOL_IPV6, unix.SO_ORIGINAL_DST)
		if err != nil {
			result = local.String()
			return
		}
		port := sa.Addr.Port>>8 | sa.Addr.Port<<8
		result = netip.AddrPortFrom(netip.AddrFrom16(sa.Addr.Addr), port).String()
	})
	if err != nil {
		return err.Error()
	}
	return result
}

// call connects as a user, from a source address if one is given, and returns what is heard.
func call(ns *netns.NS, uid int, from, network, to string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	var c net.Conn
	err := ns.Do(func() error {
		// A socket belongs to the file system user of the thread that makes it.
		if err := unix.Setfsuid(uid); err != nil {
			return err
		}
		defer unix.Setfsuid(0)
		d := net.Dialer{}
		if from != "" {
			d.LocalAddr = &net.TCPAddr{IP: net.ParseIP(from)}
		}
		var err error
		c, err = d.DialContext(ctx, network, to)
		return err
	})
	if err != nil {
		return "", err
	}
	defer c.Close()
	if err := c.SetReadDeadline(time.Now().Add(timeout)); err != nil {
		return "", err
	}
	heard, err := io.ReadAll(c)
	return string(heard), err
}

func apply(t *testing.T, ns *netns.NS, c redirect.Config) redirect.Result {
	t.Helper()
	var r redirect.Result
	if err := ns.Do(func() (err error) { r, err = redirect.Apply(c); return err }); err != nil {
		t.Fatal(err)
	}
	return r
}

func counts(t *testing.T, ns *netns.NS) map[string]uint64 {
	t.Helper()
	var list []redirect.Count
	if err := ns.Do(func() (err error) { list, err = redirect.Counts(); return err }); err != nil {
		t.Fatal(err)
	}
	m := map[string]uint64{}
	for _, c := range list {
		m[c.Chain+"/"+c.Rule] = c.Connections
	}
	return m
}

// where says who answers a connection. Exactly one rule takes each.
func TestWhereConnectionsGo(t *testing.T) {
	w := newWorld(t)
	if r := apply(t, w.pod, redirect.Config{ExcludeInbound: []uint16{9999}, ExcludeOutbound: []uint16{6379}}); !r.IPv6 {
		t.Fatalf("Apply: %+v, want IPv6", r)
	}
	const app, proxy = 0, sidecar.UID
	loopback := map[string]string{"tcp4": "127.0.0.1", "tcp6": "::1"}
	source := map[string]string{"tcp4": sidecar.InboundSource4, "tcp6": sidecar.InboundSource6}
	service := map[string]string{"tcp4": "10.96.0.5", "tcp6": "fd00:96::5"}
	at := func(host string, port int) string { return net.JoinHostPort(host, fmt.Sprint(port)) }
	for _, network := range []string{"tcp4", "tcp6"} {
		pod, peer := w.podIP[network].String(), w.peerIP[network].String()
		for _, c := range []struct {
			name     string
			ns       *netns.NS
			uid      int
			from, to string
			want     string // who, original destination, client; empty for refused
			rule     string
		}{
			{"others to the app", w.peer, app, "", at(pod, 8080), "inbound " + at(pod, 8080) + " " + peer, "prerouting/inbound"},
			{"others to the stats port", w.peer, app, "", at(pod, 15020), "stats " + at(pod, 15020) + " " + peer, "prerouting/inbound-excluded"},
			{"others to the probe port", w.peer, app, "", at(pod, 15021), "probes " + at(pod, 15021) + " " + peer, "prerouting/inbound-excluded"},
			{"others to an excluded port", w.peer, app, "", at(pod, 9999), "excluded " + at(pod, 9999) + " " + peer, "prerouting/inbound-excluded"},
			{"others to the inbound listener", w.peer, app, "", at(pod, 15006), "", "input/direct"},
			{"others to the outbound port", w.peer, app, "", at(pod, 15001), "inbound " + at(pod, 15001) + " " + peer, "prerouting/inbound"},
			{"the app to a Service", w.pod, app, "", at(service[network], 80), "outbound " + at(service[network], 80) + " " + pod, "output/outbound"},
			{"the app to a pod", w.pod, app, "", at(peer, 8080), "outbound " + at(peer, 8080) + " " + pod, "output/outbound"},
			{"the app to its own pod", w.pod, app, "", at(pod, 8080), "outbound " + at(pod, 8080) + " " + pod, "output/outbound"},
			{"the app to an excluded port", w.pod, app, "", at(peer, 6379), "peer-excluded " + at(peer, 6379) + " " + pod, "output/outbound-excluded"},
			{"the app to loopback", w.pod, app, "", at(loopback[network], 8080), "app " + at(loopback[network], 8080) + " " + loopback[network], "output/loopback"},
			{"the app to the inbound listener", w.pod, app, "", at(loopback[network], 15006), "", "input/direct"},
			{"the app to the outbound listener", w.pod, app, "", at(loopback[network], 15001), "", "input/direct"},
			{"the proxy to a pod", w.pod, proxy, "", at(peer, 8080), "peer " + at(peer, 8080) + " " + pod, "output/proxy"},
			{"the proxy to its own pod", w.pod, proxy, "", at(pod, 8080), "inbound " + at(pod, 8080) + " " + pod, "output/self-call"},
			{"the proxy to its own stats port", w.pod, proxy, "", at(pod, 15020), "stats " + at(pod, 15020) + " " + pod, "output/proxy-to-own-port"},
			{"the proxy to its app", w.pod, proxy, source[network], at(pod, 8080), "app " + at(pod, 8080) + " " + source[network], "output/proxy-to-app"},
			{"the proxy to its app over loopback", w.pod, proxy, "", at(loopback[network], 8080), "app " + at(loopback[network], 8080) + " " + loopback[network], "output/loopback"},
			{"the proxy forwards to its own listener", w.pod, proxy, source[network], at(pod, 15006), "", "input/direct"},
		} {
			t.Run(network+"/"+c.name, func(t *testing.T) {
				before := counts(t, w.pod)
				got, err := call(c.ns, c.uid, c.from, network, c.to)
				if c.want == "" {
					if !errors.Is(err, syscall.ECONNREFUSED) {
						t.Fatalf("heard %q, error %v; want it refused", got, err)
					}
				} else if err != nil || got != c.want {
					t.Fatalf("heard %q, error %v; want %q", got, err, c.want)
				}
				if n := counts(t, w.pod)[c.rule] - before[c.rule]; n != 1 {
					t.Errorf("rule %s took %d connections, want 1; before %v, after %v", c.rule, n, before, counts(t, w.pod))
				}
			})
		}
	}
}

func TestApplyReplacesWhatWasThere(t *testing.T) {
	w := newWorld(t)
	err := w.pod.Do(func() error {
		conn, err := nftables.New()
		if err != nil {
			return err
		}
		old := conn.AddTable(&nftables.Table{Name: redirect.TableName, Family: nftables.TableFamilyINet})
		conn.AddChain(&nftables.Chain{Name: "old", Table: old})
		return conn.Flush()
	})
	if err != nil {
		t.Fatal(err)
	}
	first := apply(t, w.pod, redirect.Config{})
	before := ruleset(t, w.pod)
	if second := apply(t, w.pod, redirect.Config{}); second != first {
		t.Errorf("the second Apply returns %+v, the first %+v", second, first)
	}
	if after := ruleset(t, w.pod); !reflect.DeepEqual(after, before) {
		t.Errorf("the second Apply leaves\n%s\nthe first\n%s", after, before)
	}
	for _, line := range before {
		if strings.Contains(line, "old") {
			t.Errorf("the older table's chain is still there: %v", before)
		}
	}
}

// ruleset lists chains and the expressions of their rules, without handles and counts.
func ruleset(t *testing.T, ns *netns.NS) []string {
	t.Helper()
	var lines []string
	err := ns.Do(func() error {
		conn, err := nftables.New()
		if err != nil {
			return err
		}
		all, err := conn.ListChainsOfTableFamily(nftables.TableFamilyINet)
		if err != nil {
			return err
		}
		for _, c := range all {
			lines = append(lines, c.Table.Name+" "+c.Name)
			rules, err := conn.GetRules(c.Table, c)
			if err != nil {
				return err
			}
			for _, r := range rules {
				line := string(r.UserData)
				for _, e := range r.Exprs {
					line += fmt.Sprintf(" %T%+v", e, e)
				}
				lines = append(lines, line)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return lines
}

// While the table is replaced over and over, every connection finds a whole one.
func TestApplyIsAtomic(t *testing.T) {
	w := newWorld(t)
	apply(t, w.pod, redirect.Config{})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() {
		for ctx.Err() == nil {
			if err := w.pod.Do(func() error { _, err := redirect.Apply(redirect.Config{}); return err }); err != nil {
				done <- err
				return
			}
		}
		done <- nil
	}()
	for i := range 300 {
		got, err := call(w.peer, 0, "", "tcp4", "10.244.0.10:8080")
		if err != nil || !strings.HasPrefix(got, "inbound ") {
			t.Errorf("connection %d: heard %q, error %v; want the inbound listener", i, got, err)
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func TestPodWithoutIPv6(t *testing.T) {
	fabric := must(netns.NewFabric())(t)
	defer fabric.Close()
	pod := must(fabric.AddPod(podIPs[0]))(t)
	defer pod.Close()
	serve(t, pod, "tcp4", "outbound", sidecar.OutboundPort)
	if r := apply(t, pod, redirect.Config{}); r.IPv6 {
		t.Errorf("Apply: %+v, want no IPv6", r)
	}
	if got, err := call(pod, 0, "", "tcp4", "10.96.0.5:80"); err != nil || !strings.HasPrefix(got, "outbound 10.96.0.5:80") {
		t.Errorf("heard %q, error %v", got, err)
	}
}
