SHELL := /bin/bash -o pipefail
export PATH := $(CURDIR)/.venv/bin:$(PATH)
# uv trusts what the machine trusts.
export UV_SYSTEM_CERTS := true
# Molecule keeps its state where Ansible keeps its own: two checkouts never share it.
export ANSIBLE_HOME := $(CURDIR)/.ansible
# Frames cut Ansible's output to 80 columns.
export MOLECULE_COMMAND_BORDERS := false

LOCK ?= $(lastword $(sort $(wildcard roles/airflow/files/locks/airflow-*.txt)))
AUDIT_OPTIONS ?=
LAB ?= demo
HOST ?= control1
STEP ?= test

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "%-14s %s\n", $$1, $$2}' Makefile

.PHONY: setup
setup: .venv/.complete ## Install the pinned controller toolchain into .venv

.venv/.complete: requirements.txt
	/usr/bin/python3 -c 'import ensurepip' 2> /dev/null || { apt-get update -qq && apt-get install -y -qq python3-venv; }
	/usr/bin/python3 -m venv .venv
	awk '/^uv==/ {inside = 1} inside; !/\\$$/ {inside = 0}' requirements.txt > .venv/uv.txt
	.venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement .venv/uv.txt
	uv pip sync --quiet --require-hashes --python .venv/bin/python requirements.txt
	mkdir -p .ansible/collections/ansible_collections/dataops
	ln -sfn ../../../.. .ansible/collections/ansible_collections/dataops/airflow
	touch $@

.PHONY: requirements
requirements: setup ## Renew requirements.txt from requirements.in
	uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes requirements.in -o requirements.txt
	uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes tools/audit.in -o tools/audit.txt

.PHONY: locks
locks: setup ## Renew the locks that ship with the collection
	tools/locks.py

.PHONY: lock-check
lock-check: setup ## Run a cluster with the newest packages, to learn early which one breaks Airflow
	lab/lock_check.sh

.PHONY: audit
audit: setup ## Report known vulnerabilities of the packages in a lock: [LOCK=file] [AUDIT_OPTIONS='--vulnerability-service osv']
	uv venv --quiet --allow-existing .cache/audit
	uv pip sync --quiet --require-hashes --python .cache/audit tools/audit.txt
	# Without --strict, a package that nobody could tell anything of counts as a good one.
	REQUESTS_CA_BUNDLE=$${REQUESTS_CA_BUNDLE:-/etc/ssl/certs/ca-certificates.crt} .cache/audit/bin/pip-audit --strict \
	  --disable-pip --require-hashes --progress-spinner off --requirement $(LOCK) $(AUDIT_OPTIONS)

.PHONY: licences
licences: setup ## List the packages of a lock with their licences: [LOCK=file]
	tools/licences.py $(LOCK)

.PHONY: docs
docs: setup ## Renew the generated pages
	docs/generate.py

.PHONY: lint
lint: setup ## Check YAML, playbooks, Python and shell scripts
	yamllint -s .
	ansible-lint --offline
	ruff check .
	ruff format --check .
	mypy
	shellcheck .ci/run bench/*.sh lab/*.sh roles/*/files/*.sh
	antsibull-changelog lint

.PHONY: unit
unit: setup ## Run the tests that need no hosts
	# What takes longest first: no process works on it when the other one has nothing left.
	pytest --numprocesses 2 --dist loadscope --no-loadscope-reorder tests/golden tests/contract tests/unit

.PHONY: playbooks
playbooks: setup ## Run whole playbooks on the control node, with roles that only say what they were told
	pytest --numprocesses 2 --dist loadscope tests/playbooks

.PHONY: package
package: setup ## Build the collection, install it elsewhere and use it, and type a newcomer's first commands
	pytest --numprocesses 2 --dist worksteal tests/package

.PHONY: scenario
scenario: setup ## Run one molecule scenario: NAME=cluster [STEP=converge]
	molecule $(STEP) -s $(NAME)

.PHONY: test
test: setup ## Run lint, unit tests, the molecule scenarios and the demo, but for what takes longest
	lab/test.sh

.PHONY: test-all
test-all: setup ## Run everything: the longest tests, too
	lab/test.sh all

.PHONY: faults
faults: setup ## Break a cluster in every way that it must bear, and write what came of it into docs/faults.md
	molecule test -s faults
	cp .cache/faults.json docs/faults.json
	docs/generate.py

.PHONY: experiments
experiments: setup ## Try every limit on tasks at once on a cluster, and draw docs/pictures of it
	molecule test -s concurrency
	cp .cache/concurrency/parallelism-[12].svg .cache/concurrency/worker-concurrency-1.svg docs/pictures/

.PHONY: demo
demo: setup ## Start a cluster on this machine, to look at
	lab/demo.sh up

.PHONY: demo-down
demo-down: setup ## Remove the demo and all it made
	lab/demo.sh down

.PHONY: shell
shell: ## Open a shell on a lab's host: HOST=worker1 [LAB=demo]
	ssh -F .lab/$(LAB)/ssh_config $(HOST)

.PHONY: clean
clean: ## Remove the toolchain and the caches
	rm -rf .venv .cache .ansible .mypy_cache .pytest_cache .ruff_cache
