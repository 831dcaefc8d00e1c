# `make` alone lists what there is. Everything is installed into .venv from requirements.lock, whose hashes are checked.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3.13 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

# Many tests start processes of their own. Where the environment forbids to keep bytecode, each of them would compile the whole project first.
unexport PYTHONDONTWRITEBYTECODE

# Most tests wait for slots, polls and time-outs: a few at once pay even on two cores. Those marked `alone` take the machine for themselves.
WORKERS ?= 4
PARALLEL := $(BIN)/pytest -q -n $(WORKERS) --dist worksteal
# Both passes always run, unless the first was interrupted or broken; the worse one decides.
TWO_PASSES = first=0; $(PARALLEL) -m "not alone" $(1) || first=$$?; test $$first -le 1 || exit $$first; \
	$(BIN)/pytest -q -m alone $(1) && exit $$first

.PHONY: help setup check test unit integration faults torture test-node load simulate bench demo lock clean

help: ## list the verbs
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  \033[1mmake %-12s\033[0m %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY) ## install everything into .venv from the lock file

$(READY): requirements.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.11 or later is needed and was not found"; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$(PYTHON) is older than 3.11; run: make PYTHON=/path/to/python3.11"; exit 2; }
	@echo "installing into $(VENV) (once, under a minute on a good line)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements.lock
	@$(BIN)/python -c 'import sysconfig, pathlib; pathlib.Path(sysconfig.get_path("purelib"), "community_voting_indexer.pth").write_text(str(pathlib.Path.cwd()) + "\n")'
	@printf '#!/bin/sh\nexec "$$(dirname "$$0")/python" -m indexer "$$@"\n' > $(BIN)/indexer && chmod +x $(BIN)/indexer
	@touch $@

check: $(READY) ## ruff, mypy --strict, import-linter, the unit tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	@if [ -f programs/community_voting/manifest.json ]; then $(BIN)/python -m programs.community_voting.artifact --check; fi
	$(PARALLEL) tests/unit

test: $(READY) ## the whole suite, on a real PostgreSQL and the real Solana VM (WORKERS=4)
	@$(call TWO_PASSES,tests)

unit: $(READY) ## the unit tests only
	$(PARALLEL) tests/unit

integration: $(READY) ## the integration tests only
	@$(call TWO_PASSES,tests/integration)

SEEDS ?= 30
FIRST ?= 1
faults: $(READY) ## every fault alone and all together, tables against the model (SEEDS=30, FIRST=1)
	@$(BIN)/python -m tests.integration.devnode.campaign --seeds $(SEEDS) --first $(FIRST) --json

demo: $(READY) ## the whole thing moving on this machine (KEEP=1 stays up)
	@$(BIN)/python -m indexer demo $(if $(KEEP),--keep)

torture: $(READY) ## kill, stop, cut, fill up, deadlock under load, and compare everything (KILLS=200 ROUNDS=10 SEED=1)
	@$(BIN)/python -m tests.torture.campaign --kills $(or $(KILLS),200) --rounds $(or $(ROUNDS),10) --seed $(or $(SEED),1)

test-node: $(READY) ## the whole path on a real validator, named by SOLANA_TEST_VALIDATOR
	@test -n "$(SOLANA_TEST_VALIDATOR)" || { echo "SOLANA_TEST_VALIDATOR is not set; run: make test-node SOLANA_TEST_VALIDATOR=/path/to/solana-test-validator"; exit 2; }
	@SOLANA_TEST_VALIDATOR="$(SOLANA_TEST_VALIDATOR)" $(BIN)/python -m tests.node.campaign

load: $(READY) ## how far the tables are behind at 100 transactions a second, and what that costs (RATE=100)
	@$(BIN)/python -m tests.torture.load --rate $(or $(RATE),100)

simulate: $(READY) ## 10,000 seeded histories against the model (RUNS=10000 SEED=1)
	@$(BIN)/python -m indexer simulate --seed $(or $(SEED),1) --runs $(or $(RUNS),10000)

bench: $(READY) ## speed, as ratios against floors of the same run
	@for file in tests/bench/bench_*.py; do $(BIN)/python -m tests.bench.$$(basename $$file .py) || exit 1; done

lock: $(READY) ## renew requirements.lock (needs uv)
	uv pip compile --no-header --universal --python-version 3.11 --generate-hashes --extra dev pyproject.toml -o requirements.lock

clean: ## remove what was installed and made
	rm -rf $(VENV) .local .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist
