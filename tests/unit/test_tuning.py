"""launch/jobs/tuning.py and trials.py: spaces, what is proposed, started and chosen; harness/folds.py."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_up_runs import made_up
from running import assert_user_error, refused

import tasks
from harness import folds
from harness.config import RunConfig
from harness.errors import UserError
from harness.files import write
from harness.run_folder import RunFolder
from harness.task import Example
from launch import submit
from launch.jobs import status as job_status
from launch.jobs import suites, tuning
from launch.jobs import trials as job_trials
from launch.jobs.status import RunStatus, Status
from launch.jobs.tuning import Search, Tried, Values
from launch.run import inputs, settings


def suite_file(tmp_path: Path, text: str) -> suites.Suite:
    path = tmp_path / "mine.toml"
    path.write_text(f'models = ["some/encoder"]\n{text}')
    return suites.read(str(path))


def searches(tmp_path: Path, text: str, *flags: str) -> list[Search]:
    suite = suites.tuned(suite_file(tmp_path, text))
    runs, _ = suites.expand(suite, ["--output_dir", str(tmp_path / "out"), *flags])
    return tuning.searches(runs, suite.tunes, suites.fixed(suite, flags))


def tried(search: Search, values: Values, *dev: float, **about: Any) -> Tried:
    split = {"examples": 500, "metric": "accuracy", **about}
    return Tried(values, [RunStatus(Path("none"), "finished", result={"scores": {"dev": {**split, "score": one}}})
                          for one in dev])  # fmt: skip


def test_the_usual_space_is_published_rates_by_the_epochs_of_the_four_recipes(tmp_path: Path) -> None:
    found = {search.base[0].task: search.space for search in searches(tmp_path, 'tasks = ["mednli", "hoc", "medsts"]')}
    assert all(space["learning_rate"] == [3e-5, 4e-5, 5e-5] for space in found.values())
    assert found["mednli"]["num_train_epochs"] == [6, 7, 9, 15]  # from the tables in tasks/recipes.toml
    assert found["hoc"]["num_train_epochs"] == [5, 15] and found["medsts"]["num_train_epochs"] == [6, 9, 10]


def test_a_trial_trains_on_train_alone_with_seeds_of_its_own(tmp_path: Path) -> None:
    text = 'tasks = ["bc5cdr_disease", "mednli"]\nseeds = 3\n[tune]\nlearning_rate = [1e-5, 5e-5]\ntune_seeds = 2\n'
    both = searches(tmp_path, text + "num_train_epochs = [2]\n[tune.mednli]\nlearning_rate = [1e-4]\n")
    first, second = both
    assert [len(search.base) for search in both] == [3, 3] and len(first.grid) == 2 and len(second.grid) == 1
    trials = [trial for values in first.grid for trial in first.trials(values)]
    assert {trial.train_splits for trial in trials} == {("train",)}  # its recipe trains on train and dev
    assert {run.train_splits for run in first.base} == {("train", "dev")}
    assert {(trial.do_eval, trial.do_predict) for trial in trials} == {(True, False)}
    assert sorted((trial.learning_rate, trial.seed) for trial in trials) == [
        (1e-5, 1000), (1e-5, 1001), (5e-5, 1000), (5e-5, 1001)
    ]  # fmt: skip
    place = tmp_path / "out/bc5cdr_disease/encoder"
    assert trials[0].output_dir == str(place / "tune/learning_rate=1e-05,num_train_epochs=2/seed-1000")
    assert [run.output_dir for run in first.base] == [str(place / f"seed-{seed}") for seed in (12, 13, 14)]
    assert all(trial.search and trial.search["kind"] == "trial" for trial in trials)


def test_of_equal_scores_fewer_epochs_win_then_the_lower_rate(tmp_path: Path) -> None:
    text = 'tasks = ["mednli"]\n[tune]\nlearning_rate = [5e-5, 3e-5]\nnum_train_epochs = [9, 3]\n'
    (search,) = searches(tmp_path, text)

    def chosen(scores: dict[tuple[float, float], tuple[float, ...]]) -> tuple[float, float]:
        ended = [tried(search, v, *scores.get((v["learning_rate"], v["num_train_epochs"]), (0.5,)))
                 for v in search.grid]  # fmt: skip
        values = search.choice(ended)["values"]
        return values["learning_rate"], values["num_train_epochs"]

    assert chosen({(5e-5, 9): (0.9, 0.7), (3e-5, 9): (0.8, 0.81)}) == (3e-5, 9)  # the mean counts
    assert chosen({(5e-5, 9): (0.8,), (5e-5, 3): (0.8,), (3e-5, 9): (0.8,)}) == (5e-5, 3)
    assert chosen({}) == (3e-5, 3)


def test_what_is_chosen_says_what_it_rests_on(tmp_path: Path) -> None:
    (search,) = searches(tmp_path, 'tasks = ["i2b2_2010"]\nseeds = 2\n[tune]\nlearning_rate = [5e-5, 3e-5]\n')
    ended = [tried(search, values, 0.6 + place / 100, TP=4, FN=6) for place, values in enumerate(search.grid)]
    found = search.choice(ended)
    assert found["values"] == {"learning_rate": 3e-5} and found["dev"] == 0.61 and found["trials"] == 2
    assert found["space"] == {"learning_rate": [5e-5, 3e-5]} and found["seeds"] == [1000]
    assert found["basis"] == "dev, trained on train alone: 500 examples, 10 of them positive"
    assert "13.2 points (one standard error), and 2 of 2 settings" in found["warning"]  # p = 8.1 / 14
    assert search.choice([tried(search, values, 0.6) for values in search.grid])["warning"] == ""
    runs = search.chosen_runs(found)
    assert [(run.seed, run.learning_rate, run.search) for run in runs] == [(12, 3e-5, found), (13, 3e-5, found)]
    assert json.loads(json.dumps(found)) == found  # as config.json and result.json keep it


def test_standard_errors_are_those_of_the_textbook() -> None:
    assert tuning.standard_error(0.8, 17, "Pearson") == pytest.approx(0.09)  # (1 - 0.64) / sqrt(16)
    assert tuning.standard_error(0.5, 96, "micro F1") == pytest.approx(0.05)  # sqrt(0.25 / 100)
    assert tuning.standard_error(1.0, 12, "micro F1") == pytest.approx(0.0827, abs=1e-4)  # p = 14 / 16


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_a_kill_between_generations_changes_nothing(tmp_path: Path, sampler: str) -> None:
    """What is asked for next follows from what is on disk and the scores, in any process."""
    text = f'tasks = ["mednli"]\n[tune]\nsampler = "{sampler}"\ntrials = 12\nlearning_rate = [1e-5, 2e-5, 3e-5, 4e-5]\n'
    text += "num_train_epochs = [1, 2, 3]\nwarmup_steps = [0, 10]\n"

    def score(values: Values) -> float:
        return 0.9 - abs(values["learning_rate"] - 2e-5) * 1e4 + values["num_train_epochs"] / 100

    def run(restarts: bool) -> list[Values]:
        (search,) = searches(tmp_path, text)
        sizes, asked = [], search.recorded()
        while True:
            more = search.propose([tried(search, values, score(values)) for values in asked])
            if not more:
                assert sizes == [5, 5, 2]
                return asked
            sizes.append(len(more))
            asked = [*asked, *more]
            search.record(asked)
            if restarts:
                (search,) = searches(tmp_path, text)
                asked = search.recorded()

    one = run(restarts=False)
    (tmp_path / "out/mednli/encoder/tune/search.json").unlink()
    assert run(restarts=True) == one and len(one) == 12
    assert all(values not in one[:place] for place, values in enumerate(one))  # none of them twice


def test_tpe_learns_from_scores(tmp_path: Path) -> None:
    text = 'tasks = ["mednli"]\n[tune]\nsampler = "tpe"\ntrials = 25\nwarmup_steps = [' + ",".join(map(str, range(100)))
    (search,) = searches(tmp_path, text + "]\n")

    def later(best: int) -> float:
        asked: list[Values] = []
        while more := search.propose([tried(search, v, 1 - abs(v["warmup_steps"] - best) / 100) for v in asked]):
            asked += more
        return float(np.mean([abs(values["warmup_steps"] - best) for values in asked[10:]]))

    assert later(10) < 30 and later(80) < 30  # by chance about 41 and 34


def test_more_trials_than_settings_try_each_once(tmp_path: Path) -> None:
    text = 'tasks = ["mednli"]\n[tune]\nsampler = "random"\ntrials = 50\nlearning_rate = [1e-5, 2e-5, 3e-5]\n'
    (search,) = searches(tmp_path, text)
    asked = search.propose([])
    assert sorted(values["learning_rate"] for values in asked) == [1e-5, 2e-5, 3e-5]
    assert search.propose([tried(search, values, 0.5) for values in asked]) == []


def test_a_folder_with_another_search_is_refused(tmp_path: Path) -> None:
    text = 'tasks = ["mednli"]\n[tune]\nsampler = "random"\ntrials = 2\nlearning_rate = [1e-5, 2e-5, 3e-5]\n'
    (search,) = searches(tmp_path, text)
    search.record(search.propose([]))
    (other,) = searches(tmp_path, text.replace("3e-5", "4e-5"))
    assert_user_error(other.recorded, "holds a search over another space", "--output_dir")
    path = search.folder / "search.json"
    kept = json.loads(path.read_text())
    for asked in ([{}], [{"learning_rate": 0.5}], [{"learning_rate": 1e-5, "seed": 3}]):
        path.write_text(json.dumps({**kept, "asked": asked}))
        assert_user_error(search.recorded, "search.json", "outside its own space", "remove it")
    path.write_text("{")
    assert_user_error(search.recorded, "search.json", "remove it")


@pytest.mark.parametrize(
    "text, parts",
    [
        ('[tune]\nsampler = "tpe"\n', ["[tune]", "trials", "tpe"]),
        ("[tune]\nfolds = 1\n", ["folds 1", "at least 2"]),
        ("[tune]\nfolds = 2\npruning = true\n", ["pruning", "folds"]),
        ('[tune]\nsampler = "bayes"\n', ["sampler", "grid"]),
        ("[tune]\nlearning_rat = [1e-5]\n", ["learning_rat", "no such setting", "learning_rate"]),
        ('[tune]\nlearning_rate = ["fast"]\n', ["learning_rate", "fast"]),
        ("[tune]\nlearning_rate = []\n", ["learning_rate", "needs values"]),
        ("[tune]\nseed = [1, 2]\n", ["seed", "cannot be swept"]),
        ("[tune]\ntrain_splits = ['train']\n", ["train_splits", "cannot be swept"]),
        ("[tune.hoc]\nfolds = 5\n", ["[tune.hoc]", "not a task of this suite"]),
        ("[tune.mednli]\nfolds = -1\n", ["[tune.mednli]", "folds"]),
    ],
)
def test_what_cannot_be_is_said_in_one_line(tmp_path: Path, text: str, parts: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        suite_file(tmp_path, f'tasks = ["mednli"]\n{text}')
    assert all(part in str(caught.value) for part in parts) and "\n" not in str(caught.value), caught.value


def test_flags_that_leave_no_choice_are_refused(tmp_path: Path) -> None:
    text = 'tasks = ["mednli"]\n[tune]\nnum_train_epochs = [1, 2]\n'
    assert_user_error(lambda: searches(tmp_path, text, "--max_steps", "9"), "--max_steps 9", "num_train_epochs")
    assert_user_error(lambda: searches(tmp_path, text, "--do_eval"), "--tune", "--do_train")
    assert_user_error(lambda: searches(tmp_path, text, "--num_train_epochs=2"), "num_train_epochs", "is searched")
    usual = 'tasks = ["mednli"]\n[overrides.mednli]\nlearning_rate = 1e-5\n'
    assert {*searches(tmp_path, usual)[0].space} == {"num_train_epochs"}  # what is given is not searched
    assert_user_error(lambda: searches(tmp_path, usual, "--num_train_epochs", "2"), "--tune", "nothing is left")
    (tmp_path / "run.yaml").write_text("learning_rate: 1e-5\n")
    assert {*searches(tmp_path, 'tasks = ["mednli"]\n', "--config", str(tmp_path / "run.yaml"))[0].space} == {
        "num_train_epochs"
    }
    for part, *said in (
        ('ds_config = ["a/one.json", "b/one.json"]', "share a folder"),
        ('recipe = ["oubiobert", "bluebert-p"]', "recipe", "several settings"),
        ("num_train_epochs = [0, 1]", "nothing to train"),
        ('class_weights = ["balanced", "w.toml"]', "class_weights", "--sweep"),
        ("trials = 3\nwarmup_steps = [0, 1, 2, 3]", "trials 3", "all 4 settings"),
        (f"learning_rate = [1e-5, 2e-5]\nwarmup_steps = {[*range(600)]}", "1200 runs"),
    ):
        assert_user_error(lambda part=part: searches(tmp_path, f'tasks = ["mednli"]\n[tune]\n{part}\n'), *said)
    seeds = 'tasks = ["mednli"]\nseeds = [999, 1000]\n'
    assert_user_error(lambda: searches(tmp_path, seeds), "--seeds", "1000")


def test_a_searched_value_is_completed_as_one_that_is_given(tmp_path: Path) -> None:
    def trial(part: str, *flags: str, task: str = "pubmedqa", **values: Any) -> RunConfig:
        (search,) = searches(tmp_path, f'tasks = ["{task}"]\n[tune]\n{part}\n', "--data_dir", "d", *flags)
        assert values in search.grid
        (found,), (chosen,) = search.trials(values), search.chosen_runs({"values": values})
        names = ("select", "warmup_steps", "warmup_ratio", "precision")
        assert [getattr(chosen, name) for name in names] == [getattr(found, name) for name in names]
        return found

    link, pubmed, lora = (("--recipe", name) for name in ("biolinkbert-base", "pubmedbert", "lora-decoder"))
    assert trial("early_stopping_patience = [2, 3]", early_stopping_patience=3).select == "best_dev"
    assert trial('early_stopping_patience = ["", 3]', early_stopping_patience=None).select == "last"
    found = trial("warmup_ratio = [0.1]", *link, warmup_ratio=0.1)
    assert (found.warmup_ratio, found.warmup_steps) == (0.1, 0)
    found = trial("warmup_steps = [100]", *pubmed, warmup_steps=100)
    assert (found.warmup_ratio, found.warmup_steps) == (0.0, 100)
    found = trial('ds_config = ["fp16_zero2"]', *lora, task="mednli", ds_config="fp16_zero2")
    assert found.precision == "auto"
    swept = suites.narrowed(suites.Suite(), "pubmedqa", ["m"], "1", ["warmup_ratio=0.1,0.2"])
    runs, _ = suites.expand(swept, [*link])
    assert [(run.warmup_ratio, run.warmup_steps) for run in runs] == [(0.1, 0), (0.2, 0)]
    for part, flags, said in (
        ("early_stopping_patience = [2]", ("--select", "last"), "--select best_dev"),
        ("warmup_ratio = [0.1]", ("--warmup_steps", "5"), "leave one out"),
        ("early_stopping_patience = [2]", ("--train_splits", "train,dev"), "give --train_splits train"),
    ):
        assert_user_error(lambda part=part, flags=flags: trial(part, *flags), said)


@pytest.mark.parametrize("part", ["label_smoothing = [0.0, 0.1]", 'class_weights = ["", "balanced"]'])
@pytest.mark.parametrize("sampler", ["", 'sampler = "random"\ntrials = 1\n'])
def test_what_the_task_cannot_have_is_not_searched(part: str, sampler: str, tmp_path: Path) -> None:
    text = f'tasks = ["medsts"]\n[tune]\n{sampler}{part}\n'
    assert_user_error(lambda: searches(tmp_path, text), part.split()[0], "medsts has no classes")


def test_the_example_of_the_documents_is_one(tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "docs/submitting.md").read_text()
    example = next(part for part in text.split("```toml\n") if part.startswith("[tune]")).split("```")[0]
    whole, biosses = searches(tmp_path, f'tasks = ["mednli", "biosses"]\n{example}')
    assert (whole.tune.sampler, whole.most(whole.space)) == ("tpe", 9) and biosses.tune.folds == 5


def test_within_a_wandb_sweep_nothing_is_tuned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_SWEEP_ID", "s")
    monkeypatch.setenv("WANDB_RUN_ID", "r")
    assert_user_error(lambda: searches(tmp_path, 'tasks = ["mednli"]\n'), "--tune", "wandb sweep")


def test_swept_values_are_the_space_of_a_search(tmp_path: Path) -> None:
    suite = suites.tuned(suites.narrowed(suite_file(tmp_path, 'tasks = ["mednli"]\n'), None, [], None,
                                         ["learning_rate=1e-5,2e-5"]))  # fmt: skip
    runs, _ = suites.expand(suite, [])
    (search,) = tuning.searches(runs, suite.tunes, {})
    assert len(runs) == 1 and search.space == {"learning_rate": [1e-5, 2e-5]}
    swept = suites.narrowed(suite_file(tmp_path, 'tasks = ["mednli"]\n'), None, [], None, ["learning_rate=1e-5,2e-5"])
    marks = [run.search for run in suites.expand(swept, [])[0]]
    assert marks == [{"kind": "sweep", "values": {"learning_rate": rate}} for rate in (1e-5, 2e-5)]


def test_a_search_is_printed_with_the_job_that_comes_after(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s.toml").write_text('tasks = ["mednli"]\n[tune]\nlearning_rate = [1e-4, 2e-4]\n')
    words = ["--suite", "s.toml", "--tune", "--seeds", "2", "--print"]
    assert submit.main([*words, "--cluster", "slurm", "--gpus_per_node", "0"]) == 0
    out, err = capsys.readouterr()
    assert "--array=0-1%2" in out and "--dependency=afterany:JOB" in out and 'cd "$BLUE_WORK_DIR"' in out
    assert "-m launch.submit --suite s.toml --tune --seeds 2 --cluster slurm --gpus_per_node 0" in out
    assert err.count("then, by what is chosen") == 2 and not (tmp_path / "runs").exists()


def test_without_tune_the_suite_file_says_that_its_space_is_not_used(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "s.toml").write_text('tasks = ["mednli"]\n[tune]\nlearning_rate = [1e-4, 2e-4]\n')
    submit.main(["--suite", str(tmp_path / "s.toml"), "--print", "--cluster", "local", "--gpus_per_node", "0"])
    out, err = capsys.readouterr()
    assert "[tune] is for --tune" in err and len(out.splitlines()) == 1


# ---- folds
def examples(*groups: str) -> list[Example]:
    return [Example(str(number), (f"text {number}",), "a", group) for number, group in enumerate(groups)]


@given(st.lists(st.integers(0, 12), min_size=3, max_size=60), st.integers(2, 5), st.booleans())
def test_folds_hold_each_example_once_and_keep_together_what_belongs_together(
    sizes: list[int], count: int, by_text: bool
) -> None:
    if by_text:  # pairs of sentences, which overlap in a sentence
        rows = [Example(str(n), (f"s{size}", f"t{n}"), 1.0) for n, size in enumerate(sizes)]
    else:
        rows = examples(*(f"d{size}" for size in sizes))
    if len(set(sizes)) < count:
        with pytest.raises(ValueError, match="fewer than"):
            folds.split(rows, 1, count)
        return
    parts = [folds.split(rows, number, count) for number in range(1, count + 1)]
    held_out = [example.id for _, part in parts for example in part]
    assert sorted(held_out, key=int) == [row.id for row in rows]
    for rest, part in parts:
        assert [row.id for row in rows] == sorted((e.id for e in (*rest, *part)), key=int) and rest and part
        assert all(int(a.id) < int(b.id) for some in (rest, part) for a, b in pairwise(some))
        keys = [{sizes[int(example.id)] for example in some} for some in (rest, part)]
        assert not keys[0] & keys[1]


def test_folds_of_equal_examples_differ_by_one_at_most() -> None:
    rows = [Example(str(n), (f"a {n}", f"b {n}"), 1.0) for n in range(80)]
    assert {len(folds.split(rows, number, 5)[1]) for number in range(1, 6)} == {16}


def test_no_folds_where_documents_are_not_known() -> None:
    """A relation's sentence comes again with other entities masked; sentences of one document are alike."""
    words = [Example(str(n), ("the", "cell", str(n)), ("O", "B", "O"), f"sentence-{n}") for n in range(10)]
    with pytest.raises(ValueError, match="of one document"):
        folds.split(words, 1, 2, per_word=True)
    with pytest.raises(ValueError, match="of one document"):
        folds.split(examples(*[""] * 10), 1, 2)


