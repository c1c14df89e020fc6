# Every target does its own set-up: a virtual environment in .venv with the pinned versions of constraints.txt.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: demo test test-slow lint paper clean

demo: $(INSTALLED)
	$(BIN)/lensbench run sweeps/demo.py

# A process a core; a file's tests stay together, for they share what they set up.
test: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile

test-slow: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m slow -n auto --dist loadfile

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

# The first study's; RESULTS=results/<sweep> takes another sweep's, RESULTS="A B" two. SOURCE_DATE_EPOCH: the same PDF from the same results.
STUDY := caption_quality caption_dose model_size model_size_flops
RESULTS ?= $(addprefix results/,$(STUDY) $(addsuffix _tests,$(filter-out caption_quality,$(STUDY))))
paper: export SOURCE_DATE_EPOCH = 0
paper: export FORCE_SOURCE_DATE = 1
paper: $(INSTALLED)
	$(BIN)/python -m lensbench.report.paper $(RESULTS) --into paper
	cd paper && for pass in 1 2 3; do pdflatex -interaction=nonstopmode -halt-on-error main.tex || exit 1; done

clean:
	rm -rf runs cache
