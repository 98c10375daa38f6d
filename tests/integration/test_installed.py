"""The wheel in an environment of its own: its commands work in any folder, without the source tree and without git."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from running import arguments, clean_environment

from launch.jobs.slurm import PACKAGES

ROOT = Path(__file__).resolve().parents[2]
VERSION = "v" + tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Installed:
    """An environment with the wheel and, by a path, the outer environment's packages; and a folder to work in."""

    wheel: Path
    environment: Path
    place: Path

    def run(self, command: str, *words: str | Path) -> str:
        """What the command prints; checks that it succeeds."""
        kept = {name: value for name, value in clean_environment().items() if name not in ("PYTHONPATH", "DATASET_DIR")}
        line = [str(self.environment / "bin" / command), *map(str, words)]
        done = subprocess.run(line, cwd=self.place, env=kept, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


def pip(*words: str | Path) -> None:
    subprocess.run([sys.executable, "-m", "pip", "-q", "--disable-pip-version-check", *map(str, words)], check=True)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    place = tmp_path_factory.mktemp("installed")
    source, environment = place / "source", place / "environment"
    for name in PACKAGES:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip("wheel", "--no-deps", "--no-build-isolation", "-w", place, source)
    (wheel,) = place.glob("*.whl")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    pip("--python", environment / "bin" / "python", "install", "--no-deps", wheel)
    shutil.rmtree(source)
    # After the installation, so that pip meets no other one. Files *.pth in these folders are not read: they may name a
    # source tree.
    (site,) = environment.glob("lib/python*/site-packages")
    (site / "outer.pth").write_text("\n".join(path for path in sys.path if path.endswith("-packages")) + "\n")
    (place / "work").mkdir()
    return Installed(wheel, environment, place / "work")


def test_everything_that_is_read_is_in_the_wheel(installed: Installed) -> None:
    listed = set(zipfile.ZipFile(installed.wheel).namelist())
    files = [path for name in PACKAGES for path in (ROOT / name).rglob("*") if path.is_file()]
    ours = {str(path.relative_to(ROOT)) for path in files if "__pycache__" not in path.parts}
    assert len(ours) > 100 and ours - listed == set()
    found = installed.run("python", "-c", "import launch, harness, tasks; print(launch, harness, tasks)")
    assert found.count(str(installed.environment)) == 3


def flags(model: Path, output: str, *more: str) -> Sequence[str]:
    return arguments("mednli", model, Path(output), "--max_steps", "2", *more)


def test_the_commands_in_another_folder(installed: Installed, tiny_bert: Path) -> None:
    """One run here, one as a job, their report, the score of the first and new text."""
    installed.run("blue-train", *flags(tiny_bert, "runs/one"))
    said = installed.run("blue-submit", *flags(tiny_bert, "runs/two", "--seed", "2", "--cluster", "local"))
    for name in ("one", "two"):
        result = json.loads((installed.place / "runs" / name / "result.json").read_text())
        assert (result["data"], result["steps"], result["commit"]) == ("sample", 2, VERSION), said
    (code,) = (installed.place / "runs" / "two" / "code").iterdir()
    assert (code / "ds_configs" / "fp32.json").is_file() and (code / "COMMIT").read_text() == VERSION
    assert "launch/jobs/local.py" in {str(path.relative_to(code)) for path in code.rglob("*.py")}

    test = "runs/one/predictions/test.tsv"
    score = json.loads(installed.run("blue-score", "--task", "mednli", "--predictions", test))
    assert (
        score["score"] == json.loads((installed.place / "runs/one/result.json").read_text())["scores"]["test"]["score"]
    )
    installed.run("blue-report", "runs", "--out", "report")
    assert "SAMPLE DATA" in (installed.place / "report" / "report.html").read_text()
    (installed.place / "in.tsv").write_text("She has a fever .\tShe is ill .\n")
    answer = json.loads(installed.run("blue-predict", "runs/one", "--input", "in.tsv", "--no_cuda"))
    assert answer["label"] in ("contradiction", "entailment", "neutral")
    assert "usage: blue-prepare" in installed.run("blue-prepare", "--help")
