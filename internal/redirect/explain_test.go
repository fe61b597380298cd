package redirect

import (
	"strings"
	"syscall"
	"testing"
)

func TestErrorsNameTheRemedy(t *testing.T) {
	for err, want := range map[error]string{
		syscall.EPERM:           "NET_ADMIN",
		syscall.EPROTONOSUPPORT: "nf_tables",
		syscall.EOPNOTSUPP:      "nft_redir",
		syscall.ENOENT:          "nft_reject_inet",
	} {
		if got := explain("write the table", err).Error(); !strings.Contains(got, want) || !strings.Contains(got, err.Error()) {
			t.Errorf("explain(%v) = %q, want %q in it", err, got, want)
		}
	}
}
