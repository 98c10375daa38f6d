"""BioASQ 7b (Tsatsaronis et al. 2015): questions to be answered by yes or no, with snippets of abstracts."""

from __future__ import annotations

import re
from collections.abc import Iterator

from tasks.corpora.corpus import Corpus, Document, Options, clean
from tasks.corpora.sources import Source, SourceFile

TASK = "bioasq"
YEAR = "7"
FILES = {"train": r".*train[a-z]*([0-9]+)b\.json", "test": r"([0-9]+)b[0-9]_golden\.json"}  # trainining7b.json, sic
TEST_BATCHES = 5


def documents(source: Source, options: Options) -> Iterator[Document]:
    """A row for each question of this kind: the question, and its snippets in their order, one after the other."""
    for split, files in _files(source).items():
        for file in files:
            content = file.json().get("questions")
            if not isinstance(content, list) or not all(isinstance(one, dict) for one in content):
                raise file.error('no list of "questions" in it')
            for one in content:
                if one.get("type") == "yesno":
                    yield Document(str(one.get("id")), split, {TASK: [_row(file, one)]})


def _files(source: Source) -> dict[str, list[SourceFile]]:
    """Split -> its files: training of this year, and the golden answers to its test batches."""
    found: dict[str, list[SourceFile]] = {}
    for split, pattern in FILES.items():
        years = {file: re.fullmatch(pattern, file.path.name.lower()) for file in source.files}
        found[split] = [file for file, match in years.items() if match is not None and match[1] == YEAR]
        others = sorted({match[1] for match in years.values() if match is not None} - {YEAR})
        wanted = TEST_BATCHES if split == "test" else 1
        if len(found[split]) != wanted:
            of_other = f" ({', '.join(others)}b found: another year)" if others else ""
            raise source.error(f"{len(found[split])} of {wanted} {split} files of BioASQ {YEAR}b{of_other}")
    return found


def _row(file: SourceFile, one: dict[str, object]) -> dict[str, str]:
    snippets, answer = one.get("snippets"), one.get("exact_answer")
    answer = answer[0] if isinstance(answer, list) and len(answer) == 1 else answer
    name = str(one.get("id"))
    texts = (
        [snippet.get("text") for snippet in snippets if isinstance(snippet, dict)] if isinstance(snippets, list) else []
    )
    if not texts or not all(isinstance(text, str) for text in [one.get("id"), one.get("body"), *texts]):
        raise file.error(f"question {name[:30]!a} lacks id, body or snippets with a text")
    if not isinstance(answer, str) or answer.strip().lower() not in ("yes", "no"):
        raise file.error(f"question {name[:30]!a}: its exact_answer is neither yes nor no")
    context = clean(" ".join(map(str, texts)))
    return {"index": name, "sentence1": clean(str(one["body"])), "sentence2": context, "label": answer.strip().lower()}


CORPUS = Corpus(TASK, documents, drawn={"dev": 75 / 745}, unit="questions")
