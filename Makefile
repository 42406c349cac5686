# Everything runs in .venv, which the first target that needs it makes. `make help` lists targets.
PYTHON ?= python3
VENV ?= .venv
RUN_DIR ?= runs/demo
BENCH ?= runs/bench
CORPUS ?= $(BENCH)/corpus.jsonl

BIN := $(VENV)/bin
PIP := $(BIN)/pip --disable-pip-version-check
INSTALLED := $(VENV)/.installed

# uv and pip-audit, in a separate environment
TOOLS := build/tools
UV := $(TOOLS)/bin/uv
LATEST := build/latest
TELLING := tests/golden tests/pipeline/test_subset.py tests/pipeline/test_baselines.py \
  tests/training/test_engines.py tests/training/test_step.py tests/training/test_lora.py \
  tests/scoring/test_trajectories.py tests/models tests/clustering/test_clusters.py \
  tests/corpus/test_hub.py tests/corpus/test_chat_labels.py tests/selection/test_trainers.py \
  tests/test_record.py

.DEFAULT_GOAL := help
.PHONY: help install demo test test-all test-latest slice faults soak bench docs lint format types check update lock audit clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*##/\1:/' | column -t -s: 2>/dev/null \
	  || grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST)

install: $(INSTALLED)  ## the virtual environment with the pinned versions

# Remove the stamp to install again. A .venv made by hand is kept and installed into. Each package
# must have a hash of requirements.lock, except torch and what it alone asks for (CUDA): pip picks the
# build that its indexes offer (a CPU one where that is what they offer).
$(INSTALLED): pyproject.toml constraints.txt requirements.lock
	@command -v $(PYTHON) >/dev/null || { echo "make: $(PYTHON) not found: Python 3.11 or newer is needed (PYTHON=... names another)" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "make: $$($(PYTHON) --version) is too old: 3.11 or newer is needed (PYTHON=... names another)" >&2; exit 1; }
	@command -v g++ >/dev/null || { echo "make: g++ not found: DeepSpeed may compile operators (Debian, Ubuntu: apt-get install g++)" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "make: $(VENV) has $$($(BIN)/python --version): remove it, 3.11 or newer is needed" >&2; exit 1; }
	@echo "installing into $(VENV) (some minutes the first time)"
	@$(PIP) install --quiet --no-deps --require-hashes -r requirements.lock
	@$(PIP) install --quiet -c constraints.txt torch
	@$(PIP) install --quiet --no-deps --no-build-isolation -e .
	@$(PIP) check >/dev/null || $(PIP) check
	@touch $@

demo: $(INSTALLED)  ## the whole pipeline on a made-up corpus, on this machine (RUN_DIR=runs/demo)
	$(BIN)/python jobs/pipeline.py configs/demo.yaml run_dir=$(RUN_DIR)

test: $(INSTALLED)  ## the quick tests
	$(BIN)/python -m pytest tests -m "not slow and not faults" -n 2 --dist loadfile

test-all: $(INSTALLED)  ## every test
	$(BIN)/python -m pytest tests

slice: $(INSTALLED)  ## one slice of the slow tests, as CI runs it (SLICE=training; tests/slices.py)
	$(BIN)/python -m pytest tests --slice=$(SLICE)

faults: $(INSTALLED)  ## runs whose processes, store and files fail
	$(BIN)/python -m pytest tests -m "faults and not soak"

soak: $(INSTALLED)  ## one slice of these and of what CI leaves out, an hour at most, each death three times (SOAK=owners)
	$(BIN)/python tests/soak.py $(SOAK)

