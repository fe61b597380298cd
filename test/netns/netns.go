//go:build linux

// Package netns gives tests network namespaces of their own: real addresses, routes and nftables, no uplink, and nothing
// left behind. A namespace has no name; it ends with the last file, socket or process in it.
package netns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// NS is a network namespace.
type NS struct {
	file *os.File
	// work is done by the one thread that lives in the namespace for good.
	work chan func()
}

// New makes a namespace with its loopback interface up. It needs root.
func New() (*NS, error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("network namespaces need root: run the test as root (sudo -E go test ...)")
	}
	n := &NS{work: make(chan func())}
	made := make(chan error)
	go n.keep(made)
	if err := <-made; err != nil {
		return nil, fmt.Errorf("make a network namespace: %w (the container needs CAP_SYS_ADMIN)", err)
	}
	return n, nil
}

// keep is the namespace's thread. It is never handed back to the Go scheduler: when keep returns, it ends.
// Processes are started by it, since the kernel kills a process with a death signal when the thread that started it ends.
func (n *NS) keep(made chan<- error) {
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		made <- err
		return
	}
	file, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		made <- err
		return
	}
	n.file = file
	made <- loopbackUp()
	for fn := range n.work {
		fn()
	}
}

func loopbackUp() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	return netlink.LinkSetUp(lo)
}

// Close ends the namespace once nothing uses it any more, and kills what Start started.
func (n *NS) Close() error {
	close(n.work)
	return n.file.Close()
}

// Fd refers to the namespace.
func (n *NS) Fd() int { return int(n.file.Fd()) }

// Do calls fn on a thread that is in the namespace. What fn starts in other goroutines is not.
func (n *NS) Do(fn func() error) error {
	runtime.LockOSThread()
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return err
	}
	defer home.Close()
	if err := unix.Setns(n.Fd(), unix.CLONE_NEWNET); err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("enter the network namespace: %w", err)
	}
	err = fn()
	if back := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); back != nil {
		// The thread stays locked, so that nobody else gets it.
		return errors.Join(err, fmt.Errorf("leave the network namespace: %w", back))
	}
	runtime.UnlockOSThread()
	return err
}

// Listen listens in the namespace.
func (n *NS) Listen(network, address string) (l net.Listener, err error) {
	err = n.Do(func() error {
		l, err = net.Listen(network, address)
		return err
	})
	return l, err
}

// DialContext connects from the namespace. The address must be an IP address and port.
func (n *NS) DialContext(ctx context.Context, network, address string) (c net.Conn, err error) {
	err = n.Do(func() error {
		c, err = new(net.Dialer).DialContext(ctx, network, address)
		return err
	})
	return c, err
}

// Start starts cmd in the namespace. It dies with the test, however that ends.
func (n *NS) Start(cmd *exec.Cmd) error {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = new(syscall.SysProcAttr)
	}
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	done := make(chan error)
	n.work <- func() { done <- cmd.Start() }
	return <-done
}
