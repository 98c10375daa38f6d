"""Values from files, checked by pydantic models: pydantic's errors as this project's one-line messages."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from pydantic import ValidationError

from harness.errors import UserError
from harness.terminal import visible

LONGEST_KEY, LONGEST_VALUE = 100, 60  # letters
UNION_MEMBERS = ("int", "float")  # pydantic names the member of a union that it tried; no file has such a key
NO_KEY = "no such key"
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


def faults(error: ValidationError, hint: Callable[[str], str] = lambda key: "") -> list[str]:
    """`key = value: what is wrong` for each fault, on one line."""
    lines = []
    for place, (value, wrong) in what_is_wrong(error).items():
        # The name of a table's key that is itself at fault ends in "[key]".
        parts = [part for part in place if part not in (*UNION_MEMBERS, "[key]")]
        key = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts).removeprefix(".")
        key = visible(" ".join(key.split()))
        key = f"{key[:LONGEST_KEY]}..." if len(key) > LONGEST_KEY else key
        if not key or wrong.startswith(("is ", "holds ")):  # a sentence of its own, without the value
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
            said[place] = fault["input"], wrong
    return said


def shown(value: Any, write: Callable[[Any], str] = repr) -> str:
    """In one line. Not what is in a table or a long list, which may hold more than any memory by references."""
    if isinstance(value, dict | list) and (len(value) > 3 or any(isinstance(item, dict | list) for item in value)):
        return f"(a {'table' if isinstance(value, dict) else 'list'} of {len(value)})"
    if isinstance(value, int) and abs(value) >= 10**LONGEST_VALUE:
        return "(a huge number)"  # Python itself refuses to write thousands of digits
    text = visible(write(value[: LONGEST_VALUE + 1] if isinstance(value, str) else value))
    return f"{text[:LONGEST_VALUE]}..." if len(text) > LONGEST_VALUE else text
