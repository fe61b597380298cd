package e2e

import (
	"fmt"
	"strings"
)

// mesh is a Mesh that has nothing but an mTLS mode, and logs all that it serves.
func mesh(mode string) string {
	return fmt.Sprintf(`
apiVersion: mesh.tulle.dev/v1alpha1
kind: Mesh
metadata: {name: mesh}
spec:
  mtls: {mode: %s}
  observability: {accessLog: {mode: All}}`, mode)
}

// app is a Deployment of the sample's program with a Service and a service account of its name.
type app struct {
	name     string
	replicas int
	// args of the program; its name without any.
	args []string
	// lingers says that the program itself goes on for a while when it is told to stop, and that no preStop hook has it wait.
	lingers bool
	// init has the arguments of an init container, which comes before.
	init []string
}

// manifest returns the app's objects.
func (a app) manifest() string {
	return fmt.Sprintf(`
apiVersion: v1
kind: ServiceAccount
metadata: {name: %[1]s}
---
apiVersion: v1
kind: Service
metadata: {name: %[1]s}
spec:
  selector: {app: %[1]s}
  ports: [{name: http, port: 9080, targetPort: http}]
---
`, a.name) + a.deployment()
}

// deployment returns the app's Deployment alone.
func (a app) deployment() string {
	return fmt.Sprintf(`
apiVersion: apps/v1
kind: Deployment
metadata: {name: %[1]s}
spec:
  replicas: %[2]d
  selector: {matchLabels: {app: %[1]s}}
  template:
    metadata: {labels: {app: %[1]s}}
    spec:
      serviceAccountName: %[1]s%[4]s
      containers:
      - name: app
        image: tulle.dev/bookinfo:dev
        imagePullPolicy: IfNotPresent
        args: [%[3]s]
        ports: [{name: http, containerPort: 9080}]
        readinessProbe: {httpGet: {path: /healthz, port: http}, periodSeconds: 1}%[5]s`,
		a.name, max(a.replicas, 1), list(a.argsOrName()), initContainer(a.init), a.hook())
}

// hook has a pod wait before it ends, so that clients learn of it first.
func (a app) hook() string {
	if a.lingers {
		return ""
	}
	return `
        lifecycle: {preStop: {sleep: {seconds: 3}}}`
}

func (a app) argsOrName() []string {
	if len(a.args) > 0 {
		return a.args
	}
	return []string{a.name}
}

// job is a Job that runs the sample's program once.
func job(name string, completions int, init []string, args ...string) string {
	return fmt.Sprintf(`
apiVersion: batch/v1
kind: Job
metadata: {name: %[1]s}
spec:
  backoffLimit: 0
  completions: %[2]d
  parallelism: 4
  template:
    metadata: {labels: {app: %[1]s}}
    spec:
      restartPolicy: Never%[3]s
      containers:
      - {name: app, image: "tulle.dev/bookinfo:dev", imagePullPolicy: IfNotPresent, args: [%[4]s]}`,
		name, completions, initContainer(init), list(args))
}

// loadgen is a load generator that sends to url when it is told to.
func loadgen(url string) app {
	return app{name: "loadgen", args: []string{"loadgen", "-rate=0", "-url=" + url}}
}

// initContainer returns the lines of a pod's spec for an init container with these arguments; none without arguments.
func initContainer(args []string) string {
	if len(args) == 0 {
		return ""
	}
	return fmt.Sprintf(`
      initContainers:
      - {name: first, image: "tulle.dev/bookinfo:dev", imagePullPolicy: IfNotPresent, args: [%s]}`, list(args))
}

// list quotes values as items of a YAML list.
func list(values []string) string {
	quoted := make([]string, len(values))
	for i, value := range values {
		quoted[i] = fmt.Sprintf("%q", value)
	}
	return strings.Join(quoted, ", ")
}
