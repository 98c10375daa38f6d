"""Flags and file to settings: defaults < recipe < file (`--config run.yaml`) < flags, every fault in one message."""

from __future__ import annotations

import argparse
import dataclasses
import math
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from harness import UserError
from harness.config import RunConfig, check, nearest

Complete = Callable[[Mapping[str, Any]], Mapping[str, Any]]
"""(what the user gave) -> the same with what the task's published recipe and the machine fill in."""

ALIASES = {"task_name": "task"}  # the original's spelling of a flag that is kept
FLAG_VALUES = {"fp16": ("precision", "fp16")}  # a flag that stands for a value of another
RETIRED = {  # flags of the original that have nothing left to do
    "evaluate_during_training": "dev is scored after every epoch",
    "eval_all_checkpoints": "every epoch's dev score is in metrics.jsonl",
    "overwrite_cache": "nothing stale is ever read",
    "fp16_opt_level": "DeepSpeed replaces apex; see --ds_config",
    "use_fast": "every tokenizer is a fast one",
    "use_tokenizer_config": "the tokenizer's own settings are the default",
    "server_ip": "attach any debugger to the process",
    "server_port": "attach any debugger to the process",
    "local_rank": "rank and world size come from the environment",
}


def parse(argv: Sequence[str], complete: Complete) -> tuple[RunConfig, list[str]]:
    """(settings, notes about retired flags). Raises UserError that lists every fault, a line each."""
    faults: list[str] = []
    flags = _read_flags(argv, faults)
    notes = [
        f"--{name} has no effect any more: {why}"
        for name, why in RETIRED.items()
        if name != "local_rank" and flags.pop(name, None) is not None
    ]
    flags.pop("local_rank", None)
    path = flags.pop("config", None)
    file = {} if path is None else _read_file(path, faults)
    given = convert(file, f"--config {path}: ", faults) | convert(flags, "--", faults)
    if not given.get("task") and not given.get("task_file"):
        faults.append("--task is missing: name one of the ten tasks, for example --task mednli, or a --task_file")
    if faults:
        raise UserError("\n".join(faults))
    config = RunConfig(**complete(given))
    check(config)
    return _resolve_phases(config), notes


def _resolve_phases(config: RunConfig) -> RunConfig:
    phases: dict[str, Any] = {name: getattr(config, name) for name in ("do_train", "do_eval", "do_predict")}
    unasked = not any(phases.values())  # then all three, but for what was forbidden (--no-do_predict)
    phases = {name: unasked if value is None else value for name, value in phases.items()}
    return dataclasses.replace(config, **phases)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> typing.NoReturn:
        raise UserError(f"{message}; --help lists the flags")


def build_parser() -> argparse.ArgumentParser:
    """All flags as text; types are checked afterwards, together with those of the file."""
    parser = _Parser(
        allow_abbrev=False, argument_default=argparse.SUPPRESS, description="Fine-tune one encoder on one task."
    )
    for field in settings().values():
        names = [f"--{field.name}"] + [f"--{alias}" for alias, name in ALIASES.items() if name == field.name]
        shown = f"{field.metadata['help']}" + (f" [{field.default}]" if field.default not in (None, "", ()) else "")
        shown += f" ({'|'.join(field.metadata['choices'])})" if field.metadata["choices"] else ""
        if "bool" in str(field.type):
            parser.add_argument(*names, action=argparse.BooleanOptionalAction, help=shown)
        else:
            parser.add_argument(*names, metavar="X", help=shown.replace("%", "%%"))
    parser.add_argument("--fp16", action="store_true", help="the same as --precision fp16")
    parser.add_argument("--config", metavar="FILE", help="YAML file of these settings; flags win over it")
    for name in RETIRED:
        parser.add_argument(f"--{name}", f"--{name.replace('_', '-')}", nargs="?", const="", help=argparse.SUPPRESS)
    return parser


def _read_flags(argv: Sequence[str], faults: list[str]) -> dict[str, Any]:
    flags, unknown = build_parser().parse_known_args(list(argv))
    last_was_flag = False
    for word in unknown:
        if word.startswith("-"):
            name = word.split("=")[0].lstrip("-")
            faults.append(f"{word}: no such flag{nearest(name, known_names(), prefix='--')}")
        elif not last_was_flag:  # else it is the value of the unknown flag
            faults.append(f"{word!r}: belongs to no flag; every setting is written --name value")
        last_was_flag = word.startswith("-")
    return vars(flags)


