# Thin: each target is a line or two. `make up` needs python3 (3.11 or newer) and make.
# Debian's own python3 is built with profile-guided optimization: a tenth faster than a plain build
# that may come first in the PATH.
PYTHON ?= $(firstword $(wildcard /usr/bin/python3) python3)
PORT ?=
MACHINES ?= 1
ENGINE ?= files
MINUTES ?= 30
SEED ?=
BIN := .venv/bin

.PHONY: up down lab test test-here test-machines test-database test-organization faults check lint \
  unit bench lock

# Machines on this computer, and a site that knows them: make lab MACHINES=6
lab: .venv/.run
	@$(BIN)/coordctl lab up --machines $(MACHINES) --yes

up: .venv/.run
	@test -x /usr/sbin/logrotate || { test "$$(id -u)" = 0 && { $(call install,logrotate); } >/dev/null; } || \
	  echo "logrotate is missing: the events log is not rotated. Next: sudo apt-get install logrotate"
	@$(BIN)/coordctl up $(if $(PORT),--port $(PORT))
	@case ":$$PATH:" in *":$(CURDIR)/$(BIN):"*) ;; *) \
	  echo; echo "The commands are in $(BIN): '. $(BIN)/activate' finds them without it.";; esac

down: .venv/.run
	@$(BIN)/coordctl down

test: .venv/.dev
	@command -v ab >/dev/null && command -v redis-server >/dev/null && test -x /usr/sbin/logrotate && \
	  test -x /usr/lib/rabbitmq/bin/rabbitmq-server && \
	  test -n "$(wildcard /usr/lib/*/faketime/libfaketime.so.1)" || \
	  { $(call install,apache2-utils libfaketime logrotate rabbitmq-server redis-server); }
	@$(MAKE) --no-print-directory -j2 test-here test-machines
	$(BIN)/pytest -q -s -m "organization and not long" tests/lab tests/faults

# What needs no machine but this one or the database's, and what provisions others. On two cores both
# are done in less time than one after the other.
test-here: .venv/.dev
	$(BIN)/pytest -q -m "not database and not organization" --ignore=tests/lab/test_team.py --ignore=tests/lab/test_team_faults.py --ignore=tests/roles
	@$(MAKE) --no-print-directory test-database

test-machines: .venv/.dev
	$(BIN)/pytest -q tests/roles tests/lab/test_team.py tests/lab/test_team_faults.py

# Engine postgres alone: conformance, faults, plans, on one machine with Postgres and pgbouncer.
test-database: .venv/.dev
	$(BIN)/pytest -q -m database

# Level organization, whole, on seven machines: used, failed over, three minutes of faults, as in `make
# test`; and what takes half an hour: a plan by Ansible, scaled up and down, a rolling restart.
test-organization: .venv/.dev
	$(BIN)/pytest -q -s -m organization tests/lab tests/faults

# Machines and parts of an organization broken under load for MINUTES: make faults MINUTES=30 SEED=7
faults: .venv/.dev
	$(BIN)/pytest -q -s tests/faults/test_stack.py --minutes $(MINUTES) $(if $(SEED),--seed $(SEED))

check: .venv/.dev
	@$(MAKE) --no-print-directory -j2 lint unit

lint: .venv/.dev
	$(BIN)/ruff check .
	$(BIN)/mypy
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/ansible-lint -q

unit: .venv/.dev
	$(BIN)/pytest -q -m "not database" tests/unit tests/conformance

bench: .venv/.dev
	$(BIN)/python -m bench --engine $(ENGINE)

# The environment. A stamp is younger than the lock that was installed.

PIP := $(BIN)/python -m pip --disable-pip-version-check
install = if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; \
	then apt-get update -q && DEBIAN_FRONTEND=noninteractive \
	apt-get install -qy --no-install-recommends $(1); \
	else echo "$(1) is missing. Next: sudo apt-get install $(1)" >&2; exit 1; fi

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "$(PYTHON) is older than 3.11. Next: make up PYTHON=python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { $(call install,python3-venv); }
	$(PYTHON) -m venv .venv

.venv/.run: lock/run.txt pyproject.toml | .venv/bin/python
	@echo "Installing into .venv …"
	@$(PIP) install -q --require-hashes --no-deps -r lock/run.txt
	@$(PIP) install -q --no-index --no-deps --no-build-isolation -e .
	@touch $@

.venv/.dev: lock/dev.txt .venv/.run
	@echo "Installing what tests need into .venv …"
	@$(PIP) install -q --require-hashes --no-deps -r lock/dev.txt
	@touch $@

# The locks: newest versions that pyproject.toml allows, for every Python from 3.11 on.

UV := .cache/lock/bin/uv pip compile -q --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-emit-find-links --no-annotate --no-header --upgrade

.cache/lock/bin/uv: | .venv/bin/python
	$(PYTHON) -m venv .cache/lock
	.cache/lock/bin/pip install -q --disable-pip-version-check uv

lock: .cache/lock/bin/uv
	@mkdir -p lock
	$(UV) --extra dev -o lock/dev.txt pyproject.toml
	$(UV) --extra server --extra work -c lock/dev.txt -o lock/server.txt pyproject.toml
	printf 'hatchling\neditables\n' | $(UV) --extra server --extra work --extra control -c lock/dev.txt -o lock/run.txt pyproject.toml -
