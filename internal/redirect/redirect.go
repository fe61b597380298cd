// Package redirect puts a pod's TCP traffic through its proxy: one nftables table, written over netlink into the network
// namespace of the calling thread.
//
//	others → pod             → inbound listener (15006), but for the sidecar's own ports
//	app → anywhere           → outbound listener (15001), but for loopback
//	proxy → anywhere         → as it is
//	proxy → its own pod      → inbound listener: the pod calls its own Service
//	proxy (127.0.0.6) → app  → as it is: what the inbound listener forwards
//
// Rules count what they match and carry their names as comments, so `nft list table inet tulle` explains itself.
package redirect

import (
	"errors"
	"fmt"
	"os"
	"reflect"
	"slices"
	"syscall"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"github.com/vishvananda/netlink"

	"github.com/tulle-mesh/tulle/internal/sidecar"
)

// Result says what Apply did.
type Result struct {
	// IPv6 is true when the pod has IPv6, so that the proxy's own source address for it was assigned.
	IPv6 bool
	// Rules is the number of rules written and read back.
	Rules int
}

// Apply replaces the table by the one for c, in one transaction: at no moment is there half of it, and applying it again
// changes nothing. It then reads the table back and compares. Errors say what to do about them.
func Apply(c Config) (Result, error) {
	v6, err := assignSource6()
	if err != nil {
		return Result{}, err
	}
	conn, err := nftables.New()
	if err != nil {
		return Result{}, explain("open netlink", err)
	}
	want := chains(c)
	write(conn, want)
	if err := conn.Flush(); err != nil {
		return Result{}, explain("write the table", err)
	}
	n, err := verify(conn, want)
	if err != nil {
		return Result{}, err
	}
	return Result{IPv6: v6, Rules: n}, nil
}

func table() *nftables.Table {
	return &nftables.Table{Name: TableName, Family: nftables.TableFamilyINet}
}

func write(conn *nftables.Conn, want []chain) {
	// A table must exist to be deleted: adding one that exists changes nothing.
	conn.AddTable(table())
	conn.DelTable(table())
	t := conn.AddTable(table())
	for _, w := range want {
		c := conn.AddChain(&nftables.Chain{Name: w.name, Table: t, Type: w.kind, Hooknum: w.hook, Priority: w.priority})
		for _, r := range w.rules {
			conn.AddRule(&nftables.Rule{Table: t, Chain: c, Exprs: r.exprs, UserData: userdata.AppendString(nil, userdata.TypeComment, r.name)})
		}
	}
}

// verify reads the table back and returns its number of rules.
func verify(conn *nftables.Conn, want []chain) (int, error) {
	n := 0
	for _, w := range want {
		got, err := conn.GetRules(table(), &nftables.Chain{Name: w.name})
		if err != nil {
			return 0, explain("read chain "+w.name, err)
		}
		if len(got) != len(w.rules) {
			return 0, fmt.Errorf("nftables: chain %s %s: wrote %d rules and read back %d: something else changes the pod's nftables; keep it out of table %[1]s",
				TableName, w.name, len(w.rules), len(got))
		}
		for i := range got {
			if !same(got[i], w.rules[i]) {
				return 0, fmt.Errorf("nftables: chain %s %s: rule %d (%s) reads back different from what was written: something else changes the pod's nftables; keep it out of table %[1]s",
					TableName, w.name, i, w.rules[i].name)
			}
		}
		n += len(got)
	}
	return n, nil
}

// same compares names and kinds of expressions. Their values are left out: kernels fill in defaults, each version its own.
func same(got *nftables.Rule, want rule) bool {
	name, _ := userdata.GetString(got.UserData, userdata.TypeComment)
	return name == want.name && slices.EqualFunc(got.Exprs, want.exprs, func(a, b expr.Any) bool {
		return reflect.TypeOf(a) == reflect.TypeOf(b)
	})
}

// Count is how many connections a rule took.
type Count struct {
	Chain, Rule string
	Connections uint64
}

// Counts returns the counters of the table's rules, in order, rules of one name added up.
func Counts() ([]Count, error) {
	conn, err := nftables.New()
	if err != nil {
		return nil, explain("open netlink", err)
	}
	var counts []Count
	for _, chain := range []string{ChainPrerouting, ChainOutput, ChainInput} {
		rules, err := conn.GetRules(table(), &nftables.Chain{Name: chain})
		if err != nil {
			return nil, explain("read chain "+chain, err)
		}
		for _, r := range rules {
			name, _ := userdata.GetString(r.UserData, userdata.TypeComment)
			if last := len(counts) - 1; last < 0 || counts[last].Chain != chain || counts[last].Rule != name {
				counts = append(counts, Count{Chain: chain, Rule: name})
			}
			for _, e := range r.Exprs {
				if c, ok := e.(*expr.Counter); ok {
					counts[len(counts)-1].Connections += c.Packets
				}
			}
		}
	}
	return counts, nil
}

// assignSource6 puts sidecar.InboundSource6 on the loopback interface, where all of 127.0.0.0/8 already is.
// It returns false when the pod has no IPv6.
func assignSource6() (bool, error) {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return false, fmt.Errorf("find the loopback interface: %w", err)
	}
	have, err := netlink.AddrList(lo, netlink.FAMILY_V6)
	if err != nil && !errors.Is(err, syscall.EOPNOTSUPP) && !errors.Is(err, syscall.EAFNOSUPPORT) {
		return false, fmt.Errorf("list the IPv6 addresses of lo: %w", err)
	}
	// With IPv6 switched off, or not compiled in, lo has no ::1.
	if len(have) == 0 {
		return false, nil
	}
	addr, err := netlink.ParseAddr(sidecar.InboundSource6 + "/128")
	if err != nil {
		return false, err
	}
	if err := netlink.AddrReplace(lo, addr); err != nil {
		return false, explain("add "+sidecar.InboundSource6+" to lo", err)
	}
	return true, nil
}

// explain names the remedy for the errors that a pod or a node can cause.
func explain(doing string, err error) error {
	switch {
	case errors.Is(err, os.ErrPermission):
		return fmt.Errorf("%s: %w: the container needs the capability NET_ADMIN; allow it to %s in this namespace (Pod Security level \"privileged\", or an exemption)",
			doing, err, sidecar.InitContainer)
	case errors.Is(err, syscall.EPROTONOSUPPORT), errors.Is(err, syscall.EAFNOSUPPORT), errors.Is(err, syscall.EOPNOTSUPP),
		errors.Is(err, syscall.EINVAL), errors.Is(err, syscall.ENOENT):
		return fmt.Errorf("%s: %w: the node's kernel lacks a part of nf_tables; it needs Linux 5.2 or newer and the modules nf_tables, nft_chain_nat, nft_redir, nft_ct, nft_fib_inet and nft_reject_inet (modprobe them on the node)",
			doing, err)
	}
	return fmt.Errorf("nftables: %s: %w", doing, err)
}
