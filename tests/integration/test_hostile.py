"""Run folders, files and names that are damaged or meant to harm: each costs itself alone, and nothing obeys them."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from damage import damage
from made_up_runs import made_up
from rich.live import Live
from rich.table import Table
from rich.text import Text
from running import arguments, refused

from harness import logs, records, terminal
from harness.config import RunConfig
from harness.logs import Console
from harness.terminal import visible
from harness.tracking import MetricsFile
from launch import report, score, submit, train
from launch.jobs import status as run_status
from launch.jobs.status import Attempt, Submission
from launch.reporting import tables

QUICK, BIG = 20, 300
BASES = ("mednli", "hoc", "biosses", "bc5cdr_disease")  # one of each family
OUTPUTS = ("report.html", "leaderboard.md", "leaderboard.tex", "leaderboard.csv", "leaderboard.json")
ESCAPES = "\x1b[2Jx\x1b]0;title\x07\x9b31m\u202e"


def submitted(folder: Path, task: str, model: str, seed: int = 12, **more: Any) -> Path:
    """A finished run with all the files that a submitted one has."""
    made_up(folder, task, model, seed, rows=6, **more)
    Submission("local", "4242_1", str(folder / "logs"), "node", "", str(folder), {"cluster": "local"}).write(folder)
    (folder / "attempt.json").write_text(json.dumps(Attempt("finished", "", "node", 4242, "", 1.0).__dict__))
    (folder / "train.log").write_text("2026-01-01 10:00:00 INFO task    x\n")
    return folder


def obeyed(text: str) -> str | None:
    """What of a text a terminal would obey."""
    found = re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e\ud800-\udfff]", text)
    return None if found is None else text[max(0, found.start() - 60) : found.end() + 20]


class TestDamagedFolders:
    @pytest.mark.parametrize("count", [QUICK, pytest.param(BIG, marks=pytest.mark.slow)])
    def test_all_others_are_whole(self, count: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        root, out = tmp_path / "runs", tmp_path / "out"
        done = {}
        for number in range(count):
            task = BASES[number % len(BASES)]
            pristine = tmp_path / "pristine" / task
            if not pristine.exists():
                submitted(pristine, task, "damaged")
            done[root / "bad" / f"{number:03}"] = damage(number, pristine, root / "bad" / f"{number:03}")
        good = {}
        for task in BASES:
            for seed, value in ((1, 0.71), (2, 0.73)):
                good[root / "good" / task / str(seed)] = task
                submitted(root / "good" / task / str(seed), task, "good", seed, score=value)
        started = time.process_time()
        status = self.reported(root, out, capsys)
        assert time.process_time() - started < 10 + count / 2
        assert set(good) <= set(status) and {path for path in done if path not in status} <= lost(done)
        assert {status[path]["state"] for path in good} == {"finished"}
        assert {(path, status[path]["test"]) for path in good if status[path]["test"] not in (0.71, 0.73)} == set()
        broken = {path: row["reason"] for path, row in status.items() if row["state"] == "broken"}
        assert len(broken) > count / 5
        assert {path: why for path, why in broken.items() if not why or "\n" in why or len(why) > 700} == {}
        board = json.loads((out / "leaderboard.json").read_text())
        row = next(row for row in board["rows"] if row["model"] == "good")
        assert {task: cell["scores"] for task, cell in row["tasks"].items()} == {
            task: {"1": 0.71, "2": 0.73} for task in BASES
        }
        listed = {root / entry["folder"]: entry["why"] for entry in board["left_out"]}
        counted = {
            root / name for row in board["rows"] for cell in row["tasks"].values() for name in cell["folders"].values()
        }
        assert set(status) <= listed.keys() | counted
        assert {path for path in broken if not listed[path].startswith("broken: ")} == set()

    def reported(self, root: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> dict[Path, dict[str, Any]]:
        """The states of all folders as `status` tells them, after every form of both reports was made and looked at."""
        capsys.readouterr()
        assert report.main([str(root), "--out", str(out), "--baseline", "good"]) == 0
        assert submit.main(["status", str(root)]) == 0
        assert obeyed(capsys.readouterr().out) is None
        for name in OUTPUTS:
            assert obeyed((out / name).read_text()) is None, name
        page = (out / "report.html").read_text()
        assert submit.main(["status", str(root), "--json"]) == 0
        rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert all(row["folder"] in page for row in rows)
        metrics = {row["folder"]: row.pop("figures") for row in rows}
        return {Path(row["folder"]): {**row, **metrics[row["folder"]]} for row in rows}


def lost(done: dict[Path, str]) -> set[Path]:
    """Folders of which too little is left to be known as those of runs."""
    return {path for path in done if not {"result.json", "metrics.jsonl"} & {name.name for name in path.iterdir()}}


REASONS = {  # file, what is changed in it -> where the reason points
    "timing": ("result.json", {"timing": None}, "result.json: timing"),
    "per_class": ("result.json", {"scores": {"test": {"per_class": None}}}, "scores.test.per_class"),
    "a class without precision": (
        "result.json",
        {"scores": {"test": {"per_class": {"a": {"recall": 1, "f1": 1, "support": 1}}}}},
        "scores.test.per_class.a.precision is missing",
    ),
    "a huge number": ("result.json", {"scores": {"test": {"score": 10**400}}}, "scores.test.score"),
    "a number as text": ("result.json", {"world_size": "2"}, "world_size"),
    "truth as a number": ("result.json", {"scores": {"dev": {"score": True}}}, "scores.dev.score"),
    "deep": ("result.json", "[" * 100_000, "result.json: not JSON"),
    "job of another form": ("submission.json", {"job": "--user=root"}, "submission.json: job"),
    "job of another type": ("submission.json", {"job": ["1"]}, "submission.json: job"),
    "request": ("submission.json", {"request": 1}, "submission.json: request"),
    "attempt": ("attempt.json", {"reason": {}}, "attempt.json: reason"),
    "unknown setting": ("config.json", {"learning_rat": 1}, "learning_rat: no such key"),
    "setting of another type": ("config.json", {"seed": [1]}, "config.json: seed"),
    "binary": ("config.json", "\x89PNG\r\n\x1a\n\0\0", "config.json: not JSON"),
    "a folder": ("result.json", None, "result.json: is not a file"),
    "a folder for the metrics": ("metrics.jsonl", None, "metrics.jsonl: is not a file"),
}


def merged(value: Any, change: Any) -> Any:
    if not isinstance(value, dict) or not isinstance(change, dict):
        return change
    return {**value, **{key: merged(value.get(key), inner) for key, inner in change.items()}}


@pytest.mark.parametrize("kind", REASONS)
def test_the_reason_names_the_place(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name, change, said = REASONS[kind]
    submitted(tmp_path / "good", "mednli", "good", score=0.8)
    path = submitted(tmp_path / "bad", "mednli", "bad") / name
    if change is None:
        path.unlink()
        path.mkdir()
    else:
        path.write_text(change if isinstance(change, str) else json.dumps(merged(json.loads(path.read_text()), change)))
    assert report.main([str(tmp_path), "--out", str(tmp_path / "out")]) == 0
    board = json.loads((tmp_path / "out" / "leaderboard.json").read_text())
    assert [row["model"] for row in board["rows"]] == ["good"]
    assert [entry["why"].startswith("broken: ") and said in entry["why"] for entry in board["left_out"]] == [True]
    capsys.readouterr()
    assert submit.main(["status", str(tmp_path), "--json"]) == 0
    rows = {Path(row["folder"]).name: row for row in map(json.loads, capsys.readouterr().out.splitlines())}
    assert rows["good"]["state"] == "finished"
    if name != "metrics.jsonl":  # a run can go on without its metrics
        assert rows["bad"]["state"] == "broken" and said in rows["bad"]["reason"]


def test_settings_come_back_as_they_were_written(tmp_path: Path) -> None:
    folder = made_up(tmp_path / "a", "mednli", flags=["--train_splits", "train", "--wandb_tags", "a,b"])
    path = folder / "config.json"
    assert records.config(path) == RunConfig.from_dict(json.loads(path.read_text()))


def test_a_result_comes_back_as_it_was_written(tmp_path: Path) -> None:
    path = made_up(tmp_path / "a", "hoc") / "result.json"
    assert records.result(path) == json.loads(path.read_text())


def test_a_finished_run_with_a_damaged_result_is_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = made_up(tmp_path / "a", "mednli", data_dir=None)
    path = folder / "result.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"scores": {"test": {"score": "x"}}}))
    words = ["--task", "mednli", "--model_name_or_path", "encoder-a", "--output_dir", str(folder)]
    config, _ = train_settings(words)
    with pytest.raises(Exception, match=r"result\.json:1: not a run's result \(scores\.test"):
        from launch.run import settings

        settings.prepare(config)


def train_settings(words: list[str]) -> Any:
    from launch.run import settings

    return settings.parse(words)


class TestTerminal:
    """Names come from folders, settings, results, logs and error texts."""

    def runs(self, root: Path) -> Path:
        made_up(root / f"a{ESCAPES}", "mednli", f"enc{ESCAPES}", rows=6, score=0.8)
        made_up(root / "b", "mednli", "m[red]x", rows=6, score=0.7)
        failed = made_up(root / "c", "mednli", "m", rows=6, finished=False)
        (failed / "train.log").write_text(f"2026-01-01 10:00:01 ERROR The run failed: out of {ESCAPES} memory\n")
        odd = os.fsdecode(os.fsencode(root) + b"/d\xff\xfe")
        made_up(Path(odd), "mednli", "m", seed=2, rows=6, score=0.6)
        wrong = made_up(root / "e", "mednli", "m", seed=3, rows=6)
        config = json.loads((wrong / "config.json").read_text())
        (wrong / "config.json").write_text(json.dumps(config | {f"new{ESCAPES}": 1}))
        return root

    def test_status_logs_and_report(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        root = self.runs(tmp_path / "runs")
        for command in (["status", str(root)], ["status", str(root), "--json"], ["logs", str(root / "c")]):
            assert submit.main(command) == 0
        assert report.main([str(root), "--out", str(tmp_path / "out"), "--baseline", "m[red]"]) == 0
        out, err = capsys.readouterr()
        assert obeyed(out) is None and obeyed(err) is None
        assert "enc\\u001b[2Jx" in out and "Against m[red]x" in out and "out of \\u001b[2Jx" in out
        for name in OUTPUTS:
            assert obeyed((tmp_path / "out" / name).read_text(encoding="utf-8")) is None, name

    def test_errors(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        config = tmp_path / "run.yaml"
        config.write_text(json.dumps({f"seed{ESCAPES}": 1, "task": f"x{ESCAPES}"}))
        error, _ = refused(train.main, capsys, "--config", config)
        assert obeyed(error) is None and "seed\\u001b[2Jx" in error
        rows = tmp_path / "p.tsv"
        rows.write_text(f"index\tgold\tprediction\n1\tneutral\t{ESCAPES}\n")
        error, _ = refused(score.main, capsys, "--task", "mednli", "--predictions", rows)
        assert obeyed(error) is None and "unknown label" in error

    def test_log_lines(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        logs.setup(True, tmp_path / "train.log")
        try:
            logs.logger.warning("model %s", ESCAPES)
            logs.print_table(ESCAPES, [{ESCAPES: ESCAPES}])
        finally:
            logs.close()
        assert obeyed(capsys.readouterr().out) is None
        assert obeyed((tmp_path / "train.log").read_text()) is None

    def test_rich_draws_and_texts_do_not(self) -> None:
        """On a terminal rich's own sequences arrive, through the streams of `safely` too; those of a text never do."""
        stream = io.StringIO()
        table = Table(title=ESCAPES)
        table.add_column(ESCAPES)
        table.add_row(Text(ESCAPES, "bold red"))
        table.add_row("[red]name[/x]")
        proxied = terminal._Stream(stream)
        console = Console(file=proxied, force_terminal=True, width=120, legacy_windows=False)
        console.print(table)
        console.print(Text(ESCAPES), soft_wrap=True)
        with Live(console=console, auto_refresh=False) as live:
            live.update(Text(ESCAPES), refresh=True)
            live.update(Text("more"), refresh=True)
        text = stream.getvalue()
        assert "\x1b[1;31m" in text and "\x1b[2K" in text and "[red]name[/x]" in text
        assert "\x1b[2J" not in text and "\x1b]0" not in text and "\x07" not in text and "\x9b" not in text
        assert text.count("\\u001b[2Jx\\u001b]0;title\\u009b31m\\u202e") >= 3

    def test_what_is_visible_is_json_still(self) -> None:
        text = json.dumps({"a": "\x7f\x9b é \t \u202e"}, ensure_ascii=False)
        assert json.loads(visible(text)) == json.loads(text) and obeyed(visible(text)) is None
        assert visible("plain\ttext\r\nof é 漢字 🙂 two lines\n") == "plain\ttext\r\nof é 漢字 🙂 two lines\n"

    def test_streams_come_back(self, capsys: pytest.CaptureFixture[str]) -> None:
        import sys

        before = sys.stdout, sys.stderr
        with terminal.safely():
            with terminal.safely():
                print("\x1b", "a", file=sys.stderr)
                Console(force_terminal=True).print(Text("b", "bold"))
            assert sys.stdout.isatty() == before[0].isatty()
        assert (sys.stdout, sys.stderr) == before
        assert capsys.readouterr() == ("\x1b[1mb\x1b[0m\n", "\\u001b a\n")


