"""Flags and file to settings: defaults < recipe < wandb's variables < file (`--config run.yaml`) < flags.

All faults come in one message.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
from collections.abc import Callable, Container, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import yaml
from pydantic import ValidationError

from harness.config import RunConfig, check
from harness.errors import UserError
from harness.files import settings_text
from harness.synonyms import hint
from harness.validation import shown, what_is_wrong

Complete = Callable[[Mapping[str, Any]], Mapping[str, Any]]
"""(what the user gave) -> the same with what the task's published recipe and the machine fill in."""

ALIASES = {"task_name": "task"}  # the original's spelling of a flag that is kept
FLAG_VALUES = {"fp16": ("precision", "fp16")}  # a flag that stands for a value of another
NONE = {"logging_steps": 0, "save_steps": 0, "max_steps": -1}  # what 0 and below mean, as in the original: no such step
PHASES = ("do_train", "do_eval", "do_predict")
RETIRED = {  # flags of the original that have nothing left to do
    "evaluate_during_training": "dev is scored after every epoch",
    "eval_all_checkpoints": "every epoch's dev score is in metrics.jsonl",
    "overwrite_cache": "nothing stale is ever read",
    "fp16_opt_level": "DeepSpeed replaces apex; see --ds_config",
    "use_fast": "every tokenizer is a fast one",
    "use_tokenizer_config": "the tokenizer's own settings are the default (--do_lower_case beside it is not used)",
    "keep_accents": "accents are kept or stripped as the tokenizer's own settings say",
    "strip_accents": "accents are kept or stripped as the tokenizer's own settings say",
    "labels": "the labels are the task's own, as they were in the original; a --task_file names others",
    "server_ip": "attach any debugger to the process",
    "server_port": "attach any debugger to the process",
    "local_rank": "rank and world size come from the environment",
}
WANDB_VARIABLES = {  # wandb's own: they count where neither flag nor file says otherwise
    "wandb_mode": "WANDB_MODE",
    "wandb_project": "WANDB_PROJECT",
    "wandb_entity": "WANDB_ENTITY",
    "wandb_group": "WANDB_RUN_GROUP",
    "wandb_name": "WANDB_NAME",
    "wandb_tags": "WANDB_TAGS",
}
GROUPS = {"wandb": f"{', '.join(WANDB_VARIABLES.values())}, WANDB_DISABLED count where no flag is given"}
OLD_MODES = {"dryrun": "offline", "run": "online"}  # wandb still takes these for its WANDB_MODE


def parse(
    argv: Sequence[str], complete: Complete, known: Mapping[str, Sequence[str]] | None = None, examples: str = ""
) -> tuple[RunConfig, list[str]]:
    """(settings, notes about retired flags). Raises UserError that lists every fault, a line each.

    For --help: `known` values of settings that are listed elsewhere, and `examples` at its end.
    """
    parsed, unknown = build_parser(known or {}, examples).parse_known_args(list(argv))
    flags, faults = vars(parsed), unknown_flags(unknown, known_names())
    if "use_tokenizer_config" in flags:
        flags.pop("do_lower_case", None)
    retired = [name for name in RETIRED if flags.pop(name, None) is not None and name != "local_rank"]
    notes = [f"--{name} has no effect any more: {RETIRED[name]}" for name in retired]
    path = flags.pop("config", None)
    file: dict[str, Any] = {}
    if path is not None:
        try:
            file = _read_file(path)
        except UserError as error:
            faults.append(str(error))
    given = convert(file, f"--config {path}: ", faults) | convert(flags, "--", faults)
    given = _from_wandb(given.keys(), faults) | given
    if not given.get("task") and not given.get("task_file"):
        faults.append("--task is missing: name a task, for example --task mednli, or a --task_file")
    if faults:
        raise UserError("\n".join(faults))
    unasked = not any(given.get(name) for name in PHASES)  # then all three, but for a --no-do_predict
    phases = {name: unasked if given.get(name) is None else given[name] for name in PHASES}
    config = RunConfig(**{**complete(given), **phases})
    check(config)
    return config, notes


