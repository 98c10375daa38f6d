"""launch/report.py bundle: the same leaderboard elsewhere, to the byte, without text and without paths."""

from __future__ import annotations

import json
import os
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from made_up_runs import made_up
from running import cut, refused

import tasks
from harness import run_folder
from harness.run_folder import RunFolder
from launch import report
from launch.jobs import suite_record
from launch.reporting import paths

if TYPE_CHECKING:
    from finished_runs import Finished

pytest_plugins = ("finished_runs",)
FAMILIES = ("medsts", "bc5cdr_disease", "mednli", "hoc")  # a task of each
FILES = [f"leaderboard.{form}" for form in ("md", "tex", "csv", "json")]
OVERVIEW = [f"overview.{form}" for form in ("md", "tex", "csv")]
LOG = """2026-01-01 10:00:00 INFO task    mednli
2026-01-01 10:00:00 INFO data    {data}/mednli: train 30, dev 30
2026-01-01 10:00:01 ERROR {data}/mednli/train.tsv:3: unknown label 'Myocarditis'; use one of contradiction
Traceback (most recent call last):
  File "/opt/code/launch/train.py", line 1
2026-01-01 10:00:02 WARNING folder  {root}/runs
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of all kinds: two seeds of two encoders on a task of each family, local models, other settings, an older
    version's, repeated, unfinished, failed and sample ones, and a suite that left one out."""
    root = tmp_path_factory.mktemp("home")
    for task in FAMILIES:
        cut(task, root / "my data" / task, 20)
        for model, skill in (("org/encoder-a", 0.6), (f"{root}/checkpoints/encoder-b", 0.8)):
            for seed in (1, 2):
                folder = root / "runs" / task / Path(model).name / f"seed-{seed}"
                made_up(folder, task, model, seed, rows=20, skill=skill, data_dir=f"{root}/my data")
                RunFolder(folder).log.write_text(LOG.format(data=root / "my data", root=root))
    more = {"rows": 20, "data_dir": f"{root}/my data"}
    made_up(root / "runs/mednli/v1/seed-1", "mednli", f"{root}/v1/last", 1, **more)
    made_up(root / "runs/mednli/v2/seed-1", "mednli", f"{root}/v2/biobert/last", 1, **more)
    flags = ["--tokenizer_name", f"{root}/tokenizers/cased", "--learning_rate", "1e-4"]
    made_up(root / "runs/mednli/tuned/seed-1", "mednli", "org/encoder-a", 1, flags=flags, **more)
    again = made_up(root / "runs/hoc/again/seed-1", "hoc", "org/encoder-a", 1, skill=0.9, **more)
    os.utime(again / "result.json", (1, 1))
    made_up(root / "runs/hoc/old/seed-3", "hoc", "org/encoder-a", 3, metric_version=None, digests=None, **more)
    made_up(root / "runs/hoc/stopped/seed-4", "hoc", "org/encoder-a", 4, finished=False, **more)
    failed = made_up(root / "runs/hoc/failed/seed-5", "hoc", "org/encoder-a", 5, finished=False, **more)
    RunFolder(failed).log.write_text(
        "2026-01-01 10:00:00 INFO task    hoc\n2026-01-01 10:00:01 ERROR The run failed: "
        f"{root}/my data/hoc/train.tsv:3: unknown label 'Myocarditis'; use one of 0, 1\n"
    )
    for step in (2, 10):  # checkpoints of one pre-training, and others of the same names
        made_up(root / f"runs/mednli/step-{step}/seed-1", "mednli", f"{root}/one/step-{step}", 1, **more)
    made_up(root / "runs/mednli/other/seed-1", "mednli", f"{root}/two/step-4", 1, **more)
    tried = [{"values": {"learning_rate": rate}, "dev": [0.5 + rate]} for rate in (3e-5, 5e-5)]
    search = {"values": {"learning_rate": 5e-5}, "space": {"learning_rate": [3e-5, 5e-5]}, "sampler": "grid"}
    search |= {"kind": "chosen", "trials": 2, "device_hours": 0.1, "dev": 0.5, "tried": tried, "basis": "dev"}
    made_up(root / "runs/medsts/searched/seed-1", "medsts", f"{root}/one/step-2", 1, search=search, **more)
    made_up(root / "runs/sample/seed-1", "ddi2013", "org/encoder-a", 1, data_dir=None, rows=10**6)
    missing = root / "runs" / "bc5cdr_chem" / "encoder-c" / "seed-1"
    why = f"--data_dir {root}/none: no such folder"
    suite_record.record_left_out(root / "runs", [missing], {missing: ("bc5cdr_chem", why)})
    (root / "runs/mednli/encoder-a/seed-1/notes.txt").write_text("Somebody's notes on Myocarditis.")
    (root / "runs/mednli/encoder-a/seed-1/predictions/own.tsv").write_text("Somebody's own.")
    return root


