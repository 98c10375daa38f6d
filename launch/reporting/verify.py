"""`report.py verify`: is each score the one that its predictions give, and is everything what the run wrote down?

Of every finished run the scores of dev and test are computed again from predictions/ by the task's metric, and the
digests of result.json are compared (`launch/run/digests.py`). The gold labels in the predictions are compared with the
data folder's where its files are here: in the run's own --data_dir, else in $DATASET_DIR/<task>. Numbers may differ by
ROUNDING, since processors sum in different orders; ROC AUC by what probabilities of six decimals leave open. The loss
and the scores of the epochs need the model: their digest shows changes, nothing computes them again.

Whoever changes a score, the predictions and all digests together is found out only by the data's gold labels, or by the
digest of a bundle's manifest, if that was published elsewhere.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel, Field, TypeAdapter

import tasks
from harness import files, records, run_folder
from harness.errors import UserError, first_line
from harness.flags import Parser
from harness.run_folder import RunFolder
from harness.task import Example, Task
from launch.reporting import collect
from launch.reporting.collect import Run
from launch.run import digests, inputs
from tasks import predictions
from tasks.predictions import Answers

MANIFEST = "MANIFEST.json"
ROUNDING = 1e-12
DECIMALS = 1e-6  # of a probability in its file
OLDER = "made by an older version, whose result.json has no digests"
EVERY = ""  # in place of a split: both cells of a run


class Manifest(BaseModel):
    """MANIFEST.json of a bundle."""

    version: Literal[1] = Field(alias="schema")
    files: dict[str, str]  # path in the bundle -> SHA-256


class Fault(NamedTuple):
    """What differs, in which file."""

    run: Run | None  # None for a file of a bundle that belongs to no run
    split: str  # or EVERY
    what: str

    def __str__(self) -> str:
        return self.what if self.run is None else f"{cell(self.run, self.split)}: {self.what}"


@dataclass
class Verified:
    """What became of each cell: a run's score of one split."""

    cells: list[tuple[Run, str]] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    older: list[tuple[Run, str]] = field(default_factory=list)  # cells that cannot be verified
    notes: list[str] = field(default_factory=list)

    @property
    def passed(self) -> int:
        """How many cells are verified."""
        failed = {(fault.run.name, fault.split) for fault in self.faults if fault.run is not None}
        failed |= {(run.name, split) for run, split in self.older}
        return sum(not failed & {(run.name, split), (run.name, EVERY)} for run, split in self.cells)


def main(words: Sequence[str]) -> int:
    """Exit status: 0 where every cell is verified, 1 where one is not. Raises UserError."""
    parser = Parser(prog="report.py verify", description=(__doc__ or "").splitlines()[0], allow_abbrev=False)
    parser.add_argument("runs", nargs="+", type=Path, metavar="DIR", help="run folders, or folders that hold them")
    found = verify(parser.parse_args(words).runs)
    lines = [f"FAILED {fault}" for fault in found.faults]
    lines += [f"cannot be verified: {cell(*one)}: {OLDER}" for one in found.older]
    for line in (*lines, *found.notes, f"{found.passed} of {len(found.cells)} cells verified"):
        print(line)
    return 1 if lines else 0


def verify(roots: Sequence[Path]) -> Verified:
    """Every finished run in and below the folders. Raises UserError where there is none."""
    runs = collect.find(roots)
    found = check([run for run in runs if run.status in ("finished", "broken")])
    if waiting := sum(run.status not in ("finished", "broken") for run in runs):
        found.notes.append(f"not finished, without scores to verify: {waiting} runs")
    for place in _bundles(roots):
        faults = list(_manifest_faults(place, runs))
        found.faults += faults
        if not faults:
            digest = files.sha256(place / MANIFEST)
            found.notes.append(f"{place / MANIFEST}: every file is as it was packed; SHA-256 of it {digest}")
    if not found.cells and not found.faults:
        raise UserError(f"{' '.join(map(str, roots))}: no finished run in or below it; there is nothing to verify")
    return found


def check(runs: Sequence[Run]) -> Verified:
    """The cells of finished runs; a broken run is a fault."""
    found, gold = Verified(), Gold()
    for run in runs:
        if run.status == "broken":
            found.faults.append(Fault(run, EVERY, run.reason))
            continue
        cells = [(run, split) for split in run.result["scores"]]
        found.cells += cells
        if "metric_version" not in run.result and "digests" not in run.result:
            found.older += cells
            continue
        try:
            found.faults += [Fault(run, split, what) for split, what in _faults(run, gold)]
        except UserError as error:
            found.faults.append(Fault(run, EVERY, str(error)))
        except Exception as error:  # whatever it is, the other runs are to be verified
            found.faults.append(Fault(run, EVERY, f"{type(error).__name__}: {first_line(error)}"))
    of_files = "the data is not here: gold labels are those of the predictions files, which their digests protect"
    found.notes += [f"{what}: {of_files}" for what in sorted(gold.absent)]
    if sample := sum(run.data == "sample" for run, _ in found.cells):
        found.notes.append(f"{collect.SAMPLE}: {sample} cells are of made-up text, and no results")
    return found


