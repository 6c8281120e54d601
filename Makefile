# Every target works on its own on a machine with Python 3.10 to 3.12, make. It first installs what it needs into a
# virtual environment, and does so again only if a file in requirements/ has changed.

VENV ?= .venv
ARGS ?=
# Tests run in this many processes of one thread each. 0 runs them in the process of pytest, which a debugger needs.
WORKERS ?= 2
BIN := $(VENV)/bin/python
REQUIREMENTS := requirements/build.txt requirements/runtime.txt requirements/mminstall.txt requirements/lock.txt
SETUP = @VENV='$(VENV)' PYTHON='$(PYTHON)' MMCV_OPS='$(MMCV_OPS)' tools/setup_env.sh
# PYTHON names the interpreter that makes the environment. Programs in the environment use the environment's own.
RUN = @PYTHON="$$($(BIN) -c 'import sys; print(sys.executable)')"
START := $(shell date +%s)

.DEFAULT_GOAL := help
.PHONY: help quickstart test lint format docs env clean FORCE

help:  ## show this help
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo
	@echo '  PYTHON=python3.12   interpreter that makes the environment (default: python3)'
	@echo '  VENV=folder         folder of the environment (default: .venv)'
	@echo '  WORKERS=2           number of processes that run the tests'
	@echo '  MMCV_OPS=cpu|cuda   operators of mmcv to compile (default: none is needed)'

quickstart: $(VENV)/.done-env  ## train a small detector on generated pictures, evaluate it, draw its boxes (RETRAIN=1: train again)
	$(RUN) START=$(START) RETRAIN='$(RETRAIN)' tools/quickstart.sh

test: $(VENV)/.done-tests  ## run the tests (ARGS="-k word": only some)
	$(RUN) OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(BIN) -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(ARGS)

lint: $(VENV)/.done-lint  ## check style and formatting; installs only ruff
	$(BIN) -m ruff check .
	$(BIN) -m ruff format --check .

format: $(VENV)/.done-lint  ## apply the fixes and the formatting of ruff
	$(BIN) -m ruff check --fix .
	$(BIN) -m ruff format .

docs: $(VENV)/.done-docs  ## build the documentation into build/site
	$(BIN) -m mkdocs build

env: $(VENV)/.done-env  ## install the tested set of packages

clean:  ## remove .venv, caches and build files; keep the results in work_dirs/
	rm -rf .venv .pytest_cache .ruff_cache build dist *.egg-info
	find mmdet_dinov2 tests configs tools -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.done-env: $(REQUIREMENTS) setup.py $(if $(MMCV_OPS),FORCE)
	$(SETUP) env

$(VENV)/.done-tests: $(VENV)/.done-env requirements/tests.txt
	$(SETUP) tests

$(VENV)/.done-lint: requirements/lock.txt
	$(SETUP) lint

$(VENV)/.done-docs: requirements/docs.txt requirements/lock.txt
	$(SETUP) docs

FORCE:
