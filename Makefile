# Two commands do everything on a fresh machine: `make serve` and `make test`.
PYTHON ?= python3
BIN := .venv/bin
SHORT := --seconds 3 --rounds 3
MANIFESTS := $(patsubst %,tests/deploy/test_%.py,manifests alerts dashboard compose)
.DEFAULT_GOAL := help
.PHONY: help install serve test check format bench bench-gpu prove clean

help: ## say what there is to make
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 10

install: .venv/serving ## install what serving needs into .venv

serve: .venv/serving ## serve the built-in bundles on PERCEPT_HOST:PERCEPT_PORT
	@exec $(BIN)/percept serve

test: .venv/developing ## run all tests
	$(BIN)/python -m pytest -q

check: .venv/developing ## lint, format and types; what deploy/ has, against the schemas of Kubernetes
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q -rs $(MANIFESTS)

format: .venv/developing ## mend what ruff can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# A bar that is missed must not keep the rest from being measured; the last line says whether one was.
bench: .venv/developing ## the service against bare ONNX Runtime and other servers, Grad-CAM against pytorch-grad-cam
	@missed=; for each in throughput.py tails.py explaining.py 'overload.py $(SHORT)' 'overhead.py $(SHORT)' \
		'start.py --rounds 3' 'serving.py --networks squeezenet --concurrency 8 $(SHORT)'; do \
		echo; echo "benchmarks/$$each"; $(BIN)/python benchmarks/$$each || missed="$$missed $${each%% *}"; \
	done; echo; [ -z "$$missed" ] || { echo "missed or failed:$$missed"; exit 1; }

bench-gpu: .venv/developing ## the service on a CUDA device against bare sessions on it
	$(BIN)/python benchmarks/gpu.py

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
