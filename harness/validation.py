"""Values from files, checked by pydantic models: pydantic's errors as this project's one-line messages."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from pydantic import ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError

from harness.errors import UserError
from harness.terminal import visible

LONGEST_KEY, LONGEST_VALUE = 100, 60  # letters
UNION_MEMBERS = ("int", "float")  # pydantic names the member of a union that it tried; no file has such a key
NO_KEY = "no such key"
WHOLE = object()  # in place of a value: what is wrong has been said with the value in it
WRONG = {  # by pydantic's type of error; its own text stands for the others
    "bool_type": "must be true or false",
    "dataclass_type": "must be a table",
    "dict_type": "must be a table",
    "extra_forbidden": NO_KEY,
    "finite_number": "must be a finite number",
    "float_parsing": "must be a number",
    "float_type": "must be a number",
    "greater_than": "must be above {gt}",
    "greater_than_equal": "must be at least {ge:g}",
    "int_from_float": "must be a whole number",
    "int_parsing": "must be a number",
    "int_parsing_size": "must be a smaller number",
    "int_type": "must be a whole number",
    "json_invalid": "not JSON ({error})",
    "less_than": "must be below {lt}",
    "less_than_equal": "must be at most {le:g}",
    "list_type": "must be a list",
    "literal_error": "must be {expected}",
    "missing": "is missing",
    "model_type": "must be a table",
    "string_type": "must be text in quotes",
    "tuple_type": "must be a list",
    "unexpected_keyword_argument": NO_KEY,
    "value_error": "{error}",
}
T = TypeVar("T")


def checked(build: Callable[[], T], where: str, hint: Callable[[str], str] = lambda key: "") -> T:
    """What `build` makes by a pydantic model. Raises UserError that lists every fault, a line each, after `where`.

    `hint`: what to say behind an unknown key, such as the nearest one that is known.
    """
    try:
        return build()
    except ValidationError as error:
        raise UserError("\n".join(f"{where}{fault}" for fault in faults(error, hint))) from None


def fault(said: str) -> PydanticCustomError:
    """To raise in a validator that says everything, `what is wrong (value); what to do`: the message is `key: said`."""
    return PydanticCustomError("fault", "{said}", {"said": said})


def faults_below(found: Mapping[tuple[str, ...], PydanticCustomError]) -> ValidationError:
    """To raise in a validator of a table: several faults at once, each under its place below the validator's field."""
    details = [InitErrorDetails(type=error, loc=place, input=None) for place, error in found.items()]
    return ValidationError.from_exception_data("faults", details)


def one_of(value: Any, known: Iterable[str]) -> str:
    """The value, a name that is known. Raises the fault for any other, for a validator."""
    if not isinstance(value, str) or value not in known:
        what = "missing" if value is None else f"{shown(value)} is none"
        raise fault(f"{what}; {near(value, known)}give one of {', '.join(known)}")
    return value


def near(value: Any, known: Iterable[str]) -> str:
    """`did you mean X? ` or nothing; capitals do not matter."""
    names = {name.lower(): name for name in known}
    close = difflib.get_close_matches(value.lower()[:LONGEST_KEY], names, n=1) if isinstance(value, str) else []
    return f"did you mean {names[close[0]]}? " if close else ""


def unknown(kind: str, given: str, known: Iterable[str]) -> UserError:
    """The error for a name that is none of `known`: it offers the nearest one and lists all."""
    names = list(known)
    nearest = difflib.get_close_matches(given.lower(), names, n=1, cutoff=0.4)
    offer = f"did you mean {nearest[0]!r}? " if nearest else ""
    return UserError(f"unknown {kind} {given!r}; {offer}known: {', '.join(names)}")


def faults(error: ValidationError, hint: Callable[[str], str] = lambda key: "") -> list[str]:
    """`key = value: what is wrong` for each fault, on one line."""
    lines = []
    for place, (value, wrong) in what_is_wrong(error).items():
        # The name of a table's key that is itself at fault ends in "[key]".
        parts = [part for part in place if part not in (*UNION_MEMBERS, "[key]")]
        parts = [part if isinstance(part, int) or part.isprintable() else repr(part) for part in parts]
        key = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts).removeprefix(".")
        key = f"{key[:LONGEST_KEY]}..." if len(key) > LONGEST_KEY else key
        if value is WHOLE and key:
            lines.append(f"{key}: {wrong}")
        elif not key or wrong.startswith(("is ", "holds ")):  # a sentence of its own, without the value
            lines.append(f"{key} {wrong}".strip())
        elif wrong == NO_KEY:
            lines.append(f"{key}: {wrong}{hint(key)}")
        else:
            lines.append(f"{key} = {shown(value)}: {wrong}")
    return lines


def what_is_wrong(error: ValidationError) -> dict[tuple[int | str, ...], tuple[Any, str]]:
    """Place in what was validated -> (the value there, what is wrong with it)."""
    found = {fault["loc"]: fault for fault in error.errors(include_url=False)}
    # Of `int | float` each half has a fault of its own, and the second one says it better.
    int_branches = {(*place[:-1], "int") for place in found if place[-1:] == ("float",)}
    said = {}
    for place, fault in found.items():
        if place not in int_branches:
            wrong = fault["msg"].replace("Input should", "must").replace("Value should", "must")
            if fault["type"] in WRONG:
                wrong = WRONG[fault["type"]].format(**fault.get("ctx", {}))
            said[place] = WHOLE if fault["type"] == "fault" else fault["input"], wrong
    return said


def shown(value: Any, write: Callable[[Any], str] = repr) -> str:
    """In one line. Not what is in a table or a long list, which may hold more than any memory by references."""
    if isinstance(value, dict | list) and (len(value) > 3 or any(isinstance(item, dict | list) for item in value)):
        return f"(a {'table' if isinstance(value, dict) else 'list'} of {len(value)})"
    try:
        text = visible(write(value[: LONGEST_VALUE + 1] if isinstance(value, str) else value))
    except ValueError:
        return "(a huge number)"  # Python itself refuses to write thousands of digits
    return f"{text[:LONGEST_VALUE]}..." if len(text) > LONGEST_VALUE else text
