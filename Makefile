# Each target may be the first command in a fresh clone: it sets up .venv itself, with uv where there is one, else with pip.

PYTHON ?= python3.11 python3.12 python3.13 python3 python
READY  := .venv/.ready
BIN    := .venv/bin
NOTEBOOKS := $(wildcard notebooks/*.ipynb templates/*.ipynb)

IS_NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))
# two test processes on two cores: each computes with one thread
ONE_THREAD := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1

.DEFAULT_GOAL := help
.PHONY: help demo test lab lint bench bench-check bench-active bench-ranking bench-redshift clean chromium

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(READY) ## simulate a survey, ingest it and rank its strangest objects (about 3 minutes)
	rm -rf demo
	$(BIN)/astrolab simulate demo/desi --n-objects 2000 --seed 0 --format desi
	$(BIN)/astrolab ingest desi demo/desi --out demo/spectra.zarr
	$(BIN)/astrolab run rank_anomalies -p spectra_path demo/spectra.zarr --run-dir demo/run
	@echo "To look at them in a browser:  $(BIN)/astrolab vet demo/run"

test: $(READY) chromium ## run every test and doctest (about 12 minutes)
	$(ONE_THREAD) $(BIN)/python -m pytest -n 2 --dist worksteal --durations 10

lab: $(READY) ## open JupyterLab on notebooks/
	$(BIN)/python -m jupyterlab notebooks/index.ipynb $(if $(filter 0,$(shell id -u)),--allow-root)

lint: $(READY) ## check style, docstrings, the floors of the house, and that notebooks carry no outputs
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/lint-imports
	$(if $(NOTEBOOKS),$(BIN)/python -m nbstripout --verify --keep-id --extra-keys metadata.language_info.version $(NOTEBOOKS))

bench: $(READY) ## run the benchmarks: speed, memory and ranking quality
	@set -e; for file in $$(grep -ls '^def main' benchmarks/*.py benchmarks/*/__main__.py); do \
	    name=$$(echo "$${file%.py}" | tr / .); name=$${name%.__main__}; echo "== $$name"; $(BIN)/python -m "$$name"; \
	done

bench-check: $(READY) ## fail when a ratio of the benchmarks of speed is worse than the stored one by more than a third (about 3 minutes)
	$(ONE_THREAD) $(BIN)/python -m benchmarks.check

bench-active: $(READY) ## measure what labels are worth: anomalies found by re-ranking (about 5 minutes)
	$(ONE_THREAD) $(BIN)/python -m benchmarks.active

bench-ranking: $(READY) ## measure the ranking: recall per class and family, against baselines (about 3 minutes)
	$(ONE_THREAD) $(BIN)/python -m benchmarks.ranking

bench-redshift: $(READY) ## measure classes and redshifts: accuracy, calibration, speed (about 5 minutes)
	$(ONE_THREAD) $(BIN)/python -m benchmarks.redshift

clean: ## remove what make demo and the tools left; .venv and runs/ stay
	rm -rf demo build dist .pytest_cache .ruff_cache .import_linter_cache
	find . -path ./.venv -prune -o -name __pycache__ -type d -exec rm -rf {} +

chromium:
	@if command -v chromium >/dev/null; then :; \
	elif [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    echo "Installing Chromium for the browser tests"; \
	    export DEBIAN_FRONTEND=noninteractive; \
	    { apt-get -qq update && apt-get -qq install -y --no-install-recommends chromium; } >/dev/null 2>&1 \
	        || echo "Chromium could not be installed from Debian: the browser tests will be skipped."; \
	else echo "No 'chromium' on the PATH: the browser tests will be skipped."; fi

# .ready holds the folder it was made in: a .venv that is broken or of another folder (a copied or moved checkout) is made anew.
IS_MINE := [ "$$(cat $(READY))" = "$$(pwd -P)" ] && $(BIN)/python -c '$(IS_NEW_ENOUGH)'
ifneq (0,$(shell { $(IS_MINE); } 2>/dev/null; echo $$?))
.PHONY: $(READY)
endif
$(READY): pyproject.toml constraints.txt
	@set -e; \
	echo "Setting up .venv; the first time this takes a few minutes"; \
	if ! { $(IS_MINE); } 2>/dev/null; then \
	    for candidate in $(PYTHON); do \
	        if "$$candidate" -c '$(IS_NEW_ENOUGH)' 2>/dev/null; then python=$$candidate; break; fi; \
	    done; \
	    if [ -z "$$python" ]; then \
	        echo "AstroLab needs Python 3.11 or newer and found none under the names: $(PYTHON)." \
	            "Install one, or name it: make $(or $(MAKECMDGOALS),demo) PYTHON=/path/to/python3.11" >&2; exit 1; \
	    fi; \
	    rm -rf .venv; \
	    if command -v uv >/dev/null; then uv venv -q --python "$$("$$python" -c 'import sys; print(sys.executable)')" .venv; \
	    else "$$python" -m venv .venv; fi; \
	fi; \
	if command -v uv >/dev/null; then \
	    uv pip install --python $(BIN)/python $(addprefix --find-links=,$(PIP_FIND_LINKS)) -c constraints.txt -e '.[dev]'; \
	else $(BIN)/python -m pip install -c constraints.txt -e '.[dev]'; fi; \
	pwd -P > $@
