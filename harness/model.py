"""An encoder with a task's head: pooling, dropout and one linear layer; saved so that others can load it."""

from __future__ import annotations

import inspect
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn

from harness import pretrained
from harness.attention import replace_dropout
from harness.config import RunConfig
from harness.errors import UserError
from harness.files import LFS_POINTER
from harness.model_folder import HEAD_FILE, first_line, read_head, refuse_code
from harness.packing import PADDED, Encoding, Layout, choose
from harness.pretrained import Source
from harness.task import PAD_TO, Batch
from harness.tokenizer import load_tokenizer as load_tokenizer
from harness.tokenizer import separate_words

logger = logging.getLogger(__name__)

# The head's dropout, by the names that architectures give it.
DROPOUT_NAMES = ("classifier_dropout", "seq_classif_dropout", "hidden_dropout_prob", "hidden_dropout")


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
        takes = inspect.signature(encoder.forward).parameters
        self.takes_segments = "token_type_ids" in takes and (getattr(encoder.config, "type_vocab_size", None) or 0) != 1

    def forward(self, batch: Batch) -> torch.Tensor:
        """Logits [n, num_outputs] in the encoder's precision, n as in Batch."""
        if not self.takes_segments and batch.token_type_ids is not None:
            batch = replace(batch, token_type_ids=None)
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


def build(config: RunConfig, num_outputs: int, per_word: bool, tokenizer: Any = None) -> EncoderWithHead:
    """The pre-trained encoder in float32 with a fresh head drawn from the seed. Raises UserError if it cannot load.

    `tokenizer`: the encoder gets rows for tokens that were added to it.
    """
    source, settings = pretrained.source(config), pretrained.settings(config)
    torch.manual_seed(config.seed)  # for weights that the file lacks
    encoder, missing = _load_encoder(source, settings)
    if config.model_type and config.model_type.lower() != settings.model_type:
        logger.warning(
            "--model_type %s: %s is a %s; the checkpoint's own is used.",
            *(config.model_type, config.model_name_or_path, settings.model_type),
        )
    longest = positions(encoder)
    if longest is not None and 0 < longest // PAD_TO * PAD_TO < config.max_seq_length:
        raise UserError(
            f"--max_seq_length {config.max_seq_length}: {config.model_name_or_path} has {longest} positions; "
            f"ask for at most {longest // PAD_TO * PAD_TO}"
        )
    if tokenizer is not None:
        _fit_vocabulary(source, encoder, tokenizer)
    _try(source, encoder)
    pooling = None if per_word else choose_pooling(config.pooling, encoder, missing, config.model_name_or_path)
    if pooling != "pooler" and getattr(encoder, "pooler", None) is not None:
        encoder.pooler = None  # nothing reads it, and weights without a gradient only cost memory
    torch.manual_seed(config.seed)  # the same head whatever the file lacked
    dropouts = [getattr(settings, name, None) for name in DROPOUT_NAMES]
    dropout = next((float(value) for value in dropouts if value is not None), 0.1)
    model = EncoderWithHead(encoder, num_outputs, pooling, dropout)
    replace_dropout(model)
    model.layout = choose(encoder, config.packing)
    nn.init.normal_(model.classifier.weight, std=getattr(settings, "initializer_range", 0.02))
    nn.init.zeros_(model.classifier.bias)
    return model


def _load_encoder(source: Source, settings: Any) -> tuple[Any, set[str]]:
    """(the encoder in float32, names of its parameters that had no weights). Raises UserError."""
    from transformers import AutoModel

    refuse_decoder(source, settings)
    trusted = {"trust_remote_code": source.options["trust_remote_code"]}
    held = pretrained.weights(source)
    try:
        with torch.device("meta"):
            skeleton = AutoModel.from_config(settings, **trusted)
    except Exception as error:  # of as many kinds as a config.json can have mistakes
        raise source.fault(
            f"no encoder can be built from its config.json ({first_line(error)}); name an encoder of text"
        ) from error
    before = pretrained.prefix(held.names, skeleton.state_dict())
    known = ("", f"{skeleton.base_model_prefix}.")  # transformers takes these off itself
    options: dict[str, Any] = {
        "config": settings,
        "dtype": torch.float32,  # "auto" would take an fp16 file as fp16 weights, which cannot be trained exactly
        "output_loading_info": True,
        "ignore_mismatched_sizes": True,
        "key_mapping": None if before in known else {f"^{re.escape(before)}": ""},
    }
    try:
        if held.state is None:
            model, info = AutoModel.from_pretrained(source.name, **options, **source.options)
        else:
            state = {name.removeprefix(before): tensor for name, tensor in held.state.items()}
            model, info = type(skeleton).from_pretrained(None, state_dict=state, **{**options, "key_mapping": None})
    except Exception as error:  # transformers, torch and safetensors have many of their own
        raise source.fault(
            f"no weights can be loaded ({first_line(error)}); name a folder with config.json and model.safetensors "
            "that belong together"
        ) from error
    encoder = encoder_of(model)
    if encoder is not model:
        logger.info("model   %s is an encoder-decoder (%s): its encoder is taken", source.name, settings.model_type)
    own = {id(parameter) for parameter in encoder.parameters()}
    names = {name for name, parameter in model.named_parameters() if id(parameter) in own}
    missing = {str(key) for key in info["missing_keys"]} & names
    _check_weights(source, len([name for name in names if "pooler" not in name]), missing, info["mismatched_keys"])
    for name, parameter in encoder.named_parameters():
        if not bool(parameter.isfinite().all()):
            wrong = int((~parameter.isfinite()).sum())
            raise source.fault(f"{name} holds {wrong} values that are NaN or infinite; get the weights again")
    return encoder, missing


