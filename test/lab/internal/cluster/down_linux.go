package cluster

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tulle-mesh/tulle/test/lab/internal/progress"
)

// endTimeout bounds how long a node's processes may take to die. Killing the
// first kills all; the kernel ends them in its own time.
const endTimeout = 60 * time.Second

// Down removes a lab with every trace of it, whatever phase it was in. It is
// no error when there is none.
func Down(ctx context.Context, dir Dir, report *progress.Reporter) error {
	unlock, err := dir.lock()
	if err != nil {
		return err
	}
	defer unlock()
	return down(ctx, dir, report)
}

func down(ctx context.Context, dir Dir, report *progress.Reporter) error {
	state, err := dir.load()
	if err != nil {
		return err
	}
	if state == nil {
		// A start that was killed before its first record left at most a folder.
		report.Printf("no lab in %s", dir)
		return dir.clear()
	}
	boot, err := bootID()
	if err != nil {
		return err
	}
	return report.Run("removing the lab in "+string(dir), func(step *progress.Step) error {
		if state.Boot == boot {
			step.Set("ending its processes")
			if err := end(ctx, state.Init); err != nil {
				return err
			}
			if state.Cgroup != "" {
				step.Set("removing its control groups")
				if err := state.Cgroups.Remove(ctx, state.Cgroup, state.RootControllers); err != nil {
					return err
				}
			}
		}
		step.Set("removing its files")
		return dir.clear()
	})
}

// end kills the node's first process, with which the kernel kills all others
// of its namespace, and waits until they are gone. Mounts and links go with
// the namespaces.
func end(ctx context.Context, process *Process) error {
	if process == nil || !process.alive() {
		return nil
	}
	fd, err := unix.PidfdOpen(process.PID, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("process %d: %w", process.PID, err)
	}
	defer unix.Close(fd)
	if !process.alive() { // the number may have been reused before the descriptor was opened
		return nil
	}
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("ending process %d: %w", process.PID, err)
	}
	ctx, cancel := context.WithTimeout(ctx, endTimeout)
	defer cancel()
	for ctx.Err() == nil {
		// The descriptor becomes readable when the process has ended.
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 200)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("waiting for process %d: %w", process.PID, err)
		}
		if n > 0 {
			return nil
		}
	}
	return fmt.Errorf("process %d did not end after SIGKILL: %w", process.PID, ctx.Err())
}
