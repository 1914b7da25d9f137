# Every target makes what it needs on a machine that has only Python >= 3.11 and make.
#   make demo   segments a real MRI among a small cohort and prints where the report is
#   make test   the fast tests          make soak   the long ones
#   make lint   style, types, layers, documentation
#   make bench  measurements, into benchmarks/results/
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
export OMP_NUM_THREADS ?= 2
export PIP_DISABLE_PIP_VERSION_CHECK = 1
export NO_MKDOCS_2_WARNING = 1

.PHONY: demo test soak lint format bench docs clean
.DELETE_ON_ERROR:

demo: $(STAMP)
	@$(BIN)/python -m chiasm demo demo

test: $(STAMP)
	@$(BIN)/python -m pytest -q -m "not slow and not gpu and not soak" $(TESTS)

soak: $(STAMP)
	@$(BIN)/python -m pytest -q -rA -m "slow or soak or gpu" --timeout=7200 $(TESTS)

bench: $(STAMP)
	@code=0; for script in $(filter-out benchmarks/controls_%,$(wildcard benchmarks/*.py benchmarks/*/measure.py)); do \
	   echo "== $$script"; $(BIN)/python $$script || code=1; done; exit $$code

lint: $(STAMP) .types/chiasm
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --check --quiet . || { echo "make format"; exit 1; }
	@$(BIN)/lint-imports --no-logo >/dev/null 2>&1 || { $(BIN)/lint-imports --no-logo; exit 1; }
	@MYPYPATH=.types $(BIN)/mypy --no-error-summary -p chiasm
	@$(BIN)/python -m pytest -q tests/test_layers.py
	@$(BIN)/python -m mkdocs build --strict --quiet
	@echo "lint: clean"

format: $(STAMP)
	@$(BIN)/ruff check --fix-only --quiet .
	@$(BIN)/ruff format --quiet .

docs: $(STAMP)
	@$(BIN)/python docs/make_errors.py
	@$(BIN)/python -m mkdocs build --strict --quiet
	@echo "site/index.html"

# The repository root is the package, whatever the checkout is called: the type checker finds it through a link.
.types/chiasm:
	@mkdir -p .types
	@ln -sfn .. .types/chiasm

$(STAMP): pyproject.toml constraints.txt
	@for python in python3.11 python3.12 python3.13 python3 python3.14; do \
	   if [ -x $(BIN)/python ]; then break; fi; \
	   if $$python -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	     echo "making $(VENV) with $$python"; $$python -m venv $(VENV); fi; \
	 done; \
	 if [ ! -x $(BIN)/python ]; then \
	   echo "Python >= 3.11 with the venv module was not found (Debian: the package python3-venv)"; exit 127; fi
	@echo "installing the packages of constraints.txt (minutes the first time)"
	@$(BIN)/python -m pip install -qq -c constraints.txt "setuptools>=77" wheel
	@$(BIN)/python -m pip install -qq -c constraints.txt --no-build-isolation -e ".[dev]"
	@touch $(STAMP)

clean:
	@rm -rf build dist site .types .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
