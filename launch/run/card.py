"""The model card: README.md in `model/`, as the Hugging Face hub reads it. Holds no path of this machine."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tasks
from harness import files
from harness.config import EMBEDDED, ENCODER, RunConfig
from harness.export import loading, plain_card
from harness.model_folder import HEAD_FILE
from harness.run_folder import RunFolder
from harness.task import Task
from launch.run.settings import SAMPLE_BANNER
from tasks.published import RECIPES, recipe_for
from tasks.tagging import TaggingTask

# Names that the hub knows; all others are F1.
METRICS = {
    "Pearson": "pearsonr",
    "Spearman": "spearmanr",
    "accuracy": "accuracy",
    "token accuracy": "accuracy",
    "MCC": "matthews_correlation",
}
SHARING = """\
MedSTS, MedNLI, i2b2 2010 and ShARe/CLEFE are clinical text under data use agreements, which may also bind models that
were trained on it. The other corpora have licences of their own."""
OWN_SHARING = "The terms of the data that it was trained on may bind the model too."
WHAT = {
    "similarity": "how similar two sentences are, as a number",
    "tagging": "mentions, a tag B, I or O for each word",
    "multiclass": "one class for a sentence or a pair of sentences",
    "multilabel": "any number of labels for each sentence; a document has those of its sentences",
}


def write(folder: RunFolder, config: RunConfig, result: Mapping[str, Any]) -> None:
    """Write the card of a run's model; one that somebody has edited since it was written stays. Before result.json."""
    path, head_file = Path(folder.model) / "README.md", Path(folder.model) / HEAD_FILE
    if not head_file.is_file():  # a run that was asked for nothing but to train keeps its model, others have none
        return
    head = json.loads(head_file.read_text(encoding="utf-8"))
    ours = [plain_card(head["standard_class"], head["pooling"], head.get("attention"), _base(config, head))]
    if folder.result.is_file():
        ours.append(text(config, json.loads(folder.result.read_text(encoding="utf-8")), head))
    if not path.is_file() or path.read_text(encoding="utf-8") in ours:
        files.write(path, text(config, result, head))


def text(config: RunConfig, result: Mapping[str, Any], head: Mapping[str, Any]) -> str:
    """The card; `head` is what HEAD_FILE holds."""
    task, is_sample = tasks.get(config.task, config.own_task), result["data"] == "sample"
    origin = ", not of the BLUE benchmark but defined by a file" if config.own_task else " of the BLUE benchmark"
    scores = ["| split | metric | score | examples | |", "|---|---|---:|---:|---|"]
    for split, values in result["scores"].items():
        note = "this split was trained on" if split == "dev" and result["dev_was_trained_on"] else ""
        scores.append(f"| {split} | {values['metric']} | {100 * values['score']:.2f} | {values['examples']} | {note} |")
    length = f"{config.max_steps} steps" if config.max_steps > 0 else f"{config.num_train_epochs:g} epochs"
    if result.get("stopped_early"):
        length += f", stopped after epoch {len(result['epochs'])} (patience {config.early_stopping_patience})"
    share = f", {result['train_examples']} examples of them drawn by the seed" if "train_examples" in result else ""
    search = result.get("search", {})
    best = f"of epoch {result['best_epoch']}, the best on dev"
    pooled = "" if task.per_word else f", {config.window_pooling} of their logits"
    windows = "" if config.stride is None else f"; longer ones in windows that overlap by {config.stride}{pooled}"
    made = {
        "encoder": config.model_label,
        **({"encoder's commit": result["model_commit"]} if result.get("model_commit") else {}),
        **({"code of its own": "run (--trust_remote_code)"} if config.trust_remote_code else {}),
        "recipe": config.recipe,
        **({"adapters": _adapters(config)} if config.lora_rank is not None else {}),
        **({"head": "begins with the checkpoint's pre-trained one"} if config.head == "pretrained" else {}),
        "trained on": " + ".join(config.train_splits or task.train_splits) + share,
        "learning rate": _schedule(config),
        **({"layers": ", ".join(layers)} if (layers := _layers(config)) else {}),
        "length of training": length,
        **({"training loss": "; ".join(loss)} if (loss := _loss(config, result)) else {}),
        **({"chosen by": f"the best of {search['trials']} settings by {search['basis']}"} if "basis" in search else {}),
        "examples a step": result["examples_per_step"],
        "longest input": f"{config.max_seq_length} subword tokens" + windows,
        "weights": "the last epoch's" if result["selected"] == "last" else best,
        "arithmetic": f"{result['precision']} on {result['world_size']} device(s)",
        "seed": result["seed"],
        "code": f"blue-harness, commit {result['commit'] or 'unknown'}",
        "versions": ", ".join(f"{name} {version}" for name, version in result["versions"].items()),
    }
    parts = [
        f"---\n{_front_matter(config, task, result, head)}\n---",
        f"# {config.model_label} fine-tuned for {task.title}" + (" (SAMPLE DATA)" if is_sample else ""),
        *([f"> **{SAMPLE_BANNER}**"] if is_sample else []),
        f"Task `{config.task}`{origin}: {_what(task)}.",
        "## Scores",
        "\n".join(scores),
        *([] if result["scores"] else ["None: neither dev nor test was scored."]),
        "## How it was made",
        "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in made.items())]),
        "## Loading it",
        loading(head["standard_class"], head["pooling"], head.get("attention"), _base(config, head)),
        "## Before you share it",
        OWN_SHARING if config.own_task else SHARING,
    ]
    return "\n\n".join(part.rstrip("\n") for part in parts) + "\n"


