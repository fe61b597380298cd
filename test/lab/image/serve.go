package image

import (
	"context"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"time"

	"github.com/google/go-containerregistry/pkg/registry"
)

// Serve serves a registry without TLS, whose content is in memory, until ctx ends. It is for tests.
func Serve(ctx context.Context, listener net.Listener) error {
	quiet := log.New(io.Discard, "", 0)
	server := &http.Server{Handler: registry.New(registry.Logger(quiet)), ReadHeaderTimeout: 10 * time.Second, ErrorLog: quiet}
	defer context.AfterFunc(ctx, func() { server.Close() })()
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
