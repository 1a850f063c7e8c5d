# PYTHON chooses the interpreter of the virtual environment; ARGS is passed on: make test ARGS="-k pcim"
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := -m pip install --quiet --disable-pip-version-check -c constraints.txt
INSTALL := $(BIN)/python $(PIP)
# Libraries whose networks are targets, on top of $(VENV): the torchvision that they need must not reach it, for beside a
# PyTorch that it was not built for it stops Lightning too.
EXTERNAL := $(VENV)-external

# One thread a process: pytest runs one process a core.
test test-fast: export OMP_NUM_THREADS = 1
PYTEST := $(BIN)/python -m pytest -n 2 --dist worksteal

.DEFAULT_GOAL := help
.PHONY: help demo test test-fast test-external lint bench clean

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*##/make \1\t/p' $(MAKEFILE_LIST)

demo: $(VENV)/.installed  ## install, train an explainer on real images, print its table and where its pictures are
	$(BIN)/python train.py experiment=demo $(ARGS)

test: $(VENV)/.installed-test  ## install and run every test and doctest (LIGHTNING_XAI_DATA adds those on real data)
	$(PYTEST) $(ARGS)

test-fast: $(VENV)/.installed-test  ## the tests of a minute and a half: no runs of train.py, a slice of the contract
	$(PYTEST) -m "not slow" $(ARGS)

test-external: $(EXTERNAL)/.installed  ## the contract of networks of timm, torchvision, smp, transformers, torchxrayvision
	OMP_NUM_THREADS=1 $(EXTERNAL)/bin/python -m pytest tests/contract/test_external_models.py $(ARGS)

lint: $(VENV)/.installed-test  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/.installed-test  ## run every benchmark
	@set -e; for script in $(wildcard benchmarks/[a-z]*.py); do echo "== $$script"; $(BIN)/python $$script $(ARGS); done

clean:  ## remove the virtual environment
	rm -rf $(VENV) $(EXTERNAL)

$(VENV)/.installed: pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing into $(VENV): a few minutes the first time"
	@$(INSTALL) -e .
	@touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	@echo "Installing the test tools"
	@$(INSTALL) -e '.[test]'
	@touch $@

$(EXTERNAL)/.installed: $(VENV)/.installed-test
	@$(BIN)/python -m venv $(EXTERNAL)
	@echo "Installing libraries of networks into $(EXTERNAL)"
	@$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' > $(EXTERNAL)/venv.pth
	@mv $(EXTERNAL)/venv.pth "$$($(EXTERNAL)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"
	@$(EXTERNAL)/bin/python $(PIP) -e '.[timm,torchvision,smp,huggingface,torchxrayvision]'
	@touch $@
