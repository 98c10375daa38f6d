"""report.html in a real, headless Chromium: opened from a file, without a network."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from made_up_runs import made_up
from running import cut

import tasks
from launch import report
from launch.reporting.leaderboard import PUBLISHED

pytestmark = pytest.mark.slow
MODELS = ("encoder-a", "encoder-b")


@dataclass
class Page:
    """A page of the browser and everything that it complained about."""

    page: Any
    complaints: list[str] = field(default_factory=list)

    def open(self, path: Path, tab: str = "") -> None:
        self.page.goto(f"{path.as_uri()}#/{tab}")
        self.page.wait_for_function("document.querySelector('[role=tab][aria-selected=true]') !== null")

    def tab(self, name: str) -> None:
        self.page.click(f"#tab-{name}")
        self.page.wait_for_selector(f"#{name}", state="visible")

    def texts(self, selector: str) -> list[str]:
        found: list[str] = self.page.eval_on_selector_all(
            selector, "all => all.filter(one => one.offsetParent !== null).map(one => one.textContent.trim())"
        )
        return found

    def options(self, select: str) -> list[str]:
        found: list[str] = self.page.eval_on_selector_all(f"#{select} option", "all => all.map((one) => one.text)")
        return found

    def drawn(self, name: str) -> int:
        """Traces in a chart."""
        self.page.wait_for_function(f"document.querySelector('#plot-{name} .main-svg') !== null")
        count: int = self.page.evaluate(f"document.getElementById('plot-{name}').data.length")
        return count


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    found = subprocess.run(
        ["bash", str(Path(__file__).resolve().parents[1] / "chromium.sh")], capture_output=True, text=True
    )
    if found.returncode == 77:
        pytest.skip(found.stdout.strip())
    assert found.returncode == 0, found.stderr
    with sync_playwright() as driver:
        # A container has no user namespaces for Chromium's own sandbox; it opens nothing but our file.
        started = driver.chromium.launch(executable_path=found.stdout.split()[-1], args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def page(browser: Any) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": 1300, "height": 900})
    context.set_default_timeout(240_000)  # a machine that does much else beside
    opened = Page(context.new_page())
    opened.page.on("console", lambda m: opened.complaints.append(m.text) if m.type in ("error", "warning") else None)
    opened.page.on("pageerror", lambda error: opened.complaints.append(str(error)))
    opened.page.on(
        "request", lambda r: None if r.url.startswith(("file:", "data:", "blob:")) else opened.complaints.append(r.url)
    )
    yield opened
    context.close()
    assert opened.complaints == []


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of two models on all tasks with two seeds, a failed run, a broken one and one on sample data."""
    root = tmp_path_factory.mktemp("report")
    data = {task: cut(task, root / "data" / task, 30) for task in ("mednli", "bc5cdr_disease")}
    for task in tasks.BLUE:
        for model, skill in zip(MODELS, (0.7, 0.9), strict=True):
            for seed in (1, 2):
                folder = root / "runs" / task / model / f"seed-{seed}"
                made_up(folder, task, model, seed, skill=skill, rows=30, data_dir=str(root / "data"))
    made_up(root / "runs" / "going", "mednli", MODELS[0], 3, finished=False, data_dir=str(root / "data"))
    (made_up(root / "runs" / "broken", "mednli", MODELS[0], 4) / "result.json").write_text("{")
    made_up(root / "runs" / "sample", "ddi2013", "<b>odd</b> & model", data_dir=None)
    argv = [str(root / "runs"), "--out", str(root / "out"), "--baseline", MODELS[0], "--with_text", "--published"]
    assert report.main(argv) == 0 and len(data) == 2
    return root / "out" / "report.html"


