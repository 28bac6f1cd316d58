# `make demo` and `make test` do all the set-up: they create .venv from the lock file first.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
PEER := .venv-mergekit

.PHONY: demo test test-slow test-campaigns mergekit check format index bench clean

demo: $(READY)
	$(BIN)/plait demo --out runs/demo

test: $(READY) check
	$(BIN)/python -m pytest -n 2 -m "not slow"

# Slower oracles: peers, long resume runs, fuzzing.
test-slow: $(READY)
	$(BIN)/python -m pytest -n 2 -m slow

# A study killed, ended, starved of disk and raced for, again and again; bad inputs and hostile
# names, every one; about an hour.
test-campaigns: $(READY)
	$(BIN)/python -W ignore tests/campaigns/run_campaigns.py
	$(BIN)/python -m pytest tests/bad_inputs tests/hostile -m "slow or not slow"

# mergekit beside plait, equal and measured; its pins need an environment of its own, torch is ours.
mergekit: $(PEER)/.ready
	$(BIN)/python -m pytest -m mergekit tests/recipes/test_mergekit_itself.py
	$(BIN)/python benchmarks/merging.py --mergekit $(PEER)/bin/python
	$(BIN)/python benchmarks/merging.py --mergekit $(PEER)/bin/python --type BF16

$(PEER)/.ready: $(READY)
	$(PYTHON) -m venv $(PEER)
	$(BIN)/python -c 'import site; print(site.getsitepackages()[0])' \
		> $$($(PEER)/bin/python -c 'import site; print(site.getsitepackages()[0])')/plait.pth
	$(PEER)/bin/python -m pip install --quiet --disable-pip-version-check mergekit==0.1.5
	touch $@

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
	rm -rf .venv $(PEER) build dist runs .mypy_cache .ruff_cache .pytest_cache
