"""Predictions of a fine-tuned model for new text: a line in, a line of JSON out.

python launch/predict.py runs/mednli/M/seed-12 --input pairs.tsv --output answers.jsonl
echo "Aspirin relieved the headache ." | python launch/predict.py runs/bc5cdr_chem/M/seed-12 --input -
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TextIO

import torch

from harness import device, files, logs, model, model_folder
from harness.errors import UserError
from harness.flags import Parser
from harness.packing import fit_to_device
from harness.terminal import guarded
from launch.reporting.new_text import Item, Predictor, Reader, forms, line_blocks
from launch.run import fine_tuned
from launch.run.settings import SAMPLE_BANNER

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def load(given: argparse.Namespace) -> Predictor:
    """The model of a run folder, or of a model folder by itself. Raises UserError where there is none."""
    place = device.set_up(given.no_cuda)
    folder = model_folder.locate(given.model)
    head, _ = model_folder.read(folder)
    about = fine_tuned.describe(folder)
    assert about is not None
    task = fine_tuned.task_of(about, folder)
    precision = given.precision or ("fp32" if place.type == "cpu" else about.precision)
    loaded = model.load(folder, trust_remote_code=given.trust_remote_code, cache_dir=given.cache_dir)
    if (head.num_outputs, head.pooling is None) != (task.num_outputs, task.per_word):
        raise UserError(f"{folder}: its head is none of {task.name}, which it names; get the folder again")
    fit_to_device(loaded.model, place, whole_weights=True)
    with model.exact_tables(loaded.model):
        loaded.model.to(place, PRECISIONS.get(precision, torch.float32))
    return Predictor(task, loaded, place, about, given.batch_size, given.with_text)


@guarded
def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0 predicted, 2 a mistake of the user's."""
    logs.quiet_libraries()
    given = _parser().parse_args(argv)
    if given.batch_size < 1:
        raise UserError(f"--batch_size {given.batch_size}: must be at least 1")
    source = _open(given.input)
    if given.output is not None:
        _check_output(given.output)
    predictor = load(given)
    if predictor.about.data == "sample":
        print(f"WARNING: {SAMPLE_BANNER}", file=sys.stderr)
    reader = Reader(predictor.task, "standard input" if given.input == "-" else given.input)
    with _output(given.output) as target:
        for lines in line_blocks(source):
            items: list[Item] = []
            try:  # what arrived together is answered and flushed; of a faulty line, everything before it
                for item in reader.items(lines):
                    items.append(item)
            finally:
                for answer in predictor.answers(items):
                    print(json.dumps(answer, ensure_ascii=False), file=target)
                target.flush()
    return 0


def _parser() -> Parser:
    parser = Parser(
        description=(__doc__ or "").splitlines()[0],
        epilog=forms(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("model", type=Path, metavar="RUN", help="a run folder, its model/, or such a model/ downloaded from elsewhere")
    add(
        "--input", required=True, metavar="FILE", help="tab separated or JSON lines; - reads standard input as it comes"
    )
    add("--output", type=Path, metavar="FILE", help="a new file for the answers, in order as they come [stdout]")
    add("--with_text", action="store_true", help="tagging: put each mention's text into the answer")
    add("--batch_size", type=int, default=32, metavar="N", help="examples a forward pass, at most [32]")
    add("--precision", choices=PRECISIONS, help="default: fp32 on a CPU, else as the run was trained")
    add("--no_cuda", action="store_true", help="stay on the CPU")
    add("--cache_dir", metavar="DIR", help="where hub downloads are kept, of the encoder that adapters (LoRA) are for")
    add("--trust_remote_code", action="store_true", help="run the Python code that comes with the model, if any")
    return parser


def _check_output(path: Path) -> None:
    """Raises UserError where no new file can be written: what is there was not asked to be replaced."""
    if not path.parent.is_dir():
        raise UserError(f"--output {path}: no such folder {path.parent}; make it, or name a file elsewhere")
    if os.path.lexists(path) and not _is_stream(path):
        what = "is a folder" if path.is_dir() else "is there already"
        raise UserError(f"--output {path}: {what}; name a new file, or remove it")


def _is_stream(path: Path) -> bool:
    """Whether it is a pipe or a device, such as /dev/null, that nothing is lost in."""
    return path.is_fifo() or path.is_char_device()


@contextlib.contextmanager
def _output(path: Path | None) -> Iterator[TextIO]:
    """Where answers go; a new file is for its owner alone, and taken away again where it got no answer.

    Raises UserError for what the system says against it, such as a full disk.
    """
    try:
        if path is None:
            yield sys.stdout
            return
        is_new = not _is_stream(path)
        opener = files.private if is_new else None  # /dev/stdout is a link
        with open(path, "x" if is_new else "w", encoding="utf-8", opener=opener) as file:
            try:
                yield file
            except UserError:
                if is_new and file.tell() == 0:
                    path.unlink()
                raise
    except BrokenPipeError:
        raise
    except OSError as error:
        where = "standard output" if path is None else f"--output {path}"
        raise UserError(f"{where}: cannot be written ({error.strerror}); name a file with --output") from error


def _open(name: str) -> int:
    if name == "-":
        return sys.stdin.fileno()
    if Path(name).is_dir():
        raise UserError(f"--input {name}: is a folder; name a file, or - for a pipe")
    try:
        return os.open(name, os.O_RDONLY)
    except OSError as error:
        raise UserError(f"--input {name}: cannot be read ({error.strerror}); name a file, or - for a pipe") from error


if __name__ == "__main__":
    sys.exit(main())
