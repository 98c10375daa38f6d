"""Command line and file to settings, without a task registry: the recipe is a plain mapping here."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from harness import flags, synonyms
from harness.config import RunConfig
from harness.errors import UserError

RECIPE = {"learning_rate": 1e-3, "num_train_epochs": 9, "seed": 7, "model_name_or_path": "from-recipe"}
# The flags of the scripts of 2020, with the values that their shell scripts gave.
ORIGINAL = (
    "--do_train --do_eval --do_predict --task_name mednli --data_dir D --model_name_or_path M --output_dir O "
    "--learning_rate 3e-5 --num_train_epochs 6 --logging_steps 0 --save_steps 0 --model_type bert "
    "--max_seq_length 128 --per_gpu_train_batch_size 32 --per_gpu_eval_batch_size 32 "
    "--gradient_accumulation_steps 1 --seed 12 --do_lower_case --eval_every_epoch --overwrite_output_dir --fp16 "
    "--output_all_logits --max_steps -1 --weight_decay 0.0 --adam_epsilon 1e-8 --max_grad_norm 1.0 "
    "--warmup_steps 0 --result_prefix x_"
)
# Every flag of the four scripts, from their argument parsers: name -> a value, None for a switch.
OF_ALL_FOUR: dict[str, str | None] = {
    "data_dir": "D", "model_type": "bert", "model_name_or_path": "M", "task_name": "mednli", "output_dir": "O",
    "config_name": "C", "tokenizer_name": "T", "cache_dir": "H", "max_seq_length": "128", "do_train": None,
    "do_eval": None, "do_predict": None, "evaluate_during_training": None, "do_lower_case": None,
    "per_gpu_train_batch_size": "8", "per_gpu_eval_batch_size": "8", "gradient_accumulation_steps": "1",
    "learning_rate": "5e-5", "weight_decay": "0.0", "adam_epsilon": "1e-8", "max_grad_norm": "1.0",
    "num_train_epochs": "3.0", "max_steps": "-1", "warmup_steps": "0", "logging_steps": "500", "save_steps": "500",
    "eval_all_checkpoints": None, "no_cuda": None, "overwrite_output_dir": None, "overwrite_cache": None,
    "seed": "42", "fp16": None, "fp16_opt_level": "O1", "local_rank": "-1", "server_ip": "", "server_port": "",
    "use_tokenizer_config": None, "eval_every_epoch": None, "result_prefix": "p_",
}  # fmt: skip
SCRIPTS: dict[str, dict[str, str | None]] = {
    "run_sts": {},
    "run_multi_class_classifier": {},
    "run_multi_label_classifier": {"output_all_logits": None},
    "run_ner": {"labels": "L", "keep_accents": None, "strip_accents": None, "use_fast": None},
}
MEANING = {
    "do_train": True,
    "do_eval": True,
    "do_predict": True,
    "task": "mednli",
    "data_dir": "D",
    "model_name_or_path": "M",
    "output_dir": "O",
    "learning_rate": 3e-5,
    "num_train_epochs": 6.0,
    "logging_steps": 0,
    "save_steps": 0,
    "model_type": "bert",
    "max_seq_length": 128,
    "per_gpu_train_batch_size": 32,
    "per_gpu_eval_batch_size": 32,
    "gradient_accumulation_steps": 1,
    "seed": 12,
    "do_lower_case": True,
    "eval_every_epoch": True,
    "overwrite_output_dir": True,
    "precision": "fp16",
    "output_all_logits": True,
    "max_steps": -1,
    "weight_decay": 0.0,
    "adam_epsilon": 1e-8,
    "max_grad_norm": 1.0,
    "warmup_steps": 0,
    "result_prefix": "x_",
}


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the shell of whoever runs the tests says to wandb."""
    for name in ("WANDB_DISABLED", *flags.WANDB_VARIABLES.values()):
        monkeypatch.delenv(name, raising=False)


def recipe(given: Mapping[str, Any]) -> Mapping[str, Any]:
    return {**RECIPE, **given}


def parse(line: str) -> RunConfig:
    return flags.parse(shlex.split(line), recipe)[0]


def faults(line: str) -> list[str]:
    with pytest.raises(UserError) as caught:
        parse(line)
    return str(caught.value).split("\n")


