# `make demo` and `make test` do everything on a fresh machine: Python 3.11+, pip, gcc, git, make.
PYTHON ?= python3
VENV ?= .venv
MINVENV ?= .venv-min
BIN = $(VENV)/bin
OFFLINE = HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1
DEV = beartype build faster-whisper hypothesis import-linter mypy pympi-ling pytest pytest-timeout pytest-xdist ruff srt textgrid types-PyYAML webvtt-py
DOCS = ipykernel mkdocs mkdocs-material 'mkdocstrings[python]' nbclient nbformat

.PHONY: demo test test-slow lint unit minimum mutations kills docs wheel voice clean

demo: $(VENV)/ready
	rm -rf runs/demo
	$(OFFLINE) $(BIN)/wavfusion demo --out runs/demo

test: lint unit minimum

lint: $(VENV)/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

unit: $(VENV)/ready
	$(OFFLINE) OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow"

# A short pass at the lowest versions that pyproject.toml admits, of all but torch (which stays, for its size).
minimum: $(MINVENV)/ready
	$(OFFLINE) OMP_NUM_THREADS=1 $(MINVENV)/bin/python -m pytest -n 2 --dist worksteal -m "not slow" $(MINIMUM)

# The report's page is looked at in Debian's chromium; without it those tests are skipped.
test-slow: $(VENV)/ready
	command -v chromium || { test "$$(id -u)" = 0 && apt-get install -y chromium; } || echo "no chromium here"
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[ray]'
	$(OFFLINE) $(BIN)/python -m pytest -n 2 --dist worksteal -m slow
	$(MAKE) wheel

# Mutated inputs, and verbs killed at random moments: make mutations COUNT=10000 SEED=0; make kills COUNT=1000
COUNT ?= 300
SEED ?= 0
mutations: $(VENV)/ready
	$(OFFLINE) OMP_NUM_THREADS=1 $(BIN)/python tests/hostile.py --count $(COUNT) --seed $(SEED)

kills: $(VENV)/ready
	$(OFFLINE) OMP_NUM_THREADS=1 $(BIN)/python tests/kills.py --count $(COUNT) --seed $(SEED)

# The documentation site, in site/; a warning is an error. Material's notice of its end of life (May 2027) is silenced.
docs: $(VENV)/ready
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

# The built wheel with its extra, in an empty environment, outside the repository.
wheel: $(VENV)/ready
	rm -rf dist
	$(BIN)/python -m build --wheel
	scripts/try_wheel.sh $(PYTHON)

# The voice model again, from clones of its corpora and whisper-base (models/voice/README.md).
WORK ?= runs/voice
voice: $(VENV)/ready
	PATH="$(abspath $(BIN)):$$PATH" models/voice/make.sh $(CLONES) $(WHISPER) $(WORK)

$(VENV)/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[all]' $(DEV) $(DOCS)
	touch $@

$(MINVENV)/ready: pyproject.toml constraints.txt minimum.txt
	$(PYTHON) -m venv $(MINVENV)
	$(MINVENV)/bin/python -m pip install -q -c minimum.txt -e '.[all]' beartype hypothesis pytest pytest-timeout pytest-xdist
	touch $@

MINIMUM = tests/test_media.py tests/test_fusion.py tests/test_losses.py tests/test_sequence.py tests/test_experiment.py \
	tests/test_manifest.py tests/test_store.py tests/test_train.py tests/test_predict.py

clean:
	rm -rf $(VENV) $(MINVENV) dist runs site