class Parser(argparse.ArgumentParser):
    """Reports mistakes as every other part does, in one line, and the nearest name of an unknown flag."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; --help lists the flags")

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        options, unknown = self.parse_known_args(args, namespace)
        faults = unknown_flags(unknown, list(vars(options)))
        if faults:
            raise UserError("\n".join(faults))
        return options


def build_parser(known: Mapping[str, Sequence[str]], examples: str) -> argparse.ArgumentParser:
    """All flags as text; types are checked afterwards, together with those of the file."""
    parser = Parser(
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="%(prog)s --task T | --task_file F [--name value ...]",
        description="Fine-tune one encoder on one task. --task alone fills the rest from the task's published recipe.",
        epilog=examples,
    )
    group: Any = parser
    for setting in settings().values():
        if setting.metadata["group"]:
            group = parser.add_argument_group(setting.metadata["group"], GROUPS.get(setting.metadata["group"]))
        names = [f"--{setting.name}"] + [f"--{alias}" for alias, name in ALIASES.items() if name == setting.name]
        shown = setting.metadata["help"]
        if choices := setting.metadata["choices"] or known.get(setting.name):
            shown += f" ({' | '.join(choices)})"
        if setting.default is True:
            shown += " [on]"
        elif setting.default not in (None, "", ()) and setting.default is not False and "default:" not in shown:
            shown += f" [{setting.default}]"
        shown = shown.replace("%", "%%")
        if "Switch" not in str(setting.type):
            group.add_argument(*names, metavar="X", help=shown)
        elif setting.default is not False:
            group.add_argument(*names, action=argparse.BooleanOptionalAction, help=shown)
        else:
            group.add_argument(*names, action="store_true", default=argparse.SUPPRESS, help=shown)
            if not setting.name.startswith("no_"):  # only of use where the file says true
                group.add_argument(f"--no-{setting.name}", dest=setting.name, action="store_false",
                                   default=argparse.SUPPRESS, help=argparse.SUPPRESS)  # fmt: skip
        if setting.name == "precision":
            group.add_argument("--fp16", action="store_true", help="the same as --precision fp16")
    parser.add_argument("--config", metavar="FILE", help="YAML file of the settings below; flags win over it")
    for name in RETIRED:
        parser.add_argument(f"--{name}", f"--{name.replace('_', '-')}", nargs="?", const="", help=argparse.SUPPRESS)
    return parser


def unknown_flags(words: Sequence[str], known: Sequence[str]) -> list[str]:
    """A fault for each word that argparse could not place; the value of an unknown flag is none of its own."""
    faults = []
    last_was_flag = False
    for word in words:
        if word.startswith("-"):
            instead = hint(word.split("=")[0].lstrip("-"), known, prefix="--") or "; --help lists them"
            faults.append(f"{word}: no such flag{instead}")
        elif not last_was_flag:
            faults.append(f"{word!r}: belongs to no flag; every setting is written --name value")
        last_was_flag = word.startswith("-")
    return faults


def given_names(argv: Sequence[str]) -> set[str]:
    """The settings that a command line and its --config file give a value. Raises UserError."""
    parsed = vars(build_parser({}, "").parse_known_args(list(argv))[0])
    path = parsed.pop("config", None)
    return {ALIASES.get(name, name) for name in (*parsed, *(_read_file(path) if path is not None else ()))}


def _from_wandb(given: Container[str], faults: list[str]) -> dict[str, Any]:
    """What wandb's own variables say of settings that are not given. They are recorded with the run, so that a job or
    a restart from another shell goes to the same place."""
    found: dict[str, Any] = {}
    for name, variable in WANDB_VARIABLES.items():
        value = wandb_mode() if name == "wandb_mode" else os.environ.get(variable, "").strip()
        if value and name not in given:
            found |= convert({name: value}, f"${variable}: ", faults)
    return found


def wandb_mode() -> str:
    """What $WANDB_DISABLED (of older scripts, and of HF Trainer) or else $WANDB_MODE asks for; empty: neither."""
    if os.environ.get("WANDB_DISABLED", "").strip().lower() in ("1", "true", "t", "yes", "y", "on"):
        return "disabled"
    asked = os.environ.get("WANDB_MODE", "").strip()
    return OLD_MODES.get(asked, asked)


def _read_file(path: str) -> dict[str, Any]:
    """The settings in a YAML file. Raises UserError."""
    text = settings_text(Path(path).expanduser(), f"--config {path}", "name a YAML file of settings")
    try:
        content = yaml.safe_load(text)
    except RecursionError:
        raise UserError(f"--config {path}: nested too deep; write a line `name: value` for each setting") from None
    except yaml.YAMLError as error:
        line = getattr(getattr(error, "problem_mark", None), "line", 0) + 1
        raise UserError(f"{path}:{line}: not YAML ({getattr(error, 'problem', 'unreadable')})") from None
    except ValueError as error:  # a value that YAML takes for a date that does not exist
        raise UserError(f"--config {path}: a value cannot be read ({error}); put it in quotes") from None
    if not isinstance(content, dict | None):
        raise UserError(f"--config {path}: must be a mapping of setting to value")
    return {str(key): value for key, value in (content or {}).items()}


def known_names() -> list[str]:
    """Names of flags, as they are typed behind the hyphens."""
    negated = [
        f"no-{name}" for name, field in settings().items() if "Switch" in str(field.type) and field.default is not False
    ]
    return [*settings(), *ALIASES, *FLAG_VALUES, "config", *negated]


def settings() -> dict[str, dataclasses.Field[Any]]:
    """The settings that a user may give, by name."""
    return {field.name: field for field in dataclasses.fields(RunConfig) if field.metadata["given"]}


def convert(values: Mapping[str, Any], where: str, faults: list[str]) -> dict[str, Any]:
    """Values as their settings' types, under the settings' own names; faults go to `faults`, each after `where`."""
    fields = settings()
    named: dict[str, Any] = {}
    keys: dict[str, str] = {}
    for key, value in values.items():
        name = ALIASES.get(key, key)
        if key in FLAG_VALUES:
            continue
        if name not in fields:
            faults.append(f"{where}{key}: no such setting{hint(key, [*fields, *ALIASES, *FLAG_VALUES])}")
        elif value is None and fields[name].default is not None:
            faults.append(f"{where}{key} None: needs a value")
        else:
            named[name], keys[name] = None if value == "" and fields[name].default is None else value, key
    try:
        RunConfig(**named)
    except ValidationError as error:
        for place, (_, wrong) in what_is_wrong(error).items():
            name = str(place[0])
            faults.append(f"{where}{keys[name]} {_shown(named.pop(name))}: {wrong}")
    config = RunConfig(**named)
    converted = {name: getattr(config, name) for name in named}
    converted |= {name: float(value) for name, value in converted.items() if fields[name].type == "Number"}
    converted |= {name: least for name, least in NONE.items() if converted.get(name, 1) <= 0}
    for key in FLAG_VALUES.keys() & values.keys():  # last: the order on the command line does not matter
        name, implied = FLAG_VALUES[key]
        if not isinstance(values[key], bool):
            faults.append(f"{where}{key} {_shown(values[key])}: must be true or false")
        elif values[key] and converted.setdefault(name, implied) != implied:
            faults.append(f"{where}{key} contradicts {name} {converted[name]}: give one of the two")
    return converted


def _shown(value: Any) -> str:
    return " ".join((value if isinstance(value, str) else shown(value, str)).split())
