package process

import (
	"os"
	"os/exec"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// What /proc says of this process agrees with what the kernel says elsewhere.
func TestCPU(t *testing.T) {
	before, err := CPU(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	var usage unix.Rusage
	x := 0
	for end := usageOf(t, &usage) + 200*time.Millisecond; usageOf(t, &usage) < end; x++ {
	}
	after, err := CPU(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	if used := after - before; used < 150*time.Millisecond || used > time.Second {
		t.Errorf("used %v after %d rounds, want about 200ms", used, x)
	}
}

func usageOf(t *testing.T, u *unix.Rusage) time.Duration {
	t.Helper()
	if err := unix.Getrusage(unix.RUSAGE_SELF, u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// A peak is at least what is there, and begins anew when it is reset.
func TestPeak(t *testing.T) {
	hold := make([]byte, 64<<20)
	for i := range hold {
		hold[i] = 1
	}
	_, high, err := RSS(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	if high < int64(len(hold)) {
		t.Errorf("the peak is %d, though %d bytes are in use", high, len(hold))
	}
	if err := ResetPeak(os.Getpid()); err != nil {
		t.Fatal(err)
	}
	now, peak, err := RSS(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	if peak < now || peak > high+16<<20 {
		t.Errorf("after the reset the peak is %d, in use %d, the peak before %d", peak, now, high)
	}
}

// A child is found by its program, and runs where it is pinned.
func TestPin(t *testing.T) {
	sleep := exec.Command("sleep", "60")
	if err := sleep.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = sleep.Process.Kill()
		_ = sleep.Wait()
	}()
	if err := Pin(sleep.Process.Pid, []int{0}); err != nil {
		t.Fatal(err)
	}
	var set unix.CPUSet
	if err := unix.SchedGetaffinity(sleep.Process.Pid, &set); err != nil {
		t.Fatal(err)
	}
	if set.Count() != 1 || !set.IsSet(0) {
		t.Errorf("pinned to %d CPUs", set.Count())
	}
	children, err := Children()
	if err != nil {
		t.Fatal(err)
	}
	found := false
	for _, pids := range children { // its program may be a multi-call binary
		found = found || slices.Contains(pids, sleep.Process.Pid)
	}
	if !found {
		t.Errorf("the child is not among %v", children)
	}
}

// The kernel's part of the CPU time is what the kernel says elsewhere, to the step in which /proc counts.
func TestSystem(t *testing.T) {
	for range 20_000 {
		if _, err := os.Stat("/proc/self"); err != nil {
			t.Fatal(err)
		}
	}
	system, err := System(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	var usage unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &usage); err != nil {
		t.Fatal(err)
	}
	if d := time.Duration(usage.Stime.Nano()) - system; d < -30*time.Millisecond || d > 30*time.Millisecond {
		t.Errorf("/proc says %v, the kernel %v", system, time.Duration(usage.Stime.Nano()))
	}
}
