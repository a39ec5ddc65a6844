"""An entry of a study's ``methods`` that is a command of the user's own: checked, and resolved to its commands."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fieldbook.errors import UserError
from methods.external import nerfbaselines
from methods.external.template import EXTERNAL, STAGES, Commands, Stage, check
from methods.presets import METHODS

OWN_KEYS = ("train", "render", "cwd", "needs")
"""Keys of an entry that only an external method has."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_OVERRIDE = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")


def is_external(entry: Mapping[str, Any]) -> bool:
    """Whether an entry of ``methods`` is run by commands of its own."""
    return entry.get("kind") == EXTERNAL or str(entry["method"]).startswith(nerfbaselines.PREFIX)


def check_entry(entry: dict[str, Any], given: Mapping[str, Any]) -> None:
    """Check that an entry has the keys of its kind, and let it say its kind; changed in place.

    Args:
        entry: With the defaults filled in.
        given: As the user wrote it.

    Raises:
        UserError: A key of the other kind, or one that is missing.
    """
    where = f"methods: {entry['method']!r}"
    if not is_external(entry):
        odd = next((key for key in OWN_KEYS if key in given), None)
        if odd:
            raise UserError(f"{where}: {odd!r} is a key of an external method; add kind: {EXTERNAL}, or remove it")
        return
    if "preset" in given:
        raise UserError(f"{where}: an external method has no presets; remove 'preset', use overrides and label")
    entry["kind"] = EXTERNAL
    entry.pop("preset")
    external_commands(entry)


def external_commands(entry: Mapping[str, Any]) -> Commands:
    """The checked commands of an external entry.

    Raises:
        UserError: One line on the first mistake.
    """
    method, overrides = str(entry["method"]), _overrides(entry)
    templates: dict[Stage, str] = {stage: entry[stage] for stage in STAGES if stage in entry}
    if method.startswith(nerfbaselines.PREFIX):
        if templates:
            raise UserError(f"methods: {method!r} has its own commands; remove {next(iter(templates))!r}")
        method, templates = nerfbaselines.commands(method, overrides)
        overrides = {}  # they are part of the command now
    _check_name(method)
    if "render" not in templates:
        raise UserError(f"methods: {method!r}: the key 'render' is missing; the command that writes the pictures")
    needs = tuple(entry.get("needs", ()))
    commands = Commands(method, templates, Path(entry.get("cwd", ".")), needs, overrides)
    check(commands)
    return commands


def resolved_commands(commands: Commands) -> dict[str, Any]:
    """The commands as a run's spec holds them; ``Commands.of`` reads them back."""
    return {
        **commands.templates,
        "cwd": commands.cwd.as_posix(),
        "needs": list(commands.needs),
        "overrides": dict(commands.overrides),
    }


def _check_name(method: str) -> None:
    if not _NAME.fullmatch(method):
        hint = f" ({nerfbaselines.PREFIX}<id> is the only name with a colon)" if ":" in method else ""
        raise UserError(f"methods: {method!r} cannot be the name of a folder; take letters, digits, - and _{hint}")
    if method in METHODS:
        raise UserError(f"methods: {method!r} is a method of nerfstudio's or Fieldbook's; give yours another name")


def _overrides(entry: Mapping[str, Any]) -> dict[str, str]:
    found = {}
    for name, value in entry["overrides"].items():
        where = f"methods: {entry['method']!r}: overrides: {name!r}"
        if not isinstance(name, str) or not _OVERRIDE.fullmatch(name):
            raise UserError(f"{where} cannot be a placeholder; take letters, digits, -, _ and .")
        if not isinstance(value, str | int | float):
            raise UserError(f"{where} is {type(value).__name__}; a command takes a word or a number")
        found[name] = str(value).lower() if isinstance(value, bool) else str(value)
    return found
