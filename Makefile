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
# another model of the hub in place of the profile's: make reproduce PROFILE=paper MODEL=owner/name
ifdef MODEL
override PROFILE := $(PROFILE)@$(subst /,--,$(MODEL))
endif
LIB := $(BIN)/python -m lib
# one thread a worker: many tiny decompositions fighting over cores take ten times longer
SHARED := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -p tests.lean -n $(JOBS) --dist loadfile --no-loadscope-reorder
# but for notebooks their plugin would be imported for seconds; logs that no test reads would be kept
PYTEST := $(SHARED) -p no:nbval -p no:logging

# No progress bar or notebook needs the hub unless a profile says so, and telemetry is never sent.
export HF_HUB_DISABLE_TELEMETRY := 1
export TOKENIZERS_PARALLELISM := false
# modules are compiled when they are first imported, and once
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help
help: ## List the targets
	@printf 'Entropy-Prune\n\n'
	@grep -hE '^[a-zA-Z0-9_-]+:.*## ' $(MAKEFILE_LIST) | sort | awk 'BEGIN{FS=":.*## "}{printf "  make %-15s %s\n",$$1,$$2}'

.PHONY: setup
setup: $(READY) ## Create .venv with the locked versions and the package, editable

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; $(PYTHON) is $$($(PYTHON) -V 2>&1). Try: make setup PYTHON=python3.11" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { echo "No venv module: on Debian 'apt-get install python3-venv' provides it." >&2; exit 1; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --progress-bar on --no-compile -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	@touch $@

# ---- checks ------------------------------------------------------------------------------------