@pytest.mark.parametrize("text", ["0/5", "6/5", "1/1", "a/b", "2", "2/5/1", "1/0"])
def test_a_fold_that_cannot_be_is_refused(text: str) -> None:
    assert_user_error(lambda: settings.parse(["--task", "mednli", "--fold", text]), "--fold", "such as 2/5")


def test_a_fold_takes_no_splits() -> None:
    config, _ = settings.parse(["--task", "bc5cdr_disease", "--fold", " 2/5"])
    assert (config.fold, config.train_splits) == ("2/5", ("train",))
    line = ["--task", "bc5cdr_disease", "--fold", "2/5", "--train_splits", "train,dev"]
    assert_user_error(lambda: settings.parse(line), "--fold 2/5", "--train_splits")
    assert config.identity() != replace(config, fold="3/5").identity()


def test_a_fold_of_the_data(tmp_path: Path) -> None:
    config, _ = settings.parse(["--task", "biosses", "--fold", "2/5"])
    task = tasks.get("biosses")
    _, _, found = inputs.read_data(config, task, inputs.needed_splits(config, task))
    place = tasks.sample_dir("biosses")
    both = [*task.read(place, "train"), *task.read(place, "dev")]
    assert len(found["train"]) + len(found["dev"]) == len(both)
    assert len(found["dev"]) == pytest.approx(len(both) / 5, abs=1)
    assert [e.texts for e in found["test"]] == [e.texts for e in task.read(place, "test")]


