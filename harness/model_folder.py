"""What a fine-tuned `model/` says of itself in HEAD_FILE: enough to use it wherever it was copied to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter

from harness import records
from harness.errors import UserError
from harness.files import read_json

HEAD_FILE = "harness_head.json"  # beside the encoder's config.json
# Of a run with --lora_rank: adapters as peft has them, and what was trained beside them; see harness/lora.py.
ADAPTER_CONFIG, ADAPTER_WEIGHTS, HEAD_WEIGHTS = "adapter_config.json", "adapter_model.safetensors", "head.safetensors"
SCHEMA = 1
WINDOWS = ("stride", "window_pooling")  # of About; left out of the file where there are none


@dataclass(frozen=True)
class Head:
    """What the head is built of, and the task; the rest of HEAD_FILE is About."""

    pooling: Literal["pooler", "cls", "mean", "last"] | None  # None: a row of logits for each scored word
    num_outputs: Annotated[int, Field(gt=0, lt=100_000)]
    dropout: Annotated[float, Field(ge=0, lt=1)]
    standard_class: str | None  # of transformers, that loads the folder
    task: str | None = None  # None in folders of an older version
    attention: Literal["bidirectional", "causal"] | None = None  # None: nobody asked, and a token sees all others
    layers: bool = False  # whether those of transformers' class before the last one are in it, see harness/heads.py
    # Digests by name, or the commit, of the encoder that the folder's adapters are for; None: it holds an encoder.
    base: Mapping[str, str] | None = None


@dataclass(frozen=True)
class About:
    """The task that a model was fine-tuned for, and the settings that its answers depend on."""

    task: str
    own_task: Mapping[str, Any] | None  # the definition of a task that is none of the ten
    family: str
    labels: tuple[str, ...]  # in the order of the logits; () for a score
    max_seq_length: Annotated[int, Field(ge=8, le=1_000_000)]
    precision: str  # that it was trained in
    data: str  # given | sample
    train_splits: tuple[str, ...]
    encoder: str  # without its path
    recipe: str | None
    seed: int
    stride: Annotated[int, Field(ge=0)] | None = None  # None: what was longer was cut
    window_pooling: Literal["mean", "max"] = "mean"


_HEAD, _ABOUT = TypeAdapter(Head), TypeAdapter(About)


def locate(path: Path, flag: str = "") -> Path:
    """A model folder as it is; of a run folder its `model/`. Raises UserError for a run folder without one."""
    for folder in (path, path / "model"):
        if (folder / HEAD_FILE).is_file():
            return folder
    try:
        is_run = {"task", "output_dir", "model_name_or_path"} <= read_json(path / "config.json").keys()
    except (OSError, ValueError, AttributeError):
        is_run = False
    if not is_run:
        return path
    where = f"{flag} {path}".strip()
    raise UserError(f"{where}: no fine-tuned model of a run (it has no model/ yet); let the run be trained first")


def read(folder: Path) -> tuple[Head, About | None]:
    """What HEAD_FILE says; no About where a run of an older version wrote the folder: then the run around it knows.

    Raises UserError where there is none, or it holds something else.
    """
    path = folder / HEAD_FILE
    try:
        head = records.read(path, _HEAD)
        return head, None if head.task is None else records.read(path, _ABOUT)
    except UserError as error:
        what = str(error).replace(f"{path}:", HEAD_FILE) if folder.is_dir() else "no such folder"
    raise UserError(
        f"{folder}: no fine-tuned model of a run ({what}); name a run folder, its model/ or a download of one "
        "(`hf download NAME --local-dir FOLDER`), or train one with --do_train"
    )
