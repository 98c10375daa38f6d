"""The pre-trained encoder of a checkpoint: its weights loaded, and whether it can be trained here.

What a checkpoint's files say of themselves is asked before, in harness/pretrained.py.
"""

from __future__ import annotations

import copy
import inspect
import logging
import re
from typing import Any

import torch
from torch import nn

from harness import mapped, pretrained
from harness.errors import UserError, first_line, library_errors
from harness.mapped import WholeOnly
from harness.pretrained import Source

logger = logging.getLogger(__name__)


def load_encoder(source: Source, settings: Any, in_parts: bool = False) -> tuple[Any, set[str]]:
    """(the encoder in float32, names of its parameters that had no weights). Raises UserError.

    `in_parts`: the weights stay in their files, in the files' precision, and their values are not looked at (see
    harness/mapped.py). Raises mapped.WholeOnly where that cannot be.
    """
    if getattr(settings, "quantization_config", None):
        raise source.fault(
            "its weights are quantised (quantization_config in config.json), and such ones cannot be trained; name the "
            "checkpoint in 16 or 32 bits that it was made from"
        )
    found, state = pretrained.weights(source, in_parts)
    auto, own = class_for(settings)
    unfit = library_errors(str(source), "no encoder can be built from its config.json", "name an encoder of text")
    with unfit, torch.device("meta"):
        skeleton = auto.from_config(own, trust_remote_code=source.options["trust_remote_code"])
    before = pretrained.prefix(found, skeleton.state_dict())
    options: dict[str, Any] = {
        "config": own,
        "dtype": torch.float32,  # "auto" would take an fp16 file as fp16 weights, which cannot be trained exactly
        "output_loading_info": True,
        "ignore_mismatched_sizes": True,
    }
    remedy = "name a folder with config.json and model.safetensors that belong together"
    with library_errors(str(source), "no weights can be loaded", remedy, WholeOnly):
        if in_parts:
            model, info = mapped.load(source, skeleton, before, options)
        elif state is None:
            known = ("", f"{skeleton.base_model_prefix}.")  # transformers takes these off itself
            mapping = None if before in known else {f"^{re.escape(before)}": ""}
            model, info = auto.from_pretrained(source.name, key_mapping=mapping, **options, **source.options)
        else:
            state = {name.removeprefix(before): tensor for name, tensor in state.items()}
            model, info = type(skeleton).from_pretrained(None, state_dict=state, **options)
    encoder = encoder_of(model, settings)
    if encoder is not model:
        logger.info("model   %s is an encoder-decoder (%s): its encoder is taken", source.name, settings.model_type)
    own = {id(parameter) for parameter in encoder.parameters()}
    names = {name for name, parameter in model.named_parameters() if id(parameter) in own}
    missing = {str(key) for key in info["missing_keys"]} & names
    _check_weights(source, len([name for name in names if "pooler" not in name]), missing, info["mismatched_keys"])
    for name, parameter in () if in_parts else encoder.named_parameters():
        if not bool(parameter.isfinite().all()):
            raise not_finite(source, name, int((~parameter.isfinite()).sum()))
    return encoder, missing


def not_finite(source: Source, name: str, wrong: int) -> UserError:
    """The error for `wrong` values of a parameter."""
    return source.fault(f"{name} holds {wrong} values that are NaN or infinite; get the weights again")


def class_for(settings: Any) -> tuple[Any, Any]:
    """(transformers' class that holds the encoder of a config, the config that it wants): whole models mostly.

    Of an encoder-decoder the encoder alone where there is a class of it (T5, T5Gemma): nothing is spent on the other
    half, and a checkpoint may lack it.
    """
    from transformers import MODEL_FOR_TEXT_ENCODING_MAPPING, AutoModel, AutoModelForTextEncoding

    if not _has_decoder(settings) or type(settings) not in MODEL_FOR_TEXT_ENCODING_MAPPING:
        return AutoModel, settings
    alone = copy.deepcopy(settings)
    alone.is_encoder_decoder = False
    return AutoModelForTextEncoding, alone


def encoder_of(model: Any, settings: Any) -> Any:
    """The encoder in a model of `class_for(settings)`, ready for `config_of`."""
    if not _has_decoder(settings):
        return model
    encoder = model.get_encoder()
    if type(encoder.config) is not type(settings):  # T5Gemma's is a part of the whole one
        encoder.whole_config = model.config
    config_of(encoder).is_encoder_decoder = True  # `class_for` or T5 has said otherwise, and `load` must know
    return encoder


