"""The copy of the code that a submitted run runs, so that a waiting job does not see later changes."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import tempfile
from pathlib import Path

from harness import runs
from harness.files import PARTIAL

ROOT = Path(__file__).resolve().parent.parent  # a checkout, or the folder that packages are installed in
PACKAGES = ("launch", "harness", "tasks", "ds_configs")  # what a run reads of this project


def snapshot_folder(home: Path) -> Path:
    """Where the code as it is now is kept, below a run's or a suite's folder; the same code has the same place."""
    digest = hashlib.sha256()
    for path in _sources():
        digest.update(str(path).encode() + b"\0" + (ROOT / path).read_bytes())
    return home / "code" / digest.hexdigest()[:12]


def snapshot(home: Path) -> Path:
    """Copy the code to where `snapshot_folder` says. Returns the copy's folder.

    COMMIT and changes.diff in it say where it came from. A copy is complete or not there.
    """
    target = snapshot_folder(home)
    if target.is_dir():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(PARTIAL, f".{target.name}.", target.parent))
    for path in _sources():
        (aside / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / path, aside / path)
    commit = _git("rev-parse", "HEAD")
    (aside / "COMMIT").write_text(commit or runs.commit() or "outside a git checkout\n", encoding="utf-8")
    if commit is not None:
        (aside / "changes.diff").write_text(_git("diff", "HEAD") or "", encoding="utf-8")
    try:
        aside.rename(target)
    except OSError:
        if not target.is_dir():
            raise
        shutil.rmtree(aside)  # another command made the same copy meanwhile
    return target


def _sources() -> list[Path]:
    """Relative to ROOT: what git tracks or would, so that a new file is there before it is committed."""
    listed = _git("ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *PACKAGES)
    if listed:
        found = {Path(name) for name in listed.split("\0") if name}
    else:
        found = {path.relative_to(ROOT) for package in PACKAGES for path in (ROOT / package).rglob("*")}
    return sorted(path for path in found if (ROOT / path).is_file() and "__pycache__" not in path.parts)


def _git(*words: str) -> str | None:
    """What git says about this checkout; None outside one."""
    if not (ROOT / ".git").exists():
        return None
    try:
        done = subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True, check=False)
    except OSError:
        return None
    return done.stdout if done.returncode == 0 else None
