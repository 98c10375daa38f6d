"""Predictions of a fine-tuned model for new text: a line in, a line of JSON out.

python launch/predict.py runs/mednli/M/seed-12 --input pairs.tsv --output answers.jsonl
echo "Aspirin relieved the headache ." | python launch/predict.py runs/bc5cdr_chem/M/seed-12 --input -
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import stat
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TextIO

import torch

from harness import files, logs, model, model_folder
from harness.data import collate
from harness.errors import UserError
from harness.flags import Parser
from harness.task import Example, Prediction
from harness.terminal import guarded
from launch.reporting.new_text import Form, Item, Reader, forms, line_blocks
from launch.run import fine_tuned
from launch.run.settings import SAMPLE_BANNER
from tasks.metrics import shown_mentions

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Predictor:
    """A fine-tuned model, ready to answer."""

    form: Form
    loaded: model.Loaded
    device: torch.device
    max_seq_length: int
    batch_size: int
    is_sample: bool
    with_text: bool

    def answers(self, items: Sequence[Item]) -> Iterator[dict[str, Any]]:
        """One for each item, in order."""
        examples = [example for item in items for example in item.examples]
        tagging = self.form.task.family == "tagging"
        found = iter(self._tags(examples) if tagging else self._predict(examples)[0])
        for item in items:
            own = [next(found) for _ in item.examples]
            answer = {"index": item.index, **(self._mentions(item, own[0]) if tagging else self._labels(item, own))}
            yield answer | ({"note": "SAMPLE DATA"} if self.is_sample else {})

    def _predict(self, examples: Sequence[Example]) -> tuple[list[Prediction], list[int]]:
        """Predictions, and for each example how many of its tokens the model saw."""
        task, tokenizer = self.form.task, self.loaded.tokenizer
        encoded = task.features(examples, tokenizer, self.max_seq_length)
        found: list[Prediction] = []
        for start in range(0, len(examples), self.batch_size):
            chosen = range(start, min(start + self.batch_size, len(examples)))
            batch = collate(encoded, chosen, int(tokenizer.pad_token_id or 0))
            with torch.inference_mode():
                rows = self.loaded.model(batch.to(self.device)).float().cpu()
            end = 0
            for number, units in zip(chosen, batch.units, strict=True):
                begin, end = end, end + units
                logits = rows[begin:end].numpy() if encoded.positions is not None else rows[begin].numpy()
                words = () if encoded.words is None else encoded.words[number]
                found.append(task.align(examples[number], task.head.decode(logits), words))
        return found, [len(row) for row in encoded.input_ids]

    def _tags(self, examples: Sequence[Example]) -> list[Prediction]:
        """Tags of all words. What is too long for the model goes on behind the last O that it predicted."""
        tags: list[list[str]] = [[] for _ in examples]
        left = [(number, example) for number, example in enumerate(examples) if example.texts]
        while left:
            predictions, lengths = self._predict([example for _, example in left])
            rest = []
            for (number, example), prediction, length in zip(left, predictions, lengths, strict=True):
                seen = len(example.texts)
                if length >= self.max_seq_length:
                    encoded = self.form.task.features([example], self.loaded.tokenizer, self.max_seq_length)
                    seen = max((encoded.words or [[]])[0], default=0) + 1
                if seen < len(example.texts):
                    outside = [word for word in range(seen) if prediction.value[word] == "O"]
                    seen = outside[-1] + 1 if outside else seen
                    rest.append((number, replace(example, texts=example.texts[seen:], label=example.label[seen:])))
                tags[number] += prediction.value[:seen]
            left = rest
        return [Prediction(tuple(row)) for row in tags]

    def _mentions(self, item: Item, prediction: Prediction) -> dict[str, Any]:
        """Start and end in characters; a mention of several parts names each of them too."""
        found = []
        for parts in shown_mentions(prediction.value, self.form.task.disjoint):
            spans = [[item.spans[first][0], item.spans[after - 1][1]] for first, after in parts]
            mention: dict[str, Any] = {"start": spans[0][0], "end": spans[-1][1], "spans": spans}
            if self.with_text:
                mention["text"] = " ... ".join(item.text[start:end] for start, end in spans)
            found.append(mention)
        return {"mentions": found}

    def _labels(self, item: Item, own: Sequence[Prediction]) -> dict[str, Any]:
        sentences = [self._one(example, one) for example, one in zip(item.examples, own, strict=True)]
        if not item.is_document:
            return sentences[0]
        return {
            **self._several([max(values) for values in zip(*(one.value for one in own), strict=True)]),
            "sentences": sentences,
        }

    def _one(self, example: Example, prediction: Prediction) -> dict[str, Any]:
        task = self.form.task
        answer: dict[str, Any] = {"score": prediction.value}
        if task.family != "similarity":
            answer = self._several(prediction.value) if task.family == "multilabel" else {"label": prediction.value}
            scores = [round(score, 6) for score in prediction.scores or ()]
            answer["probabilities"] = dict(zip(task.labels, scores, strict=True))
        tokens = self.loaded.tokenizer(*example.texts, truncation=False, verbose=False)["input_ids"]
        return answer | ({"cut": True} if len(tokens) > self.max_seq_length else {})

    def _several(self, values: Sequence[int]) -> dict[str, Any]:
        """The labels, and what they stand for where they do not say it themselves."""
        task = self.form.task
        answer = {"labels": [label for label, value in zip(task.labels, values, strict=True) if value]}
        if task.label_titles:
            answer["names"] = [title for title, value in zip(task.label_titles, values, strict=True) if value]
        return answer


def load(path: Path, given: argparse.Namespace) -> Predictor:
    """The model of a run folder, or of a model folder by itself. Raises UserError where there is none."""
    folder = model_folder.locate(path)
    about = fine_tuned.describe(folder)
    if about is None:
        model_folder.read(folder)  # says what is missing
        raise AssertionError("a folder without a head was read")
    task = fine_tuned.task_of(about, folder)
    device = torch.device("cuda" if torch.cuda.is_available() and not given.no_cuda else "cpu")
    chosen = given.precision or ("fp32" if device.type == "cpu" else about.precision)
    loaded = model.load(folder, trust_remote_code=given.trust_remote_code)
    if loaded.model.classifier.out_features != task.head.num_outputs or (
        (loaded.model.pooling is None) != task.head.per_word
    ):
        raise UserError(f"{folder}: its head is none of {task.name}, which it names; get the folder again")
    loaded.model.to(device, PRECISIONS.get(chosen, torch.float32))
    form, is_sample = Form.of(task, about.own_task), about.data == "sample"
    return Predictor(form, loaded, device, about.max_seq_length, given.batch_size, is_sample, given.with_text)


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0 predicted, 2 a mistake of the user's."""
    logs.quiet_libraries(torch.cuda.is_available())
    return guarded(lambda: _main(argv))


def _main(argv: Sequence[str] | None) -> int:
    given = _parser().parse_args(argv)
    if given.batch_size < 1:
        raise UserError(f"--batch_size {given.batch_size}: must be at least 1")
    source = _open(given.input)
    if given.output is not None:
        _check_output(given.output)
    predictor = load(given.model, given)
    if predictor.is_sample:
        print(f"WARNING: {SAMPLE_BANNER}", file=sys.stderr)
    reader = Reader(predictor.form, "standard input" if given.input == "-" else given.input)
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
    return path.exists() and (stat.S_ISFIFO(path.stat().st_mode) or stat.S_ISCHR(path.stat().st_mode))


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
