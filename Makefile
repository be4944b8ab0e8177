# make run                   serves on port 3000, timers under ./data
# make run-with-transports   the same, with all plug-ins of transports/ loaded
# make test                  everything that CI checks
# make simulate SEEDS=10000  that many simulated rings, with faults; make test plays 200
# make mutants               switches off each safety rule in turn: the simulator has to notice
# make chaos                 what real processes bear: half an hour, as root, and a report in build/
# make compose-up            five nodes, three NATS servers and nginx on port 8080, in Docker
# make compose-down          stops them; the timers stay
# They do all the set-up themselves: Python 3.11 or 3.12 and make are enough; with later ones, or on another processor
# than x86-64, g++ and LevelDB as well (Debian: apt install g++ libleveldb-dev).

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip install --quiet --disable-pip-version-check
RUN_ARGS ?=
TEST_ARGS ?=
CHAOS_ARGS ?=
SEEDS ?= 10000
FIRST ?= 0
COMPOSE = $(shell docker compose version >/dev/null 2>&1 && echo docker compose || echo docker-compose) \
          -f deploy/compose/docker-compose.yml --project-directory deploy/compose

PLUGINS      := tcp zmq nats redis amqp
PLUGIN_FILES := $(wildcard transports/*/pyproject.toml)

.PHONY: run run-with-transports install servers check test simulate mutants chaos format clean \
        compose-up compose-down

run: install
	$(BIN)/skyring run $(RUN_ARGS)

run-with-transports: $(VENV)/.installed-transports
	$(BIN)/skyring run $(PLUGINS:%=-t %) $(RUN_ARGS)

install: $(VENV)/.installed

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Skyring needs Python 3.11 or later; try: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@$(PYTHON) -c 'import platform, sys; sys.exit(sys.version_info >= (3, 13) or platform.machine() != "x86_64")' \
		|| echo '#include <leveldb/db.h>' | c++ -E -x c++ -o /dev/null - 2>/dev/null \
		|| { echo "here plyvel has to be compiled, which needs g++ and LevelDB (Debian: apt install g++ libleveldb-dev);" \
		          "or try: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(VENV)/bin/python pyproject.toml
	$(PIP) --editable .
	@touch $@

$(VENV)/.installed-transports: $(VENV)/bin/python pyproject.toml $(PLUGIN_FILES)
	$(PIP) --editable . $(PLUGINS:%=--editable ./transports/%)
	@touch $@ $(VENV)/.installed

$(VENV)/.installed-test: $(VENV)/bin/python pyproject.toml $(PLUGIN_FILES)
	$(PIP) --editable '.[test]' $(PLUGINS:%=--editable './transports/%[test]')
	@touch $@ $(VENV)/.installed $(VENV)/.installed-transports

servers:
	@tools/install-servers

check: $(VENV)/.installed-test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

test: servers check
	$(BIN)/pytest -n auto --dist loadfile $(TEST_ARGS)

simulate: $(VENV)/.installed-test
	$(BIN)/python -m skyring.testing.simulation seeds --seeds $(SEEDS) --first $(FIRST) --keep-going

mutants: $(VENV)/.installed-test
	$(BIN)/python -m skyring.testing.simulation mutants

chaos: servers $(VENV)/.installed-test
	$(BIN)/skyring bench chaos --report build/chaos $(CHAOS_ARGS)

compose-up:
	@$(COMPOSE) build node-1
	@$(COMPOSE) up -d
	@$(COMPOSE) ps
	@echo "http://localhost:8080 — stop with: make compose-down"

compose-down:
	@$(COMPOSE) --profile monitoring down

format: $(VENV)/.installed-test
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) build dist *.egg-info transports/*/build transports/*/*.egg-info
	rm -rf .mypy_cache .ruff_cache .pytest_cache