def _what(task: Task) -> str:
    """What the model answers."""
    types = task.types if isinstance(task, TaggingTask) else ()
    return (
        f"mentions of {', '.join(types)}, a tag B-<type>, I-<type> or O for each word" if types else WHAT[task.family]
    )


def _loss(config: RunConfig, result: Mapping[str, Any]) -> list[str]:
    """What the training loss had beside the plain one, in words."""
    smoothing = [f"label smoothing {config.label_smoothing:g}"] if config.label_smoothing else []
    weights = ", ".join(f"{label} {weight:.4g}" for label, weight in result.get("class_weights", {}).items())
    return [*smoothing, *([f"class weights {weights}"] if weights else [])]


def _base(config: RunConfig, head: Mapping[str, Any]) -> str | None:
    """The encoder that the folder holds adapters for; None where it holds a whole model."""
    return config.model_name_or_path if head.get("base") is not None else None


def _adapters(config: RunConfig) -> str:
    """What the adapters were, in words."""
    alpha = 2 * (config.lora_rank or 0) if config.lora_alpha is None else config.lora_alpha
    layers = "all linear layers" if config.lora_targets is None else ", ".join(config.lora_targets)
    kind = "DoRA" if config.lora_dora else "LoRA"
    merged = ", merged into the weights" if config.merge_lora else ""
    return f"{kind} of rank {config.lora_rank}, alpha {alpha:g}, dropout {config.lora_dropout:g}, in {layers}{merged}"


def base_model(name: str) -> str | None:
    """The encoder's name on the hub; None for a folder."""
    if name == EMBEDDED:
        return RECIPES[recipe_for(name)].model
    return None if Path(name).is_absolute() or name.startswith(".") or name.count("/") > 1 else name


def _front_matter(config: RunConfig, task: Task, result: Mapping[str, Any], head: Mapping[str, Any]) -> str:
    from huggingface_hub import EvalResult, ModelCardData

    is_sample = result["data"] == "sample"
    pipeline = "token-classification" if task.family == "tagging" else "text-classification"
    metrics = {split: METRICS.get(values["metric"], "f1") for split, values in result["scores"].items()}
    evaluated = [
        EvalResult(
            task_type=pipeline,
            dataset_type=result["task"],
            dataset_name=task.title,
            dataset_split=split,
            metric_type=metrics[split],
            metric_name=values["metric"],
            metric_value=values["score"],
        )
        for split, values in result["scores"].items()
        # No table of the hub may take these for results.
        if not is_sample and not (split == "dev" and result["dev_was_trained_on"])
    ]
    origin = ["blue-benchmark"] if config.own_task is None else []
    data = ModelCardData(
        language="en",
        library_name="transformers" if head["standard_class"] else "peft" if head.get("base") else "blue-harness",
        pipeline_tag=pipeline,
        base_model=base_model(config.model_name_or_path),
        datasets=[config.task] if config.own_task is None else None,
        metrics=sorted(set(metrics.values())),
        tags=[*origin, "biomedical", *(["sample-data"] if is_sample else [])],
        model_name=f"{config.model_label}-{result['task']}",
        eval_results=evaluated or None,
    )
    return str(data.to_yaml())


def _schedule(config: RunConfig) -> str:
    """The learning rate over the steps, in words."""
    warmup = f"{config.warmup_ratio:g} of all" if config.warmup_ratio else config.warmup_steps
    kind = {"linear": "linear decay", "cosine": "cosine decay", "constant": "constant"}[config.lr_scheduler]
    decay = config.layerwise_lr_decay
    by_layer = "" if decay is None else f", {decay:g} times as much in each layer below"
    return f"{config.learning_rate:g}, {kind}, {warmup} steps of warm-up{by_layer}"


def _layers(config: RunConfig) -> list[str]:
    """What was not trained, or not from the checkpoint's weights."""
    frozen, anew = config.freeze_layers, config.reinit_top_layers
    lowest = f"embeddings and the lowest {frozen} frozen" if frozen != ENCODER else "the whole encoder frozen"
    return [*([lowest] if frozen is not None else []), *([f"the highest {anew} drawn anew"] if anew else [])]
