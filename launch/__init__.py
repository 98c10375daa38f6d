"""Entry points: the only place that puts tasks and harness together."""

import os

# OpenMP reads it when torch is loaded. By default its threads spin while they wait; where others use the cores too,
# they wait for one that is not running, and a step takes ten to twenty times as long (benchmarks/notes.md).
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# PyTorch then asks for large pages where a tensor has 2 MB or more. Gradients and activations are new memory in each
# step, and with pages of 4 KB, where the system does not join them by itself, a twentieth of it goes into mapping them.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
