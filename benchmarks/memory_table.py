"""Memory that training needs on a device, as a table for documents; takes no memory itself.

python -m benchmarks.memory_table [--length 256] [--batch 8]
"""

from __future__ import annotations

import argparse
import os
from typing import Any

os.environ.setdefault("DS_ACCELERATOR", "cpu")  # nothing is computed

import torch

from harness import activations, lora, memory
from harness.attention import replace_dropout
from harness.config import RunConfig
from harness.ds import config as ds_config
from harness.memory import Choice
from harness.model import EncoderWithHead

WIDE = {"num_key_value_heads": 8, "vocab_size": 128_256}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {  # by weights -> architecture, its settings
    "110M (BERT-base)": ("bert", {"vocab_size": 28_996}),
    "340M (BERT-large)": ("bert", {"vocab_size": 28_996, "hidden_size": 1024, "num_hidden_layers": 24,
                                   "num_attention_heads": 16, "intermediate_size": 4096}),
    "1B (Llama 3.2)": ("llama", {"hidden_size": 2048, "num_hidden_layers": 16, "num_attention_heads": 32,
                                 "intermediate_size": 8192, **WIDE}),
    "3B (Llama 3.2)": ("llama", {"hidden_size": 3072, "num_hidden_layers": 28, "num_attention_heads": 24,
                                 "intermediate_size": 8192, **WIDE}),
    "8B (Llama 3.1)": ("llama", {"hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
                                 "intermediate_size": 14_336, **WIDE}),
}  # fmt: skip
COLUMNS: tuple[tuple[str, int | None, bool], ...] = (  # DeepSpeed JSON, rank of adapters, activations computed again
    ("bf16_zero1", None, False),
    ("bf16_zero2", None, True),
    ("bf16_zero3", None, True),
    ("bf16_zero3_offload", None, True),
    ("bf16_zero1", 16, True),
    ("bf16_zero3", 16, True),
)


def network(kind: str, settings: dict[str, Any], rank: int | None) -> EncoderWithHead:
    """Of three classes, without memory."""
    from transformers import AutoConfig, AutoModel

    with torch.device("meta"):
        encoder = AutoModel.from_config(AutoConfig.for_model(kind, **settings))
        encoder.config.use_cache = False
        found = EncoderWithHead(encoder, 3, "pooler" if kind == "bert" else "last", 0.1, None)
        if rank is not None:
            lora.add(encoder, RunConfig(task="x", model_name_or_path=kind, lora_rank=rank), ())
    replace_dropout(found)
    return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--length", type=int, default=256, help="tokens of each example")
    parser.add_argument("--batch", type=int, default=8, help="examples per device and forward pass")
    given = parser.parse_args()
    titles = [f"{name}{', LoRA' if rank else ''}{', checkpointing' if again else ''}" for name, rank, again in COLUMNS]
    print(f"GiB a GPU (and of its host), {given.batch} examples of {given.length} tokens a pass\n")
    print("| encoder | devices | " + " | ".join(titles) + " |")
    print("|---|---|" + "---|" * len(COLUMNS))
    for title, (kind, settings) in MODELS.items():
        networks = {rank: network(kind, settings, rank) for rank in (None, 16)}
        passes: dict[Any, activations.Activations] = {}
        for devices in (1, 8):
            cells = []
            for name, rank, again in COLUMNS:
                choice = Choice(given.batch, 1, devices, ds_config.read(name), again, rank)
                needs = memory.estimate(networks[rank], choice, given.length, torch.device("cuda"), passes)
                host = f" (+{needs.host / memory.GIB:.0f})" if needs.host else ""
                cells.append(f"{needs.total / memory.GIB:.1f}{host}")
            print(f"| {title} | {devices} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
