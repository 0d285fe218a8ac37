# Everything runs from .venv, which `make setup` fills from requirements.lock.

PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
CASES ?= 500
JOBS ?= 2
PEERS ?=
COMMA := ,
PEER_STAMPS := $(patsubst %,build/peers/%/.installed,$(filter-out celery,$(subst $(COMMA), ,$(PEERS))))
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help setup lock fmt lint type test openapi bench fuzz chaos mutation up demo ci

help: ## Show this list.
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(STAMP) ## Install the locked dependencies and `orch` into .venv (nothing to do when up to date).

# The editable install builds with the setuptools of the lock: no second download, no other version.
$(STAMP): requirements.lock setup.cfg pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed: make setup PYTHON=python3.x")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --require-hashes --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

# Some dependencies want more of an older Python: what is locked for the oldest serves them all.
lock: ## Resolve the dependencies anew (with PYTHON=python3.11 of 3.11.2 or before).
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info > (3, 11, 3) and "lock with Python 3.11.2 or before")'
	$(PYTHON) -m venv build/lock
	build/lock/bin/pip install --quiet pip-tools
	build/lock/bin/pip-compile --quiet --upgrade --generate-hashes --allow-unsafe --strip-extras \
		--no-emit-index-url --no-emit-options --extra dev --output-file requirements.lock setup.cfg

fmt: setup ## Format the code.
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format --quiet .

lint: setup ## Check style, SQL and the direction of imports.
	$(BIN)/ruff check --quiet .
	$(BIN)/ruff format --check --quiet .
	$(BIN)/sqlfluff lint --disable-progress-bar shared
	$(BIN)/lint-imports --no-cache

type: setup ## Check the types (mypy --strict).
	$(BIN)/mypy
	$(BIN)/mypy examples/environment-audit/scripts
	$(BIN)/mypy examples/verify-ledger

# Most tests wait for something most of the time: two at a time on two cores. What holds others to times has the machine to itself.
test: setup ## Run all tests, JOBS at a time (2), on servers that they start themselves.
	$(BIN)/python -m pytest -m "not timed" --numprocesses $(JOBS) --dist loadfile
	$(BIN)/python -m pytest -m timed

openapi: setup ## Try the API by its OpenAPI document, with CASES calls of each operation and more.
	$(BIN)/python -m pytest tests/acceptance/test_openapi.py --cases $(CASES)

bench: setup $(PEER_STAMPS) ## Measure the shapes beside Celery (PEERS=dbos,prefect: and these), write docs/benchmarks.md (ARGS=--short: only try it).
	$(BIN)/python -m bench $(if $(PEERS),--peers $(PEERS)) $(ARGS)

# Each in an environment of its own: what they pin clashes with what we lock.
build/peers/%/.installed: bench/%.txt
	$(PYTHON) -m venv build/peers/$*
	build/peers/$*/bin/python -m pip install --quiet --requirement $<
	@touch $@

fuzz: setup ## Send hostile requests to a stack of its own (ARGS="--requests 1000000 --seed x").
	$(BIN)/python -m tests.fuzz $(ARGS)

chaos: setup ## Break a stack of its own for CHAOS_MINUTES (ARGS="--seed x"), and hold it to what must hold.
	$(BIN)/python -m tests.chaos $(ARGS)

mutation: setup ## Take one guard away at a time, and see that tests notice (ARGS="--only lease").
	$(BIN)/python -m tests.mutation $(ARGS)

up: setup ## Start the whole stack in the foreground (data in .orch).
	$(BIN)/orch up

demo: setup ## Run the example from start to end on a stack of its own.
	@$(BIN)/orch demo

ci: lint type test ## What .ci/run runs.
