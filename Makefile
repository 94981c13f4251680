# Every target sets up what it needs; a second call does no set-up work.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
TRITON := $(VENV)/.triton
JOBS ?= 2
PROFILE ?= embedded

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
test: setup lint $(TRITON) ## Lint, then run every test with coverage of lib
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadfile --cov=lib --cov-report=term:skip-covered --cov-fail-under=90
	@$(MAKE) --no-print-directory nbval

# Without a GPU Triton compiles the kernels and interprets them; a CUDA build of torch has its own.
$(TRITON): $(READY)
	@$(BIN)/python -c 'import importlib.util as u, sys; sys.exit(u.find_spec("triton") is None)' || \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check --progress-bar on "triton==3.9.0; sys_platform == 'linux'"
	@touch $@

# The outputs in the notebooks belong to the results they were executed with, so they are checked
# against those, even after `make reproduce` has computed this machine's own.
.PHONY: nbval
nbval: $(READY) ## Execute every notebook and compare with its committed outputs, strictly
	@$(BIN)/python -m lib.study.reports.report reference build/nbval >/dev/null
	ENTROPY_PRUNE_ROOT=$(CURDIR)/build/nbval OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadfile \
	  --nbval --nbval-sanitize-with tests/nbval_sanitize.cfg --nbval-cell-timeout 300 $(or $(VALIDATED),$(error no notebooks to check))

# ---- the study ---------------------------------------------------------------------------------

NOTEBOOKS := $(sort $(wildcard notebooks/[0-8][0-9]_*.ipynb))
# 90 trains for minutes on a GPU; tests/test_training_notebook.py runs it in a smoke form instead.
VALIDATED := $(NOTEBOOKS)
PROFILE_FILE := notebooks/profiles/$(PROFILE).yaml
REPORT := reports/$(PROFILE)
# a profile may name the few notebooks that make sense for it
CHOSEN := $(subst ",,$(shell sed -n 's/^notebooks: *//p' $(PROFILE_FILE) 2>/dev/null))
EXECUTED := $(patsubst notebooks/%,$(REPORT)/%,$(if $(CHOSEN),$(foreach n,$(CHOSEN),$(filter notebooks/$(n)_%,$(NOTEBOOKS))),$(NOTEBOOKS)))
PAGES := $(EXECUTED:.ipynb=.html)
# What decides the captions; a change here computes anew what it concerns.
COMPUTING := $(shell find lib -name "*.py" -not -path "lib/study/reports/*" -not -path "lib/study/cost/*" -not -path "lib/study/doctor*")
# Written when this machine has computed the profile; not committed, so a fresh clone computes.
STUDIED := build/study/$(PROFILE)

.PHONY: reproduce
ifdef DRY_RUN
reproduce: $(READY)
	@$(BIN)/python -m lib.study.doctor --profile $(PROFILE) || true
else
reproduce: $(READY) ## Compute, draw and report everything of PROFILE (DRY_RUN=1: say what it takes)
	@test -f $(PROFILE_FILE) || { echo "No profile '$(PROFILE)': there are $(basename $(notdir $(wildcard notebooks/profiles/[a-z]*.yaml)))" >&2; exit 1; }
	@$(MAKE) --no-print-directory $(STUDIED)
	@$(MAKE) --no-print-directory $(if $(findstring j,$(filter-out --%,$(MAKEFLAGS))),,-j$(JOBS)) $(REPORT)/index.html
	@echo "Open $(REPORT)/index.html"
endif

$(STUDIED): $(PROFILE_FILE) $(COMPUTING) | $(READY)
	$(BIN)/python -m lib.study.run --profile $(PROFILE) --fresh
	@mkdir -p $(@D) && touch $@

$(EXECUTED): $(REPORT)/%.ipynb: notebooks/%.ipynb $(STUDIED) $(wildcard lib/study/reports/*.py) | $(READY)
	@$(BIN)/python -m lib.study.reports.report run $< --profile $(PROFILE)

$(PAGES): %.html: %.ipynb | $(READY)
	@$(BIN)/python -m lib.study.reports.report page $< --profile $(PROFILE)

$(REPORT)/index.html: $(PAGES) | $(READY)
	@$(BIN)/python -m lib.study.reports.report index --profile $(PROFILE)

.PHONY: table
table: $(READY) ## Caption with the five methods of Table 1 alone and print their scores
	@$(BIN)/python -m lib.study.run --profile $(PROFILE) --table --fresh

.PHONY: html
html: $(READY) ## Write the HTML pages of PROFILE from its executed notebooks (seconds)
	@$(BIN)/python -m lib.study.reports.report html --profile $(PROFILE)

.PHONY: figures
figures: $(READY) ## Draw the figures of PROFILE from stored results
	@$(BIN)/python -m lib.study.reports.report figures --profile $(PROFILE)

.PHONY: notebooks
notebooks: $(READY) ## Execute the notebooks in place, as they are committed
	$(BIN)/python -m lib.study.reports.report update $(NOTEBOOKS)

.PHONY: lab
lab: $(READY) ## Open the notebooks in JupyterLab
	$(BIN)/jupyter lab --notebook-dir=$(CURDIR) notebooks/$(notdir $(firstword $(NOTEBOOKS)))

.PHONY: data
data: $(READY) ## Get the images of PROFILE: draw the scenes, or download COCO's
	$(BIN)/python -m lib.study.run --profile $(PROFILE) --data-only

.PHONY: doctor
doctor: ## Say what is missing for which profile (or for PROFILE), and how to get it
	@$(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON)) -m lib.study.doctor $(if $(filter command line environment,$(origin PROFILE)),--profile $(PROFILE))

.PHONY: spice
spice: $(READY) ## Install CoreNLP, which SPICE needs (536 MB)
	$(BIN)/python -m lib.study.evaluation.spice

# ---- upkeep ------------------------------------------------------------------------------------

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
	$(BIN)/python -m lib.study.cost.bench

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
