# Everything a person or CI does with the tree. "make" alone shows the list.

# The linter is run by version and stands in no go.mod: its hundreds of modules
# are not Ringfence's.
GOLANGCI := github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0
# So is the reference implementation of Rego, of the version that go.mod has.
OPA      := go run github.com/open-policy-agent/opa@$(shell go list -m -f '{{.Version}}' github.com/open-policy-agent/opa)
SUDO     := $(if $(filter 0,$(shell id -u)),,sudo)
IMAGE    ?= ringfence:dev
CMD      ?= $(SHELL)
SHELL_FILES := $(wildcard scripts/*) .ci/run

.PHONY: help
help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: deps
deps: ## install what building and testing needs (Debian, Ubuntu)
	scripts/deps

.PHONY: build
build: ## build the programs into bin/
	CGO_ENABLED=0 go build -trimpath -o bin/ ./cmd/...

.PHONY: run
run: build ## run CMD in a sandbox (default: a shell)
	$(SUDO) bin/ringfence run -- $(CMD)

.PHONY: demo
demo: ## show the fence at work, offline, in a minute
	scripts/demo

.PHONY: test
test: ## run all tests, as root, with the race detector
	scripts/test

.PHONY: test-vm
test-vm: ## run the kernel tests on Linux 6.1 and 6.12, in virtual machines
	scripts/test-vm

.PHONY: test-short
test-short: ## run the tests that need neither root nor BPF
	go test -short ./...

.PHONY: fuzz
fuzz: ## run every fuzz target for a minute, one at a time (FUZZTIME)
	scripts/fuzz

.PHONY: chaos
chaos: ## break everything at once for LASTING (default 30m), as root
	scripts/chaos $(LASTING)

.PHONY: bench
bench: ## run the benchmarks, as root
	scripts/bench

.PHONY: lint
lint: ## run the linters
	go run $(GOLANGCI) run
	shellcheck $(SHELL_FILES)
	go test ./internal/lint
	$(OPA) check --strict policies/*.rego
	$(OPA) fmt --list --fail policies
	$(OPA) test --coverage --threshold 100 policies/*.rego >/dev/null

.PHONY: generate
generate: ## compile bpf/ and the API's protocol, and generate their Go side
	scripts/generate

.PHONY: check-generated
check-generated: ## check that generated files are those of the sources
	scripts/check-generated

.PHONY: docker
docker: ## build the agent's image
	docker build --tag $(IMAGE) .

.PHONY: clean
clean: ## remove what was built
	rm -rf bin dist
