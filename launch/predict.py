"""Predictions of a fine-tuned run for new text: a line in, a line of JSON out.

python launch/predict.py runs/mednli/M/seed-12 --input pairs.tsv
echo "Aspirin relieved the headache ." | python launch/predict.py runs/bc5cdr_chem/M/seed-12 --input -
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from harness import UserError, logs, model
from harness.data import collate
from harness.runs import RunFolder
from harness.task import Batch, Example, Prediction
from launch.reporting import gather
from launch.reporting.inputs import Form, Item, Reader, arriving
from launch.reporting.terminal import Parser, guarded
from launch.settings import SAMPLE_BANNER
from tasks.mentions import mentions

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Predictor:
    """A run's model, ready to answer."""

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
        """Predictions, and for each example how many of its word pieces the model saw."""
        task, tokenizer = self.form.task, self.loaded.tokenizer
        encoded = task.features(examples, tokenizer, self.max_seq_length)
        found: list[Prediction] = []
        for start in range(0, len(examples), self.batch_size):
            chosen = range(start, min(start + self.batch_size, len(examples)))
            batch = collate(encoded, chosen, int(tokenizer.pad_token_id or 0))
            with torch.inference_mode():
                rows = self._forward(batch)
            end = 0
            for number, units in zip(chosen, batch.units, strict=True):
                begin, end = end, end + units
                logits = rows[begin:end].numpy() if encoded.positions is not None else rows[begin].numpy()
                words = () if encoded.words is None else encoded.words[number]
                found.append(task.align(examples[number], task.head.decode(logits), words))
        return found, [len(row) for row in encoded.input_ids]

    def _forward(self, batch: Batch) -> torch.Tensor:
        logits: torch.Tensor = self.loaded.model(batch.to(self.device))
        return logits.float().cpu()

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
        for words in sorted(mentions(prediction.value)):
            spans: list[list[int]] = []
            for before, word in zip((-2, *words), words, strict=False):
                start, end = item.spans[word]
                if word == before + 1:
                    spans[-1][1] = end
                else:
                    spans.append([start, end])
            mention: dict[str, Any] = {"start": spans[0][0], "end": spans[-1][1], "spans": spans}
            if self.with_text:
                mention["text"] = " ... ".join(item.text[start:end] for start, end in spans)
            found.append(mention)
        return {"mentions": found}

    def _labels(self, item: Item, own: Sequence[Prediction]) -> dict[str, Any]:
        if item.is_document:
            union = tuple(map(max, *(one.value for one in own))) if len(own) > 1 else own[0].value
            sentences = [self._one(example, one) for example, one in zip(item.examples, own, strict=True)]
            return {"labels": self._names(union), "sentences": sentences}
        return self._one(item.examples[0], own[0])

    def _one(self, example: Example, prediction: Prediction) -> dict[str, Any]:
        task = self.form.task
        answer: dict[str, Any]
        if task.family == "similarity":
            answer = {"score": prediction.value}
        else:
            several = task.family == "multilabel"
            answer = {"labels": self._names(prediction.value)} if several else {"label": prediction.value}
            scores = [round(score, 6) for score in prediction.scores or ()]
            answer["probabilities"] = dict(zip(task.labels, scores, strict=True))
        pieces = self.loaded.tokenizer(*example.texts, truncation=False, verbose=False)["input_ids"]
        return answer | ({"cut": True} if len(pieces) > self.max_seq_length else {})

    def _names(self, values: Sequence[int]) -> list[str]:
        return [label for label, value in zip(self.form.task.labels, values, strict=True) if value]


def load(folder: Path, *, no_cuda: bool, precision: str | None, batch_size: int, with_text: bool) -> Predictor:
    """The model of a run folder. Raises UserError where there is none."""
    run = gather.read(folder)
    if run.config is None:
        raise UserError(run.reason)
    device = torch.device("cuda" if torch.cuda.is_available() and not no_cuda else "cpu")
    chosen = precision or ("fp32" if device.type == "cpu" else run.result.get("precision", "fp32"))
    loaded = model.load(RunFolder(folder).model)
    loaded.model.to(device, PRECISIONS[chosen])
    form, length = Form.of(run.definition, run.config.own_task), run.config.max_seq_length
    return Predictor(form, loaded, device, length, batch_size, run.data == "sample", with_text)


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0 predicted, 2 a mistake of the user's."""
    logs.quiet_libraries(torch.cuda.is_available())
    return guarded(lambda: _main(argv))


def _main(argv: Sequence[str] | None) -> int:
    parser = Parser(description=(__doc__ or "").splitlines()[0], allow_abbrev=False)
    parser.add_argument("run", type=Path, metavar="RUN", help="a run folder with its model/")
    parser.add_argument(
        "--input", required=True, metavar="FILE", help="tab separated or JSON lines; - reads standard input as it comes"
    )
    parser.add_argument("--with_text", action="store_true", help="tagging: put each mention's text into the answer")
    parser.add_argument("--batch_size", type=int, default=32, metavar="N", help="examples a forward pass, at most [32]")
    parser.add_argument("--precision", choices=PRECISIONS, help="default: fp32 on a CPU, else as the run was trained")
    parser.add_argument("--no_cuda", action="store_true", help="stay on the CPU")
    given = parser.parse_args(argv)
    if given.batch_size < 1:
        raise UserError(f"--batch_size {given.batch_size}: must be at least 1")
    source = _open(given.input)
    predictor = load(
        given.run,
        no_cuda=given.no_cuda,
        precision=given.precision,
        batch_size=given.batch_size,
        with_text=given.with_text,
    )
    if predictor.is_sample:
        print(f"WARNING: {SAMPLE_BANNER}", file=sys.stderr)
    reader = Reader(predictor.form, "standard input" if given.input == "-" else given.input)
    for lines in arriving(source):
        _answer(predictor, reader, lines)
    return 0


def _answer(predictor: Predictor, reader: Reader, lines: Sequence[bytes]) -> None:
    """What arrived together is answered and flushed; of a faulty line, everything before it."""
    items: list[Item] = []
    try:
        for item in reader.items(lines):
            items.append(item)
    finally:
        for answer in predictor.answers(items):
            print(json.dumps(answer, ensure_ascii=False))
        sys.stdout.flush()


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
