# Everything starts from a bare clone: `make demo`, `make test`.
SHELL := bash
.SHELLFLAGS := -eo pipefail -c
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
# One thread a test process: the suite runs two at a time, and results do not depend on it. Long files come first
# (tests/conftest.py), where xdist by itself puts files of many tests.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

.PHONY: setup demo test test-most test-slurm test-gpu cpu-avx2 cpu-default fast check format faults bench gpu-check

setup: $(INSTALLED)

# torch first and by itself: its exact version takes the CPU build where the package index offers one. Compiled is all at
# once, on all cores and without the libraries' own tests: pip does it file after file.
$(INSTALLED): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --no-compile --quiet --disable-pip-version-check -c constraints.txt torch==2.13.0
	$(BIN)/pip install --no-compile --quiet --disable-pip-version-check -c constraints.txt -e '.[demo,dev]'
	$(BIN)/python -m compileall -q -j 0 -x '/tests?/' .venv/lib >/dev/null || true  # some files are only templates
	touch $@

demo: setup
	$(BIN)/python launch/train.py --task mednli

# Tests on the SLURM cluster share it, hence one process, and mostly wait: all others run beside them.
test: setup
	$(MAKE) -j 2 test-most check test-slurm cpu-avx2 cpu-default

# Programs on the GPU, started as users start them; `make test` has them too, and skips them where there is none.
test-gpu: setup
	$(PYTEST) -n 0 tests/gpu

test-most: setup
	$(PYTEST) tests/unit tests/integration tests/gpu

# What is printed beside the tests above comes in one piece.
AT_ONCE := 2>&1 | { printed=$$(cat); echo "$$printed"; }

test-slurm: setup
	$(PYTEST) -n 0 tests/cluster $(AT_ONCE)

# Engine, loop and resuming as processors with AVX2 alone, and with less, compute: torch reads the variable when loaded.
# As this one computes they have been tested above.
cpu-avx2 cpu-default: setup
	$(BIN)/python -c "import torch; print(torch.backends.cpu.get_cpu_capability().lower())" | grep -qx $(@:cpu-%=%) || \
	ATEN_CPU_CAPABILITY=$(@:cpu-%=%) $(PYTEST) -n 0 -m "not slow" -k "not end_to_end" tests/unit/test_engine.py \
		tests/unit/test_checkpoint.py tests/integration/test_train.py $(AT_ONCE)

fast: setup
	$(PYTEST) -m "not slow and not realdata" tests/unit

# Kills, frozen ranks, damaged checkpoints and changed inputs at random moments, and the table of how they ended.
faults: setup
	OMP_NUM_THREADS=1 $(BIN)/python tests/faults.py

# Ours against the original recipe, Hugging Face Trainer with and without DeepSpeed, and accelerate; an hour or two on a CPU.
bench: setup
	$(BIN)/python -m benchmarks.bench --data "$${BLUE_DATA_DIR:?names the folder of the corpora}/blue"

# What can only be proven on a GPU, and speed there, in parts of minutes: docs/gpu.md. Another Python that has the
# packages: make gpu-check GPU_CHECK_PYTHON=python3
GPU_CHECK_PYTHON ?= $(BIN)/python
gpu-check: $(if $(filter $(BIN)/python,$(GPU_CHECK_PYTHON)),setup)
	$(GPU_CHECK_PYTHON) -m benchmarks.gpu_check $(if $(BLUE_DATA_DIR),--data $(BLUE_DATA_DIR)/blue)

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/unit/test_imports.py

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
