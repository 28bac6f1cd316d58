# `make demo` and `make test` do all the set-up: they create .venv from the lock file first.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.PHONY: demo test test-slow test-campaigns check format index bench clean

demo: $(READY)
	$(BIN)/plait demo --out runs/demo

test: $(READY) check
	$(BIN)/python -m pytest -n 2 -m "not slow"

# Slower oracles: peers, long resume runs, fuzzing.
test-slow: $(READY)
	$(BIN)/python -m pytest -n 2 -m slow

# A study killed, ended, starved of disk and raced for, again and again; about 40 minutes.
test-campaigns: $(READY)
	$(BIN)/python -W ignore tests/campaigns/run_campaigns.py

check: $(READY)
	$(BIN)/ruff check --quiet .
	$(BIN)/ruff format --check --quiet .
	$(BIN)/mypy

format: $(READY)
	$(BIN)/ruff check --quiet --fix .
	$(BIN)/ruff format --quiet .

# What is generated from the cards: the index of methods, the method pages, the study schema.
index: $(READY)
	$(BIN)/python -m plait.testing.index
	$(BIN)/python -m plait.testing.docs
	$(BIN)/python -m plait.recipes.schema

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "plait needs Python 3.11 or newer; set PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $@

clean:
	rm -rf .venv build dist runs .mypy_cache .ruff_cache .pytest_cache
