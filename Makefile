# Every target does its own set-up: a virtual environment in .venv with the pinned versions of constraints.txt.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: demo test test-slow lint paper clean

demo: $(INSTALLED)
	$(BIN)/lensbench run sweeps/demo.py

test: $(INSTALLED)
	$(BIN)/python -m pytest

test-slow: $(INSTALLED)
	$(BIN)/python -m pytest -m slow

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "lensbench needs Python 3.11 or newer: make PYTHON=python3.11 ...")'
	@echo 'installing into $(VENV): a few minutes and 2 GB, once'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	@# Without its dependencies: clean-fid asks for torchvision, which does not import beside a CPU torch.
	$(BIN)/python -m pip install --quiet --no-deps -c constraints.txt clean-fid
	touch $@

paper: $(INSTALLED)
	$(BIN)/python -m lensbench.report.paper results/demo paper
	cd paper && pdflatex -interaction=nonstopmode -halt-on-error main.tex && pdflatex -interaction=nonstopmode -halt-on-error main.tex

clean:
	rm -rf runs cache
