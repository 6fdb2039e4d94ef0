# `make run` and `make test` are all that a fresh machine with Python >= 3.10 needs.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help run test coverage nightly mutants check lint format sync types docs bench soak interop tools build clean

help:  ## list the targets
	@sed -n 's/^\([a-z]*\):.*##/\1\t/p' $(MAKEFILE_LIST) | expand -t 10

# A stamp file for each set of packages; it is made again when its prerequisites change.
$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.run: setup.cfg setup.py | $(VENV)/bin/python
	$(PIP) -e '.[local]'
	touch $@

$(VENV)/.test: setup.cfg setup.py | $(VENV)/bin/python
	$(PIP) -e '.[local,test]'
	touch $@

$(VENV)/.check: setup.cfg setup.py | $(VENV)/bin/python
	$(PIP) -e '.[local,test,check]'
	touch $@

run: $(VENV)/.run  ## install, fetch the local model, serve on 127.0.0.1:8000
	$(BIN)/choreo-wsgi fetch-model
	exec $(BIN)/choreo-wsgi serve --preload $(ARGS)

tools:  ## install the servers and the browser that the tests use (Debian, as root)
	@PATH="$$PATH:/usr/local/sbin:/usr/sbin:/sbin" sh tests/tools.sh

# The package of old programs, in its own folder beside the current openai.
build/openai-0.28/.installed: | $(VENV)/.test
	rm -rf $(@D)
	$(PIP) --target $(@D) openai==0.28.1
	touch $@

# A browser's driver, React and its compiler.
WEB := tests/programs/web
build/web/.installed: $(WEB)/package.json $(WEB)/package-lock.json | tools
	mkdir -p $(@D)
	cp $^ $(@D)
	if command -v npm >/dev/null; then cd $(@D) && npm ci --silent --no-audit --no-fund && \
	  touch .installed; else echo "npm is missing: the browser's tests will be skipped"; fi

# Two processes per core and one more, as tests mostly wait.  The tests of a file run in one
# process: they share its servers.
WORKERS ?= $(shell expr 2 \* $$(getconf _NPROCESSORS_ONLN) + 1)
test: $(VENV)/.test tools build/openai-0.28/.installed build/web/.installed  ## run the tests on all cores; make check runs those too that need linters or sphinx
	$(BIN)/choreo-wsgi fetch-model
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(ARGS)

# Every Python process of the run is measured, whatever its environment and folder.
MEASURE = $(shell $(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' 2>/dev/null)/measure.pth
coverage: $(VENV)/.check  ## run the tests, and list the lines and branches that none of them runs
	rm -rf build/coverage && mkdir -p build/coverage
	echo 'import os; os.environ.update(COVERAGE_FILE="$(CURDIR)/build/coverage/data", COVERAGE_PROCESS_START="$(CURDIR)/setup.cfg"); import coverage; coverage.process_startup()' > $(MEASURE)
	$(MAKE) test; status=$$?; rm $(MEASURE); exit $$status
	cd build/coverage && ../../$(BIN)/coverage combine -q --rcfile=../../setup.cfg --data-file=data
	$(BIN)/coverage report --data-file=build/coverage/data --show-missing --skip-covered --fail-under=97

lint: $(VENV)/.check  ## check for mistakes and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.check  ## check the types of both packages
	$(BIN)/mypy

docs: $(VENV)/.check  ## build the documentation, warnings are errors
	$(BIN)/python -m sphinx -W -q -b html docs docs/_build/html

check: lint types docs test  ## lint, types, docs and tests

sync: $(VENV)/.check  ## generate the sync client, and the stub of the objects
	$(BIN)/python tests/generate/unasync.py

format: $(VENV)/.check  ## format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.bench  ## measure, beside hand-written relays; ratios within one run
	$(BIN)/python -m bench

soak: $(VENV)/bin/python  ## ten minutes of mixed load; checks every answer, memory and threads
	$(BIN)/python -m bench.soak

$(VENV)/.bench: setup.cfg setup.py | $(VENV)/bin/python
	$(PIP) -e '.[test,bench]'
	touch $@

interop: $(VENV)/.interop  ## run the tests against real third-party servers (large downloads)
	$(BIN)/python -m pytest -m interop

$(VENV)/.interop: setup.cfg setup.py | $(VENV)/bin/python
	$(PIP) -e '.[local,test]'
	touch $@

# The long runs: property tests with many times the examples, the tests shuffled, the interop.
nightly: $(VENV)/.check tools build/openai-0.28/.installed build/web/.installed  ## the long tests, with a summary of one screen
	CHOREO_NIGHTLY=1 $(BIN)/python -m tests.long_runs

mutants: $(VENV)/.check tools  ## plant faults in a copy of the code; print those that no test detects
	$(BIN)/python -m tests.mutants $(ARGS)

build: $(VENV)/.check  ## build the sdist and the wheel
	$(PIP) build
	$(BIN)/python -m build

clean:  ## remove all generated files
	rm -rf $(VENV) build dist docs/_build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
