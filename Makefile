# Everything lives in .venv; nothing but Python 3.11, git, make and a C++ compiler is needed.
PYTHON ?= python3.11
CORES ?= 8
RESULTS ?= results
PORT ?= 5000
BIN := .venv/bin
UV := $(BIN)/uv
# make setup WHEELHOUSE=dir takes packages from a folder, not the network; MINIMAL=1 torch from the machine's own Python.
WHEELHOUSE ?=
MINIMAL ?=
PYTHON_VERSION ?=
ifneq ($(WHEELHOUSE),)
WHEELHOUSE_LIST := $(WHEELHOUSE)/requirements.txt
FROM_FOLDER := --no-index --find-links $(WHEELHOUSE)
endif
STAMP := .venv/.installed
export PATH := $(CURDIR)/$(BIN):$(PATH)
export UV_LINK_MODE ?= copy

.DEFAULT_GOAL := help
.PHONY: help setup wheelhouse demo ui test test-slow lint format lock clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/'

setup: $(STAMP) ## install everything into .venv

.venv/bin/python:
ifdef WHEELHOUSE_LIST
	@test -f $(WHEELHOUSE_LIST) || { echo "no $(WHEELHOUSE_LIST): make wheelhouse on a machine with a network first"; exit 2; }
endif
	$(PYTHON) -m venv $(if $(WHEELHOUSE),$(if $(MINIMAL),--system-site-packages)) .venv

$(STAMP): requirements.lock pyproject.toml | .venv/bin/python
	$(BIN)/python -m ensurepip >/dev/null # a .venv made by another tool, or synced before, may lack pip
ifdef WHEELHOUSE_LIST
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(FROM_FOLDER) --ignore-installed uv
	$(UV) pip sync --quiet --compile-bytecode --offline $(FROM_FOLDER) --python $(BIN)/python $(WHEELHOUSE_LIST)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(FROM_FOLDER) $(if $(MINIMAL),--ignore-requires-python) \
	  --no-deps --no-build-isolation --editable .
else
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(UV) pip sync --quiet --compile-bytecode --python $(BIN)/python requirements.lock
	$(UV) pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
endif
	touch $@

wheelhouse: | .venv/bin/python ## fetch all packages into wheelhouse/, for a machine without network: docs/offline.md
	$(BIN)/python -m ensurepip >/dev/null
	$(BIN)/python workflow/envs/make_wheelhouse.py $(or $(WHEELHOUSE),wheelhouse) $(if $(MINIMAL),--minimal) \
	  $(if $(PYTHON_VERSION),--python $(PYTHON_VERSION))

demo: $(STAMP) ## run the default study: results/demo/report.html
	snakemake --cores $(CORES)

ui: $(STAMP) ## the studies' runs in MLflow: http://127.0.0.1:5000
	@test -f $(RESULTS)/mlflow.db || { echo "no $(RESULTS)/mlflow.db: run a study first, or fieldbook sync $(RESULTS)/STUDY"; exit 2; }
	MLFLOW_DISABLE_TELEMETRY=true MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false mlflow server --workers 1 --port $(PORT) \
	  --backend-store-uri sqlite:///$(RESULTS)/mlflow.db --artifacts-destination $(RESULTS)/mlartifacts

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
