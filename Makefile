# make demo   set up, then prepare, train, evaluate, sweep and count tokens on embedded data
# make test   set up, then run all tests but those marked slow, which make test-slow runs
# They set up once; a second call does not install anything.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Two processes on two cores: a second thread in each would only wait for the other process.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

.PHONY: demo test test-slow lint types setup clean

demo: setup
	$(BIN)/python scripts/demo.py

test: setup
	$(PYTEST)

test-slow: setup
	$(PYTEST) -m slow

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup
	$(BIN)/mypy
	$(BIN)/mypy scripts/*.py

setup: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	@touch $@

clean:
	rm -rf $(VENV) demo .mypy_cache .ruff_cache .pytest_cache
