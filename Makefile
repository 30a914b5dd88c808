# `make test` is all that must pass. On Debian or Ubuntu, as root or with sudo, it installs what is missing (tests/sandbox/setup.sh).
.DEFAULT_GOAL := help
.PHONY: help setup test lint test-unit simulate test-contract test-e2e faults bench demo down lock

python := .venv/bin/python
installed := .venv/.installed

help: ## this list
	@grep -E '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

setup: ## system packages, .venv and a Docker engine, where they are missing
	@tests/sandbox/setup.sh

$(installed): requirements.txt requirements-dev.txt
	@tests/sandbox/setup.sh venv

test: lint test-unit simulate test-contract test-e2e ## everything

lint: $(installed) ## style, types, and the action's metadata
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/mypy
	.venv/bin/check-jsonschema --builtin-schema vendor.github-actions action.yml
	.venv/bin/zizmor --offline --quiet .

test-unit: $(installed) ## seconds; needs nothing but Python
	$(python) -m pytest tests/unit tests/simulation --timeout=300 $(ARGS)

simulate: $(installed) ## SEEDS=20000 of failing, dying, interleaved runs; SEED="17 18" prints the schedules of these
	$(python) -m tests.simulation $(or $(SEED),--seeds $(or $(SEEDS),20000))

test-contract: setup ## the edges and the fakes against real things
	$(python) -m pytest tests/contract --timeout=300 $(ARGS)

test-e2e: setup ## whole deploys in the sandbox, or on your CapRover (docs/TESTING.md)
	$(python) -m pytest tests/e2e --numprocesses=$(if $(CAPMIG_E2E_CAPROVER_URL),0,3) --dist=loadgroup --timeout=600 $(ARGS)

faults: setup ## each call of a deploy spoilt in each way (hours); NODES=2 STORY=backup POINTS=regex AT_ONCE=n
	@$(python) -m tests.faults --nodes=$(or $(NODES),1) --at-once=$(or $(AT_ONCE),6) --story='$(STORY)' --points='$(POINTS)' $(ARGS)

bench: setup ## how quick it is, as ratios in one run
	@$(python) -m tests.bench

demo: setup ## see a deploy and a failed one; NODES=2 has a worker too, KEEP=1 leaves the sandbox up
	@$(python) -m tests.sandbox.demo

down: ## remove the sandbox, and stop the engine that setup started
	@if [ -x $(python) ]; then $(python) -m tests.sandbox down; fi
	@tests/sandbox/setup.sh stop

compile := .venv/bin/uv pip compile --quiet --universal --generate-hashes --no-emit-index-url \
	--custom-compile-command 'make lock' --upgrade
lock: $(installed) ## pin the newest versions of all dependencies, with hashes
	$(python) -m pip install --quiet uv
	$(compile) --python-version 3.11 requirements.in --output-file requirements.txt
	$(compile) --python-version 3.11 --constraint requirements.txt requirements-dev.in --output-file requirements-dev.txt
	cd tests/sandbox/demoapp && ../../../$(compile) --python-version 3.13 requirements.in --output-file requirements.txt
