"""`model/` of a run: the fine-tuned weights in float32, in a form that the standard classes load where they can."""

from __future__ import annotations

import copy
import json
import logging
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from harness.files import PARTIAL, flush, unfinished
from harness.model import EncoderWithHead, encoder_of, rename, standard_names
from harness.model_folder import HEAD_FILE, SCHEMA, About
from harness.run_folder import check_model
from harness.standard_head import PROBLEM_TYPES
from harness.task import Batch

logger = logging.getLogger(__name__)


def save(
    folder: Path,
    model: EncoderWithHead,
    weights: Mapping[str, torch.Tensor],
    tokenizer: Any,
    labels: Sequence[str],
    family: str,
    about: About | None = None,
) -> None:
    """Write config, weights and tokenizer; a folder of that name is replaced once the new one is whole.

    `weights` are the float32 weights by the names of EncoderWithHead; `about` makes the folder usable without its run.
    Rank 0 alone.
    """
    from transformers import dynamic_module_utils

    check_model(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    for left in folder.parent.glob(f".{folder.name}*{PARTIAL}"):
        if unfinished(left.name) == folder.name:  # a process was killed here
            shutil.rmtree(left, ignore_errors=True)
    partial = Path(tempfile.mkdtemp(PARTIAL, f".{folder.name}.", folder.parent))
    settings = copy.deepcopy(model.encoder.config)
    settings.num_labels = model.classifier.out_features
    if labels:
        settings.id2label, settings.label2id = dict(enumerate(labels)), {label: i for i, label in enumerate(labels)}
    if family in PROBLEM_TYPES:
        settings.problem_type = PROBLEM_TYPES[family]
    settings.dtype = "float32"
    standard = standard_class(settings, model.pooling, weights)
    settings.architectures = [standard] if standard else None
    names = standard_names(settings) if standard else {}
    state = {rename(name, names): tensor.contiguous() for name, tensor in weights.items()}
    if not type(model.encoder).__module__.startswith("transformers."):
        dynamic_module_utils.custom_object_save(model.encoder, str(partial), config=settings)  # its Python files
    elif hasattr(settings, "auto_map"):
        del settings.auto_map  # names code that was not run and is not here
    settings.save_pretrained(partial)
    save_file(state, partial / "model.safetensors", metadata={"format": "pt"})
    tokenizer.save_pretrained(partial)
    head = {
        "schema": SCHEMA,
        "pooling": model.pooling,
        "num_outputs": model.classifier.out_features,
        "dropout": model.dropout.p,
        "standard_class": standard,
        **({} if about is None else about.to_dict()),
    }
    (partial / "README.md").write_text(plain_card(standard, model.pooling), encoding="utf-8")
    written = sorted(path for path in partial.rglob("*") if path.is_file())
    head["files"] = [str(path.relative_to(partial)) for path in written]  # what may be removed again
    (partial / HEAD_FILE).write_text(json.dumps(head, indent=2) + "\n", encoding="utf-8")
    for path in (*written, partial / HEAD_FILE, partial):  # result.json, which comes later, says that they are there
        flush(path)
    old = Path(tempfile.mkdtemp(PARTIAL, f".{folder.name}.", folder.parent))
    if folder.exists():
        folder.replace(old)
    partial.replace(folder)
    flush(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def standard_class(settings: Any, pooling: str | None, weights: Mapping[str, torch.Tensor]) -> str | None:
    """The transformers class that computes the same logits from these weights, found by trying; None without one."""
    from transformers import AutoModelForSequenceClassification, AutoModelForTokenClassification
    from transformers.initialization import no_init_weights

    auto = AutoModelForTokenClassification if pooling is None else AutoModelForSequenceClassification
    try:
        with torch.random.fork_rng(devices=[]), no_init_weights():  # a second for BERT-base, and all are replaced
            # Of a copy: T5's class for words marks what it is given as no encoder-decoder.
            candidate = auto.from_config(copy.deepcopy(settings), trust_remote_code=False).float().eval()
    except ValueError:
        return None
    names = standard_names(settings)
    state = {rename(name, names): tensor for name, tensor in weights.items()}
    expected = dict(candidate.named_parameters())
    if set(state) != set(expected) or any(state[name].shape != expected[name].shape for name in state):
        return None
    candidate.load_state_dict(state, strict=False)
    return type(candidate).__name__ if _same_logits(candidate, settings, pooling, weights) else None


def _same_logits(candidate: Any, settings: Any, pooling: str | None, weights: Mapping[str, torch.Tensor]) -> bool:
    from transformers import AutoModel
    from transformers.initialization import no_init_weights

    with torch.random.fork_rng(devices=[]):
        with no_init_weights():
            encoder = encoder_of(AutoModel.from_config(settings, trust_remote_code=False))
        ours = EncoderWithHead(encoder.float(), settings.num_labels, pooling, 0.0).eval()
    ours.load_state_dict(dict(weights), strict=False)
    ids = torch.arange(2 * 8).reshape(2, 8) % settings.vocab_size
    mask = torch.ones_like(ids)
    scored = torch.arange(ids.numel()) if pooling is None else None
    batch = Batch(ids, mask, None, scored, ids, (0, 1), (8, 8))
    with torch.inference_mode():
        theirs = candidate(input_ids=ids, attention_mask=mask).logits
        return torch.allclose(theirs.flatten(0, -2), ours(batch), atol=1e-5)


def loading(standard: str | None, pooling: str | None) -> str:
    """Markdown that says how `model/` is loaded; `standard` and `pooling` as in HEAD_FILE."""
    auto = "AutoModelForTokenClassification" if pooling is None else "AutoModelForSequenceClassification"
    if standard:
        return f'```python\nfrom transformers import {auto}\n\nmodel = {auto}.from_pretrained("<this folder>")\n```\n'
    return (
        '```python\nfrom harness.model import load\n\nmodel = load("<this folder>").model\n```\n\n'
        f"No class of transformers has this architecture with this head (pooling: {pooling or 'one row a word'}):\n"
        f"`{auto}` would start with a random head: load it as above.\n"
    )


def plain_card(standard: str | None, pooling: str | None) -> str:
    """README.md of a model whose scores are not known yet."""
    return f"# Fine-tuned encoder\n\n{loading(standard, pooling)}"
