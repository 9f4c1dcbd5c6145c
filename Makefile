# cyrusext: build, prove, show.  `make` alone builds.
#
# Everything lands in .venv/ and build/ of this checkout and in the cache of private Debian roots; the only thing done
# to the machine is installing missing build packages (packaging/build-tools), and only when run as root.

PYTHON := .venv/bin/python
STAMP := build/stamp
RELEASES := bookworm trixie
DEMO_FLAGS ?=
SOAK_FLAGS ?=
BENCH ?= $(sort $(wildcard benchmarks/*.py))
export DEBIAN_FRONTEND := noninteractive
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_NO_INPUT := 1
export PIP_ROOT_USER_ACTION := ignore

EXTENSION_SOURCES := setup.py packaging/compiled_classes.py $(wildcard cyrusext/*/*.pyx cyrusext/*/*.pxd \
	lmtp_router/*.py lmtp_router/*.pyx lmtp_router/_*.pxd lmtp_router/*/*.py lmtp_router/*/*.pyx lmtp_router/*/_*.pxd \
	cyrusext/net/_sasl_build.py csrc/include/*.h csrc/libcyrusext/*.c csrc/libcyrusext/*.h)

.PHONY: build tools library roots demo test nightly soak bench clean
.DELETE_ON_ERROR:
.NOTPARALLEL:

build: tools $(STAMP)/extensions library

tools:
	@packaging/build-tools build

# One .venv for building, running and testing, with the versions of packaging/constraints.txt.
$(STAMP)/dependencies: pyproject.toml packaging/constraints.txt
	@mkdir -p $(STAMP)
	@test -x $(PYTHON) || { python=$$(packaging/find-python) && $$python -m venv .venv; }
	@echo "installing Python packages into .venv"
	@$(PYTHON) packaging/requirements.py | $(PYTHON) -m pip install -qq -c packaging/constraints.txt -r /dev/stdin
	@touch $@

$(STAMP)/editable: $(STAMP)/dependencies setup.py pyproject.toml
	@echo "installing cyrusext into .venv (editable)"
	@$(PYTHON) -m pip install -qq --no-deps --no-build-isolation -e .
	@touch $@

$(STAMP)/extensions: $(STAMP)/editable $(EXTENSION_SOURCES)
	@echo "building the extension modules"
	@$(PYTHON) setup.py -q build_ext --inplace -j 2
	@touch $@

library:
	@$(MAKE) --no-print-directory -s -C csrc OUT=$(CURDIR)/build all

roots: build
	@packaging/build-tools test
	@$(PYTHON) tests/harness/roots.py build $(RELEASES) >/dev/null

# One message to two mailboxes on two real Cyrus servers; stays up until Ctrl-C.  DEMO_FLAGS=--once ends by itself.
demo: build
	@packaging/build-tools test
	@$(PYTHON) tests/harness/roots.py build bookworm >/dev/null
	@$(PYTHON) -m tests.demo $(DEMO_FLAGS)

# tox.ini lists the checks; the last line counts every test of every job.
test: roots
	@$(PYTHON) tests/run.py

# The same checks for longer: fifty times the examples, all faults on both releases, then twenty other samples of them,
# fuzzing for minutes.
nightly: roots
	@CYREXT_LONG=1 $(PYTHON) tests/run.py
	@CYREXT_LONG=1 $(PYTHON) -m pytest -q --job faults --release trixie
	@for turn in $$(seq 10); do for release in $(RELEASES); do \
		CYREXT_SEED=$$turn $(PYTHON) -m pytest -q --job faults --release $$release || exit 1; \
	done; done
	@$(PYTHON) -m fuzz.framer --cases 1000000
	@$(PYTHON) -m fuzz.finds --cases 200000
	@$(MAKE) --no-print-directory -s -C csrc OUT=$(CURDIR)/build tsan valgrind
	@$(MAKE) --no-print-directory -s -C csrc OUT=$(CURDIR)/build FUZZ_SECONDS=1800 fuzz

# The router for a quarter of an hour at half load while its backends are killed; the figures are printed at the end.
# SOAK_FLAGS="--seconds 3600 --seed 7" for another one.
soak: build
	@$(PYTHON) -m tests.faults.soak $(SOAK_FLAGS)

# Each script measures one section of benchmarks/RESULTS.md, its peer beside it, and fails when the peer did not run; the
# others go on.  BENCH="benchmarks/find.py benchmarks/create.py" runs only these.
bench: roots
	@failed=; for script in $(BENCH); do \
		echo "== $$script"; $(PYTHON) "$$script" || failed="$$failed $$script"; \
	done; test -z "$$failed" || { echo "no table from:$$failed" >&2; exit 1; }

clean:
	rm -rf build dist .tox .venv *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find cyrusext lmtp_router tests packaging benchmarks \( -name '*.so' -o -name __pycache__ \) -prune -exec rm -rf {} +