bench: $(INSTALLED)  ## small sizes of seven benchmarks (BENCH=runs/bench)
	$(BIN)/python jobs/demo_corpus.py $(CORPUS)
	$(BIN)/python benchmarks/corpus.py $(CORPUS) --rows 5000 --vocabulary 2048 --rounds 1 --json $(BENCH)/corpus.json
	$(BIN)/python benchmarks/scoring.py $(CORPUS) --examples 24 --rounds 1 --dtypes fp32 --json $(BENCH)/scoring.json
	$(BIN)/python benchmarks/training.py $(CORPUS) --steps 6 --rounds 1 --json $(BENCH)/training.json
	$(BIN)/python benchmarks/trajectory.py $(CORPUS) --examples 1000 --checkpoints 4 --json $(BENCH)/trajectory.json
	$(BIN)/python benchmarks/overlap.py $(CORPUS) --examples 1000 --epochs 4 --json $(BENCH)/overlap.json
	$(BIN)/python benchmarks/kmeans.py --rows 200000 --seeds 1 --json $(BENCH)/kmeans.json
	$(BIN)/python benchmarks/scale.py --rows 100000 300000 --json $(BENCH)/scale.json

docs: $(INSTALLED)  ## docs/configuration.md, and the documentation as a site in site/
	$(BIN)/python docs/_tools/configuration.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs --quiet build --strict

lint: $(INSTALLED)  ## ruff's rules and format, the layers of the package, the links of the pages
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-logo
	$(BIN)/python docs/_tools/links.py

format: $(INSTALLED)  ## let ruff mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(INSTALLED)  ## mypy
	$(BIN)/mypy

check: lint types test  ## lint, types and tests

$(UV): Makefile
	@$(PYTHON) -m venv --clear $(TOOLS)
	@$(TOOLS)/bin/pip --disable-pip-version-check install --quiet uv==0.13.9 pip-audit==2.10.1
	@touch $@

update: $(UV)  ## the newest versions that pyproject.toml allows, into constraints.txt and requirements.lock
	$(UV) pip compile pyproject.toml --extra dev --upgrade --python $(PYTHON) --no-annotate --no-header --quiet -o build/all.txt
	{ grep '^#' constraints.txt; grep -Ev '^(cuda|nvidia)-|^triton==' build/all.txt; } >build/constraints.txt
	mv build/constraints.txt constraints.txt
	$(MAKE) lock

lock: $(UV)  ## the hashes of what constraints.txt pins, except torch, into requirements.lock
	grep -v '^torch==' constraints.txt >build/pins.txt
	$(UV) pip compile build/pins.txt --no-deps --generate-hashes --python $(PYTHON) --no-annotate --no-header --quiet -o build/hashes.txt
	{ echo '# Made by `make lock` from constraints.txt. torch is left out: its hash depends on the build.'; cat build/hashes.txt; } >requirements.lock

audit: $(UV)  ## known vulnerabilities of the pinned versions (needs pypi.org; fails if one cannot be looked up)
	@$(TOOLS)/bin/pip-audit --strict --no-deps --disable-pip --progress-spinner off -r constraints.txt 2>build/audit.txt; \
	code=$$?; grep -v '^WARNING' build/audit.txt >&2; \
	! grep -q 'could not be audited' build/audit.txt \
	  || echo "make: not audited: the package index serves no vulnerability data of this package; run it where pypi.org can be reached" >&2; \
	exit $$code

# Without pins, in a separate environment: Ray and a training on it, DeepSpeed, transformers and
# TRL, and what the golden files freeze.
test-latest:  ## the tests that depend most on other packages, with the newest versions that pyproject.toml allows
	@$(PYTHON) -m venv --clear $(LATEST)
	@$(LATEST)/bin/pip --disable-pip-version-check install --quiet torch
	@$(LATEST)/bin/pip --disable-pip-version-check install --quiet -e ".[dev]"
	@$(LATEST)/bin/pip --disable-pip-version-check list 2>/dev/null | grep -iE '^(ray|torch|deepspeed|transformers|trl|peft|pyarrow) '
	$(LATEST)/bin/python -m pytest -m "not slow and not faults" $(TELLING)

clean:  ## caches and build output; runs/ and .venv stay
	rm -rf build dist site *.egg-info .pytest_cache .ruff_cache .mypy_cache
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
