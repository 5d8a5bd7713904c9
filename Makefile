# `make serve` and `make test` do all the set-up.
PYTHON ?= python3
PORT ?= 3000
BIN := .venv/bin
SERVE := .venv/.serve-installed
DEVELOP := .venv/.develop-installed
INSTALL := $(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints.txt

# What the container image installs, and its BOM lists.
IMAGE_EXTRAS := serve,grpc,sign,tracing

export BENTOML_DO_NOT_TRACK := True

.PHONY: help serve train-setup gpu test lint format types imports unit coverage test-data test-accuracy test-container test-hostile test-uploads test-first-answer test-ray test-gpu bench-serve bench-resilience soak bench-maps bench-train pictures test-triton protocol sbom release lock clean

help: ## Show the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 18

serve: $(SERVE) ## Start the service with the shipped models (PORT=3000)
	@exec $(BIN)/bentoml serve --port $(PORT)

train-setup: $(DEVELOP) ## Install the training pipeline: the command .venv/bin/limelight

# Two at a time: the tests sometimes wait, and checking the types takes a minute of one core.
test: lint ## Run everything that CI checks: format, lint, types, imports, tests
	$(MAKE) --no-print-directory --jobs=2 unit types imports

gpu: $(DEVELOP) ## Measure and train everything that needs a GPU, into build/gpu (14 minutes)
	$(BIN)/python -m bench.gpu

lint: $(DEVELOP)
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: $(DEVELOP)
	$(BIN)/mypy

imports: $(DEVELOP)
	$(BIN)/lint-imports

# Two processes with one thread each: with more threads, tests that train slow each other down.
# The tests start hundreds of processes, so they must be able to write bytecode.
PYTEST := OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE= $(BIN)/pytest --numprocesses=2 --dist=loadfile

unit: $(DEVELOP)
	$(PYTEST)

coverage: $(DEVELOP) ## Run the tests with coverage (twice as slow)
	$(PYTEST) --cov --cov-report=term:skip-covered

format: $(DEVELOP) ## Format the code and apply ruff's fixes
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

test-data: $(DEVELOP) ## Download the data sets again and compare them with the published ones
	$(BIN)/pytest tests/long/test_published_data.py

test-accuracy: $(DEVELOP) ## Post the test images of each shipped model to a service and compare with the manifests
	$(BIN)/pytest tests/long/test_served_accuracy.py

# In a memory cgroup where one can be made, as root or in a delegated one.
test-hostile: $(DEVELOP) ## Send 500 hostile images, requests and artefacts to a service in 1 GiB (10 minutes)
	$(BIN)/pytest tests/long/hostile

test-container: ## Build the container image, start it, send requests, stop it
	tests/long/container.sh

test-triton: $(DEVELOP) ## Compare with Triton; run KServe's client and perf_analyzer against the service
	$(BIN)/pytest tests/long/test_triton_oracle.py tests/long/test_foreign_clients.py

test-uploads: $(DEVELOP) ## Post images that cost much to decode, alone and beside honest clients (5 minutes)
	$(BIN)/pytest --capture=tee-sys tests/long/test_costly_uploads.py

test-ray: $(DEVELOP) ## Score images with Ray and with the local engine, and compare (a minute)
	$(BIN)/pytest tests/long/test_ray.py

test-first-answer: $(DEVELOP) ## Go from 180 photos to the first served answer in three minutes, on an idle machine
	$(BIN)/pytest --capture=tee-sys tests/long/test_first_answer.py

test-gpu: $(DEVELOP) ## Run the GPU script in miniature, isolated, on a CPU (5 minutes)
	$(BIN)/pytest tests/long/test_gpu_smoke.py

bench-serve: $(DEVELOP) ## Measure the service beside other servers, into build/ (30 minutes)
	$(BIN)/python -m bench.serve

bench-resilience: $(DEVELOP) ## Measure overload, floods, stops and kills, into build/ (15 minutes)
	$(BIN)/python -m bench.resilience

soak: $(DEVELOP) ## Serve honest and hostile clients for an hour while workers are killed; fail if anything grows
	$(BIN)/python -m bench.resilience soak

bench-maps: $(DEVELOP) ## Time the maps beside other libraries, into build/ (minutes, on an idle machine)
	$(BIN)/python -m bench.maps --to build

bench-train: $(DEVELOP) ## Time training to given accuracies, into build/ (hours, on an idle machine)
	$(BIN)/python -m bench.train --to build

pictures: $(DEVELOP) ## Draw the pictures of the README again (a minute, needs chromium)
	$(BIN)/python -m bench.pictures

protocol: $(DEVELOP) ## Compile service/oip/grpc/open_inference.proto
	$(BIN)/python -m grpc_tools.protoc --proto_path=service/oip/grpc --descriptor_set_out=service/oip/grpc/open_inference.binpb open_inference.proto

sbom: $(DEVELOP) ## Write the CycloneDX BOMs of the image's packages and of the shipped models, into build/sbom
	$(BIN)/uv venv --quiet --clear --python $(BIN)/python build/image-environment
	$(BIN)/uv pip install --quiet --python build/image-environment/bin/python --constraint constraints.txt --editable '.[$(IMAGE_EXTRAS)]'
	@mkdir -p build/sbom
	$(BIN)/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible --output-file build/sbom/image.cdx.json build/image-environment
	$(BIN)/python -m pipeline.exporting.bom --to build/sbom zoo/*/

.PHONY: release-key
release-key:
	@test -f "$(KEY)" || { echo 'error: make release KEY=limelight.key; docs/operations.md says how to make one' >&2; exit 1; }

# Nothing is uploaded. The zoo in the working tree is signed too: a version that it ships is the one in
# the release.
release: release-key sbom ## Build wheel, sdist, BOMs and signed models into dist (KEY=private key)
	rm -rf dist
	$(BIN)/uv build --quiet --build-constraint constraints.txt --out-dir dist
	openssl pkey -in "$(KEY)" -pubout -out zoo/limelight.pub
	$(BIN)/limelight sign zoo/*/ --key "$(KEY)"
	$(BIN)/limelight verify zoo/*/ --key zoo/limelight.pub
	cp build/sbom/*.cdx.json zoo/limelight.pub dist
	tar --create --gzip --file dist/models.tar.gz zoo
	cd dist && sha256sum -- * > SHA256SUMS
	@echo 'dist/ is complete. Next:'
	@echo '  git commit zoo         # if the signatures or the public key changed'
	@echo '  git tag VERSION        # that of pyproject.toml, and of CHANGELOG.md'
	@echo '  docker build --tag limelight:VERSION .'
	@echo '  publish dist/, and the SHA-256 of zoo/limelight.pub where people can compare it'

lock: $(DEVELOP) ## Rewrite constraints.txt from the installed packages
	$(BIN)/pip freeze --exclude-editable --disable-pip-version-check | grep -v '^limelight' > constraints.txt

clean: ## Remove everything that the other targets created
	rm -rf .venv build dist *.egg-info .*_cache .coverage

# uv installs in a fifth of pip's time. It comes last in a new environment, so an interrupted set-up
# starts again.
.venv/bin/uv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=...")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt uv

# Compiling to bytecode makes the first start of the service faster. Of what development needs, most is
# never imported, so that nothing of it is compiled here.
$(SERVE): pyproject.toml constraints.txt | .venv/bin/uv
	$(INSTALL) --compile-bytecode --editable '.[serve]'
	@touch $@

$(DEVELOP): pyproject.toml constraints.txt | .venv/bin/uv
	$(INSTALL) --editable '.[serve,train,dev]'
	@touch $@ $(SERVE)
