# Two commands matter: `make demo` and `make test`. PIP_ARGS reaches pip, e.g. PIP_ARGS="--index-url ..." for other builds of torch.
PYTHON ?= python3
VENV ?= .venv
PIP_ARGS ?=
LOCK_ARGS ?=
EXTRAS ?= dev
# Tests with a broker wait often: one worker more than the two cores that this is made for.
WORKERS ?= 3
DISK_GB ?= 8
BIN := $(VENV)/bin
NEXT ?= next: make demo, or `. $(BIN)/activate` and `headrace --help`
# What has been installed with more than the demo needs is enough for it.
DEMO_EXTRAS = $(firstword $(foreach extras,dev all,$(if $(wildcard $(VENV)/.installed-$(extras)),$(extras))) demo)

.PHONY: help preflight install demo test test-fast check docs docs-generate lock bench memory million fuzz chaos chaos-feeder simulate clean
help: ## what can be made
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 16

preflight: # one clear line for each thing that is missing
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "headrace needs Python 3.11 or newer, this is " + sys.version.split()[0] + ": set PYTHON=python3.x")'
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "python venv is missing: install your system'\''s python3-venv package" >&2; exit 1; }
	@$(PYTHON) -c 'import shutil, sys; free = shutil.disk_usage(".").free / 1e9; sys.exit(0 if free >= $(DISK_GB) else f"headrace needs $(DISK_GB) GB of free disk (most of it torch), here are {free:.1f}; less is enough for the CPU build: DISK_GB=3")'

$(VENV)/.installed-$(EXTRAS): pyproject.toml requirements.lock
	@$(MAKE) --no-print-directory preflight
	@echo "making $(VENV)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python deploy/install.py $(PIP_ARGS) --constraint requirements.lock --editable '.[$(EXTRAS)]'
	@echo '$(NEXT)'
	@touch $@

install: $(VENV)/.installed-$(EXTRAS) ## make .venv and install (EXTRAS=dev|all|demo, PIP_ARGS=...)
	@:

demo: ## the whole ring on this machine, with a live view (DEMO_ARGS="--seed 11")
	@$(MAKE) --no-print-directory install EXTRAS=$(DEMO_EXTRAS) NEXT='next: the demo, which fetches Apache Kafka and builds a small model at its first start'
	@$(BIN)/headrace demo $(DEMO_ARGS)

test: install ## all tests, by WORKERS processes on one broker of their own (TEST_ARGS="-k reward")
	@$(BIN)/pytest -n $(WORKERS) $(TEST_ARGS)

test-fast: install ## what needs no broker and is not slow: a minute and a half on two cores
	@$(BIN)/pytest -n logical -m "not kafka and not slow" $(TEST_ARGS)

check: install ## format, lint, types, import arrows
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

docs: install ## the pages as a site in site/
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

docs-generate: install ## draw what README and the pages show of the code's tables
	@$(BIN)/python docs/drawn.py

lock: install ## bring requirements.lock up to pyproject.toml (LOCK_ARGS=--upgrade for the newest of everything)
	@$(BIN)/pip install --quiet --disable-pip-version-check $(PIP_ARGS) 'uv>=0.9,<1'
	@UV_CUSTOM_COMPILE_COMMAND="make lock" $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --all-extras \
		--no-annotate --no-emit-index-url $(LOCK_ARGS) --output-file requirements.lock pyproject.toml

bench: install ## measure; prints ratios against named baselines, and goes on where it was cut off (BENCH_ARGS="--quick --only door,floor")
	@PYTHONPATH=tests $(BIN)/python -m bench $(BENCH_ARGS)

memory: install ## what runs take: told and took, what fits 80 GB, half a billion parameters here; goes on from files in .memory
	@mkdir -p .memory
	@$(BIN)/python tests/bench/bench_memory.py --results .memory/told.jsonl
	@$(BIN)/python tests/bench/fits.py --results .memory/fits.jsonl
	@$(BIN)/python tests/bench/half_billion.py --folder .memory/half-billion

million: install ## a million events in the lake, in .million; goes on where it was cut off (MILLION_ARGS="--data CORPORA --records 300000")
	@$(BIN)/python tests/bench/million.py --folder .million $(MILLION_ARGS)

fuzz: install ## hostile records, 1,000,000 of them, on a broker of its own (FUZZ_ARGS="--seed 2 --records 100000")
	@$(BIN)/python tests/fuzz/on_broker.py $(FUZZ_ARGS)

chaos: install ## 1,000 faults by seed, with a report (CHAOS_ARGS="--seeds 1-5 --kinds broker-killed")
	@PYTHONPATH=tests $(BIN)/python -m chaos $(CHAOS_ARGS)

chaos-feeder: install ## feeders of a lake killed 100 times and out of disk 20 times (CHAOS_ARGS="--seed 2 --kills 20")
	@PYTHONPATH=tests $(BIN)/python -m chaos.feeder $(CHAOS_ARGS)

simulate: install ## the gate over 2,000 simulated histories, one core (SIMULATE_ARGS="--only power"); goes on from its results file
	@PYTHONPATH=tests OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(BIN)/python -m simulations $(SIMULATE_ARGS)

clean: ## remove the virtual environment and caches
	@rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
