"""What a config may say about a path: kinds, keys, types, ranges, defaults. Standard library only."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from fieldbook.errors import UserError, nearest


class Key(NamedTuple):
    """One key of a path's spec.

    Attributes:
        type: ``float``, ``int`` or ``str``; a whole number passes as float.
        default: Value where the key is absent; ``None`` means no value.
        doc: One line for help and error messages.
        low: Smallest allowed number; for an ``open`` key the value must be larger.
        high: Largest allowed number.
        choices: Allowed words, for ``str``.
        required: Whether the key must be given.
        open: Whether ``low`` itself is excluded.
    """

    type: type
    default: Any
    doc: str
    low: float = -math.inf
    high: float = math.inf
    choices: tuple[str, ...] = ()
    required: bool = False
    open: bool = False


def _length(default: float | None, doc: str) -> Key:
    return Key(float, default, f"{doc}, in scene units", low=0.0, open=True)


def _views(default: int) -> Key:
    return Key(int, default, "number of cameras", low=1, high=10_000)


FPS = Key(float, 10.0, "pictures per second of the path's video", low=0.0, open=True)
PATH_KEYS: dict[str, dict[str, Key]] = {
    "cone": {
        "angle": Key(float, None, "half-angle in degrees between the axis and a view", 0.0, 85.0, required=True),
        "height": _length(None, "distance of the circle's plane from the POI along the axis"),
        "distance": _length(None, "distance of every camera from the POI"),
        "views": _views(12),
        "roll": Key(
            str,
            "fixed",
            "fixed: image up is the capture's up; follow: turns along",
            choices=("fixed", "follow"),
        ),
        "fps": FPS,
    },
    "orbit": {
        "distance": _length(1.0, "distance of every camera from the POI"),
        "elevation": Key(float, 30.0, "degrees above the plane through the POI across the pole", -90.0, 90.0),
        "about": Key(str, "up", "the pole: the scene's up or its axis", choices=("up", "axis")),
        "turns": Key(float, 1.0, "full turns; negative turns the other way", -100.0, 100.0),
        "start": Key(float, 0.0, "azimuth of the first camera in degrees", -360.0, 360.0),
        "views": _views(60),
        "fps": FPS,
    },
    "spherical": {
        "distance": _length(None, "distance from the POI; the cameras' mean distance where absent"),
        "height": Key(float, None, "height above the POI along up; the cameras' mean height where absent"),
        "views": _views(120),
        "fps": FPS,
    },
    "spiral": {
        "distance": _length(1.0, "distance of the spiral's centre from the POI along the axis"),
        "radius": _length(0.2, "largest sideways offset"),
        "depth": Key(float, 0.1, "largest offset along the axis, less than distance", low=0.0),
        "turns": Key(float, 2.0, "turns across the axis", -100.0, 100.0),
        "depth_rate": Key(float, 0.5, "swings along the axis per turn", 0.0, 100.0),
        "views": _views(60),
        "fps": FPS,
    },
}


def check_path_spec(name: str, spec: dict[str, Any]) -> dict[str, Any]:
    """Validate one path of a config.

    Args:
        name: The path's name in the config, for messages.
        spec: ``kind`` and that kind's keys; a key that is ``None`` counts as absent.

    Returns:
        A new dict with ``kind`` and every key of the kind, defaults filled in; checking it again changes
        nothing.

    Raises:
        UserError: Unknown kind or key, wrong type, out of range, or a combination that names no path.
    """
    where = f"path {name!r}"
    if not isinstance(spec, dict) or "kind" not in spec:
        raise UserError(f"{where} has no kind; {nearest('', PATH_KEYS)}")
    kind = spec["kind"]
    if not isinstance(kind, str) or kind not in PATH_KEYS:
        raise UserError(f"{where}: unknown kind {kind!r}; {nearest(kind, PATH_KEYS)}")
    keys = PATH_KEYS[kind]
    for unknown in (k for k in spec if k != "kind" and k not in keys):
        raise UserError(f"{where}: a {kind} has no key {unknown!r}; {nearest(unknown, keys)}")
    filled = {k: _value(f"{where}: {k}", key, spec.get(k)) for k, key in keys.items()}
    _check_combination(where, kind, filled)
    return {"kind": kind, **filled}


def _value(where: str, key: Key, value: Any) -> Any:
    if value is None:
        if key.required:
            raise UserError(f"{where} is missing; it is the {key.doc}")
        return key.default
    if key.type is str:
        if value not in key.choices:
            raise UserError(f"{where} is {value!r}; {nearest(value, key.choices)}")
        return value
    return _number(where, key, value)


def _number(where: str, key: Key, value: Any) -> float | int:
    word = "a whole number" if key.type is int else "a number"
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise UserError(f"{where} is {value!r}; give {word}: {key.doc}")
    if key.type is int and value != int(value):
        raise UserError(f"{where} is {value!r}; give {word}: {key.doc}")
    if not key.low <= value <= key.high or (key.open and value == key.low):
        bounds = [f"{'more than' if key.open else 'at least'} {key.low:g}"] if key.low > -math.inf else []
        bounds += [f"at most {key.high:g}"] if key.high < math.inf else []
        raise UserError(f"{where} is {value!r}; allowed: {', '.join(bounds)} ({key.doc})")
    return key.type(value)


def _check_combination(where: str, kind: str, spec: dict[str, Any]) -> None:
    if kind == "cone" and (spec["height"] is None) == (spec["distance"] is None):
        given = "neither" if spec["height"] is None else "both"
        raise UserError(f"{where}: a cone needs exactly one of height and distance, {given} given")
    if kind == "spiral" and spec["depth"] >= spec["distance"]:
        raise UserError(f"{where}: depth {spec['depth']:g} must be less than distance {spec['distance']:g}")
    if kind == "spherical" and None not in (spec["height"], spec["distance"]):
        check_on_sphere(where, spec["height"], spec["distance"])


def check_on_sphere(where: str, height: float, distance: float) -> None:
    """Raise ``UserError`` unless a camera can be ``height`` above the POI at ``distance`` from it."""
    if abs(height) > distance:
        raise UserError(f"{where}: height {height:g} must lie within distance {distance:g} of the POI")
