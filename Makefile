# `make serve` and `make test` need nothing but Python 3.11 or newer; `make help` lists the rest.

HOST ?= 127.0.0.1
PORT ?= 8000
PYTHON ?= python3
# Which ONNX Runtime: cpu, or gpu for CUDA 13. They exclude each other, so each has its own environment.
EXTRA ?= cpu
VENV ?= $(if $(filter cpu,$(EXTRA)),.venv,.venv-$(EXTRA))
# Installed before the other training libraries, so that a CPU-only build given by PIP_* settings is what stays.
TORCH ?= torch==2.13.0
PYTEST_ARGS ?=

# The official builds of ONNX Runtime report to their maker unless this is set before they are loaded.
export ORT_DISABLE_TELEMETRY := 1

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: help serve test check bench bench-gpu lock
.DEFAULT_GOAL := help

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

serve: $(VENV)/.serve.stamp ## Serve model_store/ on 127.0.0.1:8000; HOST, PORT and EXTRA=gpu change it
	@exec $(BIN)/seq2serve serve --host $(HOST) --port $(PORT)

test: $(VENV)/.dev.stamp ## Run all tests; PYTEST_ARGS="tests/text -x" narrows them
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile $(PYTEST_ARGS)

check: $(VENV)/.dev.stamp ## Lint, format, types and the import table: quick enough for every commit
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy --strict app
	@$(BIN)/python -m pytest --noconftest -p no:cacheprovider tests/test_architecture.py

bench: $(VENV)/.dev.stamp ## Measure the service and the engine; raw numbers go to benchmarks/results/
	@$(BIN)/python -m benchmarks

bench-gpu: ## Measure decoding on CUDA beside CTranslate2 float16; needs EXTRA=gpu, RUN and SEQ2SERVE_DATA
	@$(MAKE) --no-print-directory EXTRA=gpu .venv-gpu/.dev.stamp
	@$(PIP:$(BIN)/python%=.venv-gpu/bin/python%) ctranslate2 transformers
	@.venv-gpu/bin/python -m benchmarks.decode $(if $(RUN),--run $(RUN)) --device cuda --batches 1 64 256 --name decode-gpu

lock: ## Write requirements-*.lock anew from pyproject.toml; UPGRADE=--upgrade takes newer versions
	@test -x .venv-lock/bin/uv || { $(PYTHON) -m venv .venv-lock && .venv-lock/bin/python -m pip install -q uv; }
	@for extra in cpu gpu; do \
	  .venv-lock/bin/uv pip compile --quiet --universal --python-version 3.11 --extra $$extra --generate-hashes \
	    --no-emit-index-url --no-header $(UPGRADE) -o requirements-$$extra.lock pyproject.toml || exit 1; \
	done

$(BIN)/python:
	@$(PYTHON) -c 'import sys; v = sys.version_info; v >= (3, 11) or sys.exit("Python %d.%d found, 3.11 or newer needed; say make PYTHON=/path/to/python3.11" % v[:2])'
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.serve.stamp: requirements-$(EXTRA).lock pyproject.toml | $(BIN)/python
	@echo "Installing the serving packages into $(VENV) (once)"
	@$(PIP) --require-hashes -r requirements-$(EXTRA).lock
	@$(PIP) --no-deps --editable .
	@touch $@

$(VENV)/.dev.stamp: $(VENV)/.serve.stamp
	@echo "Installing PyTorch and the test tools into $(VENV) (once)"
	@$(PIP) "$(TORCH)"
	@$(PIP) --editable ".[$(EXTRA),train,dev]"
	@touch $@
