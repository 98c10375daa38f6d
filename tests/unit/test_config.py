"""The settings as data, the checks over several of them, and the four batch numbers."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from harness.config import RunConfig, batch_plan, check, nearest
from harness.errors import UserError
from harness.validation import faults

VALID = RunConfig(task="t", model_name_or_path="org/encoder")
unhurried = settings(deadline=None)  # the machine may be busy


def faults_of(**changes: Any) -> list[str]:
    try:
        check(dataclasses.replace(VALID, **changes))
    except UserError as error:
        return str(error).split("\n")
    except ValidationError as error:
        return faults(error)
    return []


def test_dict_survives_json() -> None:
    config = RunConfig(task="t", train_splits=("train", "dev"), wandb_tags=("a",), learning_rate=3e-5)
    assert RunConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_dict_of_something_else_is_refused() -> None:
    with pytest.raises(ValidationError, match="architectures"):
        RunConfig.from_dict({"architectures": ["BertModel"]})


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(RunConfig)])
def test_every_setting_says_what_it_means(name: str) -> None:
    field = next(field for field in dataclasses.fields(RunConfig) if field.name == name)
    assert field.metadata["help"]


@pytest.mark.parametrize(
    "change", [{"seed": 13}, {"train_splits": ("train",)}, {"max_steps": 7}, {"own_task": {"name": "t"}}]
)
def test_what_a_result_depends_on_makes_another_run(change: dict[str, Any]) -> None:
    assert dataclasses.replace(VALID, **change).identity() != VALID.identity()


@pytest.mark.parametrize(
    "change",
    [
        {"output_dir": "x"},
        {"overwrite_output_dir": True},
        {"do_predict": True},
        {"logging_steps": 0},
        {"save_steps": 3},
        {"no_cuda": True},
        {"wandb_mode": "offline"},
        {"per_gpu_eval_batch_size": 7},
    ],
)
def test_what_a_result_does_not_depend_on_makes_the_same_run(change: dict[str, Any]) -> None:
    assert dataclasses.replace(VALID, **change).identity() == VALID.identity()


@pytest.mark.parametrize("name", ["data_dir", "model_name_or_path", "tokenizer_name", "revision", "ds_config"])
def test_what_names_an_input_counts_by_its_content(name: str) -> None:
    other = dataclasses.replace(VALID, **{name: "other"})
    assert other.identity() == VALID.identity() and other.identity(inputs=True) != VALID.identity(inputs=True)


def test_model_label_is_the_name_without_its_path() -> None:
    assert VALID.model_label == "encoder"


def test_valid_settings_pass() -> None:
    assert faults_of() == []


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"global_batch_size": 32, "gradient_accumulation_steps": 2}, "--global_batch_size"),
        ({"select": "best_dev", "eval_every_epoch": False}, "--select best_dev"),
        ({"max_steps": 0}, "nothing to train"),
        ({"num_train_epochs": 0.0}, "nothing to train"),
        ({"learning_rate": 0.0}, "learning_rate = 0.0: must be above 0"),
        ({"seed": 2**32}, "seed = 4294967296: must be below 4294967296"),
        ({"model_name_or_path": ""}, "--model_name_or_path"),
        ({"result_prefix": "../x"}, "result_prefix = '../x'"),
        ({"result_prefix": "a\\b"}, "result_prefix"),
    ],
)
def test_settings_that_exclude_each_other(changes: dict[str, Any], named: str) -> None:
    (fault,) = faults_of(**changes)
    assert fault.startswith(named)


def test_all_faults_come_at_once() -> None:
    assert len(faults_of(max_steps=0, global_batch_size=8, gradient_accumulation_steps=2, model_name_or_path="")) == 3
    assert len(faults_of(seed=-1, learning_rate=0.0, precision="int8", result_prefix="a/b")) == 4


def test_steps_may_stand_in_for_epochs() -> None:
    assert faults_of(max_steps=5, num_train_epochs=0.0) == []


@pytest.mark.parametrize("world", [1, 2, 3, 4])
def test_batch_without_a_global_size_grows_with_the_world(world: int) -> None:
    config = RunConfig(per_gpu_train_batch_size=8, gradient_accumulation_steps=3)
    assert dataclasses.astuple(batch_plan(config, world)) == (8, world, 3, 24 * world)


@pytest.mark.parametrize(
    ("total", "world", "micro", "accumulation"),
    [
        (32, 1, 32, 1),
        (32, 2, 16, 1),
        (32, 4, 8, 1),
        (96, 1, 32, 3),
        (96, 2, 24, 2),
        (96, 3, 32, 1),
        (96, 4, 24, 1),
        (37, 1, 1, 37),  # a prime above what a device takes: one example at a time
    ],
)
def test_global_size_derives_the_accumulation(total: int, world: int, micro: int, accumulation: int) -> None:
    plan = batch_plan(RunConfig(per_gpu_train_batch_size=32, global_batch_size=total), world)
    assert dataclasses.astuple(plan) == (micro, world, accumulation, total)


def test_world_that_cannot_hold_the_global_size_is_told_which_can() -> None:
    with pytest.raises(
        UserError, match="--global_batch_size 12 does not divide over 5 devices: use 1, 2, 3, 4, 6, 12 "
    ):
        batch_plan(RunConfig(global_batch_size=12), 5)


@unhurried
@given(limit=st.integers(1, 64), world=st.integers(1, 16), share=st.integers(1, 200))
def test_global_size_is_kept_within_the_device_limit(limit: int, world: int, share: int) -> None:
    plan = batch_plan(RunConfig(per_gpu_train_batch_size=limit, global_batch_size=share * world), world)
    assert plan.micro * plan.world * plan.accumulation == plan.total == share * world
    assert 1 <= plan.micro <= limit


@unhurried
@given(micro=st.integers(1, 64), world=st.integers(1, 16), accumulation=st.integers(1, 16))
def test_total_is_the_product(micro: int, world: int, accumulation: int) -> None:
    config = RunConfig(per_gpu_train_batch_size=micro, gradient_accumulation_steps=accumulation)
    assert batch_plan(config, world).total == micro * world * accumulation


@pytest.mark.parametrize(
    ("name", "offer"),
    [("learning_rte", "; did you mean --learning_rate?"), ("zzz", "")],
)
def test_nearest_name_is_offered_where_one_is_near(name: str, offer: str) -> None:
    assert nearest(name, ["learning_rate", "seed"], prefix="--") == offer
