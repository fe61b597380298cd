package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// heap writes what the operator's memory is of, if profiles are wanted.
func (b *bench) heap(ctx context.Context, name string) {
	b.profile(ctx, "heap-"+name, "heap?gc=1")
}

// cpu profiles the operator in the background while something is measured, which that costs a little. The returned function ends with the profile.
func (b *bench) cpu(ctx context.Context, name string, expected time.Duration) (wait func()) {
	if b.profiles == "" {
		return func() {}
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		b.profile(ctx, "cpu-"+name, fmt.Sprintf("profile?seconds=%d", max(1, int(expected.Seconds()))))
	}()
	return func() { <-done }
}

// profile fetches a profile of the operator; that there is none stops no measurement.
func (b *bench) profile(ctx context.Context, name, what string) {
	if b.profiles == "" {
		return
	}
	path := filepath.Join(b.profiles, strings.ReplaceAll(name, " ", "-")+".pb.gz")
	if err := fetch(ctx, b.cluster.Profiles()+what, path); err != nil {
		b.say("%s: %v", path, err)
	}
}

func fetch(ctx context.Context, url, path string) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", url, response.Status)
	}
	if err != nil {
		return err
	}
	return os.WriteFile(path, body, 0o644) //nolint:gosec // nothing secret
}
