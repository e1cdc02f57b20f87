# make features [CONFIG=run.yaml] [STORE=folder]   extract, probe, print the table; without CONFIG: the demo, into features/
# make test                                        lint, types, import rules, then tests and doctests
# make bench [ONLY=name]                           every benchmark, then one table of ours against the reference
# make docs                                        the documentation, into build/docs/index.html; warnings are errors
# make env                                         what `features` needs, in .venv, and nothing else
# make clean                                       removes the environment and the tools' caches; stores stay
#
# All that must be there is make, and Python 3.11 or newer with pip; PYTHON=/path/to/python chooses which.

SHELL := /bin/sh
UV_VERSION := 0.13.9

# A stamp is named after what the environment was made from: those two files and the place, which scripts in .venv/bin hold.
KEY := $(shell printf '%s' '$(CURDIR)' | cat pyproject.toml constraints.txt - | cksum | tr ' ' -)
READY := .venv/ready-$(KEY)

# An interpreter that was upgraded away, or another one asked for, makes the stamp void.
PRESENT := $(shell .venv/bin/python -V 2>/dev/null)
WANTED := $(if $(PYTHON),$(shell $(PYTHON) -V 2>/dev/null),$(PRESENT))
REMAKE := $(if $(PRESENT),$(if $(filter-out $(WANTED),$(PRESENT)),remake),remake)

# With this set, as container images do, every process would compile the whole of torch again: seconds each time.
unexport PYTHONDONTWRITEBYTECODE
export PYTHONUNBUFFERED := 1

.PHONY: features test lint types imports tests bench docs env clean remake
.NOTPARALLEL:

features: $(READY)-all
	@.venv/bin/featurebank features $${CONFIG:+"$$CONFIG"} $${STORE:+--store "$$STORE"}

test: lint types imports tests

lint: $(READY)-dev
	.venv/bin/ruff check
	.venv/bin/ruff format --check

types: $(READY)-dev
	.venv/bin/mypy

imports: $(READY)-dev
	.venv/bin/lint-imports

tests: $(READY)-dev
	OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 .venv/bin/pytest --numprocesses logical --dist worksteal

bench: $(READY)-dev
	@.venv/bin/python benchmarks/run_all.py $(ONLY)

docs: $(READY)-dev
	.venv/bin/python -m sphinx -W -n -b html docs build/docs

env: $(READY)-all

clean:
	rm -rf .venv .uv .*_cache build dist

remake: ;

# `all` is part of `dev`, so its stamp is left either way. An environment without a stamp, as an interrupted install leaves it,
# is made anew. pip stands in where uv does not run, or cannot use an index or a cache that pip can.
$(READY)-%: $(REMAKE)
	@set -eu; \
	for python in $${PYTHON:-python3 python3.13 python3.12 python3.11} none; do \
	  "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && break; \
	done; \
	if [ "$$python" = none ]; then \
	  echo "needs Python 3.11 or newer, found none as $${PYTHON:-python3, python3.13, python3.12 or python3.11};" \
	    "install one, or name it: make PYTHON=/path/to/python" >&2; exit 1; \
	fi; \
	pip_setting() { "$$python" -m pip config list 2>/dev/null | sed -n "s/^[^=]*\.$$1='\(.*\)'$$/\1/p" | head -n 1; }; \
	index=$$(pip_setting index-url); [ -z "$$index" ] || export UV_DEFAULT_INDEX="$${UV_DEFAULT_INDEX:-$$index}"; \
	cert=$$(pip_setting cert); [ -z "$$cert" ] || export SSL_CERT_FILE="$${SSL_CERT_FILE:-$$cert}"; \
	uv=.uv/bin/uv; \
	case "$$($$uv --version 2>/dev/null)" in "uv $(UV_VERSION)"*) ;; *) \
	  rm -rf .uv; \
	  PIP_USER=0 PIP_REQUIRE_VIRTUALENV=0 "$$python" -m pip install -qq --disable-pip-version-check \
	    --root-user-action=ignore --only-binary :all: --target .uv uv==$(UV_VERSION) && $$uv --version >/dev/null || uv=false; \
	esac; \
	if [ -n "$(REMAKE)" ] || ! ls .venv/ready-* >/dev/null 2>&1 || ! grep -qsF '$(CURDIR)/.venv' .venv/bin/activate; then \
	  echo "making .venv with $$("$$python" -V)"; \
	  $$uv venv --quiet --clear --python "$$python" .venv || "$$python" -m venv --clear .venv; \
	fi; \
	rm -f .venv/ready-*; \
	echo "installing featurebank[$*]; the first time it takes a few GB, as torch comes with its CUDA libraries"; \
	quiet=--quiet; [ ! -t 2 ] || quiet=; \
	$$uv pip install $$quiet --python .venv/bin/python -c constraints.txt -b constraints.txt -e '.[$*]' || { \
	  echo "uv could not install; trying pip"; \
	  "$$python" -m pip --python .venv/bin/python install $$quiet -c constraints.txt -e '.[$*]'; \
	}; \
	touch $(READY)-all $@