def test_it_opens_with_a_leaderboard(made: Path, page: Page) -> None:
    page.open(made)
    rows = page.texts("#board tbody tr.ours th")
    assert rows == ["encoder-b", "encoder-a"] and len(page.texts("#board tbody tr.published")) == 4
    assert "SAMPLE DATA" in page.texts(".banner")[0]
    assert page.drawn("board") == 6
    assert len(page.texts("#tests tbody tr")) == 10
    assert page.page.get_attribute("#notes", "open") is None
    page.page.click("#notes summary")
    assert page.texts("#notes h3") == ["intervals, ranks and bold", "left out"]
    page.page.click("#intervals summary")
    assert re.fullmatch(r"[0-9.]+ to [0-9.]+ \(1\)", page.texts("#intervals tbody td:nth-child(2)")[0])
    notes = " ".join(page.texts("#notes li"))
    assert "broken" in notes and "SAMPLE DATA" in notes and "<b>" not in " ".join(rows)
    assert page.page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(246, 247, 249)"
    page.page.click("#theme")
    assert page.page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(18, 22, 29)"


def test_sorting(made: Path, page: Page) -> None:
    page.open(made)
    heads = page.texts("#board thead th")
    column = heads.index("HoC")

    def values() -> list[float]:
        cells = f"#board tbody tr td:nth-child({column + 1})"
        return [float(re.match(r"[-.0-9]+", text).group()) for text in page.texts(cells)]  # type: ignore[union-attr]

    page.page.click(f"#board thead th:nth-child({column + 1})")
    assert values() == sorted(values(), reverse=True) and len(values()) == 6
    page.page.click(f"#board thead th:nth-child({column + 1})")
    assert values() == sorted(values())
    page.tab("runs")
    page.page.click("#run-table thead th:nth-child(3)")
    page.page.click("#run-table thead th:nth-child(3)")
    seeds = page.texts("#run-table tbody tr td:nth-child(3)")
    assert seeds[0] == "1" and seeds[-1] == ""  # the broken run has none: last in either order


def test_tabs_and_charts(made: Path, page: Page) -> None:
    page.open(made, "tasks")
    assert page.page.evaluate("window.scrollY") == 0
    assert page.texts("[role=tabpanel] > .grid") and not page.texts("#board")
    assert page.drawn("score") == 6 and page.drawn("scatter") == 2 and page.drawn("calibration") == 2
    assert "Confusion matrix" not in page.texts("#tasks h2")
    page.page.select_option("#task", label="MedNLI")
    assert page.drawn("confusion") == 1 and page.drawn("classes") == 2 and page.drawn("loss") == 12
    counts = page.page.evaluate("document.getElementById('plot-confusion').data[0].text.flat().reduce((a, b) => a + b)")
    assert counts == 2 * 30
    page.page.click("#models button:nth-child(1)")
    page.page.wait_for_function("document.getElementById('plot-classes').data.length === 1")
    page.page.select_option("#task", label="DDI (SAMPLE DATA)")
    assert page.drawn("classes") == 1
    page.page.keyboard.press("Escape")
    page.page.focus("#tab-tasks")
    page.page.keyboard.press("ArrowRight")
    page.page.wait_for_selector("#run-table thead", state="visible")  # the page hears of its new address a task later
    assert page.page.evaluate("location.hash") == "#/runs"


def test_runs_are_filtered(made: Path, page: Page) -> None:
    page.open(made, "runs")
    assert page.texts("#run-count") == ["43 of 43 runs"]
    page.page.select_option("#run-task", label="MedNLI")
    assert page.texts("#run-count") == ["5 of 43 runs"] and len(page.texts("#run-table tbody tr")) == 5
    page.page.fill("#run-text", "encoder-b seed-2")
    assert page.texts("#run-count") == ["1 of 43 runs"]
    link = page.page.get_attribute("#run-table tbody tr:not([hidden]) a", "href")
    assert Path(link.removeprefix("file://")).is_dir()
    command = page.page.get_attribute("#run-table tbody tr:not([hidden]) .copy", "data-command")
    assert command.startswith("deepspeed launch/train.py --task mednli --model_name_or_path encoder-b --seed 2")
    page.page.fill("#run-text", "")
    page.page.select_option("#run-task", value="")
    page.page.select_option("#run-status", label="broken")
    assert len(page.texts("#run-table tbody tr")) == 1 and "not JSON" in page.texts("#run-table tbody tr")[0]


