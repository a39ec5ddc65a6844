"""What values that come out of files must look like: small checks, put together to the shape of a document.

A shape is a function of a value and of where it stands; it returns nothing, and raises ``Misfit`` where the value is
not what it should be. Keys that a shape does not name are left alone, so that later versions may add some.
"""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Mapping
from typing import Any

Shape = Callable[[Any, str], None]

LARGEST = 1e12
"""Of any number in a file: squares and products of a few still fit a float, and nothing real is larger."""
LONGEST_NAME = 200
"""Bytes of a name, to which a stage's own beginning and ending come."""
DEEPEST = 50
MAX_SIDE = 1 << 16
"""Pixels of a picture's side."""
ROTATION_TOLERANCE = 1e-3  # published matrices are rotations to 1e-6; a scaled object's are off by its scale


class Misfit(ValueError):  # noqa: N818 - a word that its sentence needs
    """A value is not what it should be; the text says where, what stands there and what should."""


def is_number(value: Any) -> bool:
    """Whether a value is a finite number of a size that can be computed with."""
    return isinstance(value, int | float) and not isinstance(value, bool) and -LARGEST <= value <= LARGEST


def is_pose(matrix: Any) -> bool:
    """Whether a value is 4x4, with a proper rotation and the last row of a rigid transform."""
    if not isinstance(matrix, list) or [len(r) if isinstance(r, list) else 0 for r in matrix] != [4, 4, 4, 4]:
        return False
    if not all(is_number(value) for row in matrix for value in row) or matrix[3] != [0, 0, 0, 1]:
        return False
    return is_rotation([row[:3] for row in matrix[:3]])


def is_rotation(matrix: list[list[float]]) -> bool:
    """Whether three rows of three numbers are a proper rotation."""
    x, y, z = ([row[k] for row in matrix] for k in range(3))
    products = [(x, x, 1), (y, y, 1), (z, z, 1), (x, y, 0), (y, z, 0), (z, x, 0), (_cross(x, y), z, 1)]
    return all(abs(sum(p * q for p, q in zip(a, b, strict=True)) - e) < ROTATION_TOLERANCE for a, b, e in products)


def _cross(a: list[float], b: list[float]) -> list[float]:
    return [a[i - 2] * b[i - 1] - a[i - 1] * b[i - 2] for i in range(3)]


def is_name(value: Any) -> bool:
    """Whether a value can be the name of a file in any folder, and of no other: no path, not hidden, printable."""
    if not isinstance(value, str) or not value.isprintable() or not 0 < len(value.encode()) <= LONGEST_NAME:
        return False
    return not value.startswith(".") and "/" not in value and "\\" not in value


def _refuse(where: str, value: Any, wanted: str) -> None:
    raise Misfit(f"{where or 'it'} is {reprlib.repr(value)}, not {wanted}")


def _check(test: Callable[[Any], bool], wanted: str) -> Shape:
    def shape(value: Any, where: str) -> None:
        if not test(value):
            _refuse(where, value, wanted)

    return shape


anything: Shape = lambda value, where: None  # noqa: E731
number = _check(is_number, "a finite number")
positive = _check(lambda v: is_number(v) and v > 0, "a positive number")
boolean = _check(lambda v: isinstance(v, bool), "true or false")
text = _check(lambda v: isinstance(v, str), "text")
name = _check(is_name, "the name of a file without a path")
pose = _check(is_pose, "a pose: 4 rows of 4 numbers, a rotation without scale and a translation")


def plain(value: Any, where: str) -> None:
    """What JSON can say, nested ``DEEPEST`` levels at most."""
    _plain(value, where, DEEPEST)


def _plain(value: Any, where: str, levels: int) -> None:
    if levels == 0:
        _refuse(where, value, f"nested {DEEPEST} levels at most")
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list | tuple) else ()
    for key, part in parts:
        _plain(part, f"{where}.{key}", levels - 1)
    if not isinstance(value, dict | list | tuple | str | bool | None) and not is_number(value):
        _refuse(where, value, "a plain value with finite numbers")


def whole(low: int = 0, high: int = 1 << 53) -> Shape:
    """A whole number in ``[low, high]``."""
    test = lambda v: isinstance(v, int) and not isinstance(v, bool) and low <= v <= high  # noqa: E731
    return _check(test, f"a whole number from {low} to {high}")


def between(low: float, high: float) -> Shape:
    """A number in ``(low, high)``."""
    return _check(lambda v: is_number(v) and low < v < high, f"a number between {low:g} and {high:g}")


def word(*allowed: str) -> Shape:
    """One of some words."""
    return _check(lambda v: isinstance(v, str) and v in allowed, " or ".join(map(repr, allowed)))


def maybe(shape: Shape) -> Shape:
    """Null, or what ``shape`` says."""

    def check(value: Any, where: str) -> None:
        if value is not None:
            shape(value, where)

    return check


def many(item: Shape, fewest: int = 0, most: int | None = None) -> Shape:
    """A list of ``fewest`` to ``most`` items."""

    def check(value: Any, where: str) -> None:
        if not isinstance(value, list):
            _refuse(where, value, "a list")
        if len(value) < fewest or (most is not None and len(value) > most):
            _refuse(where, value, f"a list of {fewest if fewest == most else f'at least {fewest}'}")
        for index, entry in enumerate(value):
            item(entry, f"{where}[{index}]")

    return check


def mapping(item: Shape, key: Shape = anything) -> Shape:
    """An object with any keys, all of one shape."""

    def check(value: Any, where: str) -> None:
        if not isinstance(value, dict):
            _refuse(where, value, "an object")
        for entry in value:
            key(entry, f"a key of {where or 'it'}")
            item(value[entry], f"{where}.{entry}" if where else entry)

    return check


def record(required: Mapping[str, Shape], optional: Mapping[str, Shape] | None = None, closed: bool = False) -> Shape:
    """An object with keys that each have a shape of their own.

    Args:
        required: Keys that must be there.
        optional: Keys that may be there.
        closed: Whether no other keys may be there.
    """
    known = {**required, **(optional or {})}

    def check(value: Any, where: str) -> None:
        if not isinstance(value, dict):
            _refuse(where, value, "an object")
        if lacking := [key for key in required if key not in value]:
            raise Misfit(f"{where or 'it'} has no {lacking[0]!r}")
        if closed and (unknown := [key for key in value if key not in known]):
            raise Misfit(f"{where or 'it'} has an unknown key {unknown[0]!r}")
        for key, shape in known.items():
            if key in value:
                shape(value[key], f"{where}.{key}" if where else key)

    return check


vector = many(number, 3, 3)
box = many(vector, 2, 2)
side = whole(1, MAX_SIDE)
camera = record(
    {"width": side, "height": side, "fx": positive, "fy": positive, "cx": number, "cy": number}, closed=True
)


def rotation(value: Any, where: str) -> None:
    """A 3x3 rotation."""
    many(vector, 3, 3)(value, where)
    if not is_rotation(value):
        _refuse(where, value, "a rotation")


def direction(value: Any, where: str) -> None:
    """A vector that is not 0."""
    vector(value, where)
    if not any(value):
        _refuse(where, value, "a direction")