@pytest.fixture(scope="module")
def packed(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle, and beside it what it holds."""
    place = tmp_path_factory.mktemp("elsewhere")
    assert report.main(["bundle", str(made / "runs"), "--out", str(place / "b.zip")]) == 0
    with zipfile.ZipFile(place / "b.zip") as archive:
        archive.extractall(place / "unpacked")
    return place


def boards(capsys: pytest.CaptureFixture[str], out: Path, *places: Path) -> dict[str, bytes]:
    assert report.main([*map(str, places), "--out", str(out), "--baseline", "encoder-b", "--ensemble"]) == 0
    capsys.readouterr()
    return {name: (out / name).read_bytes() for name in (*FILES, *OVERVIEW)}


def test_the_same_leaderboard_to_the_byte(
    made: Path, packed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    here = boards(capsys, tmp_path / "here", made / "runs")
    elsewhere = boards(capsys, tmp_path / "elsewhere", packed / "unpacked")
    for name in here:
        assert here[name].decode() == elsewhere[name].decode(), name
    board = json.loads(here["leaderboard.json"])
    labels = {row["model"] for row in board["rows"]}
    assert {"encoder-a", "encoder-b", "v1/last", "biobert/last"} <= labels
    assert any("tokenizer_name=.../tokenizers/cased" in label for label in labels)
    why = {entry["folder"]: entry["why"] for entry in board["left_out"]}
    assert why["hoc/failed/seed-5"] == "failed: .../my data/hoc/train.tsv:3: see the run's log"
    assert why["hoc/again/seed-1"] == "seed 1 was run again in hoc/encoder-a/seed-1"
    assert "SAMPLE DATA" in why["sample/seed-1"] and "after epoch 4" in why["hoc/stopped/seed-4"]
    assert board["missing"] == ["left out: bc5cdr_chem (--data_dir .../none: no such folder)"]
    assert str(made).encode() not in b"".join(here.values())
    tests = board["significance"]["tests"]
    assert any(test["p"] is not None for test in tests) and ".tsv" not in str(tests)


@pytest.mark.parametrize("place", ["mednli", "mednli/encoder-a/seed-1"])
def test_a_part_of_the_runs(place: str, made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A suite's record above the runs that are named comes along; a single run keeps its folder's name."""
    assert report.main(["bundle", str(made / "runs" / place), "--out", str(tmp_path / "b.zip")]) == 0
    zipfile.ZipFile(tmp_path / "b.zip").extractall(tmp_path / "unpacked")
    for number, root in enumerate((made / "runs" / place, tmp_path / "unpacked")):
        assert report.main([str(root), "--out", str(tmp_path / str(number))]) == 0
    texts = [[(tmp_path / str(number) / name).read_text() for name in FILES] for number in (0, 1)]
    assert texts[0] == texts[1] and "no such folder" in texts[0][0]


def test_several_folders(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    two = [str(made / "runs" / name) for name in ("mednli", "hoc")]
    assert report.main(["bundle", *two, "--out", str(tmp_path / "b.zip")]) == 0
    zipfile.ZipFile(tmp_path / "b.zip").extractall(tmp_path / "unpacked")
    for number, roots in enumerate((two[::-1], [str(tmp_path / "unpacked")])):
        assert report.main([*roots, "--out", str(tmp_path / str(number))]) == 0
    assert [(tmp_path / "0" / name).read_text() for name in FILES] == [
        (tmp_path / "1" / name).read_text() for name in FILES
    ]


def test_it_is_verified_elsewhere(
    made: Path, packed: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """But for the runs that recorded no digests."""
    assert report.main(["verify", str(packed / "unpacked")]) == 1
    out = capsys.readouterr().out
    assert "FAILED" not in out and out.count("cannot be verified: hoc, org/encoder-a, seed 3") == 2
    assert ".../my data/mednli: the data is not here" in out and "every file is as it was packed" in out
    assert "50 of 52 cells verified" in out
    monkeypatch.setenv("DATASET_DIR", str(made / "my data"))
    report.main(["verify", str(packed / "unpacked")])
    out = capsys.readouterr().out
    assert "50 of 52 cells" in out and "the data is not here" not in out  # gold labels, without the tokens


def members(packed: Path) -> Iterator[tuple[str, str]]:
    with zipfile.ZipFile(packed / "b.zip") as archive:
        for name in archive.namelist():
            yield name, archive.read(name).decode()


def assert_no_text(packed: Path, data: Mapping[str, Path]) -> None:
    """No word of five letters and more that is in the data's texts, and in nothing else that may be packed."""
    found = {name: {*re.findall(r"[A-Za-z]{5,}", text)} for name, text in members(packed)}
    texts: set[str] = set()
    for task, folder in data.items():
        for split in ("train", "dev", "test"):
            for example in tasks.get(task).read(folder, split):
                texts |= {*re.findall(r"[A-Za-z]{5,}", " ".join(example.texts))}
    code = {*re.findall(r"[A-Za-z]{5,}", " ".join(f"{task.labels} {task.title}" for task in tasks.TASKS.values()))}
    for folder in ("harness", "launch", "tasks", "ds_configs"):  # names of settings, messages of logs
        for path in (Path(run_folder.__file__).parents[1] / folder).rglob("*.*"):
            if path.suffix in (".py", ".json") and "corpora" not in path.parts:
                code |= {*re.findall(r"[A-Za-z]{5,}", path.read_text())}
    words = (texts | {"Myocarditis", "Somebody"}) - code
    assert len(words) > 300
    assert {name: both for name, own in found.items() if (both := own & words)} == {}


def test_no_text_and_no_path_of_this_machine(made: Path, packed: Path) -> None:
    assert_no_text(packed, {task: made / "my data" / task for task in FAMILIES})
    for name, text in members(packed):
        assert str(made) not in text and str(Path.home()) not in text and "/opt/code" not in text, name
        assert not paths.ABSOLUTE.search(text), (name, paths.ABSOLUTE.search(text))
        assert "notes.txt" not in name and "own.tsv" not in name


def test_what_is_in_it(packed: Path) -> None:
    content = dict(members(packed))
    run = "bc5cdr_disease/encoder-b/seed-1"
    own = {name.removeprefix(f"{run}/") for name in content if name.startswith(run)}
    scored = {"predictions/dev.tsv", "predictions/test.tsv"}
    assert own == {"config.json", "fingerprint.json", "metrics.jsonl", "result.json", "train.log", *scored}
    assert content[f"{run}/predictions/test.tsv"].startswith("gold\tprediction\nO\t")
    config = json.loads(content[f"{run}/config.json"])
    assert (config["data_dir"], config["model_name_or_path"]) == (
        ".../my data/bc5cdr_disease",
        ".../checkpoints/encoder-b",
    )
    assert content[f"{run}/train.log"].splitlines() == [
        "2026-01-01 10:00:00 INFO task    mednli",
        "2026-01-01 10:00:00 INFO data    .../my data/mednli: train 30, dev 30",
        "2026-01-01 10:00:02 WARNING folder  .../runs",
    ]
    assert {"hoc/old/seed-3/result.json", "hoc/old/seed-3/predictions/test_probabilities.tsv"} <= content.keys()
    manifest = json.loads(content.pop("MANIFEST.json"))
    assert manifest["files"].keys() == content.keys() and manifest["versions"]["python"]


def test_the_same_bytes_again(made: Path, packed: Path, tmp_path: Path) -> None:
    assert report.main(["bundle", str(made / "runs"), "--out", str(tmp_path / "again.zip")]) == 0
    assert (tmp_path / "again.zip").read_bytes() == (packed / "b.zip").read_bytes()
    assert (tmp_path / "again.zip").stat().st_mode & 0o077 == 0
    assert [path.name for path in tmp_path.iterdir()] == ["again.zip"]


def test_nothing_is_overwritten(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "b.zip").write_text("mine")
    error, _ = refused(report.main, capsys, "bundle", made / "runs", "--out", tmp_path / "b.zip")
    assert "b.zip: is there already" in error and "remove it" in error
    assert (tmp_path / "b.zip").read_text() == "mine"
    (tmp_path / "file").touch()
    error, _ = refused(report.main, capsys, "bundle", made / "runs/sample", "--out", tmp_path / "file" / "b.zip")
    assert "cannot be written" in error


@pytest.mark.slow
def test_real_runs(ten_runs: dict[str, Finished], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With the logs that runs write, of all ten tasks."""
    root = ten_runs["mednli"].folder.parents[2]
    assert report.main(["verify", str(root)]) == 0
    assert capsys.readouterr().out.endswith("20 of 20 cells verified\n")
    assert report.main(["bundle", str(root), "--out", str(tmp_path / "b.zip")]) == 0
    zipfile.ZipFile(tmp_path / "b.zip").extractall(tmp_path / "unpacked")
    assert report.main(["verify", str(tmp_path / "unpacked")]) == 0
    for number, place in enumerate((root, tmp_path / "unpacked")):
        assert report.main([str(place), "--out", str(tmp_path / str(number))]) == 0
    for name in FILES:
        assert (tmp_path / "0" / name).read_text() == (tmp_path / "1" / name).read_text()
    data = {task: finished.data for task, finished in ten_runs.items()}
    assert_no_text(tmp_path, data)
    for name, text in members(tmp_path):
        assert str(root.parent) not in text and str(Path(run_folder.__file__).parents[1]) not in text, name


def damaged(packed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, content: Any) -> str:
    place = tmp_path / "unpacked"
    zipfile.ZipFile(packed / "b.zip").extractall(place)
    if content is None:
        (place / name).unlink()
    else:
        (place / name).write_bytes(content(place / name) if callable(content) else content)
    assert report.main(["verify", str(place)]) == 1
    return "\n".join(line for line in capsys.readouterr().out.splitlines() if line.startswith("FAILED"))


def test_the_manifest_protects_every_file(packed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Also those that nothing else does: here a learning rate and an epoch."""
    run = "mednli/encoder-a/seed-1"
    cell = f"FAILED mednli, org/encoder-a, seed 1, dev and test [{run}]: {run}"
    rate = damaged(packed, tmp_path / "a", capsys, f"{run}/config.json", lambda path: path.read_bytes()[:-1] + b" ")
    assert rate == f"{cell}/config.json is not what was packed: another SHA-256 than in MANIFEST.json"
    score = f"{run}/predictions/test.tsv"
    changed = damaged(packed, tmp_path / "f", capsys, score, lambda path: path.read_bytes() + b"\n")
    assert changed.count(f"{cell.replace('dev and test', 'test')}".removesuffix(run)) == changed.count("\n") + 1 == 2
    gone = damaged(packed, tmp_path / "b", capsys, f"{run}/metrics.jsonl", None)
    assert gone == f"{cell}/metrics.jsonl is missing; MANIFEST.json names it"
    added = damaged(packed, tmp_path / "c", capsys, f"{run}/task.toml", b"{}")
    assert f"{cell}/task.toml was added: it is not in MANIFEST.json" in added
    suite = damaged(packed, tmp_path / "d", capsys, "suite.json", b"{}")
    assert suite == "FAILED suite.json is not what was packed: another SHA-256 than in MANIFEST.json"
    broken = damaged(packed, tmp_path / "e", capsys, "MANIFEST.json", b"{")
    assert "MANIFEST.json: cannot be read; unpack the bundle again" in broken


def test_a_part_of_a_bundle_is_held_against_its_manifest(
    packed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    zipfile.ZipFile(packed / "b.zip").extractall(tmp_path)
    (tmp_path / "mednli/encoder-a/seed-1/config.json").write_bytes(
        (tmp_path / "mednli/encoder-a/seed-1/config.json").read_bytes() + b"\n"
    )
    assert report.main(["verify", str(tmp_path / "mednli")]) == 1
    assert "mednli/encoder-a/seed-1/config.json is not what was packed" in capsys.readouterr().out


def test_runs_that_do_not_pass_are_not_packed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = made_up(tmp_path / "runs/a", "mednli")
    (folder / "predictions/test.tsv").write_text("index\tgold\tprediction\nThe patient\tneutral\tneutral\n")
    error, _ = refused(report.main, capsys, "bundle", tmp_path / "runs", "--out", tmp_path / "b.zip")
    assert "mednli, encoder-a, seed 12, test [a]: predictions/test.tsv is not what the run wrote" in error
    assert not (tmp_path / "b.zip").exists()


def test_predictions_of_an_older_version(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No digest says that they are the run's: packed where they are what a run writes, without anything else."""
    folder = made_up(tmp_path / "runs/a", "bc5cdr_chem", metric_version=None, digests=None)
    made_up(tmp_path / "runs/b", "bc5cdr_chem", metric_version=None, digests=None)
    text = (folder / "predictions/test.tsv").read_text()
    (folder / "predictions/test.tsv").write_text(text.replace("token\tgold\tprediction", "words\tgold\tprediction"))
    assert report.main(["bundle", str(tmp_path / "runs"), "--out", str(tmp_path / "b.zip")]) == 0
    out = capsys.readouterr().out
    assert "not packed: predictions of a, test (not as a run writes them)" in out
    assert "cannot be verified: 4 cells of runs made by an older version" in out
    content = dict(members(tmp_path))
    assert "a/predictions/test.tsv" not in content and content["b/predictions/test.tsv"].startswith("gold\tpred")


def test_broken_and_running_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from contextlib import ExitStack

    from harness import lock

    made_up(tmp_path / "runs/a", "mednli")
    (made_up(tmp_path / "runs/b", "mednli") / "result.json").write_text("{")
    assert report.main(["bundle", str(tmp_path / "runs"), "--out", str(tmp_path / "b.zip")]) == 0
    out = capsys.readouterr().out
    assert "not packed: b (broken: .../result.json: not JSON" in out and "1 runs" in out
    going = made_up(tmp_path / "runs/c", "mednli", finished=False)
    with ExitStack() as stack:
        lock.acquire(RunFolder(going), stack)
        error, _ = refused(report.main, capsys, "bundle", tmp_path / "runs", "--out", tmp_path / "c.zip")
    assert "runs/c: is running; wait for it" in error
