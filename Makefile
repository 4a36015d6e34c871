# make search   install, then search on real images (no download)
# make test     install, then run the tests
# make bench    install, then time the supernet and the search
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
RUNS ?=

.PHONY: search test test-slow test-notebooks lint format install bench docs clean

search: install
	$(BIN)/python -m experiments.cifar_search --preset quickstart $(RUNS)

# Nothing in these tests runs long: they compile fast instead of well, also in the commands that they start. One file
# stays with one worker, so that its fixtures are made once.
QUICK := --xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true
# A third of the time to compile, where this XLA knows the option; an unknown one would end every process.
QUICKER := --xla_cpu_use_fusion_emitters=false

test: install
	@flags="$(XLA_FLAGS) $(QUICK)"; \
	if XLA_FLAGS="$(QUICKER)" $(BIN)/python -c "import jax; jax.devices()" > /dev/null 2>&1; then flags="$$flags $(QUICKER)"; fi; \
	set -x; XLA_FLAGS="$$flags" OPENBLAS_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow" --dist loadfile --doctest-modules --cov=jaxnas \
		--cov-fail-under=85 --cov-report=term:skip-covered -n auto jaxnas tests

test-slow: install
	$(BIN)/python -m pytest -m slow tests

# The notebooks and the programs in the documentation, from top to bottom.
test-notebooks: install
	$(BIN)/python -m pytest -m slow -n auto tests/test_notebooks.py tests/test_docs.py

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

format: install
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Minutes on an idle machine; PyTorch, the yardstick, is left out where it is not installed.
bench: install
	$(BIN)/python -m benchmarks.supernet_step
	$(BIN)/python -m benchmarks.search_step
	$(BIN)/python -m benchmarks.input_pipeline
	$(BIN)/python -m benchmarks.scaling

install: $(INSTALLED)

$(INSTALLED): setup.cfg requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("jaxnas needs Python 3.11 or later; name one with make PYTHON=...") if sys.version_info < (3, 11) else 0'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@

# The site, into site/; pages open from disk.
docs: $(VENV)/.installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

$(VENV)/.installed-docs: $(INSTALLED)
	$(BIN)/python -m pip install --quiet --editable '.[docs]'
	@touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache
