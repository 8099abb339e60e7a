# Two commands do everything on a fresh machine: `make demo` and `make test`. Both need Rust, Go, make and a Debian or
# Ubuntu with root or sudo; everything else is installed or built here and kept in the cache directory.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

export FINETUNE_CACHE ?= $(HOME)/.cache/finetune-operator
export CARGO_TARGET_DIR ?= $(FINETUNE_CACHE)/target
# One target and one set of flags for programs and tests, so that each dependency is compiled once. Static, since the image has no libc.
export CARGO_BUILD_TARGET ?= $(shell rustc -vV | sed -n 's/^host: //p')
export RUSTFLAGS ?= -C target-feature=+crt-static
export FINETUNE_PROGRAMS = $(CARGO_TARGET_DIR)/$(CARGO_BUILD_TARGET)/release

.PHONY: help build image demo down test test-unit test-differential test-runtime test-e2e bench lint

help: ## this list
	@sed -n 's/^\([a-z0-9-]*\):.*## \(.*\)/make \1\t\2/p' $(MAKEFILE_LIST) | column -ts $$'\t'

build: $(FINETUNE_CACHE) ## the test bed, the operator's programs and the trainer's environment
	@began=$$SECONDS; bash testbed/build.sh > $(FINETUNE_CACHE)/testbed.path; echo "the test bed is built: $$((SECONDS - began)) s"
	@began=$$SECONDS; bash runtimes/llm-foundry/environment.sh > $(FINETUNE_CACHE)/trainer.path; echo "the trainer's environment is ready: $$((SECONDS - began)) s"
	@began=$$SECONDS; bash testbed/base-image.sh > $(FINETUNE_CACHE)/base.path; echo "the base image is ready: $$((SECONDS - began)) s"
	@began=$$SECONDS; cargo build --release --locked --bins --example demo; echo "the operator is built: $$((SECONDS - began)) s"

$(FINETUNE_CACHE):
	@mkdir -p $@

# What the demo and the tests need to know of what was built.
PATHS = export FINETUNE_TESTBED="$$(cat $(FINETUNE_CACHE)/testbed.path)" FINETUNE_TRAINER="$$(cat $(FINETUNE_CACHE)/trainer.path)" FINETUNE_BASE="$$(cat $(FINETUNE_CACHE)/base.path)"

IMAGE ?= finetune-operator:$(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -1)
BUILDER ?= docker

image: ## the operator's image for a cluster of yours: IMAGE=REGISTRY/NAME:TAG, BUILDER=docker, podman or buildah
	cargo build --profile dist --locked --bins
	@context=$$(mktemp -d); trap 'rm -rf "$$context"' EXIT; \
	cp Containerfile $(CARGO_TARGET_DIR)/$(CARGO_BUILD_TARGET)/dist/finetune-{operator,preflight} "$$context"; \
	cp -L /etc/ssl/certs/ca-certificates.crt "$$context"; \
	$(BUILDER) build --file "$$context/Containerfile" --tag "$(IMAGE)" "$$context"

demo: build ## five runs on a real cluster on this machine, shown live
	@$(PATHS); $(FINETUNE_PROGRAMS)/examples/demo

down: ## end the demo's cluster and remove all that it left
	@$(PATHS); "$$FINETUNE_TESTBED" down --name demo

test: build ## all tests, end to end ones with real training among them
	@$(MAKE) --no-print-directory test-unit test-differential test-runtime test-e2e

test-unit: ## unit, property, golden and fuzz tests (FUZZ_SECONDS for each parser), hostile files, chart and examples, admission against a real API server, places against a real S3 server
	@$(PATHS); cargo test --release --locked --lib --bins --test admission --test chart --test crds --test documents --test examples --test fuzz --test hostile --test places --test replica

test-differential: ## the data path beside the engine's own code, on the same input
	@$(PATHS); cargo test --release --locked --test differential

test-runtime: ## the trainer's package
	@$(PATHS); bash runtimes/llm-foundry/test.sh

test-e2e: ## runs on a real cluster with real training
	@$(PATHS); cargo test --release --locked --test e2e

bench: build ## what the README's numbers come from
	@$(PATHS); cargo bench --locked --bench data --bench operator --bench reports

lint: ## clippy, formatting, licences and sources of dependencies
	cargo clippy --release --locked --all-targets -- -D warnings
	cargo fmt --check
	cargo deny --locked check bans licenses sources
