"""Entry points: the only place that puts tasks and harness together."""

import os

# OpenMP reads it when torch is loaded. By default its threads spin while they wait; where others use the cores too,
# they wait for one that is not running, and a step takes ten to twenty times as long (benchmarks/notes.md).
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# A rank that misses another one would show torch's C++ frames beside the one line that says who it was.
os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
