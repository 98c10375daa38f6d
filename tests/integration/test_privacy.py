"""Text stays home, and one wandb run tells the whole story: read back from a real offline run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import wandb_offline
from running import arguments, run

import tasks

OWN_TEXT = {"predictions"}  # what a run may write words of the data into: tagging's token column
ORIGINAL_WITH_WORDS = {"test_predictions.txt"}


def sentences(task: str) -> list[str]:
    """Texts of the sample that are long enough to be nobody else's; of tagging, five words in a row."""
    found = set()
    for split in ("train", "dev", "test"):
        for example in tasks.get(task).read(tasks.sample_dir(task), split):
            if tasks.get(task).family == "tagging":
                found |= {" ".join(example.texts[i : i + 5]) for i in range(0, len(example.texts) - 5, 5)}
            else:
                found |= {text for text in example.texts if len(text) > 20}
    return sorted(found)


@pytest.mark.parametrize("task", ["mednli", "bc5cdr_disease", "hoc", "medsts"])
def test_no_sentence_leaves_the_data_folder(task: str, tiny_bert: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    run(arguments(task, tiny_bert, folder, "--max_steps", "3", "--wandb_mode", "offline", "--output_all_logits"))
    texts = sentences(task)
    assert len(texts) > 50
    assert wandb_offline.scan(folder, texts) == []
    for path in folder.rglob("*"):
        if path.is_file() and path.parent.name not in OWN_TEXT and path.name not in ORIGINAL_WITH_WORDS:
            content = path.read_bytes()
            assert not [text for text in texts if text.encode() in content], path
    modes = {path.stat().st_mode & 0o077 for path in (folder / "predictions").iterdir()}
    assert modes == {0}


def test_wandb_holds_every_epoch_and_the_best(tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "run"
    variables = {"PROJECT": "of-the-shell", "RUN_GROUP": "g", "NAME": "n", "TAGS": "a,b", "ENTITY": "team"}
    for name, value in variables.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    line = arguments("mednli", tiny_bert, folder, "--num_train_epochs", "3", "--wandb_mode", "offline")
    result = run([*line, "--logging_steps", "25"])
    rows = wandb_offline.history(folder)
    scores = {row["epoch"]: row["dev/score"] for row in rows if "dev/score" in row}
    assert scores == {float(entry["epoch"]): entry["dev"]["score"] for entry in result["epochs"]}
    steps = [row for row in rows if "train/loss" in row]
    assert [row["global_step"] for row in steps][:3] == [25, 50, 75]
    assert {"train/lr", "train/grad_norm", "train/examples_per_second", "train/tokens_per_second"} <= set(steps[0])
    summary = wandb_offline.summary(folder)
    assert summary["dev/score"]["max"] == max(scores.values())
    assert summary["test/score"] == result["scores"]["test"]["score"]
    header = wandb_offline.header(folder)
    [told, *_] = [record["run"] for record in wandb_offline.records(folder) if record["type"] == "run"]
    assert [told[name] for name in ("project", "run_group", "display_name", "entity")] == [
        "of-the-shell",
        "g",
        "n",
        "team",
    ]
    assert {"SAMPLE DATA", "a", "b"} <= {*header["tags"]} and header["config"]["learning_rate"] == 1e-3
    assert header["run_id"] == (folder / "wandb_id").read_text().strip()
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(text)["step"] for text in lines if '"epoch"' in text][-1] == result["steps"]
