"""An encoder with a task's head: a fresh one on a checkpoint's encoder, or a trained one, ours or of transformers."""

from __future__ import annotations

import contextlib
import inspect
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from torch import nn

from harness import direction, heads, lora, model_folder, parameters, pretrained
from harness.attention import replace_dropout
from harness.config import RunConfig
from harness.encoder import (
    check_encodes_text,
    choose_pooling,
    class_for,
    encoder_of,
    fit_vocabulary,
    load_encoder,
    positions,
)
from harness.errors import UserError, first_line, library_errors
from harness.files import read_json
from harness.heads import HEADS, LAYERS
from harness.mapped import WholeOnly
from harness.model_folder import HEAD_FILE, HEAD_WEIGHTS
from harness.packing import PADDED, Layout, choose
from harness.pretrained import Source
from harness.rows import PackedBatch
from harness.task import PAD_TO, Batch, Task
from harness.tensor_file import INDEX
from harness.tokenizer import separate_words
from harness.twin import adopt, twin

logger = logging.getLogger(__name__)

# The head's dropout, by the names that architectures give it.
DROPOUT_NAMES = ("classifier_dropout", "seq_classif_dropout", "hidden_dropout_prob", "hidden_dropout")

PROBLEM_TYPES = {  # what transformers' pipelines read to choose softmax, sigmoid or neither
    "similarity": "regression",
    "multiclass": "single_label_classification",
    "multilabel": "multi_label_classification",
}


class EncoderWithHead(nn.Module):
    """AutoModel + (pooler | first token | last token | mean | one row a scored word) (+ head) + dropout + linear layer.

    Names follow the Hugging Face classes (`dropout`, `classifier`), so that a BERT with the trained pooler is
    BertForSequenceClassification to the letter.
    """

    def __init__(
        self,
        encoder: Any,
        num_outputs: int,
        pooling: str | None,
        dropout: float,
        attention: str | None = None,
        head: nn.Module | None = None,
    ) -> None:
        """`pooling` is pooler, cls, last or mean; None gives a row of logits for each scored word.

        `attention`: as `direction.fit` returns it. Where it is causal a word's row is that of its last subword token.
        `head`: layers for a row, before the last one; see harness/heads.py.
        """
        super().__init__()
        self.encoder: Any = encoder  # a transformers model; its config says its width
        if pooling != "pooler" and getattr(encoder, "pooler", None) is not None:
            encoder.pooler = None  # nothing reads it, and weights without a gradient only cost memory
        self.pooling, self.attention = pooling, attention
        self.layout: Layout = PADDED  # without padding where `choose` finds that the encoder can do without
        self.head = head
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(encoder.config.hidden_size, num_outputs)
        self.takes_segments = _takes_segments(encoder)
        self.depths: Mapping[str, int] = {}  # of parameters by name, where settings need them: harness/parameters.py
        self.source: Source | None = None  # of the weights, where they are still in its files: harness/mapped.py
        self.window_pooling = "mean"  # or max

    def ready(self, batch: Batch | PackedBatch, device: torch.device) -> Batch | PackedBatch:
        """The batch as `forward` takes it on `device`, not moved there yet."""
        if not self.takes_segments and batch.token_type_ids is not None:
            batch = replace(batch, token_type_ids=None)
        return self.layout.ready(batch, device)

    def forward(self, batch: Batch | PackedBatch) -> torch.Tensor:
        """Logits [n, num_outputs] in the encoder's precision, n as in Batch."""
        batch = self.ready(batch, batch.input_ids.device)
        encoding = self.layout.encode(self.encoder, batch)
        lengths = batch.lengths if isinstance(batch, PackedBatch) else batch.attention_mask.sum(1)
        if batch.scored is not None:
            in_rows, slots, width = isinstance(batch, PackedBatch), batch.scored, batch.input_ids.shape[1]
            owner = batch.owner.flatten() if isinstance(batch, PackedBatch) else batch.scored // width
            if not in_rows:
                slots = encoding.starts[owner] + slots % width
            if self.attention == "causal":
                slots = word_ends(slots, owner[slots] if in_rows else owner, encoding.starts + lengths)
            rows = encoding.hidden[slots]
        elif self.pooling == "pooler":
            assert encoding.pooled is not None
            rows = encoding.pooled
        elif self.pooling == "cls":
            rows = encoding.hidden[encoding.starts]
        elif self.pooling == "last":
            rows = encoding.hidden[encoding.starts + lengths - 1]
        else:
            rows = encoding.mean(lengths)
        if self.head is not None:
            rows = self.head(rows)
        logits: torch.Tensor = self.classifier(self.dropout(rows))
        return pool_windows(logits, batch, self.window_pooling)


