package supervise

import (
	"os"
	"sync"
	"syscall"
)

// reaper starts children and collects every child of pid 1, its own and the
// orphans that the kernel hands to it. os/exec would race with it for exit
// statuses.
type reaper struct {
	mu      sync.Mutex
	waiting map[int]chan syscall.WaitStatus
}

func newReaper() *reaper {
	return &reaper{waiting: map[int]chan syscall.WaitStatus{}}
}

// start runs a program with its output in the file. The channel yields its
// exit status.
func (r *reaper) start(args, env []string, output *os.File) (int, <-chan syscall.WaitStatus, error) {
	null, err := os.Open(os.DevNull)
	if err != nil {
		return 0, nil, err
	}
	defer null.Close()
	r.mu.Lock()
	defer r.mu.Unlock()
	pid, err := syscall.ForkExec(args[0], args, &syscall.ProcAttr{
		Dir:   "/",
		Env:   env,
		Files: []uintptr{null.Fd(), output.Fd(), output.Fd()},
		Sys:   &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		return 0, nil, &os.PathError{Op: "start", Path: args[0], Err: err}
	}
	exited := make(chan syscall.WaitStatus, 1)
	r.waiting[pid] = exited
	return pid, exited, nil
}

// run reaps whenever a child's end is signalled, until the channel is closed.
func (r *reaper) run(childEnded <-chan os.Signal) {
	for range childEnded {
		for r.reapOne() {
		}
	}
}

// reapOne collects one ended child and reports whether there was one.
func (r *reaper) reapOne() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	var status syscall.WaitStatus
	pid, err := syscall.Wait4(-1, &status, syscall.WNOHANG, nil)
	if err == syscall.EINTR {
		return true
	}
	if err != nil || pid <= 0 {
		return false
	}
	if exited, ok := r.waiting[pid]; ok {
		exited <- status
		delete(r.waiting, pid)
	}
	return true
}
