# `make demo` and `make test` do everything from a bare clone; a second call installs nothing.
INSTALLED := .venv/.installed
PYTHON_IN_VENV := .venv/bin/python

help:          ## this list
	@grep -E '^[a-z-]+: .*##|^[a-z-]+: *##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*##/\t/'

demo: $(INSTALLED)  ## set up if needed, then train the embedded model: base, two iterations of distil, SFT, GRPO
	$(PYTHON_IN_VENV) -m ovt_ray run configs/tiny.yaml

test-fast: $(INSTALLED)  ## set up if needed, then the tests that start no Ray, no engine and no DeepSpeed (less than a minute)
	$(PYTHON_IN_VENV) -m pytest -m "not heavy and not long"

test: $(INSTALLED)  ## set up if needed, then all tests but the longest
	$(PYTHON_IN_VENV) -m pytest -m "not long"

test-long: $(INSTALLED)  ## the longest tests: most start, stop or kill whole engines and jobs (about 10 minutes)
	$(PYTHON_IN_VENV) -m pytest -m long

check: $(INSTALLED)  ## format, lint, types: what CI runs before the tests
	$(PYTHON_IN_VENV) -m ruff format --check .
	$(PYTHON_IN_VENV) -m ruff check .
	$(PYTHON_IN_VENV) -m mypy

lock: $(INSTALLED)  ## write the versions in .venv to requirements-cpu.lock
	$(PYTHON_IN_VENV) -m pip list --format=freeze --exclude pip --exclude ovt-ray > .venv/lock
	sed 's/+cpu$$//' .venv/lock > requirements-cpu.lock
	touch $(INSTALLED)

base: $(INSTALLED)  ## train the embedded base model again from random weights, and ship it (about 10 minutes)
	$(PYTHON_IN_VENV) -m ovt_ray run configs/base.yaml
	$(PYTHON_IN_VENV) scripts/ship_base.py runs/base/iter0/base/model

teachers: $(INSTALLED)  ## train the embedded captioner and reasoner again from the base model, and ship them (about 6 minutes)
	$(PYTHON_IN_VENV) scripts/make_teachers.py

clean:         ## remove the virtual environment and caches; runs/ stays
	rm -rf .venv .pytest_cache .ruff_cache .mypy_cache .hypothesis *.egg-info

$(INSTALLED): pyproject.toml requirements-cpu.lock scripts/setup.sh scripts/install.py scripts/repair_torchvision.py
	@PYTHON="$(PYTHON)" STACK="$(STACK)" bash scripts/setup.sh

.PHONY: help demo test test-fast test-long check lock base teachers clean
