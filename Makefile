# Everything happens inside this folder: .venv/ holds the pinned packages, var/ whatever a run leaves behind.
.DEFAULT_GOAL := help
.PHONY: help setup demo test check bench mutants campaign
SHELL := /bin/sh

# The first Python of at least 3.11; PYTHON=/path/to/python chooses another.
PYTHON ?= $(shell for name in python3.11 python3 python; do \
	"$$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo "$$name"; break; }; done)
PORT ?= 8000
# One more than two cores: each waits a good part of its time for servers and processes that it started.
WORKERS ?= 3
export PORT ONCE SIZE KILLS SEED RUNS

help: ## what there is to do
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | while IFS="$$(printf '\t')" read -r target words; do \
		printf '  make %-9s %s\n' "$$target" "$$words"; done

setup: ## .venv/ with the pinned packages; does something only when a lock has changed
	@wanted="$$(cat requirements.txt tests/requirements.txt | cksum) in $(CURDIR)"; \
	if [ "$$(cat .venv/ready 2>/dev/null)" = "$$wanted" ]; then exit 0; fi; \
	if [ -z "$(PYTHON)" ] || ! "$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
		echo "Python 3.11 or newer is needed: install it, or name it with PYTHON=/path/to/python3.11." >&2; exit 1; fi; \
	echo "Setting up .venv/ (about half a minute, once) ..."; \
	"$(PYTHON)" -m venv --clear .venv || { \
		echo "$(PYTHON) could not make a virtual environment; on Debian install python3-venv." >&2; exit 1; }; \
	.venv/bin/python -m pip install -qq --no-input --disable-pip-version-check --no-cache-dir --no-deps \
		--require-hashes -r tests/requirements.txt || { \
		echo "The packages could not be installed; run make again when the package index can be reached." >&2; exit 1; }; \
	echo "$$wanted" > .venv/ready

demo: setup ## the story of August 2019 on this machine; ONCE=1 ends after it, PORT= and SIZE= change it
	@exec .venv/bin/python -m sandbox.demo

test: setup ## the whole test suite; WORKERS=n runs it in n processes
	.venv/bin/pytest -n $(WORKERS) --dist worksteal

check: setup ## style, types, who imports whom, migrations against models, no secrets
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports
	.venv/bin/python -m tests.check_migrations
	.venv/bin/python -m tests.check_repository

bench: setup ## measurements side by side
	@for file in bench/[a-z]*.py; do .venv/bin/python -m "bench.$$(basename "$$file" .py)" || exit 1; done

mutants: setup ## break the program on purpose, one safeguard at a time: the tests must notice (some minutes)
	@.venv/bin/python -m tests.mutants

campaign: setup ## kill, halt, restart, flush, race and forge; KILLS=n of 10,000 makes it shorter, SEED= and RUNS= choose
	@.venv/bin/python -m tests.campaign
