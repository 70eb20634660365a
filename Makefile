# make reproduce | lint | test | test-lowest | test-long | test-faults | test-hostile | test-containers | test-browser | bench
# make estimates | lab | notebooks | lock | clean

TASK ?= digits
PROFILE ?= laptop
ALPHAS ?= 100 0.1
SEEDS ?= 0
JOBS ?=
FAULTS ?= no-faults
COSTS ?= no-costs
PYTHON ?= python3
BENCHES ?= train predict overhead pretrain distil fused scale
UPGRADE ?=
ESTIMATES ?= mnist cifar shakespeare
BIN := .venv/bin

.PHONY: reproduce lint test test-lowest .tests-lowest test-long test-faults test-hostile test-containers test-browser bench estimates lab notebooks lock clean

reproduce: .venv/installed
	$(BIN)/kdlib reproduce --task "$(TASK)" --profile $(PROFILE) --alphas "$(ALPHAS)" --seeds "$(SEEDS)" --$(FAULTS) --$(COSTS) $(JOBS:%=--jobs %)

# Home and temporary files go below .tmp, so that the tests change nothing outside the checkout.
TESTS = mkdir -p .tmp/home && HOME=$(CURDIR)/.tmp/home TMPDIR=$(CURDIR)/.tmp $(BIN)/python -m pytest

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/mypy

LONG = tests/notebooks tests/bench tests/clusters tests/plugin
APART = $(LONG) tests/faults tests/containers tests/browser

LOWEST = $(addprefix tests/,settings data store learning cohort runs reports strategies invoke) tests/faas/test_validate.py

test: .venv/installed
	$(TESTS) $(APART:%=--ignore=%)

# The fast tests with the lowest versions that pyproject.toml allows, in a venv of their own.
test-lowest:
	$(PYTHON) -m venv .venv-lowest
	.venv-lowest/bin/python .ci/lowest.py > .venv-lowest/requirements.txt
	.venv-lowest/bin/pip install --quiet --disable-pip-version-check --requirement .venv-lowest/requirements.txt
	.venv-lowest/bin/pip install --quiet --disable-pip-version-check --no-deps --editable .
	$(MAKE) .tests-lowest BIN=.venv-lowest/bin

.tests-lowest:
	$(TESTS) $(LOWEST)

# What takes minutes by itself: every notebook through papermill, every bench at tiny sizes, clusters of Ray.
test-long: .venv/installed
	$(TESTS) $(LONG)

# KDLIB_FAULTS says how many faults, KDLIB_FAULT_SEED which; four minutes for the default of 120.
test-faults: .venv/installed
	$(TESTS) tests/faults -s

# 10,000 requests that a function must refuse, and 1,100 connections that are held open; `test` sends a fifth of them.
test-hostile: .venv/installed
	export KDLIB_HOSTILE=5; $(TESTS) -n 0 tests/faas/test_hostile.py tests/faas/test_connections.py

test-containers: .venv/installed
	@echo "This changes the machine: where no Docker engine answers, it installs docker.io, debootstrap and iptables with"
	@echo "apt-get, and starts an engine of its own. Its data, network and firewall rules go at the end, the packages stay."
	export KDLIB_CONTAINERS=1; $(TESTS) -n 0 tests/containers -s

test-browser: .venv/installed
	@echo "This changes the machine: where there is no Chromium, it installs Debian's with apt-get, which stays."
	export KDLIB_BROWSER=1; $(TESTS) -n 0 tests/browser -s

# Every speed-up anew, for notebook 06: 45 minutes on a machine with nothing else to do. `scale` needs MNIST's data,
# and `make bench BENCHES=peers` also Flower: .venv/bin/pip install 'flwr[simulation]==1.42.0'.
bench: .venv/installed
	for name in $(BENCHES); do \
		$(BIN)/kdlib bench $$name --json > papers_figures/.bench.part || exit 1; \
		mv papers_figures/.bench.part papers_figures/bench-$$name.json; \
	done

# What both strategies would take at the paper's size, for CLAIMS.md and notebook 07: 35 minutes, with the tasks' data.
estimates: .venv/installed
	for task in $(ESTIMATES); do for strategy in fedmd feddf; do \
		$(BIN)/kdlib estimate --task $$task --strategy $$strategy --json > papers_figures/.estimate.part || exit 1; \
		mv papers_figures/.estimate.part papers_figures/estimate-$$task-$$strategy.json; \
	done; done

lab: .venv/installed
	$(BIN)/jupyter lab notebooks $(LAB)

# Executes the committed notebooks in place, with their defaults.
notebooks: .venv/installed
	$(BIN)/jupyter nbconvert --to notebook --execute --inplace notebooks/*.ipynb

# After a change of the dependencies; UPGRADE=--upgrade takes the newest versions.
lock:
	$(PYTHON) -m venv .tmp/lock
	.tmp/lock/bin/pip install --quiet --disable-pip-version-check uv
	.tmp/lock/bin/python .ci/lock.py $(UPGRADE)

clean:
	rm -rf .tmp runs .pytest_cache .ruff_cache .import_linter_cache
	find kdlib faas tests -name __pycache__ -prune -exec rm -rf {} +

# The lock has the hash of PyTorch's CPU build. Where pip does not know that, it gets the CUDA build, by versions alone.
LOCKED = $(BIN)/pip index versions torch 2>/dev/null | grep -q +cpu \
	&& echo --require-hashes --requirement requirements.lock || echo --requirement constraints.txt

.venv/installed: requirements.lock pyproject.toml
	$(INSTALL)
	touch $@

# UV=1 installs by uv, in a fraction of the time: the same versions, without hashes, which uv does not find for a +cpu build.
ifdef UV
define INSTALL
	uv venv --quiet --clear --python $(PYTHON) .venv
	uv pip install --quiet --python $(BIN)/python --torch-backend cpu --requirement constraints.txt
	uv pip install --quiet --python $(BIN)/python --no-deps --editable .
endef
else
define INSTALL
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check $$($(LOCKED))
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --editable .
endef
endif
