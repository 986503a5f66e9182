# Two commands matter: `make demo` and `make test`. PIP_ARGS reaches pip, e.g. PIP_ARGS="--index-url ..." for other builds of torch.
PYTHON ?= python3
VENV ?= .venv
PIP_ARGS ?=
EXTRAS ?= dev
BIN := $(VENV)/bin

.PHONY: help preflight install demo test check docs docs-generate bench clean
help: ## what can be made
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 16

preflight: # one clear line for each thing that is missing
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "headrace needs Python 3.11 or newer, this is " + sys.version.split()[0] + ": set PYTHON=python3.x")'
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "python venv is missing: install your system'\''s python3-venv package" >&2; exit 1; }
	@$(PYTHON) -c 'import shutil, sys; free = shutil.disk_usage(".").free / 1e9; sys.exit(0 if free >= 8 else f"headrace needs 8 GB of free disk (most of it torch), here are {free:.1f}")'

$(VENV)/.installed-$(EXTRAS): pyproject.toml | preflight
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install --quiet --disable-pip-version-check $(PIP_ARGS) --editable '.[$(EXTRAS)]'
	@touch $@

install: $(VENV)/.installed-$(EXTRAS) ## make .venv and install (EXTRAS=dev|all|demo, PIP_ARGS=...)

demo: ## the whole ring on this machine, with a live view (DEMO_ARGS="--seed 11")
	@$(MAKE) --no-print-directory install EXTRAS=demo
	@$(BIN)/headrace demo $(DEMO_ARGS)

test: install ## all tests, with a broker of their own (TEST_ARGS="-k reward")
	@$(BIN)/pytest $(TEST_ARGS)

check: install ## format, lint, types, import arrows
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

docs: install ## the pages as a site in site/
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

docs-generate: install ## draw what README and the pages show of the code's tables
	@$(BIN)/python docs/drawn.py

bench: install ## measure; prints ratios against named baselines
	@for script in tests/bench/bench_*.py; do $(BIN)/python $$script || exit 1; done

clean: ## remove the virtual environment and caches
	@rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