def _has_decoder(settings: Any) -> bool:
    """Of an architecture with two halves, also where a checkpoint holds the encoder alone and says so."""
    return bool(settings.is_encoder_decoder or getattr(type(settings), "is_encoder_decoder", False))


def config_of(encoder: Any) -> Any:
    """The config that the encoder can be built from again."""
    return getattr(encoder, "whole_config", encoder.config)


def check_encodes_text(source: Source, encoder: Any) -> None:
    """Raises UserError where the encoder does not take text, or not as encoders do."""
    ids, kind, training = torch.arange(5, 13).repeat(2, 1), encoder.config.model_type, encoder.training
    encoder.eval()
    try:
        with torch.inference_mode(), torch.random.fork_rng(devices=[]):
            output = encoder(input_ids=ids, attention_mask=torch.ones_like(ids))
        hidden, width = output.last_hidden_state, encoder.config.hidden_size
    except Exception as error:  # whatever a model of images or speech says to token ids
        raise source.fault(f"is no encoder of text ({kind}: {first_line(error)}); name one") from error
    finally:
        encoder.train(training)
    if "attention_mask" not in inspect.signature(encoder.forward).parameters:
        raise source.fault(f"a {kind} takes no attention mask: padding would change its answers; name another")
    if hidden.shape != (2, 8, width):
        raise source.fault(
            f"answers {list(hidden.shape)} for 2 x 8 tokens ({kind}), not a vector of {width} numbers a token; "
            "name another encoder"
        )
    if getattr(output, "past_key_values", None) is not None:  # keys and values, kept for writing on
        encoder.config.use_cache = False


def fit_vocabulary(source: Source, encoder: Any, tokenizer: Any) -> set[str]:
    """Rows for tokens that were added to a tokenizer; names of the parameters that got some. Raises UserError where the
    two do not belong together."""
    table = encoder.get_input_embeddings()
    rows, tokens = table.num_embeddings, 1 + max(tokenizer.get_vocab().values())
    if tokens <= rows:
        return set()
    plain = 1 + max(tokenizer.backend_tokenizer.get_vocab(with_added_tokens=False).values())
    if plain > rows:
        raise source.fault(
            f"its tokenizer has {tokens} tokens, its embeddings have {rows} rows: they do not belong together; give "
            "the tokenizer that it was pre-trained with as --tokenizer_name"
        )
    table.weight.data = table.weight.data.float()  # in the precision of a file it would be drawn in that
    encoder.resize_token_embeddings(tokens)
    logger.warning(
        "%s has %d embeddings, its tokenizer %d tokens: %d rows were added, drawn like the others; they are only "
        "trained from now on.",
        *(source.name, rows, tokens, tokens - rows),
    )
    weight = encoder.get_input_embeddings().weight
    return {name for name, parameter in encoder.named_parameters() if parameter is weight}


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


def choose_pooling(asked: str | None, encoder: Any, missing: set[str], name: str, causal: bool = False) -> str:
    """What a sequence's vector is taken from, with a warning wherever it is not the original's trained pooler.

    An untrained pooler keeps its output almost constant over inputs, and through it little or nothing is learnt. Where
    attention is causal the last token alone has seen all of the text.
    """
    kind = encoder.config.model_type
    if causal and asked in ("pooler", "cls"):
        raise UserError(
            f"--pooling {asked}: it takes the first token, and in {name} ({kind}) that one sees no other; "
            "use --pooling last or mean, or --attention bidirectional"
        )
    pooler = getattr(encoder, "pooler", None)
    dense = pooler if isinstance(pooler, nn.Linear) else getattr(pooler, "dense", None)  # ALBERT's is the layer itself
    if asked == "pooler" and dense is None:
        raise UserError(f"--pooling pooler: {name} ({kind}) has no pooler; use --pooling mean or cls")
    if asked is None and causal:
        logger.info("pooling last: the last token of a sequence, which alone has seen all of it")
        return "last"
    # Pre-training moves the bias away from the zeros it starts with.
    trained = dense is not None and not any("pooler" in key for key in missing) and bool(dense.bias.abs().max() > 0)
    if asked is None and not trained:
        logger.warning("%s has no trained pooler: sequences are pooled by --pooling mean, not as BERT's are.", name)
        return "mean"
    if asked == "pooler" and not trained:
        logger.warning("--pooling pooler: the pooler of %s was never trained; --pooling mean learns better.", name)
    return asked or "pooler"
