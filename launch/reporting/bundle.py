"""`report.py bundle`: finished runs as one zip file from which others make the same leaderboard, and can verify it.

No text of a corpus is in it: predictions of tagging tasks lose their column of tokens, logs their error messages, which
may quote a cell of a data file, and only files are packed that the run wrote. Of absolute paths only the last parts
stay, as many as tell them apart (`launch/reporting/paths.py`); a result.json that had one gets its digest of itself
anew. The same runs give the same bytes.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness import files, records, run_folder, versions
from harness.errors import UserError
from harness.flags import Parser
from harness.run_folder import RunFolder
from launch.jobs import suite_record
from launch.reporting import collect, paths, verify
from launch.reporting.collect import Run
from launch.run import digests
from tasks import definition as definitions
from tasks import predictions

LINE = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d (\w+) ")  # begins an entry of train.log
KEPT = "of absolute paths the last parts; names of models, wandb projects, groups and tags as they are"
DATE = (1980, 1, 1, 0, 0, 0)  # of every file in the zip: the oldest that the format knows


def main(words: Sequence[str]) -> int:
    """Exit status: 0 written. Raises UserError."""
    parser = Parser(prog="report.py bundle", description=(__doc__ or "").splitlines()[0], allow_abbrev=False)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUNS", help="run folders, or folders that hold them")
    parser.add_argument("--out", required=True, type=Path, metavar="F.zip", help="the file to write; never overwritten")
    given = parser.parse_args(words)
    for line in write(given.runs, given.out):
        print(line)
    return 0


def write(roots: Sequence[Path], out: Path) -> list[str]:
    """Lines that say what was packed. Raises UserError where runs do not pass `verify`, or are going on."""
    if os.path.lexists(out):
        raise UserError(f"--out {out}: is there already, and nothing is overwritten; remove it, or name another file")
    runs = collect.find(roots)
    if going := [run for run in runs if run.status in ("queued", "running")]:
        raise UserError(f"{going[0].folder}: is {going[0].status}; wait for it, or name the folders of the others")
    broken = [run for run in runs if run.status == "broken"]
    runs = [run for run in runs if run.status != "broken"]
    checked = verify.check([run for run in runs if run.status == "finished"])
    if checked.faults:
        what = f"{checked.faults[0]}" + (f" (and {len(checked.faults) - 1} more)" if len(checked.faults) > 1 else "")
        raise UserError(f"{what}; report.py verify lists what is wrong; name the folders of the other runs")
    if not runs:
        raise UserError(f"{' '.join(map(str, roots))}: no run that can be packed; python launch/report.py says why")
    packed: dict[str, str] = {}
    with tempfile.TemporaryFile() as spool:
        with zipfile.ZipFile(spool, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
            for name, content in _members(runs):
                _add(archive, name, content)
                packed[name] = digests.of(content)
            about = {"schema": 1, "kept": KEPT, "versions": versions.installed(), "commit": versions.commit()}
            manifest = _json({**about, "files": packed})
            _add(archive, verify.MANIFEST, manifest)
        spool.seek(0)
        try:
            files.write(out, iter(lambda: spool.read(2**20), b""))
        except OSError as error:
            wrong = f"--out {out}: cannot be written ({error.strerror}); name a file in a folder of yours"
            raise UserError(wrong) from error
    lines = [f"{out}: {len(runs)} runs, {len(packed)} files"]
    lines += [f"not packed: {run.name} (broken: {run.reason})" for run in broken]
    for run, split in checked.older:
        if f"{run.name}/predictions/{split}.tsv" not in packed:
            lines.append(f"not packed: predictions of {run.name}, {split} (not as a run writes them)")
    if checked.older:
        lines.append(f"cannot be verified: {len(checked.older)} cells of runs {verify.OLDER}")
    lines.append(f"kept in it: {KEPT}")
    return [*lines, f"SHA-256 of its {verify.MANIFEST}, to be published with the table: {digests.of(manifest)}"]


def _add(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
    about = zipfile.ZipInfo(name, DATE)
    about.external_attr = 0o600 << 16
    about.compress_type = zipfile.ZIP_DEFLATED
    archive.writestr(about, content)


def _members(runs: Sequence[Run]) -> Iterator[tuple[str, bytes]]:
    """(name in the zip, content), ordered by run."""
    names = paths.short_names(collect.given_paths(runs))
    if (record := _suite_record(runs)) is not None:
        yield record
    for run in runs:
        for name, content in sorted(_of_run(run, names).items()):
            yield f"{run.name}/{name}", content


def _of_run(run: Run, names: Mapping[str, str]) -> dict[str, bytes]:
    """Name in the run folder -> what of the file is packed."""
    folder, config = RunFolder(run.folder), run.config
    assert config is not None, "only a broken run has no settings"
    found = {"config.json": _json({**_renamed(config.to_dict(), names), "own_task": config.own_task})}
    if folder.fingerprint.is_file():
        found["fingerprint.json"] = _json(_renamed(files.read_json(folder.fingerprint), names))
    if config.own_task is not None:
        found["task.toml"] = definitions.text(config.own_task).encode()
    if folder.metrics.is_file():
        found["metrics.jsonl"] = b"".join(line for line, row in records.rows(folder.metrics) if row is not None)
    if folder.log.is_file():
        found["train.log"] = _log(folder.log.read_text(encoding="utf-8", errors="replace"), names).encode()
    if run.status != "finished":
        found["attempt.json"] = _json({"state": run.status, "reason": run.reason})  # which the log says no more
        return found
    written = files.read_json(folder.result)
    result = {**_renamed(written, names), "scores": written["scores"]}
    result.setdefault("timing", {}).setdefault("finished", round(collect.written(run)[0], 3))
    result = digests.sealed(result) if "digests" in result else result
    # Each is what result.json says: `verify` has looked. Without digests it must be what a run writes.
    for name in result["digests"]["predictions"] if "digests" in result else _plain_predictions(run):
        content = (Path(folder.predictions) / name).read_bytes()
        found[f"predictions/{name}"] = predictions.without_tokens(content)
    found["result.json"] = run_folder.result_text(result).encode()
    return found


def _plain_predictions(run: Run) -> Iterator[str]:
    """Names of the files of an older version's run that hold answers and nothing else."""
    assert run.definition is not None
    for split in run.result["scores"]:
        path = RunFolder(run.folder).prediction(split)
        probabilities = RunFolder(run.folder).prediction(f"{split}_probabilities")
        with contextlib.suppress(UserError, OSError):
            answers = predictions.read(run.definition, path)
            written = "\n".join(run.definition.rows(answers.examples, answers.predictions)) + "\n"
            if predictions.without_tokens(written.encode()) == predictions.without_tokens(path.read_bytes()):
                yield path.name
                if probabilities.is_file():
                    predictions.read_probabilities(run.definition, probabilities, answers)
                    yield probabilities.name