# tests of the library storey; those of the study are in tests/study, and the kernels have a target
LIBRARY := $(filter-out tests/study/ tests/kernels/ tests/__pycache__/ tests/test_readme.py,$(wildcard tests/test_*.py tests/*/))

.PHONY: check
check: lint types unit ## Style, types and the library's own tests, in a minute

.PHONY: unit
unit: $(READY)
	$(PYTEST) -q -m "not slow" $(LIBRARY)

# Every part runs, whatever the one before it said.
PARTS := lint types tests nbval oldest kernels
.PHONY: test
test: $(READY) $(TRITON) ## Everything: style, types, all tests, notebooks, contract, kernels
	@failed=; for part in $(PARTS); do \
	  $(MAKE) --no-print-directory $$part || failed="$$failed $$part"; done; \
	if [ -n "$$failed" ]; then echo "FAILED:$$failed" >&2; exit 1; fi; \
	echo "passed: $(PARTS)"

.PHONY: lint
lint: $(READY) ## Check style (ruff)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check lib tests

.PHONY: types
types: $(READY) ## Check the types of the library (pyrefly)
	$(BIN)/pyrefly check --python-interpreter-path $(BIN)/python --summary=none

KERNEL_TESTS := tests/kernels

.PHONY: tests
tests: $(READY) ## Run every test but the kernels', with coverage of lib
	$(PYTEST) $(KERNEL_TESTS:%=--ignore=%) --cov=lib --cov-report=term:skip-covered --cov-fail-under=90

# Without a GPU Triton compiles the kernels and interprets them; a CUDA build of torch has its own.
$(TRITON): $(READY)
	@$(BIN)/python -c 'import importlib.util as u, sys; sys.exit(u.find_spec("triton") is None)' || \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check --progress-bar on "triton==3.9.0; sys_platform == 'linux'"
	@touch $@

# The outputs in the notebooks belong to the committed results.
.PHONY: nbval
nbval: $(READY) ## Execute every notebook and compare with its committed outputs, strictly
	@$(LIB) report reference build/nbval >/dev/null
	ENTROPY_PRUNE_ROOT="$(CURDIR)/build/nbval" ENTROPY_PRUNE_PLACE=reference $(SHARED) \
	  -p no:hypothesispytest --nbval -p tests.nbval_forked --nbval-current-env --nbval-sanitize-with tests/nbval_sanitize.cfg --nbval-cell-timeout 300 $(or $(NOTEBOOKS),$(error no notebooks to check))

# The newest supported release of transformers is the one in .venv, where `tests` runs the contract;
# the oldest gets an environment of its own that sees everything else, torch above all, in .venv.
OLDEST := 5.17.0
CONTRACT_TESTS := tests/pruning/test_contract.py tests/pruning/families/test_contract.py

.PHONY: contract oldest
contract: oldest ## The contract tests on the oldest and newest transformers
	$(PYTEST) -q $(CONTRACT_TESTS)

oldest: build/contract/$(OLDEST)/.ready
	OMP_NUM_THREADS=1 $(<D)/bin/python -m pytest -p tests.lean -n $(JOBS) -q -p no:cacheprovider -p no:nbval -p no:logging -p no:hypothesispytest $(CONTRACT_TESTS)

build/contract/%/.ready: $(READY)
	@rm -rf $(@D) && $(BIN)/python -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps transformers==$* 'huggingface-hub<2'
	@$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' > \
	  "$$($(@D)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/shared.pth"
	@touch $@

# The real lmms-eval needs an older filelock than the study, and torchvision: it gets an environment
# of its own, with the library as others install it.
LMMS_EVAL := lmms-eval==0.7.3 torch==2.14.1 torchvision==0.29.1 transformers==5.24.0 accelerate==1.15.0 datasets==5.2.0 filelock==3.19.1
# what our own answers need beside that
LMMS_EVAL_PROOF := pooch==1.9.0
LMMS_EVAL_ENV := build/lmms-eval/env

.PHONY: lmms-eval
lmms-eval: $(LMMS_EVAL_ENV)/.ready ## Build an environment with lmms-eval and the plug-in for it

$(LMMS_EVAL_ENV)/.host: | $(READY)
	@rm -rf $(@D) && $(BIN)/python -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check --progress-bar on $(LMMS_EVAL) $(LMMS_EVAL_PROOF)
	@touch $@

$(LMMS_EVAL_ENV)/.ready: $(LMMS_EVAL_ENV)/.host setup.py pyproject.toml $(shell find lib -name '*.py' -not -path 'lib/study/*')
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --force-reinstall .
	@touch $@

.PHONY: lmms-eval-proof
lmms-eval-proof: lmms-eval ## Run the real lmms-eval, offline, and compare with our own answers (10 minutes)
	OMP_NUM_THREADS=1 $(LMMS_EVAL_ENV)/bin/python -m tests.plugins.lmms_eval.proof $(or $(RECORD),build/lmms-eval/proof.json)

# The products under Triton's interpreter round as OpenBLAS does for this processor: as for others,
# too; what the kernels compile to is the same. Each is one process, so they run side by side.
CORES := Haswell Nehalem
INTERPRETED := tests/kernels/interpreted

.PHONY: kernels
kernels: $(READY) $(TRITON) ## The kernel tests: compiled, and interpreted with the roundings of two other processors
	@mkdir -p build/logs; declare -A running; failed=; \
	start() { OMP_NUM_THREADS=1 $(BIN)/python -m pytest -p tests.lean -q -p no:cacheprovider -p no:nbval -p no:hypothesispytest "$${@:2}" \
	  > build/logs/kernels-$$1.log 2>&1 & running[$$1]=$$!; }; \
	for core in $(CORES); do \
	  TRITON_INTERPRET=1 CUDA_VISIBLE_DEVICES= OPENBLAS_CORETYPE=$$core start $$core $(INTERPRETED); done; \
	start compiled $(KERNEL_TESTS) --ignore=$(INTERPRETED) --ignore=tests/kernels/test_interpreted.py; \
	for name in compiled $(CORES); do \
	  if wait $${running[$$name]}; then echo "$$name: $$(tail -1 build/logs/kernels-$$name.log)"; \
	  else failed="$$failed $$name"; cat build/logs/kernels-$$name.log; fi; done; \
	if [ -n "$$failed" ]; then echo "FAILED:$$failed" >&2; exit 1; fi

.PHONY: mutants
mutants: $(READY) ## Change the library line by line and list what no test notices (hours)
	$(BIN)/python -m tests.mutants

# ---- the study ---------------------------------------------------------------------------------

NOTEBOOKS := $(sort $(wildcard notebooks/[0-8][0-9]_*.ipynb))
PROFILE_FILE := notebooks/profiles/$(firstword $(subst @, ,$(PROFILE))).yaml
# what a run makes; nothing of it is committed before `make publish`
RUN := build/reproduce/$(PROFILE)
# a profile may name the few notebooks that make sense for it
NAMED := $(subst ",,$(shell sed -n 's/^notebooks: *//p' $(PROFILE_FILE) 2>/dev/null))
ifdef MODEL
NAMED := $(or $(NAMED),06 07 08)
endif
CHOSEN := $(if $(NAMED),$(foreach n,$(NAMED),$(filter notebooks/$(n)_%,$(NOTEBOOKS))),$(NOTEBOOKS))
# The same folders as in lib/study/dependencies.py, which decides what is computed again.
COMPUTING := $(shell find lib -name '*.py' -not -path 'lib/plugins/*' -not -path 'lib/study/reports/*' -not -path 'lib/study/cli/*' -not -path 'lib/study/doctor*' -not -path 'lib/study/training*')
REPORTING := $(shell find lib/study/reports -type f -not -name '*.pyc')

.PHONY: reproduce
ifdef DRY_RUN
reproduce: $(READY)
	@$(LIB) doctor --profile $(PROFILE) || true
else
reproduce: $(READY) ## Compute, draw and report everything of PROFILE below build/ (DRY_RUN=1: say what it takes)
	@test -f $(PROFILE_FILE) || { echo "No profile '$(PROFILE)': there are $(basename $(notdir $(wildcard notebooks/profiles/[a-z]*.yaml)))" >&2; exit 1; }
	@if $(MAKE) -q --no-print-directory $(RUN)/reports/index.html; then $(LIB) compare --profile $(PROFILE); \
	else $(MAKE) --no-print-directory $(RUN)/reports/index.html; fi
endif

# One process, since it imports for seconds; it ends with the comparison. Only the notebooks that
# changed, unless something they all depend on did.
$(RUN)/reports/index.html: $(PROFILE_FILE) $(COMPUTING) $(CHOSEN) $(REPORTING) | $(READY)
	@$(LIB) reproduce --profile $(PROFILE) --jobs $(JOBS) $(if $(filter-out %.ipynb,$?),,$?)

.PHONY: publish
publish: $(READY) ## Make the run of PROFILE the committed reference (for maintainers)
	@$(LIB) publish --profile $(PROFILE)
	@$(LIB) report docs

.PHONY: table
table: $(READY) ## Caption with the five methods of Table 1 alone and print their scores
	@$(LIB) study --profile $(PROFILE) --table

.PHONY: html
html: $(READY) ## Write the pages of PROFILE's run again from its executed notebooks (seconds)
	@$(LIB) report html --profile $(PROFILE)

.PHONY: figures
figures: $(READY) ## Draw the figures of PROFILE's run from its stored results
	@$(LIB) report figures --profile $(PROFILE)

.PHONY: notebooks
notebooks: $(READY) ## Execute the notebooks in place, as they are committed
	$(LIB) report update $(NOTEBOOKS)

.PHONY: lab
lab: $(READY) ## Open the notebooks in JupyterLab
	$(BIN)/python -m jupyter lab --notebook-dir="$(CURDIR)" notebooks/$(notdir $(firstword $(NOTEBOOKS)))

.PHONY: data
data: $(READY) ## Get the images of PROFILE: draw the scenes, or download COCO's
	$(LIB) data --profile $(PROFILE)

.PHONY: doctor
doctor: ## Say what is missing for which profile (or for PROFILE), and how to get it
	@$(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON)) -m lib doctor $(if $(filter command line environment override,$(origin PROFILE)),--profile $(PROFILE))

.PHONY: spice
spice: $(READY) ## Install CoreNLP, which SPICE needs (536 MB)
	$(LIB) spice

# ---- upkeep ------------------------------------------------------------------------------------

.PHONY: format
format: $(READY) ## Apply style (ruff)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format lib tests

.PHONY: bench
bench: $(READY) ## Print the speed ratios the README quotes, measured now
	$(LIB) bench

.PHONY: lock
lock: ## Resolve pyproject.toml afresh and rewrite requirements.lock
	rm -rf build/lock && $(PYTHON) -m venv build/lock
	build/lock/bin/python -m pip install --quiet '.[test]' pre-commit
	{ echo '# The exact versions the study runs with (Python 3.11 and 3.12). Written by `make lock`; do not edit.'; build/lock/bin/python -m pip freeze --all | grep -v -e '^entropy-prune' -e '^pip==' | sed 's/+cpu//'; } > requirements.lock
	rm -rf build/lock

.PHONY: clean
clean: ## Remove caches, runs and unfinished output (keeps .venv, data and committed results)
	rm -rf .pytest_cache .ruff_cache .hypothesis build dist *.egg-info .coverage coverage.xml
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +
	find data figures reports -name '*.partial' -delete
