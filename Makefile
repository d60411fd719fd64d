# `make demo` and `make test` install everything they need into .venv and run; a second run starts at once.
VENV := .venv
PYTHON ?= python3
BIN := $(VENV)/bin
DEMO_OUTPUT := demo-output
MATRIX := oldest newest
PYTEST := --numprocesses logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder
MATRIX_TESTS := attention methods harness/test_lm.py sinks test_profiles.py test_registration.py compare test_trouble.py

.PHONY: demo test test-fast test-thorough test-real test-matrix lint style types layers clean
.PRECIOUS: .venv-%/.installed

demo: $(VENV)/.installed
	HF_HUB_OFFLINE=1 $(BIN)/act-eval demo --output $(DEMO_OUTPUT)

test: $(VENV)/.installed-test
	$(BIN)/python -m pytest $(PYTEST)

# What needs no process, browser or long run of its own.
test-fast: $(VENV)/.installed-test
	$(BIN)/python -m pytest $(PYTEST) -m 'unit or model'

# Every member of each grid and many examples, where `make test` tries representative ones.
test-thorough: $(VENV)/.installed-test
	ACT_EVAL_THOROUGH=1 $(BIN)/python -m pytest $(PYTEST)

# On real models, one test after the other: they take gigabytes. tests/README.md says where they come from.
test-real: $(VENV)/.installed-test
	$(BIN)/python -m pytest -m real

# Oldest and newest supported transformers and lm-eval, each in its own environment with its own constraints.
test-matrix: $(MATRIX:%=test-%)

test-%: .venv-%/.installed
	.venv-$*/bin/python -m pytest $(PYTEST) $(MATRIX_TESTS:%=tests/%)

.venv-%/.installed: constraints-%.txt pyproject.toml
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/pip install --quiet $$(grep '^torch==' $<)
	$(@D)/bin/pip install --quiet --constraint $< --editable '.[test]'
	touch $@

# `make --keep-going lint` goes on after a failure.
lint: style types layers

style: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed-test
	$(BIN)/mypy

# Which package may import which: pyproject.toml, [tool.importlinter].
layers: $(VENV)/.installed-test
	$(BIN)/lint-imports --no-logo

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

# torch comes first and by its exact version: a range may bring gigabytes of CUDA libraries.
$(VENV)/.installed: $(VENV)/bin/python pyproject.toml constraints.txt
	$(BIN)/pip install --quiet $$(grep '^torch==' constraints.txt)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable .
	touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[test]'
	touch $@

clean:
	rm -rf $(VENV) $(MATRIX:%=.venv-%) $(DEMO_OUTPUT)
