package main

import (
	"bytes"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/tulle-mesh/tulle/test/netns"
)

// asInit makes the test binary behave like tulle-init.
const asInit = "TULLE_TEST_AS_INIT"

func TestMain(m *testing.M) {
	if os.Getenv(asInit) != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

// start runs tulle-init as a user in a network namespace of its own.
func start(t *testing.T, uid uint32, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	ns, err := netns.New()
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	var out, errs bytes.Buffer
	// The test's own binary may lie where only root reads.
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Env = []string{asInit + "=1"}
	cmd.Stdout, cmd.Stderr = &out, &errs
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	if err := ns.Start(cmd); err != nil {
		t.Fatal(err)
	}
	err = cmd.Wait()
	return out.String(), errs.String(), err
}

func TestSaysWhatItDid(t *testing.T) {
	out, errs, err := start(t, 0, "-exclude-inbound-ports=9090,9091")
	want := "tulle-init: TCP of this pod goes through its proxy: 17 rules in nftables table inet tulle, read back; IPv4 and IPv6\n"
	if err != nil || out != want {
		t.Errorf("stdout %q, stderr %q, error %v; want %q", out, errs, err, want)
	}
}

func TestNamesTheRemedy(t *testing.T) {
	for _, c := range []struct {
		name string
		uid  uint32
		args []string
		want string
	}{
		{"no NET_ADMIN", 65534, nil, "needs the capability NET_ADMIN"},
		{"bad port", 0, []string{"-exclude-outbound-ports=80,70000"}, `port "70000": must be a number from 1 to 65535`},
		{"argument", 0, []string{"apply"}, `unexpected argument "apply"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			out, errs, err := start(t, c.uid, c.args...)
			if err == nil || out != "" || !strings.Contains(errs, c.want) {
				t.Errorf("stdout %q, stderr %q, error %v; want exit 1 and %q", out, errs, err, c.want)
			}
		})
	}
}
