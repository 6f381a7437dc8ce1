# Needs Python 3.11 or newer, make, and a package index. With another Python: make PYTHON=python3.13 ...
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# Arguments for the tool that demo, test, test-long, chaos, matrix, bench or lock runs: make test ARGS='-k redis -x'
ARGS ?=
# Processes that run the tests side by side, each with servers of its own. Most tests wait: more than cores help. 0: one after the other.
WORKERS ?= 5
# File by file, in the order that tests/conftest.py gives them.
SIDE_BY_SIDE = -n $(WORKERS) --dist loadfile --no-loadscope-reorder
COMPILE = "$(BIN)/uv" pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-emit-find-links --no-emit-build-options --custom-compile-command 'make lock'

# Empty is as if it were not set. Tests start hundreds of interpreters: without compiled files, each compiles all that it imports.
export PYTHONDONTWRITEBYTECODE :=

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-long test-lowest test-newest chaos soak matrix check format bench bench-small bench-calls bench-s3 bench-setup package docs sbom lmcache engines lock clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  %-12s %s\n", $$1, $$2 }' Makefile

setup: $(READY) ## Create .venv from requirements.lock, the project installed editable

$(BIN)/python:
	@"$(PYTHON)" -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed: try make PYTHON=python3.11")'
	"$(PYTHON)" -m venv "$(VENV)"

# The stamp: only a changed pyproject.toml or lock file reinstalls. The build backend comes from the lock as well (no
# isolation), so nothing is installed that the lock does not name.
$(READY): pyproject.toml requirements.lock | $(BIN)/python
	$(call install,$(VENV),requirements.lock)

# $(1): the environment, $(2): the file with every version and hash.
define install
"$(1)/bin/python" -m pip install --quiet --disable-pip-version-check --require-hashes -r $(2)
"$(1)/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
@touch "$@"
endef

# The demo takes .venv where it is there. Otherwise a small environment of its own: the tools of the tests weigh 700 MB.
DEMO := $(if $(wildcard $(READY)),$(VENV),.venv-demo)
demo: $(DEMO)/.ready ## Start a store, put and get chunks, show the results
	"$(DEMO)/bin/lmcache-connect" demo $(ARGS)

.venv-demo/.ready: pyproject.toml requirements-demo.txt
	"$(PYTHON)" -m venv .venv-demo
	$(call install,.venv-demo,requirements-demo.txt)

test: $(READY) ## Run the tests, except those marked `long`
	"$(BIN)/python" -m pytest -q $(SIDE_BY_SIDE) -m 'not long' $(ARGS)

# One after the other: they load the machine, and some of them measure their own lateness.
test-long: $(READY) ## Run the tests marked `long`
	"$(BIN)/python" -m pytest -q -m long $(ARGS)

# Environments of their own, so that neither changes .venv. The lowest versions are those that pyproject.toml names for what the
# product depends on; the tools of the tests stay new. rich is lowest although a tool asks for a newer one. typer of that age warns with
# click 8.5, and pytest-asyncio of that age leaves event loops open.
UV_IN = "$(1)/bin/uv" pip $(2) --quiet --python "$(1)/bin/python"
.venv-lowest/bin/uv .venv-newest/bin/uv:
	"$(PYTHON)" -m venv "$(patsubst %/bin/uv,%,$@)"
	"$(patsubst %/uv,%,$@)/python" -m pip install --quiet --disable-pip-version-check 'uv>=0.7'

