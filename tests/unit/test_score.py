"""launch/score.py: any system's predictions scored as a run scores its own, and errors that name the line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from made_up_runs import made_up
from running import cut, refused

import tasks
from harness.task import Prediction
from launch import score
from tasks import predictions

if TYPE_CHECKING:
    from finished_runs import Finished

pytest_plugins = ("finished_runs",)


def scored(capsys: pytest.CaptureFixture[str], *argv: str) -> dict[str, Any]:
    capsys.readouterr()
    assert score.main(argv) == 0
    result: dict[str, Any] = json.loads(capsys.readouterr().out)
    return result


def complaint(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    error, printed = refused(score.main, capsys, *argv)
    assert printed == []
    return error


@pytest.mark.slow
@pytest.mark.parametrize("task", tasks.BLUE)
@pytest.mark.parametrize("split", ["dev", "test"])
def test_it_agrees_with_the_run(
    task: str, split: str, ten_runs: dict[str, Finished], capsys: pytest.CaptureFixture[str]
) -> None:
    run = ten_runs[task]
    of_run = json.loads((run.folder / "result.json").read_text())["scores"][split]
    argv = ["--task", task, "--predictions", str(run.folder / "predictions" / f"{split}.tsv")]
    for more in ([], ["--data_dir", str(run.data), "--split", split]):
        found = scored(capsys, *argv, *more)
        unknown = {"loss", "examples", "micro_roc_auc", "warnings"}  # need probabilities, or the pieces of a sentence
        assert of_run.keys() - unknown <= found.keys()
        for name in of_run.keys() - unknown - {"per_class"}:
            assert found[name] == of_run[name], name
        for label, figures in of_run["per_class"].items():
            assert found["per_class"][label] == {k: v for k, v in figures.items() if k != "roc_auc"}


RELATIONS = """index\tgold\tprediction
a\tDDI-int\tDDI-int
b\tDDI-false\tDDI-effect
c\tDDI-advise\tDDI-false
d\tDDI-false\tDDI-false
e\tDDI-effect\tDDI-effect
"""


def test_a_file_made_by_hand(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "f.tsv").write_text(RELATIONS)
    found = scored(capsys, "--task", "DDI2013", "--predictions", str(tmp_path / "f.tsv"))
    assert (found["TP"], found["FP"], found["FN"]) == (2, 1, 1)
    assert found["score"] == pytest.approx(2 / 3) and found["metric"] == "micro F1 without DDI-false"
    assert found["accuracy"] == 0.6 and found["per_class"]["DDI-advise"]["recall"] == 0.0
    assert "sample" not in json.dumps(found).lower()


def test_disjoint_mentions_and_documents(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An I that joins the B before an O, and two sentences of one document."""
    (tmp_path / "n.tsv").write_text(
        "token\tgold\tprediction\nleft\tB\tB\natrium\tI\tI\nis\tO\tO\ndilated\tI\tO\n\npain\tB\tB\n"
    )
    found = scored(capsys, "--task", "clefe", "--predictions", str(tmp_path / "n.tsv"))
    assert found["score"] == 0.5 and (found["TP"], found["FP"], found["FN"]) == (1, 1, 1)
    labels = {name: ",".join(f"{i}_{int(i == name)}" for i in range(10)) for name in (0, 1, 2)}
    rows = [("7_s0", labels[0], labels[1]), ("7_s1", labels[1], labels[0]), ("8_s0", labels[2], labels[1])]
    (tmp_path / "h.tsv").write_text("index\tgold\tprediction\n" + "".join("\t".join(row) + "\n" for row in rows))
    found = scored(capsys, "--task", "hoc", "--predictions", str(tmp_path / "h.tsv"))
    assert found["score"] == 0.5 and found["documents"] == 2 and found["sentence_micro_f1"] == 0.0


def test_numbers_that_a_diverged_model_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "s.tsv").write_text("index\tgold\tprediction\n0\t1.0\tnan\n1\t2.0\t1.5\n")
    found = scored(capsys, "--task", "biosses", "--predictions", str(tmp_path / "s.tsv"))
    assert found["score"] == 0 and "not finite" in found["warnings"][0]


