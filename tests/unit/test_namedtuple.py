# SPDX-License-Identifier: LGPL-2.1-or-later
"""Test namedtuple.py against typing's NamedTuple, whose place it takes."""

from __future__ import annotations

import typing
from typing import Any

import pytest

from bootseal import namedtuple, values


def made(base: Any) -> Any:
    class Point(base):  # type: ignore[misc]
        """With a default."""

        x: int
        y: int = 2

        @property
        def sum(self) -> int:
            return int(self.x + self.y)

    return Point


OURS, THEIRS = made(namedtuple.NamedTuple), made(typing.NamedTuple)


@pytest.mark.parametrize("kind", [OURS, THEIRS], ids=["ours", "typing's"])
def test_what_it_can_do(kind: Any) -> None:
    point = kind(1)
    assert (point.x, point.y, point.sum) == (1, 2, 3)
    assert point == (1, 2)
    assert hash(point) == hash((1, 2))
    assert kind(y=5, x=4) == (4, 5)
    assert point._replace(y=3) == (1, 3)
    assert point._asdict() == {"x": 1, "y": 2}
    assert (kind._fields, kind._field_defaults) == (("x", "y"), {"y": 2})
    assert repr(point) == "Point(x=1, y=2)"
    x, y = point
    assert (x, y, *point[:1]) == (1, 2, 1)


@pytest.mark.parametrize("kind", [OURS, THEIRS], ids=["ours", "typing's"])
@pytest.mark.parametrize(
    ("values_", "named"),
    [((), {}), ((1, 2, 3), {}), ((1,), {"x": 1}), ((1,), {"z": 1})],
    ids=["few", "many", "twice", "unknown"],
)
def test_wrong_members(kind: Any, values_: tuple[int, ...], named: dict[str, int]) -> None:
    with pytest.raises(TypeError):
        kind(*values_, **named)


@pytest.mark.parametrize("kind", [OURS, THEIRS], ids=["ours", "typing's"])
def test_it_is_immutable(kind: Any) -> None:
    point = kind(1)
    for name in ("x", "z"):
        with pytest.raises(AttributeError):
            setattr(point, name, 5)
    with pytest.raises((TypeError, ValueError)):
        point._replace(z=1)


def test_all_values_are_immutable() -> None:
    kinds = [kind for kind in vars(values).values() if isinstance(kind, type) and issubclass(kind, namedtuple.NamedTuple)]
    assert len(kinds) > 15
    assert not [kind for kind in kinds if hasattr(kind, "__dict__") and "__dict__" in dir(kind(*range(len(kind._fields))))]
