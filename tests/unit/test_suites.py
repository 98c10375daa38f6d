"""launch/jobs/suites.py: names, files and flags to runs, each with a folder of its own."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

import tasks
from harness.errors import UserError
from launch import submit
from launch.jobs import suites
from launch.jobs.suites import Suite
from tasks import SUITES

ROOT = Path(__file__).resolve().parents[2]
OWN = """
tasks = ["blue-similarity", "hoc"]
models = ["some/encoder", "other/one"]
seeds = [3, 5]
[sweep]
learning_rate = [3e-5, 5e-5]
[overrides]
max_seq_length = 64
do_predict = false
[overrides.hoc]
max_seq_length = 256
train_splits = ["train", "dev"]
"""


def own(tmp_path: Path, text: str = OWN) -> Suite:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    return suites.read(str(path))


def test_named_suites_hold_tasks() -> None:
    assert SUITES["blue"] == tasks.BLUE and len(SUITES["blue-public"]) == 6
    assert all(set(names) <= set(tasks.TASKS) and names for names in SUITES.values())
    assert {tasks.get(name).family for name in SUITES["blue-ner"]} == {"tagging"}

    assert len(SUITES["blurb"]) == 13 and not set(SUITES["blurb"]) & set(tasks.BLUE)


def test_a_suite_by_name_brings_the_groups_of_its_total(tmp_path: Path) -> None:
    found = suites.read("blurb")
    assert len(found.total) == 6 and [*itertools.chain(*found.total.values())] == list(found.tasks)
    assert suites.read("blue").total == {}
    assert own(tmp_path, 'tasks = ["blurb"]\nmodels = ["m"]').total == found.total
    assert own(tmp_path, 'tasks = ["blurb", "mednli"]').total == {}
    given = own(tmp_path, 'tasks = ["pubmedqa", "bioasq"]\n[total]\n"Questions" = ["pubmedqa"]\n"Others" = ["bioasq"]')
    assert set(given.total) == {"Questions", "Others"}


def test_a_file_becomes_every_combination_once(tmp_path: Path) -> None:
    runs, _ = suites.expand(own(tmp_path), ["--output_dir", str(tmp_path / "out"), "--weight_decay", "0.1"])
    assert len(runs) == len({run.output_dir for run in runs}) == 3 * 2 * 2 * 2
    assert {(run.task, run.model_name_or_path, run.seed, run.learning_rate) for run in runs} == {
        (task, model, seed, rate)
        for task in ("medsts", "biosses", "hoc")
        for model in ("some/encoder", "other/one")
        for seed in (3, 5)
        for rate in (3e-5, 5e-5)
    }
    assert {run.max_seq_length for run in runs if run.task == "hoc"} == {256}
    assert {run.max_seq_length for run in runs if run.task != "hoc"} == {64}
    assert {run.train_splits for run in runs if run.task == "hoc"} == {("train", "dev")}
    assert {(run.do_predict, run.do_train, run.weight_decay, run.wandb_group) for run in runs} == {
        (False, True, 0.1, "mine")
    }
    assert str(tmp_path / "out/hoc/one/learning_rate=3e-05/seed-5") in {run.output_dir for run in runs}
    assert [run.seed for run in runs] == sorted(run.seed for run in runs)  # a whole table before the second seed


def test_the_example_of_decoders(tmp_path: Path) -> None:
    runs, _ = suites.expand(suites.read(str(ROOT / "docs" / "decoders.toml")), ["--output_dir", str(tmp_path)])
    assert len(runs) == 6 * 2 * 3 and {run.lora_rank for run in runs} == {12}
    for run in runs:
        assert (run.attention == "bidirectional") == (tasks.get(run.task).family == "tagging")
        assert run.gradient_checkpointing and run.pooling == ("mean" if run.task == "hoc" else None)


def test_flags_win_over_the_file(tmp_path: Path) -> None:
    suite = suites.narrowed(own(tmp_path), "hoc", ["new"], "2", [])
    runs, _ = suites.expand(suite, ["--max_seq_length", "32", "--wandb_group", "g"])
    assert {(run.task, run.model_label, run.max_seq_length, run.wandb_group) for run in runs} == {
        ("hoc", "new", 32, "g")
    }
    assert {run.seed for run in runs} == {12, 13}  # the published seed, and the next


def test_variables_of_wandb(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_RUN_GROUP", "g")
    monkeypatch.setenv("WANDB_NAME", "n")
    suite = suites.narrowed(suites.read("blue-re"), None, ["a/m"], "7", [])
    runs, notes = suites.expand(suite, [])
    assert {(run.wandb_group, run.wandb_name) for run in runs} == {("g", None)}
    assert len(notes) == 1 and notes[0].startswith("$WANDB_NAME is not used")
    assert {run.wandb_group for run in suites.expand(suite, ["--wandb_group", "f"])[0]} == {"f"}
    (one,), notes = suites.expand(Suite(several=False), ["--task", "mednli", "--model_name_or_path", "m"])
    assert (one.wandb_name, notes) == ("n", [])


def test_help_is_of_the_flags_of_this_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        submit.main(["--help"])
    text = capsys.readouterr().out
    assert all(f"--{name}" in text for name in ("suite", "seeds", "gpus_per_node", "profile", "print"))
    assert "--learning_rate" not in text and "python launch/train.py --help" in text


def test_folders_of_a_suite_without_an_output_folder() -> None:
    runs, _ = suites.expand(suites.narrowed(suites.read("blue-re"), None, ["a/m"], "7,9", []), [])
    assert {Path(run.output_dir).relative_to(Path.cwd()).as_posix() for run in runs} == {
        f"runs/sample/{task}/m/seed-{seed}" for task in SUITES["blue-re"] for seed in (7, 9)
    }


def test_one_run_is_where_it_always_was(tmp_path: Path) -> None:
    line = ["--task", "mednli", "--model_name_or_path", "m", "--output_dir", str(tmp_path / "run")]
    (run,), _ = suites.expand(Suite(several=False), line)
    assert (run.output_dir, run.wandb_group) == (str(tmp_path / "run"), None)


def test_a_series_of_checkpoints(tmp_path: Path) -> None:
    for name in ("step-10", "step-2", "step-100", "other"):
        (tmp_path / "ckpts" / name).mkdir(parents=True)
    (tmp_path / "ckpts" / "step-3").touch()  # no folder
    suite = suites.narrowed(Suite(several=False), None, [f"{tmp_path}/ckpts/step-*", "a/hub-name"], None, [])
    names = [f"{tmp_path}/ckpts/step-{step}" for step in (2, 10, 100)]
    assert ([*suite.models], suite.several) == ([*names, "a/hub-name"], True)
    runs, _ = suites.expand(suite, ["--task", "mednli", "--output_dir", str(tmp_path / "out")])
    assert [run.output_dir for run in runs[:2]] == [f"{tmp_path}/out/mednli/step-{step}/seed-12" for step in (2, 10)]
    one = suites.narrowed(Suite(several=False), None, [f"{tmp_path}/ckpts/other*"], None, [])
    assert one.several  # tomorrow it may be two
    assert not suites.narrowed(Suite(several=False), None, [f"{tmp_path}/ckpts/other"], None, []).several
    from_file = suites.narrowed(own(tmp_path, f'models = ["{tmp_path}/ckpts/step-*"]'), None, [], None, [])
    assert [*from_file.models] == names


def test_a_series_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--model .*/step-\*: no folder matches; give a pattern"):
        suites.narrowed(Suite(several=False), None, [f"{tmp_path}/step-*"], None, [])
    with pytest.raises(UserError, match=r"--suite mine: models: .*/step-\*: no folder matches"):
        suites.narrowed(own(tmp_path, f'models = "{tmp_path}/step-*"'), None, [], None, [])


def test_groups_of_a_total(tmp_path: Path) -> None:
    text = OWN + '[total]\n"Pairs" = ["blue-similarity"]\nDocuments = "hoc"\n'
    assert own(tmp_path, text).total == {"Pairs": ("medsts", "biosses"), "Documents": ("hoc",)}
    assert own(tmp_path).total == {}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('tasks = ["hoc"]\n[total]\na = ["mednli"]', "[total] mednli: not a task of this suite"),
        ('tasks = ["hoc"]\n[total]\na = "hoc"\nb = "hoc"', "[total] hoc: in two groups, or twice in one"),
        ('tasks = ["hoc", "mednli"]\n[total]\na = "hoc"', "[total] mednli: in no group; each task of the suite needs"),
        ('tasks = ["hoc"]\n[total]\na = 3', "total.a[0] = 3: must be text in quotes"),
        ('task = ["hoc"]', "task: no such key; did you mean tasks?"),
        ('tasks = ["hok"]', "unknown task 'hok'; did you mean 'hoc'?"),
        ("tasks = 3", "tasks[0] = 3: must be text in quotes"),
        (
            'tasks = ["hoc"]\n[overrides]\nlearning_rat = 1',
            "learning_rat: no such setting; did you mean learning_rate?",
        ),
        ('tasks = ["hoc"]\n[overrides]\nlr = 1', "[overrides] lr: no such setting; did you mean learning_rate?"),
        ('tasks = ["hoc"]\n[overrides.hoc]\nepochs = 1', "epochs: no such setting; did you mean num_train_epochs?"),
        ('tasks = ["hoc"]\n[sweep]\nbatch_size = [1]', "did you mean per_gpu_train_batch_size?"),
        ('tasks = ["hoc"]\n[overrides]\nfreeze_encoder = true', "did you mean freeze_layers?"),
        ('tasks = ["hoc"]\nlearning_rate = 1', "learning_rate: no such key; a run's settings stand in [overrides]"),
        ('tasks = ["hoc"]\n[overrides.hoc]\nseed = "x"', "[overrides.hoc] seed x: must be a number"),
        ('tasks = ["hoc"]\n[overrides.mednli]\nseed = 1', "[overrides.mednli]: not a task of this suite"),
        ('tasks = ["hoc"]\nseeds = ["a"]', "must be how many (5), or which (1,2,3)"),
        ('tasks = ["hoc"]\nseeds = 0', "must be how many (5), or which (1,2,3)"),
        ('tasks = ["hoc"]\n[sweep]\nsave_steps = [1, 2]', "save_steps: cannot be swept"),
        ('tasks = ["hoc"]\n[sweep]\nlearning_rate = ["x"]', "learning_rate x: must be a number"),
        ("tasks =", "not TOML"),
    ],
)
def test_faults_of_a_file(text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"mine\.toml") as error:
        own(tmp_path, text)
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--suite", "bleu"), "unknown suite 'bleu'; did you mean 'blue'?"),
        (("--suite", "no/such.toml"), "--suite no/such.toml: no such file; known by name: blue, "),
        (("--suite", "blue", "--task", "hoc"), "--task: the suite has its own; leave it out"),
        (("--suite", "blue-ner", "--tasks", "hoc"), "--tasks hoc: not in suite blue-ner"),
        (("--suite", "blue", "--data_dir", "/d"), "data_dir is one task's folder: set DATASET_DIR"),
        (("--suite", "blue", "--model", "a/x", "b/x"), "two runs of this suite would share the folder (a/x and b/x)"),
        (("--suite", "blue", "--seeds", "many"), "--seeds many: must be how many (5), or which (1,2,3)"),
        (
            ("--suite", "blue", "--sweep", "learning_rat=1"),
            "learning_rat: no such setting; did you mean learning_rate?",
        ),
        (("--suite", "blue", "--sweep", "learning_rate"), "learning_rate: needs values"),
        (("--suite", "blue", "--learning_rat", "1"), "--learning_rat: no such flag; did you mean --learning_rate?"),
        (("--seeds", "2"), "--task is missing"),
        (("--task", "hoc", "--models", "m"), "--models: no such flag; did you mean --model or --model_name_or_path?"),
        (("--task", "hoc", "--gpus", "2"), "--gpus: no such flag; did you mean --gpus_per_node?"),
        (("--task", "hoc", "--epochs", "2"), "--epochs: no such flag; did you mean --num_train_epochs?"),
        (("--task", "hoc", "--node", "2"), "--node: no such flag; did you mean --nodes?"),
        (("--task", "hoc", "--partition", "p"), "it stands in the file of --profile"),
    ],
)
def test_mistakes_are_said_before_anything_is_made(
    words: tuple[str, ...], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert submit.main([*words, "--cluster", "local", "--output_dir", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert said in error and "Traceback" not in error and not (tmp_path / "out").exists()


def test_print_lists_the_runs_and_the_array(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    words = ("--suite", "blue-ner", "--model", "m", "--seeds", "2", "--output_dir", str(out), "--print")
    assert submit.main(words) == 0
    shown = capsys.readouterr()
    assert "#SBATCH --array=0-5%6\n" in shown.out and "#SBATCH --job-name=blue-ner\n" in shown.out
    assert f"#SBATCH --output={out}/submitit/%A_%a_0_log.out\n" in shown.out
    assert str(out / "clefe/m/seed-13") in shown.err and not out.exists()
