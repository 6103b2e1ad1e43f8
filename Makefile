# Set-up and everyday commands. None asks a question; each says what it does and what is missing.
#   make sweep      measure experiments/smoke.yml on this machine and print the Pareto front
#   make check      for every commit: lint, and the quick tests, which need neither root nor namespaces
#   make test       set-up and all tests but the long ones
#   make test-long  the exhaustive forms too
#   make test-arm64 provision a Debian for arm64 under an emulator, as root
#   make lint       ruff, mypy, yamllint, ansible-lint
#   make lock       write requirements.lock anew from what the requirements resolve to
#   make clean      remove what these targets made, results apart

SHELL := /bin/bash -euo pipefail
PYTHON ?= python3
BIN := .venv/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# A file runs in one process, and files keep their order: those that take long come first.
SHARED = --dist loadfile --no-loadscope-reorder
# First what may run side by side, then what needs the machine to itself.
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not alone$(1)" -n 3 $(SHARED) && $(BIN)/python -m pytest -m "alone$(1)"

ROLE_CODE := $(wildcard roles/*/files/*.py roles/*/library/*.py roles/*/action_plugins/*.py)

.PHONY: sweep check test test-long test-arm64 lint lint-python lint-playbooks lock clean .venv

sweep: .venv
	$(BIN)/ansible-playbook sweep.yml -i inventory/local $(if $(ARGS),$(ARGS))

check: .venv/.dev lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m "not alone and not slow and not long" -n 3 $(SHARED)

test: .venv/.dev .test-packages lint
	$(call PYTEST, and not long)

test-long: .venv/.dev .test-packages lint
	$(call PYTEST,)

test-arm64: .venv/.dev
	@bash .ci/apt qemu-user-static mmdebstrap
	$(BIN)/python -m pytest tests/arm64

# Both take half a minute and one core.
lint: .venv/.dev
	@$(MAKE) --no-print-directory -j2 --output-sync=target lint-python lint-playbooks

lint-python:
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy $(ROLE_CODE)

lint-playbooks:
	$(BIN)/yamllint --strict .
	$(BIN)/ansible-lint --offline -q

.venv: .venv/.sweep

.venv/.sweep: requirements.txt requirements-worker.txt requirements-runtimes.txt requirements.lock
	@PYTHON="$(PYTHON)" bash .ci/setup requirements.txt
	@touch $@

.venv/.dev: .venv/.sweep requirements-dev.txt
	@PYTHON="$(PYTHON)" bash .ci/setup requirements-dev.txt
	@touch $@

# What the tests over SSH, of busy hosts, of pages and with a kernel of their own need beyond Python;
# without root most skip and say so. That kernel is packaged for one processor only.
UML := $(if $(filter x86_64,$(shell uname -m)),user-mode-linux busybox-static kmod gcc libc6-dev)

.PHONY: .test-packages
.test-packages:
	@bash .ci/apt openssh-server sudo iproute2 stress-ng faketime chromium $(UML)

lock:
	rm -rf .venv/.sweep .venv/.dev .lock-venv
	$(PYTHON) -m venv .lock-venv
	.lock-venv/bin/pip install -q -r requirements-dev.txt
	{ sed -n '/^#/p;/^[^#]/q' requirements.lock; .lock-venv/bin/pip freeze | sed 's/+cpu$$//'; } > .lock
	mv .lock requirements.lock
	rm -rf .lock-venv

clean:
	rm -rf .venv .cache .lab build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .ansible
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
