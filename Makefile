# On a fresh machine, `make serve` installs and serves, and `make test` installs and runs all tests.
PYTHON ?= python3
BIN := .venv/bin
SHORT := --seconds 3 --rounds 3
LOWEST := $(patsubst %,tests/percept/%,bundle imaging runtime api server) tests/test_package.py
MANIFESTS := $(patsubst %,tests/deploy/test_%.py,manifests alerts dashboard compose)

# The image. Without access to a registry, run `make base image` as root: it builds the base image too.
CONTAINER ?= $(firstword $(foreach each,buildah podman docker,$(if $(shell command -v $(each)),$(each))))
BASE ?= debian:bookworm-slim
TARGET ?= cpu
VERSION = $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
REVISION = $(shell git describe --always --dirty --abbrev=40 --exclude='*' 2> /dev/null || echo unknown)
IMAGE ?= percept:$(VERSION)-$(TARGET)
BUILD_FLAGS ?=
# The docker format, because OCI's has no HEALTHCHECK; chroot isolation, because it needs no container runtime and so
# works inside a container too.
export BUILDAH_FORMAT ?= docker
export BUILDAH_ISOLATION ?= chroot

# The extras of pyproject.toml in each image.
CPU_EXTRAS := otel
CUDA_EXTRAS := cuda otel
LOCK = $(BIN)/uv pip compile --quiet --no-config --upgrade --python-version 3.11 --only-binary :all: --generate-hashes \
	--no-emit-index-url --no-annotate --custom-compile-command 'make lock' --output-file
.DEFAULT_GOAL := help
.PHONY: help install serve test lowest check format bench bench-gpu prove image base lock clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 10

install: .venv/serving ## install the service into .venv

serve: .venv/serving ## serve the built-in bundles on PERCEPT_HOST:PERCEPT_PORT
	@exec $(BIN)/percept serve

# Coverage doubles the time of tests that trace torch networks, so only the server's own tests run under it. The others run
# in one process per core, because tracing is Python on one thread; the server's tests need the machine for themselves.
test: .venv/developing ## run all tests and print the line coverage of the server
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest -q tests/percept
	$(BIN)/coverage combine --quiet
	@printf 'coverage of the server in percent: '; $(BIN)/coverage report --format=total
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q --ignore tests/percept --numprocesses auto --dist loadfile

lowest: .venv/developing ## test with the lowest versions that pyproject.toml allows
	rm -rf build/lowest && mkdir -p build/lowest
	$(BIN)/uv pip compile --quiet --no-config --resolution lowest-direct --python-version 3.11 --extra test pyproject.toml \
		--output-file build/lowest/constraints.txt
	$(PYTHON) -m venv build/lowest/venv
	build/lowest/venv/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[test]' \
		--constraint build/lowest/constraints.txt
	build/lowest/venv/bin/python -m pytest -q $(LOWEST)

check: .venv/developing ## lint, format and type checks; validate the manifests in deploy/
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q -rs $(MANIFESTS)

format: .venv/developing ## fix lint errors and format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# A benchmark that misses its limit does not stop the others; the last line names those that missed or failed.
bench: .venv/developing ## compare with bare ONNX Runtime, other servers and pytorch-grad-cam
	@missed=; for each in throughput.py gradients.py heatmap_latency.py 'overload.py $(SHORT)' 'http_overhead.py $(SHORT)' \
		'startup.py --rounds 3' 'server_comparison.py --networks squeezenet --concurrency 8 $(SHORT)'; do \
		echo; echo "benchmarks/$$each"; $(BIN)/python benchmarks/$$each || missed="$$missed $${each%% *}"; \
	done; echo; [ -z "$$missed" ] || { echo "missed or failed:$$missed"; exit 1; }

bench-gpu: .venv/developing ## compare the service with bare sessions on a CUDA device
	$(BIN)/python benchmarks/gpu.py

prove: .venv/developing ## run the long tests: full test splits, sustained load, the image
	$(BIN)/python -m pytest -q -m prove

image: ## build the container image: TARGET=cpu or cuda, BASE=image
	$(CONTAINER) build --target $(TARGET) --tag $(IMAGE) --build-arg BASE=$(BASE) --build-arg VERSION=$(VERSION) \
		--build-arg REVISION=$(REVISION) $(BUILD_FLAGS) .

base: ## build the base image with debootstrap, as root, without a registry
	deploy/base.sh localhost/debian:bookworm-slim

lock: .venv/developing ## update the exact versions in deploy/requirements
	$(BIN)/python -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['build-system']['requires'], sep='\n')" | \
		$(LOCK) deploy/requirements/build.txt -
	$(LOCK) deploy/requirements/cuda.txt pyproject.toml $(CUDA_EXTRAS:%=--extra %) \
		--python-platform x86_64-manylinux_2_28
	$(LOCK) deploy/requirements/cpu.txt pyproject.toml $(CPU_EXTRAS:%=--extra %) --universal \
		--override deploy/requirements/cpu.in --constraint deploy/requirements/cuda.txt

clean: ## remove what make created
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage* *.egg-info build dist

.venv/serving: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

.venv/developing: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[check]'
	@touch $@ .venv/serving
