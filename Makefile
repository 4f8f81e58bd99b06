# Everything starts here. On a fresh machine with Python 3.11 to 3.13, make and a package index:
#   make demo   set up, then adapt the real tiny model to a domain and prove it
#   make plan   set up, then a whole plan of five phases at demonstration size, and its report
#   make test   set up, then all checks and tests
#   make docs   build the documentation into site/
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
OUT ?= demo-out
PLAN_OUT ?= plan-out
# Each loads models of its own: about 2 GB of memory apiece. On two cores the third works while the
# others wait for processes and signals.
TEST_PROCESSES ?= 3
READY = $(VENV)/.ready
READY_DEV = $(VENV)/.ready-dev
READY_DOCS = $(VENV)/.ready-docs

.PHONY: help setup demo plan test pytest lint coverage docs acceptance bench clean

help:
	@sed -n 's/^#   //p' Makefile

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; ok = (3, 11) <= sys.version_info[:2] <= (3, 13); sys.exit(0 if ok else "Python 3.11 to 3.13 is needed: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	@# torch first, at the pinned version: a range would pull gigabytes of CUDA packages on Linux.
	$(BIN)/python -m pip install --quiet --no-compile "$$(grep '^torch==' constraints.txt)" -c constraints.txt || true
	$(BIN)/python -m pip install --quiet --no-compile -c constraints.txt -e .
	@# On all cores, where pip takes one. A few files of packages are templates and no Python. Not
	@# the hundreds of other models of transformers, and no tests of packages: a third of all.
	$(BIN)/python -m compileall -qq -j 0 -x '/tests/|/transformers/models/(?!auto|bloom|encoder_decoder|moonshine)[a-z]' $(VENV)/lib || true
	touch $@

$(READY_DEV): $(READY)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[trace,ablate,postgresql,datasets,sherpa-onnx,studio]' --group dev
	touch $@

$(READY_DOCS): $(READY)
	$(BIN)/python -m pip install --quiet -c constraints.txt --group docs
	touch $@

demo: $(READY)
	$(BIN)/moonshine-tune demo --out $(OUT)

# The report is written whether or not the gates hold; the exit code stays the plan's. The same
# command goes on with a plan that was interrupted.
plan: $(READY)
	code=0; $(BIN)/moonshine-tune plan run demo --out $(PLAN_OUT) || code=$$?; \
	test ! -f $(PLAN_OUT)/plan.json || $(BIN)/moonshine-tune report $(PLAN_OUT); exit $$code

# The linters beside the tests: mypy takes a minute on one core.
test: $(READY_DEV)
	$(MAKE) --no-print-directory -j 2 lint pytest

pytest: $(READY_DEV)
	@# In the order of tests/conftest.py: xdist would start the files with the fewest tests last, and
	@# those take the longest.
	$(BIN)/python -m pytest -q -n $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder

lint: $(READY_DEV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell src tests benchmarks docs *.md Makefile pyproject.toml

# Without the real model, so that it takes minutes; the floor stands in pyproject.toml.
coverage: $(READY_DEV)
	$(BIN)/python -m pytest -q -m 'not real_model' --cov --cov-report=term --cov-report=html

docs: $(READY_DOCS)
	$(BIN)/python -m moonshine_tune.cli.reference docs
	$(BIN)/mkdocs build --strict

acceptance: $(READY_DEV)
	$(BIN)/python -m benchmarks.acceptance
	$(BIN)/python -m pytest -q -m slow

bench: $(READY_DEV)
	$(BIN)/python -m benchmarks.bench

clean:
	rm -rf $(VENV) demo-out plan-out bench-out site htmlcov .coverage .bench-tools
