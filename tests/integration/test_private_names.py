"""Names that are not a library's public interface: all of ours are listed, and one that is gone is an error."""

from __future__ import annotations

import ast
import importlib
import json
import re
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from running import arguments, assert_user_error, run

from harness import private_names
from harness.errors import UserError

ROOT = Path(__file__).parents[2]
RECORD = ROOT / "tests" / "deepspeed_defaults.json"
# Of the standard library; of submitit, for --print alone; a mark on tensors of zeros, which change no norm without it.
OTHERS = {"_exit", "_current_frames", "_make_sbatch_string", "_zero_padding"}
TOP_LEVEL = {
    *("prescale_gradients", "gradient_predivide_factor", "gradient_allreduce_op", "managed_gradient_accumulation"),
    *("train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "gradient_clipping"),
}
ZERO = {"stage", "reduce_scatter", "contiguous_gradients", "overlap_comm", "round_robin_gradients"}
CONFIGS = sorted((ROOT / "ds_configs").glob("*.json"))


def private(tree: ast.AST) -> Iterator[str]:
    """Private names of things that are not a class's own."""
    for node in ast.walk(tree):
        name = ""
        if isinstance(node, ast.Attribute) and not (
            isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
        ):
            name = node.attr
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("getattr", "hasattr"):
            name = node.args[1].value if isinstance(node.args[1], ast.Constant) else ""
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and re.search(r"\._", node.module or ""):
            yield from (alias.name for alias in node.names)
        if re.match(r"_[a-z]", name):
            yield name


def test_every_private_name_is_listed() -> None:
    tables = (private_names.NAMES, private_names.OPTIMIZERS, private_names.PARAMETERS)
    listed = {name for table in tables for names in table.values() for name in names} | {*private_names.ENGINE}
    found: dict[str, str] = {}
    for folder in ("harness", "launch", "tasks"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            own = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)}
            fields = {node.target.id for node in ast.walk(tree)
                      if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)}  # fmt: skip
            found |= {name: path.name for name in private(tree) if name not in own | fields}
    assert {name: place for name, place in found.items() if name not in listed | OTHERS} == {}
    assert len(found) > 10