test-lowest: .venv-lowest/bin/uv ## Run the tests with the lowest versions that pyproject.toml admits
	echo 'click<8.5' > .venv-lowest/of-that-age.txt
	$(call UV_IN,.venv-lowest,compile) --no-header --no-annotate --resolution lowest-direct --extra all --extra testing \
		--constraints .venv-lowest/of-that-age.txt --output-file .venv-lowest/lowest.txt --upgrade pyproject.toml
	grep '^rich==' .venv-lowest/lowest.txt > .venv-lowest/overrides.txt
	$(call UV_IN,.venv-lowest,compile) --no-header --no-annotate --group pyproject.toml:dev --constraints .venv-lowest/lowest.txt \
		--overrides .venv-lowest/overrides.txt --output-file .venv-lowest/tools.txt --upgrade
	$(call UV_IN,.venv-lowest,install) --overrides .venv-lowest/overrides.txt -r .venv-lowest/lowest.txt -r .venv-lowest/tools.txt
	$(call UV_IN,.venv-lowest,install) --no-deps --no-build-isolation --editable .
	.venv-lowest/bin/python -m pytest -q $(SIDE_BY_SIDE) -m 'not long' -W ignore::pytest.PytestUnraisableExceptionWarning $(ARGS)

test-newest: .venv-newest/bin/uv ## Run the tests with the newest versions that pyproject.toml admits
	$(call UV_IN,.venv-newest,install) --upgrade --editable '.[all,testing]' --group dev
	.venv-newest/bin/python -m pytest -q $(SIDE_BY_SIDE) -m 'not long' $(ARGS)

check: $(READY) ## Lint, formatting and both type checkers
	"$(BIN)/ruff" check .
	"$(BIN)/ruff" format --check .
	"$(BIN)/mypy"
	"$(BIN)/basedpyright" --pythonpath "$(BIN)/python"

format: $(READY) ## Repair what ruff can repair, format, list the rest
	"$(BIN)/ruff" check --fix --exit-zero --quiet .
	"$(BIN)/ruff" format .
	"$(BIN)/ruff" check .

bench: $(READY) ## Compare the Redis connector with other clients
	"$(BIN)/python" -m benchmarks.lmcache_connect_redis $(ARGS)

bench-small: $(READY) ## Measure what the managed connector adds to a small call
	"$(BIN)/python" -m benchmarks.managed $(ARGS)

bench-calls: $(READY) ## Measure single calls: many at a time, one by one, from threads
	"$(BIN)/python" -m benchmarks.calls $(ARGS)

bench-s3: $(READY) ## Compare the S3 connector with other clients; needs nginx
	"$(BIN)/python" -m benchmarks.lmcache_connect_s3 $(ARGS)

# Not in requirements.lock, because only benchmarks need them. Every test and check passes with and without them. Both files
# pin the same version of a package that is in both, so neither target changes what the other installed.
bench-setup: $(READY) ## Add the other clients and matplotlib to the environment
	"$(BIN)/python" -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-bench.txt

DOCS := .venv-docs
$(DOCS)/.ready: requirements-docs.txt
	"$(PYTHON)" -m venv "$(DOCS)"
	"$(DOCS)/bin/python" -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-docs.txt
	@touch "$@"

# A page's links lead to the same file in the repository and on the site, because the site's pages are links to them.
docs: $(DOCS)/.ready ## Build the documentation as a site into build/site; a dead link or an unknown name fails
	@mkdir -p build/pages/benchmarks
	@ln -sfn $(foreach page,README.md CHANGELOG.md CONTRIBUTING.md SECURITY.md docs examples compose,"$(CURDIR)/$(page)") build/pages
	@ln -sfn "$(CURDIR)/benchmarks/results" build/pages/benchmarks
	NO_MKDOCS_2_WARNING=1 PATH="$(CURDIR)/$(DOCS)/bin:$$PATH" "$(DOCS)/bin/mkdocs" build --clean $(ARGS)

MINUTES ?= 10
SERVER ?= valkey
chaos: $(READY) ## Load a store with kills and faults: make chaos MINUTES=10 SERVER=valkey|redis|redis-tls ARGS='--tasks 2000'
	"$(BIN)/python" -m tests.chaos --minutes $(MINUTES) --server $(SERVER) $(ARGS)

soak: $(READY) ## Soak servers with faults: make soak MINUTES=10 SERVER=valkey|redis|redis-tls|sentinel|cluster|ring|s3
	"$(BIN)/lmcache-connect" soak --server $(SERVER) --chaos --minutes $(MINUTES) $(ARGS)

