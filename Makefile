# Two commands matter on a fresh machine: `make demo` and `make test`.
# Everything is installed into .venv, from ranges in pyproject.toml.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
# Tests run on this many processes; the compilers inside them use threads of their own.
JOBS   ?= 2

.PHONY: help setup gpu-compilers demo test test-types test-gpu test-zoo check lint models web bench clean

help:
	@echo "make demo          set up .venv, compile real models for TPU, check them, show what they cost"
	@echo "make test          set up .venv, run the tests (under 15 minutes on 2 cores)"
	@echo "make gpu-compilers add the compilers for NVIDIA GPUs, which need none (1 GB), and so their tests"
	@echo "make test-types    every operator version and element type against two oracles (about 5 minutes)"
	@echo "make test-zoo      install torch and transformers into .venv, run the tests on what they export"
	@echo "make test-gpu      what needs an NVIDIA GPU"
	@echo "make check         format, lint, types, layers and the fast tests (under 90 seconds)"
	@echo "make web           lint, test and build the front end of the HTML report (needs node)"
	@echo "make bench         the speed figures: start-up, optimiser scaling, peak memory"

# Rebuilt only when pyproject.toml changes.
$(VENV)/.ready: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "graphopt needs Python 3.11 or newer; this is $$($(PYTHON) --version). Set PYTHON=python3.x" >&2; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[tpu,dev]'
	@touch $@

setup: $(VENV)/.ready

# TensorRT-RTX (96 MB to fetch, 235 MB in place) and XLA:GPU (710 MB in place): half a minute.
gpu-compilers: $(VENV)/.gpu-compilers

$(VENV)/.gpu-compilers: $(VENV)/.ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[tensorrt-rtx,xla-gpu-compiler]'
	@touch $@

models: setup
	$(BIN)/python samples/fetch_models.py

# The report's front end: what is built is committed, so that users need no node.
web/node_modules/.ready: web/package-lock.json
	cd web && npm ci --no-audit --no-fund
	@touch $@

web: web/node_modules/.ready
	cd web && npm run lint && npm test && npm run build

demo: setup
	$(BIN)/python samples/demo.py

test: setup
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal -m "not zoo"

# Where pip finds torch's build for CPUs (its find-links, say) that is what it takes; the package index
# alone has the CUDA build for Linux on x86-64, several GB. Nothing but these tests needs either.
$(VENV)/.zoo-ready: $(VENV)/.ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[zoo]'
	@touch $@

# Exports are kept in models/zoo. worksteal leaves the tests of one model with the process that exports it.
test-zoo: $(VENV)/.zoo-ready
	$(BIN)/python -m pytest tests/zoo -n $(JOBS) --dist worksteal

# Every operator in every version and element type: docs/operator-types.md is made of it.
test-types: setup
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal tests/onnx_backend/test_type_sweep.py --every-type

# Fast enough to run before every commit.
check: setup lint
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal -m "not slow and not models and not tpu_compiler and not tensorrt_rtx and not xla_gpu and not zoo"

# On a machine with an NVIDIA GPU: everything that needs one. It fails, rather than skips, without.
test-gpu: setup
	$(BIN)/python -m graphopt doctor
	GRAPHOPT_REQUIRE_GPU=1 $(BIN)/python -m pytest -m gpu -n 0 -rs

lint: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy -p graphopt
	$(BIN)/lint-imports

bench: setup
	$(BIN)/python benchmarks/speed.py

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .hypothesis
