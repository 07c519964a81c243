# See `make help`. ARGS go to the example: make quickstart ARGS="--for 30s"

CARGO ?= cargo
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help quickstart test soak faults faults-table fuzz load check bench bench-full bench-fleet bench-instructions bench-peer bench-picture

help: ## this list
	@sed -n 's/^\([a-z0-9-]*\):.*## /  make \1\t/p' Makefile | expand -t 20

quickstart: ## run an engine on an embedded etcd; options: make quickstart ARGS="--for 30s"
	@scripts/setup
	$(CARGO) run -p examples --example quickstart -- $(ARGS)

# Another server for all tests that use one: make test ETCD=/path/to/etcd
ETCD ?=
export ETCD_RULES_TEST_ETCD := $(if $(ETCD),$(abspath $(ETCD)),etcd)

test: ## run all tests and doctests, on private etcd servers; ETCD=FILE is another server
	@scripts/setup test
	$(CARGO) test --all-features

SCHEDULES ?= 10000
SEED ?=

soak: ## whole engines under random trouble: make soak SCHEDULES=100000 SEED=1
	@scripts/setup
	@CARGO="$(CARGO)" scripts/soak $(SCHEDULES) $(SEED)

SECONDS ?= 60

fuzz: ## attack patterns, conditions, index, watch, answers of etcd and queries with random bytes: make fuzz SECONDS=60
	@scripts/setup
	FUZZ_SECONDS=$(SECONDS) $(CARGO) test --all-features --lib fuzz:: -- --nocapture

load: ## a million keys, a storm, large values and idle connections, on a private etcd: some minutes
	@scripts/setup test
	$(CARGO) test --release --all-features --test load -- --ignored --nocapture

ETCD36 ?= target/etcd36
ROUNDS ?= 1
ONLY ?=
JOBS ?= 1

RESUME ?=

faults: ## everything that goes wrong on real clusters: make faults ROUNDS=20 JOBS=4 RESUME=1; see docs/reliability.md
	@scripts/setup test
	@CARGO="$(CARGO)" FAULTS_ETCD36="$(abspath $(ETCD36))" ROUNDS=$(ROUNDS) SEED=$(SEED) ONLY=$(ONLY) JOBS=$(JOBS) \
		RESUME=$(RESUME) tests/faults/run

faults-table: ## put the table of the last `make faults` into docs/reliability.md
	@tests/faults/write-table

check: ## formatting, lints, documentation
	@scripts/setup test
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --all-features -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --no-deps --all-features

BENCH = $(CARGO) bench -p benches --bench
JSON = --json target/bench.json

bench: ## every goal, on the etcd in the PATH: target/bench.json; about 20 minutes
	@scripts/setup
	$(BENCH) decide -- "1M keys" $(JSON)
	$(BENCH) memory -- $(JSON)
	$(BENCH) embedded -- $(JSON)
	$(BENCH) etcd -- $(JSON) $(ARGS)

bench-fleet: ## one to eight engines as processes, beside one and without owners: target/bench.json; ARGS="costs --server FILE" measures a part, on another server
	@scripts/setup
	$(BENCH) fleet -- $(JSON) $(ARGS)

bench-instructions: ## instructions and allocations a firing, by station, beside those that are kept; needs Valgrind; ARGS=--keep keeps them
	@scripts/setup
	$(BENCH) etcd -- instructions --rounds 3 $(ARGS)

bench-picture: ## the table of target/bench.json in Markdown, and benches/results.svg
	$(BENCH) results -- target/bench.json benches/results.svg

bench-full: target/etcd36 ## all benchmarks, also on a current etcd, which needs Go: target/bench.json
	@scripts/setup
	$(BENCH) decide -- $(JSON)
	$(BENCH) memory -- $(JSON)
	$(BENCH) etcd -- --full $(JSON) $(ARGS)
	$(BENCH) etcd -- --full --server target/etcd36 $(JSON) $(ARGS)
	$(BENCH) fleet -- $(JSON)
	$(BENCH) fleet -- --server target/etcd36 $(JSON)

# The peer's program: build another version of it yourself, and name it. PEER=/path/to/it
PEER ?= target/peer

bench-peer: $(PEER) ## beside go-etcd-rules, which needs Go: target/bench.json; PEER=FILE is a build of your own
	@scripts/setup
	$(BENCH) etcd -- peer --peer "$(abspath $(PEER))" $(JSON) $(ARGS)

target/peer: $(wildcard benches/peers/go-etcd-rules/*)
	mkdir -p target
	cp benches/peers/go-etcd-rules/go.mod target/peer.mod
	cd benches/peers/go-etcd-rules && go build -mod=mod -modfile=../../../target/peer.mod -o ../../../target/peer .

target/etcd-restore36: tests/faults/restore/main.go tests/faults/restore/go.mod
	cd tests/faults/restore && go build -o ../../../target/etcd-restore36 .

target/etcd36: benches/servers/etcd36/main.go benches/servers/etcd36/go.mod
	cd benches/servers/etcd36 && go build -o ../../../target/etcd36 .
