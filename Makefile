# `make book` and `make test` set up everything they need. `make help` lists the rest.
# Paths may have spaces, in which make's own functions would cut them: so they are relative to here, or only passed on.
ROOT := $(CURDIR)
PYTHON ?= python3
VENV ?= .venv
JOBS ?= 0
PORT ?= 8000
SETUP ?=
FRESH ?=
ARGS ?=

# A smoke run takes seconds of audio and must not wait for a download.
SMOKE_CORPUS ?= $(if $(SEPRIORS_DATA),auto,synthetic)
SMOKE := $(ROOT)/_build/smoke
# Runs a command of the environment, with the variables that its timings assume (tools/__init__.py)
RUN = cd "$(ROOT)" && "$(VENV)/bin/python" -m tools

.PHONY: help env book smoke offline pdf test check-corpora check lint records bench serve clean
help:  ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 15

env:  ## make the virtual environment .venv (PYTHON=python3.12 chooses another Python)
	@command -v "$(PYTHON)" >/dev/null || { echo "no $(PYTHON): install Python 3.11 or newer, or name one: make PYTHON=..."; exit 1; }
	@"$(PYTHON)" "$(ROOT)/tools/setup_env.py" --venv "$(VENV)" $(SETUP)

book: env  ## run every chapter that changed and build the book in _build/html (FRESH=1 runs all, STRICT=1 minds the time)
	@$(RUN) python -m tools.build --profile book --jobs $(JOBS) $(if $(FRESH),--fresh) $(ARGS)

smoke: env  ## the same cells on seconds of audio, into _build/smoke (SMOKE_CORPUS=auto takes what was fetched)
	@$(RUN) python -m tools.build --profile smoke --corpus $(SMOKE_CORPUS) --jobs $(JOBS) --out "$(SMOKE)"

offline: env  ## pack the built book into _build/sepriors-book.zip, which a browser reads from the disk
	@$(RUN) python -m tools.offline $(ARGS)

pdf: env  ## print the built book into _build/sepriors-book.pdf
	@$(RUN) python -m tools.setup_env --chromium
	@$(RUN) python -m tools.pdf $(ARGS)

test: smoke  ## unit tests, every notebook in the profile smoke, browser tests (ARGS="-k nmf" chooses)
	@$(RUN) python -m tools.setup_env --chromium
	@$(RUN) env SEPRIORS_BOOK_HTML="$(SMOKE)/_build/html" OMP_NUM_THREADS=1 python -m pytest -n auto --dist worksteal $(ARGS)

check-corpora: env  ## the tests that look at the corpora of SEPRIORS_DATA, alone
	@$(RUN) env OMP_NUM_THREADS=1 python -m pytest -n auto --dist worksteal -m corpora $(ARGS)

lint: env  ## ruff, mypy, yamllint; notebooks without outputs
	@$(RUN) ruff check .
	@$(RUN) sh -c 'ruff format --check --quiet book/*.ipynb book/studies || { echo "code that readers see: ruff format book/*.ipynb book/studies"; exit 1; }'
	@$(RUN) mypy
	@$(RUN) mypy tools
	@$(RUN) yamllint --strict _config.yml _toc.yml .yamllint .pre-commit-config.yaml .github
	@$(RUN) sh -c 'nbstripout --verify book/*.ipynb'

check: env  ## lint, and the fastest minute of tests, for daily use
	@$(MAKE) --no-print-directory lint
	@$(RUN) env OMP_NUM_THREADS=1 python -m pytest -n auto --dist worksteal tests/test_layers.py tests/test_gaussian.py tests/test_stft.py tests/test_nmf.py tests/test_em.py tests/test_mcmc.py tests/test_diffusion.py tests/test_claims.py tests/test_records.py $(ARGS)

records: env  ## measure what is missing or stale of the records (ARGS="--set matched --methods nmf" chooses; --check 1 checks)
	@$(RUN) sepriors records $(ARGS)

bench: env  ## real-time factors, and their ratios within one run (ARGS="--repeats 9")
	@$(RUN) python benchmarks/speed.py $(ARGS)

serve: env  ## serve _build/html, with byte ranges for the players (PORT=8000)
	@$(RUN) python tools/serve.py _build/html --port $(PORT)

clean:  ## remove what was built; the environment stays
	@rm -rf "$(ROOT)/_build" "$(ROOT)/.pytest_cache" "$(ROOT)/.mypy_cache" "$(ROOT)/.ruff_cache"