def cell(run: Run, split: str = EVERY) -> str:
    """What a message calls a cell."""
    if not run.task:  # nobody knows what a broken run was
        return run.name
    sample = f" ({collect.SAMPLE})" if run.data == "sample" else ""
    return f"{run.task}, {run.model}, seed {run.seed}, {split or 'dev and test'}{sample} [{run.name}]"


# ---- one run
def _faults(run: Run, gold: Gold) -> Iterator[tuple[str, str]]:
    """(split, file and what differs)."""
    assert run.config is not None and run.definition is not None, "a finished run has its settings"
    paths = RunFolder(run.folder)
    result = files.read_json(paths.result)
    if lacking := {"metric_version", "digests"} - result.keys():
        yield EVERY, f"result.json has no {min(lacking)}, which every run writes that writes the other"
        return
    kept, task = result["digests"], run.definition
    if lacking := {"data", "definition", "predictions", "with_tokens"} - kept.keys():
        yield EVERY, f"result.json has no digests.{min(lacking)}"
        return
    if digests.sealed(result) != result or run_folder.result_text(result).encode() != paths.result.read_bytes():
        yield EVERY, "result.json is not what the run wrote: it has another SHA-256 than digests.itself"
    if kept["definition"] != tasks.digest(run.config.task, run.config.own_task):
        where = "config.json" if run.is_own else "this program"
        yield EVERY, f"{where} defines the task otherwise: another SHA-256 than digests.definition of result.json"
    if result["metric_version"] != task.metric_version:
        said = f"result.json says metric version {result['metric_version']}, this program computes"
        yield EVERY, f"{said} {task.metric_version}; verify with the version that made it (commit {result['commit']})"
        return
    recorded = (inputs.recorded(paths) or {}).get("data", {})
    for split in {**kept["data"], **result["scores"]}:
        digest = kept["data"].get(split)
        is_fold = run.config.fold is not None and split == "dev"  # a part of train, and of dev where there is one
        if digest is None and not is_fold:
            yield split, f"result.json has no digest of the {split} data"
        elif digest is not None and recorded.get(split) != digest:
            yield _of(split), f"fingerprint.json has another SHA-256 of the {split} data than result.json"
        if (path := gold.path(run, split)) and digest and inputs.sha256(path) != digest:
            yield _of(split), f"{path} is not the data of the run: another SHA-256 than digests.data of result.json"
    for kind, now in digests.of_predictions(paths, result["scores"]).items():
        # A file without tokens is as good; all files must be there.
        for name in sorted({**now, **(kept[kind] if kind == "predictions" else {})}):
            if name not in now:
                yield _predicted(name), f"predictions/{name} is missing"
            elif now[name] != kept[kind].get(name):
                yield (
                    _predicted(name),
                    f"predictions/{name} is not what the run wrote: result.json has another SHA-256",
                )
    for split, scores in result["scores"].items():
        try:
            if (what := _score_fault(run, split, scores, gold)) is not None:
                yield split, what
        except UserError as error:
            yield split, str(error)


def _of(split: str) -> str:
    """The cell that a data file belongs to; train to both."""
    return EVERY if split == "train" else split


def _predicted(name: str) -> str:
    """The split of a file in predictions/."""
    return name.removesuffix(".tsv").removesuffix("_probabilities")


def _score_fault(run: Run, split: str, scores: Mapping[str, Any], gold: Gold) -> str | None:
    """What differs between a split's entry in result.json and what its predictions give. Raises UserError."""
    paths, task = RunFolder(run.folder), run.definition
    assert task is not None
    answers = predictions.read(task, paths.prediction(split))
    probabilities = paths.prediction(f"{split}_probabilities")
    if probabilities.is_file():
        answers = predictions.read_probabilities(task, probabilities, answers)
    examples = gold.examples(run, split)
    if examples is not None:
        predictions.check(task, answers, examples, gold.path(run, split) or paths.prediction(split))
    given = _metrics(task, answers)
    # Nor do predictions tell how many of their tags were repaired before they were written.
    recorded = _flat({name: value for name, value in scores.items() if name not in ("loss", "repaired_tags")})
    given.pop("repaired_tags", None)
    if examples is not None:
        given["examples"] = len(examples)
    else:  # a long sentence counts as its pieces, which the data alone tells
        given["examples"] = recorded.get("examples") if task.family == "tagging" else len(answers.examples)
    wrong = [name for name in {**recorded, **given} if not _agree(recorded, name, given, given)]
    if wrong and all(name.endswith("roc_auc") for name in wrong):
        low, high = (_metrics(task, answers, shift) for shift in (-DECIMALS, DECIMALS))
        wrong = [name for name in wrong if not _agree(recorded, name, low, high)]
    if not wrong:
        return None
    name, more = wrong[0], f" (and {len(wrong) - 1} more values)" if len(wrong) > 1 else ""
    return f"{name} is {recorded.get(name)} in result.json, {given.get(name)} by predictions/{split}.tsv{more}"


