"""Identity is content: what a run reads is what it read when it began, by any name; other is refused or said."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import own_files
import pytest
import torch
from encoders import tiny_encoder
from running import arguments, cut, refused, run, start_processes

from harness import distributed, lock, versions
from harness.ds import config as ds_config
from harness.run_folder import RunFolder
from launch import submit, train
from launch.run import inputs, settings, setup

PRECISION = ("--precision", "auto")


class Made:
    """A run of 2 steps with data, model and DeepSpeed JSON of its own, all below one folder."""

    def __init__(self, root: Path) -> None:
        self.root, self.folder = root, RunFolder(root / "run")
        self.data, self.model, self.ds = root / "data", root / "model", root / "ds.json"

    def line(self, *more: str) -> list[str]:
        given = {"--data_dir": self.data, "--ds_config": self.ds}
        words = [word for name, place in given.items() if name not in more for word in (name, str(place))]
        model = self.model
        if "--model_name_or_path" in more:
            model = Path(more[more.index("--model_name_or_path") + 1])
        return arguments("biosses", model, self.folder.path, "--max_steps", "2", *words, *more)

    def copy(self, root: Path) -> Made:
        """The same run as if it had been begun in another place."""
        shutil.copytree(self.root, root, dirs_exist_ok=True)
        made = Made(root)
        made.folder.config.write_text(made.folder.config.read_text().replace(str(self.root), str(root)))
        return made

    def unfinished(self) -> Made:
        self.folder.result.unlink()
        return self

    @property
    def record(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.folder.fingerprint.read_text())
        return found


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    base = Made(tmp_path_factory.mktemp("begun"))
    cut("biosses", base.data, 12)
    tiny_encoder(base.model)
    shutil.copy(ds_config.CONFIGS / "fp32.json", base.ds)
    run(base.line())
    return base


@pytest.fixture
def begun(made: Made, tmp_path: Path) -> Made:
    """Trained, and then killed before its result was written."""
    return made.copy(tmp_path / "begun").unfinished()


@pytest.fixture
def finished(made: Made, tmp_path: Path) -> Made:
    return made.copy(tmp_path / "finished")


def label(path: Path) -> None:
    """Another score for the first example."""
    lines = path.read_text().splitlines(keepends=True)
    score = float(lines[1].split("\t")[-1])
    lines[1] = lines[1].rpartition("\t")[0] + f"\t{4.0 - score if score != 2.0 else 1.0}\n"
    path.write_text("".join(lines))


def shorter(path: Path) -> None:
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))


def permuted(path: Path) -> None:
    """Two tokens with each other's ids."""
    values = json.loads(path.read_text())
    vocabulary = values["model"]["vocab"]
    vocabulary["the"], vocabulary["drug"] = vocabulary["drug"], vocabulary["the"]
    path.write_text(json.dumps(values))


def flipped(path: Path) -> None:
    """A byte of the last tensor."""
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)


def other_dropout(path: Path) -> None:
    path.write_text(path.read_text().replace('"hidden_dropout_prob": 0.0', '"hidden_dropout_prob": 0.5'))


EDITS: list[tuple[str, Callable[[Path], None]]] = [
    ("data/train.tsv", label),
    ("data/train.tsv", shorter),
    ("data/dev.tsv", label),
    ("data/test.tsv", label),
    ("model/tokenizer.json", permuted),
    ("model/tokenizer_config.json", lambda path: path.write_text(path.read_text().replace("true", "false", 1))),
    ("model/model.safetensors", flipped),
    ("model/config.json", other_dropout),
]


