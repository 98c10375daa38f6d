"""pydantic's errors as one-line messages: key, value, what is wrong."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field

from harness.config import nearest
from harness.errors import UserError
from harness.validation import checked


class Inner(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    ratio: int | float = 0.5


class Outer(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    name: str
    count: Annotated[int, Field(ge=1)] = 1
    kind: Literal["one", "two"] = "one"
    words: list[str] = []
    inner: Inner = Inner()


def said(**values: Any) -> list[str]:
    with pytest.raises(UserError) as caught:
        checked(lambda: Outer(**values), "f.toml: ", lambda key: nearest(key, list(Outer.model_fields)))
    return str(caught.value).splitlines()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"count": True}, "count = True: must be a whole number"),
        ({"count": 0}, "count = 0: must be at least 1"),
        ({"kind": "three"}, "kind = 'three': must be 'one' or 'two'"),
        ({"words": ["a", 1]}, "words[1] = 1: must be text in quotes"),
        ({"words": "a"}, "words = 'a': must be a list"),
        ({"inner": {"ratio": "x"}}, "inner.ratio = 'x': must be a number"),
        ({"inner": 3}, "inner = 3: must be a table"),
        ({"cuont": 1}, "cuont: no such key; did you mean count?"),
        ({"count": [[1], [2]]}, "count = (a list of 2): must be a whole number"),
        ({"count": "1\n\x1b" + 100 * "x"}, f"count = '1\\n\\x1b{52 * 'x'}...: must be a whole number"),
        ({"kind": 10**5000}, "kind = (a huge number): must be 'one' or 'two'"),
        ({"a\n\x1bb": 1}, "'a\\n\\x1bb': no such key"),
    ],
)
def test_each_fault_is_a_line(values: dict[str, Any], message: str) -> None:
    assert said(name="n", **values) == [f"f.toml: {message}"]


def test_all_faults_come_at_once() -> None:
    assert said(count=0, kind="x") == [
        "f.toml: name is missing",
        "f.toml: count = 0: must be at least 1",
        "f.toml: kind = 'x': must be 'one' or 'two'",
    ]
