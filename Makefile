# Two commands are all that a newcomer needs: `make demo` and `make test`. Both set everything up by themselves
# and need only Python 3.11 or newer, git and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
UV_VERSION := 0.13.9
UV := $(BIN)/uv
STAMP := $(VENV)/.synced
PROTO_OUT ?= .
PROTOC = $(BIN)/python -m grpc_tools.protoc -I protos \
  --plugin=protoc-gen-mypy=$(BIN)/protoc-gen-mypy --plugin=protoc-gen-mypy_grpc=$(BIN)/protoc-gen-mypy_grpc

# Some machines forbid it for all; some hundred processes would then compile the same modules again and again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help demo test check lint types protos protos-check protos-breaking reference reference-check format bench clean \
  faults docs bench-full bench-rest

help: ## What can be made
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "  %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(UV):
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || { \
	  echo "kling-flows needs Python 3.11 to 3.13; '$(PYTHON)' is $$($(PYTHON) --version 2>&1). Try: make PYTHON=python3.11 $(MAKECMDGOALS)" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { echo "'$(PYTHON) -m venv' failed; on Debian: apt-get install python3-venv" >&2; exit 1; }
	@$(BIN)/pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)

$(STAMP): pyproject.toml uv.lock | $(UV)
	@VIRTUAL_ENV=$(VENV) $(UV) sync --quiet --active --frozen --inexact
	@touch $@

demo: $(STAMP) ## From a prompt to a video, without a key
	@$(BIN)/kling-flows demo $(if $(PROMPT),"$(PROMPT)")

test: check ## All checks and all tests
	$(BIN)/pytest

check: lint types protos-check protos-breaking reference-check ## Lint, types, layers, stubs

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	cd protos && ../$(BIN)/buf lint

types: $(STAMP)
	$(BIN)/pyright

format: $(STAMP) ## Format and fix what can be fixed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

protos: $(STAMP) ## Generate kling_flows/v1 from protos/
	@$(PROTOC) --python_out=$(PROTO_OUT) --mypy_out=quiet:$(PROTO_OUT) protos/kling_flows/v1/*.proto
	@$(PROTOC) --grpc_python_out=$(PROTO_OUT) --mypy_grpc_out=quiet:$(PROTO_OUT) protos/kling_flows/v1/video_task_service.proto
	@if [ "$(PROTO_OUT)" = . ] && command -v go >/dev/null; then PROTOC="$(abspath $(BIN))/python -m grpc_tools.protoc" examples/go/generate.sh; fi

protos-check: $(STAMP)
	@$(BIN)/python tests/tools/check_stubs.py

protos-breaking: $(STAMP)
	@cd protos && if git rev-parse --quiet --verify main >/dev/null; then \
	  ../$(BIN)/buf breaking --against '../.git#branch=main,subdir=protos'; fi

reference: $(STAMP) ## Write the tables of docs/ from the code
	@PYTHONPATH=. $(BIN)/python tests/tools/reference.py

reference-check: $(STAMP)
	@PYTHONPATH=. $(BIN)/python tests/tools/reference.py --check

faults: $(STAMP) ## Cause every fault with 100 tasks each; ends with the table of docs/reliability.md
	KLING_FLOWS_FULL_FAULTS=1 $(BIN)/pytest -n 2 -m "" tests/faults tests/clients tests/prefect tests/docs tests/topology tests/ledger/test_ledger_two_machines.py tests/engine/test_engine_model.py
	KLING_FLOWS_FULL_FAULTS=1 PYTHONPATH=. $(BIN)/python -m tests.faults

docs: $(STAMP) ## The documentation site, in site/
	$(BIN)/mkdocs build --strict

bench: $(STAMP) ## The short benchmark, half an hour
	$(BIN)/python -m benchmarks

bench-full: $(STAMP) ## The scoreboard: all peers under all scenarios, under an hour; writes its page
	$(BIN)/python -m benchmarks.peers --fresh --repeats 3 --write

bench-rest: $(STAMP) ## What did not fit into that hour, under another; adds to the page
	$(BIN)/python -m benchmarks.peers --missing --repeats 3 --write

clean: ## Remove what was set up here
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache .hypothesis