class TestWhatARunGoesOnWith:
    @pytest.mark.parametrize(("name", "edit"), EDITS, ids=[f"{name} {edit.__name__}" for name, edit in EDITS])
    def test_other_content_is_refused_by_name(
        self, name: str, edit: Callable[[Path], None], begun: Made, capsys: pytest.CaptureFixture[str]
    ) -> None:
        before = (begun.root / name).read_bytes()
        edit(begun.root / name)
        assert (begun.root / name).read_bytes() != before
        flag = "--data_dir" if name.startswith("data") else "--model_name_or_path"
        error, _ = refused(train.main, capsys, *begun.line())
        file = Path(name).name
        assert f"{flag} {begun.root / Path(name).parent}: {file} is not what it was when" in error
        assert "put that back" in error and "another --output_dir" in error and "--overwrite_output_dir" in error
        assert not begun.folder.result.exists()
        (begun.root / name).write_bytes(before)  # the remedy
        assert settings.prepare(settings.parse(begun.line())[0]) is None

    def test_a_file_more_makes_another_tokenizer(self, begun: Made, capsys: pytest.CaptureFixture[str]) -> None:
        (begun.model / "added_tokens.json").write_text('{"newtoken": 99}')
        assert "added_tokens.json is not what it was" in refused(train.main, capsys, *begun.line())[0]
        (begun.model / "added_tokens.json").unlink()
        (begun.model / "tokenizer.json").rename(begun.model / "kept.json")
        assert "tokenizer.json is not what it was" in refused(train.main, capsys, *begun.line())[0]

    def test_same_content_under_other_names_goes_on(self, begun: Made, tmp_path: Path) -> None:
        moved = {"--data_dir": begun.data, "--model_name_or_path": begun.model, "--ds_config": begun.ds}
        words = []
        for flag, place in moved.items():
            there = tmp_path / "elsewhere" / place.name
            there.parent.mkdir(exist_ok=True)
            place.rename(there)
            words += [flag, str(there)]
        assert settings.prepare(settings.parse(begun.line(*words))[0]) is None
        result = run(begun.line(*words, "--tokenizer_name", words[3]))
        assert "changes" not in result and begun.record["changes"] == []
        assert json.loads(begun.folder.config.read_text())["data_dir"] == words[1]

    @pytest.mark.parametrize("name", ["data/test.tsv", "model/model.safetensors"])
    @pytest.mark.parametrize("is_finished", [False, True])
    def test_other_content_under_another_name_is_another_run(
        self, name: str, is_finished: bool, made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        ours, other = made.copy(tmp_path / "ours"), made.copy(tmp_path / "other")
        if not is_finished:
            ours.unfinished()
        (label if name.startswith("data") else flipped)(other.root / name)
        place = (other.root / name).parent
        flag = "data_dir" if name.startswith("data") else "model_name_or_path"
        error, _ = refused(train.main, capsys, *ours.line(f"--{flag}", str(place)))
        assert f"holds another run (its {flag} is {ours.root / place.name}, yours {place}, with another" in error
        assert ours.folder.result.exists() == is_finished

    def test_name_of_nothing_is_another_run(self, begun: Made, capsys: pytest.CaptureFixture[str]) -> None:
        error, _ = refused(train.main, capsys, *begun.line("--model_name_or_path", str(begun.root / "no-such")))
        assert "holds another run (its model_name_or_path is" in error and "there is nothing of it" in error

    def test_sample_under_another_name_is_no_sample(
        self, tiny_bert: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        line = arguments("biosses", tiny_bert, tmp_path / "run", "--max_steps", "1")
        run(line)
        copy = cut("biosses", tmp_path / "data", 10**6)
        assert "its data_dir is None" in refused(train.main, capsys, *line, "--data_dir", str(copy))[0]

    def test_overwrite_starts_anew_on_other_content_alone(self, begun: Made) -> None:
        line = begun.line("--overwrite_output_dir")
        begun_at = begun.folder.metrics.read_text().splitlines()[0]
        assert settings.prepare(settings.parse(line)[0]) is None
        assert begun.folder.metrics.read_text().startswith(begun_at)
        before = begun.record["data"]
        label(begun.data / "train.tsv")
        run(line)
        assert not begun.folder.metrics.read_text().startswith(begun_at)
        assert begun.record["data"]["train"] != before["train"] and begun.record["data"]["dev"] == before["dev"]

    def test_nothing_computed_yet_may_begin_with_other_content(self, begun: Made) -> None:
        for path in (begun.folder.checkpoints, begun.folder.model, begun.folder.predictions):
            shutil.rmtree(path)
        begun.folder.metrics.write_text('{"kind": "st')  # cut short by a kill
        before = begun.record
        label(begun.data / "train.tsv")
        run(begun.line())
        assert begun.record["data"]["train"] != before["data"]["train"] and begun.record["changes"] == []

    def test_run_of_before_there_was_a_record_goes_on(self, begun: Made, capsys: pytest.CaptureFixture[str]) -> None:
        begun.folder.fingerprint.unlink()
        label(begun.data / "test.tsv")
        error, _ = refused(
            train.main, capsys, *begun.line("--data_dir", str(shutil.copytree(begun.data, begun.root / "d")))
        )
        assert "holds another run (its data_dir is" in error
        assert run(begun.line())["scores"].keys() == {"dev", "test"}
        assert not begun.folder.fingerprint.exists()  # what it began with nobody knows

    @pytest.mark.parametrize("text", ["{", "[]", "{}", '{"schema": 2}', '{"schema": 1, "data": []}', "[" * 5000])
    def test_damaged_record_is_one_line(self, text: str, begun: Made, capsys: pytest.CaptureFixture[str]) -> None:
        begun.folder.fingerprint.write_text(text)
        error, _ = refused(train.main, capsys, *begun.line())
        assert f"{begun.folder.fingerprint}:1: not a run's fingerprint (" in error and "remove the file" in error

    def test_submission_goes_by_content_too(self, begun: Made, tmp_path: Path) -> None:
        copy = shutil.copytree(begun.data, tmp_path / "data")
        plan = submit.preflight.plan(None, [settings.parse(begun.line("--data_dir", str(copy)))[0]])
        assert plan.faults == [] and len(plan.to_start) == 1
        label(copy / "train.tsv")
        plan = submit.preflight.plan(None, [settings.parse(begun.line("--data_dir", str(copy)))[0]])
        assert len(plan.faults) == 1 and "holds another run (its data_dir" in plan.faults[0]


class TestWhatIsSaidAndRecorded:
    def test_each_once(self, begun: Made, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
        values = json.loads(begun.ds.read_text())
        values["zero_optimization"]["stage"] = 1
        begun.ds.write_text(json.dumps(values))
        others = versions.installed() | {"transformers": "99.0"}
        monkeypatch.setattr(versions, "installed", lambda _: others)
        monkeypatch.setattr(versions, "commit", lambda: "f" * 40)
        threads = torch.get_num_threads()
        torch.set_num_threads(threads + 1)
        try:
            with caplog.at_level(logging.WARNING, "harness"):
                result = run(begun.line())
        finally:
            torch.set_num_threads(threads)
        names = ["ds_config.zero_optimization.stage", "versions.transformers", "commit", "threads"]
        assert [change["name"] for change in result["changes"]] == names
        assert [(change["before"], change["now"]) for change in result["changes"]][::3] == [
            (0, 1),
            (threads, threads + 1),
        ]
        assert result["changes"] == begun.record["changes"]
        said = begun.folder.log.read_text()
        assert all(f"changed {name}: " in said for name in names)
        config = settings.parse(begun.line())[0]
        world = distributed.init(no_cuda=True)
        begun.unfinished()
        torch.set_num_threads(threads + 1)
        try:
            inputs.record(*inputs.resolve(config, world, begun.folder), world, begun.folder, {"train"})
        finally:
            torch.set_num_threads(threads)
        assert begun.record["changes"] == result["changes"]  # told once, not at every start

    def test_of_an_ordinary_run(self, made: Made) -> None:
        record = made.record
        assert record["schema"] == 1 and record["changes"] == [] and record["precision"] == "fp32"
        assert record["data"].keys() == {"train", "dev", "test"}
        assert record["weights"].keys() == {"config.json", "model.safetensors"}
        assert "tokenizer.json" in record["tokenizer"] and record["commit"] == versions.commit()
        assert str(made.root) not in made.folder.fingerprint.read_text()  # content has no place

    def test_definition_of_a_custom_task(
        self, tiny_bert: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path = own_files.write("multiclass", tmp_path / "data")
        line = ["--task_file", str(path), *arguments("", tiny_bert, tmp_path / "run", "--max_steps", "1")[2:]]
        run(line)
        assert len(json.loads((tmp_path / "run" / "fingerprint.json").read_text())["definition"]) == 64
        path.write_text(path.read_text().replace("macro F1", "accuracy"))
        assert "holds another run (its own_task." in refused(train.main, capsys, *line)[0]


class TestPrecision:
    @pytest.fixture
    def bf16_is_slow(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """So that `auto` is fp32, whatever this processor is."""
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)

    @pytest.mark.usefixtures("bf16_is_slow")
    def test_recorded_one_is_kept_where_auto_is_another_now(self, tiny_bert: Path, tmp_path: Path) -> None:
        line = arguments("biosses", tiny_bert, tmp_path / "run", "--max_steps", "2", *PRECISION)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
            first = run(line)
        (tmp_path / "run" / "result.json").unlink()
        again = run(line)
        assert first["precision"] == again["precision"] == "bf16"
        assert "--precision auto is fp32 here: the run goes on in bf16" in (tmp_path / "run/train.log").read_text()
        assert again["scores"] == first["scores"]

    def test_that_the_device_has_not_is_refused(
        self, begun: Made, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        from deepspeed.accelerator import get_accelerator

        monkeypatch.setattr(get_accelerator(), "is_fp16_supported", lambda: False)
        begun.folder.fingerprint.write_text(json.dumps(begun.record | {"precision": "fp16"}))
        line = [word for word in begun.line(*PRECISION) if word not in ("--ds_config", str(begun.ds))]
        capsys.readouterr()
        assert train.main(line) == 2
        assert "the run began in fp16, which this cpu cannot compute in (it can in " in capsys.readouterr().err

    def test_that_is_asked_for_and_another(self, begun: Made, capsys: pytest.CaptureFixture[str]) -> None:
        plain = [word for word in begun.line("--precision", "bf16") if word not in ("--ds_config", str(begun.ds))]
        assert "holds another run (its precision is fp32, yours bf16)" in refused(train.main, capsys, *plain)[0]
        shutil.copy(ds_config.CONFIGS / "bf16_zero1.json", begun.ds)
        error, _ = refused(train.main, capsys, *begun.line(*PRECISION))
        assert f"(its precision is fp32, yours bf16 by --ds_config {begun.ds})" in error

    def test_same_one_by_another_word(self, begun: Made) -> None:
        assert settings.prepare(settings.parse(begun.line(*PRECISION))[0]) is None


class TestFinishedRun:
    @pytest.mark.parametrize(
        ("name", "edit"), [EDITS[0], EDITS[3], EDITS[4], EDITS[6]], ids=["train", "test", "tokenizer", "weights"]
    )
    @pytest.mark.parametrize("program", [train, submit])
    def test_is_shown_and_what_has_changed_is_said(
        self, name: str, edit: Callable[[Path], None], program: Any, finished: Made, capsys: pytest.CaptureFixture[str]
    ) -> None:
        before = finished.folder.result.read_bytes()
        edit(finished.root / name)
        assert program.main(finished.line()) == 0
        said = " ".join(capsys.readouterr().out.split())
        assert f"{finished.root / Path(name).parent}: {Path(name).name} has changed since the run began" in said
        assert "finished before" in said and said.count("has changed since") == 1
        assert finished.folder.result.read_bytes() == before

    def test_nothing_is_said_of_what_is_the_same(self, finished: Made, capsys: pytest.CaptureFixture[str]) -> None:
        copy = shutil.copytree(finished.data, finished.root / "copy")
        for more in ((), ("--data_dir", str(copy))):
            assert train.main(finished.line(*more)) == 0
            said = capsys.readouterr().out
            assert "finished before" in said and "changed" not in said and "gone" not in said

    def test_is_shown_with_a_damaged_record(self, finished: Made, capsys: pytest.CaptureFixture[str]) -> None:
        finished.folder.fingerprint.write_text("{")
        assert train.main(finished.line()) == 0
        said = " ".join(capsys.readouterr().out.split())
        assert "finished before" in said and "cannot be told: " in said

    def test_overwrite_starts_anew_on_other_content(self, finished: Made) -> None:
        before = finished.folder.result.stat().st_ino
        assert run(finished.line("--overwrite_output_dir"))["scores"]
        assert finished.folder.result.stat().st_ino == before
        label(finished.data / "test.tsv")
        run(finished.line("--overwrite_output_dir"))
        assert finished.folder.result.stat().st_ino != before

    def test_asked_for_more_it_checks_too(self, made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """A split that was not read before is recorded; what was read must be what it was."""
        ours = made.copy(tmp_path / "ours")
        shutil.rmtree(ours.folder.path)
        run(ours.line("--do_train", "--do_eval"))
        assert ours.record["data"].keys() == {"train", "dev"}
        for name, edit in EDITS:
            if name == "data/test.tsv":
                continue
            before = (ours.root / name).read_bytes()
            edit(ours.root / name)
            assert f"{Path(name).name} is not what it was" in refused(train.main, capsys, *ours.line("--do_predict"))[0]
            (ours.root / name).write_bytes(before)
        assert run(ours.line("--do_predict"))["scores"].keys() == {"dev", "test"}
        assert ours.record["data"].keys() == {"train", "dev", "test"}

    def test_a_suite_says_it_once(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        data, model = cut("biosses", tmp_path / "data", 12), tiny_encoder(tmp_path / "model")
        line = ["--tasks", "biosses", "--model", str(model), "--seeds", "2", "--cluster", "debug"]
        line += [*arguments("biosses", model, tmp_path / "out", "--max_steps", "1", "--data_dir", str(data))[4:]]
        assert submit.main(line) == 0
        flipped(model / "model.safetensors")
        capsys.readouterr()
        assert submit.main(line) == 0
        out, err = capsys.readouterr()
        assert "2 of 2 runs finished before" in out
        assert err.count("has changed since") == 1 and "model.safetensors" in err


class TestModelOfTheHub:
    NAME = "some-lab/some-encoder"

    @pytest.fixture
    def cache(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """A cache with one commit of a model; no network."""
        from huggingface_hub import constants

        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        place = tmp_path / "cache" / "models--some-lab--some-encoder"
        tiny_encoder(place / "snapshots" / ("a" * 40))
        self.move(place, "a" * 40)
        return place

    def move(self, place: Path, commit: str) -> None:
        """The hub's main branch goes on to a commit."""
        (place / "refs").mkdir(exist_ok=True)
        (place / "refs" / "main").write_text(commit)

    def test_goes_on_with_its_commit(self, cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        data = cut("biosses", tmp_path / "data", 12)
        line = arguments("biosses", Path(self.NAME), tmp_path / "run", "--max_steps", "1", "--data_dir", str(data))
        line += ["--cache_dir", str(cache.parent)]
        first = run(line)
        record = json.loads((tmp_path / "run" / "fingerprint.json").read_text())
        assert record["weights"]["commit"] == record["tokenizer"]["commit"] == first["model_commit"] == "a" * 40
        assert len(record["weights"]["model.safetensors"]) == 64
        (tmp_path / "run" / "result.json").unlink()
        other = Path(shutil.copytree(cache / "snapshots" / ("a" * 40), cache / "snapshots" / ("b" * 40)))
        flipped(other / "model.safetensors")
        self.move(cache, "b" * 40)
        again = run(line)
        assert again["model_commit"] == "a" * 40 and again["scores"] == first["scores"]
        (tmp_path / "run" / "result.json").unlink()
        error, _ = refused(train.main, capsys, *line, "--revision", "b" * 40)
        assert "with another model.safetensors" in error
        shutil.rmtree(cache / "snapshots" / ("a" * 40))
        error, _ = refused(train.main, capsys, *line)
        assert "model.safetensors is not what it was" in error and f"give --revision {'a' * 40}" in error
        shutil.copytree(other, tmp_path / "here")
        flipped(tmp_path / "here" / "model.safetensors")  # back to what it was: a download of the first commit
        downloaded = [str(tmp_path / "here") if word == self.NAME else word for word in line]
        assert run(downloaded)["scores"] == first["scores"]


class TestDecidedByRank0:
    def test_what_is_trained_is_decided_once(self, begun: Made) -> None:
        config = replace(settings.parse(begun.line())[0], no_cuda=True)
        world = distributed.init(no_cuda=True)
        with ExitStack() as stack:
            lock.acquire(begun.folder, stack)
            parts = setup.build(config, world, begun.folder)
            assert parts.trains
            begun.folder.result.write_text("{}")  # as another rank may see it earlier
            assert parts.trains

    @pytest.mark.slow
    def test_ranks_that_see_other_things_do_the_same(self, tiny_bert: Path, tmp_path: Path) -> None:
        line = arguments("biosses", tiny_bert, tmp_path / "run", "--max_steps", "2")
        start_processes(_with_a_seed_of_its_own, (line, tmp_path), 2)
        seeds = [json.loads((tmp_path / f"rank-{rank}").read_text())["seed"] for rank in range(2)]
        assert seeds == [12, 12]


def _with_a_seed_of_its_own(rank: int, line: list[str], folder: Path) -> None:
    os.environ.pop("MASTER_PORT", None)  # rank 0 tells its own in the run folder
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", LOCAL_WORLD_SIZE="2", OMP_NUM_THREADS="1")
    config, _ = settings.parse([*line, "--seed", str(12 + rank)])
    result = train.run(config)
    (folder / f"rank-{rank}").write_text(json.dumps(result))
    distributed.close()
