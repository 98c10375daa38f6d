"""Finished runs as a zip of JSON files for BLURB's leaderboard, one run a task; the form is `tasks/submission.py`'s."""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Sequence
from pathlib import Path, PurePath

import tasks
from harness import files
from harness.errors import UserError
from harness.run_folder import RunFolder
from launch.reporting import verify
from launch.reporting.collect import Run
from tasks import predictions, submission

DATE = (1980, 1, 1, 0, 0, 0)  # of every file in the zip: the oldest that the format knows
README = """\
Test predictions for BLURB (https://microsoft.github.io/BLURB/submit.html), one JSON file a data set.

To submit them, mail this file with a team name and a model name, as that page says.

Not checked: BLURB's own schemas, which that page links, could not be had. Names of fields, data sets, tags and labels
are those of a public program that evaluates predictions of this form. Ids are the indices of our data files; of tagged
sentences, which have none, the number in the file from 0; of HoC <document>_<n>. Compare a file with the schema of its
data set before you mail it. The same scores come back from each file:

    python launch/score.py --task TASK --data_dir DATA/TASK --predictions THIS.zip

Runs:
"""


def write(found: Sequence[Run], out: Path) -> list[str]:
    """Lines that say what was written. Raises UserError where it is not one run a task of one row, on given data."""
    if os.path.lexists(out):
        raise UserError(f"--blurb {out}: is there already, and nothing is overwritten; remove it, or name another file")
    if not out.absolute().parent.is_dir():
        raise UserError(f"--blurb {out}: no such folder {out.parent}; make it, or name a file elsewhere")
    runs: dict[str, Run] = {}
    for run in found:
        if run.status != "finished" or run.task not in submission.DATASETS:
            continue
        if run.data == "sample":
            raise UserError(f"{run.folder}: is of made-up sample data; name the folders of runs on BLURB's own data")
        if "test" not in run.result["scores"]:
            raise UserError(f"{run.folder}: test was not predicted; give its command again with --do_predict")
        if (other := runs.get(run.task)) is not None:
            raise UserError(
                f"{run.folder} and {other.folder} are both of {run.task}; name the folder of one run a task"
            )
        runs[run.task] = run
    if not runs:
        raise UserError(f"--blurb {out}: no finished run of {', '.join(submission.DATASETS)} here; name their folders")
    one, *others = runs.values()
    if odd := [run for run in others if run.model != one.model]:
        raise UserError(f"{one.folder} and {odd[0].folder} are of two encoders; name the folders of one of them")
    if faults := verify.check(list(runs.values())).faults:
        raise UserError(f"{faults[0]}; report.py verify lists what is wrong; name the folders of the other runs")
    contents, lines = {}, []
    for name, form in submission.DATASETS.items():
        if name in runs:
            run, task = runs[name], tasks.get(name)
            answers = predictions.read(task, RunFolder(run.folder).prediction("test"))
            contents[f"{form.dataset.replace(' ', '-')}.json"] = submission.content(
                task, answers, PurePath(run.model).name
            )
            score = run.result["scores"]["test"]
            lines.append(f"{form.dataset}: {score['metric']} {100 * score['score']:.2f}, {run.name}")
    missing = [form.dataset for name, form in submission.DATASETS.items() if name not in runs]
    contents["README.txt"] = README + "".join(f"{line}\n" for line in lines)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, text in contents.items():
            archive.writestr(zipfile.ZipInfo(name, DATE), text, zipfile.ZIP_DEFLATED)
    try:
        files.write(out, buffer.getvalue())
    except OSError as error:
        raise UserError(f"--blurb {out}: cannot be written ({error.strerror}); name a file of yours") from None
    return [*lines, *([f"without a run: {', '.join(missing)}"] if missing else []), str(out)]
