# Everything lives in .venv; nothing but Python 3.11, git, make and a C++ compiler is needed.
PYTHON ?= python3.11
CORES ?= 8
BIN := .venv/bin
UV := $(BIN)/uv
STAMP := .venv/.installed
export PATH := $(CURDIR)/$(BIN):$(PATH)
export UV_LINK_MODE ?= copy

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-slow lint format lock clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/'

setup: $(STAMP) ## install everything into .venv

.venv/bin/python:
	$(PYTHON) -m venv .venv

$(STAMP): requirements.lock pyproject.toml | .venv/bin/python
	$(BIN)/python -m ensurepip >/dev/null # a .venv made by another tool, or synced before, may lack pip
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(UV) pip sync --quiet --compile-bytecode --python $(BIN)/python requirements.lock
	$(UV) pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	touch $@

demo: $(STAMP) ## run the default study: results/demo/report.html
	snakemake --cores $(CORES)

test: $(STAMP) ## the tests that take under 15 minutes on 2 cores
	pytest -q -m "not slow and not gpu"

test-slow: $(STAMP) ## the long tests
	pytest -q -m "slow and not gpu"

lint: $(STAMP) ## ruff, pyright, snakemake --lint
	ruff check .
	ruff format --check .
	pyright
	snakemake --lint --configfile config.yaml

format: $(STAMP) ## rewrite the code in the house's format
	ruff check --fix .
	ruff format .

lock: $(STAMP) ## resolve requirements.in into requirements.lock and the conda environment
	$(UV) pip compile --quiet --no-header --no-emit-index-url --no-emit-find-links --python-version 3.11 \
	  --override requirements.overrides requirements.in --output-file requirements.lock
	$(BIN)/python workflow/envs/make_env.py

clean: ## remove .venv and caches; results/ stays
	rm -rf .venv .pytest_cache .ruff_cache .hypothesis .snakemake radiance_fieldbook.egg-info
