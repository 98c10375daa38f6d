"""launch/report.py verify: every score computed again, and one changed byte found, wherever it is."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from made_up_runs import made_up
from running import arguments, cut, refused, run

import tasks
from harness import run_folder
from harness.files import sha256
from launch import report
from launch.run import digests

ROWS = 12
FAMILIES = ("medsts", "bc5cdr_disease", "mednli", "hoc")  # a task of each


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of each family, with its data."""
    root = tmp_path_factory.mktemp("verify")
    for task in FAMILIES:
        cut(task, root / "data" / task, ROWS)
        made_up(root / "runs" / task, task, rows=ROWS, skill=0.7, data_dir=str(root / "data"))
    return root


@pytest.fixture
def root(made: Path, tmp_path: Path) -> Path:
    """A copy to damage. The runs' settings name the data of the original; the copy's lie elsewhere."""
    shutil.copytree(made, tmp_path / "copy")
    for path in (tmp_path / "copy" / "runs").glob("*/config.json"):
        path.write_text(path.read_text().replace(str(made), str(tmp_path / "copy")))
    return tmp_path / "copy"


def verified(capsys: pytest.CaptureFixture[str], *places: Path) -> tuple[int, str]:
    """(exit status, what was printed)."""
    capsys.readouterr()
    status = report.main(["verify", *map(str, places)])
    return status, capsys.readouterr().out


def fails(capsys: pytest.CaptureFixture[str], place: Path, *parts: str) -> str:
    status, out = verified(capsys, place)
    failed = "\n".join(line for line in out.splitlines() if line.startswith("FAILED"))
    assert status == 1 and [part for part in parts if part not in failed] == [], out
    return failed


def change_result(folder: Path, change: Callable[[dict[str, Any]], object], seal: bool = True) -> None:
    path = folder / "result.json"
    result = json.loads(path.read_text())
    change(result)
    path.write_text(run_folder.result_text(digests.sealed(result) if seal else result))


