"""The contract between a task and the harness: what a task gives, and in which shapes.

A task is five things, always in this order: `read` (files -> examples), `features` (examples -> token ids), `loss` and
`decode` (logits -> loss, prediction) and `metric` (examples and predictions -> report), and the files in which old
scripts expect its results. The linear layer that gives the logits belongs to the model. Everything else in the harness
works on these and never asks which task it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cache, cached_property
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from harness.errors import UserError as UserError

if TYPE_CHECKING:
    import torch  # slow to import: flags are checked before

PAD_TO = 8  # padded rows are a multiple of this long: aligned matrix products, fewer shapes
SPLITS = ("train", "dev", "test")


@dataclass(frozen=True)
class Example:
    """One row of a data file as a person would label it."""

    id: str  # the file's own index, or "<split>-<n>" where the file has none
    texts: tuple[str, ...]  # one sentence, a pair of sentences, or the words of one sentence (tagging)
    label: Any  # float | str | tuple[int, ...] of 0 and 1 | tuple[str, ...] of tags, one a word
    group: str = ""  # what belongs together in metric or file: the HoC document, the sentence of a cut NER example
    document: str = field(default="", compare=False)  # that a sentence of words is of, where its file says it


@dataclass(frozen=True)
class Prediction:
    """What a system answers for one example."""

    value: Any  # of the same form as Example.label
    scores: tuple[float, ...] | None = None  # probability of each class, where the head has them
    repaired: int = 0  # tagging by type: how many tags of the sentence `Task.repaired` changed


@dataclass(frozen=True)
class Encoded:
    """One split as token ids: an entry an example, nothing padded, nothing in tensors.

    Where some example is cut into windows there is an entry a window, one example's behind another's, of all but
    `windows`, `cut` and, where an example has one label, `labels`.
    """

    input_ids: Sequence[Sequence[int]]  # token ids with the tokenizer's special tokens, at most max_seq_length
    token_type_ids: Sequence[Sequence[int]] | None  # segment of each token; None where the tokenizer has none
    labels: Sequence[Any]  # float | int | several floats an example; for tagging several ints, one a *scored* word
    positions: Sequence[Sequence[int]] | None = None  # tagging: index in input_ids of each scored word's first token
    words: Sequence[Sequence[int]] | None = None  # tagging: number (in Example.texts) of each scored word
    windows: Sequence[int] | None = None  # how many each example has; None: all have one
    # What no window holds of each example: 1 where it lost tokens, else 0; in tagging how many words. None: all 0.
    cut: Sequence[int] | None = None

    def __len__(self) -> int:
        return len(self.input_ids if self.windows is None else self.windows)

    @cached_property
    def _ends(self) -> Sequence[int]:
        return list(accumulate(self.windows or ()))

    def rows(self, index: int) -> Sequence[int]:
        """The numbers of an example's windows in `input_ids`."""
        if self.windows is None:
            return (index,)
        end = self._ends[index]
        return range(end - self.windows[index], end)

    def units(self, index: int) -> int:
        """What the loss is a mean over: scored words of a tagging example, else 1 an example."""
        return 1 if self.positions is None else sum(len(self.positions[row]) for row in self.rows(index))

    def width(self, index: int) -> int:
        """Tokens of an example's longest window."""
        return max(len(self.input_ids[row]) for row in self.rows(index))


