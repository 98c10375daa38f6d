"""The tokenizer of a checkpoint, with the casing and the blanks between words that the checkpoint was trained with."""

from __future__ import annotations

import json
import logging
from typing import Any

from harness import pretrained
from harness.config import RunConfig
from harness.errors import UserError
from harness.pretrained import JSON_FILES, VOCABULARIES, Source

logger = logging.getLogger(__name__)

CAPITALS = 0.01  # part of a vocabulary from which on it is a cased one; a cased BERT's is about a third
WORDS = ("of", "anemia", "Drug", "2")  # that are tried for blanks


def load_tokenizer(config: RunConfig, per_word: bool = False) -> Any:
    """The fast tokenizer, cased as the flag, its files or its vocabulary say. Raises UserError where there is none.

    `per_word`: for texts that are given as words (tagging), each of which then gets the blank before it.
    """
    for flag in ("model_name_or_path", "config_name", "tokenizer_name"):
        if getattr(config, flag):
            pretrained.check_reachable(pretrained.source(config, flag))
    source = pretrained.source(config, "tokenizer_name")
    settings = pretrained.settings(config)
    if source.name != pretrained.find(config.model_name_or_path) and source.path("config.json") is not None:
        settings = None  # the tokenizer's folder says itself of which kind it is
    tokenizer = _load(source, settings, {})
    asked, by = _choose_casing(config, source, tokenizer)
    if asked is not None and asked != _lower_cases(tokenizer) and not _set_casing(tokenizer, asked):
        tokenizer = _load(source, settings, {"do_lower_case": asked})
    lower, capitals = _lower_cases(tokenizer), _has_capitals(tokenizer)
    if config.do_lower_case not in (None, lower):
        flag = "--do_lower_case" if config.do_lower_case else "--no-do_lower_case"
        logger.warning("%s: has no effect on a %s, which has its own casing", flag, type(tokenizer).__name__)
    logger.info("casing  %s, as %s", "text is lower-cased" if lower else "capitals are kept", by)
    if lower and capitals:
        wrong = f"capital letters in its vocabulary, and the text is lower-cased, as {by}: --no-do_lower_case?"
        logger.warning("%s has %s", source.name, wrong)
    if not lower and not capitals:
        wrong = "no capital letter in its vocabulary, and the text is not lower-cased: --do_lower_case?"
        logger.warning("%s has %s", source.name, wrong)
    _give_padding(tokenizer, source)
    _separate_pair(tokenizer, source)
    if per_word:
        separate_words(tokenizer, source)
    return tokenizer


def _give_padding(tokenizer: Any, source: Source) -> None:
    """A pad token where there is none, as of Llama's: one that is there, since padding is masked out everywhere."""
    if tokenizer.pad_token is not None:
        return
    other = tokenizer.eos_token or tokenizer.unk_token
    if other is not None:
        tokenizer.pad_token = other
        logger.info("padding by %s: %s has no pad token; it is masked out everywhere", other, source.name)


def _separate_pair(tokenizer: Any, source: Source) -> None:
    """The end token between the texts of a pair, where a tokenizer puts nothing there, as Qwen's does."""
    from tokenizers import processors

    backend, end = tokenizer.backend_tokenizer, tokenizer.eos_token
    pair = backend.encode("a", "a")
    own = [place for place, number in enumerate(pair.sequence_ids) if number is not None]
    between = [place for place in range(own[0], own[-1]) if pair.sequence_ids[place] is None]
    if between or end is None:
        return
    # What stands before and behind the texts stays; offsets, which another step may trim, are not used.
    before, behind = pair.tokens[: own[0]], pair.tokens[own[-1] + 1 :]
    names = {token: backend.token_to_id(token) for token in (*before, *behind, end)}
    single = backend.encode("a")
    own = [place for place, number in enumerate(single.sequence_ids) if number is not None]
    backend.post_processor = processors.TemplateProcessing(
        single=[*single.tokens[: own[0]], "$A", *single.tokens[own[-1] + 1 :]],
        pair=[*before, "$A", end, "$B", *behind],
        special_tokens=list(names.items()),
    )
    logger.info("pairs   have %s between their texts: the tokenizer of %s puts nothing there", end, source.name)