def test_untouched_runs_pass(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out = verified(capsys, root / "runs")
    assert (status, out) == (0, "8 of 8 cells verified\n")


@pytest.mark.slow
@pytest.mark.parametrize("task", FAMILIES)
def test_every_byte_of_the_predictions_counts(task: str, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Also where the data is not here, and nothing but digests protects the tokens."""
    shutil.rmtree(root / "data")
    for path in sorted((root / "runs" / task / "predictions").iterdir()):
        content = path.read_bytes()
        split = path.name.partition("_" if "prob" in path.name else ".")[0]
        chosen = sorted(random.Random(0).sample(range(len(content)), min(len(content), 12 if task == "hoc" else 30)))
        for place in {0, len(content) - 1, *chosen}:
            changed = bytearray(content)
            changed[place] ^= 1
            path.write_bytes(changed)
            fails(capsys, root / "runs" / task, f"{task}, encoder-a, seed 12, {split} ", f"predictions/{path.name}")
        path.write_bytes(content)
    assert verified(capsys, root / "runs" / task)[0] == 0


@pytest.mark.slow
@pytest.mark.parametrize("task", FAMILIES)
def test_every_byte_of_a_result_counts(task: str, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = root / "runs" / task / "result.json"
    content = path.read_bytes()
    for place in random.Random(1).sample(range(len(content)), 60):
        changed = bytearray(content)
        changed[place] ^= 1
        path.write_bytes(changed)
        assert f"FAILED {task}" in fails(capsys, path.parent), (place, content[place - 20 : place + 20])


@pytest.mark.slow
@pytest.mark.parametrize("task", FAMILIES)
def test_a_score_that_the_predictions_do_not_give(task: str, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With the digest of the result made to fit: each value of the metric, of each split."""
    folder = root / "runs" / task
    before = (folder / "result.json").read_bytes()
    scores = json.loads(before)["scores"]
    for split, values in scores.items():
        names = [name for name, value in values.items() if isinstance(value, int | float) and name != "loss"]
        for name in names:
            change_result(folder, lambda result: result["scores"][split].update({name: values[name] + 1}))  # noqa: B023
            fails(capsys, folder, f"{task}, encoder-a, seed 12, {split} ", f"{name} is {values[name] + 1}")
            (folder / "result.json").write_bytes(before)
        for label, row in values["per_class"].items():
            change_result(folder, lambda result: result["scores"][split]["per_class"][label].update(f1=0.123))  # noqa: B023
            fails(capsys, folder, f"per_class.{label}.f1 is 0.123", f"{row['f1']} by predictions/{split}.tsv")
            (folder / "result.json").write_bytes(before)
    for change in ({"metric": "other"}, {"warnings": ["other"]}, {"new": 0.5}):
        change_result(folder, lambda result: result["scores"]["dev"].update(change))  # noqa: B023
        fails(capsys, folder, f"{next(iter(change))} is ")
        (folder / "result.json").write_bytes(before)


@pytest.mark.parametrize("task", FAMILIES)
def test_gold_labels_changed_with_everything_that_follows(
    task: str, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Predictions, scores and digests agree: the data's own gold labels do not."""
    folder, known = root / "runs" / task, tasks.get(task)
    examples = known.read(root / "data" / task, "test")[:ROWS]
    better = [example.label for example in examples]
    wrong = {"similarity": 4.75, "multiclass": "neutral", "multilabel": (1,) * 10, "tagging": None}[known.family]
    better[0] = wrong if wrong is not None else tuple("B" if tag == "O" else "O" for tag in better[0])
    predictions = [known_prediction(label) for label in better]
    edited = [replace_label(example, label) for example, label in zip(examples, better, strict=True)]
    report_of = known.metric(edited, predictions)
    (folder / "predictions/test.tsv").write_text("\n".join(known.rows(edited, predictions)) + "\n")
    (folder / "predictions/test_probabilities.tsv").unlink(missing_ok=True)

    def fit(result: dict[str, Any]) -> None:
        head = {"score": report_of.score, "metric": report_of.metric, "loss": 0.1, "examples": len(examples)}
        result["scores"]["test"] = {**head, **report_of.values, "per_class": report_of.per_class, "warnings": []}
        result["digests"]["predictions"].pop("test_probabilities.tsv", None)
        for kind, found in digests.of_predictions(run_folder.RunFolder(folder), ("test",)).items():
            result["digests"][kind].update(found)

    change_result(folder, fit)
    failed = fails(capsys, folder, f"{task}, encoder-a, seed 12, test ", "predictions/test.tsv:")
    assert "gold" in failed and ", dev [" not in failed
    shutil.rmtree(root / "data")  # nothing here says otherwise, and that is said
    status, out = verified(capsys, folder)
    assert status == 0 and f"{root / 'data' / task}: the data is not here: gold labels are those of the pred" in out


def known_prediction(label: Any) -> Any:
    from harness.task import Prediction

    return Prediction(label)


def replace_label(example: Any, label: Any) -> Any:
    import dataclasses

    return dataclasses.replace(example, label=label)


@pytest.mark.parametrize("split", ["train", "dev", "test"])
def test_a_changed_data_file(split: str, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = root / "data" / "mednli" / f"{split}.tsv"
    path.write_bytes(path.read_bytes() + b"\n")
    cell = "dev and test" if split == "train" else split
    fails(capsys, root / "runs", f"mednli, encoder-a, seed 12, {cell} [mednli]: {path} is not the data of the run")
    assert f"{6 if split == 'train' else 7} of 8 cells verified" in verified(capsys, root / "runs")[1]


def test_the_data_may_lie_elsewhere(
    root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "data").rename(root / "moved")
    assert "mednli: the data is not here" in verified(capsys, root / "runs")[1]
    monkeypatch.setenv("DATASET_DIR", str(root / "moved"))
    assert verified(capsys, root / "runs") == (0, "8 of 8 cells verified\n")
    path = root / "moved" / "hoc" / "test.tsv"
    path.write_text(path.read_text() + "\n")
    fails(capsys, root / "runs", f"hoc, encoder-a, seed 12, test [hoc]: {path} is not the data of the run")


CHANGES: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "another metric version": (lambda r: r.update(metric_version=7), "metric version 7, this program computes 1"),
    "another definition": (lambda r: r["digests"].update(definition="0" * 64), "this program defines the task"),
    "other data": (lambda r: r["digests"]["data"].update(dev="0" * 64), "fingerprint.json has another SHA-256 of the"),
    "no digest of the data": (lambda r: r["digests"]["data"].pop("test"), "has no digest of the test data"),
    "no metric version": (lambda r: r.pop("metric_version"), "result.json has no metric_version"),
    "no definition": (lambda r: r["digests"].pop("definition"), "result.json has no digests.definition"),
    "no digest of predictions": (lambda r: r["digests"]["predictions"].pop("dev.tsv"), "predictions/dev.tsv is not"),
    "no digest of tokens": (lambda r: r["digests"]["with_tokens"].clear(), "predictions/dev.tsv is not"),
    "a split less": (lambda r: r["scores"].pop("dev"), "predictions/dev.tsv"),
}


def test_one_changed_byte(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = root / "runs/bc5cdr_disease/predictions/test.tsv"
    content = path.read_bytes()
    for place in (content.index(b"\n") + 1, content.index(b"\tO\t") + 1, content.rindex(b"\tO\n") + 1):
        path.write_bytes(content[:place] + b"B" + content[place + 1 :])
        fails(capsys, root / "runs", "bc5cdr_disease, encoder-a, seed 12, test [bc5cdr_disease]: predictions/test.tsv")
    path.write_bytes(content)
    result = root / "runs/mednli/result.json"
    result.write_text(result.read_text().replace('"score": 0.', '"score": 0.0', 1))
    failed = fails(capsys, root / "runs", "mednli, encoder-a, seed 12, dev [mednli]: score is 0.0", "and test [mednli]")
    assert "bc5cdr" not in failed


@pytest.mark.parametrize("kind", CHANGES)
def test_other_records(kind: str, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change, said = CHANGES[kind]
    change_result(root / "runs/bc5cdr_disease", change)
    fails(capsys, root / "runs", "bc5cdr_disease, encoder-a, seed 12", said)


@pytest.mark.parametrize("name", ["predictions/test.tsv", "predictions/dev_probabilities.tsv", "fingerprint.json"])
def test_a_missing_file(name: str, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (root / "runs/hoc" / name).unlink()
    fails(capsys, root / "runs", "hoc, encoder-a, seed 12", name)


def test_a_damaged_fingerprint(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """At the end of a run it costs no result."""
    folder = run_folder.RunFolder(root / "runs/mednli")
    folder.fingerprint.write_text("{")
    made = digests.of_result(run_folder.stored_config(folder.path), folder, ("test",), {})
    assert made["data"] == {} and set(made["predictions"]) == {"test.tsv", "test_probabilities.tsv"}
    fails(capsys, folder.path, "mednli, encoder-a, seed 12, dev and test", "fingerprint.json:1: not a run's")


def test_a_time_that_was_changed(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What no prediction gives: the result's digest of itself shows it."""
    change_result(root / "runs/hoc", lambda result: result["timing"].update(total_seconds=1.0), seal=False)
    fails(capsys, root / "runs", "hoc, encoder-a, seed 12, dev and test [hoc]: result.json is not what the run wrote")


def test_a_result_of_an_older_version_is_not_verified(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nor would one be whose digests somebody has removed."""
    made_up(root / "old", "mednli", rows=ROWS, metric_version=None, digests=None)
    status, out = verified(capsys, root / "old")
    assert status == 1 and out.count("made by an older version") == 2 and out.endswith("0 of 2 cells verified\n")
    assert out.startswith("cannot be verified: mednli, encoder-a, seed 12, dev [old]: made by")
    assert report.main([str(root / "old")]) == 0
    assert "encoder-a" in capsys.readouterr().out


def test_broken_and_unfinished_runs(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made_up(root / "more/going", "mednli", finished=False)
    assert "nothing to verify" in refused(report.main, capsys, "verify", root / "more")[0]
    (made_up(root / "more/broken", "mednli") / "result.json").write_text("{")
    failed = fails(capsys, root / "more", "FAILED broken: ", "result.json: not JSON")
    assert failed.count("\n") == 0 and "without scores to verify: 1 runs" in verified(capsys, root / "more")[1]


def test_sample_data_is_verified_and_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = made_up(tmp_path / "run", "mednli", data_dir=None, rows=10**6)
    said = "SAMPLE DATA: 2 cells are of made-up text, and no results\n2 of 2 cells verified\n"
    assert verified(capsys, folder) == (0, said)
    path = folder / "predictions" / "dev.tsv"
    path.write_text(path.read_text() + "\n")
    fails(capsys, folder, "mednli, encoder-a, seed 12, dev (SAMPLE DATA)")


@pytest.mark.slow
def test_a_run_that_is_scored_in_two_parts(tiny_bert: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Test is predicted later: the digests of dev stay."""
    data = cut("hoc", tmp_path / "data/hoc", 30)
    line = arguments("hoc", tiny_bert, tmp_path / "run", "--data_dir", str(data), "--max_steps", "2", "--do_eval")
    run([*line, "--do_train"])
    assert verified(capsys, tmp_path / "run")[1].endswith("1 of 1 cells verified\n")
    run([*line, "--do_predict"])
    assert verified(capsys, tmp_path / "run")[1].endswith("2 of 2 cells verified\n")
    recorded = json.loads((tmp_path / "run/result.json").read_text())["digests"]
    assert recorded["data"] == {split: sha256(data / f"{split}.tsv") for split in ("train", "dev", "test")}
    names = {f"{split}{kind}.tsv" for split in ("dev", "test") for kind in ("", "_probabilities")}
    assert recorded["predictions"].keys() == names


@pytest.mark.slow
def test_a_trial_that_scores_a_part_of_train_and_dev(
    tiny_bert: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = cut("biosses", tmp_path / "data", 12)
    line = arguments("biosses", tiny_bert, tmp_path / "run", "--data_dir", str(data), "--max_steps", "2")
    run([*line, "--fold", "2/3", "--do_train", "--do_eval"])
    assert verified(capsys, tmp_path / "run") == (0, "1 of 1 cells verified\n")
    path = data / "train.tsv"
    path.write_text(path.read_text() + "\n")
    fails(capsys, tmp_path / "run", "biosses", f"{path} is not the data of the run")


def test_folders_with_the_names_of_commands(
    root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "runs").rename(root / "verify")
    monkeypatch.chdir(root)
    assert report.main(["./verify"]) == 0 and "encoder-a" in capsys.readouterr().out
    assert report.main(["verify", "verify"]) == 0 and "8 of 8" in capsys.readouterr().out
    with pytest.raises(SystemExit) as ended:
        report.main(["--help"])
    out = capsys.readouterr().out
    assert ended.value.code == 0 and all(f" {name} RUNS..." in out for name in report.COMMANDS)
