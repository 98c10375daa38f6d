"""What the scores in a result.json were made of, as SHA-256 digests under `digests`; `report.py verify` compares them.

    data           split -> of its data file, as in fingerprint.json
    definition     of what defines the task (`tasks.digest`)
    predictions    name in predictions/ -> of the file, a tagging file without its column of tokens
    with_tokens    the same names of a tagging task -> of the file as the run wrote it
    itself         of result.json without this entry

Predictions may thus be passed on without the text of the corpus. `itself` shows changes of what nothing else protects:
losses, epochs, times.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import tasks
from harness import run_folder
from harness.config import RunConfig
from harness.errors import UserError
from harness.run_folder import RunFolder
from launch.run import inputs
from tasks import predictions


def of(content: bytes) -> str:
    """SHA-256, in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def of_predictions(folder: RunFolder, splits: Iterable[str]) -> dict[str, dict[str, str]]:
    """`predictions` and `with_tokens` of the splits' files that are there. Raises OSError."""
    found: dict[str, dict[str, str]] = {"predictions": {}, "with_tokens": {}}
    for split in splits:
        for path in (folder.prediction(split), folder.prediction(f"{split}_probabilities")):
            if path.is_file():
                content = path.read_bytes()
                bare = predictions.without_tokens(content)
                found["predictions"][path.name] = of(bare)
                if bare != content:
                    found["with_tokens"][path.name] = of(content)
    return found


def of_result(config: RunConfig, folder: RunFolder, scored: Iterable[str], before: Mapping[str, Any]) -> dict[str, Any]:
    """`digests` of a result but for `itself`. `scored`: the splits that were scored now; `before`: the digests of those
    that were scored at an earlier start, by the same version of the metric."""
    now, data = of_predictions(folder, scored), {}
    with contextlib.suppress(UserError):  # a damaged fingerprint must not cost the run its result; `verify` will say it
        data = (inputs.recorded(folder) or {}).get("data", {})
    return {
        "data": data,
        "definition": tasks.digest(config.task, config.own_task),
        **{kind: {**before.get(kind, {}), **found} for kind, found in now.items()},
    }


def sealed(result: Mapping[str, Any]) -> dict[str, Any]:
    """The result with the digest of itself, made anew where it has one."""
    kept = {name: value for name, value in result["digests"].items() if name != "itself"}
    text = run_folder.result_text({**result, "digests": kept})
    return {**result, "digests": {**kept, "itself": of(text.encode())}}
