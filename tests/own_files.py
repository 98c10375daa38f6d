"""Task files of each family with a few made-up rows, for the tests of own tasks."""

from __future__ import annotations

from pathlib import Path

TAGS = """The O
boy O
has O
fever {B}
and O
red {B}
eyes {I}
. O

No O
fever {B}
. O
"""
FILES = {
    "tagging": (
        'name = "signs"\nfamily = "tagging"\nmetric = "mention F1"\nlabels = ["Sign"]\nseparator = "blanks"\n'
        "[columns]\nword = 1\ntag = 2\n",
        TAGS.format(B="B-Sign", I="I-Sign"),
    ),
    "typed": (  # an I-Sign after B-Drug: it begins a mention
        'name = "findings"\nfamily = "tagging"\nmetric = "mention F1"\nlabels = ["Sign", "Drug"]\n'
        'separator = "blanks"\n[columns]\nword = 1\ntag = 2\n',
        TAGS.format(B="B-Sign", I="I-Sign").replace("and O", "and B-Drug").replace("red B-Sign", "red I-Sign"),
    ),
    "multiclass": (
        'name = "harm"\ntitle = "Harm, made up"\nfamily = "multiclass"\nmetric = "macro F1"\nlabels = ["no", "yes"]\n'
        '[columns]\nsentence = "text"\nlabel = "harm"\n',
        "text\tnote\tharm\nthe drug has no harm\tx\tno\nthe drug is a harm\t\tyes\nno fever with the drug\ty\tno\n",
    ),
    "similarity": (
        'name = "alike"\nfamily = "similarity"\nmetric = "Pearson"\nheader = false\n'
        "[columns]\nsentence1 = 3\nsentence2 = 4\nscore = 1\nindex = 2\n",
        "1.5\ta\tthe drug\tthe gene\n4\tb\tno fever\tno fever\n0.5\tc\taspirin\tthe patient\n",
    ),
    "multilabel": (
        'name = "topics"\nfamily = "multilabel"\nmetric = "micro F1"\nlabels = ["drug", "gene", "sign"]\n'
        '[columns]\nindex = "id"\nsentence = "text"\nlabels = "topics"\n',
        "id\ttext\ttopics\n1_s0\tthe drug has no gene\tdrug,gene\n1_s1\tthe patient\t\n"
        "x\tfever of a gene\tsign, gene\n",
    ),
}


def write(family: str, folder: Path, more: str = "") -> Path:
    """The task file of a family, in a folder with its three splits; `more` goes to its end."""
    text, rows = FILES[family]
    folder.mkdir(parents=True, exist_ok=True)
    for split in ("train", "dev", "test"):
        (folder / f"{split}.tsv").write_text(rows)
    path = folder / "task.toml"
    path.write_text(f'data_dir = "."\n{text}{more}')
    return path
