# Tulle. `make help` lists what there is.
#
# Go is assumed. All else is built or fetched by what needs it, and says so.

SHELL := /bin/sh
.SHELLFLAGS := -ec
.DEFAULT_GOAL := help

# The operator's image, and what builds it.
IMAGE ?= tulle.dev/operator:dev
CONTAINER_TOOL ?= docker

# Where generated files go; `make verify` generates them elsewhere and compares.
OUT ?= .

CONTROLLER_GEN := go tool -modfile=tools/controller-gen/go.mod controller-gen
KUSTOMIZE      := go tool -modfile=tools/kustomize/go.mod kustomize
GOLANGCI_LINT  := go tool -modfile=tools/golangci-lint/go.mod golangci-lint

# The lab's program: builds Envoy, Kubernetes and cert-manager, and runs them as a cluster. Its targets are in lab.mk.
LAB := bin/lab

# Without gRPC's traces, and so without templates, which call methods by name: the linker then keeps only what is called, and the operator's
# memory is 18 MB less.
TAGS := grpcnotrace

# Packages of API types, whose deep copies are generated.
APIS := api/v1alpha1 api/smi/access/v1alpha3 api/smi/specs/v1alpha4 api/smi/split/v1alpha4

# What needs real Envoys, an API server or a cluster has a target of its own. The rest is quick.
NEEDS_MORE := test/(envoy|integration|e2e|bench|lab)

##@ General

.PHONY: help
help: ## Show this help.
	@awk 'BEGIN {FS = ":.*## "} \
	  /^##@ / {printf "\n%s\n", substr($$0, 5)} \
	  /^[a-z][a-zA-Z0-9_-]*:.*## / {printf "  %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

##@ Demo

.PHONY: demo
demo: $(LAB) ## Show Tulle at work on a real cluster: the lab, or that of KUBECONFIG (with REGISTRY to push images to).
	@go run ./test/demo

.PHONY: demo-metrics
demo-metrics: $(LAB) ## Leave the demo and its Prometheus running, and say how to ask it.
	@go run ./test/demo metrics

.PHONY: demo-down
demo-down: $(LAB) ## Remove what the demo made.
	@go run ./test/demo down

##@ Build

.PHONY: build
build: ## Build the operator, the init container's program and the command-line tool (also as kubectl's plugin) into bin/.
	CGO_ENABLED=0 go build -trimpath -tags $(TAGS) -o bin/ ./cmd/...
	ln -f bin/tulle bin/kubectl-tulle

.PHONY: image
image: ## Build the operator's image, IMAGE.
	$(CONTAINER_TOOL) build -t $(IMAGE) .

