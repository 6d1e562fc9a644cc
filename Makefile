# `make demo` and `make test` need nothing but Python, pip and make: what is missing gets installed into $(VENV).
PYTHON ?= python3
VENV ?= .venv
# Installed first and pinned, so that no later requirement chooses another build of it. One that is given stays in use.
PINNED_TORCH := torch==2.13.0
TORCH ?= $(shell cat $(VENV)/.torch 2>/dev/null)
WORKERS ?= 2

BIN := $(abspath $(VENV))/bin
INSTALLED := $(VENV)/.installed
TYPES := build/types
# A cache of compiled kernels of its own: one that a killed process left half-written fails every later run.
PYTEST := OMP_NUM_THREADS=1 TORCHINDUCTOR_CACHE_DIR=$(abspath $(VENV))/inductor $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

.PHONY: FORCE install test test-all lint types unit coverage slow demo bench docs sb3-suite clean

install: $(INSTALLED)

# Written only if it differs: another TORCH installs anew.
$(VENV)/.torch: FORCE
	@mkdir -p $(VENV)
	@echo '$(TORCH)' | cmp -s - $@ || echo '$(TORCH)' > $@

$(INSTALLED): setup.cfg pyproject.toml $(VENV)/.torch
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet $(or $(TORCH),$(PINNED_TORCH))
	$(BIN)/python -m pip install --quiet --editable '.[all,dev]'
	touch $@

test: lint types unit

test-all: test docs slow

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# mypy cannot see through an editable install that maps folders to packages, so it reads a normal one, and beside it
# copies of what is not installed, under the names by which it is imported.
types: $(INSTALLED)
	rm -rf build
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --target $(TYPES) .
	mkdir -p $(TYPES)/benchmarks
	cp -R conftest.py tests examples $(TYPES)
	cp benchmarks/*.py $(TYPES)/benchmarks
	mv $(TYPES)/tests/testing $(TYPES)
	cd $(TYPES) && $(BIN)/mypy --config-file $(CURDIR)/pyproject.toml --cache-dir $(CURDIR)/.mypy_cache \
		mbrl_wrappers testing conftest.py tests benchmarks examples

unit: $(INSTALLED)
	$(PYTEST)

coverage: $(INSTALLED)
	$(PYTEST) --cov --cov-report=term:skip-covered

slow: $(INSTALLED)
	$(PYTEST) -m slow

# The site, into site/. It stops at a broken link, and needs no network.
docs: $(INSTALLED)
	OMP_NUM_THREADS=1 NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build

demo: $(INSTALLED)
	$(BIN)/python -m mbrl_wrappers.zoo train mbpo

bench: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/run.py

# SB3's own tests with every off-policy agent model-based. SB3=folder takes them from a checkout, ARGS go to pytest.
sb3-suite: $(INSTALLED)
	$(BIN)/python benchmarks/sb3_suite.py $(if $(SB3),--checkout $(SB3)) $(ARGS)

clean:
	rm -rf $(VENV) build site *.egg-info .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -prune -exec rm -rf {} +
