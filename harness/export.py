"""`model/` of a run: the fine-tuned weights in float32, in a form that the standard classes load where they can."""

from __future__ import annotations

import copy
import dataclasses
import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from harness import direction, heads, lora, tensor_file
from harness.encoder import class_for, config_of, encoder_of
from harness.files import PARTIAL, flush, unfinished
from harness.heads import HEADS, LAYERS
from harness.model import PROBLEM_TYPES, EncoderWithHead, rename, standard_prefix
from harness.model_folder import HEAD_FILE, HEAD_WEIGHTS, SCHEMA, WINDOWS, About
from harness.run_folder import check_model
from harness.task import Batch
from harness.tensor_file import Stream
from harness.twin import small_settings


@dataclass(frozen=True)
class Base:
    """The encoder that adapters are for."""

    name: str  # as --model_name_or_path
    commit: str | None  # of the hub
    digests: Mapping[str, str]  # of its files


def save(
    folder: Path,
    model: EncoderWithHead,
    weights: Mapping[str, torch.Tensor] | Stream,
    tokenizer: Any,
    about: About,
    base: Base | None = None,
) -> None:
    """Write config, weights and tokenizer; a folder of that name is replaced once the new one is whole.

    `weights` are the float32 weights by the names of EncoderWithHead; of a Stream one at a time is there. `about` makes
    the folder usable without its run. With `base` the model has adapters, and `weights` are those that were trained.
    Rank 0 alone.
    """
    from transformers import dynamic_module_utils

    check_model(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    for left in folder.parent.glob(f".{folder.name}*{PARTIAL}"):
        if unfinished(left.name) == folder.name:  # a process was killed here
            shutil.rmtree(left, ignore_errors=True)
    partial = Path(tempfile.mkdtemp(PARTIAL, f".{folder.name}.", folder.parent))
    settings = copy.deepcopy(config_of(model.encoder))
    settings.num_labels = model.classifier.out_features
    if about.labels:
        settings.id2label = dict(enumerate(about.labels))
        settings.label2id = {label: number for number, label in settings.id2label.items()}
    if about.family in PROBLEM_TYPES:
        settings.problem_type = PROBLEM_TYPES[about.family]
    settings.dtype = "float32"
    if model.head is not None and hasattr(settings, "classifier_pooling") and model.pooling in ("cls", "mean"):
        settings.classifier_pooling = model.pooling
    standard, names = standard_class(settings, model, weights) if base is None else (None, {})
    settings.architectures = [standard] if standard else None
    if not type(model.encoder).__module__.startswith("transformers."):
        dynamic_module_utils.custom_object_save(model.encoder, str(partial), config=settings)  # its Python files
    elif hasattr(settings, "auto_map"):
        del settings.auto_map  # names code that was not run and is not here
    settings.save_pretrained(partial)
    stream = weights if isinstance(weights, Stream) else Stream.of(weights)
    if base is None:
        tensor_file.write_model(partial, stream.renamed(names))
    else:
        trained = dict(stream.tensors)
        own = {name.removeprefix("encoder."): tensor for name, tensor in trained.items() if lora.is_adapters(name)}
        lora.save(partial, model.encoder, own, base.name, base.commit)
        rest = {name: tensor for name, tensor in trained.items() if not lora.is_adapters(name)}
        tensor_file.write(partial / HEAD_WEIGHTS, Stream.of(rest), {"format": "pt"})
    tokenizer.save_pretrained(partial)
    head = {
        "schema": SCHEMA,
        "pooling": model.pooling,
        "num_outputs": model.classifier.out_features,
        "dropout": model.dropout.p,
        "standard_class": standard,
        **({"attention": model.attention} if model.attention else {}),
        **({"layers": True} if model.head is not None else {}),
        **{
            name: value
            for name, value in dataclasses.asdict(about).items()
            if about.stride is not None or name not in WINDOWS
        },
        **({} if base is None else {"base": dict(base.digests)}),
    }
    adapts = None if base is None else base.name
    card = plain_card(standard, model.pooling, model.attention, adapts)
    (partial / "README.md").write_text(card, encoding="utf-8")
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


def standard_class(
    settings: Any, model: EncoderWithHead, weights: Mapping[str, torch.Tensor] | Stream
) -> tuple[str | None, dict[str, str]]:
    """(the transformers class that computes the same logits, found by trying; names of the weights in its file).

    None without one; the names are then our own. Of a Stream nothing but shapes is used: a small model of the same kind
    with random weights is tried in its place.
    """
    if isinstance(weights, Stream):
        return _class_of_large(settings, model, weights.shapes)
    from transformers.initialization import no_init_weights

    pooling, plain = model.pooling, (None, {name: name for name in weights})
    with torch.random.fork_rng(devices=[]), no_init_weights():  # a second for BERT-base, and all are replaced
        try:
            candidate = heads.standard(settings, pooling is None)
        except ValueError:
            return plain
        layers = heads.between(candidate) if model.head is not None else {}
        whole, own = class_for(settings)
        encoder = encoder_of(whole.from_config(own, trust_remote_code=False), settings)
        if model.attention is not None:  # as `load` does; the candidate has nothing but its config
            direction.turn(encoder, model.attention == "causal")
        extra = copy.deepcopy(next(iter(layers.values()), None))
        ours = EncoderWithHead(encoder.float(), settings.num_labels, pooling, 0.0, model.attention, extra).eval()
    prefix = standard_prefix(settings)
    expected = {name: parameter.shape for name, parameter in candidate.named_parameters()}
    head = next((name for name in HEADS if f"{name}.weight" in expected), HEADS[0])
    there = {"encoder": prefix, HEADS[0]: head, LAYERS: next(iter(layers), LAYERS)}
    names = {name: rename(name, first := name.partition(".")[0], there.get(first, first)) for name in weights}
    if {names[name]: tensor.shape for name, tensor in weights.items()} != expected:
        return plain
    candidate.load_state_dict({names[name]: tensor for name, tensor in weights.items()}, strict=False)
    ours.load_state_dict(dict(weights), strict=False)
    ids = torch.arange(2 * 8).reshape(2, 8) % settings.vocab_size
    mask = torch.ones_like(ids)
    scored = torch.arange(ids.numel()) if pooling is None else None
    batch = Batch(ids, mask, None, scored, ids, (0, 1), (8, 8))
    with torch.inference_mode():
        theirs = candidate(input_ids=ids, attention_mask=mask).logits
        same = torch.allclose(theirs.flatten(0, -2), ours(batch), atol=1e-5)
    return (type(candidate).__name__, names) if same else plain


def _class_of_large(
    settings: Any, model: EncoderWithHead, shapes: Mapping[str, Sequence[int]]
) -> tuple[str | None, dict[str, str]]:
    """As `standard_class`."""
    plain = (None, {name: name for name in shapes})
    try:
        small = small_settings(settings)
        whole, own = class_for(copy.deepcopy(small))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            encoder = encoder_of(whole.from_config(own, trust_remote_code=False).float(), small)
            layers = heads.between(heads.standard(small, model.pooling is None)) if model.head is not None else {}
            extra = next(iter(layers.values()), None)
            ours = EncoderWithHead(encoder, small.num_labels, model.pooling, 0.0, model.attention, extra)
    except Exception:  # there is no small one: loaded as what it is, by our own class
        return plain
    found, names = standard_class(small, model, {name: p.detach() for name, p in ours.named_parameters()})
    if found is None:
        return plain
    first = {name.partition(".")[0]: new.partition(".")[0] for name, new in names.items()}
    renamed = {name: rename(name, before := name.partition(".")[0], first[before]) for name in shapes}
    import transformers

    with torch.device("meta"):
        candidate = getattr(transformers, found)(copy.deepcopy(settings))
    expected = {name: tuple(parameter.shape) for name, parameter in candidate.named_parameters()}
    same = {renamed[name]: tuple(shape) for name, shape in shapes.items()} == expected
    return (found, renamed) if same else plain


def loading(standard: str | None, pooling: str | None, attention: str | None = None, base: str | None = None) -> str:
    """Markdown that says how `model/` is loaded; the first three as in HEAD_FILE.

    `base`: the encoder that it holds adapters for, where it does.
    """
    auto = "AutoModelForTokenClassification" if pooling is None else "AutoModelForSequenceClassification"
    last = (
        "\nA word's label is that of its last subword token, the first that has seen all of it: attention is causal.\n"
    )
    words = last if pooling is None and attention == "causal" else ""
    if standard:
        code = f'from transformers import {auto}\n\nmodel = {auto}.from_pretrained("<this folder>")'
        return f"```python\n{code}\n```\n{words}"
    ours = '```python\nfrom harness.model import load\n\nmodel = load("<this folder>").model\n```\n\n'
    if base is not None:
        base = Path(base).name if Path(base).is_absolute() else base  # no path of this machine
        code = f'encoder = PeftModel.from_pretrained(AutoModel.from_pretrained("{base}"), "<this folder>")'
        kinds = "AutoModel"
        if attention == "bidirectional":  # the config of this folder says so, that of the encoder itself does not
            kinds = "AutoConfig, AutoModel"
            code = (
                'settings = AutoConfig.from_pretrained("<this folder>")\n'
                f'whole = AutoModel.from_pretrained("{base}", config=settings)\n'
                'encoder = PeftModel.from_pretrained(whole, "<this folder>")'
            )
        return (
            f"{ours}It holds a head, and adapters (LoRA) for the encoder `{base}`, which must be where it was or\n"
            "on the hub. The encoder with its adapters, without the head:\n\n"
            f"```python\nfrom peft import PeftModel\nfrom transformers import {kinds}\n\n{code}\n```\n{words}"
        )
    return (
        f"{ours}No class of transformers has this architecture with this head "
        f"(pooling: {pooling or 'one row a word'}):\n"
        f"`{auto}` would start with a random head: load it as above.\n{words}"
    )


def plain_card(standard: str | None, pooling: str | None, attention: str | None = None, base: str | None = None) -> str:
    """README.md of a model whose scores are not known yet."""
    return f"# Fine-tuned encoder\n\n{loading(standard, pooling, attention, base)}"
