package supervise

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	probeInterval = 100 * time.Millisecond
	probeTimeout  = 2 * time.Second
	restartDelay  = time.Second
	maxDelay      = 15 * time.Second
)

// listenerFD is the inherited listener: the first extra file of the process.
const listenerFD = 3

// Main runs the node that the spec file describes. It waits until its starter
// says on stdin that it has recorded the process: a starter that dies before
// leaves nothing. It returns on SIGTERM or when the node cannot be prepared;
// the kernel then ends every other process of the namespace.
func Main(specFile string) error {
	unix.CloseOnExec(listenerFD)
	if os.Getpid() != 1 {
		return errors.New("init is started by `lab up`, as the first process of a namespace")
	}
	if n, err := os.Stdin.Read(make([]byte, 1)); n != 1 {
		return fmt.Errorf("the starter went away before it said go: %w", err)
	}
	content, err := os.ReadFile(specFile)
	if err != nil {
		return err
	}
	var spec Spec
	if err := json.Unmarshal(content, &spec); err != nil {
		return fmt.Errorf("%s: %w", specFile, err)
	}
	n := newNode(spec)
	if err := n.run(); err != nil {
		n.update(func(s *Status) { s.Phase, s.Error = PhaseFailed, err.Error() })
		return err
	}
	return nil
}

// node is the running state of a Spec.
type node struct {
	spec   Spec
	reaper *reaper
	ready  map[string]chan struct{}
	failed chan error

	mu     sync.Mutex
	status Status
}

func newNode(spec Spec) *node {
	n := &node{spec: spec, reaper: newReaper(), ready: map[string]chan struct{}{}, failed: make(chan error, len(spec.Processes)+1)}
	for _, process := range spec.Processes {
		n.ready[process.Name] = make(chan struct{})
		n.status.Processes = append(n.status.Processes, ProcessStatus{Name: process.Name, State: StateWaiting})
	}
	return n
}

func (n *node) run() error {
	children := make(chan os.Signal, 1)
	signal.Notify(children, syscall.SIGCHLD)
	go n.reaper.run(children)
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)

	if err := n.prepare(); err != nil {
		return err
	}
	n.update(func(s *Status) { s.Phase = PhaseRunning })
	for i := range n.spec.Processes {
		go n.supervise(i)
	}
	select {
	case err := <-n.failed:
		return err
	case <-stop:
		return nil
	}
}

func (n *node) prepare() error {
	n.update(func(s *Status) { s.Phase = PhaseMounts })
	if err := mountAll(n.spec); err != nil {
		return err
	}
	n.update(func(s *Status) { s.Phase = PhaseNetwork })
	if err := unix.Sethostname([]byte(n.spec.Hostname)); err != nil {
		return fmt.Errorf("host name: %w", err)
	}
	if err := connect(n.spec); err != nil {
		return err
	}
	if n.spec.Forward == "" {
		return nil
	}
	listener, err := net.FileListener(os.NewFile(listenerFD, "listener"))
	if err != nil {
		return fmt.Errorf("inherited listener: %w", err)
	}
	go func() { n.failed <- forward(listener, n.spec.Forward) }()
	return nil
}

// update changes the status and writes it to the status file. The file is only
// a report: failing to write it must not end the node.
func (n *node) update(change func(*Status)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	change(&n.status)
	content, err := json.MarshalIndent(n.status, "", "  ")
	if err == nil {
		temp := n.spec.StatusFile + ".new"
		if err = os.WriteFile(temp, content, 0o644); err == nil {
			err = os.Rename(temp, n.spec.StatusFile)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "status file:", err)
	}
}

func (n *node) set(i int, change func(*ProcessStatus)) {
	n.update(func(s *Status) { change(&s.Processes[i]) })
}

