# make search   install, then search on real images (no download)
# make test     install, then run the tests
# make test-long  install, then run those that take a person too long and continuous integration runs
# make test-x64 install, then run tests with 64-bit numbers, and with JAX's check for NaN
# make bench    install, then time the supernet and the search
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
RUNS ?=
# Not empty: the newest releases of everything, in place of those in constraints/.
NEWEST ?=

.PHONY: search test test-long test-x64 test-slow test-notebooks lint format install constraints bench docs clean

search: install
	$(BIN)/python -m experiments.cifar_search --preset quickstart $(RUNS)

# Nothing in these tests runs long: they compile fast instead of well, also in the commands that they start. What costs
# is the number of kernels: jaxlib 0.10 can emit them the short way, jaxlib 0.12 can leave out checks of each. An option
# that a release does not know would end every process.
COMPILE_FAST = flags="$(XLA_FLAGS) --xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"; \
	for flag in --xla_cpu_use_fusion_emitters=false --xla_cpu_emitter_verification_level=0 \
			--xla_cpu_parallel_codegen_split_count=1; do \
		if XLA_FLAGS="$$flag" $(BIN)/python -c "import jax; jax.devices()" > /dev/null 2>&1; then flags="$$flags $$flag"; fi; \
	done; \
	export XLA_FLAGS="$$flags" OPENBLAS_NUM_THREADS=1

# COVERAGE=1 measures coverage too, which costs a quarter of the time before Python 3.12, and next to nothing since, where
# not every line need be traced. One file stays with one worker, so that its fixtures are made once.
test: install
	@$(COMPILE_FAST); coverage=; \
	if [ -n "$$COVERAGE" ]; then \
		coverage="--cov=jaxnas --cov-fail-under=85 --cov-report=term:skip-covered"; \
		if $(BIN)/python -c "import sys; sys.monitoring" 2> /dev/null; then export COVERAGE_CORE=sysmon; fi; \
	fi; \
	set -x; $(BIN)/python -m pytest -m "not slow and not long" --dist loadfile --doctest-modules $$coverage -n auto \
		jaxnas tests

test-long: install
	@$(COMPILE_FAST); set -x; $(BIN)/python -m pytest -m "long and not slow" --dist loadfile -n auto tests

# Strategies and short searches with 64-bit numbers, and with JAX's check for NaN.
test-x64: install
	@$(COMPILE_FAST); set -x; \
	JAX_ENABLE_X64=1 $(BIN)/python -m pytest -m "not slow" -n auto tests/test_x64.py && \
	JAX_DEBUG_NANS=1 $(BIN)/python -m pytest -m "not slow" -n auto tests/test_x64.py

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

install: $(VENV)/.installed

# Releases that passed the tests together, where there is a list for this Python.
CONSTRAINED = list="constraints/py$$($(BIN)/python -c 'import sys; print(*sys.version_info[:2], sep="")').txt"; \
	if [ -n "$(NEWEST)" ] || [ ! -f "$$list" ]; then echo "newest releases, without $$list"; list=/dev/null; fi

$(VENV)/.installed: setup.cfg requirements.txt pyproject.toml $(wildcard constraints/*.txt)
	@$(PYTHON) -c 'import sys; sys.exit("jaxnas needs Python 3.11 or later; name one with make PYTHON=...") if sys.version_info < (3, 11) else 0'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	@$(CONSTRAINED); set -x; $(BIN)/python -m pip install --quiet --constraint "$$list" --editable '.[dev]'
	@touch $@

# The site, into site/; pages open from disk.
docs: $(VENV)/.installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

$(VENV)/.installed-docs: $(VENV)/.installed
	@$(CONSTRAINED); set -x; $(BIN)/python -m pip install --quiet --constraint "$$list" --editable '.[docs]'
	@touch $@

# Makes the list of this Python anew: the newest releases, if the tests pass with them.
constraints:
	rm -rf $(VENV)-newest
	$(MAKE) test docs VENV=$(VENV)-newest NEWEST=1
	$(VENV)-newest/bin/python -m pip --disable-pip-version-check list --format=freeze --exclude-editable --exclude pip \
		> constraints/py$$($(VENV)-newest/bin/python -c 'import sys; print(*sys.version_info[:2], sep="")').txt
	rm -rf $(VENV)-newest

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache
