# Needs Python 3.11 or newer, make, and network access to a package index. Another Python: make PYTHON=python3.13 ...
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# Handed on to the tool behind demo, test, bench and lock, as in: make test ARGS='-k redis -x'
ARGS ?=
COMPILE = "$(BIN)/uv" pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-emit-find-links --no-emit-build-options --custom-compile-command 'make lock'

.DEFAULT_GOAL := help
.PHONY: help setup demo test check format bench bench-s3 bench-setup package lmcache lock clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  %-12s %s\n", $$1, $$2 }' Makefile

setup: $(READY) ## Create .venv from requirements.lock, the project installed editable

$(BIN)/python:
	@"$(PYTHON)" -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed: try make PYTHON=python3.11")'
	"$(PYTHON)" -m venv "$(VENV)"

# The stamp makes a changed pyproject.toml or lock file reinstall, and everything else start at once. The build
# backend comes from the lock as well (no isolation), so nothing is installed that the lock does not name.
$(READY): pyproject.toml requirements.lock | $(BIN)/python
	"$(BIN)/python" -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	"$(BIN)/python" -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch "$@"

demo: $(READY) ## Start a store, put and get a chunk, show what happened
	"$(BIN)/lmcache-connect" demo $(ARGS)

test: $(READY) ## Run the tests
	"$(BIN)/python" -m pytest -q $(ARGS)

check: $(READY) ## Lint, formatting and both type checkers
	"$(BIN)/ruff" check .
	"$(BIN)/ruff" format --check .
	"$(BIN)/mypy"
	"$(BIN)/basedpyright" --pythonpath "$(BIN)/python"

format: $(READY) ## Fix what ruff can fix, format, list what is left
	"$(BIN)/ruff" check --fix --exit-zero --quiet .
	"$(BIN)/ruff" format .
	"$(BIN)/ruff" check .

bench: $(READY) ## Compare the Redis connector with other clients
	"$(BIN)/python" -m benchmarks $(ARGS)

bench-s3: $(READY) ## Compare the S3 connector with other clients; needs nginx
	"$(BIN)/python" -m benchmarks.s3_comparison $(ARGS)

# Not in requirements.lock: only benchmarks want them, and every test and check passes with and without them. Both files
# name one version of what is in both, so neither target changes what the other installed.
bench-setup: $(READY) ## Add the other clients and matplotlib to the environment
	"$(BIN)/python" -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-bench.txt

package: $(READY) ## Build sdist and wheel, try them in an empty environment
	"$(BIN)/python" tests/packaging/check_packages.py $(ARGS)

TORCH := torch==2.13.0
LMCACHE := lmcache==0.5.6
# LMCache without the dependencies it declares, which bring CUDA packages and half of a serving stack. An environment of
# its own keeps .venv small: make VENV=.venv-lmcache lmcache
lmcache: $(READY) ## Add torch and LMCache to the environment: for the benchmarks and the tests that need them
	"$(BIN)/python" -m pip install --quiet --disable-pip-version-check "$(TORCH)"
	"$(BIN)/python" -m pip install --quiet --disable-pip-version-check --no-deps "$(LMCACHE)"
	"$(BIN)/python" -m pip install --quiet --disable-pip-version-check --no-warn-conflicts -r requirements-lmcache.txt

# Depends on the environment's Python only, not on the stamp: a lock file that no longer installs can still be remade.
# Keeps the versions already locked where it can; ARGS=--upgrade takes the newest.
lock: | $(BIN)/python ## Write both requirements files anew from pyproject.toml
	@test -x "$(BIN)/uv" || "$(BIN)/python" -m pip install --quiet --disable-pip-version-check 'uv>=0.7'
	$(COMPILE) --extra all --extra testing --group dev --output-file requirements.lock $(ARGS) pyproject.toml
	$(COMPILE) --group pyproject.toml:bench --constraints requirements.lock \
		--output-file requirements-bench.txt $(ARGS)

clean: ## Remove builds and caches, keep .venv
	rm -rf build dist .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name '.venv*' -prune -o -name .git -prune -o -type d -name __pycache__ -exec rm -rf {} +
