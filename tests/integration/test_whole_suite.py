"""The ten tasks in one process on made-up data of the published sizes, and the peers from a bare clone."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

import tasks
from benchmarks import bench, made_up

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("task", tasks.BLUE)
def test_made_up_rows_are_of_the_published_number(task: str, tmp_path: Path) -> None:
    share = 0.2
    folder = made_up.made_up(task, tmp_path / task, share)
    for split in ("train", "dev", "test"):
        examples = tasks.get(task).read(folder, split)
        wanted = max(1, round(share * made_up.published_size(task, split)))
        if tasks.get(task).family == "tagging":
            mentions = sum(list(example.label).count("B") for example in examples)
            once = sum(list(e.label).count("B") for e in tasks.get(task).read(tasks.sample_dir(task), split))
            assert wanted <= mentions < wanted + once
        else:
            assert len(examples) == wanted


def test_peers_run_from_a_bare_clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without --data, and with the batch that the Makefile asks for; the systems themselves are not started."""
    seen: list[tuple[int, int]] = []
    figures = dict.fromkeys(bench.FIGURES, 1.0)

    def system(*given: Any) -> dict[str, float]:
        *_, data, _, args, _ = given
        seen.append((len(tasks.get("chemprot").read(data, "train")), args.batch))
        return figures

    monkeypatch.setattr(bench, "ours", system)
    monkeypatch.setattr(bench, "peer", system)
    out = tmp_path / "out.json"
    flags = [
        "--models",
        "embedded",
        "--tasks",
        "chemprot",
        "--steps",
        "60",
        "--batch",
        "256",
        "--rounds",
        "1",
        "--peers",
        "hf",
    ]
    monkeypatch.setattr(sys, "argv", ["bench", *flags, "--out", str(out)])
    bench.main()
    assert seen == [(60 * 256, 256)] * 2 and json.loads(out.read_text())["cases"][0]["made_up"]
