"""Fixtures that several test files use."""

from __future__ import annotations

import string
from typing import Any

import pytest


@pytest.fixture(scope="session")
def tiny_tokenizer() -> Any:
    """A BERT tokenizer made in memory: letters, digits, their continuations and a few whole words."""
    from transformers import BertTokenizer

    letters = list(string.ascii_lowercase + string.digits)
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words = ["the", "patient", "has", "no", "fever", "drug", "gene", "aspirin", ".", ",", "@", "$"]
    pieces = special + letters + [f"##{letter}" for letter in letters] + words
    return BertTokenizer(vocab={piece: number for number, piece in enumerate(pieces)}, do_lower_case=True)