// supervise starts one process when those before it are ready and keeps it
// running.
func (n *node) supervise(i int) {
	process := n.spec.Processes[i]
	for _, name := range process.After {
		<-n.ready[name]
	}
	output, err := os.OpenFile(filepath.Join(n.spec.LogDir, process.Name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		n.failed <- err
		return
	}
	defer output.Close()
	var once sync.Once
	announce := func() { once.Do(func() { close(n.ready[process.Name]) }) }
	for delay := restartDelay; ; delay = min(2*delay, maxDelay) {
		started := time.Now()
		exit, err := n.runOnce(i, output, announce)
		if err != nil {
			n.failed <- err
			return
		}
		if process.Once {
			n.finish(i, exit, announce)
			return
		}
		if time.Since(started) > time.Minute {
			delay = restartDelay
		}
		n.set(i, func(s *ProcessStatus) {
			s.State, s.PID, s.LastExit, s.Restarts = StateBackoff, 0, describe(exit), s.Restarts+1
		})
		time.Sleep(delay)
	}
}

// runOnce runs the process to its end.
func (n *node) runOnce(i int, output *os.File, announce func()) (syscall.WaitStatus, error) {
	process := n.spec.Processes[i]
	pid, exited, err := n.reaper.start(process.Args, process.Env, output)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", process.Name, err)
	}
	n.set(i, func(s *ProcessStatus) { s.State, s.PID = StateStarting, pid })
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	if !process.Once {
		go func() {
			if process.Ready.wait(ctx) == nil {
				n.set(i, func(s *ProcessStatus) {
					if s.PID == pid {
						s.State = StateReady
					}
				})
				announce()
			}
		}()
	}
	return <-exited, nil
}

// finish records the end of a process that runs once.
func (n *node) finish(i int, exit syscall.WaitStatus, announce func()) {
	process := n.spec.Processes[i]
	if exit.ExitStatus() == 0 {
		n.set(i, func(s *ProcessStatus) { s.State, s.PID = StateDone, 0 })
		announce()
		return
	}
	n.set(i, func(s *ProcessStatus) { s.State, s.PID, s.LastExit = StateFailed, 0, describe(exit) })
	n.failed <- fmt.Errorf("%s: %s (see %s)", process.Name, describe(exit), filepath.Join(n.spec.LogDir, process.Name+".log"))
}

func describe(exit syscall.WaitStatus) string {
	if exit.Signaled() {
		return "killed by " + exit.Signal().String()
	}
	return fmt.Sprintf("exit status %d", exit.ExitStatus())
}

// wait repeats the probe until it succeeds or the context ends.
func (p Probe) wait(ctx context.Context) error {
	client, err := p.client()
	if err != nil {
		return err
	}
	ticker := time.NewTicker(probeInterval)
	defer ticker.Stop()
	for p.try(ctx, client) != nil {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ticker.C:
		}
	}
	return nil
}

func (p Probe) client() (*http.Client, error) {
	transport := &http.Transport{DisableKeepAlives: true}
	if p.CA != "" {
		pem, err := os.ReadFile(p.CA)
		if err != nil {
			return nil, err
		}
		roots := x509.NewCertPool()
		if !roots.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s: no certificate in it", p.CA)
		}
		transport.TLSClientConfig = &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
	}
	return &http.Client{Transport: transport, Timeout: probeTimeout}, nil
}

func (p Probe) try(ctx context.Context, client *http.Client) error {
	switch {
	case p.Socket != "":
		connection, err := net.DialTimeout("unix", p.Socket, probeTimeout)
		if err != nil {
			return err
		}
		return connection.Close()
	case p.URL != "":
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, p.URL, nil)
		if err != nil {
			return err
		}
		response, err := client.Do(request)
		if err != nil {
			return err
		}
		defer response.Body.Close()
		if response.StatusCode != http.StatusOK {
			return fmt.Errorf("%s: %s", p.URL, response.Status)
		}
	}
	return nil
}

// forward copies every connection of the listener, which is in the machine's
// own network namespace, to an address in the node's.
func forward(listener net.Listener, address string) error {
	for {
		outer, err := listener.Accept()
		if err != nil {
			return fmt.Errorf("forwarding to %s: %w", address, err)
		}
		go func() {
			defer outer.Close()
			inner, err := net.Dial("tcp", address)
			if err != nil {
				return // the client sees the connection end, as with any dead server
			}
			defer inner.Close()
			join(outer.(*net.TCPConn), inner.(*net.TCPConn))
		}()
	}
}

// join copies in both directions and passes half-closes on.
func join(a, b *net.TCPConn) {
	var copying sync.WaitGroup
	for _, pair := range [][2]*net.TCPConn{{a, b}, {b, a}} {
		copying.Go(func() {
			// A broken side ends the copy; its peer learns it by the half-close.
			_, _ = io.Copy(pair[0], pair[1])
			_ = pair[0].CloseWrite()
		})
	}
	copying.Wait()
}
