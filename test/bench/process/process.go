// Package process reads what a process costs, and pins processes to CPUs.
package process

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// CPU returns the CPU time, user and system, that a process has used so far, in nanoseconds: /proc counts in steps of 10 ms, in which a
// cheap change vanishes.
func CPU(pid int) (time.Duration, error) {
	clock := int32(^pid<<3 | 2) //nolint:gosec // as clock_getcpuclockid(3) makes it; a pid has 22 bits
	var used unix.Timespec
	if err := unix.ClockGettime(clock, &used); err != nil {
		return 0, fmt.Errorf("CPU time of process %d: %w", pid, err)
	}
	return time.Duration(used.Nano()), nil
}

// System returns the part of a process's CPU time that the kernel worked for it, in steps of 10 ms.
func System(pid int) (time.Duration, error) {
	fields, err := stat(pid)
	if err != nil {
		return 0, err
	}
	ticks, err := strconv.ParseInt(fields[12], 10, 64)
	return time.Duration(ticks) * 10 * time.Millisecond, err
}

// stat returns the fields of /proc/<pid>/stat that come after the command: state, parent, …
func stat(pid int) ([]string, error) {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return nil, err
	}
	fields := strings.Fields(string(raw[strings.LastIndexByte(string(raw), ')')+1:]))
	if len(fields) < 13 {
		return nil, fmt.Errorf("/proc/%d/stat: %d fields", pid, len(fields))
	}
	return fields, nil
}

// RSS returns the resident memory of a process, and its peak since the start or the last ResetPeak, in bytes.
func RSS(pid int) (now, peak int64, err error) {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, 0, err
	}
	for line := range strings.Lines(string(raw)) {
		for name, value := range map[string]*int64{"VmRSS:": &now, "VmHWM:": &peak} {
			if rest, ok := strings.CutPrefix(line, name); ok {
				kilobytes, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
				if err != nil {
					return 0, 0, err
				}
				*value = kilobytes << 10
			}
		}
	}
	return now, peak, nil
}

// ResetPeak has the peak of a process's memory begin anew.
func ResetPeak(pid int) error {
	return os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", pid), []byte("5"), 0)
}

// Children returns the processes that this one has started and that run, by the name of their program.
func Children() (map[string][]int, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	own := strconv.Itoa(os.Getpid())
	children := map[string][]int{}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		fields, err := stat(pid)
		if err != nil || fields[1] != own {
			continue // it has ended, or is somebody else's
		}
		program, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
		if err != nil {
			continue
		}
		name := filepath.Base(program)
		children[name] = append(children[name], pid)
	}
	return children, nil
}

// Pin has all threads of a process, and those that they start, run on the given CPUs only. This process then also plans for so many.
func Pin(pid int, cpus []int) error {
	var set unix.CPUSet
	for _, cpu := range cpus {
		set.Set(cpu)
	}
	// Threads that one of these starts meanwhile have its CPUs or are found by the next look.
	for last := -1; ; {
		threads, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
		if err != nil {
			return err
		}
		if len(threads) == last {
			break
		}
		last = len(threads)
		for _, t := range threads {
			id, err := strconv.Atoi(t.Name())
			if err != nil {
				return err
			}
			if err := unix.SchedSetaffinity(id, &set); err != nil && !errors.Is(err, unix.ESRCH) {
				return fmt.Errorf("pin thread %d of process %d: %w", id, pid, err)
			}
		}
	}
	if pid == os.Getpid() {
		runtime.GOMAXPROCS(len(cpus))
	}
	return nil
}

// Lag measures how late a sleeping goroutine of this process wakes up: how saturated a generator is.
type Lag struct {
	stop chan struct{}
	done chan []time.Duration
}

// MeasureLag begins.
func MeasureLag() *Lag {
	l := &Lag{stop: make(chan struct{}), done: make(chan []time.Duration, 1)}
	go func() {
		var late []time.Duration
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-l.stop:
				l.done <- late
				return
			case due := <-tick.C:
				late = append(late, time.Since(due))
			}
		}
	}()
	return l
}

// End returns the 99th percentile.
func (l *Lag) End() time.Duration {
	close(l.stop)
	late := <-l.done
	if len(late) == 0 {
		return 0
	}
	slices.Sort(late)
	return late[len(late)*99/100]
}
