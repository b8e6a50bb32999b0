# Everything starts here; each target first makes sure that the Python environments are complete (instant once they are).
PYTHON ?= python3.11
BIN := .venv/bin
SOURCES := include plugins containers dags tests
CHECKS := lint format types imports unit integration

.PHONY: help setup demo test down kill-matrix bench-gates bench-evaluation bench-training bench-gateway bench-rollout \
  rollout-faults $(CHECKS)
.DEFAULT_GOAL := help

help:
	@echo "make demo         set up, start the local stack and run the whole road once"
	@echo "make test         all checks: $(CHECKS)"
	@echo "make <check>      one of them"
	@echo "make setup        only make the environments .venv, .venv-ml and .venv-harness"
	@echo "make down         stop the local stack"
	@echo "make bench-evaluation  measure the evaluation's runner against a server that answers at once"
	@echo "make kill-matrix  kill what a training depends on, and measure what is lost and for how long (half an hour)"
	@echo "make rollout-faults  kill everything at every step of a rollout (half an hour; FAULTS=real: on a real vLLM)"
	@echo "make bench-gates  measure the data gates (minutes; BENCH_SCALE=0.1: a tenth of it)"
	@echo "make bench-rollout  race promotions, switch and roll back under load, and try bad adapters (minutes)"
	@echo "make bench-training  measure training on the CPU and, where there is one, on the GPU (minutes)"
	@echo "make bench-gateway  measure the gateway beside nginx and LiteLLM, and kill what it depends on (minutes)"

setup:
	@command -v $(PYTHON) >/dev/null || { \
	  echo "Python 3.11 is missing: apt-get install python3.11 python3.11-venv, or name it: make PYTHON=/path/to/python3.11"; \
	  exit 3; }
	@$(PYTHON) include/tollgate/stack/environments.py

demo: setup
	@$(BIN)/tollgate demo

down:
	@if [ -x $(BIN)/tollgate ]; then $(BIN)/tollgate down; else echo "There is no environment, so nothing runs."; fi

# All checks run, also after a failed one; the last lines tell which failed.
test: setup
	@passed=; failed=; \
	for check in $(CHECKS); do \
	  echo; echo "=== $$check"; \
	  if $(MAKE) --no-print-directory $$check; then passed="$$passed $$check"; else failed="$$failed $$check"; fi; \
	done; \
	echo; echo "passed:$${passed:- none}"; echo "failed:$${failed:- none}"; \
	test -z "$$failed"

lint: setup
	@$(BIN)/ruff check .

format: setup
	@$(BIN)/ruff format --check .

types: setup
	@$(BIN)/mypy $(SOURCES)

imports: setup
	@PYTHONPATH=include:plugins:containers $(BIN)/lint-imports

unit: setup
	@$(BIN)/pytest tests/unit

integration: setup
	@$(BIN)/pytest tests/integration

# Kills what a training depends on, one after the other, and writes build/reliability/kill_matrix.md.
kill-matrix: setup
	@$(BIN)/pytest tests/reliability -v

# Kills each service and the task at each step of a rollout; the table is in build/bench/rollout_faults.json.
FAULTS ?= all
rollout-faults: setup
	@TOLLGATE_FAULTS=$(FAULTS) $(BIN)/pytest tests/integration/test_rollout_faults.py -v -s

# The libraries to compare with lie over the main environment, which they must not change.
BENCH_BIN := .venv-bench/bin
bench-gates: setup
	@test -x $(BENCH_BIN)/python || { \
	  $(BIN)/python -m venv .venv-bench && \
	  $(BIN)/python -c "import sysconfig; print(sysconfig.get_path('purelib'))" \
	    > "$$($(BENCH_BIN)/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")/main.pth"; }
	@$(BENCH_BIN)/python -m pip install --quiet --disable-pip-version-check -r tests/performance/requirements.txt \
	  || echo "Some libraries to compare with can't be installed; the table says which."
	@PYTHONPATH=include:. $(BENCH_BIN)/python -m tests.performance.benchmark_gates

bench-evaluation: setup
	@PYTHONPATH=include:. $(BIN)/python -m tests.performance.benchmark_evaluation

bench-training: setup
	@PYTHONPATH=include:plugins:containers:. $(BIN)/python -m tests.performance.benchmark_training_speed

bench-rollout: setup
	@PYTHONPATH=include:plugins:containers:. $(BIN)/python -m tests.performance.benchmark_rollout

# LiteLLM's proxy to compare with has an environment of its own; without one it is left out.
LITELLM := .venv-litellm
bench-gateway: setup
	@test -x $(LITELLM)/bin/litellm || { $(BIN)/python -m venv $(LITELLM) && \
	  $(LITELLM)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps \
	    -r tests/performance/requirements-litellm.txt; } \
	  || echo "LiteLLM can't be installed; the table goes on without it."
	@PYTHONPATH=include:plugins:containers:. BENCH_LITELLM=$${BENCH_LITELLM:-$(LITELLM)} \
	  $(BIN)/python -m tests.performance.benchmark_gateway