def test_errors_are_browsed(made: Path, page: Page) -> None:
    page.open(made, "errors")
    page.page.select_option("#error-task", label="MedNLI")
    answers = {model: answers_of(made, "mednli", model) for model in MODELS}
    gold, a, b = [g for _, g, _ in answers[MODELS[0]]], *([p for *_, p in answers[model]] for model in MODELS)
    rows = page.texts("#error-table tbody tr td:first-child")
    assert rows == [f"test-{i}" for i in range(30) if a[i] != gold[i]]
    page.page.select_option("#error-b", label="encoder-b, seed 1")
    page.page.select_option("#error-kind", value="only-a")
    assert rows_shown(page) == [f"test-{i}" for i in range(30) if a[i] != gold[i] and b[i] == gold[i]]
    page.page.select_option("#error-kind", value="differ")
    assert rows_shown(page) == [f"test-{i}" for i in range(30) if a[i] != b[i]]
    page.page.select_option("#error-gold", label="neutral")
    assert rows_shown(page) == [f"test-{i}" for i in range(30) if a[i] != b[i] and gold[i] == "neutral"]
    page.page.select_option("#error-task", label="HoC")
    page.page.select_option("#error-b", label="no other")
    assert page.texts("#error-table thead th") == ["index", "gold", "encoder-a", "encoder-a: probability"]
    page.page.select_option("#error-task", label="BC5CDR-disease")
    assert page.page.locator("#error-table .words span").count() > 30


def rows_shown(page: Page) -> list[str]:
    return page.texts("#error-table tbody tr td:first-child")


def answers_of(made: Path, task: str, model: str) -> list[list[str]]:
    path = made.parents[1] / "runs" / task / model / "seed-1" / "predictions" / "test.tsv"
    return [line.split("\t") for line in path.read_text().splitlines()[1:]]


