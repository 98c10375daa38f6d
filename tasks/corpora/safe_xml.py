"""XML from elsewhere, read element by element: no entities, no files or addresses named in it, no absurd depth."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from lxml import etree

from harness.task import UserError
from tasks.corpora.sources import SourceFile

__all__ = ["elements", "required", "whole_number"]

PARSER = {"resolve_entities": False, "no_network": True, "load_dtd": False, "huge_tree": False, "remove_comments": True}
REMEDY = "put the published file there, unchanged"


def elements(file: SourceFile, tag: str) -> Iterator[Any]:
    """Every element of that name with all below it, in file order; the one before is forgotten.

    Raises UserError for what is not well formed, and for a document type that declares entities: a few lines of
    those unpack to gigabytes, or name files of this machine.
    """
    if file.path.stat().st_size == 0:
        raise file.error("the file is empty", REMEDY, 1)
    try:
        with open(file.opened(), "rb") as stream:
            head = stream.read(1000)
        if not head.startswith((b"\xff\xfe", b"\xfe\xff")):  # XML may be UTF-16
            file.check_kind(head)
        context = etree.iterparse(str(file.opened()), events=("start", "end"), remove_pis=True, **PARSER)
        is_first = True
        for event, element in context:
            if is_first:
                _refuse_entities(file, element)
                is_first = False
            if event == "end" and element.tag == tag:
                yield element
                element.clear()
                while element.getprevious() is not None:
                    del element.getparent()[0]
    except etree.XMLSyntaxError as error:
        # libxml2's own message may quote the text; its line number does not.
        raise file.error(f"not well-formed XML ({_kind(error)})", REMEDY, error.lineno or 1) from None
    except OSError as error:
        raise file.error(f"cannot be read ({error.strerror})", "check the file and its permissions") from None
    except (LookupError, ValueError, UnicodeError):
        raise file.error("not well-formed XML (unknown encoding)", "save the file as UTF-8", 1) from None


def _refuse_entities(file: SourceFile, element: Any) -> None:
    kind = element.getroottree().docinfo.internalDTD
    if kind is not None and next(kind.iterentities(), None) is not None:
        raise file.error("the document type declares entities", "remove the declarations, no corpus needs them", 1)


def _kind(error: etree.XMLSyntaxError) -> str:
    last = error.error_log.last_error if error.error_log else None
    return "cut off or broken" if last is None else str(last.type_name).removeprefix("ERR_").lower().replace("_", " ")


def required(file: SourceFile, element: Any, name: str) -> str:
    """The value of an attribute. Raises UserError where it is missing."""
    value = element.get(name)
    if value is None:
        raise file.error(f"<{element.tag}> without the attribute {name}", REMEDY, element.sourceline)
    return str(value)


def whole_number(file: SourceFile, value: str | None, what: str, line: int) -> int:
    """A number of characters or words. Raises UserError where it is none."""
    if value is None or not value.strip().isascii() or not value.strip().isdigit() or len(value.strip()) > 9:
        raise file.error(f"{what} is not a whole number", REMEDY, line)
    return int(value)


def unexpected(file: SourceFile, expected: str) -> UserError:
    """The error for a file without a single element that was looked for."""
    return file.error(f"no <{expected}> in it", "check that it is a file of this corpus", 1)