# ---- what starts the trials
class Starting:
    """Takes the place of queues: trials end as `ends` says, by the number of their start."""

    def __init__(self, *ends: Status, **about: Any) -> None:
        self.ends, self.about = list(ends), about
        self.started: list[list[str]] = []

    def __call__(self, trials: Sequence[RunConfig], begin: Callable[[], None]) -> tuple[int, list[Path]]:
        begin()
        waiting = [trial for trial in trials if not RunFolder(Path(trial.output_dir)).result.is_file()]
        self.started.append([trial.output_dir for trial in waiting])
        for trial, end in zip(waiting, self.ends * len(waiting), strict=False):
            paths = RunFolder(Path(trial.output_dir))
            job_status.Submission("local", "1", str(paths.path / "submitit"), "here").write(paths.path)
            if end == "finished":
                made_up(paths.path, "mednli", search=trial.search)
                result = json.loads(paths.result.read_text())
                result |= {"model": trial.model_name_or_path, "seed": trial.seed}
                write(paths.result, json.dumps({**result, "scores": {"dev": result["scores"]["dev"]}}))
            else:
                job_status.write_attempt(paths.path, end, "said", **self.about)
            write(paths.config, json.dumps(trial.to_dict()))
        return int(any(end == "failed" for end in self.ends)), []