def encoder_of(model: Any) -> Any:
    """The encoder of an encoder-decoder; any other model as it is."""
    if not model.config.is_encoder_decoder:
        return model
    encoder = model.get_encoder()
    encoder.config.is_encoder_decoder = True  # T5's has a copy that says otherwise, and `load` must know
    return encoder


def refuse_decoder(source: Source, settings: Any) -> None:
    """Raises UserError for an architecture that transformers has for writing text and for no other use."""
    from transformers import (
        MODEL_FOR_CAUSAL_LM_MAPPING,
        MODEL_FOR_MASKED_LM_MAPPING,
        MODEL_FOR_MULTIPLE_CHOICE_MAPPING,
    )

    reads = (MODEL_FOR_MASKED_LM_MAPPING, MODEL_FOR_MULTIPLE_CHOICE_MAPPING)
    writes = type(settings) in MODEL_FOR_CAUSAL_LM_MAPPING and not any(type(settings) in mapping for mapping in reads)
    if (writes and not settings.is_encoder_decoder) or getattr(settings, "is_decoder", False):
        raise source.fault(_DECODER.format(settings.model_type))


_DECODER = "is a decoder ({}), in which a token sees only those before it; encoders alone are trained here"


def _try(source: Source, encoder: Any) -> None:
    """Raises UserError where the encoder does not take text, or not as encoders do."""
    ids = torch.arange(16).reshape(2, 8) % 8 + 5
    ids[1] = ids[0]
    ids[1, 1] += 1
    training = encoder.training
    encoder.eval()
    try:
        with torch.inference_mode(), torch.random.fork_rng(devices=[]):
            hidden = encoder(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state
        width = encoder.config.hidden_size
    except Exception as error:  # whatever a model of images or speech says to token ids
        raise source.fault(
            f"is no encoder of text ({encoder.config.model_type}: {first_line(error)}); name one"
        ) from error
    finally:
        encoder.train(training)
    if "attention_mask" not in inspect.signature(encoder.forward).parameters:
        raise source.fault(
            f"a {encoder.config.model_type} takes no attention mask: padding would change its answers; name another"
        )
    if hidden.shape != (2, 8, width):
        raise source.fault(
            f"answers {list(hidden.shape)} for 2 x 8 tokens ({encoder.config.model_type}), not a vector of {width} "
            "numbers a token; name another encoder"
        )
    if torch.equal(hidden[0, 0], hidden[1, 0]):
        raise source.fault(_DECODER.format(encoder.config.model_type))


def _fit_vocabulary(source: Source, encoder: Any, tokenizer: Any) -> None:
    """Rows for tokens that were added to a tokenizer. Raises UserError where the two do not belong together."""
    table = encoder.get_input_embeddings()
    rows, tokens = table.num_embeddings, 1 + max(tokenizer.get_vocab().values())
    if tokens <= rows:
        return
    plain = 1 + max(tokenizer.backend_tokenizer.get_vocab(with_added_tokens=False).values())
    if plain > rows:
        raise source.fault(
            f"its tokenizer has {tokens} tokens, its embeddings have {rows} rows: they do not belong together; give "
            "the tokenizer that it was pre-trained with as --tokenizer_name"
        )
    encoder.resize_token_embeddings(tokens)
    logger.warning(
        "%s has %d embeddings, its tokenizer %d tokens: %d rows were added, drawn like the others; they are only "
        "trained from now on.",
        *(source.name, rows, tokens, tokens - rows),
    )


def _check_weights(source: Source, total: int, missing: set[str], mismatched: Any) -> None:
    """A warning where a part of the encoder's `total` tensors has no weights; UserError where they are of another."""
    for key, found, expected in sorted(mismatched)[:1]:
        raise source.fault(
            f"{key} is {list(found)} in its weights, config.json says {list(expected)}; "
            "name a folder whose files belong together"
        )
    absent = sorted(key for key in missing if "pooler" not in key)
    if 4 * len(absent) > total:  # a relative shares names: DeBERTa's weights fill three fifths of a BERT
        raise source.fault(
            f"its weights are of another architecture ({len(absent)} of {total} tensors are not among them); "
            "name the right folder"
        )
    if absent:
        logger.warning(
            "%s has no weights for %d tensors of the encoder (%s, ...); they start at random.",
            *(source.name, len(absent), absent[0]),
        )


def positions(encoder: Any) -> int | None:
    """How many tokens the encoder has positions for; None where it has no table and says no number."""
    found = []
    for name, module in encoder.named_modules():
        if isinstance(module, nn.Embedding) and re.search(r"(embed_positions|(^|\.)position_embeddings|wpe)$", name):
            first = getattr(module, "offset", 0) or (0 if module.padding_idx is None else module.padding_idx + 1)
            numbers = getattr(encoder.get_submodule(name.rpartition(".")[0]), "position_ids", None)
            if not first and isinstance(numbers, torch.Tensor) and numbers.numel():
                first = int(numbers.min())
            found.append(module.num_embeddings - first)
    return min(found) if found else getattr(encoder.config, "max_position_embeddings", None)


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

    found = AutoModel._model_mapping.get(type(settings), None)  # None for code that came with the model
    found = found[0] if isinstance(found, tuple) else found  # Funnel has two
    return {} if found is None else {"encoder": found.base_model_prefix}


def rename(name: str, names: Mapping[str, str]) -> str:
    """A parameter's name with another first part, where `names` has one for it."""
    first, _, rest = name.partition(".")
    return f"{names[first]}.{rest}" if first in names else name


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
        encoder = encoder_of(AutoModel.from_config(settings, trust_remote_code=trust_remote_code).float())
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
    if head["pooling"] is None:
        separate_words(tokenizer)
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
    renamed = {rename(name, ours): tensor for name, tensor in state.items()}
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
