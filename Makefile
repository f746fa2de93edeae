# Everything happens in the checkout: the environment in .venv, servers, databases and logs in .noisy-student.
PYTHON ?= python3
BIN := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help setup up down demo test bench lint format

help:  ## list the targets
	@sed -n 's/^\([a-z]*\):.*## /\1|/p' $(MAKEFILE_LIST) | awk -F'|' '{ printf "  make %-8s %s\n", $$1, $$2 }'

setup: .venv/.installed  ## make the environment in .venv, from requirements.lock; nothing to do when it is there

# the lock decides on every version; a changed pyproject.toml only refreshes the project's own entry
.venv/.installed: pyproject.toml requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
		{ echo "$(PYTHON) is missing or older than 3.11: make PYTHON=/path/to/python3.11 $(or $(MAKECMDGOALS),setup)" >&2; exit 1; }
	@echo "setting up .venv (the first time downloads some GB)"
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	@$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python -r requirements.lock
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	@touch $@

up: setup  ## start the Prefect server, its worker and MLflow, and deploy; reuses what runs
	@$(BIN)/noisy-student up

down: setup  ## stop them
	@$(BIN)/noisy-student down

demo: setup  ## the whole method on real images: start all, run the deployment, show the table
	@$(BIN)/noisy-student demo

test: setup  ## run the tests, and name those that were skipped
	@$(BIN)/python -m pytest -rs

bench: setup  ## measure speed and the plan, in an hour on an otherwise idle machine
	@$(BIN)/python -m benchmarks.noise
	@$(BIN)/python -m benchmarks.training
	@$(BIN)/python -m benchmarks.predict
	@$(BIN)/python -m benchmarks.incremental
	@$(BIN)/python -m benchmarks.select
	@$(BIN)/python -m benchmarks.orchestrate
	@$(BIN)/python -m benchmarks.prepare
	@$(BIN)/python -m benchmarks.plan

lint: setup  ## what CI checks beside the tests: style, types, import rules, the lock
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright
	$(BIN)/lint-imports
	$(BIN)/uv pip check --python $(BIN)/python
	$(BIN)/uv pip install --python $(BIN)/python --offline --dry-run --group dev --extra ray --extra server -c requirements.lock -r pyproject.toml

format: setup  ## put the style right
	$(BIN)/ruff check --fix
	$(BIN)/ruff format