WRONG = {
    "no file": ("ddi2013", None, "f.tsv: cannot be read"),
    "empty": ("ddi2013", "", "f.tsv:1: the file is empty"),
    "unknown label": ("ddi2013", RELATIONS.replace("c\tDDI-advise", "c\tDDI-advice"), "f.tsv:4: unknown label"),
    "another task's": ("ddi2013", "index\tgold\tprediction\n0\t1.0\t1.0\n", "f.tsv:2: unknown label '1.0'"),
    "two columns": ("ddi2013", RELATIONS.replace("b\t", ""), "f.tsv:3: 2 column(s)"),
    "no number": ("medsts", "index\tgold\tprediction\n0\t1.0\thigh\n", "f.tsv:2: score 'high'"),
    "gold without a number": ("medsts", "index\tgold\tprediction\n0\tnan\t1.0\n", "f.tsv:2: score 'nan'"),
    "tag": ("clefe", "token\tgold\tprediction\na\tB\tB-X\n", "f.tsv:2: unknown label 'B-X'"),
    "words without a header": ("clefe", "a\tB\tB\n", "f.tsv:1: the header is missing"),
    "tags without a header": ("clefe", "a\tB\n", "f.tsv:1: the header is missing"),
    "one column": ("ddi2013", "prediction\nDDI-int\n", "f.tsv:1: 1 column(s) in the header"),
    "commas": ("ddi2013", "index,gold,prediction\na,DDI-int,DDI-int\n", "f.tsv:1: 1 column(s) in the header"),
    "an empty line": ("ddi2013", RELATIONS.replace("b\t", "\nb\t"), "f.tsv:3: empty line, the header has 3"),
    "no rows": ("ddi2013", "index\tgold\tprediction\n", "f.tsv:1: no examples after the header"),
    "no gold": ("ddi2013", "index\tprediction\na\tDDI-int\n", "f.tsv:1: has no gold column; name the task's folder"),
    "words without gold": ("clefe", "token\tprediction\na\tB\n", "f.tsv:1: has no gold column"),
    "label set": ("hoc", "index\tgold\tprediction\n1_s0\t0_1\t0_1\n", "f.tsv:2: labels '0_1' not of the form"),
}  # fmt: skip