def test_texts_only_where_asked(made: Path, page: Page, tmp_path: Path) -> None:
    texts = [e.texts[0] for e in tasks.get("mednli").read(made.parents[1] / "data" / "mednli", "test")]
    words = " ".join(tasks.get("bc5cdr_disease").read(made.parents[1] / "data" / "bc5cdr_disease", "test")[0].texts)
    page.open(made, "errors")
    page.page.select_option("#error-task", label="MedNLI")
    assert page.texts("#error-table thead th") == ["index", "text", "gold", "encoder-a", "encoder-a: probability"]
    page.page.fill("#error-text", texts[0][:30])
    assert all(texts[0][:30] in row for row in page.texts("#error-table tbody tr td:nth-child(2)"))
    page.page.fill("#error-text", "")
    page.page.select_option("#error-task", label="ChemProt")  # its data folder is not there
    assert "no texts: --data_dir" in page.texts("#error-line")[0]
    assert report.main([str(made.parents[1] / "runs"), "--out", str(tmp_path)]) == 0
    plain = (tmp_path / "report.html").read_text()
    for text in [*texts, words]:
        assert text not in plain
    assert json.dumps(words.split()[0]) not in re.sub(r"<script>.*?</script>", "", plain, flags=re.S)


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of one model that was tuned on two tasks, and of one that was not and has a score below zero."""
    root = tmp_path_factory.mktemp("tuned")
    for task in ("biosses", "mednli"):
        tried = []
        for rate, epochs, dev in ((3e-5, 5, 0.5), (4e-5, 5, 0.6), (3e-5, 10, 0.7), (4e-5, 10, -0.1)):
            values = {"learning_rate": rate, "num_train_epochs": epochs}
            tried.append({"values": values, "dev": [dev, dev + 0.02]})
            flags = ["--learning_rate", str(rate), "--num_train_epochs", str(epochs)]
            folder = root / "runs" / task / "tune" / f"{rate}-{epochs}"
            made_up(folder, task, MODELS[0], 1000, rows=12, flags=flags, search={"kind": "trial", "values": values})
        chosen = {"kind": "chosen", "values": tried[2]["values"], "tried": tried, "trials": 4, "dev": 0.71}
        flags = ["--learning_rate", "3e-5", "--num_train_epochs", "10"]
        for seed in (12, 13):
            made_up(root / "runs" / task / f"chosen-{seed}", task, MODELS[0], seed, rows=12, flags=flags, search=chosen)
        made_up(root / "runs" / task / "plain", task, MODELS[1], 12, rows=12, score=-0.3 if task == "biosses" else None)
    assert report.main([str(root / "runs"), "--out", str(root / "out")]) == 0
    return root / "out" / "report.html"


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1366, 1920])
def test_the_page_is_not_wider_than_the_screen(made: Path, tuned: Path, page: Page, width: int, theme: str) -> None:
    page.page.set_viewport_size({"width": width, "height": 900})
    page.page.emulate_media(color_scheme=theme)
    for path in (made, tuned):
        for tab in ("leaderboard", "tasks", "runs", "errors"):
            page.open(path, tab)
            page.page.wait_for_timeout(300)
            assert page.page.evaluate("document.documentElement.scrollWidth") <= width, (path, tab)
    page.open(made)
    place = "document.querySelector('#board').parentElement"
    is_cut = page.page.evaluate(f"{place}.scrollWidth > {place}.clientWidth")
    assert is_cut == (width == 390)  # all columns are to be seen; on a phone a shadow says that there are more


def test_texts_of_the_board_do_not_overlap(made: Path, page: Page) -> None:
    page.page.set_viewport_size({"width": 1366, "height": 900})
    page.open(made)
    assert (
        page.page.evaluate("""[...document.querySelectorAll('#board td, #board th')].filter(
        (one) => one.scrollWidth > one.clientWidth + 1).map((one) => one.textContent)""")
        == []
    )


def test_columns_without_a_run_of_ours_come_last(tuned: Path, page: Page) -> None:
    page.page.set_viewport_size({"width": 390, "height": 900})
    page.open(tuned)
    assert page.texts("#board thead th")[2:] == ["Total (2 of 10)", "BIOSSES", "MedNLI", "Total"]
    right = page.page.evaluate("document.querySelectorAll('#board thead th')[4].getBoundingClientRect().right")
    assert right <= 390
    labels = page.page.evaluate("document.getElementById('plot-board').data[0].x")
    assert labels == ["Total (2 of 10)", "BIOSSES", "MedNLI"]


def test_scores_below_zero_are_on_every_chart(tuned: Path, page: Page) -> None:
    page.open(tuned)
    page.drawn("board")
    assert axis(page, "board")[0] < -30
    page.tab("tasks")
    page.drawn("test")
    assert axis(page, "test")[0] < -30 < axis(page, "test")[1]
    page.drawn("tuning")
    assert axis(page, "tuning")[0] < -9


def axis(page: Page, name: str, which: str = "yaxis") -> list[float]:
    found: list[float] = page.page.evaluate(f"document.getElementById('plot-{name}')._fullLayout.{which}.range")
    return found


def test_a_single_value_has_a_sensible_axis(page: Page, tmp_path: Path) -> None:
    made_up(tmp_path / "run", "chemprot", epochs=1, score=0.77)
    assert report.main([str(tmp_path / "run"), "--out", str(tmp_path / "out")]) == 0
    page.open(tmp_path / "out" / "report.html", "tasks")
    for name in ("score", "test"):
        page.drawn(name)
        low, high = axis(page, name)
        assert 9.5 < high - low < 15
    page.drawn("loss")
    assert axis(page, "loss")[0] == 0 and axis(page, "score", "xaxis")[0] == 0
    assert "beside" not in " ".join(page.texts("#errors label"))  # one model: nothing to compare with
    assert not page.texts("#confusion-model") and page.options("task") == ["ChemProt"]


def test_tuning_is_charted_and_its_trials_are_no_rows(tuned: Path, page: Page) -> None:
    page.open(tuned, "tasks")
    assert len(page.texts("#models button")) == 2 and page.drawn("tuning") == 3
    lines = page.page.evaluate("document.getElementById('plot-tuning').data.map(({ name, y }) => [name, y])")
    assert lines[0][1] == [51, 61] and lines[1][1] == [71, -9] and lines[2][1] == [71]
    assert lines[0][0].endswith("epochs 5") and lines[0][0].startswith(MODELS[0])
    for chip in page.page.query_selector_all("#models button"):
        if chip.text_content().startswith(MODELS[0]):
            chip.click()
            break
    page.page.wait_for_selector("#figure-tuning .nothing", state="visible")
    page.tab("runs")
    page.page.fill("#run-text", "trial")
    assert page.texts("#run-count") == ["8 of 14 runs"]


def test_checkpoints_are_charted(page: Page, tmp_path: Path) -> None:
    for step in (2000, 10000):
        made_up(tmp_path / "runs" / str(step), "mednli", f"/ckpts/step-{step}", rows=12)
    assert report.main([str(tmp_path / "runs"), "--out", str(tmp_path / "out")]) == 0
    page.open(tmp_path / "out" / "report.html", "tasks")
    assert page.texts("#models button") == ["step-2000", "step-10000"] and page.drawn("checkpoints") == 2
    assert page.page.evaluate("document.getElementById('plot-checkpoints').data[0].x") == [2000, 10000]


@pytest.mark.parametrize("is_sweep", [False, True])
def test_a_learning_curve_is_charted(is_sweep: bool, page: Page, tmp_path: Path) -> None:
    """Of a sweep or of single runs."""
    for fraction in (0.1, 0.3, 1.0):
        search = {"kind": "sweep", "values": {"train_fraction": fraction}} if is_sweep else None
        for seed in (1, 2):
            folder, flags = tmp_path / "runs" / f"{fraction}-{seed}", ("--train_fraction", str(fraction))
            made_up(folder, "mednli", "/models/a", seed, rows=12, flags=flags, search=search)
    assert report.main([str(tmp_path / "runs"), "--out", str(tmp_path / "out")]) == 0
    page.open(tmp_path / "out" / "report.html", "tasks")
    assert page.drawn("learning") == 2
    assert page.page.evaluate("document.getElementById('plot-learning').data[0].x") == [0.1, 0.3, 1]


def test_differences_to_any_baseline(made: Path, page: Page) -> None:
    page.open(made)
    page.drawn("differences")
    assert page.options("baseline") == [*MODELS, *(row.label for row in PUBLISHED)]
    shown = "document.getElementById('plot-differences').data[0]"
    assert page.page.evaluate(f"[{shown}.y, {shown}.x.length]") == [[MODELS[1]], 11]
    assert any("p" in said for said in page.page.evaluate(f"{shown}.customdata[0]"))
    page.page.select_option("#baseline", label="ouBioBERT-Base")
    page.page.wait_for_function(f"{shown}.y.length === 2")
    assert page.page.evaluate(f"{shown}.customdata[0][0]") == "not tested"
    ground = "document.getElementById('plot-differences')._fullLayout.coloraxis.colorscale[1][1]"
    assert page.page.evaluate(ground) == "#fff"
    page.page.click("#theme")
    page.page.wait_for_function(f"{ground} === '#1a2029'")


def test_errors_of_dev_by_probability(made: Path, page: Page) -> None:
    page.open(made, "errors")
    page.page.select_option("#error-task", label="MedNLI")
    assert "test examples" in page.texts("#error-line")[0]
    page.page.select_option("#error-order", value="low")
    column = "#error-table tbody tr td:nth-child(5)"
    sure = [float(text) for text in page.texts(column)]
    assert sure == sorted(sure) and len(sure) > 2
    ids = rows_shown(page)
    path = made.parents[1] / "runs" / "mednli" / MODELS[0] / "seed-1" / "predictions" / "test_probabilities.tsv"
    claimed = {cells[0]: max(map(float, cells[1:])) for cells in map(str.split, path.read_text().splitlines()[1:])}
    assert sure == [pytest.approx(claimed[one], abs=6e-4) for one in ids]
    page.page.select_option("#error-order", value="high")
    assert rows_shown(page)[0] == max(ids, key=lambda one: claimed[one])
    page.page.select_option("#error-split", value="dev")
    assert "dev examples" in page.texts("#error-line")[0] and rows_shown(page)[0].startswith("dev-")
    assert "dev was trained on" not in page.texts("#error-line")[0]
    page.page.select_option("#error-task", label="BC5CDR-disease")
    assert page.page.input_value("#error-split") == "dev" and "dev was trained on" in page.texts("#error-line")[0]
    assert not page.texts("#error-order")
    page.page.select_option("#error-task", label="MedSTS")
    assert page.page.input_value("#error-order") == "far"


def test_errors_are_saved_as_a_table_without_formulas(page: Page, tmp_path: Path) -> None:
    cut("mednli", tmp_path / "data" / "mednli", 30)
    folder = made_up(tmp_path / "run", "mednli", "=cmd", skill=0.3, rows=30, data_dir=str(tmp_path / "data"))
    for path in (tmp_path / "data" / "mednli" / "test.tsv", folder / "predictions" / "test.tsv"):
        path.write_text(path.read_text().replace("test-", '-test, "'))
    assert report.main([str(tmp_path / "run"), "--out", str(tmp_path / "out")]) == 0
    page.open(tmp_path / "out" / "report.html", "errors")
    shown = rows_shown(page)
    with page.page.expect_download() as download:
        page.page.click("#error-csv")
    assert download.value.suggested_filename == "MedNLI_test_errors.csv"
    with Path(download.value.path()).open(newline="") as file:
        head, *lines = csv.reader(file)
    assert head[:4] == ["task", "split", "index", "gold"] and head[4].startswith("'=cmd") and len(lines) == len(shown)
    assert [line[2] for line in lines] == [f"'{one}" for one in shown] and shown[0].startswith('-test, "')
    assert all(0 <= float(line[5]) <= 1 and line[:2] == ["MedNLI", "test"] for line in lines)


def test_errors_on_a_phone_are_cards(made: Path, page: Page) -> None:
    page.page.set_viewport_size({"width": 390, "height": 900})
    page.open(made, "errors")
    page.page.select_option("#error-task", label="MedNLI")
    assert not page.texts("#error-table thead th")
    cell = page.page.locator("#error-table tbody tr:first-child td").last
    assert cell.evaluate("one => getComputedStyle(one, '::before').content").startswith('"encoder-a: probability')
    assert cell.evaluate("one => one.getBoundingClientRect().right") <= 390


def test_nothing_but_sample_data(page: Page, tmp_path: Path) -> None:
    made_up(tmp_path / "run", "biosses", data_dir=None)
    assert report.main([str(tmp_path / "run"), "--out", str(tmp_path / "out")]) == 0
    page.open(tmp_path / "out" / "report.html")
    assert not page.texts("#board tr.ours") and "No run counts" in page.texts(".empty")[0]
    page.tab("tasks")
    assert page.texts("#task option:checked") == ["BIOSSES (SAMPLE DATA)"] or page.drawn("scatter") == 1


def test_five_hundred_runs(page: Page, tmp_path: Path) -> None:
    for number in range(10):
        for task in tasks.BLUE:
            for seed in range(5):
                folder = tmp_path / "runs" / task / f"encoder-{number}" / f"seed-{seed}"
                made_up(folder, task, f"encoder-{number}", seed, skill=0.6 + 0.03 * number, rows=40, epochs=20)
    assert report.main([str(tmp_path / "runs"), "--out", str(tmp_path / "out")]) == 0
    path = tmp_path / "out" / "report.html"
    assert path.stat().st_size < 10_000_000
    started = time.monotonic()
    page.open(path, "runs")
    assert len(page.texts("#run-table tbody tr")) == 500
    page.tab("tasks")
    page.drawn("score")
    assert time.monotonic() - started < 30
    assert len(page.texts("#models button")) == 10
