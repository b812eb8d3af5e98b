# make setup | test | test-slow | test-slow-slice | test-matrix | reliability | lint | docs |
#      demo [BAG=...] | gpu | clean
#
# setup is done by scripts/setup.sh, which skips what is done; the other targets call it first.
SHELL := /bin/bash
PYTHON ?= python3
BAG ?=
# Arguments for pytest and for the demo: make test ARGS="-k codec -x"
ARGS ?=
in_workspace := source env.sh &&

.PHONY: setup test test-slow test-slow-slice test-matrix reliability lint docs demo demo-checkpoint \
	gpu clean

# Make hands on a PYTHON or ROS that it was given; the default is setup.sh's own.
setup:
	@scripts/setup.sh

test: setup
	$(in_workspace) python -m pytest -m "not slow" $(ARGS)

test-slow: setup
	$(in_workspace) python -m pytest -m slow $(ARGS)

# The slow tests that .ci/run runs too; CONTRIBUTING.md lists them.
test-slow-slice: setup
	$(in_workspace) python -m pytest -m "slow(ci=True)" $(ARGS)

# Tests without torch and ROS, on every Python of the list that is here; no setup.
PYTHONS ?= 3.10 3.11 3.12 3.13 3.14
test-matrix:
	ARGS="$(ARGS)" scripts/test_matrix.sh $(PYTHONS)

# Every fault against the real node; the table of docs/reliability.md in FAULT_TABLE.
FAULT_TABLE ?= fault_table.md
reliability: setup
	$(in_workspace) python -m pytest -m slow test/faults --fault-table $(FAULT_TABLE) $(ARGS)

lint: setup
	$(in_workspace) pre-commit run --all-files --show-diff-on-failure $(ARGS)

# The documentation as a site, in docs/_build; every warning is an error.
docs: setup
	$(in_workspace) pip install -q -r constraints/docs.txt
	$(in_workspace) sphinx-build -W -q -b html docs docs/_build
	@echo docs/_build/index.html

demo: setup
	$(in_workspace) occ demo $(BAG) $(ARGS)

# Renders, trains, packs and scores; goes on where it was ended. Any Python with torch, lightning,
# timm, numba, SciPy, OpenCV, typer, rich and the like will do: no setup, no ROS.
# make demo-checkpoint PACK=--install puts the result into the package.
RUN ?= demo_checkpoint_run
PACK ?=
occ_train := PYTHONPATH=.:training $(PYTHON) -m occ_training
demo-checkpoint:
	$(occ_train) fit alocc_town --out $(RUN) $(ARGS)
	$(occ_train) pack $(RUN) $(PACK)

# Any Python with torch and the like will do: no setup, no ROS.
# Golden files: those of OCC_SHARED, or of ARGS="--reference FOLDER"; a checkout alone has one.
gpu:
	$(PYTHON) benchmarks/gpu.py $(ARGS)

clean:
	rm -rf .venv build install log dist docs/_build *.egg-info training/*.egg-info \
	  .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
