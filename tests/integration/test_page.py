"""report.html in a real, headless Chromium: opened from a file, without a network."""

from __future__ import annotations

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
    for task in tasks.TASKS:
        for model, skill in zip(MODELS, (0.7, 0.9), strict=True):
            for seed in (1, 2):
                folder = root / "runs" / task / model / f"seed-{seed}"
                made_up(folder, task, model, seed, skill=skill, rows=30, data_dir=str(root / "data"))
    made_up(root / "runs" / "going", "mednli", MODELS[0], 3, finished=False, data_dir=str(root / "data"))
    (made_up(root / "runs" / "broken", "mednli", MODELS[0], 4) / "result.json").write_text("{")
    made_up(root / "runs" / "sample", "ddi2013", "<b>odd</b> & model", data_dir=None)
    argv = [str(root / "runs"), "--out", str(root / "out"), "--baseline", MODELS[0], "--with_text"]
    assert report.main(argv) == 0 and len(data) == 2
    return root / "out" / "report.html"


def test_it_opens_with_a_leaderboard(made: Path, page: Page) -> None:
    page.open(made)
    rows = page.texts("#board tbody tr.ours th")
    assert rows == ["encoder-b", "encoder-a"] and len(page.texts("#board tbody tr.published")) == 4
    assert "SAMPLE DATA" in page.texts(".banner")[0]
    assert page.drawn("board") == 6
    assert len(page.texts("#tests tbody tr")) == 10
    notes = " ".join(page.texts("#leaderboard li"))
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
        return [float(text.split(" ")[0]) for text in page.texts(cells)]

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
    assert page.texts("#error-table thead th") == ["index", "gold", "encoder-a"]
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
    assert page.texts("#error-table thead th") == ["index", "text", "gold", "encoder-a"]
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


def test_a_narrow_screen_is_not_wider_than_itself(made: Path, page: Page) -> None:
    page.page.set_viewport_size({"width": 390, "height": 800})
    for tab in ("leaderboard", "tasks", "runs", "errors"):
        page.open(made, tab)
        page.page.wait_for_timeout(300)
        assert page.page.evaluate("document.documentElement.scrollWidth") <= 390, tab


def test_nothing_but_sample_data(page: Page, tmp_path: Path) -> None:
    made_up(tmp_path / "run", "biosses", data_dir=None)
    assert report.main([str(tmp_path / "run"), "--out", str(tmp_path / "out")]) == 0
    page.open(tmp_path / "out" / "report.html")
    assert not page.texts("#board tr.ours") and "No run counts" in page.texts(".empty")[0]
    page.tab("tasks")
    assert page.texts("#task option:checked") == ["BIOSSES (SAMPLE DATA)"] or page.drawn("scatter") == 1


def test_five_hundred_runs(page: Page, tmp_path: Path) -> None:
    for number in range(10):
        for task in tasks.TASKS:
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