.PHONY: generate
generate: ## Generate deep copies, the CRD, all of dist and the OLM bundle.
	@mkdir -p $(addprefix $(OUT)/,$(APIS)) $(OUT)/config/crd/bases $(OUT)/dist $(OUT)/bundle/manifests
	for api in $(APIS); do $(CONTROLLER_GEN) object paths=./$$api output:object:dir=$(OUT)/$$api; done
	$(CONTROLLER_GEN) crd paths=./api/v1alpha1 output:crd:dir=$(OUT)/config/crd/bases
	$(KUSTOMIZE) build config/default > $(OUT)/dist/install.yaml
	go run ./internal/monitoring/generate -out $(OUT)/dist
	rm -f $(OUT)/bundle/manifests/*
	$(KUSTOMIZE) build config/bundle -o $(OUT)/bundle/manifests

##@ Check

.PHONY: check
check: fmt vet verify lint ## All that can be checked without running Tulle.

.PHONY: fmt
fmt: ## Check that the Go code is formatted.
	@unformatted="$$(gofmt -l $$(git ls-files --cached --others --exclude-standard '*.go'))"; \
	if [ -n "$$unformatted" ]; then echo "not formatted (run gofmt -w on them):"; echo "$$unformatted"; exit 1; fi

.PHONY: vet
vet: ## Run go vet.
	go vet ./...
	go -C test/lab vet ./...
	go -C test/bench/fortio vet ./...

GENERATED := $(addsuffix /zz_generated.deepcopy.go,$(APIS)) config/crd/bases dist bundle/manifests

.PHONY: verify
verify: ## Check that generated files are current.
	@dir="$$(mktemp -d)"; trap 'rm -rf "$$dir"' EXIT; \
	$(MAKE) --no-print-directory generate OUT="$$dir" >"$$dir/log" 2>&1 || { cat "$$dir/log"; exit 1; }; \
	for path in $(GENERATED); do \
	  diff -ru "$$path" "$$dir/$$path" || { echo "$$path is not current: run make generate and commit what changed"; exit 1; }; \
	done; \
	echo "generated files are current"

.PHONY: lint
lint: ## Run golangci-lint, which also holds the import rules.
	$(GOLANGCI_LINT) run
	for module in test/lab test/bench/fortio; do \
	  (cd $$module && go tool -modfile=$(CURDIR)/tools/golangci-lint/go.mod golangci-lint run); \
	done

##@ Test

# Always run: go build knows better than make whether it is current.
.PHONY: $(LAB)
$(LAB):
	@go -C test/lab build -o $(CURDIR)/$(LAB) .

STAGES := check unit test-rules test-envoy test-integration test-lab test-demo test-e2e

.PHONY: test
test: ## Run all tests: check, unit and goldens, real Envoys, a real API server, the lab, a real cluster.
	@began=$$(date +%s); summary=""; \
	for stage in $(STAGES); do \
	  printf '\n=== %s\n' "$$stage"; start=$$(date +%s); \
	  if $(MAKE) --no-print-directory $$stage; then result=passed; else result=FAILED; fi; \
	  line="$$(printf '%-18s %s  %4d s' "$$stage" "$$result" $$(( $$(date +%s) - start )))"; \
	  printf '=== %s\n' "$$line"; summary="$$summary$$line\n"; \
	done; \
	printf "\n$$summary%-18s         %4d s\n" total $$(( $$(date +%s) - began )); \
	case "$$summary" in *FAILED*) exit 1;; esac

.PHONY: unit
unit: ## Unit, golden, script and property tests, with the race detector.
	go test -race $$(go list ./... | grep -vE '/$(NEEDS_MORE)(/|$$)')
	go -C test/lab test ./...

.PHONY: test-rules
test-rules: $(LAB) ## Rules and all queries of dashboards and metric templates, by Prometheus's own promtool.
	$(LAB) build prometheus
	@promtool="$$($(LAB) path prometheus)/promtool"; \
	"$$promtool" check rules --lint=all --lint-fatal dist/prometheus-rules.yaml; \
	"$$promtool" test rules test/rules/*.yaml; \
	go run ./internal/monitoring/generate -queries -as-rules | "$$promtool" check rules --lint=none

# Of what may run in parallel, five at a time: each Envoy takes four inotify instances, of which Linux lets a user have 128.
.PHONY: test-envoy
test-envoy: $(LAB) ## Traffic through real Envoys of each supported minor, in network namespaces (needs root).
	$(LAB) build envoy
	TULLE_ENVOY_1_40="$$($(LAB) path envoy-1.40.0)/envoy" \
	TULLE_ENVOY_1_39="$$($(LAB) path envoy-1.39.3)/envoy" \
	TULLE_ENVOY_1_38="$$($(LAB) path envoy-1.38.3)/envoy" \
	go test -count=1 -parallel 5 -timeout 30m ./test/envoy/...

.PHONY: test-integration
test-integration: $(LAB) ## Controllers and webhooks against a real API server, etcd and cert-manager.
	$(LAB) build apiserver certmanager prometheus-operator
	KUBEBUILDER_ASSETS="$$($(LAB) path apiserver)" \
	TULLE_CERTMANAGER="$$($(LAB) path certmanager)" \
	TULLE_MONITORING_CRDS="$$($(LAB) path prometheus-operator)/crds" \
	go test -race -count=1 -p 1 -timeout 20m ./test/integration/...

.PHONY: test-e2e
test-e2e: $(LAB) ## The demo's claims on a real cluster: a lab of its own (needs root), or that of KUBECONFIG.
	@own=; if [ -z "$$KUBECONFIG" ]; then own=1; \
	  TULLE_STATE="$$(mktemp -d)"; export TULLE_STATE; trap '$(LAB) down; rm -rf "$$TULLE_STATE"' EXIT; \
	fi; \
	go run ./test/demo install; go run ./test/demo previous; \
	if [ -n "$$own" ]; then eval "$$($(LAB) env)"; fi; \
	go test -count=1 -parallel 4 -timeout $(E2E_TIMEOUT) $(E2E_FLAGS) ./test/e2e/...

E2E_TIMEOUT := 35m

# An hour of it, with the lifetimes that it stands for.
.PHONY: soak
soak: ## Rotate ten-minute certificates for an hour under load, on a cluster as test-e2e has it (70 min).
	TULLE_CERTIFICATE_LIFETIME=10m $(MAKE) --no-print-directory test-e2e E2E_TIMEOUT=100m E2E_FLAGS='-v -run ^TestCertificatesUnderPressure$$$$'

.PHONY: test-demo
test-demo: $(LAB) ## The demo on a cluster of which it knows KUBECONFIG and a registry only; the lab plays that cluster (needs root).
	@TULLE_STATE="$$(mktemp -d)"; export TULLE_STATE; trap '$(LAB) down; rm -rf "$$TULLE_STATE"' EXIT; \
	$(LAB) up; \
	$(LAB) load "$$($(LAB) image envoy --name docker.io/envoyproxy/envoy:distroless-v1.40.0)"; \
	$(LAB) exec -- go test -tags lab -count=1 -timeout 10m -v -run TestGivenCluster ./test/demo

# A fuzzer's findings are written to its package's testdata/fuzz; commit them with the fix. `make unit` runs all that is kept there.
FUZZTIME ?= 30s

.PHONY: fuzz
fuzz: ## Fuzz each target for FUZZTIME: what users and proxies send.
	@for target in $$(grep -rhoE --include='*_test.go' '^func Fuzz[A-Za-z]+' internal webhooks | cut -c6- | sort -u); do \
	  package="$$(dirname "$$(grep -rlE --include='*_test.go' "^func $$target\(" internal webhooks | head -1)")"; \
	  echo "=== $$package $$target"; go test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 100x "./$$package"; \
	done

# What the goals are measured with. BENCH_FLAGS: see go run ./test/bench/controlplane -help; -scale 50 tries it out in a minute or two.
BENCH_FLAGS ?=
# Where results go. A trial (BENCH_FLAGS with -scale, MICRO_FLAGS) goes elsewhere, or it replaces what docs/performance has.
BENCH_OUT ?= docs/performance
MICRO_FLAGS ?=

.PHONY: bench-controlplane
bench-controlplane: $(LAB) build ## Measure the control plane with simulated sidecars, against a real API server (20 min).
	$(LAB) build apiserver certmanager
	@mkdir -p "$(BENCH_OUT)"
	KUBEBUILDER_ASSETS="$$($(LAB) path apiserver)" TULLE_CERTMANAGER="$$($(LAB) path certmanager)" \
	go run ./test/bench/controlplane -out "$(BENCH_OUT)/controlplane.json" $(BENCH_FLAGS)
	$(MAKE) bench-report

# A module of its own, for the bench alone.
.PHONY: bin/fortio
bin/fortio:
	@go -C test/bench/fortio build -o $(CURDIR)/bin/fortio .

# One run, whatever the machine: -benchtime 1x.
BENCH_DATAPLANE = TULLE_ENVOY_1_40="$$($(LAB) path envoy-1.40.0)/envoy" \
	go test -count=1 -run '^$$' -bench '^BenchmarkDataPlane$$' -benchtime 1x -timeout 40m ./test/bench/dataplane

.PHONY: bench-dataplane
bench-dataplane: $(LAB) bin/fortio ## Measure what sidecars cost beside stock Envoys, with fortio (12 min; needs root).
	$(LAB) build envoy
	@mkdir -p docs/performance
	TULLE_BENCH_OUT=$(CURDIR)/docs/performance/dataplane.json $(BENCH_DATAPLANE)
	$(MAKE) bench-report

.PHONY: bench-report
bench-report: ## Make docs/performance.md and its plots from the results that are there.
	go run ./test/bench/report

.PHONY: bench-micro
bench-micro: ## Measure the control plane's parts as a ratio to the commit in docs/performance/baseline (5 min).
	go run ./test/bench/micro -out "$(BENCH_OUT)/micro.json" $(MICRO_FLAGS)
	$(MAKE) bench-report

.PHONY: bench
bench: bench-controlplane bench-micro bench-dataplane bench-envoy ## Measure everything (an hour; needs root).

# Nothing of this is kept: sizes are too small for the goals.
.PHONY: bench-quick
bench-quick: $(LAB) build bin/fortio ## Show regressions in a few minutes: the parts as a ratio to the recorded commit, and both planes' cases in small (needs root).
	$(LAB) build apiserver certmanager envoy
	go run ./test/bench/micro -rounds 2 -benchtime 50ms
	KUBEBUILDER_ASSETS="$$($(LAB) path apiserver)" TULLE_CERTMANAGER="$$($(LAB) path certmanager)" \
	go run ./test/bench/controlplane -scale 50 -changes 20 -rounds 1 -load 10s -timeout 5m
	TULLE_BENCH_QUICK=1 $(BENCH_DATAPLANE)

.PHONY: bench-envoy
bench-envoy: $(LAB) ## Measure what the mesh costs an application, on real Envoys (needs root).
	$(LAB) build envoy
	go test -run '^$$' -bench . -timeout 30m ./test/bench

-include test/lab/lab.mk
