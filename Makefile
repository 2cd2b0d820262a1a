# make demo        one click-through-rate job, alone and as 1 server + 2 trainers, with its numbers
# make install     fleet, Paddle for CPUs and the tools of the tests
# make build       compile the C++ core in place (needs a C++17 compiler and the Python headers)
# make test        ruff, mypy, the C++ tests under sanitizers, pytest without the slow tests
# make test-slow   kills, fuzzing, other Paddle versions
# make chaos       200 random kills and stops over every role and mode (half an hour)
# make bench       the benchmarks
# make fuzz-frames N=5000000   frames that are almost right, against a core with sanitizers
# make fuzz-snapshots N=10000  snapshots that are almost right, likewise
# make strategies  walk every pair of strategies, and record what composes and what it sends
# make readme      README's figures, picture and strategies from benchmarks/results
# make clean       delete what was built (the environment stays)
#
# The active virtual environment or conda environment is used; without one, .venv is made with $(PYTHON).

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

PYTHON ?= python3
ifneq ($(VIRTUAL_ENV),)
ENV := $(VIRTUAL_ENV)
else ifneq ($(CONDA_PREFIX),)
ENV := $(CONDA_PREFIX)
else
ENV := .venv
endif
PY := $(ENV)/bin/python
PIP := PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore $(PY) -m pip install -q

CORE := $(wildcard fleet/parameter_server/core/*.cc fleet/parameter_server/core/*.h fleet/parameter_server/core/*/*.h)
SETUP := setup.py pyproject.toml
# What an environment holds is said by stamps inside it. Their name holds this tree's path: an environment that another
# tree installed itself into is not ours.
TREE := $(shell printf %s "$(CURDIR)" | cksum | cut -d ' ' -f 1)
RUNS := $(ENV)/.fleet-$(TREE)-runs
TESTS := $(ENV)/.fleet-$(TREE)-tests

.PHONY: help demo install build test test-slow chaos lint test-core bench readme strategies fuzz-frames fuzz-snapshots clean
help:
	@sed -n '/^$$/q; s/^# \{0,1\}//p' Makefile

# A Paddle that is there already, for GPUs perhaps, is left as it is: the CPU wheel would overwrite it.
define install
	@echo "installing fleet into $(ENV) (Paddle's wheel has about 190 MB: up to a few minutes the first time)"
	@rm -f $(ENV)/.fleet-*
	@if $(PY) -c 'import importlib.util as u, sys; sys.exit(u.find_spec("paddle") is None)'; then extras='$(filter-out cpu,$(1))'; \
	else extras='$(1)'; fi; extras=$$(echo $$extras | tr ' ' ','); $(PIP) -e ".$${extras:+[$$extras]}"
	@$(PY) -c 'import importlib.util as u, sys; sys.exit(u.find_spec("fleet.parameter_server._core") is None)' || { echo; \
	echo "WARNING: the C++ core was not built: everything but the tables of the parameter server works."; \
	echo "To build it: install a C++17 compiler and the Python headers (Debian: apt-get install g++ python3-dev),"; \
	echo "then run 'make build', which shows the compiler's messages."; echo; } >&2
endef

$(ENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "fleet needs Python 3.10 or newer: make PYTHON=python3.11 ..." >&2; exit 1; }
	@echo "making $(ENV)"
	@$(PYTHON) -m venv $(ENV) || { rm -rf $(ENV); echo "cannot make a virtual environment (Debian: apt-get install python3-venv)" >&2; exit 1; }

$(RUNS): $(SETUP) $(CORE) | $(ENV)/bin/python
	$(call install,cpu)
	@touch $@

$(TESTS): $(SETUP) $(CORE) | $(ENV)/bin/python
	$(call install,cpu test)
	@touch $@ $(RUNS)

install: $(TESTS)

build: | $(ENV)/bin/python
	@$(PIP) 'setuptools>=64' wheel 'pybind11>=2.12,<4'
	@FLEET_REQUIRE_CORE=1 $(PY) setup.py -q build_ext --inplace || { echo "the core was not built, see above: it needs a C++17" \
	"compiler and the Python headers (Debian: apt-get install g++ python3-dev)" >&2; exit 1; }
	@$(PY) -c 'from fleet.parameter_server import native; print("the core is built: SIMD", native.load().core_info()["simd"])'

demo: export FLEET_REQUIRE_CORE = 1
demo: $(RUNS)
	@$(PY) -c 'from fleet.parameter_server import native; native.load()' 2>/dev/null || $(MAKE) build
	@$(PY) examples/ctr/demo.py

test test-slow: export FLEET_REQUIRE_CORE = 1
test: $(TESTS)
	@$(PY) -c 'from fleet.parameter_server import native; native.load()' 2>/dev/null || $(MAKE) build
	@$(MAKE) lint test-core
	$(PY) -m pytest -m "not slow" -n 2 --dist loadfile

test-slow: $(TESTS)
	@$(PY) -c 'from fleet.parameter_server import native; native.load()' 2>/dev/null || $(MAKE) build
	$(PY) -m pytest -m slow

chaos: export FLEET_REQUIRE_CORE = 1
chaos: $(TESTS)
	$(PY) tests/faults/chaos.py 200

lint: $(TESTS)
	$(ENV)/bin/ruff check
	$(ENV)/bin/mypy --strict fleet

test-core:
	sh tests/core/run

# The core once more, with the address and undefined-behaviour sanitizers. Python itself leaks by design: leaks are not looked at.
build/sanitized: $(wildcard fleet/parameter_server/core/*) $(TESTS)
	CFLAGS="-fsanitize=address,undefined -fno-sanitize-recover=undefined -g1" LDFLAGS="-fsanitize=address,undefined" \
	    $(PY) setup.py -q build_ext --build-lib $@ --build-temp build/sanitized-objects
	touch $@

SANITIZERS = LD_PRELOAD="$$(gcc -print-file-name=libasan.so) $$(gcc -print-file-name=libubsan.so)"
fuzz-frames: N ?= 5000000
fuzz-frames: build/sanitized
	$(SANITIZERS) ASAN_OPTIONS=detect_leaks=0 $(PY) tests/fuzz/of_frames.py $(N) $$(find build/sanitized -name '_core*.so')

# A file of a few hundred bytes must not make anybody ask for 32 MB.
fuzz-snapshots: N ?= 10000
fuzz-snapshots: build/sanitized
	$(SANITIZERS) ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1:max_allocation_size_mb=32 \
	    $(PY) tests/fuzz/of_snapshots.py $(N) $$(find build/sanitized -name '_core*.so')

readme:
	$(PY) benchmarks/parts/readme.py

strategies: $(TESTS)
	$(PY) tests/collective/strategies_recorded.py
	@$(MAKE) readme

bench: $(TESTS)
	@set -e; for file in benchmarks/[a-z]*.py; do echo "== $$file"; $(PY) $$file; done

clean:
	rm -rf build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis fleet/parameter_server/_core*.so $(ENV)/.fleet-*
	find fleet tests examples benchmarks -name __pycache__ -prune -exec rm -rf {} +
