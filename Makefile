# Two commands do all the set-up: `make serve` and `make test`.
PYTHON ?= python3
PORT ?= 3000
BIN := .venv/bin
SERVE := .venv/.serve-installed
DEVELOP := .venv/.develop-installed
INSTALL := $(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --constraint constraints.txt

export BENTOML_DO_NOT_TRACK := True

.PHONY: help serve train-setup gpu test lint format types imports unit coverage test-data test-accuracy test-container bench-serve bench-resilience bench-maps bench-train pictures test-triton protocol lock clean

help: ## Show the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 18

serve: $(SERVE) ## Start the service with the shipped models (PORT=3000)
	@exec $(BIN)/bentoml serve --port $(PORT)

train-setup: $(DEVELOP) ## Install what training needs: the command .venv/bin/limelight

test: lint types imports unit ## Everything CI checks

gpu: $(DEVELOP) ## Measure and train everything that needs a GPU, into build/gpu: eight minutes
	$(BIN)/python -m bench.gpu

lint: $(DEVELOP)
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: $(DEVELOP)
	$(BIN)/mypy

imports: $(DEVELOP)
	$(BIN)/lint-imports

# Two files at a time, of one thread each: with more, those that train wait for each other's threads.
# Hundreds of processes are started, so that bytecode is to be kept.
PYTEST := OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE= $(BIN)/pytest --numprocesses=2 --dist=loadfile

unit: $(DEVELOP)
	$(PYTEST)

coverage: $(DEVELOP) ## Run the tests and say what they miss: twice as slow
	$(PYTEST) --cov --cov-report=term:skip-covered

format: $(DEVELOP) ## Format the code and mend what ruff can
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

test-data: $(DEVELOP) ## Fetch the data sets again from the registry and compare them with what is published
	$(BIN)/pytest tests/long/test_published_data.py

test-accuracy: $(DEVELOP) ## Post all 20,000 test images to the running service and compare with the manifests
	$(BIN)/pytest tests/long/test_served_accuracy.py

test-container: ## Build the image, run it, ask it, stop it
	tests/long/container.sh

test-triton: $(DEVELOP) ## Ask Triton and us the same; let KServe's client and perf_analyzer ask us
	$(BIN)/pytest tests/long/test_triton_oracle.py tests/long/test_foreign_clients.py

bench-serve: $(DEVELOP) ## Measure the service and its peers into build/serve.json and .md: half an hour
	$(BIN)/python -m bench.serve

bench-resilience: $(DEVELOP) ## Measure overload, stops, kills and memory into build/: a quarter of an hour
	$(BIN)/python -m bench.resilience

bench-maps: $(DEVELOP) ## Time maps, ours and the peers', into build/maps.json and .md: some minutes, let nothing else run
	$(BIN)/python -m bench.maps --to build

bench-train: $(DEVELOP) ## Time training to given accuracies into build/train.json and .md: hours, let nothing else run
	$(BIN)/python -m bench.train --to build

pictures: $(DEVELOP) ## Draw the pictures of the README again: a minute, chromium
	$(BIN)/python -m bench.pictures

protocol: $(DEVELOP) ## Compile service/oip/rpc/open_inference.proto again
	$(BIN)/python -m grpc_tools.protoc --proto_path=service/oip/rpc --descriptor_set_out=service/oip/rpc/open_inference.binpb open_inference.proto

lock: $(DEVELOP) ## Rewrite constraints.txt from what is installed
	$(BIN)/pip freeze --exclude-editable --disable-pip-version-check | grep -v '^limelight' > constraints.txt

clean: ## Remove what the other targets made
	rm -rf .venv build dist *.egg-info .*_cache .coverage

# uv comes last in a new environment: one that broke off half-way is made again. It takes a fifth of
# pip's time.
.venv/bin/uv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=...")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt uv

$(SERVE): pyproject.toml constraints.txt | .venv/bin/uv
	$(INSTALL) --editable .
	@touch $@

$(DEVELOP): pyproject.toml constraints.txt | .venv/bin/uv
	$(INSTALL) --editable '.[train,dev]'
	@touch $@ $(SERVE)