def _agree(recorded: Mapping[str, Any], name: str, low: Mapping[str, Any], high: Mapping[str, Any]) -> bool:
    """Whether a value of result.json is between two computed ones."""
    if not recorded.keys() & low.keys() & high.keys() >= {name}:
        return False
    value, lowest, highest = recorded[name], low[name], high[name]
    if isinstance(value, float) and isinstance(lowest, float) and isinstance(highest, float):
        return lowest - ROUNDING <= value <= highest + ROUNDING
    return bool(value == lowest)


def _metrics(task: Task, answers: Answers, shift: float = 0.0) -> dict[str, Any]:
    """All values of the metric but the loss. `shift`: added to the probabilities of the labels that are right."""
    chosen = answers.predictions
    if shift and task.family == "multilabel":
        chosen = [
            one if one.scores is None else
            replace(one, scores=tuple(p + shift * v for p, v in zip(one.scores, example.label, strict=True)))
            for one, example in zip(chosen, answers.examples, strict=True)
        ]  # fmt: skip
    report = task.metric(answers.examples, chosen)
    head = {"score": report.score, "metric": report.metric, **report.values, "warnings": list(report.warnings)}
    return _flat({**head, "per_class": report.per_class})


def _flat(values: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Tables in a table as `per_class.B.f1`."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        found |= _flat(value, f"{above}{name}.") if isinstance(value, Mapping) else {f"{above}{name}": value}
    return found


# ---- the data, where it is here
class Gold:
    """Examples of the runs' data files, each file read once."""

    def __init__(self) -> None:
        self.known: dict[tuple[Path, str, str], list[Example]] = {}
        self.absent: set[str] = set()  # data folders

    def folder(self, run: Run, split: str) -> Path | None:
        """The data folder that has the split's file; None where none here has it."""
        config, task = run.config, run.definition
        assert config is not None and task is not None
        own = tasks.sample_dir(config.task) if config.data_dir is None else Path(config.data_dir)
        above = inputs.dataset_dir() if config.data_dir else None
        places = (own, *([above / config.task] if above else []))
        return next((place for place in places if (place / task.filenames.get(split, split)).is_file()), None)

    def path(self, run: Run, split: str) -> Path | None:
        """The split's file; None where it is not here."""
        assert run.definition is not None
        folder = self.folder(run, split)
        return None if folder is None else folder / run.definition.filenames.get(split, split)

    def examples(self, run: Run, split: str) -> list[Example] | None:
        """None where the data is not here, or other data than the run's, which is a fault of its own.

        Raises UserError.
        """
        config, task = run.config, run.definition
        assert config is not None and task is not None
        is_fold = config.fold is not None and split == "dev"  # a part of train, and of dev where there is one
        read = [one for one in (("train", "dev") if is_fold else (split,)) if one in run.data_digests]
        found = {self.path(run, one): run.data_digests[one] for one in read}
        folder = self.folder(run, read[0]) if read else None
        if folder is None or None in found:
            self.absent.add(str(config.data_dir))
            return None
        if any(path is None or inputs.sha256(path) != digest for path, digest in found.items()):
            return None
        key = folder, split, f"{config.fold} {config.stride is None} {run.result['digests']['definition']}"
        if key not in self.known:
            here = replace(config, data_dir=str(folder) if config.data_dir else None)
            self.known[key] = inputs.read_data(here, task, read)[2][split]
        return self.known[key]


# ---- a bundle
def _bundles(roots: Iterable[Path]) -> dict[Path, None]:
    """Folders with a manifest: of those that were named, and of those above them where it is one of ours."""
    found: dict[Path, None] = {}
    for root in roots:
        place = root.expanduser().absolute()
        for one in (place, *place.parents):
            if (one / MANIFEST).is_file() and (one == place or _manifest(one) is not None):
                found[one] = None
    return found


def _manifest(place: Path) -> Manifest | None:
    with contextlib.suppress(UserError):
        return records.read(place / MANIFEST, TypeAdapter(Manifest))
    return None


def _manifest_faults(place: Path, runs: Sequence[Run]) -> Iterator[Fault]:
    """Files of a bundle that are gone, were changed or were added to a run."""
    if (manifest := _manifest(place)) is None:
        yield Fault(None, EVERY, f"{place / MANIFEST}: cannot be read; unpack the bundle again")
        return
    of_run = {run.folder: run for run in runs}

    def fault(name: str, what: str) -> Fault:
        run = next((of_run[above] for above in (place / name).parents if above in of_run), None)
        is_prediction = run is not None and (place / name).parent == RunFolder(run.folder).predictions
        return Fault(run, _predicted(Path(name).name) if is_prediction else EVERY, f"{name} {what}")

    for name, digest in manifest.files.items():
        if not (place / name).is_file():
            yield fault(name, f"is missing; {MANIFEST} names it")
        elif inputs.sha256(place / name) != digest:
            yield fault(name, f"is not what was packed: another SHA-256 than in {MANIFEST}")
    for run in runs:
        if run.folder.is_relative_to(place):
            for path in sorted(path for path in run.folder.rglob("*") if path.is_file()):
                if (name := str(path.relative_to(place))) not in manifest.files:
                    yield fault(name, f"was added: it is not in {MANIFEST}")
