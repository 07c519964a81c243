# See `make help`. ARGS go to the example: make quickstart ARGS="--for 30s"

CARGO ?= cargo
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help quickstart test check

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## /  make \1\t/p' Makefile | expand -t 20

quickstart: ## run an engine on an embedded etcd; options: make quickstart ARGS="--for 30s"
	@scripts/setup
	$(CARGO) run --release --example quickstart -- $(ARGS)

test: ## run all tests and doctests, on private etcd servers
	@scripts/setup test
	$(CARGO) test --all-features

check: ## formatting, lints, documentation
	@scripts/setup test
	$(CARGO) fmt --check
	$(CARGO) clippy --all-targets --all-features -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --no-deps --all-features
