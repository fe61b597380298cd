package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/tulle-mesh/tulle/test/lab/internal/plan"
)

// namespaces are those of a node, in the order in which they are joined: the
// mount namespace last, since it hides the machine's /proc.
func namespaces() []struct {
	name string
	flag int
} {
	return []struct {
		name string
		flag int
	}{{"net", unix.CLONE_NEWNET}, {"uts", unix.CLONE_NEWUTS}, {"ipc", unix.CLONE_NEWIPC}, {"mnt", unix.CLONE_NEWNS}}
}

// firstNamespaceFD is the descriptor of the first namespace in an entering child.
const firstNamespaceFD = 3

// Command prepares a command inside the lab's namespaces; the caller connects
// its input and output and calls run, which passes on its exit status.
type Command struct {
	cmd   *exec.Cmd
	pidNS *os.File
	files []*os.File
}

// Enter prepares a command inside the lab's namespaces, with the working
// folder and environment of this process. Its own program is how the child
// joins them.
func Enter(dir Dir, args []string) (*Command, error) {
	state, err := dir.running()
	if err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	c := &Command{cmd: exec.Command(self, append([]string{"enter", "--"}, args...)...)}
	open := func(name string) (*os.File, error) {
		file, err := os.Open(fmt.Sprintf("/proc/%d/ns/%s", state.Init.PID, name))
		if err == nil {
			c.files = append(c.files, file)
		}
		return file, err
	}
	if c.pidNS, err = open("pid"); err != nil {
		return nil, err
	}
	for _, namespace := range namespaces() {
		file, err := open(namespace.name)
		if err != nil {
			c.close()
			return nil, err
		}
		c.cmd.ExtraFiles = append(c.cmd.ExtraFiles, file)
	}
	if !state.Init.alive() { // then the files may be of another process
		c.close()
		return nil, fmt.Errorf("the lab in %s just ended", dir)
	}
	kubernetes := state.Components["kubernetes"]
	c.cmd.Env = append(os.Environ(), plan.InnerEnvironment(plan.Paths{State: string(dir)})...)
	c.cmd.Env = append(c.cmd.Env, "PATH="+kubernetes+":"+os.Getenv("PATH")+":/usr/sbin:/sbin")
	return c, nil
}

func (c *Command) close() {
	for _, file := range c.files {
		file.Close()
	}
}

// Run runs the command. When the context ends first, the command is asked to
// end too.
func (c *Command) Run(ctx context.Context) error {
	defer c.close()
	// The child's process namespace and its death signal are this thread's.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	own, err := os.Open("/proc/self/ns/pid")
	if err != nil {
		return err
	}
	defer own.Close()
	if err := unix.Setns(int(c.pidNS.Fd()), unix.CLONE_NEWPID); err != nil {
		return fmt.Errorf("joining the lab's process namespace: %w", err)
	}
	err = c.cmd.Start()
	if back := unix.Setns(int(own.Fd()), unix.CLONE_NEWPID); back != nil {
		return errors.Join(err, fmt.Errorf("leaving the lab's process namespace: %w", back))
	}
	if err != nil {
		return err
	}
	ended := make(chan struct{})
	defer close(ended)
	go func() {
		select {
		case <-ctx.Done():
			// It may have ended just now; then there is nothing to ask.
			_ = c.cmd.Process.Signal(syscall.SIGTERM)
		case <-ended:
		}
	}()
	return c.cmd.Wait()
}

// Become joins the namespaces that Enter handed over and turns into the
// command. It returns only on failure.
func Become(args []string) error {
	if len(args) == 0 {
		return errors.New("no command to run in the lab")
	}
	folder, err := os.Getwd()
	if err != nil {
		return err
	}
	runtime.LockOSThread()
	// Not left to os/exec, which takes a parent in another process namespace for a dead one.
	if err := unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0); err != nil {
		return fmt.Errorf("entering the lab: %w", err)
	}
	// A thread that shares its working folder with others can't change its mounts.
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return fmt.Errorf("entering the lab: %w", err)
	}
	for i, namespace := range namespaces() {
		fd := firstNamespaceFD + i
		if err := unix.Setns(fd, namespace.flag); err != nil {
			return fmt.Errorf("joining the lab's %s namespace: %w", namespace.name, err)
		}
		if err := unix.Close(fd); err != nil {
			return err
		}
	}
	// The same folder by name; it may be one that only the machine has.
	if os.Chdir(folder) != nil {
		if err := os.Chdir("/"); err != nil {
			return err
		}
	}
	program, err := lookPath(args[0])
	if err != nil {
		return err
	}
	return fmt.Errorf("%s: %w", program, syscall.Exec(program, args, os.Environ()))
}

// lookPath finds a program inside the lab.
func lookPath(name string) (string, error) {
	if strings.Contains(name, "/") {
		return filepath.Abs(name)
	}
	path, err := exec.LookPath(name)
	if err != nil {
		return "", fmt.Errorf("in the lab: %w", err)
	}
	return path, nil
}

// Exec runs a command inside the lab with this process's own input and output.
func Exec(ctx context.Context, dir Dir, args []string) error {
	command, err := Enter(dir, args)
	if err != nil {
		return err
	}
	command.cmd.Stdin, command.cmd.Stdout, command.cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	return command.Run(ctx)
}
