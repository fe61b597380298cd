package operator

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

// residentProgram returns how much of files this process has in memory, in kilobytes.
func residentProgram(t *testing.T) int {
	t.Helper()
	raw, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(raw)) {
		var kilobytes int
		if _, err := fmt.Sscanf(line, "RssFile: %d kB", &kilobytes); err == nil {
			return kilobytes
		}
	}
	t.Fatal("/proc/self/status has no RssFile")
	return 0
}

func TestPagesOfTheProgramAreGivenBack(t *testing.T) {
	before := residentProgram(t)
	if err := releaseProgram(); err != nil {
		t.Fatal(err)
	}
	if after := residentProgram(t); after >= before {
		t.Errorf("%d kB of files are in memory, %d before", after, before)
	}
}
