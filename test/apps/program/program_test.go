package program

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"syscall"
	"testing"
)

func TestExit(t *testing.T) {
	for name, c := range map[string]struct {
		run  func(context.Context, []string, io.Writer) error
		code int
		out  string
		errs string
	}{
		"done": {func(_ context.Context, args []string, out io.Writer) error {
			fmt.Fprint(out, args)
			return nil
		}, 0, "[a b]", ""},
		"help":  {func(context.Context, []string, io.Writer) error { return flag.ErrHelp }, 0, "", ""},
		"error": {func(context.Context, []string, io.Writer) error { return errors.New("no such node") }, 1, "", "trouble: no such node\n"},
		"told to end": {func(ctx context.Context, _ []string, out io.Writer) error {
			if err := syscall.Kill(os.Getpid(), syscall.SIGTERM); err != nil {
				return err
			}
			<-ctx.Done()
			fmt.Fprint(out, "mended")
			return nil
		}, 0, "mended", ""},
	} {
		var out, errs bytes.Buffer
		if code := exit("trouble", c.run, []string{"a", "b"}, &out, &errs); code != c.code || out.String() != c.out || errs.String() != c.errs {
			t.Errorf("%s: exit code %d, output %q, errors %q", name, code, &out, &errs)
		}
	}
}