@pytest.mark.parametrize("kind", WRONG)
def test_a_wrong_file(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    task, text, expected = WRONG[kind]
    if text is not None:
        (tmp_path / "f.tsv").write_text(text)
    assert expected in complaint(capsys, "--task", task, "--predictions", str(tmp_path / "f.tsv"))


def test_wrong_flags(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "'mednli'" in complaint(capsys, "--task", "mednly", "--predictions", "x")
    assert "--predictions" in complaint(capsys, "--task", "mednli")
    assert "--data_dir" in complaint(capsys, "--task", "mednli", "--predictions", "x", "--split", "dev")


def without_gold(lines: list[str]) -> list[str]:
    return ["\t".join(cells[:1] + cells[2:]) for cells in (line.split("\t") for line in lines)]


def quoted(lines: list[str]) -> list[str]:
    """As csv.QUOTE_ALL writes them."""
    cells = ([cell.replace('"', '""') for cell in line.split("\t")] for line in lines)
    return ["\t".join(f'"{cell}"' for cell in row) if any(row) else "" for row in cells]


class TestTwoColumns:
    @pytest.mark.parametrize("task", ["medsts", "mednli", "hoc", "bc5cdr_chem"])
    def test_gold_comes_from_the_data(
        self, task: str, ten_runs: dict[str, Finished], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        run, path = ten_runs[task], tmp_path / "f.tsv"
        of_run = json.loads((run.folder / "result.json").read_text())["scores"]["test"]
        header, *rows = (run.folder / "predictions" / "test.tsv").read_text().rstrip("\n").split("\n")
        if task != "bc5cdr_chem":
            rows.reverse()  # the index says whose row it is
        lines = without_gold([header, *rows])
        argv = ["--task", task, "--predictions", str(path), "--data_dir", str(run.data)]
        for text in (
            "\n".join(lines) + "\n",
            "\ufeff" + "\r\n".join(lines) + "\r\n",
            "\n".join(quoted(lines)),
            "\n".join(quoted([header, *rows])),
        ):
            path.write_bytes(text.encode())
            found = scored(capsys, *argv)
            assert next(iter(found)) == "score" and found["score"] == of_run["score"]
            assert {name: found["per_class"][name]["f1"] for name in found["per_class"]} == {
                name: figures["f1"] for name, figures in of_run["per_class"].items()
            }

    def test_rows_that_are_not_golds(
        self, ten_runs: dict[str, Finished], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        run, path = ten_runs["mednli"], tmp_path / "f.tsv"
        lines = without_gold((run.folder / "predictions" / "test.tsv").read_text().rstrip("\n").split("\n"))
        argv = ["--task", "mednli", "--predictions", str(path), "--data_dir", str(run.data)]
        for text, expected in (
            ([*lines[:3], *lines[4:]], "f.tsv: no row for index 'test-2'; give one row for each example of"),
            ([*lines, "test-99\tneutral"], "f.tsv:42: index 'test-99' is none of gold's (there it is 'test-0'"),
            ([*lines, lines[5]], "f.tsv:42: index 'test-4' is already in line 6"),
            ([*lines[:5], "test-4\tmaybe", *lines[6:]], "f.tsv:6: unknown label 'maybe'; use one of contradiction, "),
            ([*lines[:5], "test-4", *lines[6:]], "f.tsv:6: 1 column(s), the header has 2"),
            (lines[1:], "f.tsv:1: the header is missing"),
        ):
            path.write_text("\n".join(text))
            assert expected in complaint(capsys, *argv)

    def test_words(self, ten_runs: dict[str, Finished], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        run, path = ten_runs["bc5cdr_chem"], tmp_path / "f.tsv"
        lines = without_gold((run.folder / "predictions" / "test.tsv").read_text().rstrip("\n").split("\n"))
        argv = ["--task", "bc5cdr_chem", "--predictions", str(path), "--data_dir", str(run.data)]
        for text, expected in (
            ([*lines[:3], "zzz\tO", *lines[4:]], "f.tsv:4: token 'zzz' where gold has"),
            ([line for line in lines if line], "a sentence of"),
            ([*lines[:3], "zzz\tO\tO", *lines[4:]], "f.tsv:4: 3 column(s), 2 expected (token, prediction)"),
        ):
            path.write_text("\n".join(text))
            assert expected in complaint(capsys, *argv)


def test_columns_in_another_order(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [line.split("\t") for line in RELATIONS.splitlines()]
    (tmp_path / "f.tsv").write_text("".join(f"{prediction}\t{index}\t{gold}\n" for index, gold, prediction in rows))
    found = scored(capsys, "--task", "ddi2013", "--predictions", str(tmp_path / "f.tsv"))
    assert found["per_class"]["DDI-advise"] == {"precision": 0.0, "recall": 0.0, "f1": 0.0, "support": 1}


def test_a_table_for_people(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """On stderr, so that stdout stays JSON alone."""
    (tmp_path / "f.tsv").write_text(RELATIONS)
    assert score.main(["--task", "ddi2013", "--predictions", str(tmp_path / "f.tsv")]) == 0
    out, err = capsys.readouterr()
    assert out.startswith('{\n  "score": 0.66') and json.loads(out)["task"] == "ddi2013"
    assert err.splitlines()[0] == "ddi2013: micro F1 without DDI-false 66.67"
    rows = {line.split()[0]: line.split()[1:] for line in err.splitlines()[2:]}
    assert rows["DDI-int"] == ["100.00", "100.00", "100.00", "1"] and rows["DDI-advise"][1] == "0.00"


class TestGold:
    """With the data file given, a row that is not its row is named."""

    def check(self, task: str, spoil: Any, run: Finished, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> str:
        lines = (run.folder / "predictions" / "test.tsv").read_text().split("\n")
        (tmp_path / "f.tsv").write_text("\n".join(spoil(lines)))
        argv = ["--task", task, "--predictions", str(tmp_path / "f.tsv"), "--data_dir", str(run.data)]
        return complaint(capsys, *argv)

    def test_rows(self, ten_runs: dict[str, Finished], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        run = ten_runs["mednli"]

        def relabelled(lines: list[str]) -> list[str]:
            cells = lines[5].split("\t")
            other = "neutral" if cells[1] != "neutral" else "entailment"
            return [*lines[:5], "\t".join([cells[0], other, cells[2]]), *lines[6:]]

        for spoil, expected in (
            (lambda lines: lines[:4] + lines[5:], "f.tsv: no row for index 'test-3'; give"),
            (lambda lines: [*lines[:-3], ""], "f.tsv: no row for index 'test-38' and for 1 more; give"),
            (relabelled, "f.tsv:6: gold label of 'test-4' differs"),
        ):
            said = self.check("mednli", spoil, run, tmp_path, capsys)
            assert expected in said and str(run.data / "test.tsv") in said

    def test_words(self, ten_runs: dict[str, Finished], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        run = ten_runs["bc5cdr_chem"]
        for spoil, expected in (
            (lambda lines: [*lines[:3], "zzz\tO\tO", *lines[4:]], "f.tsv:4: token 'zzz' where gold has"),
            (lambda lines: [*lines[:4], "", *lines[4:]], "f.tsv:5: a sentence of 3 words, gold has"),
        ):
            assert expected in self.check("bc5cdr_chem", spoil, run, tmp_path, capsys)

    def test_sample_data_is_named(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        folder = tasks.sample_dir("biosses")
        rows = [(e.id, repr(e.label)) for e in tasks.get("biosses").read(folder, "test")]
        (tmp_path / "f.tsv").write_text("index\tgold\tprediction\n" + "".join(f"{i}\t{g}\t{g}\n" for i, g in rows))
        argv = ["--task", "biosses", "--predictions", str(tmp_path / "f.tsv"), "--data_dir", str(folder)]
        assert "SAMPLE DATA" in scored(capsys, *argv)["note"]


def test_tags_without_tokens(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As a bundle holds them; the gold standard's tags are compared all the same."""
    data = cut("bc5cdr_chem", tmp_path / "data", 8)
    task = tasks.get("bc5cdr_chem")
    examples = task.read(data, "test")
    rows = "\n".join(task.rows(examples, [Prediction(("O",) * len(one.label)) for one in examples])) + "\n"
    whole, bare = tmp_path / "whole.tsv", tmp_path / "bare.tsv"
    whole.write_text(rows)
    bare.write_bytes(predictions.without_tokens(whole.read_bytes()))
    assert bare.read_text().startswith("gold\tprediction\n") and bare.read_text().count("\n") == rows.count("\n")
    assert predictions.without_tokens(bare.read_bytes()) == bare.read_bytes()
    argv = ["--task", "bc5cdr_chem", "--predictions"]
    for more in ([], ["--data_dir", str(data)]):
        assert scored(capsys, *argv, str(bare), *more) == scored(capsys, *argv, str(whole), *more)
    bare.write_text(bare.read_text().replace("B\tO", "O\tO", 1))
    assert "gold tag O where the gold file has B" in complaint(capsys, *argv, str(bare), "--data_dir", str(data))
    bare.write_text("\n".join(bare.read_text().splitlines()[:-3]) + "\n")
    assert "bare.tsv:" in complaint(capsys, *argv, str(bare), "--data_dir", str(data))


def test_predictions_of_a_run_on_sample_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Also without --data_dir, as people score what a run left."""
    for data_dir, is_sample in ((None, True), ("/data", False)):
        folder = made_up(tmp_path / str(is_sample), "mednli", data_dir=data_dir)
        assert score.main(["--task", "mednli", "--predictions", str(folder / "predictions" / "test.tsv")]) == 0
        printed = capsys.readouterr()
        assert ("SAMPLE DATA" in printed.err) == ("note" in json.loads(printed.out)) == is_sample