def test_all_are_there(caplog: pytest.LogCaptureFixture) -> None:
    private_names.check()
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("path", "name"), [(path, name) for path, names in private_names.NAMES.items() for name in names]
)
def test_a_missing_one_is_named(path: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module, _, inner = path.partition(":")
    owner = importlib.import_module(module)
    holder = getattr(owner, inner) if inner else owner
    for kind in getattr(holder, "__mro__", [holder]):  # it may be inherited
        if name in vars(kind):
            monkeypatch.delattr(kind, name)
    library = module.split(".")[0]
    said = f"{library} {metadata.version(library)}: {path.replace(':', '.')}.{name} is missing"
    assert_user_error(private_names.check, said, f"install a version that was tried ({library} ")


def test_a_missing_module_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(private_names.NAMES, "deepspeed.runtime.gone:Engine", ("step",))
    assert_user_error(private_names.check, "deepspeed.runtime.gone.Engine is missing")


@pytest.mark.parametrize(
    ("versions", "warned"),
    [
        ({"torch": "2.13.0+cpu", "transformers": "5.23.7"}, ""),
        ({"torch": "2.130.0"}, "torch 2.130.0 (tried: 2.13)"),
        ({"torch": "2.14.0", "deepspeed": "0.19.9"}, "torch 2.14.0 (tried: 2.13), deepspeed 0.19.9 (tried: 0.19.8)"),
        ({"transformers": "6.0.0.dev0"}, "transformers 6.0.0.dev0 (tried: 5.23)"),
    ],
)
def test_a_version_that_was_not_tried_is_one_warning(
    versions: dict[str, str], warned: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    installed = metadata.version
    monkeypatch.setattr(metadata, "version", lambda name: versions.get(name) or installed(name))
    private_names.check()
    expected = [f"This program was not tried with {warned}."] if warned else []
    assert [record.getMessage() for record in caplog.records] == expected


class Inner:
    """An engine as far as it is looked at."""

    module = optimizer = lr_scheduler = global_steps = skipped_steps = micro_steps = _global_grad_norm = None


def test_an_optimizer_of_an_unknown_kind_is_refused() -> None:
    """Its weights would be taken for plain ones."""
    inner = Inner()
    inner.optimizer = type("FP16_Optimizer2", (), {})()
    assert_user_error(lambda: private_names.check_engine(inner), "keeps weights in FP16_Optimizer2", "ds_configs/")
    inner.optimizer = type("FP16_UnfusedOptimizer", (), {"fp16_groups": []})()
    assert_user_error(lambda: private_names.check_engine(inner), "FP16_UnfusedOptimizer.fp32_groups is missing")


def test_training_does_not_start_without_a_name(
    tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(private_names.OPTIMIZERS, "AdamW", ("_renamed",))
    with pytest.raises(UserError, match=r"deepspeed's AdamW\._renamed is missing"):
        run(arguments("mednli", tiny_bert, tmp_path / "run", "--max_steps", "2"))
    assert not (tmp_path / "run" / "result.json").exists()


def test_every_dependency_has_an_upper_bound_and_what_is_installed_is_below() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    every = [*project["dependencies"], *(word for words in project["optional-dependencies"].values() for word in words)]
    exact = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
    pinned = {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in exact.items()}
    for requirement in map(Requirement, (words for words in every if not words.startswith(project["name"]))):
        assert {"<", "=="} & {part.operator for part in requirement.specifier}, requirement
        assert requirement.specifier.contains(pinned[re.sub(r"[-_.]+", "-", requirement.name).lower()]), requirement
    for name, tried in private_names.TRIED.items():
        assert pinned[name].startswith(tried)


# ---- DeepSpeed's settings
def defaults() -> dict[str, dict[str, Any]]:
    """Keys of the installed DeepSpeed and their defaults, by section of its JSON; "" is the top level."""
    from deepspeed.runtime import constants, precision_config
    from deepspeed.runtime.zero import config, offload_config
    from deepspeed.utils.config import DeepSpeedThroughputTimerConfig

    top = {value: getattr(constants, f"{name}_DEFAULT") for name, value in vars(constants).items()
           if isinstance(value, str) and hasattr(constants, f"{name}_DEFAULT")}  # fmt: skip
    models = {
        "timers.throughput": DeepSpeedThroughputTimerConfig,
        "fp16": precision_config.DeepSpeedFP16Config,
        "bf16": precision_config.DeepSpeedBF16Config,
        "zero_optimization": config.DeepSpeedZeroConfig,
        "zero_optimization.offload_optimizer": offload_config.DeepSpeedZeroOffloadOptimizerConfig,
        "zero_optimization.offload_param": offload_config.DeepSpeedZeroOffloadParamConfig,
    }
    found = {name: {field.alias or key: field.get_default(call_default_factory=True)
                    for key, field in model.model_fields.items()} for name, model in models.items()}  # fmt: skip
    as_json: dict[str, dict[str, Any]] = json.loads(json.dumps({"": top, **found}, default=str, sort_keys=True))
    return as_json


def record() -> None:
    """Write down the installed version's."""
    RECORD.write_text(json.dumps(defaults(), indent=1, sort_keys=True) + "\n")


def sections(settings: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str, Any]]:
    """(section, key, value) of every key of a JSON of ds_configs/."""
    for key, value in settings.items():
        if isinstance(value, dict):
            yield from sections(value, f"{prefix}.{key}".strip("."))
        else:
            yield prefix, key, value


def test_deepspeeds_settings_are_those_that_our_files_were_written_for() -> None:
    """The canary: lists each key that is new or gone, and each default that is another one.

    Look at each: what the files of ds_configs/ must keep is written out there. Then write the record anew:
    cd tests/integration && python -c "import test_private_names as t; t.record()"
    """
    record = json.loads(RECORD.read_text())
    now = defaults()
    differing = [
        f"{section}.{key}: was {record[section].get(key, 'not there')}, is {now[section].get(key, 'gone')}"
        for section in record
        for key in sorted({*record[section], *now[section]})
        if record[section].get(key, record) != now[section].get(key, now)
    ]
    assert differing == []


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_our_files_write_out_what_numbers_depend_on(path: Path) -> None:
    """No key there that DeepSpeed does not know, and in sections that change arithmetic none left to a default."""
    settings, known = json.loads(path.read_text()), defaults()
    written: dict[str, set[str]] = {}
    for section, key, _ in sections(settings):
        written.setdefault(section, set()).add(key)
        assert section == "torch_autocast" or key in known[section], (section, key)
    for section in {"fp16", "bf16"} & written.keys():
        assert written[section] == known[section].keys()
    assert written[""] >= TOP_LEVEL
    if settings["zero_optimization"]["stage"] > 0:
        assert written["zero_optimization"] >= ZERO