def _read_file(path: str, faults: list[str]) -> dict[str, Any]:
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        faults.append(f"--config {path}: cannot be read ({error}); name a YAML file of settings")
        return {}
    except yaml.YAMLError as error:
        where = getattr(getattr(error, "problem_mark", None), "line", 0) + 1
        faults.append(f"{path}:{where}: not YAML ({getattr(error, 'problem', 'unreadable')})")
        return {}
    except ValueError as error:  # a value that YAML takes for a date that does not exist
        faults.append(f"--config {path}: a value cannot be read ({error}); put it in quotes")
        return {}
    if content is None:
        return {}
    if not isinstance(content, dict):
        faults.append(f"--config {path}: must be a mapping of setting to value")
        return {}
    return {str(key): value for key, value in content.items()}


def known_names() -> list[str]:
    """Names that a flag or a file may use."""
    return [*settings(), *ALIASES, *FLAG_VALUES, "config"]


def settings() -> dict[str, dataclasses.Field[Any]]:
    """The settings that a user may give, by name."""
    return {field.name: field for field in dataclasses.fields(RunConfig) if field.metadata["given"]}


def convert(values: Mapping[str, Any], where: str, faults: list[str]) -> dict[str, Any]:
    """Values as their settings' types, under the settings' own names; faults go to `faults`, each after `where`."""
    hints = typing.get_type_hints(RunConfig)
    fields = settings()
    converted: dict[str, Any] = {}
    for key, value in values.items():
        if key in FLAG_VALUES:
            continue
        name = ALIASES.get(key, key)
        if name not in fields:
            faults.append(f"{where}{key}: no such setting{nearest(key, [*fields, *ALIASES, *FLAG_VALUES])}")
            continue
        try:
            converted[name] = _value(value, hints[name], fields[name])
        except ValueError as error:
            faults.append(f"{where}{key} {value}: {error}")
    for key in FLAG_VALUES.keys() & values.keys():  # last: the order on the command line does not matter
        name, implied = FLAG_VALUES[key]
        if not isinstance(values[key], bool):
            faults.append(f"{where}{key} {values[key]}: must be true or false")
        elif values[key] and converted.setdefault(name, implied) != implied:
            faults.append(f"{where}{key} contradicts {name} {converted[name]}: give one of the two")
    return converted


def _value(value: Any, hint: Any, field: dataclasses.Field[Any]) -> Any:
    """`value` as the field's type. Raises ValueError that says what would be right."""
    kinds = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if value is None:
        if type(None) in kinds:
            return None
        raise ValueError("needs a value")
    kind = next(k for k in kinds if k is not type(None))
    if typing.get_origin(kind) is tuple:
        if not isinstance(value, str | list):
            raise ValueError("must be a list, or text with commas")
        items = value.split(",") if isinstance(value, str) else value
        result: Any = tuple(str(item).strip() for item in items if str(item).strip())
    elif kind is bool:
        if not isinstance(value, bool):
            raise ValueError("must be true or false")
        result = value
    else:
        result = _scalar(value, kind)
    choices, least = field.metadata["choices"], field.metadata["least"]
    wrong = [item for item in (result if isinstance(result, tuple) else (result,)) if choices and item not in choices]
    if wrong:
        raise ValueError(f"must be one of {', '.join(choices)}{nearest(str(wrong[0]), choices)}")
    if least is not None and result < least:
        raise ValueError(f"must be at least {least:g}")
    return result


def _scalar(value: Any, kind: type) -> Any:
    if isinstance(value, bool | list | dict):
        raise ValueError("must be a single value")
    if kind is str:
        return str(value)
    try:
        number = float(value)
    except (TypeError, ValueError):  # a TypeError for a date of the YAML file
        raise ValueError("must be a number") from None
    if not math.isfinite(number):
        raise ValueError("must be a finite number")
    if kind is int:
        if number != int(number):
            raise ValueError("must be a whole number")
        return int(number)
    return number
