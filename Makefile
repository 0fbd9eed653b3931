# Everything runs from .venv; `make setup` builds it from the hash-pinned lock files.
SHELL := /bin/bash
PYTHON ?= python3
BIN := .venv/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)
export UV_LINK_MODE ?= copy
# Compiled once here, not by every process that starts; ours is compiled when it is first run.
export UV_COMPILE_BYTECODE ?= 1
unexport PYTHONDONTWRITEBYTECODE
SETUP := .venv/.setup
# The tests wait for real servers more than they compute: three at once suit two cores.
TEST_WORKERS ?= 3
PROTOS := $(wildcard protos/*/v1/*.proto)

.DEFAULT_GOAL := help
.PHONY: help setup demo up down test chaos lint format protos bench audit security env compose-test release locks clean

help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

setup: $(SETUP) ## Install everything into .venv

$(SETUP): requirements-dev.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "AI Shop needs Python 3.11 or newer: make PYTHON=python3.12 setup")'
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@grep -A40 '^uv==' requirements-dev.lock | awk 'NR==1 || /--hash/ {print} NR>1 && !/--hash/ {exit}' > .venv/uv.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r .venv/uv.lock
	@echo "Installing into .venv ..."
	@VIRTUAL_ENV=.venv $(BIN)/uv pip sync --quiet --require-hashes requirements-dev.lock
	@VIRTUAL_ENV=.venv $(BIN)/uv pip install --quiet --no-deps --no-build-isolation -e .
	@touch $@

demo: setup ## Start a stack, buy points, spend them, buy by card, show every change
	@$(BIN)/aishop demo

up: setup ## Leave the shop running at http://127.0.0.1:8080 (Ctrl-C stops it)
	@$(BIN)/aishop up

down: setup ## Stop a detached shop
	@$(BIN)/aishop down

test: setup ## Every test, on real servers
	@$(BIN)/python -m pytest -n $(TEST_WORKERS)

chaos: setup ## The long proofs: every order of events, storms of webhooks, lost answers, lost databases
	@VIRTUAL_ENV=.venv $(BIN)/uv pip install --quiet --require-hashes -r requirements-failover.lock
	@$(BIN)/python -m pytest -n 0 -m long

bench: setup ## Orders per second and CPU per order, beside pgbench
	@$(BIN)/aishop bench

audit: setup ## Check the invariants of the running shop
	@$(BIN)/aishop audit

lint: setup ## ruff, mypy --strict, import-linter, buf, stub freshness, migrations, Dockerfile, compose file, Kubernetes
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache
	@$(BIN)/buf lint
	@$(BIN)/buf breaking --against $$($(BIN)/python -m deploy.release --newest)/protos.binpb
	@$(BIN)/python -m deploy.stubs --check
	@$(BIN)/python -m deploy.migrations
	@$(BIN)/python -m deploy.release --check
	@$(BIN)/python -m deploy.failure_table
	@$(BIN)/hadolint deploy/images/Dockerfile
	@$(BIN)/check-jsonschema --quiet --builtin-schema vendor.compose-spec docker-compose.yml
	@$(BIN)/yamllint --strict --config-file deploy/k8s/.yamllint deploy/k8s docker-compose.yml
	@$(BIN)/python -m deploy.k8s.check

security: setup ## Secrets in files and history; known vulnerabilities of what runs (asks PyPI)
	@$(BIN)/python -m deploy.secret_scan
	@$(BIN)/pip-audit --strict --progress-spinner off --disable-pip --require-hashes -r requirements.lock \
		|| { echo "requirements.lock has known vulnerabilities, or could not be looked up: see above" >&2; exit 1; }

env: setup ## Write .env for docker-compose.yml, with random secrets
	@$(BIN)/python -m deploy.compose.environment

compose-test: setup ## Build, buy, kill containers and audit with Docker; writes docs/compose-report.md
	@$(BIN)/python -m deploy.compose.trial

format: setup ## Rewrite the code as ruff wants it
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

protos: setup ## Generate the committed stubs
	@$(BIN)/python -m deploy.stubs

release: setup ## Cut the release that VERSION names: writes released/<version>/
	@$(BIN)/python -m deploy.release

locks: setup ## Resolve pyproject.toml into the lock files again
	@$(BIN)/uv pip compile --quiet --universal --generate-hashes --no-header --no-annotate --python-version 3.11 pyproject.toml -o requirements.lock
	@$(BIN)/uv pip compile --quiet --universal --generate-hashes --no-header --no-annotate --python-version 3.11 pyproject.toml --group dev -o requirements-dev.lock
	@$(BIN)/uv pip compile --quiet --universal --generate-hashes --no-header --no-annotate --python-version 3.11 pyproject.toml --group tools -o requirements-tools.lock
	@$(BIN)/uv pip compile --quiet --universal --generate-hashes --no-header --no-annotate --python-version 3.11 --group failover -c requirements-dev.lock -o requirements-failover.lock

clean: ## Remove .venv, caches and the local data folder
	rm -rf .venv .aishop .aishop-chaos .mypy_cache .pytest_cache .ruff_cache
