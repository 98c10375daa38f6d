"""Models of transformers' own classes with a trained head, such as others publish: only scored, never trained here."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import nn

from harness.config import RunConfig
from harness.errors import UserError
from harness.model_folder import first_line
from harness.packing import PADDED, Layout
from harness.task import Batch, Task

PROBLEM_TYPES = {  # what transformers' pipelines read to choose softmax, sigmoid or neither
    "similarity": "regression",
    "multiclass": "single_label_classification",
    "multilabel": "multi_label_classification",
}


class StandardHead(nn.Module):
    """Asked as EncoderWithHead is; its outputs in the order of the task's labels."""

    def __init__(self, inner: Any, outputs: list[int]) -> None:
        """`outputs`: for each of the task's labels the number of its output."""
        super().__init__()
        self.encoder: Any = inner
        self.layout: Layout = PADDED
        self.outputs = outputs
        takes = inspect.signature(inner.forward).parameters
        self.takes_segments = "token_type_ids" in takes and getattr(inner.config, "type_vocab_size", 0) > 1

    def forward(self, batch: Batch) -> torch.Tensor:
        """Logits [n, labels], n as in Batch."""
        more = {"token_type_ids": batch.token_type_ids} if self.takes_segments else {}
        logits: torch.Tensor = self.encoder(
            input_ids=batch.input_ids, attention_mask=batch.attention_mask, **more
        ).logits
        if batch.scored is not None:
            logits = logits.flatten(0, 1)[batch.scored]
        return logits[:, self.outputs]


def outputs(settings: Any, task: Task, source: str) -> list[int]:
    """For each of the task's labels the number of its output. Raises UserError where the head is none of that task.

    `settings` is the checkpoint's config. In tagging the outputs may say the one type of mention, as in B-Disease.
    """
    kind = "TokenClassification" if task.head.per_word else "SequenceClassification"
    found = (getattr(settings, "architectures", None) or ["no class"])[0]
    where = f"--model_name_or_path {source}"
    if not str(found).endswith(f"For{kind}"):
        raise UserError(
            f"{where}: has no fine-tuned head for {task.name} (it is {found}), and nothing is to be trained; "
            "add --do_train, or name the model/ folder of a finished run"
        )
    names = [str(settings.id2label[number]) for number in range(settings.num_labels)]
    plain = [name.split("-")[0] for name in names] if task.head.per_word else names
    wanted = list(task.labels)
    if not wanted and len(names) == task.head.num_outputs:
        plain = wanted = [""]
    if sorted(plain) != sorted(wanted):
        shown = ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")
        raise UserError(
            f"{where}: its head answers {shown}, {task.name} has {', '.join(wanted) or 'one score'}; name a model "
            "that was fine-tuned for this task (id2label in its config.json says the names), or add --do_train"
        )
    problem = getattr(settings, "problem_type", None)
    expected = PROBLEM_TYPES.get(task.family)
    if problem not in (None, expected):
        raise UserError(f"{where}: was fine-tuned as {problem}, {task.name} is {expected or 'tagging'}; add --do_train")
    return [plain.index(label) for label in wanted]


def settings(source: str, config: RunConfig) -> Any:
    """The checkpoint's own config. Raises UserError where it has none."""
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(source, **_options(config))
    except Exception as error:  # of as many kinds as a file can have mistakes
        raise UserError(
            f"--model_name_or_path {source}: its config.json cannot be loaded ({first_line(error)}); name a folder "
            "or a hub name that is reachable"
        ) from error


def load(source: str, task: Task, config: RunConfig) -> StandardHead:
    """In float32. Raises UserError where it has no head of the task, or no weights for it."""
    from transformers import AutoModelForSequenceClassification, AutoModelForTokenClassification

    auto: Any = AutoModelForTokenClassification if task.head.per_word else AutoModelForSequenceClassification
    order = outputs(settings(source, config), task, source)
    try:
        inner, info = auto.from_pretrained(source, dtype=torch.float32, output_loading_info=True, **_options(config))
    except Exception as error:
        raise UserError(
            f"--model_name_or_path {source}: its weights cannot be loaded ({first_line(error)}); get the folder again"
        ) from error
    if missing := sorted(info["missing_keys"]):
        raise UserError(
            f"--model_name_or_path {source}: {len(missing)} tensors of {type(inner).__name__} have no weights "
            f"({missing[0]}, ...): its head was never trained; add --do_train"
        )
    return StandardHead(inner.eval(), order)


def _options(config: RunConfig) -> dict[str, Any]:
    options = {"trust_remote_code": trusts(config)}
    return options | ({} if config.cache_dir is None else {"cache_dir": config.cache_dir})


def trusts(config: RunConfig) -> bool:
    """Whether the run was given --trust_remote_code."""
    return config.trust_remote_code