FORMULAS = ("=1+1", "+1+1", "-1+1", "@SUM(1)", "\t=1", "\r=1", " =1", "=HYPERLINK(x)", "-x", "+-1", "=-0.12", "-0.12,3")
NUMBERS = ("-0.12", "+3", "-1e-05", "0.5", "-0.1 0.2 -3", "")


class TestSpreadsheets:
    @pytest.mark.parametrize("cell", FORMULAS)
    def test_formulas_are_text(self, cell: str) -> None:
        assert tables._no_formula(cell) == f"'{cell}"

    @pytest.mark.parametrize("cell", [*NUMBERS, "encoder-a", "a=b", "model [x=-1]"])
    def test_others_stay(self, cell: str) -> None:
        assert tables._no_formula(cell) == cell

    def test_in_the_leaderboard(self, tmp_path: Path) -> None:
        for number, model in enumerate(name for name in FORMULAS[:7] if name[0] != "-"):
            made_up(tmp_path / "runs" / str(number), "biosses", model, rows=6, score=-0.12)
        made_up(tmp_path / "runs" / "more", "biosses", FORMULAS[0], seed=13, rows=6, score=-0.2)
        assert report.main([str(tmp_path / "runs"), "--out", str(tmp_path / "out")]) == 0
        with open(tmp_path / "out" / "leaderboard.csv", newline="") as file:
            rows = [row for row in csv.DictReader(file) if row["kind"] == "ours"]
        assert len(rows) == 6 and all(row["model"].startswith("'") for row in rows)
        assert {float(row["mean"]) for row in rows} == {-0.12, -0.16}
        assert "-0.12 -0.2" in {row["scores"] for row in rows}


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n"
BOMB = (
    "a: &a [x]\n"
    + "".join(f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True))
    + "train_splits: *i\nlearning_rate: *i\n"
)
CONTENTS = {  # of a file that a flag names
    "5,000 brackets": "[" * 5000,
    "5,000 braces": '{"a":' * 5000,
    "an LFS pointer": POINTER,
    "digits": '{"zero_optimization": {"stage": ' + "1" * 5000 + "}}",
    "an endless number": '{"learning_rate": %s, "zero_optimization": {"stage": %s}}' % (("1" * 401,) * 2),
    "binary": "\x00\x01\x02",
    "aliases": BOMB,
    "dots": "a" + ".a" * 5000 + " = 1",
    "a list": "[1]",
}  # fmt: skip
FLAGS = {
    "--config": "x.yaml",
    "--ds_config": "x.json",
    "--task_file": "x.toml",
    "--profile": "x.toml",
    "--suite": "x.toml",
}


