# Every target sets up what it needs; a second call does no set-up work.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
JOBS ?= 2

# No progress bar or notebook needs the hub unless a profile says so, and telemetry is never sent.
export HF_HUB_DISABLE_TELEMETRY := 1
export TOKENIZERS_PARALLELISM := false

.PHONY: help
help: ## List the targets
	@printf 'Entropy-Prune\n\n'
	@grep -hE '^[a-zA-Z0-9_-]+:.*## ' $(MAKEFILE_LIST) | sort | awk 'BEGIN{FS=":.*## "}{printf "  make %-12s %s\n",$$1,$$2}'

.PHONY: setup
setup: $(READY) ## Create .venv with the locked versions and the package, editable

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; $(PYTHON) is $$($(PYTHON) -V 2>&1). Try: make setup PYTHON=python3.11" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { echo "No venv module: on Debian 'apt-get install python3-venv' provides it." >&2; exit 1; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --progress-bar on -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	@touch $@

.PHONY: test
test: setup lint ## Lint, then run every test with coverage of lib
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadfile --cov=lib --cov-report=term:skip-covered --cov-fail-under=90

.PHONY: lint
lint: $(READY) ## Check style (ruff)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check lib tests

.PHONY: format
format: $(READY) ## Apply style (ruff)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format lib tests

.PHONY: bench
bench: $(READY) ## Print the speed ratios the README quotes, measured now
	$(BIN)/python -m lib.bench

.PHONY: lock
lock: ## Resolve pyproject.toml afresh and rewrite requirements.lock
	rm -rf build/lock && $(PYTHON) -m venv build/lock
	build/lock/bin/python -m pip install --quiet '.[test]' pre-commit
	{ echo '# The exact versions the study runs with (Python 3.11 and 3.12). Written by `make lock`; do not edit.'; build/lock/bin/python -m pip freeze | grep -v '^entropy-prune' | sed 's/+cpu//'; } > requirements.lock
	rm -rf build/lock

.PHONY: clean
clean: ## Remove caches and unfinished output (keeps .venv, data and committed results)
	rm -rf .pytest_cache .ruff_cache .hypothesis build dist *.egg-info .coverage coverage.xml
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +
	find data figures reports -name '*.partial' -delete
