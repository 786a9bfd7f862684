# make quickstart   set up and run the whole journey: data, training, evaluation, report
# make test         set up, then lint, types and all tests
# Another Python:   make quickstart PYTHON=python3.12 VENV=.venv312
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --disable-pip-version-check --quiet --constraint constraints.txt

.PHONY: quickstart test check format docs clean

quickstart: $(VENV)/installed
	$(BIN)/attune quickstart

# One thread for each process: processes that share processors wait for each other's threads.
# A process that has run out of tests takes some of another one: files are of very different cost.
test: check
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 8 --dist worksteal

check: $(VENV)/installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(VENV)/installed-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# The stamps make a second run start at once; a changed pyproject.toml or constraints.txt installs again.
$(VENV)/installed: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing attune into $(VENV). The first time this downloads torch and takes some minutes."
	$(INSTALL) --editable .
	@touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(INSTALL) --editable '.[dev]'
	@touch $@

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "attune needs Python 3.10 or newer; $(PYTHON) is older or absent. Name another one: make quickstart PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

# The page of all settings is made from the schema, that of all rules from the catalog of the check, that of
# the guards from theirs.
docs: $(VENV)/installed
	$(BIN)/python docs/make_config.py > docs/config.md
	$(BIN)/python docs/make_rules.py > docs/rules.md
	$(BIN)/python docs/make_guards.py > docs/guards.md

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
