# `make demo` and `make test` do all the set-up they need: Python >= 3.11 and a package index are enough.

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin

SOURCES := $(shell find clerk_m2m -name '*.py' -o -name 'py.typed') pyproject.toml README.md

.PHONY: demo test lint types check soak bench clean

demo: $(VENV)/.installed
	$(BIN)/clerk-m2m demo

test: lint types check

lint: $(VENV)/.installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(VENV)/.installed
	$(BIN)/mypy

check: $(VENV)/.installed
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

soak: $(VENV)/.installed
	$(BIN)/pytest -m soak

bench: $(VENV)/.installed
	$(BIN)/python -m bench

$(VENV)/.tools: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed; set PYTHON=…")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check '.[dev]'
	touch $@

# The tests run against the installed package, never against the checkout: reinstall when a source changes.
$(VENV)/.installed: $(VENV)/.tools $(SOURCES)
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --force-reinstall .
	touch $@

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .coverage .hypothesis dist
