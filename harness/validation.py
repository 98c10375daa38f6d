"""Values from files, checked by pydantic models: pydantic's errors as this project's one-line messages."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from pydantic import ValidationError

from harness.errors import UserError
from harness.terminal import visible

LONGEST_KEY, LONGEST_VALUE = 100, 60  # letters
UNION_MEMBERS = ("int", "float")  # pydantic names the member of a union that it tried; no file has such a key
NO_KEY = ("extra_forbidden", "unexpected_keyword_argument")
MUST_BE = {  # by pydantic's type of error; its own text stands for the others
    "bool_type": "true or false",
    "dataclass_type": "a table",
    "dict_type": "a table",
    "finite_number": "a finite number",
    "float_type": "a number",
    "greater_than_equal": "at least {ge:g}",
    "int_type": "a whole number",
    "less_than_equal": "at most {le:g}",
    "list_type": "a list",
    "literal_error": "{expected}",
    "model_type": "a table",
    "string_type": "text in quotes",
    "tuple_type": "a list",
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
    found = {fault["loc"]: fault for fault in error.errors(include_url=False)}
    # Of `int | float` each half has a fault of its own, and the second one says it better.
    int_branches = {(*place[:-1], "int") for place in found if place[-1:] == ("float",)}
    return [_one_line(fault, hint) for place, fault in found.items() if place not in int_branches]


def _one_line(fault: Any, hint: Callable[[str], str]) -> str:
    kind, value, context = fault["type"], fault["input"], fault.get("ctx", {})
    if kind == "json_invalid":
        return f"not JSON ({context['error']})"
    # The name of a table's key that is itself at fault ends in "[key]".
    parts = [part for part in fault["loc"] if part not in (*UNION_MEMBERS, "[key]")]
    key = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts).removeprefix(".")
    key = visible(" ".join(key.split()))
    key = f"{key[:LONGEST_KEY]}..." if len(key) > LONGEST_KEY else key
    if kind == "missing":
        return f"{key} is missing"
    if kind in NO_KEY:
        return f"{key}: no such key{hint(key)}"
    if kind == "value_error":
        wrong = str(context["error"])
    elif kind in MUST_BE:
        wrong = f"must be {MUST_BE[kind].format(**context)}"
    else:
        wrong = fault["msg"].replace("Input should", "must").replace("Value should", "must")
    return f"{key} = {_shown(value)}: {wrong}" if key else wrong


def _shown(value: Any) -> str:
    """In one line. Not what is in a table or a long list, which may hold more than any memory by references."""
    if isinstance(value, dict | list) and (len(value) > 3 or any(isinstance(item, dict | list) for item in value)):
        return f"(a {'table' if isinstance(value, dict) else 'list'} of {len(value)})"
    if isinstance(value, int) and abs(value) >= 10**LONGEST_VALUE:
        return "(a huge number)"  # Python itself refuses to write thousands of digits
    text = visible(repr(value[: LONGEST_VALUE + 1] if isinstance(value, str) else value))
    return f"{text[:LONGEST_VALUE]}..." if len(text) > LONGEST_VALUE else text
