# Two commands do everything on a fresh machine: `make serve` and `make test`.
PYTHON ?= python3
BIN := .venv/bin
.DEFAULT_GOAL := help
.PHONY: help install serve test check format bench prove clean

help: ## say what there is to make
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /\1\t/' | expand -t 10

install: .venv/serving ## install what serving needs into .venv

serve: .venv/serving ## serve the built-in bundles on PERCEPT_HOST:PERCEPT_PORT
	@exec $(BIN)/percept serve

test: .venv/developing ## run all tests
	$(BIN)/python -m pytest -q

check: .venv/developing ## lint, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: .venv/developing ## mend what ruff can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: .venv/developing ## the service against bare ONNX Runtime and other servers, Grad-CAM against pytorch-grad-cam
	$(BIN)/python benchmarks/throughput.py
	$(BIN)/python benchmarks/tails.py
	$(BIN)/python benchmarks/explaining.py
	$(BIN)/python benchmarks/serving.py --networks squeezenet --concurrency 8 --seconds 3 --rounds 3

prove: .venv/developing ## the heavier proofs: full test splits and long bombardments
	$(BIN)/python -m pytest -q -m prove

clean: ## remove what make has made
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info build dist

.venv/serving: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

.venv/developing: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[check]'
	@touch $@ .venv/serving