def pool_windows(logits: torch.Tensor, batch: Batch | PackedBatch, how: str) -> torch.Tensor:
    """[n, outputs]: the mean or the maximum of each example's rows of `logits`, a row a window; in float32.

    As they are where every example has one row, and in tagging.
    """
    if batch.windows is None:
        return logits
    own = batch.windows == torch.arange(len(batch.labels), device=logits.device)[:, None]  # [n, windows]
    own, rows = own[..., None], logits.float()[None]
    # No matrix product: under autocast that would be rounded to bf16.
    return torch.where(own, rows, -torch.inf).amax(1) if how == "max" else torch.where(own, rows, 0).sum(1) / own.sum(1)


def word_ends(slots: torch.Tensor, owner: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
    """[n] slots of the last subword tokens of words whose first ones are at `slots` [n], in the order of the text.

    `owner` [n]: the words' examples; `ends` [B]: the slots behind the examples' last tokens. A word reaches to the
    next one, the last word of an example to its end: what is put there has seen the word, too.
    """
    following, other = slots.roll(-1), owner.roll(-1)
    return torch.where((other == owner) & (following > slots), following, ends[owner]) - 1


@contextlib.contextmanager
def exact_tables(network: nn.Module) -> Iterator[None]:
    """Within, the network may be cast: what it computes from its config, and no checkpoint holds, keeps its precision.

    Such are the frequencies of rotary positions: rounded to 8 bits they would turn far tokens by other angles.
    """
    of_checkpoints = network.state_dict().keys()
    kept = {
        name: buffer.clone()
        for name, buffer in network.named_buffers()
        if name not in of_checkpoints and buffer.is_floating_point()
    }
    yield
    for name, buffer in kept.items():
        parent, _, last = name.rpartition(".")
        module = network.get_submodule(parent)
        setattr(module, last, buffer.to(getattr(module, last).device))


class StandardHead(nn.Module):
    """A model of transformers' own classes with a trained head, such as others publish: only scored, never trained.

    Asked as EncoderWithHead is; its outputs in the order of the task's labels.
    """

    def __init__(self, inner: Any, outputs: list[int]) -> None:
        """`outputs`: for each of the task's labels the number of its output."""
        super().__init__()
        self.encoder: Any = inner
        self.layout: Layout = PADDED
        self.outputs = outputs
        self.takes_segments = _takes_segments(inner)
        self.window_pooling = "mean"

    def ready(self, batch: Batch, device: torch.device) -> Batch:
        """The batch as `forward` takes it on `device`, not moved there yet."""
        return batch

    def forward(self, batch: Batch) -> torch.Tensor:
        """Logits [n, labels], n as in Batch."""
        inputs: dict[str, Any] = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
        if hasattr(self.encoder, HEADS[1]):  # a decoder's head takes the last token that is no padding by its id
            padding = batch.attention_mask == 0
            inputs["input_ids"] = batch.input_ids.masked_fill(padding, self.encoder.config.pad_token_id)
        if self.takes_segments:
            inputs["token_type_ids"] = batch.token_type_ids
        logits: torch.Tensor = self.encoder(**inputs).logits
        if batch.scored is not None:
            logits = logits.flatten(0, 1)[batch.scored]
        return pool_windows(logits[:, self.outputs], batch, self.window_pooling)


def _takes_segments(encoder: Any) -> bool:
    segments = getattr(encoder.config, "type_vocab_size", None) or 0  # in some 0, in others it is not said
    return "token_type_ids" in inspect.signature(encoder.forward).parameters and segments != 1


@dataclass(frozen=True)
class Loaded:
    """A fine-tuned model and its tokenizer."""

    model: EncoderWithHead
    tokenizer: Any


def build(
    config: RunConfig, num_outputs: int, per_word: bool, tokenizer: Any = None, *, in_parts: bool = False
) -> EncoderWithHead:
    """The pre-trained encoder in float32 with a fresh head drawn from the seed. Raises UserError if it cannot load.

    `tokenizer`: the encoder gets rows for tokens that were added to it. With --lora_rank the encoder has adapters, and
    what is not trained requires no gradient; the head is the same. `in_parts`: where it can be, the encoder's weights
    stay in their files for the engine to take its part of (ZeRO-3); `source` of the model is then set.
    """
    source, settings = pretrained.source(config), pretrained.settings(config)
    encoder, missing, tried = _encoder(config, source, settings, in_parts)
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
        missing = missing | fit_vocabulary(source, encoder, tokenizer)
    check_encodes_text(source, tried)
    attention = direction.fit(source, tried, config.attention)
    causal, name = attention == "causal", config.model_name_or_path
    if causal and per_word and config.stride is not None:
        # A word is read where the next one begins, which in a window may not be scored.
        raise UserError(
            f"--stride {config.stride}: not for tagging where a token sees none behind it; --attention bidirectional"
        )
    head, asked = None, config.pooling
    if config.head == "pretrained":
        head = heads.load(source, settings, per_word)
        asked = asked or (None if causal else getattr(settings, "classifier_pooling", None))
    pooling = None if per_word else choose_pooling(asked, encoder, missing, name, causal)
    torch.manual_seed(config.seed)  # the same head whatever the file lacked
    dropouts = [getattr(settings, name, None) for name in DROPOUT_NAMES]
    dropout = next((float(value) for value in dropouts if value is not None), 0.1)
    model = EncoderWithHead(encoder, num_outputs, pooling, dropout, attention, head)
    model.window_pooling = config.window_pooling
    if config.lora_rank is not None:
        lora.add(encoder, config, missing)
    parameters.prepare(model, tried, config, missing)
    parameters.reinitialise(model, config)
    replace_dropout(model)
    model.layout = choose(tried, config.packing, causal, config.max_seq_length)
    if tried is not encoder:
        adopt(encoder, tried)
        model.source = source
    nn.init.normal_(model.classifier.weight, std=getattr(settings, "initializer_range", 0.02))
    nn.init.zeros_(model.classifier.bias)
    return model


def _encoder(config: RunConfig, source: Source, settings: Any, in_parts: bool) -> tuple[Any, set[str], Any]:
    """As `load_encoder`, and what to try things on: the encoder, or a small one of its kind where it is in parts."""
    if in_parts:
        try:
            if config.lora_dora:
                raise WholeOnly("--lora_dora begins with the norms of all weights")
            torch.manual_seed(config.seed)  # for weights that the file lacks
            encoder, missing = load_encoder(source, settings, in_parts=True)
            return encoder, missing, twin(encoder, settings)
        except WholeOnly as reason:
            logger.warning("%s: every process loads all weights, then ZeRO-3 shares them out (%s).", source, reason)
    torch.manual_seed(config.seed)
    encoder, missing = load_encoder(source, settings)
    return encoder, missing, encoder


def standard_prefix(settings: Any) -> str:
    """What the encoder, which is `encoder` here, is called in the architecture's own transformers classes."""
    from transformers import MODEL_MAPPING

    found = MODEL_MAPPING.get(type(settings), None)  # None for code that came with the model
    found = found[0] if isinstance(found, tuple) else found  # Funnel has two
    return "encoder" if found is None else str(found.base_model_prefix)


def rename(name: str, before: str, after: str) -> str:
    """A parameter's name with another first part, where that is `before`."""
    first, _, rest = name.partition(".")
    return f"{after}.{rest}" if first == before else name


def load(
    folder: str | Path,
    packing: str = "auto",
    trust_remote_code: bool = False,
    cache_dir: str | None = None,
    *,
    in_parts: bool = False,
) -> Loaded:
    """What a run wrote as `model/`, in float32 and ready to predict. Raises UserError where it is not one.

    The folder may come from anywhere: nothing in it is run unless asked for, and nothing unpickled. `cache_dir`: where
    the hub's models are, if the folder holds adapters for one. On all ranks alike. `in_parts`: as in `build`.
    """
    from transformers import AutoConfig, AutoTokenizer
    from transformers.initialization import no_init_weights

    folder = Path(folder)
    head, about = model_folder.read(folder)
    if not trust_remote_code:
        _refuse_code(folder)
    with library_errors(f"{folder}/config.json", "no encoder can be built from it", "get the folder again"):
        settings = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
        settings._attn_implementation = None  # else a name there could fetch kernels, which are code, from the hub
        options = {"trust_remote_code": trust_remote_code, "cache_dir": cache_dir}
        source = Source("model", str(folder), {"trust_remote_code": trust_remote_code})
        source = source if head.base is None else lora.base_of(folder, head.base, options)
        tried = None
        if in_parts:
            with contextlib.suppress(WholeOnly):  # as it was, and was said, when it was trained
                encoder = _pretrained(source, settings, in_parts=True)
                tried = twin(encoder, settings)
        if tried is None and head.base is not None:
            encoder = _pretrained(source, settings)
        elif tried is None:
            auto, own = class_for(settings)
            with no_init_weights():  # all are in the folder
                encoder = encoder_of(auto.from_config(own, trust_remote_code=trust_remote_code).float(), settings)
        if head.pooling == "pooler" and getattr(encoder, "pooler", None) is None:
            raise ValueError(f"{HEAD_FILE} says pooler, and it has none")
        named, layers = heads.fresh(settings, head.pooling is None) if head.layers else (LAYERS, None)
        model = EncoderWithHead(encoder, head.num_outputs, head.pooling, head.dropout, head.attention, layers)
        prefix = standard_prefix(settings) if head.standard_class else "encoder"
    remedy = "get tokenizer.json and tokenizer_config.json again"
    with library_errors(str(folder), "its tokenizer cannot be loaded", remedy):
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
    if head.pooling is None:
        separate_words(tokenizer)
    if head.base is not None:
        lora.load(encoder, folder)
    state = _weights(folder, model, {prefix: "encoder", named: LAYERS}, whole=head.base is None)
    if tried is not None:  # the encoder's are mapped into memory
        own = (f"{HEADS[0]}.", f"{LAYERS}.")
        state = {name: tensor for name, tensor in state.items() if head.base is not None or name.startswith(own)}
        model.source = source
    model.load_state_dict(state, strict=False)
    model.window_pooling = "mean" if about is None else about.window_pooling
    probed = encoder if tried is None else tried
    if head.attention is not None:
        direction.fit(Source("model", str(folder), {}), probed, head.attention)
    longest = None if about is None else about.max_seq_length
    model.layout = choose(probed, packing, head.attention == "causal", longest)
    if tried is not None:
        adopt(encoder, tried)
    return Loaded(model.eval(), tokenizer)


def _pretrained(source: Source, settings: Any, in_parts: bool = False) -> Any:
    """The encoder of `source`, of which `settings` differ in the number of tokens alone: rows are added to it.

    Raises WholeOnly where it cannot be had `in_parts`.
    """
    rows = getattr(settings, "vocab_size", None)
    settings.vocab_size = source.read("config.json").get("vocab_size", rows)
    encoder, _ = load_encoder(source, settings, in_parts=in_parts)
    if rows is not None and encoder.get_input_embeddings().num_embeddings < rows:
        encoder.resize_token_embeddings(rows)
    return encoder


def _refuse_code(folder: Path) -> None:
    """Raises UserError where a model comes with Python code of its own, which nobody has asked to be run."""
    for name in ("config.json", "tokenizer_config.json"):
        with contextlib.suppress(OSError, ValueError, AttributeError):  # whoever needs the file says what is wrong
            if read_json(folder / name).get("auto_map"):
                raise UserError(
                    f"{folder}/{name}: the model comes with code of its own (auto_map), which was not run; "
                    "where you trust it, --trust_remote_code"
                )


def _weights(folder: Path, model: EncoderWithHead, parts: Mapping[str, str], whole: bool) -> dict[str, torch.Tensor]:
    """The weights in a folder by the names that they have here; exactly those of the model.

    `parts`: what encoder and head are called in the file -> here. `whole`: False where it needs to hold the head alone.
    """
    from safetensors.torch import load_file

    path = folder / ("model.safetensors" if whole else HEAD_WEIGHTS)
    files = [path.name]
    if whole and not path.is_file() and (folder / INDEX).is_file():
        path, files = folder / INDEX, pretrained.weight_files(Source("model", str(folder), {}))[1:]
    state: dict[str, torch.Tensor] = {}
    for file in files:
        try:
            state |= load_file(folder / file)
        except (OSError, SafetensorError) as error:
            what = pretrained.damage(folder / file) or f"cannot be read ({first_line(error)}); get the file again"
            raise UserError(f"{folder / file}: {what}") from error
    here = {HEADS[1]: HEADS[0], **parts}
    renamed = {rename(name, first := name.partition(".")[0], here.get(first, first)): state[name] for name in state}
    expected = dict(model.named_parameters())
    needed = {name for name in expected if whole or not name.startswith("encoder.")}
    for name in sorted((needed - renamed.keys()) | (renamed.keys() - expected.keys())):
        what = f"lacks {name}" if name in expected else f"{name} has no place in the model that config.json describes"
        raise UserError(f"{path}: {what}; the folder was not written by a run, or its files do not belong together")
    for name, tensor in renamed.items():
        if tensor.shape != expected[name].shape:
            raise UserError(
                f"{path}: {name} is {list(tensor.shape)}, config.json and {HEAD_FILE} say "
                f"{list(expected[name].shape)}; get the folder again, its files do not belong together"
            )
    return renamed


def standard_outputs(source: Source, settings: Any, task: Task) -> list[int]:
    """For each of the task's labels the number of its output. Raises UserError where the head is none of that task.

    `settings` is the checkpoint's config. In tagging the outputs may say the type of mention where there is one, as in
    B-Disease; where there are several they must.
    """
    kind = "TokenClassification" if task.per_word else "SequenceClassification"
    found = (getattr(settings, "architectures", None) or ["no class"])[0]
    if not str(found).endswith(f"For{kind}"):
        raise source.fault(
            f"has no fine-tuned head for {task.name} (it is {found}), and nothing is to be trained; "
            "add --do_train, or name the model/ folder of a finished run"
        )
    names = [str(settings.id2label[number]) for number in range(settings.num_labels)]
    wanted = list(task.labels)
    plain = [name.split("-")[0] for name in names] if task.per_word and "B" in wanted else names
    if not wanted and len(names) == task.num_outputs:
        plain = wanted = [""]
    if sorted(plain) != sorted(wanted):
        shown = ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")
        raise source.fault(
            f"its head answers {shown}, {task.name} has {', '.join(wanted) or 'one score'}; name a model "
            "that was fine-tuned for this task (id2label in its config.json says the names), or add --do_train"
        )
    problem, expected = getattr(settings, "problem_type", None), PROBLEM_TYPES.get(task.family)
    if problem not in (None, expected):
        raise source.fault(f"was fine-tuned as {problem}, {task.name} is {expected or 'tagging'}; add --do_train")
    return [plain.index(label) for label in wanted]


def load_standard(config: RunConfig, task: Task) -> StandardHead:
    """In float32. Raises UserError where it has no head of the task, or no weights for it."""
    from transformers import AutoModelForSequenceClassification, AutoModelForTokenClassification

    auto: Any = AutoModelForTokenClassification if task.per_word else AutoModelForSequenceClassification
    source, settings = pretrained.source(config), pretrained.settings(config)
    order = standard_outputs(source, settings, task)
    options = {"config": settings, "dtype": torch.float32, "output_loading_info": True, **source.options}
    with library_errors(str(source), "its weights cannot be loaded", "get the folder again"):
        inner, info = auto.from_pretrained(source.name, **options)
    if missing := sorted(info["missing_keys"]):
        raise source.fault(
            f"{len(missing)} tensors of {type(inner).__name__} have no weights ({missing[0]}, ...): its head was never "
            "trained; add --do_train"
        )
    if inner.config.pad_token_id is None:  # as of Llama; a config may have several ends
        inner.config.pad_token_id = next(iter(np.atleast_1d(inner.config.eos_token_id or 0).tolist()))
    return StandardHead(inner.eval(), order)
