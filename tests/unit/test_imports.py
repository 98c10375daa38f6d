"""The rules of the layout, read from the sources: who imports whom, how long things are, what is written where."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import tasks

ROOT = Path(__file__).parents[2]
SOURCES = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for folder in ("launch", "harness", "tasks")
    for path in sorted((ROOT / folder).rglob("*.py"))
}
TREES = {name: ast.parse(text) for name, text in SOURCES.items()}
MOST_LINES, MOST_LINES_OF_A_FUNCTION = 500, 80


def of(folder: str) -> list[str]:
    return [name for name in SOURCES if name.startswith(f"{folder}/")]


def module(name: str) -> str:
    return name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def imported(tree: ast.AST) -> Iterator[str]:
    """Modules as `package.module`, also those that a function imports; `from package import module` is one of them."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                yield inner if is_file(inner) else base


def is_file(name: str) -> bool:
    path = name.replace(".", "/")
    return f"{path}.py" in SOURCES or f"{path}/__init__.py" in SOURCES


def offences(names: list[str], allowed: object) -> list[str]:
    """`file -> module` for every import of the named files that is not allowed."""
    assert callable(allowed) and names
    return [f"{name} -> {found}" for name in names for found in imported(TREES[name]) if not allowed(name, found)]


def package(name: str) -> str:
    return name.split(".")[0]


def test_harness_imports_neither_launch_nor_tasks() -> None:
    assert offences(of("harness"), lambda _, found: package(found) not in ("launch", "tasks")) == []


def test_tasks_know_the_contract_and_plain_files_alone() -> None:
    def allowed(_: str, found: str) -> bool:
        contract = ("harness.task", "harness.files", "harness.errors", "harness.validation")
        return found in contract or package(found) not in ("launch", "harness")

    assert offences(of("tasks"), allowed) == []


def test_only_preparing_imports_the_converters() -> None:
    """A training run must not depend on what reads published corpora, nor wait for it."""
    users = [name for name in SOURCES if not name.startswith("tasks/corpora/") and name != "launch/prepare.py"]
    assert offences(users, lambda _, found: not f"{found}.".startswith("tasks.corpora.")) == []


FLOORS = ("launch/reporting", "launch/jobs", "launch/run")  # each imports from those behind it, not from those before


@pytest.mark.parametrize("folder", FLOORS)
def test_floors_of_launch_import_from_below(folder: str) -> None:
    above = [name.replace("/", ".") for name in FLOORS[: FLOORS.index(folder)]]
    # A command is imported by none of them, but for the one that a job runs.
    commands = {module(name) for name in of("launch") if name.count("/") == 1} - {"launch"}
    allowed_commands = {"launch.train"} if folder == "launch/jobs" else set()

    def allowed(_: str, found: str) -> bool:
        return not found.startswith(tuple(above)) and found not in commands - allowed_commands

    assert offences(of(folder), allowed) == []


def test_no_import_circle() -> None:
    """Nor one that an import within a function closes."""
    names = {module(name): {found for found in imported(tree) if is_file(found)} for name, tree in TREES.items()}
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join((*path[path.index(name) :], name))
        if name not in done:
            for found in names[name] - {name}:
                visit(found, (*path, name))
            done.add(name)

    for name in names:
        visit(name, ())


def test_package_of_the_harness_imports_nothing_of_it() -> None:
    assert offences(["harness/__init__.py"], lambda _, found: package(found) != "harness") == []


def test_one_folder_imports_deepspeed() -> None:
    users = {name for name in SOURCES for found in imported(TREES[name]) if package(found) == "deepspeed"}
    assert users and all(name.startswith("harness/ds/") for name in users)


def test_one_file_imports_peft_and_only_when_it_is_asked_to() -> None:
    assert {name for name in SOURCES for found in imported(TREES[name]) if package(found) == "peft"} == {
        "harness/lora.py"
    }
    at_once = [node for node in TREES["harness/lora.py"].body if isinstance(node, ast.Import | ast.ImportFrom)]
    found = {package(name) for node in at_once for name in imported(node)}
    assert "harness" in found and not found & {"peft", "torch", "transformers"}


def test_one_file_asks_whether_there_is_a_gpu() -> None:
    assert [name for name, text in SOURCES.items() if "cuda.is_available" in text] == ["harness/device.py"]


def test_imports_are_absolute() -> None:
    assert offences(list(SOURCES), lambda _, found: not found.startswith(".")) == []


def test_no_file_is_too_long() -> None:
    lengths = {name: len(text.splitlines()) for name, text in SOURCES.items()}
    assert {name: length for name, length in lengths.items() if length > MOST_LINES} == {}


def test_no_function_is_too_long() -> None:
    lengths = {
        f"{name}:{node.lineno} {node.name}": (node.end_lineno or 0) - node.lineno + 1
        for name, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    assert {name: length for name, length in lengths.items() if length > MOST_LINES_OF_A_FUNCTION} == {}


def strings(tree: ast.AST) -> Iterator[ast.Constant]:
    """Text constants without docstrings."""
    nodes = list(ast.walk(tree))
    docs = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
    for node in nodes:
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs:
            yield node


@pytest.mark.parametrize("folder", ["harness", "launch"])
def test_no_task_is_known_by_name(folder: str) -> None:
    found = [
        f"{name}:{node.lineno} {node.value}"
        for name in of(folder)
        for node in strings(TREES[name])
        if node.value in tasks.TASKS
    ]
    assert found == []


def test_no_file_is_for_everything() -> None:
    assert [name for name in SOURCES if Path(name).stem in ("utils", "util", "helpers", "common", "misc")] == []


def test_nothing_is_put_off() -> None:
    assert [name for name, text in SOURCES.items() if "TODO" in text or "FIXME" in text] == []


class TestRulesBite:
    """The reading itself, on sources that break the rules."""

    @pytest.mark.parametrize(
        ("source", "found"),
        [
            ("import tasks", ["tasks"]),
            ("import harness.loop as l", ["harness.loop"]),
            ("from harness import loop, UserError", ["harness.loop", "harness"]),
            ("from harness.loop import fit", ["harness.loop"]),
            ("def f():\n    from launch import train", ["launch.train"]),
            ("from . import loop", ["."]),
            ("from .loop import fit", [".loop"]),
        ],
    )
    def test_imports_are_seen(self, source: str, found: list[str]) -> None:
        assert list(imported(ast.parse(source))) == found

    def test_docstrings_are_no_constants(self) -> None:
        tree = ast.parse('"""mednli"""\ndef f():\n    "mednli"\n    return ["hoc"]\n')
        assert [node.value for node in strings(tree)] == ["hoc"]


def test_no_entry_point_hides_a_standard_module() -> None:
    """`python launch/train.py` puts launch/ first on the import path: a profile.py there would break cProfile."""
    top = {Path(name).stem for name in of("launch") if name.count("/") == 1}
    assert top & sys.stdlib_module_names == set()
