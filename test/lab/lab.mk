# The lab: a real one-node Kubernetes cluster in namespaces of its own.
# docs/lab.md tells how to use it. $(LAB) is built by the Makefile that
# includes this one.

##@ Lab

.PHONY: lab
lab: $(LAB) ## Start a real one-node cluster (needs root). The first time, it is built: 10 to 15 minutes.
	@$(LAB) up

.PHONY: lab-down
lab-down: $(LAB) ## Remove the lab with every trace of it.
	@$(LAB) down

.PHONY: lab-status
lab-status: $(LAB) ## Show what runs in the lab, and where its logs are.
	@$(LAB) status

.PHONY: lab-env
lab-env: $(LAB) ## Print shell lines that make the lab the current cluster: eval "$(make -s lab-env)".
	@$(LAB) env

.PHONY: lab-exec
lab-exec: $(LAB) ## Run a shell command inside the lab's namespaces: make lab-exec CMD='ip address'.
	@: "$${CMD:?say what to run, for example: make lab-exec CMD='ip address'}"; $(LAB) exec -- sh -c "$$CMD"

.PHONY: lab-load
lab-load: $(LAB) ## Import an image archive into the lab: make lab-load IMAGE=app.tar.
	@test -n "$(filter command environment,$(firstword $(origin IMAGE)))" || { echo "say which archive, for example: make lab-load IMAGE=app.tar" >&2; exit 2; }; \
	$(LAB) load "$$IMAGE"

.PHONY: lab-build
lab-build: $(LAB) ## Build what the lab is made of, where it is not in the cache.
	@$(LAB) build

.PHONY: test-lab
test-lab: $(LAB) ## Start labs and kill them in every phase; nothing may be left (needs root).
	$(LAB) build
	go -C test/lab test -tags lab -count=1 -timeout 30m ./systemtest