@pytest.mark.parametrize("flag", FLAGS)
@pytest.mark.parametrize("kind", CONTENTS)
def test_files_of_settings(flag: str, kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One line that names the file, and an LFS pointer as what it is."""
    path = tmp_path / FLAGS[flag]
    path.write_text(CONTENTS[kind])
    words: list[object] = [flag, path]
    if flag in ("--profile", "--suite"):
        words += ["--model", "m"] if flag == "--suite" else ["--task", "mednli", "--cluster", "local"]
        error = told(submit.main, capsys, *words)
    elif flag == "--ds_config":
        from harness.ds import config as ds_config
        from harness.errors import UserError

        with pytest.raises(UserError) as caught:
            ds_config.read(str(path))
        error = str(caught.value)
    else:
        error = told(train.main, capsys, *words, *(["--task", "mednli"] if flag == "--config" else []))
    assert str(path) in error and len(error) < 4000 and all(len(line) < 700 for line in error.splitlines())
    assert ("git lfs pull" in error) == (kind == "an LFS pointer")


def told(main: Any, capsys: pytest.CaptureFixture[str], *words: object) -> str:
    """The error of a command: a line for each fault."""
    capsys.readouterr()
    assert main([str(word) for word in words]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and "Traceback" not in error
    return error


class TestMetrics:
    """metrics.jsonl is opened line by line."""

    def line(self, step: int, kind: str = "step", **values: float) -> str:
        epoch = float(step) if kind == "epoch" else None
        return json.dumps({"kind": kind, "step": step, "epoch": epoch, "time": 1.0, "values": values}) + "\n"

    def test_lines_that_are_none_of_ours_go(self, tmp_path: Path) -> None:
        path, good = tmp_path / "metrics.jsonl", [self.line(1, a=1.5), self.line(2, "epoch", a=3e38)]
        odd = [
            "\n",
            "[]\n",
            '{"kind": "step"}\n',
            "\x00\xff\n",
            "[" * 5000 + "\n",
            '{"kind": "step", "step": "1", "values": {}}\n',
        ]
        path.write_text(odd[0] + good[0] + "".join(odd) + good[1] + self.line(3)[:20])
        metrics = MetricsFile(path, 2)
        assert path.read_text() == "".join(good) and metrics.count() == 2
        assert [row.step for row in metrics.rows()] == [1, 2] and [row.step for row in metrics.rows(1)] == [2]

    def test_what_is_lived_again_goes(self, tmp_path: Path) -> None:
        path = tmp_path / "metrics.jsonl"
        path.write_text(self.line(1) + self.line(2) + self.line(2, "epoch") + self.line(3))
        metrics = MetricsFile(path, 2)
        assert path.read_text() == self.line(1) + self.line(2) + self.line(2, "epoch")
        metrics.log_epoch(1.0, 2, {"dev/score": 0.5})
        steps = [(row.kind, row.step, row.values) for row in metrics.rows()]
        assert steps == [("step", 1, {}), ("step", 2, {}), ("epoch", 2, {"dev/score": 0.5})]
        assert list(tmp_path.iterdir()) == [path] and path.stat().st_mode & 0o077 == 0
        written = path.stat().st_mtime_ns
        MetricsFile(path, 2)
        assert path.stat().st_mtime_ns == written  # nothing was to be dropped

    @pytest.mark.slow
    def test_a_million_lines_fit(self, tmp_path: Path) -> None:
        path = tmp_path / "metrics.jsonl"
        with open(path, "w") as file:
            for step in range(1_000_000):
                kind, epoch = ("epoch", "1.0") if step % 10 == 9 else ("step", "null")
                file.write(f'{{"kind": "{kind}", "step": {step}, "epoch": {epoch}, "values": {{"dev/score": 0.5}}}}\n')
        before = peak(reset=True)
        metrics = MetricsFile(path, 900_000)
        assert metrics.last_epoch == 899_999 and metrics.count() == 900_001
        assert run_status.newest_metrics(tmp_path).step == 900_000
        assert peak() - before < 50e6


def peak(reset: bool = False) -> float:
    """Bytes of memory that this process had at most, since the last reset."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return 1024.0 * int(found[1])


def test_damaged_submission_is_as_if_there_were_none(tmp_path: Path) -> None:
    """For those who only ask whether one still has the run; status names the damage."""
    folder = submitted(tmp_path / "a", "mednli", "m")
    assert run_status.read_submission(folder) is not None and run_status.fault(folder) == ""
    for value in ("--user=root", "", "1;2", "12a", ["1"], 12, None, "1\n2"):
        values = json.loads((folder / "submission.json").read_text())
        (folder / "submission.json").write_text(json.dumps(values | {"job": value}))
        assert run_status.read_submission(folder) is None and "submission.json: job" in run_status.fault(folder)
    shutil.rmtree(folder)
    assert run_status.fault(folder) == ""


def test_a_features_folder_that_is_a_file(tiny_bert: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from running import cut, run

    data = cut("mednli", tmp_path / "data", 20)
    (data / ".features").write_text("x")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("harness.token_cache.WORTH", 1)
        run(arguments("mednli", tiny_bert, tmp_path / "run", "--data_dir", str(data), "--max_steps", "1"))
    said = [line for line in capsys.readouterr().out.splitlines() if ".features" in line]
    assert len(said) == 1 or (len(said) == 3 and len(set(said)) == 1), said
    assert "--feature_cache" in said[0] and (data / ".features").read_text() == "x"
