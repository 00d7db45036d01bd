# `make demo` and `make test` do all the set-up they need: Python >= 3.11 and a package index are enough.

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin

SOURCES := $(shell find clerk_m2m -name '*.py' -o -name 'py.typed') pyproject.toml README.md

.PHONY: demo test lint types check test-all test-ends test-one soak bench overload live dist mutants clean

demo: $(VENV)/.installed
	$(BIN)/clerk-m2m demo

test: lint types check

lint: $(VENV)/.installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/zizmor --offline --quiet --pedantic .github

types: $(VENV)/.installed
	$(BIN)/mypy

# In two processes: the suite is meant for two cores. A part of it is run with plain pytest.
check: $(VENV)/.installed
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest -n 2 --dist worksteal
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

# The suite on every interpreter from 3.11 to 3.14 that is found, with the newest dependencies and
# with the lowest that pyproject.toml allows; then only the two ends of that. See noxfile.py.
test-all: $(VENV)/.tools
	$(BIN)/nox

test-ends: $(VENV)/.tools
	$(BIN)/nox --session ends

# One session: make test-one SESSION='tests-3.12(lowest)'
test-one: $(VENV)/.tools
	$(BIN)/nox --error-on-missing-interpreters --session "$(SESSION)"

soak: $(VENV)/.installed
	$(BIN)/pytest -m soak

bench: $(VENV)/.installed
	$(BIN)/python -m bench

# The documentation as a site, in `site/`. A broken link or anchor fails, and so does a public name
# without documentation. Once the tools are installed, no network is needed to build or to read it.
.PHONY: docs
docs: $(VENV)/.docs
	$(BIN)/pytest -q tests/test_site.py
	$(BIN)/zensical build --strict --clean

$(VENV)/.docs: $(VENV)/.installed
	$(BIN)/pip install --quiet --disable-pip-version-check '.[docs]'
	touch $@

# Against a development instance of your own: CLERK_SECRET_KEY=sk_test_…; see docs/live.md. Options
# are given as ARGS="--rate-limit". (make turns every exit code but 0 into 2.)
live: $(VENV)/.installed
	$(BIN)/python -m live $(ARGS)

# More asked than Clerk answers, over real sockets; some 25 minutes. SCENARIOS="cold-start hang" runs some.
overload: $(VENV)/.installed
	$(BIN)/python -m bench.overload $(SCENARIOS)

# Builds the wheel and the sdist, and installs them in new environments; see release/dist.py. With
# TAG=v0.1.0 the version and the changelog have to fit the tag.
dist: $(VENV)/.tools
	$(BIN)/python -m release.dist $(if $(TAG),--tag "$(TAG)")

# Changes the security core in 300 random places, one at a time, and runs the tests each time; some
# 45 minutes. ARGS="--sample 10" takes fewer. See release/mutants.py.
mutants: $(VENV)/.installed
	$(BIN)/python -m release.mutants $(ARGS)

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
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .coverage .coverage.* .hypothesis .nox .cache dist build htmlcov site
