# Needs Python 3.10 to 3.14 and this file, nothing else: the first target makes a virtual environment.
#
#   make demo     the main job, end to end: shipped model, start frames, simulation, pictures
#   make test     all tests (those that need a GPU skip themselves without one)
#   make lint     ruff, mypy and import-linter
#   make docs     the documentation as web pages: build/docs/index.html
#   make install  only the virtual environment
#   make clean    remove caches and build products; keeps the environment and your results
#
# Settings, with their defaults:
#   PYTHON=           Python to make the environment with; empty: the first suitable one on the PATH
#   VENV=.venv        the environment; one that has the packages already is used as it is
#   EXTRAS=test,torchforce
#                     extras of pyproject.toml; with an NVIDIA GPU: EXTRAS=test,torchforce-cuda12;
#                     the newest torch and OpenMM, without TorchForce: EXTRAS=test
#   WORKERS=2         processes that share the tests
#   PYTEST_ARGS=      for example PYTEST_ARGS="-m 'not slow'"
#   DEMO_ARGS=        arguments of examples/demo.py

PYTHON ?=
VENV ?= .venv
EXTRAS ?= test,torchforce
WORKERS ?= 2
PYTEST_ARGS ?=
DEMO_ARGS ?=

RUN = $(VENV)/bin/python
STAMP = $(VENV)/.installed
INSTALLED_FOR = $(CURDIR) [$(EXTRAS)]

.PHONY: help demo test lint docs install clean FORCE
.DEFAULT_GOAL := help

help:
	@sed -n '/^$$/q; s/^# \{0,1\}//p' Makefile

demo: $(STAMP)
	@# Threads that wait without spinning lose little alone and much less where other programs run.
	@OMP_WAIT_POLICY=$${OMP_WAIT_POLICY:-PASSIVE} $(RUN) examples/demo.py $(DEMO_ARGS)

test: $(STAMP)
	@# The networks of the tests are too small for threads, and some tests run several processes.
	OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(RUN) -m pytest -n $(WORKERS) --dist loadgroup $(PYTEST_ARGS)

lint: $(STAMP)
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy
	$(VENV)/bin/lint-imports --no-cache --no-logo

docs: $(STAMP)
	$(RUN) -m sphinx -b html -W --keep-going -q -d build/doctrees docs build/docs
	@echo "Open build/docs/index.html"

install: $(STAMP)

clean:
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
	find openmm_scoremd tests examples benchmarks docs -name __pycache__ -prune -exec rm -rf {} +

# The environment points at this folder (pip install -e), so a copied or moved tree installs again;
# so does one whose Python has gone.
ifneq ($(shell $(RUN) -c '' 2>/dev/null && cat $(STAMP) 2>/dev/null),$(INSTALLED_FOR))
$(STAMP): FORCE
endif

$(STAMP): pyproject.toml setup.py
	@sh -c "$$MAKE_ENVIRONMENT"
	@echo '$(INSTALLED_FOR)' > $@

FORCE:

# The scripts below reach the shell through the environment. GNU make 3.81 (macOS) knows no .ONESHELL.

# Prints the first Python that works, has an allowed version and can make environments. A name on
# the PATH says little: version managers leave shims that only print an error.
define FIND_PYTHON
tried=
newline='
'
check='import sys
if not (3, 10) <= sys.version_info[:2] <= (3, 14):
    sys.exit("is Python %d.%d" % sys.version_info[:2])
try:
    import ensurepip, venv
except ImportError:
    sys.exit("is Python %d.%d without venv (Debian, Ubuntu: apt-get install python3-venv)"
             % sys.version_info[:2])'

try() {
    if answer=$$("$$1" -c "$$check" 2>&1 < /dev/null); then
        echo "$$1"
        exit 0
    fi
    tried="$$tried$$newline  $$1: $${answer%%$$newline*}"
}

if [ -n "$(PYTHON)" ]; then
    try "$(PYTHON)"
else
    set -f
    IFS=:
    set -- $$PATH
    unset IFS
    for name in python3 python3.13 python3.12 python3.11 python3.10 python3.14 python; do
        for folder do
            if [ -f "$$folder/$$name" ] && [ -x "$$folder/$$name" ]; then try "$$folder/$$name"; fi
        done
    done
fi
{
    echo "No suitable Python: 3.10 to 3.14 is needed. Found:$${tried:- none}"
    echo "Install one of these versions, or name one: make PYTHON=/path/to/python3.12"
} >&2
exit 1
endef
export FIND_PYTHON

define MAKE_ENVIRONMENT
set -eu
start=$$(date +%s)
fail() {
    echo "$$1" >&2
    exit 1
}

if "$(RUN)" -c '' 2> /dev/null; then
    "$(RUN)" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 14))' || fail \
        "$(VENV) holds $$("$(RUN)" --version); Python 3.10 to 3.14 is needed. Remove it, or give VENV=another-folder."
    echo "Using the virtual environment $(VENV) ($$("$(RUN)" --version))."
elif [ -e "$(VENV)" ] && [ ! -e "$(VENV)/pyvenv.cfg" ]; then
    fail "$(VENV) exists and is not a virtual environment; move it away, or give VENV=another-folder."
else
    python=$$(sh -c "$$FIND_PYTHON")
    echo "Making the virtual environment $(VENV) with $$python ($$("$$python" --version))."
    "$$python" -m venv --clear "$(VENV)"
fi
"$(RUN)" -c 'import pip' 2> /dev/null || "$(RUN)" -m ensurepip > /dev/null

# A terminal sees pip's own progress, a log only errors.
quiet=-qq
if [ -t 1 ] && [ -z "$${CI:-}" ]; then quiet=; fi

# ParmEd has no wheels. Its only compiled part is a faster reader, which it can do without.
build=
if [ -z "$${CXX:-}" ] && ! command -v c++ > /dev/null && ! command -v g++ > /dev/null \
    && ! command -v clang++ > /dev/null; then
    echo "No C++ compiler found: ParmEd is installed without its compiled reader (slower, same results)."
    export CC=true CXX=true
    build='--only-binary=:all: --no-binary=parmed'
fi

echo "Installing openmm-scoremd and what it needs (on Linux about 7 GB and some minutes, if missing) ..."
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1
"$(RUN)" -m pip install $$quiet 'pip>=22.3' \
    && "$(RUN)" -m pip install $$quiet $$build -e '.[$(EXTRAS)]' || fail \
"Installation failed; pip says why above. It needs a network, about 12 GB of free disk (7 GB stay), and on
Linux glibc 2.34 or newer (Debian 12, Ubuntu 22.04, RHEL 9). Run the same command again to go on."
echo "Installed in $$(($$(date +%s) - start)) s."
endef
export MAKE_ENVIRONMENT