matrix: $(READY) ## Break servers in every way, and write what callers saw into docs/what-happens-when.md
	"$(BIN)/python" -m tests.matrix $(ARGS)

package: $(READY) ## Build sdist and wheel, install and use them in an empty environment
	"$(BIN)/python" tests/packaging/check_packages.py $(ARGS)

# What is installed with the wheel and all its extras but torch and testing, in the versions of the lock file.
SBOM := build/sbom
sbom: ## Write build/sbom.cdx.json: what comes with the wheel in dist/, with versions and licences (CycloneDX)
	@test -n "$(wildcard dist/*.whl)" || { echo 'dist/ has no wheel: run make package' >&2; exit 1; }
	rm -rf $(SBOM)
	"$(PYTHON)" -m venv $(SBOM)/tool
	"$(PYTHON)" -m venv --without-pip $(SBOM)/product
	$(SBOM)/tool/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-release.txt
	sed -n 's/^\([a-z0-9-]*==.*[^ ]\) *\\$$/\1/p' requirements.lock > $(SBOM)/constraints.txt
	$(SBOM)/tool/bin/python -m pip --python $(SBOM)/product/bin/python install --quiet --disable-pip-version-check \
		--constraint $(SBOM)/constraints.txt "$(firstword $(wildcard dist/*.whl))[all]"
	$(SBOM)/tool/bin/cyclonedx-py environment --pyproject pyproject.toml --mc-type library --output-reproducible \
		--output-format JSON --output-file build/sbom.cdx.json $(SBOM)/product/bin/python

TORCH := torch==2.13.0
LMCACHE := lmcache==0.5.6
# LMCache without its declared dependencies, among them CUDA packages and much of a serving stack. Use an environment of
# its own, so that .venv stays small: make VENV=.venv-lmcache lmcache
lmcache: $(READY) ## Add torch and LMCache to the environment: for the benchmarks and the tests that need them
	"$(BIN)/python" -m pip install --quiet --disable-pip-version-check "$(TORCH)"
	"$(BIN)/python" -m pip install --quiet --disable-pip-version-check --no-deps "$(LMCACHE)"
	"$(BIN)/python" -m pip install --quiet --disable-pip-version-check --no-warn-conflicts -r requirements-lmcache.txt

VLLM := vllm==0.33.0
SGLANG := sglang==0.5.23
# The engines without their declared dependencies, too: make VENV=.venv-engines engines
engines: lmcache ## Add vLLM and SGLang as well, and run the tests of the engines against the real packages
	"$(BIN)/python" -m pip install --quiet --disable-pip-version-check --no-deps "$(VLLM)" "$(SGLANG)"
	"$(BIN)/python" -m pip install --quiet --disable-pip-version-check --no-deps -r requirements-engines.txt
	"$(BIN)/python" -m pytest -q tests/engines tests/compat $(ARGS)

# Depends on the environment's Python only, not on the stamp, so that a lock file that does not install can be replaced.
# Keeps the locked versions where it can. ARGS=--upgrade takes the newest ones.
lock: | $(BIN)/python ## Write the requirements files from pyproject.toml
	@test -x "$(BIN)/uv" || "$(BIN)/python" -m pip install --quiet --disable-pip-version-check 'uv>=0.7'
	$(COMPILE) --extra all --extra testing --group dev --output-file requirements.lock $(ARGS) pyproject.toml
	$(COMPILE) --extra demo --group build --constraints requirements.lock --output-file requirements-demo.txt $(ARGS) pyproject.toml
	$(COMPILE) --group pyproject.toml:bench --constraints requirements.lock \
		--output-file requirements-bench.txt $(ARGS)
	$(COMPILE) --group pyproject.toml:docs --constraints requirements.lock \
		--output-file requirements-docs.txt $(ARGS)
	$(COMPILE) --group pyproject.toml:release --output-file requirements-release.txt $(ARGS)

clean: ## Remove builds and caches, keep .venv
	rm -rf build dist .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name '.venv*' -prune -o -name .git -prune -o -type d -name __pycache__ -exec rm -rf {} +