def _load(source: Source, settings: Any, more: dict[str, Any]) -> Any:
    """The tokenizer as transformers makes it. Raises UserError."""
    from tokenizers import processors
    from transformers import AutoTokenizer

    values = {name: source.read(name) for name in JSON_FILES}
    found = [name for name in ("tokenizer.json", "vocab.json") if source.path(name) is not None]
    for name in VOCABULARIES if source.folder else ():
        if path := source.path(name):
            source.check(path)
            found.append(name)
    own = values["tokenizer_config.json"].get("auto_map")
    remedy = "name a folder with tokenizer.json or vocab.txt, or give --tokenizer_name"
    options = dict(source.options) | more | ({} if settings is None else {"config": settings})
    try:
        try:
            tokenizer: Any = AutoTokenizer.from_pretrained(source.name, **options)
        except Exception:
            if found != ["vocab.txt"]:  # as BERT has it, where the architecture has no tokenizer of its own
                raise
            tokenizer = AutoTokenizer.from_pretrained(source.name, tokenizer_type="bert", **options)
    except Exception as error:  # of as many kinds as such files can have mistakes; their remedies are for other users
        logger.debug("tokenizer of %s", source.name, exc_info=True)
        if own and not options["trust_remote_code"]:
            raise source.fault(
                "its tokenizer is code of its own (auto_map in tokenizer_config.json), which was not run; "
                "read it, and where you trust it give --trust_remote_code"
            ) from error
        what = f"{', '.join(found)} cannot be read as its kind" if found else "it has none of the usual files"
        raise source.fault(f"no tokenizer can be loaded ({what}: {type(error).__name__}); {remedy}") from error
    if not tokenizer.is_fast:
        raise source.fault(
            "it has no fast version (tokenizer.json), which word positions need; convert it, or name another"
        )
    if not _plain_pieces(tokenizer):  # what transformers makes of a folder without its files
        what = f"{', '.join(found)} give it an empty vocabulary" if found else "its vocabulary is empty"
        raise source.fault(f"no tokenizer can be loaded ({what}); {remedy}")
    first, last = tokenizer.cls_token, tokenizer.sep_token
    special = {*tokenizer.all_special_ids} - {tokenizer.unk_token_id}
    if first is not None and last is not None and not special & {*tokenizer("a")["input_ids"]}:
        # As of RemBERT's SentencePiece file alone; of a copy that was saved and loaded again transformers marks the
        # ends of inputs, and training and `model/` would differ.
        ends = (last, tokenizer.sep_token_id), (first, tokenizer.cls_token_id)
        tokenizer.backend_tokenizer.post_processor = processors.BertProcessing(*ends)
    if not options["trust_remote_code"]:
        tokenizer.init_kwargs.pop("auto_map", None)  # else it would be written beside a model, without the code
    return tokenizer


def _plain_pieces(tokenizer: Any) -> list[str]:
    """The vocabulary without special and added tokens."""
    special = set(tokenizer.all_special_tokens)
    pieces = tokenizer.backend_tokenizer.get_vocab(with_added_tokens=False)
    return [piece for piece in pieces if piece not in special and not piece.startswith(("[", "<"))]


def _has_capitals(tokenizer: Any) -> bool:
    pieces = _plain_pieces(tokenizer)
    capitals = sum(piece != piece.lower() for piece in (piece.strip("\u0120") for piece in pieces))
    return capitals >= max(1.0, CAPITALS * len(pieces))


def _lower_cases(tokenizer: Any) -> bool:
    normalizer = tokenizer.backend_tokenizer.normalizer
    return normalizer is not None and bool(normalizer.normalize_str("A").strip() == "a")


def _choose_casing(config: RunConfig, source: Source, tokenizer: Any) -> tuple[bool | None, str]:
    """(whether text is to be lower-cased, what says so); None where the tokenizer's class is not to be asked to."""
    if config.do_lower_case is not None:
        return config.do_lower_case, "the flag says"
    written = source.read("tokenizer_config.json").get("do_lower_case")
    if isinstance(written, bool):
        return written, "its files say"
    if source.path("tokenizer.json") is not None:
        normalizer = json.dumps(source.read("tokenizer.json").get("normalizer"))
        return '"lowercase": true' in normalizer or '"Lowercase"' in normalizer, "its files say"
    return not _has_capitals(tokenizer) if _lower_cases(tokenizer) else None, "its vocabulary says"


def _set_casing(tokenizer: Any, lower: bool) -> bool:
    """Casing of a BERT-style tokenizer, accents stripped with it as the original did; False for one of another kind."""
    normalizer = tokenizer.backend_tokenizer.normalizer
    if type(normalizer).__name__ != "BertNormalizer":
        return False
    normalizer.lowercase, normalizer.strip_accents = lower, None  # None: as lowercase
    # Both are written beside a model, and from them transformers makes the normalizer again when that is loaded.
    tokenizer.do_lower_case, tokenizer.strip_accents = lower, None
    tokenizer.init_kwargs |= {"do_lower_case": lower, "strip_accents": None}
    return True


def separate_words(tokenizer: Any, source: Source | None = None) -> None:
    """Make words that are given one by one the subword tokens that they are in a text, behind a blank.

    Byte-level tokenizers see a word without its blank as the middle of another. Raises UserError where it cannot be.
    """
    from tokenizers import normalizers, pre_tokenizers

    if _words_as_in_text(tokenizer):
        return
    backend = tokenizer.backend_tokenizer
    if isinstance(backend.pre_tokenizer, pre_tokenizers.ByteLevel):
        backend.pre_tokenizer.add_prefix_space = True
        tokenizer.add_prefix_space = True
        tokenizer.init_kwargs["add_prefix_space"] = True  # is written, and makes the same of the file when loaded
    if not _words_as_in_text(tokenizer):
        # Behind another step (a pattern that cuts words apart) the byte level would put blanks inside them too.
        blank = normalizers.Prepend(" ")
        before = backend.normalizer
        backend.normalizer = blank if before is None else normalizers.Sequence([blank, before])
    if not _words_as_in_text(tokenizer):
        where = "its tokenizer" if source is None else f"{source}: its tokenizer"
        raise UserError(
            f"{where} makes other subword tokens of a word than of the same word in a text, which tagging cannot use; "
            "name another by --tokenizer_name"
        )


def _words_as_in_text(tokenizer: Any) -> bool:
    """Whether words given one by one become what they are behind other words in a text."""
    backend = tokenizer.backend_tokenizer
    backend.no_padding()  # some are written with padding and truncation switched on
    backend.no_truncation()
    first = backend.encode("a", add_special_tokens=False).ids
    text = backend.encode("a " + " ".join(WORDS), add_special_tokens=False).ids
    words = backend.encode(list(WORDS), is_pretokenized=True, add_special_tokens=False).ids
    return bool(words == text[len(first) :])
