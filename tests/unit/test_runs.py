"""The run folder: who may use it, what is removed from it, and the files in it."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from running import assert_user_error

import tasks
from harness import files, lock, run_folder, versions
from harness.config import RunConfig
from harness.errors import UserError
from harness.run_folder import RunFolder
from harness.task import Prediction

SCORES = {"score": 0.5, "metric": "accuracy", "loss": 1.0, "examples": 4}
DEV_ALONE = {"task": "mednli", "model": "m", "seed": 12, "data": "given", "scores": {"dev": SCORES}}
RESULT = {**DEV_ALONE, "scores": {"dev": SCORES, "test": SCORES}}


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    return RunConfig(
        task="t", model_name_or_path="m", output_dir=str(tmp_path / "run"), do_train=True, do_eval=True, do_predict=True
    )


@pytest.fixture
def folder(config: RunConfig) -> RunFolder:
    """The folder of a run that has begun: it has figures."""
    run_folder.prepare(config)
    begun = RunFolder(Path(config.output_dir))
    begun.metrics.write_text('{"kind": "step"}\n')
    return begun


def other(config: RunConfig, **changes: Any) -> RunConfig:
    return dataclasses.replace(config, **changes)


def fill(folder: RunFolder, prefix: str = "") -> list[Path]:
    """Every file that a run may leave, in folders whose records list them; returns those files."""
    wandb, step = "wandb/offline-run-20260101_000000-abc123", "checkpoints/step-0001-000000"
    inner = [
        *(f"{wandb}/{name}" for name in ("run-abc123.wandb", "run-abc123.wandb.synced", "logs/debug-core.log")),
        *(f"{wandb}/files/{name}" for name in ("requirements.txt", "wandb-summary.json", "media/table/x.table.json")),
        *("wandb/rows_closed", "wandb/debug.log", "wandb/artifacts/staging/tmpab/x"),
        *(f"{step}/{name}" for name in ("engine.safetensors", "rng-0.pt", "of-later/new")),
        # torn: without a list
        *(f"checkpoints/step-0002-000000/{name}" for name in ("engine.json", "engine-0.safetensors", "rng-12.pt")),
        "checkpoints/.step-0003-000000.partial/engine.safetensors",
        "checkpoints/best-0123456789abcdef.safetensors",
        *("predictions/dev.tsv", "predictions/test_probabilities.tsv", "predictions/.dev.tsv.abcd1234.partial"),
        *(f"model/{name}" for name in ("config.json", "model.safetensors", "code.py", ".README.md.abcd1234.partial")),
    ]
    lists = {
        "model/harness_head.json": {"files": ["config.json", "model.safetensors", "code.py", "README.md"]},
        f"{step}/state.json": {"files": {"engine.safetensors": 1, "rng-0.pt": 1, "of-later/new": 1}},
    }
    for name in (set(run_folder.OWN_FILES) - {"config.json", "result.json"}) | {
        f"{prefix}{n}" for n in run_folder.ORIGINAL_FILES
    }:
        files.write(folder.path / name, "x")
    files.write(folder.wandb_id, "abc123\n")
    for name in inner:
        files.write(folder.path / name, "x")
    for name, content in lists.items():
        files.write(folder.path / name, json.dumps(content))
    (folder.wandb / "latest-run").symlink_to(wandb.removeprefix("wandb/"))
    run_folder.write_result(folder, RESULT)
    return [path for path in folder.path.rglob("*") if not path.is_dir()]


class TestPrepare:
    def test_fresh_folder_is_made_with_its_parents(self, config: RunConfig, tmp_path: Path) -> None:
        run_folder.prepare(other(config, output_dir=str(tmp_path / "a" / "b")))
        assert (tmp_path / "a" / "b" / "predictions").is_dir()

    def test_fresh_run_has_no_result(self, config: RunConfig) -> None:
        assert run_folder.prepare(config) is None

    def test_settings_are_written_whole(self, config: RunConfig, folder: RunFolder) -> None:
        assert RunConfig.from_dict(json.loads(folder.config.read_text())) == config

    def test_same_run_is_taken_up(self, config: RunConfig, folder: RunFolder) -> None:
        (folder.path / "metrics.jsonl").write_text("kept")
        assert run_folder.prepare(config) is None
        assert folder.metrics.read_text() == "kept"

    def test_same_run_is_taken_up_even_where_it_might_be_overwritten(
        self, config: RunConfig, folder: RunFolder
    ) -> None:
        folder.metrics.write_text("kept")
        run_folder.prepare(other(config, overwrite_output_dir=True))
        assert folder.metrics.read_text() == "kept"

    def test_finished_run_returns_its_result(self, config: RunConfig, folder: RunFolder) -> None:
        run_folder.write_result(folder, RESULT)
        assert run_folder.prepare(config) == RESULT

    def test_finished_run_that_lacks_what_is_asked_now_goes_on(self, config: RunConfig, folder: RunFolder) -> None:
        run_folder.write_result(folder, DEV_ALONE)
        assert run_folder.prepare(config) is None

    def test_finished_run_is_done_where_less_is_asked(self, config: RunConfig, folder: RunFolder) -> None:
        run_folder.write_result(folder, DEV_ALONE)
        assert run_folder.prepare(other(config, do_predict=False)) == DEV_ALONE

    def test_another_run_is_named_with_what_differs(self, config: RunConfig, folder: RunFolder) -> None:
        with pytest.raises(UserError, match=r"run: holds another run \(its seed is 12, yours 99\)"):
            run_folder.prepare(other(config, seed=99))

    def test_refused_run_leaves_everything(self, config: RunConfig, folder: RunFolder) -> None:
        fill(folder)
        before = sorted(folder.path.rglob("*"))
        with pytest.raises(UserError):
            run_folder.prepare(other(config, seed=99))
        assert sorted(folder.path.rglob("*")) == before

    @pytest.mark.parametrize("overwrite", [False, True])
    def test_foreign_folder_needs_a_word(self, config: RunConfig, overwrite: bool) -> None:
        Path(config.output_dir).mkdir()
        (Path(config.output_dir) / "thesis.tex").write_text("x")
        if overwrite:
            assert run_folder.prepare(other(config, overwrite_output_dir=True)) is None
        else:
            with pytest.raises(UserError, match="not empty and not a run of ours"):
                run_folder.prepare(config)
        assert (Path(config.output_dir) / "thesis.tex").read_text() == "x"

    @pytest.mark.parametrize("name", [".lock", ".config.json.partial"])
    def test_what_a_run_leaves_that_was_killed_at_once_is_not_foreign(self, config: RunConfig, name: str) -> None:
        Path(config.output_dir).mkdir()
        (Path(config.output_dir) / name).write_text("{")
        assert run_folder.prepare(config) is None

    @pytest.mark.parametrize(
        ("content", "beside"),
        [('{"architectures": ["BertModel"]}', None), ("[1]", None), ("null", None), ("{", "vocab.txt"), ("", "x")],
    )
    def test_settings_of_something_else_are_refused(self, config: RunConfig, content: str, beside: str | None) -> None:
        Path(config.output_dir).mkdir()
        (Path(config.output_dir) / "config.json").write_text(content)
        if beside is not None:
            (Path(config.output_dir) / beside).write_text("x")
        with pytest.raises(UserError, match=r"config\.json:1: not a run's settings"):
            run_folder.prepare(other(config, overwrite_output_dir=True))

    @pytest.mark.parametrize("content", ["{", "", "[]", "{}", '{"scores": 1}'])
    def test_broken_result_is_named(self, config: RunConfig, folder: RunFolder, content: str) -> None:
        folder.result.write_text(content)
        with pytest.raises(UserError, match=r"result\.json:1: not a run's result \(.*\); remove the file"):
            run_folder.prepare(config)

    def test_file_in_the_place_of_the_folder(self, config: RunConfig) -> None:
        Path(config.output_dir).write_text("x")
        with pytest.raises(UserError, match="cannot be written"):
            run_folder.prepare(config)


def record(folder: RunFolder) -> dict[str, str]:
    """What a start that came to nothing may leave; returns what must stay of it: path -> text."""
    files.write(folder.task_file, "of the start")
    files.write(folder.submission, "{}")
    files.write(folder.attempt, "{}")
    files.write(folder.wandb_id, "of the start")
    files.write(folder.path / ".lock", "process 1 on nowhere")
    files.write(folder.path / ".first-failure-abc", "")
    files.write(folder.path / ".config.json.partial", "{")
    files.write(folder.metrics, '{"kind": "st')  # cut short by a kill
    for name in ("checkpoints/.step-00000002.partial", "model"):
        (folder.path / name).mkdir(parents=True)
    stays = dict.fromkeys(("train.log", "submitit/9_0_log.out", "code/abc/COMMIT", "wandb/offline-run/x"), "kept")
    for name, text in stays.items():
        files.write(folder.path / name, text)
    return stays


class TestFailedStart:
    """A folder with the record of starts alone is nobody's run: a corrected command takes it over."""

    @pytest.mark.parametrize(
        "changes",
        [
            {"data_dir": "/corrected"},
            {"model_name_or_path": "other"},
            {"task": "u"},
            {"own_task": {"name": "t", "labels": ["a"]}},
            {"precision": "fp32", "result_prefix": "x_"},
            {"seed": 99, "overwrite_output_dir": True},
        ],
    )
    def test_is_taken_over(self, config: RunConfig, changes: dict[str, Any]) -> None:
        run_folder.prepare(config)
        folder = RunFolder(Path(config.output_dir))
        stays = record(folder)
        assert run_folder.prepare(corrected := other(config, **changes)) is None
        assert RunConfig.from_dict(json.loads(folder.config.read_text())) == corrected
        assert {name: (folder.path / name).read_text() for name in stays} == stays
        gone = (folder.task_file, folder.submission, folder.attempt, folder.wandb_id)  # of a run that is no more
        assert not [path for path in gone if path.exists()]

    def test_killed_before_its_settings_were_written(self, config: RunConfig) -> None:
        folder = RunFolder(Path(config.output_dir))
        record(folder)
        assert run_folder.prepare(config) is None and folder.config.is_file()

    @pytest.mark.parametrize(
        "content", ["", "{", "\0\0\0\0", '{"task": "t", "seed": 1, "output_dir": "x", "of_another_version": 1}']
    )
    def test_settings_that_cannot_be_read(self, config: RunConfig, content: str) -> None:
        run_folder.prepare(config)
        folder = RunFolder(Path(config.output_dir))
        folder.config.write_text(content)
        assert run_folder.prepare(other(config, seed=99)) is None
        assert RunConfig.from_dict(json.loads(folder.config.read_text())).seed == 99
        kept = folder.path / run_folder.UNREADABLE_CONFIG
        assert content.startswith('{"task"') or kept.read_text() == content  # nothing is lost that nobody could read
        assert run_folder.prepare(config) is None  # and the kept one is no stranger's file

    @pytest.mark.parametrize(
        "name",
        ["checkpoints/step-00000002/x", "result.json", "predictions/dev.tsv", "model/config.json", "test_results.txt",
         "notes.txt", "submitit.txt"],
    )  # fmt: skip
    def test_with_anything_else_in_it_is_a_run(self, config: RunConfig, name: str) -> None:
        run_folder.prepare(config)
        files.write(Path(config.output_dir) / name, "x")
        assert_user_error(lambda: run_folder.prepare(other(config, seed=99)), "holds another run", "its seed is 12")
        assert (Path(config.output_dir) / name).read_text() == "x"

    @pytest.mark.parametrize("overwrite", [False, True])
    def test_of_a_submission_that_waits_is_not(self, config: RunConfig, overwrite: bool) -> None:
        run_folder.prepare(config)
        before = RunFolder(Path(config.output_dir)).config.read_text()
        corrected = other(config, seed=99, overwrite_output_dir=overwrite)
        assert_user_error(lambda: run_folder.prepare(corrected, lambda _: "queued, job 7"), "(queued, job 7)", "cancel")
        assert RunFolder(Path(config.output_dir)).config.read_text() == before
        assert run_folder.prepare(config, lambda _: "queued, job 7") is None  # the job itself begins

    def test_looked_at_nothing_is_made(self, config: RunConfig, tmp_path: Path) -> None:
        run_folder.prepare(config, dry=True)
        assert list(tmp_path.iterdir()) == []

    def test_of_two_that_want_it_the_second_is_told(self, config: RunConfig) -> None:
        run_folder.prepare(config)
        folder = RunFolder(Path(config.output_dir))
        with ExitStack() as first, ExitStack() as second:
            lock.acquire(folder, first)
            run_folder.prepare(other(config, seed=1))
            assert_user_error(lambda: lock.acquire(folder, second), "in use by process")