@pytest.fixture
def in_file(tmp_path: Path) -> Callable[[str], str]:
    """Text -> the flags that name a file with it."""

    def write(text: str) -> str:
        path = tmp_path / "run.yaml"
        path.write_text(text, encoding="utf-8")
        return f"--task t --config {path}"

    return write


class TestPrecedence:
    def test_defaults_fill_what_nobody_names(self) -> None:
        assert parse("--task t").max_seq_length == RunConfig().max_seq_length

    def test_recipe_beats_defaults(self) -> None:
        assert parse("--task t").learning_rate == 1e-3

    def test_file_beats_recipe(self, in_file: Callable[[str], str]) -> None:
        assert parse(in_file("learning_rate: 2e-4\n")).learning_rate == 2e-4

    def test_flag_beats_file(self, in_file: Callable[[str], str]) -> None:
        assert parse(in_file("learning_rate: 2e-4\n") + " --learning_rate 3e-4").learning_rate == 3e-4

    def test_flag_leaves_the_rest_of_the_file(self, in_file: Callable[[str], str]) -> None:
        assert parse(in_file("learning_rate: 2e-4\nseed: 3\n") + " --learning_rate 3e-4").seed == 3

    def test_last_of_two_equal_flags_wins(self) -> None:
        assert parse("--task t --seed 1 --seed 2").seed == 2

    def test_flag_beats_fp16_of_the_file(self, in_file: Callable[[str], str]) -> None:
        assert parse(in_file("fp16: true\n") + " --precision fp32").precision == "fp32"

    def test_recipe_is_told_what_was_given_and_nothing_else(self, in_file: Callable[[str], str]) -> None:
        told: list[Mapping[str, Any]] = []

        def listen(given: Mapping[str, Any]) -> Mapping[str, Any]:
            told.append(dict(given))
            return recipe(given)

        flags.parse(shlex.split(in_file("seed: 3\n") + " --max_steps=4"), listen)
        assert told == [{"task": "t", "seed": 3, "max_steps": 4}]


class TestSpelling:
    @pytest.mark.parametrize("name", MEANING)
    def test_original_command_line_keeps_its_meaning(self, name: str) -> None:
        assert getattr(parse(ORIGINAL), name) == MEANING[name]

    def test_original_command_line_needs_no_note(self) -> None:
        assert flags.parse(ORIGINAL.split(), recipe)[1] == []

    @pytest.mark.parametrize("line", ["--task=t --seed=5", "--task_name t --seed 5", "--task_name=t --seed 5.0"])
    def test_equals_sign_and_alias(self, line: str) -> None:
        assert (parse(line).task, parse(line).seed) == ("t", 5)

    @pytest.mark.parametrize("flag", ["--max_steps -1", "--max_steps=-1"])
    def test_negative_number(self, flag: str) -> None:
        assert parse(f"--task t {flag}").max_steps == -1

    def test_alias_in_the_file(self, tmp_path: Path) -> None:
        (tmp_path / "run.yaml").write_text("task_name: t\n")
        assert parse(f"--config {tmp_path / 'run.yaml'}").task == "t"

    @pytest.mark.parametrize("rank", ["--local_rank=0", "--local_rank 1", "--local-rank=0"])
    def test_rank_of_the_launcher_is_passed_over_without_a_word(self, rank: str) -> None:
        assert flags.parse(shlex.split(f"{rank} --task t"), recipe)[1] == []

    def test_switch_can_be_turned_off(self) -> None:
        assert parse("--task t --no-eval_every_epoch").eval_every_epoch is False

    @pytest.mark.parametrize("value", ["'a, b'", "a,b", "a,,b,"])
    def test_list_is_text_with_commas(self, value: str) -> None:
        assert parse(f"--task t --wandb_tags {value}").wandb_tags == ("a", "b")

    def test_list_of_the_file(self, in_file: Callable[[str], str]) -> None:
        assert parse(in_file("train_splits: [train, dev]\n")).train_splits == ("train", "dev")

    @pytest.mark.parametrize("name", ["data_dir", "model_name_or_path", "output_dir", "ds_config", "feature_cache"])
    def test_home_folder(
        self, name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, in_file: Callable[[str], str]
    ) -> None:
        monkeypatch.setenv("HOME", "/home/me")
        assert getattr(parse(f"--task t --{name}=~/x"), name) == "/home/me/x"  # a shell leaves it as it is
        assert getattr(parse(in_file(f"{name}: ~/x\n")), name) == "/home/me/x"

    def test_number_that_yaml_takes_for_text(self, in_file: Callable[[str], str]) -> None:
        assert parse(in_file("adam_epsilon: 1e-6\n")).adam_epsilon == 1e-6

    @pytest.mark.parametrize("line", ["num_train_epochs: 3\n", "num_train_epochs: '3'\n", "num_train_epochs: 3.0\n"])
    def test_number_is_recorded_alike_however_it_is_written(self, line: str, in_file: Callable[[str], str]) -> None:
        assert json.dumps(parse(in_file(line)).num_train_epochs) == "3.0"

    def test_number_beyond_any_is_one_line(self, in_file: Callable[[str], str]) -> None:
        assert faults(in_file(f"seed: 0x{'f' * 5000}\n"))[0].endswith(
            "seed (a huge number): is no number that a run can have"
        )

    def test_empty_file_changes_nothing(self, in_file: Callable[[str], str]) -> None:
        assert parse(in_file("# nothing\n")) == parse("--task t")

    @pytest.mark.parametrize("name", sorted(flags.RETIRED.keys() - {"local_rank"}))
    def test_retired_flag_is_noted(self, name: str) -> None:
        (note,) = flags.parse(shlex.split(f"--{name} --task t"), recipe)[1]
        assert note.startswith(f"--{name} has no effect")

    def test_retired_flag_takes_its_value_along(self) -> None:
        _, notes = flags.parse(shlex.split("--fp16_opt_level O1 --server_port=99 --task t"), recipe)
        assert len(notes) == 2

    def test_help_lists_every_setting(self, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit) as left:
            flags.parse(["--help"], recipe)
        text = capsys.readouterr().out
        assert left.value.code == 0
        assert [name for name in flags.settings() if f"--{name}" not in text] == []
        assert "--own_task" not in text


