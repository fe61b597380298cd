package main

import (
	"log/slog"
	"slices"
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	t.Parallel()
	pod := map[string]string{"POD_NAMESPACE": "tulle-system", "POD_NAME": "tulle-manager-a", "TULLE_IMAGE": "tulle.dev/operator:v1"}
	tests := map[string]struct {
		args []string
		// excluded namespaces; the default when nil.
		excluded []string
		env      map[string]string
		error    string
	}{
		"in its pod":      {env: pod},
		"flags":           {args: []string{"--xds-address=127.0.0.1:1", "--log-level=debug", "--excluded-namespaces=issuers, cni"}, env: pod, excluded: []string{"issuers", "cni"}},
		"no namespace":    {env: map[string]string{"TULLE_IMAGE": "x"}, error: "POD_NAMESPACE is not set"},
		"no pod":          {env: map[string]string{"POD_NAMESPACE": "x", "TULLE_IMAGE": "x"}, error: "POD_NAME is not set"},
		"no image":        {env: map[string]string{"POD_NAMESPACE": "x", "POD_NAME": "x"}, error: "TULLE_IMAGE is not set"},
		"unknown flag":    {args: []string{"--nope"}, env: pod, error: "flag provided but not defined"},
		"not a flag":      {args: []string{"serve"}, env: pod, error: `unexpected argument "serve"`},
		"no quiet time":   {args: []string{"--plaintext-quiet=0s"}, env: pod, error: "it must be longer than 0"},
		"not a log level": {args: []string{"--log-level=loud"}, env: pod, error: "loud"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o, level, err := parse(tt.args, func(key string) string { return tt.env[key] })
			if tt.error != "" {
				if err == nil || !strings.Contains(err.Error(), tt.error) {
					t.Errorf("error %v, want %q", err, tt.error)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if o.Namespace != "tulle-system" || o.PodName != "tulle-manager-a" || o.Image != "tulle.dev/operator:v1" || o.EnvoyImage == "" || o.WebhookAddress != ":9443" {
				t.Errorf("options %+v", o)
			}
			if excluded := []string{"cert-manager"}; !slices.Equal(o.Excluded, tt.excluded) && (tt.excluded != nil || !slices.Equal(o.Excluded, excluded)) {
				t.Errorf("excluded namespaces %q", o.Excluded)
			}
			if flags := len(tt.args) > 0; flags != (o.XDSAddress == "127.0.0.1:1") || flags != (level == slog.LevelDebug) {
				t.Errorf("xDS at %s, level %v", o.XDSAddress, level)
			}
		})
	}
}