class TestOverwrite:
    def test_nothing_of_the_run_before_is_left(self, config: RunConfig, folder: RunFolder) -> None:
        fill(folder)
        run_folder.prepare(other(config, seed=99, overwrite_output_dir=True))
        assert sorted(path.name for path in folder.path.rglob("*")) == ["config.json", "predictions"]

    def test_settings_are_those_of_the_new_run(self, config: RunConfig, folder: RunFolder) -> None:
        new = other(config, seed=99, overwrite_output_dir=True)
        run_folder.prepare(new)
        assert RunConfig.from_dict(json.loads(folder.config.read_text())) == new

    def test_result_of_the_run_before_is_not_returned(self, config: RunConfig, folder: RunFolder) -> None:
        fill(folder)
        assert run_folder.prepare(other(config, seed=99, overwrite_output_dir=True)) is None

    def test_files_under_the_prefix_of_the_run_before_go_too(self, config: RunConfig) -> None:
        run_folder.prepare(other(config, result_prefix="old_"))
        path = Path(config.output_dir)
        fill(RunFolder(path), "old_")
        run_folder.prepare(other(config, seed=99, overwrite_output_dir=True))
        assert list(path.glob("old_*")) == []

    @pytest.mark.parametrize(
        "name",
        ["thesis.tex", "data/train.tsv", "my_eval_results.txt", "model.txt", "predictions/my.tsv",
         "predictions/a/dev.tsv", "checkpoints/notes", "checkpoints/best/x", "wandb/notes",
         "wandb/offline-run-20260101_000000-other/run-other.wandb",
         "wandb/offline-run-20260101_000000-abc123/files/notes", ".thesis.tex.abcd1234.partial"],
    )  # fmt: skip
    def test_foreign_file_survives(self, config: RunConfig, folder: RunFolder, name: str) -> None:
        """And of the run's own files none, however near."""
        own = fill(folder)
        files.write(folder.path / name, "mine")
        run_folder.prepare(other(config, seed=99, overwrite_output_dir=True))
        assert (folder.path / name).read_text() == "mine"
        assert [path for path in own if os.path.lexists(path)] == [folder.config]

    @pytest.mark.parametrize("resumed", [False, True])
    @pytest.mark.parametrize("name", ["model/notes", "model/a/config.json", "checkpoints/step-0001-000000/notes"])
    def test_foreign_file_in_what_is_replaced_whole(
        self, config: RunConfig, folder: RunFolder, name: str, resumed: bool
    ) -> None:
        fill(folder)
        folder.result.unlink()
        files.write(folder.path / name, "mine")
        before = sorted(folder.path.rglob("*"))
        line = config if resumed else other(config, seed=99, overwrite_output_dir=True)
        assert_user_error(lambda: run_folder.prepare(line), f"{name} in it is not of the run there", "move it away")
        assert sorted(folder.path.rglob("*")) == before

    def test_a_model_without_our_list_is_somebody_elses(self, config: RunConfig, folder: RunFolder) -> None:
        for name in ("config.json", "model.safetensors", "vocab.txt"):
            files.write(folder.model / name, "an encoder's")
        assert_user_error(
            lambda: run_folder.prepare(other(config, seed=99, overwrite_output_dir=True)),
            "model/config.json in it is not of",
        )

    def test_a_model_of_an_older_version(self, config: RunConfig, folder: RunFolder) -> None:
        for name in ("config.json", "model.safetensors", "vocab.txt", "tokenizer.json", "README.md"):
            files.write(folder.model / name, "x")
        files.write(folder.model / "harness_head.json", "{}")
        run_folder.prepare(other(config, seed=99, overwrite_output_dir=True))
        assert not folder.model.exists()

    @pytest.mark.parametrize("top", ["model", "checkpoints"])
    def test_links_are_not_followed(self, config: RunConfig, folder: RunFolder, tmp_path: Path, top: str) -> None:
        files.write(tmp_path / "theirs" / "harness_head.json", "{}")
        (folder.path / top).symlink_to(tmp_path / "theirs")
        assert_user_error(
            lambda: run_folder.prepare(other(config, seed=99, overwrite_output_dir=True)),
            f"{top} in it is not of the run",
        )
        assert (tmp_path / "theirs" / "harness_head.json").read_text() == "{}"

    def test_lists_cannot_name_what_lies_elsewhere(self, config: RunConfig, folder: RunFolder, tmp_path: Path) -> None:
        files.write(tmp_path / "victim", "x")
        files.write(folder.path / "thesis.tex", "x")
        names = ["../thesis.tex", "../../victim", str(tmp_path / "victim")]
        files.write(folder.model / "harness_head.json", json.dumps({"files": names}))
        files.write(folder.checkpoints / "step-0001-000000" / "state.json", json.dumps({"files": names}))
        run_folder.prepare(other(config, seed=99, overwrite_output_dir=True))
        assert (tmp_path / "victim").exists() and (folder.path / "thesis.tex").exists()

    @pytest.mark.parametrize(
        "name", ["train.log", "model/config.json", "predictions/x", "task.toml", "test_results.txt"]
    )
    def test_of_no_run_at_all_nothing_is_replaced(self, config: RunConfig, name: str) -> None:
        files.write(Path(config.output_dir) / name, "mine")
        files.write(Path(config.output_dir) / "thesis.tex", "mine")
        assert_user_error(
            lambda: run_folder.prepare(other(config, overwrite_output_dir=True)),
            f"holds a {name.split('/')[0]} that no run",
        )
        assert sorted(path.name for path in Path(config.output_dir).iterdir()) == sorted(
            [name.split("/")[0], "thesis.tex"]
        )

    def test_settings_go_last(self, config: RunConfig, folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
        """Killed on the way, the folder must not look like anything but the old run."""
        fill(folder)
        removed: list[str] = []
        unlink = Path.unlink
        monkeypatch.setattr(
            Path, "unlink", lambda path, **options: (removed.append(path.name), unlink(path, **options))
        )
        run_folder.prepare(other(config, seed=99, overwrite_output_dir=True))
        assert removed[-1] == "config.json"

    @pytest.mark.parametrize("task", ["biosses", "bc5cdr_chem", "mednli", "hoc"])  # one of each family
    @pytest.mark.parametrize("split", ["dev", "test"])
    def test_every_file_that_a_task_writes_is_known(self, task: str, split: str) -> None:
        known = tasks.get(task)
        examples = known.read(tasks.sample_dir(task), split)
        scores = [tuple(map(float, e.label)) if known.family == "multilabel" else None for e in examples]
        perfect = [Prediction(e.label, score) for e, score in zip(examples, scores, strict=True)]
        written = known.files(split, examples, perfect, known.metric(examples, perfect))
        assert written and set(written) <= set(run_folder.ORIGINAL_FILES)


class TestInputsInTheRunFolder:
    """What a run reads must not lie among what it replaces."""

    @pytest.mark.parametrize("how", ["make", "take over", "replace", "go on"])
    @pytest.mark.parametrize("flag", run_folder.INPUTS)
    def test_are_refused_before_anything_is_touched(
        self, config: RunConfig, flag: str, how: str, tmp_path: Path
    ) -> None:
        folder = RunFolder(Path(config.output_dir))
        files.write(folder.path / "theirs" / "config.json", "{}")
        link = tmp_path / "link"
        link.symlink_to(folder.path / "theirs")
        for value in (folder.path / "theirs", link):
            line = other(config, **{flag: str(value)}, overwrite_output_dir=True)
            if how in ("take over", "replace", "go on"):
                before = line if how == "go on" else other(config, seed=99)
                files.write(folder.config, json.dumps(before.to_dict()))
            if how == "replace":
                files.write(folder.metrics, "{}\n")
            kept = sorted(folder.path.rglob("*"))
            assert_user_error(
                lambda line=line: run_folder.prepare(line), f"--{flag} {value}: lies in the run's own", "name ano"
            )
            assert sorted(folder.path.rglob("*")) == kept

    def test_relative_and_linked_names_of_the_folder(
        self, config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        files.write(tmp_path / "run" / "enc" / "config.json", "{}")
        (tmp_path / "alias").symlink_to("run")
        for output, model in (("run", "alias/enc"), ("alias", "run/enc"), ("run/../run", "./run/enc"), ("run", "run")):
            line = other(config, output_dir=output, model_name_or_path=model, overwrite_output_dir=True)
            assert_user_error(lambda line=line: run_folder.prepare(line), f"--model_name_or_path {model}: lies in")

    @pytest.mark.parametrize("changes", [{"do_train": False}, {}])
    def test_of_a_run_that_replaces_nothing_are_taken(self, config: RunConfig, changes: dict[str, Any]) -> None:
        """One that is finished, or only scores."""
        line = other(config, model_name_or_path=f"{config.output_dir}/model", **changes)
        folder = RunFolder(Path(config.output_dir))
        files.write(folder.config, json.dumps(line.to_dict()))
        files.write(folder.model / "config.json", "{}")
        if not changes:
            run_folder.write_result(folder, RESULT)
        assert run_folder.prepare(line) == (None if changes else RESULT)

    def test_a_runs_own_copy_of_its_task_is_none(self, config: RunConfig, folder: RunFolder) -> None:
        files.write(folder.task_file, "x")
        assert run_folder.prepare(other(config, task_file=str(folder.task_file))) is None

    def test_beside_it_or_around_it_they_may_lie(self, config: RunConfig, folder: RunFolder, tmp_path: Path) -> None:
        files.write(tmp_path / "run-data" / "x", "x")
        line = other(config, data_dir=str(tmp_path), config_name=str(tmp_path / "run-data"), overwrite_output_dir=True)
        assert run_folder.prepare(line) is None


class TestLock:
    def test_second_holder_is_told_who_has_it(self, folder: RunFolder) -> None:
        with ExitStack() as first, ExitStack() as second:
            lock.acquire(folder, first)
            with pytest.raises(UserError, match=f"in use by process {os.getpid()} on "):
                lock.acquire(folder, second)

    def test_another_process_is_refused(self, folder: RunFolder) -> None:
        command = [
            "import sys, pathlib, contextlib",
            "from harness import lock, run_folder",
            "lock.acquire(run_folder.RunFolder(pathlib.Path(sys.argv[1])), contextlib.ExitStack())",
        ]
        with ExitStack() as stack:
            lock.acquire(folder, stack)
            line = [sys.executable, "-c", "\n".join(command), str(folder.path)]
            refused = subprocess.run(line, capture_output=True, text=True, check=False)
        assert "in use by process" in refused.stderr

    def test_is_free_again_afterwards(self, folder: RunFolder) -> None:
        for _ in range(2):
            with ExitStack() as stack:
                lock.acquire(folder, stack)
        assert folder.lock.read_text().startswith(f"process {os.getpid()} started ")

    def test_folder_is_made(self, tmp_path: Path) -> None:
        with ExitStack() as stack:
            lock.acquire(RunFolder(tmp_path / "a" / "b"), stack)
            assert (tmp_path / "a" / "b").is_dir()

    def test_folder_that_cannot_be(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("x")
        with pytest.raises(UserError, match="cannot be written"), ExitStack() as stack:
            lock.acquire(RunFolder(tmp_path / "file" / "run"), stack)


class TestFiles:
    def test_text_replaces_what_was_there(self, tmp_path: Path) -> None:
        for text in ("one", "two: ä"):
            files.write(tmp_path / "a" / "b.txt", text)
        assert (tmp_path / "a" / "b.txt").read_text(encoding="utf-8") == "two: ä"

    def test_nothing_is_left_beside_it(self, tmp_path: Path) -> None:
        files.write(tmp_path / "b.txt", "one")
        assert [path.name for path in tmp_path.iterdir()] == ["b.txt"]

    def test_killed_on_the_way_the_old_text_stays(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        files.write(tmp_path / "b.txt", "one")

        def killed(*names: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            files.write(tmp_path / "b.txt", "two")
        assert (tmp_path / "b.txt").read_text() == "one"

    def test_threads_that_write_one_file(self, tmp_path: Path) -> None:
        path, texts, faults = tmp_path / "b.txt", ("one" * 5000, "two" * 7000), []
        files.write(path, texts[0])

        def work(text: str) -> None:
            try:
                for _ in range(300):
                    files.write(path, text)
                    assert path.read_text() in texts
            except BaseException as error:
                faults.append(error)

        threads = [threading.Thread(target=work, args=(text,)) for text in texts]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert faults == [] and [found.name for found in tmp_path.iterdir()] == ["b.txt"]

    def test_processes_that_write_one_file(self, tmp_path: Path) -> None:
        path, texts = tmp_path / "b.txt", ("one" * 5000, "two" * 7000)
        code = "import sys, pathlib; from harness import files\n"
        code += "for _ in range(300): files.write(pathlib.Path(sys.argv[1]), sys.argv[2])"
        started = [subprocess.Popen([sys.executable, "-c", code, str(path), text]) for text in texts]
        while any(process.poll() is None for process in started):
            assert not path.exists() or path.read_text() in texts
        assert [process.returncode for process in started] == [0, 0]
        assert [found.name for found in tmp_path.iterdir()] == ["b.txt"]

    def test_links_that_somebody_planted_overwrite_nothing(self, tmp_path: Path) -> None:
        victim = tmp_path / "victim"
        victim.write_text("kept")
        for name in ("b.txt", ".b.txt.partial"):
            (tmp_path / name).symlink_to(victim)
        files.write(tmp_path / "b.txt", "new")
        assert victim.read_text() == "kept" and (tmp_path / "b.txt").read_text() == "new"
        assert not (tmp_path / "b.txt").is_symlink()

    @pytest.mark.parametrize("name", [".lock", ".lease", "metrics.jsonl", "train.log"])
    def test_links_in_a_run_folder_are_refused(self, folder: RunFolder, tmp_path: Path, name: str) -> None:
        victim = tmp_path / "victim"
        victim.write_text("kept")
        (folder.path / name).unlink(missing_ok=True)
        (folder.path / name).symlink_to(victim)
        with ExitStack() as stack:
            assert_user_error(lambda: lock.acquire(folder, stack), str(folder.path), name, "link")
        assert lock.owner(folder) is None and victim.read_text() == "kept"

    def test_pipe_in_the_place_of_the_lock(self, folder: RunFolder) -> None:
        os.mkfifo(folder.lock)
        with ExitStack() as stack:
            assert_user_error(lambda: lock.acquire(folder, stack), ".lock in it is a link or no plain file")

    def test_what_killed_writers_left_goes_where_it_is_ours(self, folder: RunFolder) -> None:
        ours = [".config.json.abcd1234.partial", ".result.json.partial", "predictions/.dev.tsv.abcd1234.partial"]
        theirs = [".thesis.tex.abcd1234.partial", "result.json.partial", ".attempt.json.abcd1234.partial"]
        for name in (*ours, *theirs):
            (folder.path / name).write_text("x")
        (folder.path / ".train.log.partial").symlink_to(folder.config)
        with ExitStack() as stack:
            lock.acquire(folder, stack)
            assert [name for name in (*ours, *theirs) if (folder.path / name).exists()] == theirs
            assert (folder.path / ".train.log.partial").is_symlink()

    @pytest.mark.parametrize(
        ("name", "meant"),
        [(".a.json.abcd_123.partial", "a.json"), (".a.json.partial", "a.json"), ("a.json.partial", None), (".a", None)],
    )
    def test_unfinished(self, name: str, meant: str | None) -> None:
        assert files.unfinished(name) == meant

    def test_result_holds_no_nan(self, folder: RunFolder) -> None:
        with pytest.raises(ValueError, match="JSON compliant"):
            run_folder.write_result(folder, {"scores": {"dev": {"score": float("nan")}}})
        assert not folder.result.exists()

    def test_prefix_stands_before_original_names_alone(self) -> None:
        folder = RunFolder(Path("run"), "x_")
        assert (folder.original("test_results.txt"), folder.dev_results, folder.result) == (
            Path("run/x_test_results.txt"),
            Path("run/x_dev_results.txt"),
            Path("run/result.json"),
        )

    def test_predictions_have_a_file_a_split(self) -> None:
        assert RunFolder(Path("run")).prediction("dev") == Path("run/predictions/dev.tsv")


class TestProvenance:
    @pytest.mark.parametrize("name", ["python", "torch", "deepspeed", "transformers"])
    def test_versions(self, name: str) -> None:
        assert versions.installed()[name][0].isdigit()

    def test_commit_is_none_where_there_is_no_git(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PATH", "")
        assert versions.commit.__wrapped__() is None