class TestOriginalScripts:
    @pytest.mark.parametrize("script", SCRIPTS)
    def test_every_flag_is_taken_or_said_to_do_nothing(self, script: str) -> None:
        given = OF_ALL_FOUR | SCRIPTS[script]
        words = [f"--{name}" if value is None else f"--{name}={value}" for name, value in given.items()]
        config, notes = flags.parse(words, recipe)
        named = {note.split()[0].lstrip("-") for note in notes}
        assert named == given.keys() & flags.RETIRED.keys() - {"local_rank"}
        for name, value in given.items():
            if name in flags.RETIRED or name in ("do_lower_case", "fp16"):
                continue
            kept = getattr(config, flags.ALIASES.get(name, name))
            assert kept is True if value is None else kept == type(kept)(value), name
        assert config.precision == "fp16"

    @pytest.mark.parametrize("value", ["-1", "0", "-5"])
    @pytest.mark.parametrize(("name", "kept"), [("save_steps", 0), ("logging_steps", 0), ("max_steps", -1)])
    def test_steps_of_zero_and_below_are_none(
        self, name: str, kept: int, value: str, in_file: Callable[[str], str]
    ) -> None:
        assert getattr(parse(f"--task t --{name}={value}"), name) == kept
        assert getattr(parse(in_file(f"{name}: {value}\n")), name) == kept

    @pytest.mark.parametrize("name", ["config_name", "tokenizer_name", "cache_dir"])
    def test_empty_text_is_as_if_not_given(self, name: str) -> None:
        assert parse(f"--task t --{name}=") == parse("--task t")

    @pytest.mark.parametrize("line", ["--do_lower_case --use_tokenizer_config", "--use_tokenizer_config"])
    def test_tokenizer_config_wins_over_casing(self, line: str) -> None:
        assert parse(f"--task t {line}").do_lower_case is None


