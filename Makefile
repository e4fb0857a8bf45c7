# One environment for every task; what is installed already is not installed again.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test check bench soak docs clean

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Shipworthy needs Python 3.11 or newer; run: make PYTHON=python3.11 …"; exit 2; }
	@$(PYTHON) -m venv $(VENV) || { $(PYTHON) -m pip install --quiet virtualenv && $(PYTHON) -m virtualenv --quiet $(VENV); }

$(VENV)/.standard: pyproject.toml | $(BIN)/python
	@echo "Installing Shipworthy into $(VENV) (once; about a minute)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[standard,demo]'
	@touch $@

$(VENV)/.dev: $(VENV)/.standard
	@echo "Installing the tools of the tests into $(VENV) (once)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[standard,demo,dev]'
	@touch $@

.kserve/.done: | $(BIN)/python
	@echo "Installing KServe's client into .kserve (once): a caller that we did not write"
	@$(BIN)/python -m venv .kserve || $(BIN)/python -m virtualenv --quiet .kserve
	@.kserve/bin/python -m pip install --quiet --disable-pip-version-check 'kserve>=0.21'
	@touch $@

demo: $(VENV)/.standard ## a model's first year in production, on real flights
	@$(BIN)/shipworthy demo flights

test: $(VENV)/.dev .kserve/.done ## every behaviour, each fault with few repetitions
	@$(BIN)/pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

check: $(VENV)/.dev ## format, lint, types, import rules, docs
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/ruff check --quiet .
	@$(BIN)/lint-imports --no-cache
	@$(BIN)/mypy
	@$(BIN)/pytest tests/docs

$(VENV)/.bench: $(VENV)/.dev
	@echo "Installing the peers of the benchmarks into $(VENV) (once)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[standard,demo,dev,bench]'
	@touch $@

bench: $(VENV)/.bench ## ratios, side by side in one run
	@for file in bench/*.py; do echo "== $$file"; $(BIN)/python -m bench.$$(basename $$file .py) || exit 1; done

soak: $(VENV)/.dev ## the long repetitions; resumes, and writes docs/evidence/
	@$(BIN)/python tests/soak.py

docs: $(VENV)/.dev ## writes the generated reference
	@$(BIN)/python -m shipworthy.contract.reference > docs/contract.md

clean: ## removes what was built, not what was shipped
	rm -rf $(VENV) .kserve .mypy_cache .ruff_cache .pytest_cache .hypothesis demo-flights demo-mortgage
