package main

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
)

// Offsets of the addresses in the IP header.
const (
	source4, destination4 = 12, 16
	source6, destination6 = 8, 24
)

// cut drops the packets between an address and others, in both directions, before anything else looks at them, so that
// addresses of Services count as well. The function that it returns lets them pass again.
func cut(between netip.Addr, others []netip.Addr) (mend func() error, err error) {
	if !between.IsValid() || len(others) == 0 {
		return nil, errors.New("say between which addresses")
	}
	conn, err := nftables.New()
	if err != nil {
		return nil, err
	}
	table := &nftables.Table{Name: "tulle-trouble-" + between.String(), Family: nftables.TableFamilyIPv4}
	if between.Is6() {
		table.Family = nftables.TableFamilyIPv6
	}
	conn.AddTable(table)
	chain := conn.AddChain(&nftables.Chain{
		Name: "cut", Table: table, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityRaw,
	})
	for _, other := range others {
		if other.Is6() != between.Is6() {
			return nil, fmt.Errorf("%s and %s are of different families", between, other)
		}
		for _, way := range [][2]netip.Addr{{between, other}, {other, between}} {
			conn.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: drop(way[0], way[1])})
		}
	}
	if err := conn.Flush(); err != nil {
		return nil, err
	}
	return func() error {
		conn.DelTable(table)
		return conn.Flush()
	}, nil
}

func drop(from, to netip.Addr) []expr.Any {
	source, destination := uint32(source4), uint32(destination4)
	if from.Is6() {
		source, destination = source6, destination6
	}
	is := func(offset uint32, address netip.Addr) []expr.Any {
		raw := address.AsSlice()
		return []expr.Any{
			&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: uint32(len(raw))},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: raw},
		}
	}
	return append(append(is(source, from), is(destination, to)...), &expr.Verdict{Kind: expr.VerdictDrop})
}