def moved(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A tensor of the CPU on a device; from pinned memory, so that the copy does not wait for what the device does."""
    return (tensor.pin_memory() if device.type == "cuda" else tensor).to(device, non_blocking=True)


@cache
def on_device(values: tuple[float, ...] | None, device: torch.device) -> torch.Tensor | None:
    """As float32, copied there once: within a CUDA graph nothing may come from the host."""
    import torch

    return None if values is None else torch.tensor(values, dtype=torch.float32, device=device)


@dataclass(frozen=True)
class Batch:
    """A forward pass. B examples, or windows of them, padded to T tokens; n rows of logits: one an example, in tagging
    one a scored word."""

    input_ids: torch.Tensor  # [B, T] int64
    attention_mask: torch.Tensor  # [B, T] int64, 1 on tokens
    token_type_ids: torch.Tensor | None  # [B, T] int64
    scored: torch.Tensor | None  # tagging: [n] int64, places of the scored words in the flattened [B * T]
    labels: torch.Tensor  # [n] int64 or float32, or [n, classes] float32
    examples: tuple[int, ...]  # their numbers in the split
    units: tuple[int, ...]  # rows of logits of each example; sums to n
    lengths: tuple[int, ...] = ()  # tokens of each row, known without asking the device
    # [B] int64: the place in `examples` of the one that each row is a window of; None: one row an example, or tagging.
    windows: torch.Tensor | None = None

    @property
    def tokens(self) -> int:
        """Tokens, padding left out."""
        return int(self.attention_mask.sum())

    def to(self, device: torch.device) -> Batch:
        """The same on a device."""
        if device.type == "cpu":
            return self
        import torch

        values = {each.name: getattr(self, each.name) for each in fields(self)}
        tensors: dict[str, Any] = {k: moved(v, device) for k, v in values.items() if isinstance(v, torch.Tensor)}
        return replace(self, **tensors)


@dataclass(frozen=True)
class Confusion:
    """Counts for a table: `counts[gold][predicted]`, or any table of counts with named rows and columns."""

    rows: tuple[str, ...]
    columns: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Scatter:
    """Gold value against predicted value of each example."""

    gold: tuple[float, ...]
    predicted: tuple[float, ...]


@dataclass(frozen=True)
class Report:
    """A split's scores. All are fractions (0.853), never times 100."""

    score: float  # the primary metric, as published
    metric: str  # its name, e.g. "mention F1"
    values: Mapping[str, float | int]  # every figure beside it, by its plain name; counts are int
    per_class: Mapping[str, Mapping[str, float | int]]  # label -> precision, recall, f1, support
    chart: Confusion | Scatter | None = None
    warnings: tuple[str, ...] = field(default=())


@dataclass(frozen=True)
class Task:
    """One dataset: a family of tasks is a subclass, whose methods are the contract; the fields describe the dataset."""

    family: ClassVar[str]  # similarity | tagging | multiclass | multilabel
    per_word: ClassVar[bool] = False  # one row of logits a scored word (tagging), else one an example
    # To be raised with every change after which `metric` may give another value, or another name of a value, for the
    # same gold and predictions: scores of two versions are never averaged or compared, nor can one verify the other's.
    metric_version: ClassVar[int]

    name: str
    title: str  # what papers call it
    filenames: Mapping[str, str]  # split -> file name in the data folder
    layout: Callable[[str], Any]  # split -> how its file is written, for the family's reader
    score_key: str  # which of Report.values is the score
    labels: tuple[str, ...] = ()  # in the order of the logits; () for a score
    label_titles: tuple[str, ...] = ()  # what the labels stand for, where their names do not say it
    negative: str | None = None  # the label that the score leaves out
    train_splits: tuple[str, ...] = ("train",)  # what the published recipe trains on
    disjoint: bool = False  # tagging: an I behind an O is one more part of the mention that the last B opened
    # Of the training loss alone, as a run's settings say:
    label_smoothing: float = 0.0
    class_weights: tuple[float, ...] | None = None  # in the order of the logits

    def whole(self) -> Task:
        """The same task, reading examples uncut: what is too long is for windows."""
        return self

    def read(self, data_dir: Path, split: str) -> list[Example]:
        """Examples in file order. Raises UserError naming file:line, value and remedy."""
        raise NotImplementedError

    def classes_of(self, example: Example) -> set[str]:
        """The task's labels that the example has; of families that say no other, its label or those of its words."""
        if not self.labels:
            return set()
        return {example.label} if isinstance(example.label, str) else set(example.label)

    @property
    def num_outputs(self) -> int:
        """Width of the logits."""
        return len(self.labels) or 1  # a score

    def loss(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Sum (not mean) of the loss over the rows of `logits` [n, num_outputs] in float32, a scalar.

        Of families that say no other: cross entropy; labels [n] of class numbers.
        """
        from torch.nn.functional import cross_entropy

        return cross_entropy(logits.float(), labels.long(), reduction="sum")

    def training_loss(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """`loss` with label smoothing e (Szegedy et al., 2016, arXiv:1512.00567) and class weights w, of k classes.

        Of families that say no other, as torch's cross_entropy: (1 - e) w_y (-log p_y) + e / k sum_c w_c (-log p_c),
        but summed: torch's weighted mean divides by the sum of weights, which differs from rank to rank.
        """
        if not self.label_smoothing and self.class_weights is None:
            return self.loss(logits, labels)
        from torch.nn.functional import cross_entropy

        weights, smoothing = on_device(self.class_weights, logits.device), self.label_smoothing
        return cross_entropy(logits.float(), labels.long(), weights, reduction="sum", label_smoothing=smoothing)

    def decode(self, logits: np.ndarray) -> Prediction:
        """The prediction of one example from its logits: [num_outputs], or [scored words, num_outputs]."""
        raise NotImplementedError

    def features(
        self, examples: Sequence[Example], tokenizer: Any, max_seq_length: int, stride: int | None = None
    ) -> Encoded:
        """Token ids and label ids of examples, by a fast tokenizer. What is longer than max_seq_length tokens loses its
        end, or with a stride becomes windows that overlap by so many. Raises UserError for a stride that is too large.
        """
        raise NotImplementedError

    def align(self, example: Example, prediction: Prediction, words: Sequence[int]) -> Prediction:
        """A decoded prediction for the whole example; `words` are the numbers of the scored words (tagging)."""
        return prediction

    def repaired(self, examples: Sequence[Example], predictions: Sequence[Prediction]) -> list[Prediction]:
        """Aligned predictions made into ones that the metric's rules allow (tagging by type)."""
        return list(predictions)

    def metric(self, examples: Sequence[Example], predictions: Sequence[Prediction]) -> Report:
        """Once over a whole split, in file order."""
        raise NotImplementedError

    def text(self, label: Any) -> str:
        """A label as `rows` writes it."""
        return str(label)

    def rows(self, examples: Sequence[Example], predictions: Sequence[Prediction]) -> list[str]:
        """The lines of predictions/<split>.tsv, header first, without line ends: `index gold prediction`, tab
        separated; in tagging `token gold prediction` with an empty line between sentences."""
        pairs = zip(examples, predictions, strict=True)
        rows = [f"{one.id}\t{self.text(one.label)}\t{self.text(other.value)}" for one, other in pairs]
        return ["index\tgold\tprediction", *rows]

    def files(
        self, split: str, examples: Sequence[Example], predictions: Sequence[Prediction], report: Report
    ) -> dict[str, str]:
        """The results of a split under their original names: file name -> text."""
        raise NotImplementedError

    def dev_row(self, report: Report) -> dict[str, float | int]:
        """The columns of the original dev_results.txt after Global_step, Epochs, Loss: column name -> value."""
        raise NotImplementedError
