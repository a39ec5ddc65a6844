"""Dotted overrides of nested nerfstudio configs, checked against each field's declared type."""

from __future__ import annotations

import math
import re
import types
import typing
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from fieldbook.errors import UserError, nearest


def apply_overrides(config: Any, overrides: Mapping[str, Any]) -> None:
    """Set ``{"a.b.c": value}`` in place, through dataclasses and dicts.

    ``optimizers.<group>.scheduler`` may be given as a dict of the fields of nerfstudio's exponential decay (it is
    ``None`` in many defaults), or as ``None`` for a constant rate.

    Args:
        config: A nerfstudio ``TrainerConfig`` (or any nest of dataclasses and dicts).
        overrides: Values by dotted key; lists stand for tuples, strings for paths, and a string like ``1e-3``, which
            is how PyYAML reads that number, for the number.

    Raises:
        UserError: A key names no field, or a value does not have the field's type.
    """
    for key, value in overrides.items():
        _set(config, key, value)


def _set(config: Any, key: str, value: Any) -> None:
    *parents, last = key.split(".")
    node = config
    for depth, name in enumerate(parents):
        node = _child(node, name, key, parents[:depth])
    current = _child(node, last, key, parents)
    if last == "scheduler" and isinstance(value, Mapping):
        node[last] = _exponential_decay(key, value, current)
    elif isinstance(node, dict):
        free = current is None or (last == "scheduler" and value is None)
        node[last] = _fit(value, Any if free else type(current), key)
    else:
        setattr(node, last, _fit(value, _hint(node, last), key))


def _names(node: Any) -> list[str]:
    if isinstance(node, dict):
        return [str(k) for k in node]
    return [f.name for f in fields(node) if not f.name.startswith("_")] if is_dataclass(node) else []


def _child(node: Any, name: str, key: str, above: list[str]) -> Any:
    names = _names(node)
    if name not in names:
        where = ".".join(above) or "the method's config"
        if not names:
            raise UserError(f"override {key!r}: {where} has no fields below it")
        raise UserError(f"override {key!r}: {where} has no field {name!r}; {nearest(name, names)}")
    return node[name] if isinstance(node, dict) else getattr(node, name)


def _hint(node: Any, name: str) -> Any:
    try:
        return typing.get_type_hints(type(node))[name]
    except (NameError, TypeError):
        # A config module may import a type only for checkers; the value that stands there is then the witness.
        current = getattr(node, name)
        return Any if current is None else type(current)


def _exponential_decay(key: str, value: Mapping[str, Any], current: Any) -> Any:
    from nerfstudio.engine.schedulers import ExponentialDecaySchedulerConfig

    scheduler = current if isinstance(current, ExponentialDecaySchedulerConfig) else None
    scheduler = scheduler or ExponentialDecaySchedulerConfig()
    for name, entry in value.items():
        _child(scheduler, name, f"{key}.{name}", key.split("."))
        setattr(scheduler, name, _fit(entry, _hint(scheduler, name), f"{key}.{name}"))
    return scheduler


def _fit(value: Any, hint: Any, key: str) -> Any:
    """Return ``value`` as ``hint`` wants it, or say why it cannot be."""
    fitted = _convert(value, hint)
    if fitted is _MISFIT:
        raise UserError(f"override {key!r}: got {value!r} ({type(value).__name__}); allowed: {_spell(hint)}")
    return fitted


_MISFIT = object()
# YAML 1.1, which PyYAML reads, wants a point in a number with an exponent: 1e-3 arrives as a string.
_EXPONENT_FORM = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+")


def _convert(value: Any, hint: Any) -> Any:
    origin = get_origin(hint)
    if hint is Any or isinstance(hint, typing.TypeVar):
        return _plain(value)
    if origin in (Union, types.UnionType):
        # Numbers last: what could be one stays a string where the field takes strings too.
        options = sorted(get_args(hint), key=lambda o: isinstance(value, str) and o in (int, float))
        tried = (_convert(value, option) for option in options)
        return next((fitted for fitted in tried if fitted is not _MISFIT), _MISFIT)
    if origin is typing.Annotated:
        return _convert(value, get_args(hint)[0])
    if origin is Literal:
        return value if any(value == a and type(value) is type(a) for a in get_args(hint)) else _MISFIT
    if origin is tuple or hint is tuple:
        return _convert_tuple(value, get_args(hint))
    if list in (origin, hint):
        return _convert_list(value, *(get_args(hint) or (Any,)))
    if dict in (origin, hint):
        return _convert_dict(value, *(get_args(hint) or (Any, Any)))
    return _convert_plain(value, hint)


def _plain(value: Any) -> Any:
    """A copy that shares nothing with a table of presets and holds no subclasses of list and dict."""
    if isinstance(value, list):
        return [_plain(v) for v in value]
    return {k: _plain(v) for k, v in value.items()} if isinstance(value, dict) else value


def _convert_list(value: Any, item: Any) -> Any:
    fitted = [_convert(v, item) for v in value] if isinstance(value, list) else [_MISFIT]
    return _MISFIT if _MISFIT in fitted else fitted


def _convert_dict(value: Any, _: Any, item: Any) -> Any:
    if not isinstance(value, dict):
        return _MISFIT
    fitted = {k: _convert(v, item) for k, v in value.items()}
    return _MISFIT if _MISFIT in fitted.values() else fitted


def _convert_tuple(value: Any, items: tuple[Any, ...]) -> Any:
    if not isinstance(value, list | tuple):
        return _MISFIT
    if not items:
        return tuple(value)
    if len(items) == 2 and items[1] is Ellipsis:
        items = (items[0],) * len(value)
    if len(items) != len(value):
        return _MISFIT
    fitted = tuple(_convert(v, i) for v, i in zip(value, items, strict=True))
    return _MISFIT if _MISFIT in fitted else fitted


def _convert_plain(value: Any, hint: Any) -> Any:
    if hint in (None, type(None)):
        return None if value is None else _MISFIT
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint in (int, float) and isinstance(value, str):
        return _number(value, hint)
    if isinstance(hint, type) and issubclass(hint, Path) and isinstance(value, str):
        return Path(value)
    if isinstance(value, bool) and hint is not bool:
        return _MISFIT
    return value if isinstance(hint, type) and isinstance(value, hint) else _MISFIT


def _number(text: str, kind: type[int] | type[float]) -> Any:
    """``1e-3`` as a number; every other string stays a mistake, also one that a user put into quotes on purpose."""
    number = float(text) if _EXPONENT_FORM.fullmatch(text) else math.inf
    if not math.isfinite(number) or (kind is int and not number.is_integer()):
        return _MISFIT
    return kind(number)


def _spell(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return ", ".join(repr(a) for a in get_args(hint))
    return hint.__name__ if isinstance(hint, type) and not get_args(hint) else str(hint).replace("typing.", "")
