"""Which files in a run's folders the run has written: these alone are ever removed.

Beside the folders a run's files are known by their names (`harness/run_folder.py`); in them by the record that each
has: model/ and the checkpoints list their files, predictions/ has fixed names, wandb's files bear the run's id. No link
is followed, and nothing that a list names outside its folder is touched.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Callable, Iterator, Set
from pathlib import Path
from typing import Any

from harness import files
from harness.errors import UserError
from harness.model_folder import HEAD_FILE
from harness.task import SPLITS

STATE = "state.json"  # of a checkpoint, with the names of its files
PREDICTIONS = {f"{split}{kind}.tsv" for split in SPLITS for kind in ("", "_probabilities")}
# Of a checkpoint whose list cannot be read, and of a model of a version that wrote none.
USUAL_IN_CHECKPOINT = re.compile(r"state\.json|engine\.(json|safetensors)|rng-\d+\.pt")
USUAL_IN_MODEL = re.compile(
    r"(config|generation_config|tokenizer|tokenizer_config|special_tokens_map|added_tokens|vocab)\.json|merges\.txt|"
    r"vocab\.txt|\w+\.model|chat_template\.jinja|model[\d-]*(of-\d+)?\.safetensors(\.index\.json)?|README\.md"
)
IN_WANDB = (
    r"rows_closed|latest-run|debug(-\w+)?\.log|artifacts/staging/.+|(offline-)?run-\d+_\d+-{id}/"
    r"(run-{id}\.wandb(\.synced)?|logs/debug(-\w+)?\.log|files/media/.+|files/"
    r"(config\.yaml|conda-environment\.yaml|diff\.patch|output\.log|requirements\.txt|wandb-(metadata|summary)\.json))"
)


def remove(run: Path, folder: str = "") -> None:
    """What the run has written in its folders, or in one of them, and what is empty then."""
    for top in [folder] if folder else ["checkpoints", "predictions", "model", "wandb"]:
        for path, is_ours in _sorted_out(run, top):
            if is_ours:
                path.unlink(missing_ok=True)
        if not (run / top).is_symlink():
            for place, _, _ in os.walk(run / top, topdown=False):
                with contextlib.suppress(OSError):  # somebody else's file is in it
                    os.rmdir(place)


def check_replaceable(run: Path, anew: bool) -> None:
    """Raises UserError where what a run replaces as a whole, its model and its checkpoints, holds a file that it did
    not write: it would be lost, or be taken for a part of the model. `anew`: nothing of the run there is to stay."""
    if anew and (run / "checkpoints").is_symlink():
        raise _in_the_way(run, run / "checkpoints")
    check_model(run / "model")
    for path, is_ours in _sorted_out(run, "checkpoints"):
        if not is_ours and path.relative_to(run / "checkpoints").parts[0].startswith("step-"):
            raise _in_the_way(run, path)


def check_model(folder: Path) -> None:
    """The same of the model's folder alone."""
    foreign = [path for path, is_ours in _sorted_out(folder.parent, folder.name) if not is_ours]
    if folder.is_symlink() or (os.path.lexists(folder) and not folder.is_dir()):
        foreign = [folder]
    if foreign:
        raise _in_the_way(folder.parent, min(foreign))


def clear_unfinished(run: Path, names: Set[str]) -> None:
    """Remove what writers of files of these names, and of predictions, have left that were killed: whoever calls this
    has the lock, so that none of them is at work."""
    for folder, wanted in ((run, names), (run / "predictions", PREDICTIONS)):
        if folder.is_symlink() or not folder.is_dir():
            continue
        for path in folder.iterdir():
            if files.unfinished(path.name) in wanted and path.is_file() and not path.is_symlink():
                path.unlink(missing_ok=True)


def _in_the_way(run: Path, path: Path) -> UserError:
    return UserError(
        f"--output_dir {run}: {path.relative_to(run)} in it is not of the run there and would be lost; move it away, "
        "or name another folder"
    )


def _sorted_out(run: Path, top: str) -> Iterator[tuple[Path, bool]]:
    """Each file below a folder of the run, and whether the run wrote it. A link counts as a file."""
    if not (run / top).is_dir() or (run / top).is_symlink():
        return
    ours = _rule(run, top)
    for place, folders, names in os.walk(run / top):
        links = [name for name in folders if os.path.islink(os.path.join(place, name))]
        for name in (*names, *links):
            path = Path(place) / name
            inner = path.relative_to(run / top)
            meant = inner.with_name(files.unfinished(name) or name)
            yield path, ours(str(inner)) or ours(str(meant))


def _rule(run: Path, top: str) -> Callable[[str], bool]:
    """Whether a file was written by the run, told by its path in the folder `top`."""
    if top == "predictions":
        return PREDICTIONS.__contains__
    if top == "checkpoints":
        listed = {f"{folder.name}/{name}" for folder in (run / top).glob("step-*") for name in _listed(folder / STATE)}
        return lambda name: (
            name in listed
            or re.match(r"best-[0-9a-f]{16}\.safetensors$|\.step-[\w-]+\.partial/", name) is not None
            or (name.startswith("step-") and USUAL_IN_CHECKPOINT.fullmatch(name.partition("/")[2]) is not None)
        )
    if top == "wandb":
        kept = run / "wandb_id"
        run_id = kept.read_text(encoding="utf-8", errors="replace").strip() if kept.is_file() else ""
        pattern = re.compile(IN_WANDB.replace("{id}", re.escape(run_id) if run_id else "(?!)"))
        return lambda name: pattern.fullmatch(name) is not None
    listed = set(_listed(run / top / HEAD_FILE))
    if not listed and (run / top / HEAD_FILE).is_file():
        return lambda name: name == HEAD_FILE or USUAL_IN_MODEL.fullmatch(name) is not None
    return lambda name: name == HEAD_FILE or name in listed


def _listed(record: Path) -> list[str]:
    """The names under `files` in a JSON file; none where it cannot be read."""
    try:
        content: Any = json.loads(record.read_text(encoding="utf-8"))
        return [str(name) for name in content["files"]]
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return []