def _json(values: Mapping[str, Any]) -> bytes:
    return (json.dumps(values, indent=2) + "\n").encode()


def _renamed(value: Any, names: Mapping[str, str]) -> Any:
    """Plain values with shortened paths."""
    if isinstance(value, Mapping):
        return {key: _renamed(one, names) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_renamed(one, names) for one in value]
    return paths.shortened(names.get(value, value)) if isinstance(value, str) else value


def _log(text: str, names: Mapping[str, str]) -> str:
    """A log without its errors, and without what follows them up to the next entry."""
    kept, is_kept, names = [], True, {path: short for path, short in names.items() if path in text}
    for line in text.splitlines(keepends=True):
        entry = LINE.match(line)
        is_kept = entry[1] in ("INFO", "WARNING") if entry else is_kept
        kept += [paths.shortened(paths.renamed(line, names))] if is_kept else []
    return "".join(kept)


def _suite_record(runs: Sequence[Run]) -> tuple[str, bytes] | None:
    """One suite.json in place of those of the runs' suites, as far up as it is looked for."""
    record = suite_record.joined([run.folder for run in runs])
    above = [*Path(runs[0].name).parents][: suite_record.LEVELS][-1]
    return (str(above / suite_record.RECORD), _json(_renamed(record, {}))) if record else None
