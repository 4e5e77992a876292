# The words are the same for a person and for continuous integration.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
TARGET := $(or $(CARGO_TARGET_DIR),target)

.PHONY: help demo lab test test-e2e test-swarm swarm-times sim-long bench fuzz docs install-engines install-test-deps

help: ## What there is
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 24

# A debug build: from clean it takes under five minutes of processor time, half of that on two cores, and what the
# demonstration shows is waiting for disks and engines, not for us. `make demo RELEASE=1` builds and shows what ships.
demo: ## Kill a node under a database and watch the member come back as itself (KEEP=1 leaves it running)
	@scripts/install-packages cc $(if $(ENGINE),$(ENGINE),redis postgresql)
	cargo build --locked $(if $(RELEASE),--release) --package steadfast
	@KEEP=$(KEEP) "$(TARGET)/$(if $(RELEASE),release,debug)/steadfast" demo $(if $(ENGINE),--engine $(ENGINE))

# Root alone makes machines: sudo is asked for where it is another user who builds.
lab: ## Three machines of a private cloud on this one, to try things on (scripts/lab down ends them)
	@scripts/install-packages cc protoc etcd netns filesystems redis
	cargo build --locked --package steadfast --features etcd,linux
	@$(if $(filter-out 0,$(shell id -u)),sudo )env STEADFAST="$(TARGET)/debug/steadfast" scripts/lab up

test: install-test-deps ## Everything this machine permits, and a list of what it does not
	@scripts/test

# Clusters of real engines, every process of them killed, stopped and starved. `make test` runs them, too.
test-e2e: install-test-deps ## The end-to-end suites alone: about ten minutes
	cargo build --locked --workspace --bins
	cargo nextest run --locked --package steadfast-workspace --all-features --no-fail-fast

# One Redis on three engines of Docker, and everything that goes wrong there, one after the other, under a client that
# writes all the time. `make test` has the smoke alone.
test-swarm: install-test-deps ## The failures of a Docker Swarm: about twenty minutes (STEADFAST_SCENARIO=drained for some)
	cargo nextest run --locked --package steadfast --all-features --profile swarm --ignore-default-filter \
		--no-capture -E 'binary(/^swarm/)'

# A minute and a half for each; nothing else should run meanwhile.
swarm-times: install-test-deps ## How long a member of a Docker Swarm is away, by phases, beside Swarm's own (RUNS=10)
	STEADFAST_TIMES=$(or $(RUNS),10) cargo nextest run --locked --package steadfast --all-features --profile swarm \
		--ignore-default-filter --no-capture -E 'binary(swarm_times)'

SIM = $(or $(CARGO_TARGET_DIR),target)/sim/steadfast-sim

# `make test` has each site and class in one scenario. Here they are in every one that comes by them, on every profile:
# tens of thousands of runs, hours.
sim-long: ## The simulator for long: every fault at every call, pairs, at random, the repeats (SIM_BUDGET=10m SIM_SEED=2)
	cargo build --locked --profile sim --package steadfast-sim --all-features
	$(SIM) enumerate --every-profile
	$(SIM) enumerate --pairs 2 --fold --budget $(or $(SIM_BUDGET),10m)
	$(SIM) run --budget $(or $(SIM_BUDGET),10m) --seed $(or $(SIM_SEED),2)
	$(SIM) replay sim/plans
	$(SIM) doctor --cases 1000
	$(SIM) mutants

bench: ## The benchmarks (results with the machine named: docs/benchmarks.md)
	cargo bench --locked --workspace

# FUZZ_SECONDS for each target; every failure prints the input that found it.
fuzz: ## The fuzz targets, longer (FUZZ_SECONDS=600)
	scripts/fuzz $(or $(FUZZ_SECONDS),600)

docs: ## The documentation of the code
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --workspace --no-deps --all-features

install-engines:
	@scripts/install-packages redis postgresql zookeeper

install-test-deps:
	@scripts/install-test-deps
