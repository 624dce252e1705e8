# The environment and the commands of davss; `make help` lists them.
PYTHON ?= python3
VENV ?= .venv
# One more than cores, up to four: many tests wait for the processes they start.
TEST_WORKERS ?= $(shell "$(PYTHON)" -c 'import os; print(min(4, 1 + os.cpu_count()))')

SHELL := /bin/bash
.DEFAULT_GOAL := help
BIN := $(if $(filter /%,$(VENV)),$(VENV),$(CURDIR)/$(VENV))/bin
PIP := "$(BIN)/python" -m pip install --disable-pip-version-check --no-deps
# Byte code as pip leaves it: without, each of the dozen processes of a stage compiles ray and torch.
UV := "$(BIN)/python" -m uv pip install --no-deps --compile-bytecode
STAMP := $(VENV)/.installed
# Stages are commands of DVC: they find their Python on the PATH.
export PATH := $(BIN):$(PATH)

.PHONY: help env repro repository params docs test test-slow test-gpu lint format browser clean

help: ## print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

env: $(STAMP) ## build the environment in .venv

$(STAMP): requirements.lock pyproject.toml
	@found=$$("$(PYTHON)" --version 2>/dev/null || echo missing); \
	"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "error: $(PYTHON): $$found; davss needs Python 3.11 or newer, for instance" \
	    "\`make $(or $(firstword $(MAKECMDGOALS)),env) PYTHON=python3.11\`" >&2; exit 2; }
	@test -x "$(BIN)/python" || "$(PYTHON)" -m venv "$(VENV)" || { \
	  echo "error: cannot create $(VENV); on Debian or Ubuntu: apt-get install python3-venv" >&2; exit 2; }
	@# uv unpacks side by side, several times as fast; a private index it may not know is in pip's settings
	$(PIP) --quiet "$$(grep '^uv==' requirements.lock)" && $(UV) -r <(grep -v '^pesq==' requirements.lock) || \
	  $(PIP) -r <(grep -v '^pesq==' requirements.lock)
	@$(PIP) --quiet "$$(grep '^pesq==' requirements.lock)" 2>/dev/null || \
	  echo "note: PESQ is left out of the scores; its package needs a C compiler and Python's headers" \
	    "(on Debian or Ubuntu: apt-get install gcc python3-dev, then make -B env)" >&2
	$(PIP) -e .
	@touch $@

repro: repository $(STAMP) ## the whole experiment: environment, every stage, report/index.html
	dvc repro

repository:
	@git rev-parse --git-dir >/dev/null || { \
	  echo "error: DVC needs a Git repository; clone davss, or run \`git init\` here" >&2; exit 2; }

params: $(STAMP) ## compose params.yaml afresh from pipelines/conf
	python -m pipelines.compose

docs: $(STAMP) ## the documentation site, build/docs/index.html
	NO_MKDOCS_2_WARNING=1 python -m mkdocs build --strict

test: $(STAMP) browser ## the test suite
	python -m pytest -m "not slow" -n $(TEST_WORKERS) --dist loadfile --no-loadscope-reorder

test-slow: $(STAMP) browser ## the tests that take minutes
	python -m pytest -m slow

test-gpu: $(STAMP) ## the tests that need a GPU
	python -m pytest tests/gpu

lint: $(STAMP) ## ruff and mypy
	ruff check
	ruff format --check
	mypy

format: $(STAMP) ## format the code and sort the imports
	ruff check --fix
	ruff format

browser: # the report page is tested in a headless Chromium
	@if command -v chromium chromium-browser google-chrome >/dev/null; then :; \
	elif [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null \
	  && apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq chromium; then :; \
	else echo "no Chromium on the PATH: the test of the report page will be skipped"; fi

clean: ## remove what the stages wrote and the caches (not data/raw, .venv, the storage or the DVC cache)
	rm -rf data/demo data/shards data/mixtures data/priors data/training data/estimates data/scores report wandb build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