def two_rates(tmp_path: Path) -> Search:
    (search,) = searches(tmp_path, 'tasks = ["mednli"]\n[tune]\nlearning_rate = [1e-5, 2e-5]\n')
    return search


def test_a_trial_that_diverged_is_out_and_one_that_lacked_something_is_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    search = two_rates(tmp_path)
    outcome, ended = job_trials.run([search], Starting("finished", "failed", final=True))
    assert (outcome, ended) == (1, {}) and "goes on with its trials" in capsys.readouterr().err
    outcome, ended = job_trials.run([search], Starting("failed", final=True, diverged=True))
    assert [one.score is None for one in ended[search]] == [False, True]
    found = search.choice(ended[search])
    assert found["values"] == {"learning_rate": 1e-5} and "1 of 2 settings diverged" in found["warning"]


def test_what_was_cancelled_is_not_sent_again_by_a_job(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    search = two_rates(tmp_path)
    job_trials.run([search], Starting("finished", "stopped"))
    starting = Starting("finished")
    assert job_trials.run([search], starting, is_repeat=True) == (1, {}) and not starting.started
    assert "has stopped (said)" in capsys.readouterr().err
    outcome, ended = job_trials.run([search], starting)  # by a person it is
    assert (outcome, len(ended[search])) == (0, 2) and len(starting.started[0]) == 1


def test_a_search_that_is_stuck_does_not_keep_others_from_their_end(tmp_path: Path) -> None:
    one, other = searches(tmp_path, 'tasks = ["mednli", "hoc"]\n[tune]\nlearning_rate = [1e-5]\n')
    outcome, ended = job_trials.run([one, other], Starting("finished", "failed"))
    assert outcome == 1 and list(ended) == [one]


def test_a_file_that_is_no_trials_result_is_said(tmp_path: Path) -> None:
    search = two_rates(tmp_path)
    job_trials.run([search], Starting("finished"))
    path = Path(search.trials(search.grid[0])[0].output_dir) / "result.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "scores": {}}))
    assert_user_error(lambda: job_trials.run([search], Starting("finished")), "result.json", "no dev score")


def test_trials_of_other_settings_are_not_taken(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A folder's name says the searched values alone: the rest of the settings is compared, of finished trials too."""
    (tmp_path / "s.toml").write_text('tasks = ["mednli"]\n[tune]\nlearning_rate = [1e-5]\n')
    where = ["--output_dir", str(tmp_path / "out"), "--cluster", "local", "--gpus_per_node", "0"]
    line = ["--suite", str(tmp_path / "s.toml"), "--tune", *where]
    suite = suites.tuned(suites.read(line[1]))
    (search,) = tuning.searches(suites.expand(suite, where[:2])[0], suite.tunes, {})
    job_trials.run([search], Starting("finished"))
    err, _ = refused(submit.main, capsys, *line, "--weight_decay", "0.5")
    assert "holds another run" in err and "weight_decay" in err
    made_up(Path(search.base[0].output_dir), "mednli", search.base[0].model_name_or_path, flags=["--seed", "12"])
    err, _ = refused(submit.main, capsys, *line)
    assert "seed-12" in err and "holds another run" in err  # before the trials, not after them
