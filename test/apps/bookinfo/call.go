package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
)

// forwarded are the headers that a service passes on: the user, and what ties the spans of a trace together.
var forwarded = [...]string{"end-user", "x-request-id", "traceparent", "tracestate"}

// problem is the body of a response that is not a success.
type problem struct {
	ServedBy identity `json:"servedBy"`
	Error    string   `json:"error"`
}

// statusError is an answer other than 200.
type statusError struct {
	url    string
	status int
	body   string
}

func (e *statusError) Error() string {
	return fmt.Sprintf("GET %s: %d %s: %s", e.url, e.status, http.StatusText(e.status), e.body)
}

// caller calls other services on behalf of a request.
type caller struct{ client http.Client }

func newCaller() *caller {
	transport := &http.Transport{MaxIdleConnsPerHost: 64, IdleConnTimeout: 60 * time.Second}
	return &caller{client: http.Client{Transport: transport, Timeout: 5 * time.Second}}
}

// get decodes the JSON at url into out, with the forwarded headers of the request that it is part of.
func (c *caller) get(ctx context.Context, header http.Header, url string, out any) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	for _, name := range forwarded {
		if value := header.Get(name); value != "" {
			request.Header.Set(name, value)
		}
	}
	response, err := c.client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, 1<<20))
	if err != nil {
		return fmt.Errorf("GET %s: %w", url, err)
	}
	if response.StatusCode != http.StatusOK {
		return &statusError{url: url, status: response.StatusCode, body: firstLine(body)}
	}
	if err := json.Unmarshal(body, out); err != nil {
		return fmt.Errorf("GET %s: %w", url, err)
	}
	return nil
}

func firstLine(body []byte) string {
	var p problem
	if json.Unmarshal(body, &p) == nil && p.Error != "" {
		return p.Error
	}
	line, _, _ := strings.Cut(strings.TrimSpace(string(body)), "\n")
	if len(line) > 200 {
		line = line[:200]
	}
	return line
}
