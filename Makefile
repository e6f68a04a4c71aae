# `make demo` and `make test` do all the set-up they need; nothing else has to be installed first.
PYTHON ?= python3
comma := ,
VENV := .venv
BIN := $(VENV)/bin
# What only continuous integration tests: hundreds of megabytes.
EXTRAS := dev$(if $(CI),$(comma)ray$(comma)lm-eval$(comma)tensorboard$(comma)wandb)

.PHONY: demo test fast lint clean

demo: $(VENV)/ready
	$(BIN)/textmill run configs/demo.yaml

# The slow tests run where CI is set, as continuous integration services do, or with `make test CI=1`. Two files at a
# time, in the order of the folders: many tests wait for servers, which each worker has of its own.
test: $(VENV)/ready lint
	$(BIN)/python -m pytest --numprocesses=2 --dist=loadfile --no-loadscope-reorder $(if $(CI),,-m "not slow")

# What needs no server, no training and no process (tests/conftest.py); less than a minute on two cores.
fast: $(VENV)/ready
	$(BIN)/python -m pytest --fast --durations=5

lint: $(VENV)/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-logo
	$(BIN)/mypy

# Every package is pinned in constraints.txt; the environment follows whenever either file changes.
$(VENV)/ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("Textmill needs Python 3.11 or newer; this is %s. Try: make PYTHON=python3.12" % sys.version.split()[0] if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[$(EXTRAS)]'
	$(BIN)/textmill compile
	@touch $@

clean:
	rm -rf $(VENV) *.egg-info .pytest_cache .ruff_cache .import_linter_cache .mypy_cache .hypothesis