class TestHelp:
    @pytest.fixture
    def text(self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> str:
        monkeypatch.setenv("COLUMNS", "200")
        with pytest.raises(SystemExit):
            flags.parse(["--help"], recipe, {"task": ("t1", "t2")}, "examples:\n  one\n")
        return capsys.readouterr().out

    def test_groups(self, text: str) -> None:
        groups = ("task and data:", "model:", "training:", "precision and devices:", "output:", "wandb:")
        places = [text.index(f"\n{group}\n") for group in groups]
        assert places == sorted(places)
        first = {"task and data:": "task", "model:": "model_name_or_path", "wandb:": "wandb_mode"}
        for group, name in first.items():
            assert text.index(f"\n{group}\n") < text.index(f"  --{name} X")
        assert text.index("--data_dir") < text.index("\nmodel:\n") < text.index("--config_name")
        assert text.index("\noutput:\n") < text.index("--save_steps") < text.index("\nwandb:\n")

    def test_defaults_values_and_examples(self, text: str) -> None:
        lines = {line.split()[0]: line for line in text.splitlines() if line.startswith("  --")}
        assert "folder's name or files (t1 | t2)" in text and text.endswith("examples:\n  one\n")
        assert lines["--max_seq_length"].endswith("[128]") and lines["--warmup_steps"].endswith("[0]")
        assert "(auto | fp16 | bf16 | fp32) [auto]" in lines["--precision"]
        assert "the recipe's" in lines["--learning_rate"] and "[" not in lines["--learning_rate"]

    def test_only_what_can_be_on_is_turned_off(self, text: str) -> None:
        offered = {word.rstrip(",") for word in text.split() if word.startswith("--no-")}
        assert offered == {
            "--no-do_train", "--no-do_eval", "--no-do_predict", "--no-do_lower_case", "--no-eval_every_epoch",
            "--no-cuda_graphs",
        }  # fmt: skip

    def test_flag_still_turns_off_what_the_file_has_on(self, in_file: Callable[[str], str]) -> None:
        assert parse(in_file("compile: true\n")).compile is True
        assert parse(in_file("compile: true\n") + " --no-compile").compile is False
        assert faults("--task t --no-no_cuda") == ["--no-no_cuda: no such flag; did you mean --no_cuda?"]


class TestSynonyms:
    @pytest.mark.parametrize(
        ("typed", "meant"),
        [
            ("lr", "learning_rate"),
            ("Learning-Rate", "learning_rate"),
            ("batch_size", "per_gpu_train_batch_size"),
            ("train-batch-size", "per_gpu_train_batch_size"),
            ("per_device_train_batch_size", "per_gpu_train_batch_size"),
            ("per_device_eval_batch_size", "per_gpu_eval_batch_size"),
            ("epochs", "num_train_epochs"),
            ("num_epochs", "num_train_epochs"),
            ("model", "model_name_or_path"),
            ("models", "model_name_or_path"),
            ("model_name", "model_name_or_path"),
            ("max_length", "max_seq_length"),
            ("max_len", "max_seq_length"),
            ("output", "output_dir"),
            ("bf16", "precision bf16"),
            ("fp32", "precision fp32"),
            ("wandb", "wandb_mode"),
            ("report_to", "wandb_mode"),
            ("run_name", "wandb_name"),
            ("deepspeed", "ds_config"),
            ("load_best_model_at_end", "select best_dev"),
            ("num_train", "num_train_epochs"),  # as argparse abbreviated for the original scripts
        ],
    )
    def test_name_of_others_is_known(self, typed: str, meant: str, in_file: Callable[[str], str]) -> None:
        assert faults(f"--task t --{typed} 1") == [f"--{typed}: no such flag; did you mean --{meant}?"]
        assert faults(in_file(f"{typed}: 1\n"))[0].endswith(f": {typed}: no such setting; did you mean {meant}?")

    def test_two_that_fit_are_both_offered(self) -> None:
        assert faults("--task t --dataset x")[0].endswith("did you mean --task or --data_dir?")

    @pytest.mark.parametrize(
        ("typed", "instead"),
        [
            ("dropout", "config.json"),
            ("optim", "AdamW"),
            ("resume_from_checkpoint", "the same command goes on"),
            ("gpus", "deepspeed --num_gpus N"),
            ("seeds", "launch/submit.py"),
        ],
    )
    def test_what_is_not_here_is_said(self, typed: str, instead: str, in_file: Callable[[str], str]) -> None:
        (flag,), (key,) = faults(f"--task t --{typed}"), faults(in_file(f"{typed}: 1\n"))
        assert flag.startswith(f"--{typed}: no such flag; ") and instead in flag
        assert f": {typed}: no such setting; " in key and instead in key

    def test_every_name_that_is_offered_exists_and_none_is_taken_twice(self) -> None:
        known = flags.known_names()
        of_others = {"model", "suite", "gpus_per_node", "nodes", "print", "out"}  # of launch/submit.py and report.py
        assert {text.split()[0] for text in synonyms.SAME} - {*known} == of_others
        for text, others in synonyms.SAME.items():
            if text.split()[0] in known:
                assert not {*others} & {*known}, text
                assert len(text.split()) == 1 or parse(f"--task t --{text}")


class TestWandbVariables:
    @pytest.mark.parametrize(
        ("variable", "value", "name", "kept"),
        [
            ("WANDB_PROJECT", "p", "wandb_project", "p"),
            ("WANDB_ENTITY", "e", "wandb_entity", "e"),
            ("WANDB_RUN_GROUP", "g", "wandb_group", "g"),
            ("WANDB_NAME", "n", "wandb_name", "n"),
            ("WANDB_TAGS", "a, b", "wandb_tags", ("a", "b")),
            ("WANDB_MODE", "offline", "wandb_mode", "offline"),
            ("WANDB_MODE", "dryrun", "wandb_mode", "offline"),
            ("WANDB_DISABLED", "true", "wandb_mode", "disabled"),
            ("WANDB_DISABLED", "false", "wandb_mode", None),
            ("WANDB_PROJECT", "", "wandb_project", "blue"),
        ],
    )
    def test_count_where_nothing_is_given(
        self, variable: str, value: str, name: str, kept: object, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv(variable, value)
        assert getattr(parse("--task t"), name) == kept

    def test_flag_beats_file_beats_variable(
        self, monkeypatch: pytest.MonkeyPatch, in_file: Callable[[str], str]
    ) -> None:
        monkeypatch.setenv("WANDB_PROJECT", "of-the-shell")
        monkeypatch.setenv("WANDB_DISABLED", "true")
        assert parse(in_file("wandb_project: f\n")).wandb_project == "f"
        assert parse(in_file("wandb_project: f\n") + " --wandb_project g").wandb_project == "g"
        assert parse("--task t --wandb_mode offline").wandb_mode == "offline"

    def test_are_not_part_of_what_a_run_is(self, monkeypatch: pytest.MonkeyPatch) -> None:
        before = parse("--task t").identity(inputs=True)
        for variable in flags.WANDB_VARIABLES.values():
            monkeypatch.setenv(variable, "offline")
        assert parse("--task t").identity(inputs=True) == before

    def test_wrong_value_is_said_unless_a_flag_wins(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("WANDB_MODE", "sometimes")
        assert faults("--task t")[0].startswith("$WANDB_MODE: wandb_mode sometimes: must be one of online, offline")
        assert parse("--task t --wandb_mode offline").wandb_mode == "offline"


class TestPhases:
    @pytest.mark.parametrize(
        ("line", "phases"),
        [
            ("", (True, True, True)),
            ("--do_train", (True, False, False)),
            ("--do_eval --do_predict", (False, True, True)),
            ("--no-do_predict", (True, True, False)),
            ("--do_eval --no-do_train", (False, True, False)),
        ],
    )
    def test_phases(self, line: str, phases: tuple[bool, bool, bool]) -> None:
        config = parse(f"--task t {line}")
        assert (config.do_train, config.do_eval, config.do_predict) == phases


class TestFaults:
    @pytest.mark.parametrize(
        ("line", "fault"),
        [
            ("", "--task is missing"),
            ("--task ''", "--task is missing"),
            ("--task t --learning_rte=1", "--learning_rte=1: no such flag; did you mean --learning_rate?"),
            ("--task t --learning 1", "--learning: no such flag"),  # no abbreviations
            ("--task t --qqqq", "--qqqq: no such flag"),
            ("--task t stray", "'stray': belongs to no flag"),
            ("--task t --seed", "argument --seed: expected one argument; --help"),
            ("--task t --seed x", "--seed x: must be a number"),
            ("--task t --seed 1.5", "--seed 1.5: must be a whole number"),
            ("--task t --seed -1", "--seed -1: must be at least 0"),
            ("--task t --keep_checkpoints -2", "--keep_checkpoints -2: must be at least 0"),
            ("--task t --learning_rate nan", "--learning_rate nan: must be a finite number"),
            ("--task t --num_train_epochs inf", "--num_train_epochs inf: must be a finite number"),
            (
                "--task t --precision fp61",
                "--precision fp61: must be one of auto, fp16, bf16, fp32; did you mean fp16?",
            ),
            ("--task t --train_splits train,test", "--train_splits train,test: must be one of train, dev"),
            ("--task t --learning_rate 0", "--learning_rate 0: must be above 0"),
            ("--task t --seed 4294967296", "--seed 4294967296: must be below 4294967296"),
            ("--task t --result_prefix ../x", "--result_prefix ../x: must be the start of a file name"),
            ("--task t --max_seq_length 7", "--max_seq_length 7: must be at least 8"),
            ("--task t --per_gpu_train_batch_size 0", "--per_gpu_train_batch_size 0: must be at least 1"),
            ("--task t --do_train=yes", "argument --do_train"),
            ("--task t --precision fp32 --fp16", "--fp16 contradicts precision fp32"),
            ("--task t --fp16 --precision bf16", "--fp16 contradicts precision bf16"),
            ("--task t --num_train_epochs 0", "nothing to train"),
            ("--task t --config /no/such.yaml", "--config /no/such.yaml: cannot be read"),
            ("--task t --config /", "--config /: cannot be read"),
        ],
    )
    def test_command_line(self, line: str, fault: str) -> None:
        assert any(found.startswith(fault) for found in faults(line))

    @pytest.mark.parametrize(
        ("text", "fault"),
        [
            ("seed: 1\nx: [\n", "{path}:3: not YAML"),
            ("seed: 1\n\tx: 2\n", "{path}:2: not YAML"),
            ("seed: \x01\n", "{path}:1: not YAML"),
            ("- seed\n", "--config {path}: must be a mapping"),
            ("just words\n", "--config {path}: must be a mapping"),
            ("wandb_group: 2020-13-45\n", "--config {path}: a value cannot be read (month must be in 1..12)"),
            ("sed: 3\n", "--config {path}: sed: no such setting; did you mean seed?"),
            ("config: other.yaml\n", "--config {path}: config: no such setting; did you mean config_name?"),
            ("seed: [1, 2]\n", "--config {path}: seed [1, 2]: must be a single value"),
            ("seed: yes\n", "--config {path}: seed True: must be a single value"),
            ("seed:\n", "--config {path}: seed None: needs a value"),
            ("learning_rate: .nan\n", "--config {path}: learning_rate nan: must be a finite number"),
            ("learning_rate: 2020-01-01\n", "--config {path}: learning_rate 2020-01-01: must be a number"),
            ("no_cuda: 1\n", "--config {path}: no_cuda 1: must be true or false"),
            ("fp16: 'yes'\n", "--config {path}: fp16 yes: must be true or false"),
            ("fp16: true\nprecision: fp32\n", "--config {path}: fp16 contradicts precision fp32"),
            ("wandb_tags: 2024\n", "--config {path}: wandb_tags 2024: must be a list"),
            ("wandb_tags: {a: 1}\n", "--config {path}: wandb_tags {'a': 1}: must be a list"),
        ],
    )
    def test_file(self, text: str, fault: str, in_file: Callable[[str], str]) -> None:
        line = in_file(text)
        (found,) = faults(line)
        assert found.startswith(fault.replace("{path}", line.split()[-1]))

    def test_file_that_is_not_utf8(self, tmp_path: Path) -> None:
        (tmp_path / "run.yaml").write_bytes(b"seed: \xff\n")
        assert "cannot be read" in faults(f"--task t --config {tmp_path / 'run.yaml'}")[0]

    def test_all_come_in_one_message(self, in_file: Callable[[str], str]) -> None:
        found = faults(in_file("sed: 3\n") + " --learning_rte=1 --seed x --precision int8")
        assert [fault.split()[-1].rstrip("?") for fault in found[:2]] == ["--learning_rate", "seed"]
        assert len(found) == 4

    def test_contradiction_needs_fp16_to_be_true(self, in_file: Callable[[str], str]) -> None:
        assert parse(in_file("fp16: false\nprecision: fp32\n")).precision == "fp32"
