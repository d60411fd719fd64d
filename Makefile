# `make demo` and `make test` install everything they need into .venv and run; a second run starts at once.
VENV := .venv
PYTHON ?= python3
BIN := $(VENV)/bin
DEMO_OUTPUT := demo-output

.PHONY: demo test lint clean

demo: $(VENV)/.installed
	HF_HUB_OFFLINE=1 $(BIN)/act-eval demo --output $(DEMO_OUTPUT)

test: $(VENV)/.installed-test
	$(BIN)/python -m pytest

lint: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

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
	rm -rf $(VENV) $(DEMO_OUTPUT)
